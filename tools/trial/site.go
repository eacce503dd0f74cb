package trial

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/cetrus/cetrus/manager"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/tools/stack"
)

// site is where the customer's Manager and agents are: a network of its own, outside the cluster. Its firewall lets
// one thing out, TCP to port 443 of the Ingress, and nothing in.
type site struct {
	t *trial
	// dir takes what it writes.
	dir string
	// holder keeps the network and the mounts of the site, manager is the Manager that runs there.
	holder, manager *stack.Process
	addresses       manager.Addresses
}

// firewall is what may leave the site, and a counter of what wanted to besides.
const firewall = `
table ip site {
  counter elsewhere {}
  counter inbound {}
  chain out {
    type filter hook output priority 0; policy drop;
    oif lo accept
    ct state established,related accept
    ip daddr %s tcp dport 443 accept
    counter name elsewhere
  }
  chain in {
    type filter hook input priority 0; policy drop;
    iif lo accept
    ct state established,related accept
    counter name inbound
  }
}
table ip6 site {
  chain out { type filter hook output priority 0; policy drop; oif lo accept; }
  chain in { type filter hook input priority 0; policy drop; iif lo accept; }
}
`

// open makes the site: its network, its firewall, and the one name that it knows.
func (s *site) open(ctx context.Context) error {
	hosts := filepath.Join(s.dir, "hosts")
	if err := os.WriteFile(hosts, fmt.Appendf(nil, "127.0.0.1 localhost\n%s %s\n", s.t.cluster.Addresses.Front, host), 0o644); err != nil {
		return err
	}
	var err error
	s.holder, err = stack.Start(stack.Command{
		Name: "the site", Path: "/usr/bin/unshare", Args: []string{"--net", "--mount", "sleep", "infinity"}, Log: filepath.Join(s.dir, "site.log"),
	})
	if err != nil {
		return err
	}
	pid := s.holder.PID()
	if err := stack.Wait(ctx, time.Minute, "the site's network", s.holder.Running(func() error {
		name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "comm"))
		if err == nil && strings.TrimSpace(string(name)) != "sleep" {
			err = fmt.Errorf("it is still %s", name)
		}
		return err
	})); err != nil {
		return err
	}
	if _, err := s.t.cluster.Neighbour(ctx, pid); err != nil {
		return err
	}
	rules := s.command(ctx, "nft", "--file", "-")
	rules.Stdin = strings.NewReader(fmt.Sprintf(firewall, s.t.cluster.Addresses.Front))
	for _, cmd := range []*exec.Cmd{s.command(ctx, "mount", "--bind", hosts, "/etc/hosts"), rules} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("making the site: %s: %w: %s", strings.Join(cmd.Args, " "), err, out)
		}
	}
	return nil
}

// inside are the words that run a program at the site.
func (s *site) inside(program string, args ...string) []string {
	return append([]string{"--target", strconv.Itoa(s.holder.PID()), "--net", "--mount", "--", program}, args...)
}

func (s *site) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", s.inside(program, args...)...)
}

// dial connects from within the site.
func (s *site) dial(ctx context.Context, address string) (net.Conn, error) {
	return dialFrom(ctx, s.holder.PID(), address)
}

// enrol makes the platform know a Manager, and starts it at the site.
func (s *site) enrol(ctx context.Context) error {
	made := &identityv1.CreateManagerResponse{}
	if err := s.t.usage.api.Post(ctx, "/v1/managers", &identityv1.Manager{DisplayName: "Berlin"}, made); err != nil {
		return err
	}
	program := filepath.Join(s.dir, "cetrus-manager")
	if _, err := stack.Build(ctx, s.dir, "manager/cmd/cetrus-manager"); err != nil {
		return err
	}
	folder := filepath.Join(s.dir, "manager")
	common := []string{"--data-dir", folder, "--agents-address", "127.0.0.1:0", "--status-address", "127.0.0.1:0"}
	// As any other program, it knows authorities from its system.
	trusts := "SSL_CERT_FILE=" + s.t.trusted.file
	enrol := s.command(ctx, program, append([]string{"enroll", made.GetToken(), "--api", "https://" + host}, common...)...)
	enrol.Env = append(os.Environ(), trusts)
	if out, err := enrol.CombinedOutput(); err != nil {
		return fmt.Errorf("the Manager does not enrol: %w\n%s", err, out)
	}
	var err error
	s.manager, err = stack.Start(stack.Command{
		Name: "the Manager", Path: "/usr/bin/nsenter", Env: []string{trusts}, Log: filepath.Join(s.dir, "manager.log"),
		Args: s.inside(program, append([]string{"run", "--agents-security", "plaintext", "--platform-url", "wss://" + host + "/nats"}, common...)...),
	})
	if err != nil {
		return err
	}
	return stack.Wait(ctx, time.Minute, "the Manager", s.manager.Running(func() (err error) {
		s.addresses, err = manager.AddressesOf(folder)
		if errors.Is(err, fs.ErrNotExist) {
			return errors.New("it does not listen yet")
		}
		return err
	}))
}

// place is where agents at the site find their Manager.
func (s *site) place() place {
	return place{manager: s.addresses.Agents, dial: []grpc.DialOption{grpc.WithContextDialer(s.dial)}}
}

// status asks the Manager about itself.
func (s *site) status(ctx context.Context) (status manager.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return s.dial(ctx, address) }, DisableKeepAlives: true,
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addresses.Status+"/api/v1/status", nil)
	if err != nil {
		return status, err
	}
	response, err := client.Do(request)
	if err != nil {
		return status, fmt.Errorf("asking the Manager: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	return status, json.NewDecoder(response.Body).Decode(&status)
}

var packets = regexp.MustCompile(`packets (\d+)`)

// stray is how many packets wanted to leave the site for anywhere but port 443 of the Ingress.
func (s *site) stray(ctx context.Context) (int, error) {
	out, err := s.command(ctx, "nft", "list", "counter", "ip", "site", "elsewhere").CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("asking the site's firewall: %w: %s", err, out)
	}
	found := packets.FindSubmatch(out)
	if found == nil {
		return 0, fmt.Errorf("the site's firewall says %q", out)
	}
	return strconv.Atoi(string(found[1]))
}

// stop ends the Manager and the site. It may be called again.
func (s *site) stop() error {
	var err error
	if s.manager != nil {
		err = s.manager.Stop(30 * time.Second)
	}
	if s.holder != nil {
		s.holder.Kill()
	}
	s.manager, s.holder = nil, nil
	return err
}
