package manager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	keyringv1 "github.com/cetrus/cetrus/proto/cetrus/keyring/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/buffer"
	"github.com/cetrus/cetrus/manager/internal/agenttest"
	"github.com/cetrus/cetrus/manager/internal/durable"
	"github.com/cetrus/cetrus/manager/policy"
)

var testAccount = contract.ID{1, 2, 3}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("after 20 s still not: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func testConfig(dir string) Config {
	return Config{DataDir: dir, AccountID: testAccount, AgentsSecurity: Plaintext, AgentsAddress: "127.0.0.1:0", StatusAddress: "127.0.0.1:0"}
}

// run starts a Manager and returns a function that stops it.
func run(t testing.TB, config Config, platform func(context.Context, contract.ID) (*nats.Conn, error)) (*Manager, func()) {
	t.Helper()
	m, err := New(config, Deps{Platform: platform, Log: slog.New(slog.DiscardHandler)})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	var once atomic.Bool
	stop := func() {
		if once.Swap(true) {
			return
		}
		cancel()
		select {
		case err := <-ended:
			must(t, err)
		case <-time.After(30 * time.Second):
			t.Error("the stop takes more than 30 s")
		}
	}
	t.Cleanup(stop)
	return m, stop
}

// platform is a NATS server with the streams of the platform, and its keyring.
func platform(t testing.TB) func(context.Context, contract.ID) (*nats.Conn, error) {
	t.Helper()
	server, err := natsserver.NewServer(&natsserver.Options{DontListen: true, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(), MaxPayload: 8 << 20})
	must(t, err)
	server.Start()
	t.Cleanup(server.Shutdown)
	connect := func(context.Context, contract.ID) (*nats.Conn, error) {
		return nats.Connect("", nats.InProcessServer(server))
	}
	nc, err := connect(context.Background(), contract.ID{})
	must(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	must(t, err)
	for name, subjects := range map[string]string{contract.AgentStream: contract.AgentSubjects, contract.PolicyStream: contract.PolicySubjects} {
		_, err = js.CreateStream(context.Background(), jetstream.StreamConfig{Name: name, Subjects: []string{subjects}, AllowDirect: true})
		must(t, err)
	}
	_, err = nc.Subscribe(contract.KeyringSubjects, func(m *nats.Msg) {
		raw, _ := proto.Marshal(&keyringv1.DepositResponse{})
		_ = m.Respond(raw)
	})
	must(t, err)
	return connect
}

func get(t testing.TB, m *Manager, path string, into any) {
	t.Helper()
	response, err := http.Get("http://" + m.StatusAddress() + path)
	must(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	must(t, err)
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s", path, response.Status, body)
	}
	if text, ok := into.(*string); ok {
		*text = string(body)
		return
	}
	must(t, json.Unmarshal(body, into))
}

func TestItStartsAndServesWithThePlatformOutOfReach(t *testing.T) {
	dir := t.TempDir()
	reach := platform(t)
	var up atomic.Bool
	sometimes := func(ctx context.Context, id contract.ID) (*nats.Conn, error) {
		if !up.Load() {
			return nil, errors.New("no route")
		}
		return reach(ctx, id)
	}
	m, stop := run(t, testConfig(dir), sometimes)
	j := agenttest.NewJournal(rand.New(rand.NewPCG(1, 1)))
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := agenttest.Dial(ctx, m.AgentsAddress())
	must(t, err)
	defer c.Close()
	must(t, c.SendHello(agenttest.Hello(j)))
	must(t, c.SendPerson(&agentv1.Person{PrincipalAlias: j.Alias[:], UserName: "anna", DisplayName: "Anna Berg"}))
	f := j.Frame(10)
	must(t, c.SendFrame(f))
	must(t, c.Acknowledged(j.Epoch, 1, 10))

	var status Status
	get(t, m, "/api/v1/status", &status)
	if status.Platform != "unreachable" || status.Backlog == 0 || len(status.Agents) != 1 || !status.Agents[0].Connected {
		t.Errorf("status: %+v", status)
	}
	up.Store(true)
	eventually(t, "the backlog is gone", func() bool { s := m.Status(); return s.Backlog == 0 && s.People.Undeposited == 0 })

	// A policy reaches a connected agent when it is published, not when the stream is
	// next read.
	nc, err := reach(context.Background(), contract.ID{})
	must(t, err)
	defer nc.Close()
	raw, err := proto.Marshal(&policyv1.Policy{AccountId: testAccount[:], Revision: 5})
	must(t, err)
	published := time.Now()
	must(t, nc.Publish(contract.PolicySubject(testAccount), raw))
	policy, err := agenttest.Next(c, (*agentv1.ConnectResponse).GetPolicy, func(p *policyv1.Policy) bool { return p != nil })
	must(t, err)
	if took := time.Since(published); policy.GetRevision() != 5 || took > 15*time.Second {
		t.Errorf("revision %d after %v", policy.GetRevision(), took)
	}
	stop()

	// With the platform gone again, a new start serves the mirrored policy.
	up.Store(false)
	m, _ = run(t, testConfig(dir), sometimes)
	c, err = agenttest.Dial(ctx, m.AgentsAddress())
	must(t, err)
	defer c.Close()
	must(t, c.SendHello(agenttest.Hello(j)))
	if policy, err = agenttest.Next(c, (*agentv1.ConnectResponse).GetPolicy, func(p *policyv1.Policy) bool { return p != nil }); err != nil || policy.GetRevision() != 5 {
		t.Errorf("policy %v, %v", policy, err)
	}
}

// A Manager that the platform lets in no more says so, until it is let in again.
func TestAPlatformThatRefuses(t *testing.T) {
	shut, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: natsserver.RANDOM_PORT, NoSigs: true, NoLog: true, Username: "manager", Password: "right"})
	must(t, err)
	shut.Start()
	t.Cleanup(shut.Shutdown)
	if !shut.ReadyForConnections(20 * time.Second) {
		t.Fatal("the server does not start")
	}
	open := platform(t)
	var admitted atomic.Bool
	m, _ := run(t, testConfig(t.TempDir()), func(ctx context.Context, id contract.ID) (*nats.Conn, error) {
		if admitted.Load() {
			return open(ctx, id)
		}
		return nats.Connect(shut.ClientURL(), nats.UserInfo("manager", "wrong"))
	})
	says := func(state string, alarm bool) func() bool {
		return func() bool {
			s := m.Status()
			return s.Platform == state && alarm == slices.ContainsFunc(s.Alarms, func(a Alarm) bool {
				return a.What == "PLATFORM_REFUSES" && strings.Contains(a.Text, "revoked")
			})
		}
	}
	eventually(t, "it says that it is refused", says("refused", true))
	admitted.Store(true)
	eventually(t, "it is connected, and nothing is wrong", says("connected", false))
}

