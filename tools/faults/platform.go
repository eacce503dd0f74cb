package faults

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/tools/api"
)

// platform is every tier but the agents, each as its own process on ports that
// stay the same over restarts.
type platform struct {
	dir, bin string
	programs map[string]*program
	api      *api.Client
	manager  string // address for agents
	status   string // URL of the Manager's status
	link     *link  // from the Manager to NATS
	disk     string // the Manager's folder, on a disk of its own
	mounted  bool
}

// managerDisk is how large the Manager's disk is, so that it can be filled.
const managerDisk = 512 << 20

func startPlatform(ctx context.Context, bin, dir string) (*platform, error) {
	ports, err := freePorts(6)
	if err != nil {
		return nil, err
	}
	nats, rest, grpc, agents, status := ports[0], ports[1], ports[2], ports[3], ports[4]
	data := filepath.Join(dir, "platform")
	p := &platform{dir: dir, bin: bin, programs: map[string]*program{}, manager: agents, status: "http://" + status, disk: filepath.Join(dir, "manager")}
	cetrus := func(target string, args ...string) *program {
		return p.add(target, "cetrus", append([]string{target, "--data-dir", data}, args...)...)
	}
	_, postgresPort, _ := net.SplitHostPort(ports[5])
	order := []*program{
		cetrus("nats", "--nats-listen", nats),
		cetrus("postgres", "--postgres-port", postgresPort),
		cetrus("keyring"),
		cetrus("metering", "--grpc-listen", grpc, "--allow-short-gaps"),
		cetrus("gateway", "--rest-listen", rest, "--metering-address", grpc),
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
			if err := wait(ctx, 30*time.Second, program.name+" to be ready", func() error {
				_, err := os.Stat(filepath.Join(data, "addresses."+program.name+".json"))
				return errors.Join(err, program.alive())
			}); err != nil {
				return nil, err
			}
		}
	}
	var key []byte
	if err := wait(ctx, 30*time.Second, "the API key", func() (err error) {
		key, err = os.ReadFile(filepath.Join(data, "api-key"))
		return err
	}); err != nil {
		return nil, err
	}
	p.api = api.New("http://"+rest, strings.TrimSpace(string(key)))
	if err := wait(ctx, time.Minute, "the API to answer", func() error {
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
	var account struct {
		ID string `json:"account_id"`
	}
	text, err := os.ReadFile(filepath.Join(data, "addresses.nats.json"))
	if err == nil {
		err = json.Unmarshal(text, &account)
	}
	if err != nil {
		return fmt.Errorf("faults: account: %w", err)
	}
	manager := p.add("manager", "cetrus-manager", "run", "--data-dir", filepath.Join(p.disk, "data"), "--account-id", account.ID,
		"--agents-address", agents, "--status-address", status)
	if err := manager.start(); err != nil {
		return err
	}
	var own managerStatus
	if err := wait(ctx, 30*time.Second, "the Manager's id", func() error {
		own, err = p.managerStatus(ctx)
		return errors.Join(err, manager.alive())
	}); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, filepath.Join(p.bin, "cetrus"), "manager", "add", "--data-dir", data, "--manager-id", own.ID).Output()
	if err != nil {
		return fmt.Errorf("faults: cetrus manager add: %w", err)
	}
	var access struct{ User, Password string }
	if err := json.Unmarshal(out, &access); err != nil {
		return fmt.Errorf("faults: cetrus manager add: %w", err)
	}
	if err := manager.stop(10 * time.Second); err != nil {
		return err
	}
	forward := url.URL{Scheme: "nats", User: url.UserPassword(access.User, access.Password), Host: p.link.address}
	manager.args = append(manager.args, "--platform-url", forward.String())
	return manager.start()
}

func (p *platform) add(name, binary string, args ...string) *program {
	p.programs[name] = &program{
		name: name, path: filepath.Join(p.bin, binary), args: args,
		log: filepath.Join(p.dir, "log", name+".log"),
	}
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
	for _, name := range []string{"manager", "gateway", "metering", "keyring", "postgres", "nats"} {
		if program := p.programs[name]; program != nil {
			failures = append(failures, program.stop(20*time.Second))
		}
	}
	if p.link != nil {
		p.link.close()
	}
	if p.mounted {
		failures = append(failures, syscall.Unmount(p.disk, 0))
	}
	return errors.Join(failures...)
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
	return wait(ctx, 30*time.Second, "the Manager to know the applications", func() error {
		status, err := p.managerStatus(ctx)
		if err == nil && status.Policy.Applications != len(programs) {
			err = fmt.Errorf("it knows %d", status.Policy.Applications)
		}
		return err
	})
}

type managerStatus struct {
	ID      string `json:"manager_id"`
	Backlog uint64 `json:"backlog_messages"`
	Policy  struct {
		Applications int `json:"applications"`
	} `json:"policy"`
	Buffer struct {
		Stall string `json:"stall"`
	} `json:"buffer"`
	Forward []struct {
		Published uint64 `json:"published"`
	} `json:"forward"`
}

func (p *platform) managerStatus(ctx context.Context) (status managerStatus, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, p.status+"/api/v1/status", nil)
	if err != nil {
		return status, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return status, err
	}
	defer func() { _ = response.Body.Close() }()
	return status, json.NewDecoder(response.Body).Decode(&status)
}

// published is how many messages the Manager has forwarded since it started.
func (p *platform) published(ctx context.Context) (n uint64, err error) {
	status, err := p.managerStatus(ctx)
	for _, lane := range status.Forward {
		n += lane.Published
	}
	return n, err
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

// freePorts are loopback addresses that nobody listens on.
func freePorts(n int) ([]string, error) {
	var addresses []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("faults: %w", err)
		}
		defer func() { _ = l.Close() }()
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}

// wait asks ten times a second until the condition holds.
func wait(ctx context.Context, limit time.Duration, what string, condition func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := condition()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || !sleep(ctx, 100*time.Millisecond) {
			return fmt.Errorf("faults: waited %v for %s: %w", limit, what, err)
		}
	}
}
