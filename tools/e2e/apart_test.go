package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cetrus/cetrus/manager"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/tools/api"
	"github.com/cetrus/cetrus/tools/load"
	"github.com/cetrus/cetrus/tools/stack"
)

// scattered is the platform with each part as a process of its own, which knows of the others nothing but what
// `cetrus secrets` made, and where they are.
type scattered struct {
	t       *testing.T
	dir     string
	program string
	parts   map[string]*partApart
	// https is how this test reaches what is encrypted.
	https *http.Client
	// database is in the environment of the parts that have tables.
	database string
}

// partApart is one of them.
type partApart struct {
	*stack.Process
	args, env []string
	// rest, grpc, nats and health are where it listens.
	stack.Addresses
	health string
}

// given are the secrets that each part needs, by the names of the files that it takes from them.
func given() map[string]map[string]string {
	return map[string]map[string]string{
		"nats":     {"account": "account.json", "nats-users": "nats-users.json"},
		"keyring":  {"account": "account.json", "name-key": "name-key", "nats-keyring": "nats-password"},
		"identity": {"account": "account.json", "name-key": "name-key", "sign-in-key": "sign-in-key", "nats-identity": "nats-password", "first-login": "admin-password"},
		"metering": {"account": "account.json", "name-key": "name-key", "nats-metering": "nats-password"},
		"gateway":  {"account": "account.json", "nats-gateway": "nats-password"},
	}
}

func newApart(t *testing.T) *scattered {
	t.Helper()
	a := &scattered{t: t, dir: publicTempDir(t), program: filepath.Join(build(t), "cetrus"), parts: map[string]*partApart{}}
	a.cetrus("secrets", "--output", a.secret())
	if err := os.Mkdir(a.folder("postgres"), 0o755); err != nil { // its user must be able to pass through
		t.Fatal(err)
	}
	for part, secrets := range given() {
		for secret, file := range secrets {
			a.copy(a.secret(secret, file), a.folder(part, "credentials", file))
		}
		for _, file := range []string{"tls.crt", "tls.key", "ca.crt"} {
			a.copy(a.secret("tls-"+part, file), a.folder(part, "tls", file))
		}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(a.read(a.secret("tls-gateway", "ca.crt"))) {
		t.Fatal("the authority is no certificate")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	a.https = &http.Client{Transport: transport, Timeout: 30 * time.Second}
	return a
}

func (a *scattered) secret(path ...string) string {
	return filepath.Join(append([]string{a.dir, "secrets"}, path...)...)
}

func (a *scattered) folder(part string, path ...string) string {
	return filepath.Join(append([]string{a.dir, "machine-" + part}, path...)...)
}

func (a *scattered) read(path string) []byte {
	a.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		a.t.Fatal(err)
	}
	return text
}

func (a *scattered) copy(from, to string) {
	a.t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, a.read(from), 0o400)); err != nil {
		a.t.Fatal(err)
	}
}

