package faults

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cetrus/cetrus/manager"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/tools/api"
	"github.com/cetrus/cetrus/tools/faults/disk"
	"github.com/cetrus/cetrus/tools/faults/network"
	"github.com/cetrus/cetrus/tools/stack"
)

// Ports that are the same on each machine.
const (
	natsPort, clusterPort, webSocketPort = 4222, 6222, 443
	postgresPort, postgresInner          = 5432, 15432
	grpcPort, restPort, healthPort       = 8081, 8080, 9090
	agentsPort, agentsInner, statusPort  = 10041, 11041, 10042
)

// meterings is how many replicas of metering share the partitions.
const meterings = 2

// site is the platform with each part on a machine of its own, as in a cluster. They share nothing but
// the network, and what `cetrus secrets` made for each.
type site struct {
	network  *network.Network
	machines map[string]*network.Machine
	room     *room
	disks    map[string]*disk.Disk
	seed     uint64
	// harness is where this process asks from. Nothing strikes there.
	harness  *network.Machine
	forwards []*forwarder
	servers  []string // the NATS servers' names
	secrets  string
	// database is what parts are told of PostgreSQL.
	database string
}

// startSite starts all parts on machines of their own, with so many NATS servers.
func startSite(ctx context.Context, bin, dir string, seed uint64, servers int) (p *platform, err error) {
	s := &site{network: network.New(seed), seed: seed, machines: map[string]*network.Machine{}, disks: map[string]*disk.Disk{}, secrets: filepath.Join(dir, "secrets")}
	p = &platform{dir: dir, bin: bin, programs: map[string]*program{}, site: s}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.stop())
		}
	}()
	for i := range servers {
		s.servers = append(s.servers, fmt.Sprintf("nats-%d", i))
	}
	names := append(slices.Clone(s.servers), "postgres", "keyring", "identity")
	for i := range meterings {
		names = append(names, fmt.Sprintf("metering-%d", i))
	}
	for _, name := range append(names, "gateway", "manager", "harness", offline) {
		if s.machines[name], err = s.network.Machine(name); err != nil {
			return p, err
		}
	}
	s.harness = s.machines["harness"]
	if s.room, err = newRoom(dir, s.machines); err != nil {
		return p, err
	}
	for _, name := range append(slices.Clone(s.servers), "manager") {
		if err := s.giveDisk(p, name); err != nil {
			return p, err
		}
	}
	if err := s.makeSecrets(ctx, p, names); err != nil {
		return p, err
	}
	if err := s.startStores(ctx, p); err != nil {
		return p, err
	}
	if err := s.startServices(ctx, p); err != nil {
		return p, err
	}
	return p, s.enrolManager(ctx, p)
}

// at is an address on the machine of a part.
func (s *site) at(name string, port int) string {
	return net.JoinHostPort(name, strconv.Itoa(port))
}

// offline is the machine of whoever stays away for long.
const offline = "offline"

// part is what certificates and secrets are made for: replicas share theirs.
func part(name string) string {
	kind, _, _ := strings.Cut(name, "-")
	return kind
}

// makeSecrets makes what each part must know, with certificates for the names of the machines.
func (s *site) makeSecrets(ctx context.Context, p *platform, names []string) error {
	args := []string{"secrets", "--output", s.secrets}
	for _, name := range append(names, "gateway") {
		if name != "postgres" {
			args = append(args, "--tls-name", part(name)+"="+name)
		}
	}
	if err := p.order(ctx, nil, args...); err != nil {
		return err
	}
	given := map[string]map[string]string{
		"nats":     {"account": "account.json", "nats-users": "nats-users.json"},
		"keyring":  {"account": "account.json", "name-key": "name-key", "nats-keyring": "nats-password"},
		"identity": {"account": "account.json", "name-key": "name-key", "sign-in-key": "sign-in-key", "nats-identity": "nats-password", "first-login": "admin-password"},
		"metering": {"account": "account.json", "name-key": "name-key", "nats-metering": "nats-password"},
		"gateway":  {"account": "account.json", "nats-gateway": "nats-password"},
	}
	for kind, files := range given {
		dir := filepath.Join(p.dir, "credentials", kind)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("faults: secrets: %w", err)
		}
		for secret, file := range files {
			text, err := os.ReadFile(filepath.Join(s.secrets, secret, file))
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, file), text, 0o400)
			}
			if err != nil {
				return fmt.Errorf("faults: secrets: %w", err)
			}
		}
	}
	return nil
}

// order runs cetrus to its end.
func (p *platform) order(ctx context.Context, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "cetrus"), args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("faults: cetrus %s: %w: %s", args[0], err, out)
	}
	return nil
}

// on adds a program to a machine.
func (s *site) on(p *platform, name, binary string, args ...string) *program {
	added := p.add(name, binary)
	command := append(append(s.room.command(s.machines[name]), added.Path), args...)
	added.Path, added.Args = command[0], command[1:]
	return added
}

