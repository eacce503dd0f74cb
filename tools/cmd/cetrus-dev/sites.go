package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cetrus/cetrus/manager"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/tools/desks"
	"github.com/cetrus/cetrus/tools/firm"
	"github.com/cetrus/cetrus/tools/stack"
)

// joining is how long a Manager may take to enrol, or to listen.
const joining = time.Minute

// sites are the firm's Managers: that of the platform, and a process for each other site.
type sites struct {
	desks     []desks.Site
	processes []*stack.Process
}

// startSites starts them, and gives each site a token for so many agents.
func startSites(ctx context.Context, s settings, p *stack.Platform, agents int) (_ *sites, err error) {
	started := &sites{}
	defer func() {
		if err != nil {
			_ = started.stop()
		}
	}()
	known, err := managers(ctx, p)
	if err != nil {
		return nil, err
	}
	for i, name := range firm.Sites() {
		site := desks.Site{Manager: p.ManagerAgents}
		status, dir := p.Addresses.ManagerStatus, filepath.Join(p.Dir, "manager")
		if i == 0 {
			if err := nameOwn(ctx, p, known, name); err != nil {
				return nil, err
			}
		} else {
			dir = filepath.Join(s.dataDir, companyDir, "managers", fmt.Sprint(i))
			process, addresses, err := startManager(ctx, s, p, known, name, dir)
			if err != nil {
				return nil, err
			}
			started.processes = append(started.processes, process)
			site.Manager, status = addresses.Agents, "http://"+addresses.Status
		}
		if site.Token, err = stack.EnrollmentToken(ctx, dir, status, agents); err != nil {
			return nil, err
		}
		started.desks = append(started.desks, site)
	}
	return started, nil
}

func managers(ctx context.Context, p *stack.Platform) ([]*identityv1.Manager, error) {
	answer := &identityv1.ListManagersResponse{}
	err := p.API.Get(ctx, "/v1/managers", url.Values{"page_size": {"1000"}}, answer)
	return answer.GetManagers(), err
}

// nameOwn gives the platform's own Manager the name of its site.
func nameOwn(ctx context.Context, p *stack.Platform, known []*identityv1.Manager, name string) error {
	status, err := stack.ManagerStatus(ctx, strings.TrimPrefix(p.Addresses.ManagerStatus, "http://"))
	if err != nil {
		return err
	}
	for _, m := range known {
		if m.GetManagerId() == status.ManagerID {
			return nil
		}
	}
	return p.API.Post(ctx, "/v1/managers", &identityv1.Manager{ManagerId: status.ManagerID, DisplayName: name}, &identityv1.CreateManagerResponse{})
}

// startManager starts the Manager of a further site, which enrols the first time.
func startManager(ctx context.Context, s settings, p *stack.Platform, known []*identityv1.Manager, name, dir string) (*stack.Process, manager.Addresses, error) {
	binary := filepath.Join(s.binDir, "cetrus-manager")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, manager.Addresses{}, err
	}
	if _, enrolled, err := manager.PlatformKey(dir); err != nil {
		return nil, manager.Addresses{}, err
	} else if !enrolled {
		token, err := managerToken(ctx, p, known, name)
		if err != nil {
			return nil, manager.Addresses{}, err
		}
		ctx, cancel := context.WithTimeout(ctx, joining)
		defer cancel()
		enrol := exec.CommandContext(ctx, binary, "enroll", "--data-dir", dir, "--api", p.REST)
		enrol.Stdin = strings.NewReader(token)
		if out, err := enrol.CombinedOutput(); err != nil {
			return nil, manager.Addresses{}, fmt.Errorf("the Manager of %s: %w: %s", name, err, out)
		}
	}
	at, err := url.Parse(p.NATS)
	if err != nil {
		return nil, manager.Addresses{}, err
	}
	at.User = nil
	const free = "127.0.0.1:0"
	process, err := stack.Start(stack.Command{
		Name: "the Manager of " + name, Path: binary, Log: filepath.Join(s.dataDir, "log", "manager-"+filepath.Base(dir)+".log"), Orphaned: syscall.SIGTERM,
		Args: []string{"run", "--data-dir", dir, "--platform-url", at.String(), "--agents-address", free, "--status-address", free},
	})
	if err != nil {
		return nil, manager.Addresses{}, err
	}
	var addresses manager.Addresses
	err = stack.Wait(ctx, joining, process.Name()+" to listen", process.Running(func() (err error) {
		if addresses, err = manager.AddressesOf(dir); err == nil {
			_, err = stack.ManagerStatus(ctx, addresses.Status)
		}
		return err
	}))
	if err != nil {
		_ = process.Stop(platformPatience)
	}
	return process, addresses, err
}

// managerToken makes room for a Manager, or another token where it did not come to enrol.
func managerToken(ctx context.Context, p *stack.Platform, known []*identityv1.Manager, name string) (string, error) {
	for _, m := range known {
		if m.GetDisplayName() == name && m.GetRevokeTime() == nil {
			answer := &identityv1.RenewManagerTokenResponse{}
			err := p.API.Post(ctx, "/v1/managers/"+m.GetManagerId()+":renewToken", &identityv1.RenewManagerTokenRequest{}, answer)
			return answer.GetToken(), err
		}
	}
	answer := &identityv1.CreateManagerResponse{}
	err := p.API.Post(ctx, "/v1/managers", &identityv1.Manager{DisplayName: name}, answer)
	return answer.GetToken(), err
}

// ended tells of the first that has ended, until ctx ends.
func (s *sites) ended(ctx context.Context) error {
	first := make(chan error, len(s.processes))
	for _, process := range s.processes {
		go func() {
			select {
			case <-process.Done():
				first <- process.Failure()
			case <-ctx.Done():
			}
		}()
	}
	select {
	case err := <-first:
		return err
	case <-ctx.Done():
		return nil
	}
}

func (s *sites) stop() error {
	var first error
	for _, process := range s.processes {
		if err := process.Stop(platformPatience); first == nil {
			first = err
		}
	}
	return first
}