// cetrus runs an order to its end.
func (a *scattered) cetrus(args ...string) string {
	a.t.Helper()
	cmd := exec.CommandContext(a.t.Context(), a.program, args...)
	cmd.Env = append(os.Environ(), "CETRUS_POSTGRES_URL="+a.database)
	out, err := cmd.CombinedOutput()
	if err != nil {
		a.t.Fatalf("cetrus %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// start starts a part, and does not wait.
func (a *scattered) start(name string, args ...string) *partApart {
	a.t.Helper()
	p := &partApart{args: append([]string{name, "--data-dir", a.folder(name, "data"), "--log-level", "info"}, args...)}
	if name != "postgres" {
		p.args = append(p.args, "--credentials-dir", a.folder(name, "credentials"), "--tls-dir", a.folder(name, "tls"))
		p.env = []string{"CETRUS_POSTGRES_URL=" + a.database}
	}
	a.parts[name] = p
	a.begin(name)
	a.t.Cleanup(func() {
		if err := p.Stop(20 * time.Second); err != nil && !errors.As(err, new(*stack.EndedError)) {
			a.t.Error(err)
		}
		if a.t.Failed() {
			a.t.Logf("%s said:\n%s", name, tail(p.Said(), 30))
		}
	})
	return p
}

// begin runs the process of a part, for the first time or again.
func (a *scattered) begin(name string) {
	a.t.Helper()
	p := a.parts[name]
	var err error
	if p.Process, err = stack.Start(stack.Command{
		Name: name, Path: a.program, Args: p.args, Env: p.env, Log: filepath.Join(a.t.ArtifactDir(), name+".log"), Orphaned: syscall.SIGTERM,
	}); err != nil {
		a.t.Fatal(err)
	}
}

// runs waits until a part says where it listens.
func (a *scattered) runs(name string) *partApart {
	a.t.Helper()
	p := a.parts[name]
	a.wait("start of "+name, p.Running(func() (err error) {
		p.Addresses, err = stack.ReadAddresses(a.folder(name, "data"), name)
		return err
	}))
	return p
}

func (a *scattered) wait(what string, condition func() error) {
	a.t.Helper()
	if err := stack.Wait(a.t.Context(), time.Minute, what, condition); err != nil {
		a.t.Fatal(err)
	}
}

// says asks a part about itself.
func (a *scattered) says(name, path string) (int, string) {
	request, err := http.NewRequestWithContext(a.t.Context(), http.MethodGet, "http://"+a.parts[name].health+path, nil)
	if err != nil {
		return 0, err.Error()
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(text)
}

// ready waits until a part says that it can do its work.
func (a *scattered) ready(names ...string) {
	a.t.Helper()
	for _, name := range names {
		a.wait(name+" to be ready", a.parts[name].Running(func() error {
			if code, said := a.says(name, "/readyz"); code != http.StatusOK {
				return fmt.Errorf("%s: %d %s", name, code, said)
			}
			return nil
		}))
	}
}

// lacks waits until a part says that it cannot do its work, and what is missing; it lives all the same.
func (a *scattered) lacks(missing string, names ...string) {
	a.t.Helper()
	for _, name := range names {
		a.wait(name+" to miss "+missing, a.parts[name].Running(func() error {
			if code, said := a.says(name, "/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(said, missing) {
				return fmt.Errorf("%s: %d %s", name, code, said)
			}
			return nil
		}))
		if code, said := a.says(name, "/healthz"); code != http.StatusOK {
			a.t.Errorf("%s does not live without %s: %d %s", name, missing, code, said)
		}
	}
}

// freePorts are addresses that nobody listens on.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var all []string
	for range n {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = lis.Close() }()
		all = append(all, lis.Addr().String())
	}
	return all
}

// TestApart runs the whole way from an agent to a report over parts that share nothing but the network, and
// what `cetrus secrets` made for each; all that they say to one another is encrypted.
func TestApart(t *testing.T) {
	a := newApart(t)
	began := time.Now()
	if said := a.cetrus("secrets", "--output", a.secret()); said != "" {
		t.Errorf("a second `cetrus secrets` changes something: %s", said)
	}
	free := freePorts(t, 10)
	const anywhere = "127.0.0.1:0"
	health := func(name string, n int) []string { return []string{"--health-listen", free[n]} }
	_, databasePort, _ := net.SplitHostPort(free[8])
	a.start("postgres", "--postgres-port", databasePort)
	nats := a.start("nats", slices.Concat(health("nats", 0), []string{"--nats-listen", free[9]})...)
	nats.health = free[0]
	a.runs("postgres")
	var database struct {
		URL string `json:"postgres_url"`
	}
	if err := json.Unmarshal(a.read(a.folder("postgres", "data", "addresses.postgres.json")), &database); err != nil {
		t.Fatal(err)
	}
	a.database = database.URL

	servers := "--nats-url=tls://" + strings.Replace(free[9], "127.0.0.1", "localhost", 1)
	service := func(name string, n int, more ...string) {
		p := a.start(name, slices.Concat(health(name, n), []string{servers, "--migrate=false", "--allow-short-gaps"}, more)...)
		p.health = free[n]
	}
	service("keyring", 1)
	service("identity", 2, "--grpc-listen", anywhere)
	service("metering", 3, "--grpc-listen", anywhere)
	// Nobody has made the tables: they wait, and say so.
	a.lacks("starting: keyring", "keyring")
	a.lacks("starting: identity", "identity")
	a.cetrus("migrate")
	a.ready("nats", "keyring", "identity", "metering")
	identity, metering := a.runs("identity"), a.runs("metering")
	service("gateway", 4, "--rest-listen", anywhere, "--metering-address", metering.GRPC, "--identity-address", identity.GRPC)
	a.ready("gateway")
	gateway := a.runs("gateway")
	if !strings.HasPrefix(gateway.REST, "https://") {
		t.Fatalf("REST is not encrypted: %s", gateway.REST)
	}
	t.Logf("all parts are ready after %s", time.Since(began).Round(time.Millisecond))

	// The first administrator signs in by the password that was made for them, over HTTPS.
	body, err := json.Marshal(map[string]string{
		"account_name": "operator", "login_name": "admin", "new_password": "correct horse battery staple",
		"password": strings.TrimSpace(string(a.read(a.secret("first-login", "admin-password")))),
	})
	if err != nil {
		t.Fatal(err)
	}
	response, err := a.https.Post(gateway.REST+"/v1/sessions:signIn", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(response.Body)
	_ = response.Body.Close()
	if err != nil || response.StatusCode != http.StatusOK || !bytes.Contains(answer, []byte("access_token")) || response.ProtoMajor != 2 {
		t.Fatalf("signing in over %s: %d %s %v", response.Proto, response.StatusCode, answer, err)
	}

	// Usage goes the whole way: agents, a Manager that has enrolled, the log, metering, a report.
	client := api.New(gateway.REST, strings.TrimSpace(string(a.read(a.secret("first-login", "api-key"))))).Over(a.https)
	ledger := a.use(client, gateway.REST, servers)
	a.reported(client, ledger)

	// NATS goes and comes back, then PostgreSQL.
	nats.Kill()
	<-nats.Done()
	a.lacks("NATS", "keyring", "identity", "metering", "gateway")
	a.begin("nats")
	a.ready("nats", "keyring", "identity", "metering", "gateway")
	a.parts["postgres"].Kill()
	<-a.parts["postgres"].Done()
	a.lacks("PostgreSQL", "keyring", "identity", "metering")
	a.begin("postgres")
	a.ready("keyring", "identity", "metering", "gateway")
	a.reported(client, ledger)

	a.strangersAreRefused(metering.GRPC, gateway.REST)
}

// use lets agents report to a Manager that has enrolled, and answers what they recorded.
func (a *scattered) use(client *api.Client, rest, servers string) *load.Ledger {
	a.t.Helper()
	ctx := a.t.Context()
	made := &identityv1.CreateManagerResponse{}
	if err := client.Post(ctx, "/v1/managers", &identityv1.Manager{DisplayName: "Berlin"}, made); err != nil {
		a.t.Fatal(err)
	}
	folder := a.folder("manager", "data")
	common := []string{"--data-dir", folder, "--agents-address", "127.0.0.1:0", "--status-address", "127.0.0.1:0"}
	// As any other program, it knows authorities from its system.
	trusts := "SSL_CERT_FILE=" + a.secret("tls-gateway", "ca.crt")
	program := filepath.Join(filepath.Dir(a.program), "cetrus-manager")
	enrol := exec.CommandContext(ctx, program, slices.Concat([]string{"enroll", made.GetToken(), "--api", strings.Replace(rest, "127.0.0.1", "localhost", 1)}, common)...)
	enrol.Env = append(os.Environ(), trusts)
	if out, err := enrol.CombinedOutput(); err != nil {
		a.t.Fatalf("the Manager does not enrol: %v\n%s", err, out)
	}
	log := filepath.Join(a.t.ArtifactDir(), "manager.log")
	process, err := stack.Start(stack.Command{
		Name: "the Manager", Path: program, Log: log, Env: []string{trusts},
		Args: slices.Concat([]string{"run", "--agents-security", "plaintext", "--platform-url", strings.TrimPrefix(servers, "--nats-url=")}, common),
	})
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() {
		if err := process.Stop(20 * time.Second); err != nil {
			a.t.Error(err)
		}
		if a.t.Failed() {
			a.t.Logf("the Manager said:\n%s", tail(process.Said(), 30))
		}
	})
	var there manager.Addresses
	a.wait("the Manager", process.Running(func() (err error) {
		there, err = manager.AddressesOf(folder)
		return err
	}))
	ledger := load.NewLedger()
	if _, err := load.Run(ctx, load.Config{
		Address: there.Agents, Streams: 5, EventsPerStream: 200, Seed: 1, StartUTCMillis: time.Now().Add(-24 * time.Hour).UnixMilli(), Ledger: ledger,
	}); err != nil {
		a.t.Fatal(err)
	}
	instances := load.NewLedger() // the list does not tell of documents
	for key, millis := range ledger.Millis() {
		if key.Document.IsZero() {
			instances.AddMillis(key, millis)
		}
	}
	return instances
}

// reported waits until the API reports what was recorded, to the millisecond.
func (a *scattered) reported(client *api.Client, ledger *load.Ledger) {
	a.t.Helper()
	a.wait("everything to be reported", func() error {
		reported, err := instancesMillis(a.t.Context(), client)
		if err != nil {
			return err
		}
		if c := ledger.Compare(reported); !c.Equal() {
			return fmt.Errorf("%d ms are lost and %d doubled, of %d keys: %v", c.LostMillis, c.DoubledMillis, c.Keys, c.Differences[0])
		}
		return nil
	})
	if ledger.Keys() == 0 {
		a.t.Error("nothing was recorded")
	}
}

// instancesMillis is what the API reports of each instance.
func instancesMillis(ctx context.Context, client *api.Client) (map[load.Key]int64, error) {
	reported := map[load.Key]int64{}
	for query := (url.Values{"page_size": {"1000"}}); ; {
		page := &meteringv1.ListInstancesResponse{}
		if err := client.Get(ctx, "/v1/instances", query, page); err != nil {
			return nil, err
		}
		for _, i := range page.GetInstances() {
			id, err := contract.ParseID(i.GetInstanceId())
			if err != nil {
				return nil, err
			}
			t := i.GetTotals()
			maps.Insert(reported, maps.All(map[load.Key]int64{
				{Instance: id, Attention: usagev1.Attention_ATTENTION_SUSPENDED}:  t.GetSuspended().AsDuration().Milliseconds(),
				{Instance: id, Attention: usagev1.Attention_ATTENTION_UNKNOWN}:    t.GetUnknown().AsDuration().Milliseconds(),
				{Instance: id, Attention: usagev1.Attention_ATTENTION_PAUSED}:     t.GetPaused().AsDuration().Milliseconds(),
				{Instance: id, Attention: usagev1.Attention_ATTENTION_AWAY}:       t.GetAway().AsDuration().Milliseconds(),
				{Instance: id, Attention: usagev1.Attention_ATTENTION_BUSY}:       t.GetBusy().AsDuration().Milliseconds(),
				{Instance: id, Attention: usagev1.Attention_ATTENTION_IDLE}:       t.GetIdle().AsDuration().Milliseconds(),
				{Instance: id, Attention: usagev1.Attention_ATTENTION_BACKGROUND}: t.GetBackground().AsDuration().Milliseconds(),
			}))
		}
		if page.GetNextPageToken() == "" {
			return reported, nil
		}
		query.Set("page_token", page.GetNextPageToken())
	}
}

// strangersAreRefused tries what who is on the network can do without what was made for a part.
func (a *scattered) strangersAreRefused(grpc, rest string) {
	a.t.Helper()
	settings := a.https.Transport.(*http.Transport).TLSClientConfig.Clone()
	settings.ServerName, settings.NextProtos = "localhost", []string{"h2"}
	conn, err := tls.Dial("tcp", grpc, settings)
	if err == nil {
		// In TLS 1.3 a client learns only then that it should have shown a certificate.
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err = io.ReadAll(conn)
		_ = conn.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "certificate required") {
		a.t.Errorf("gRPC without a certificate: %v", err)
	}
	plain, err := net.Dial("tcp", grpc)
	if err == nil {
		_ = plain.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = plain.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
		text, _ := io.ReadAll(plain)
		_ = plain.Close()
		if len(text) > 0 && text[0] != 21 { // an alert of TLS is all that may be heard
			a.t.Errorf("gRPC in plain answers %q", text)
		}
	}
	if _, err := http.Get(strings.Replace(rest, "127.0.0.1", "localhost", 1) + "/healthz"); err == nil {
		a.t.Error("REST shows a certificate of an authority that everybody knows")
	}
}