// cetrus adds a part of the platform to its machine.
func (s *site) cetrus(p *platform, name string, args ...string) *program {
	kind := part(name)
	args = append([]string{kind, "--data-dir", s.data(p, name), "--log-level", "info"}, args...)
	if kind != "postgres" {
		args = append(args, "--credentials-dir", filepath.Join(p.dir, "credentials", kind), "--tls-dir", filepath.Join(s.secrets, "tls-"+kind),
			"--health-listen", net.JoinHostPort("127.0.0.1", strconv.Itoa(healthPort)))
	}
	added := s.on(p, name, "cetrus", args...)
	added.Env = []string{"CETRUS_POSTGRES_URL=" + s.database}
	return added
}

// giveDisk gives a machine a disk that can fail and lose its power. The folder data is on it.
func (s *site) giveDisk(p *platform, name string) error {
	return s.room.within(func() (err error) {
		s.disks[name], err = disk.Mount(filepath.Join(p.dir, "platters", name), filepath.Join(p.dir, "disks", name), s.seed+uint64(len(s.disks)))
		return err
	})
}

func (s *site) data(p *platform, name string) string {
	return filepath.Join(p.dir, "disks", name, "data")
}

// startStores starts NATS and PostgreSQL.
func (s *site) startStores(ctx context.Context, p *platform) error {
	var routes []string
	for _, name := range s.servers {
		routes = append(routes, s.at(name, clusterPort))
	}
	for _, name := range s.servers {
		args := []string{"--nats-listen", s.at(name, natsPort), "--nats-websocket-listen", s.at(name, webSocketPort)}
		if len(s.servers) > 1 {
			args = append(args, "--nats-server-name", name, "--nats-cluster-listen", s.at(name, clusterPort), "--nats-routes", strings.Join(routes, ","))
		}
		if err := s.cetrus(p, name, args...).start(); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(s.data(p, "postgres")), 0o755); err != nil { // its user passes through
		return fmt.Errorf("faults: %w", err)
	}
	postgres := s.cetrus(p, "postgres", "--postgres-port", strconv.Itoa(postgresInner))
	postgres.also = filepath.Join(s.data(p, "postgres"), "postgres", "postmaster.pid")
	if err := postgres.start(); err != nil {
		return err
	}
	// Its server listens on the loopback of its machine.
	if err := s.forward(ctx, "postgres", postgresPort, postgresInner); err != nil {
		return err
	}
	var told struct {
		URL string `json:"postgres_url"`
	}
	if err := stack.Wait(ctx, 2*time.Minute, "PostgreSQL", func() error {
		text, err := os.ReadFile(filepath.Join(s.data(p, "postgres"), "addresses.postgres.json"))
		if err == nil {
			err = json.Unmarshal(text, &told)
		}
		return errors.Join(err, postgres.alive())
	}); err != nil {
		return err
	}
	inner := net.JoinHostPort("127.0.0.1", strconv.Itoa(postgresInner))
	if !strings.Contains(told.URL, inner) {
		return fmt.Errorf("faults: PostgreSQL is not where it was told to be: %s", told.URL)
	}
	s.database = strings.Replace(told.URL, inner, s.at("postgres", postgresPort), 1)
	return s.ready(ctx, p, s.servers...)
}

// startServices makes the tables and starts all that works with them.
func (s *site) startServices(ctx context.Context, p *platform) error {
	// The order is given where PostgreSQL is.
	migrate := append(s.room.command(s.machines["postgres"]), filepath.Join(p.bin, "cetrus"), "migrate")
	cmd := exec.CommandContext(ctx, migrate[0], migrate[1:]...)
	cmd.Env = append(os.Environ(), "CETRUS_POSTGRES_URL="+s.database)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("faults: cetrus migrate: %w: %s", err, out)
	}
	var nats []string
	for _, name := range s.servers {
		nats = append(nats, "tls://"+s.at(name, natsPort))
	}
	common := []string{"--nats-url", strings.Join(nats, ","), "--migrate=false", "--allow-short-gaps"}
	started := []string{"keyring", "identity"}
	services := []*program{s.cetrus(p, "keyring", common...), s.cetrus(p, "identity", append(common, "--grpc-listen", s.at("identity", grpcPort))...)}
	for i := range meterings {
		name := fmt.Sprintf("metering-%d", i)
		started = append(started, name)
		services = append(services, s.cetrus(p, name, append(common, "--instance", name, "--grpc-listen", s.at(name, grpcPort))...))
	}
	services = append(services, s.cetrus(p, "gateway", append(common, "--rest-listen", s.at("gateway", restPort),
		"--metering-address", s.at("metering-0", grpcPort), "--identity-address", s.at("identity", grpcPort))...))
	for _, service := range services {
		if err := service.start(); err != nil {
			return err
		}
	}
	if err := s.ready(ctx, p, append(started, "gateway")...); err != nil {
		return err
	}
	authority, err := os.ReadFile(s.authority())
	if err != nil {
		return fmt.Errorf("faults: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	key, err := os.ReadFile(filepath.Join(s.secrets, "first-login", "api-key"))
	if err != nil {
		return fmt.Errorf("faults: %w", err)
	}
	p.api = api.New("https://"+s.at("gateway", restPort), strings.TrimSpace(string(key))).Over(&http.Client{
		Timeout:   time.Minute,
		Transport: &http.Transport{DialContext: s.from(s.harness), ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}},
	})
	return nil
}

