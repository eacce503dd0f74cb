package faults

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/ports"
	"github.com/cetrus/cetrus/tools/api"
	"github.com/cetrus/cetrus/tools/stack"
)

// platform is every tier but the agents, each as its own process on ports that
// stay the same over restarts.
type platform struct {
	dir, bin string
	programs map[string]*program
	api      *api.Client
	manager  string // address for agents
	status   string // address of the Manager's status page
	link     *link  // from the Manager to NATS
	disk     string // the Manager's folder, on a disk of its own
	mounted  bool
	ports    *ports.Held
	site     *site // nil: all on the loopback of this machine
}

// managerDisk is how large the Manager's disk is, so that it can be filled.
const managerDisk = 512 << 20

func startPlatform(ctx context.Context, bin, dir string) (*platform, error) {
	held, err := ports.Hold(7)
	if err != nil {
		return nil, err
	}
	addresses := held.Addresses()
	nats, rest, grpc, agents, status, identity := addresses[0], addresses[1], addresses[2], addresses[3], addresses[4], addresses[6]
	data := filepath.Join(dir, "platform")
	p := &platform{ports: held, dir: dir, bin: bin, programs: map[string]*program{}, manager: agents, status: status, disk: filepath.Join(dir, "manager")}
	cetrus := func(target string, args ...string) *program {
		return p.add(target, "cetrus", append([]string{target, "--data-dir", data}, args...)...)
	}
	order := []*program{
		cetrus("nats", "--nats-listen", nats),
		cetrus("postgres", "--postgres-port", strconv.Itoa(held.Ports[5])),
		cetrus("keyring"),
		cetrus("identity", "--grpc-listen", identity),
		cetrus("metering", "--grpc-listen", grpc, "--allow-short-gaps"),
		cetrus("gateway", "--rest-listen", rest, "--metering-address", grpc, "--identity-address", identity),
	}
	p.programs["postgres"].also = filepath.Join(data, "postgres", "postmaster.pid")
	if err := p.mount(); err != nil {
		return nil, err
	}
	for i, program := range order {
		if err := program.start(); err != nil {
			return nil, err
		}
		if i < 2 {
			if err := stack.Wait(ctx, 2*time.Minute, program.Name+" to be ready", func() error {
				_, err := os.Stat(filepath.Join(data, "addresses."+program.Name+".json"))
				return errors.Join(err, program.alive())
			}); err != nil {
				return nil, err
			}
		}
	}
	var key []byte
	if err := stack.Wait(ctx, 2*time.Minute, "the API key", func() (err error) {
		key, err = os.ReadFile(filepath.Join(data, "api-key"))
		return err
	}); err != nil {
		return nil, err
	}
	p.api = api.New("http://"+rest, strings.TrimSpace(string(key)))
	if err := stack.Wait(ctx, 2*time.Minute, "the API to answer", func() error {
		_, err := p.api.Applications(ctx)
		return err
	}); err != nil {
		return nil, err
	}
	return p, p.startManager(ctx, data, nats, agents, status)
}

// startManager starts the Manager twice: first to learn its id, then with leave
// to forward.
func (p *platform) startManager(ctx context.Context, data, nats, agents, status string) error {
	var err error
	if p.link, err = newLink(nats); err != nil {
		return err
	}
	account, err := stack.ReadAddresses(data, "nats")
	if err != nil {
		return fmt.Errorf("faults: account: %w", err)
	}
	manager := p.add("manager", "cetrus-manager", "run", "--data-dir", filepath.Join(p.disk, "data"), "--account-id", account.AccountID,
		"--agents-address", agents, "--agents-security", "plaintext", "--status-address", status)
	if err := manager.start(); err != nil {
		return err
	}
	var id string
	if err := stack.Wait(ctx, 2*time.Minute, "the Manager's id", func() error {
		own, err := p.managerStatus(ctx)
		id = own.ManagerID
		return errors.Join(err, manager.alive())
	}); err != nil {
		return err
	}
	forward, err := stack.AdmitManager(ctx, filepath.Join(p.bin, "cetrus"), data, id, p.link.address)
	if err != nil {
		return fmt.Errorf("faults: %w", err)
	}
	if err := manager.stop(time.Minute); err != nil {
		return err
	}
	manager.Args = append(manager.Args, "--platform-url", forward)
	return manager.start()
}

func (p *platform) add(name, binary string, args ...string) *program {
	p.programs[name] = &program{Command: stack.Command{
		Name: name, Path: filepath.Join(p.bin, binary), Args: args, Log: filepath.Join(p.dir, "log", name+".log"),
	}}
	return p.programs[name]
}

// mount gives the Manager a small disk of its own where this may be done.
func (p *platform) mount() error {
	if err := os.MkdirAll(p.disk, 0o755); err != nil {
		return fmt.Errorf("faults: %w", err)
	}
	p.mounted = syscall.Mount("tmpfs", p.disk, "tmpfs", 0, fmt.Sprintf("size=%d", managerDisk)) == nil
	return nil
}

func (p *platform) stop() error {
	var failures []error
	names := slices.Collect(maps.Keys(p.programs))
	stopsAfter := func(name string) int {
		return slices.Index([]string{"manager", "gateway", "metering", "identity", "keyring", "postgres", "nats"}, part(name))
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(stopsAfter(a)-stopsAfter(b), cmp.Compare(a, b)) })
	for _, name := range names {
		failures = append(failures, p.programs[name].stop(20*time.Second))
	}
	if p.link != nil {
		p.link.close()
	}
	if p.mounted {
		failures = append(failures, syscall.Unmount(p.disk, 0))
	}
	if p.ports != nil {
		p.ports.Release()
	}
	if p.site != nil {
		failures = append(failures, p.site.stop())
	}
	return errors.Join(failures...)
}

// names are the programs of some kinds, in their order.
func (p *platform) names(kinds ...string) []string {
	names := slices.DeleteFunc(slices.Collect(maps.Keys(p.programs)), func(name string) bool { return !slices.Contains(kinds, part(name)) })
	slices.Sort(names)
	return names
}

// createApplications meters the programs of the scripts.
func (p *platform) createApplications(ctx context.Context) error {
	for _, name := range programs {
		if _, err := p.api.CreateApplication(ctx, &meteringv1.Application{
			DisplayName: name, Rules: []*meteringv1.Rule{{Executable: name}},
			ActivityGap: durationpb.New(time.Second), Timeout: durationpb.New(3 * time.Second),
		}); err != nil {
			return err
		}
	}
	return stack.Wait(ctx, 2*time.Minute, "the Manager to know the applications", func() error {
		status, err := p.managerStatus(ctx)
		if err == nil && status.Policy.Applications != len(programs) {
			err = fmt.Errorf("it knows %d", status.Policy.Applications)
		}
		return err
	})
}

func (p *platform) quality(ctx context.Context) (*meteringv1.GetDataQualityResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	quality := &meteringv1.GetDataQualityResponse{}
	return quality, p.api.Get(ctx, "/v1/usage:dataQuality", nil, quality)
}

// instances are all that the API reports.
func (p *platform) instances(ctx context.Context, each func(*meteringv1.Instance)) error {
	query := url.Values{"page_size": {"1000"}}
	for {
		page := &meteringv1.ListInstancesResponse{}
		if err := p.api.Get(ctx, "/v1/instances", query, page); err != nil {
			return err
		}
		for _, i := range page.GetInstances() {
			each(i)
		}
		if page.GetNextPageToken() == "" {
			return nil
		}
		query.Set("page_token", page.GetNextPageToken())
	}
}

func mustID(text string) contract.ID {
	id, _ := contract.ParseID(text)
	return id
}