func TestThePageAndItsAPI(t *testing.T) {
	config := testConfig(t.TempDir())
	config.ShowNames = true
	m, _ := run(t, config, nil)
	j := agenttest.NewJournal(rand.New(rand.NewPCG(1, 1)))
	j.Anchor.UtcMillis = time.Now().Add(-10 * time.Minute).UnixMilli()
	j.Anchor.AnchorId = contract.AnchorID(j.Anchor)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := agenttest.Dial(ctx, m.AgentsAddress())
	must(t, err)
	defer c.Close()
	must(t, c.SendHello(agenttest.Hello(j)))
	must(t, c.SendPerson(&agentv1.Person{PrincipalAlias: j.Alias[:], UserName: "anna", DisplayName: "Anna <b>Berg</b>"}))
	session, application := contract.ID{5}, contract.ID{6}
	must(t, c.Stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Live{Live: &usagev1.LiveSnapshot{
		SessionId: session[:], PrincipalAlias: j.Alias[:], ValidMillis: 60_000,
		Open: []*usagev1.OpenInstance{{ApplicationId: application[:], State: usagev1.State_STATE_ACTIVE, SinceUtcMillis: time.Now().UnixMilli()}},
	}}}))
	must(t, c.SendFrame(j.Frame(4)))
	must(t, c.Acknowledged(j.Epoch, 1, 4))
	var usage Usage
	get(t, m, "/api/v1/usage", &usage)
	if len(usage.Live) != 1 || usage.Live[0].Person != "Anna <b>Berg</b>" || usage.Live[0].State != "Active" {
		t.Errorf("live: %+v", usage.Live)
	}
	total := 0.0
	for _, line := range usage.Recent {
		total += line.BusySeconds
	}
	if !usage.Complete || len(usage.Recent) != 4 || total <= 0 {
		t.Errorf("recent: %+v", usage)
	}
	var page string
	get(t, m, "/", &page)
	for _, want := range []string{"Anna &lt;b&gt;Berg", "Recent use", "desk-"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not show %q", want)
		}
	}

	get(t, m, "/metrics", &page)
	for _, want := range []string{"\ncetrus_manager_records_total 4\n", "# TYPE cetrus_manager_buffer_used_bytes gauge\n", "\ncetrus_manager_agents 1\n"} {
		if !strings.Contains(page, want) {
			t.Errorf("the metrics do not hold %q:\n%s", want, page)
		}
	}

	request, err := http.NewRequest(http.MethodGet, "http://"+m.StatusAddress()+"/", nil)
	must(t, err)
	request.Host = "evil.example"
	response, err := http.DefaultClient.Do(request)
	must(t, err)
	response.Body.Close()
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("another host's name is served: %s", response.Status)
	}
	response, err = http.Post("http://"+m.StatusAddress()+"/api/v1/takeover", "", nil)
	must(t, err)
	response.Body.Close()
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("a takeover without token: %s", response.Status)
	}
}