func (s *site) authority() string { return filepath.Join(s.secrets, "tls-gateway", "ca.crt") }

// ready waits until parts say that they can do their work.
func (s *site) ready(ctx context.Context, p *platform, names ...string) error {
	for _, name := range names {
		if err := stack.Wait(ctx, 2*time.Minute, name+" to be ready", func() error {
			if err := p.programs[name].alive(); err != nil {
				return stack.Hopeless(err)
			}
			return s.readyNow(ctx, name)
		}); err != nil {
			return fmt.Errorf("faults: %w", err)
		}
	}
	return nil
}

// readyNow asks a part whether it can do its work.
func (s *site) readyNow(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort("127.0.0.1", strconv.Itoa(healthPort))+"/readyz", nil)
	if err != nil {
		return err
	}
	answer, err := s.client(name).Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		said, err := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
		return errors.Join(fmt.Errorf("%s: %s: %s", name, answer.Status, bytes.TrimSpace(said)), err)
	}
	return nil
}

// client asks from a machine, each time over a new connection.
func (s *site) client(name string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: s.from(s.machines[name]), DisableKeepAlives: true}}
}

// from connects from a machine to others, by their names.
func (s *site) from(m *network.Machine) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return m.DialContext(ctx, network, s.numeric(address))
	}
}

// numeric is an address without names.
func (s *site) numeric(address string) string {
	name, port, err := net.SplitHostPort(address)
	if err == nil && s.machines[name] != nil {
		return net.JoinHostPort(s.machines[name].Address.String(), port)
	}
	return address
}

// enrolManager starts a Manager as a customer would, over the one port that is open to it.
func (s *site) enrolManager(ctx context.Context, p *platform) error {
	made := &identityv1.CreateManagerResponse{}
	if err := p.api.Post(ctx, "/v1/managers", &identityv1.Manager{DisplayName: "Site"}, made); err != nil {
		return fmt.Errorf("faults: a Manager: %w", err)
	}
	data := s.data(p, "manager")
	inner := net.JoinHostPort("127.0.0.1", strconv.Itoa(agentsInner))
	p.status = net.JoinHostPort("127.0.0.1", strconv.Itoa(statusPort))
	common := []string{"--data-dir", data, "--agents-address", inner, "--status-address", p.status, "--platform-ca-file", s.authority()}
	enrol := append(s.room.command(s.machines["manager"]), filepath.Join(p.bin, "cetrus-manager"), "enroll", made.GetToken(), "--api", "https://"+s.at("gateway", restPort))
	if out, err := exec.CommandContext(ctx, enrol[0], append(enrol[1:], common...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("faults: the Manager does not enrol: %w: %s", err, out)
	}
	var nats []string
	for _, name := range s.servers {
		nats = append(nats, "wss://"+s.at(name, webSocketPort))
	}
	program := s.on(p, "manager", "cetrus-manager", append([]string{"run", "--agents-security", "plaintext", "--platform-url", strings.Join(nats, ",")}, common...)...)
	if err := program.start(); err != nil {
		return err
	}
	p.manager = inner
	return stack.Wait(ctx, 2*time.Minute, "the Manager", func() error {
		if err := program.alive(); err != nil {
			return stack.Hopeless(err)
		}
		_, err := p.managerStatus(ctx)
		return err
	})
}

// managerStatus asks the Manager, wherever it is.
func (p *platform) managerStatus(ctx context.Context) (manager.Status, error) {
	if p.site == nil {
		return stack.ManagerStatus(ctx, p.status)
	}
	return stack.ManagerStatusOver(ctx, p.site.client("manager"), p.status)
}

// doorOfManager is where agents come to the Manager: without certificates it speaks to those of its own
// machine only, so the relay stands there.
func (p *platform) doorOfManager(ctx context.Context) (net.Listener, func(ctx context.Context, address string) (net.Conn, error), error) {
	if p.site == nil {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
		return listener, func(ctx context.Context, address string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}, err
	}
	m := p.site.machines["manager"]
	listener, err := m.Listen(ctx, p.site.numeric(p.site.at("manager", agentsPort)))
	return listener, func(ctx context.Context, address string) (net.Conn, error) { return m.DialContext(ctx, "tcp", address) }, err
}

// stop ends what stands between machines, and the machines.
func (s *site) stop() error {
	for _, f := range s.forwards {
		f.close()
	}
	var failures []error
	for _, d := range s.disks {
		failures = append(failures, s.room.within(d.Close))
	}
	return errors.Join(errors.Join(failures...), s.network.Close(), s.room.close())
}