// The platform may know of records that this Manager never saw, or has forgotten.
func TestAnEpochInConflictOnThePlatformIsRefused(t *testing.T) {
	connect := platform(t)
	config := testConfig(t.TempDir())
	m, _ := run(t, config, connect)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	nc, err := connect(ctx, contract.ID{})
	must(t, err)
	defer nc.Close()
	j := agenttest.NewJournal(rand.New(rand.NewPCG(1, 1)))
	c, err := agenttest.Dial(ctx, m.AgentsAddress())
	must(t, err)
	defer c.Close()
	must(t, c.SendHello(agenttest.Hello(j)))
	for refused := false; !refused; {
		must(t, nc.Publish(contract.ConflictSubject(config.AccountID), contract.EncodeConflict(j.Agent, j.Epoch)))
		must(t, nc.Flush())
		must(t, c.SendFrame(j.Frame(1)))
		for answered := false; !answered; {
			answer, err := c.Stream.Recv()
			must(t, err)
			refusal := answer.GetRefusal()
			answered, refused = refusal != nil || answer.GetAcknowledgement() != nil, refusal != nil
			if refused && (!refusal.GetNewEpoch() || refusal.GetEpoch() != j.Epoch) {
				t.Fatalf("refusal: %v", refusal)
			}
		}
	}
}

// TestLossesAreAcknowledged: the alarms of a damaged buffer and of a platform that was put
// back end when a person says that they know, also after a restart; the loss of the buffer
// stays listed.
func TestLossesAreAcknowledged(t *testing.T) {
	dir := t.TempDir()
	_, stop := run(t, testConfig(dir), nil)
	stop()
	path := filepath.Join(dir, "buffer", "identity")
	raw, err := durable.Read(path)
	must(t, err)
	var identity map[string]any
	must(t, json.Unmarshal(raw, &identity))
	identity["losses"] = []buffer.Loss{{From: 1, To: 2, Found: time.Now(), Reason: "the disk was bad"}}
	raw, err = json.Marshal(identity)
	must(t, err)
	must(t, durable.Replace(path, raw))
	raw, err = json.Marshal(policy.PutBack{Since: time.Now(), Revision: 3, Mirrored: 4, Believed: true})
	must(t, err)
	must(t, durable.Replace(filepath.Join(dir, "policy-put-back"), raw))

	m, stop := run(t, testConfig(dir), nil)
	alarms := func() (n int) {
		for _, a := range m.Status().Alarms {
			if a.What == "BUFFER_DAMAGED" || a.What == "PLATFORM_PUT_BACK" {
				n++
			}
		}
		return n
	}
	if alarms() != 2 || m.Status().Policy.PutBack.Mirrored != 4 {
		t.Fatalf("alarms: %+v", m.Status().Alarms)
	}
	page, err := http.Get("http://" + m.StatusAddress() + "/")
	must(t, err)
	html, err := io.ReadAll(page.Body)
	must(t, errors.Join(err, page.Body.Close()))
	if !strings.Contains(string(html), "put back from a backup") {
		t.Error("the page does not tell that the platform was put back")
	}
	for token, want := range map[string]int{"": http.StatusForbidden, m.token: http.StatusNoContent} {
		request, err := http.NewRequest(http.MethodPost, "http://"+m.StatusAddress()+"/api/v1/acknowledge", nil)
		must(t, err)
		request.Header.Set(TokenHeader, token)
		response, err := http.DefaultClient.Do(request)
		must(t, err)
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("with token %q: %s", token, response.Status)
		}
	}
	if alarms() != 0 {
		t.Errorf("alarms: %+v", m.Status().Alarms)
	}
	stop()
	m, _ = run(t, testConfig(dir), nil)
	if losses := m.Status().Buffer.Losses; alarms() != 0 || len(losses) != 1 || losses[0].Acknowledged.IsZero() {
		t.Errorf("alarms: %+v; losses: %+v", m.Status().Alarms, losses)
	}
}

func TestAFolderBelongsToOneAccount(t *testing.T) {
	dir := t.TempDir()
	_, stop := run(t, testConfig(dir), nil)
	stop()
	config := testConfig(dir)
	config.AccountID = contract.ID{9}
	if _, err := New(config, Deps{}); err == nil || !strings.Contains(err.Error(), "belongs to account") {
		t.Errorf("error: %v", err)
	}
}

func TestConfigSaysAllThatIsWrong(t *testing.T) {
	config := Config{StatusAddress: "0.0.0.0:80", MaxBufferBytes: 5}
	err := config.Validate()
	for _, want := range []string{"data_dir", "account_id", "max_buffer_bytes", "loopback"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not named in: %v", want, err)
		}
	}
}

func TestATakeoverRenewsADamagedIdentity(t *testing.T) {
	dir := t.TempDir()
	_, stop := run(t, testConfig(dir), nil)
	stop()
	must(t, os.Truncate(filepath.Join(dir, "buffer", "identity"), 5))
	if _, err := New(testConfig(dir), Deps{}); err == nil || !strings.Contains(err.Error(), "takeover") {
		t.Fatalf("error: %v", err)
	}
	must(t, Takeover(testConfig(dir), slog.New(slog.DiscardHandler)))
	run(t, testConfig(dir), nil)
}

func TestATakenPortIsNamed(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer listener.Close()
	config := testConfig(t.TempDir())
	config.AgentsAddress = listener.Addr().String()
	if _, err := New(config, Deps{}); err == nil || !strings.Contains(err.Error(), "listen for agents") {
		t.Errorf("error: %v", err)
	}
	config.AgentsAddress = "127.0.0.1:0" // everything was let go
	run(t, config, nil)
}

// ExampleNew runs a Manager on its own for a moment.
func ExampleNew() {
	dir, err := os.MkdirTemp("", "manager")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	account, err := contract.ParseID("3d1c0f6e-9a55-4b1e-8f0a-6f2b8a2d7c11")
	if err != nil {
		panic(err)
	}
	m, err := New(Config{DataDir: dir, AccountID: account, AgentsSecurity: Plaintext, AgentsAddress: "127.0.0.1:0", StatusAddress: "127.0.0.1:0"},
		Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	fmt.Println(m.Run(ctx))
	// Output: <nil>
}
