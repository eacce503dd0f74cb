package natsserver_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/natsserver"
)

const patience = 10 * time.Second

// refused is how long a request waits that must not be answered.
const refused = 300 * time.Millisecond

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func start(t *testing.T, config natsserver.Config) *natsserver.Server {
	t.Helper()
	if config.StoreDir == "" {
		config.StoreDir = t.TempDir()
	}
	config.Logger = quiet()
	s, err := natsserver.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func connect(t *testing.T, s *natsserver.Server, user natsserver.User, options ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := s.Connect(user, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func ensure(t *testing.T, nc *nats.Conn, settings natsserver.Streams) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := natsserver.EnsureStreams(ctx, nc, settings); err != nil {
		t.Fatal(err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	users := []natsserver.User{natsserver.PlatformUser("x")}
	for want, config := range map[string]natsserver.Config{
		"StoreDir is empty":      {},
		"is not host:port":       {StoreDir: "x", Listen: "4222", Users: users},
		"not a loopback":         {StoreDir: "x", Listen: "0.0.0.0:4222", Users: users},
		"not a number":           {StoreDir: "x", Listen: "127.0.0.1:http", Users: users},
		"name users":             {StoreDir: "x", Listen: "127.0.0.1:0"},
		"nothing is encrypted":   {StoreDir: "x", Listen: "127.0.0.1:0", WebSocketListen: "0.0.0.0:8443", Users: users},
		"must be one word":       {StoreDir: "x", Users: users, Name: "n", Cluster: &natsserver.ClusterConfig{Name: "a b"}},
		"no other server":        {StoreDir: "x", Users: users, Cluster: &natsserver.ClusterConfig{Name: "c"}},
		"needs the routes":       {StoreDir: "x", Users: users, Name: "n", Cluster: &natsserver.ClusterConfig{Name: "c", Listen: "127.0.0.1:6222"}},
		"must know it":           {StoreDir: "x", Users: users, Name: "n", Cluster: &natsserver.ClusterConfig{Name: "c", Listen: "127.0.0.1:0", Routes: []string{"a:1"}}},
		"the route \"a\" is not": {StoreDir: "x", Users: users, Name: "n", Cluster: &natsserver.ClusterConfig{Name: "c", Listen: "127.0.0.1:6222", Routes: []string{"a"}}},
		"without a password":     {StoreDir: "x", Users: users, Name: "n", Cluster: &natsserver.ClusterConfig{Name: "c", Listen: "127.0.0.1:6222", Routes: []string{"a:1"}}},
	} {
		if err := config.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", config, err, want)
		}
	}
}

func TestTakenAddressIsAnError(t *testing.T) {
	users := []natsserver.User{natsserver.PlatformUser("x")}
	first := start(t, natsserver.Config{Listen: "127.0.0.1:0", Users: users})
	second, err := natsserver.Start(t.Context(), natsserver.Config{StoreDir: t.TempDir(), Listen: first.Addr(), Users: users, Logger: quiet()})
	if err == nil {
		second.Stop()
		t.Fatal("two servers on one address")
	}
	if !strings.Contains(err.Error(), first.Addr()) {
		t.Errorf("the error does not name the address: %v", err)
	}
}

func TestRunStopsWithItsContext(t *testing.T) {
	s := start(t, natsserver.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("it still runs")
	}
}

// TestStreams also opens them again, changed, after a restart on the same files.
func TestStreams(t *testing.T) {
	dir := t.TempDir()
	s := start(t, natsserver.Config{StoreDir: dir})
	nc := connect(t, s, natsserver.User{})
	ensure(t, nc, natsserver.Streams{})
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	subject := contract.EventSubject(contract.ID{1}, "test", "thing", "1")
	big := make([]byte, contract.MaxBatchBytes)
	if _, err := js.Publish(ctx, subject, big); err != nil {
		t.Errorf("a message of the greatest size: %v", err)
	}
	events, err := js.Stream(ctx, contract.EventStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := events.Purge(ctx); err == nil {
		t.Error("EVENTS was purged")
	}
	if err := events.DeleteMsg(ctx, 1); err == nil {
		t.Error("an event was deleted")
	}
	policy := contract.PolicySubject(contract.ID{1})
	for _, text := range []string{"old", "new"} {
		if _, err := js.Publish(ctx, policy, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	policies, err := js.Stream(ctx, contract.PolicyStream)
	if err != nil {
		t.Fatal(err)
	}
	if n := policies.CachedInfo().State.Msgs; n != 1 {
		t.Errorf("POLICY holds %d messages of one account", n)
	}

	nc.Close()
	s.Stop()
	s = start(t, natsserver.Config{StoreDir: dir})
	nc = connect(t, s, natsserver.User{})
	ensure(t, nc, natsserver.Streams{AgentMaxBytes: 1 << 20})
	if js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	agent, err := js.Stream(ctx, contract.AgentStream)
	if err != nil {
		t.Fatal(err)
	}
	if config := agent.CachedInfo().Config; config.MaxAge != 0 || config.MaxBytes != 1<<20 || config.Discard != jetstream.DiscardNew {
		t.Errorf("AGENT is %+v", config)
	}
	if events, err = js.Stream(ctx, contract.EventStream); err != nil || events.CachedInfo().State.Msgs != 1 {
		t.Errorf("EVENTS after a restart: %v, %v", events, err)
	}
}

// TestFullAgentStreamRefuses keeps what it has and says no to more.
func TestFullAgentStreamRefuses(t *testing.T) {
	s := start(t, natsserver.Config{})
	nc := connect(t, s, natsserver.User{})
	ensure(t, nc, natsserver.Streams{AgentMaxBytes: 64 << 10})
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	subject := contract.AgentSubject(contract.ID{1}, contract.ID{2}, usagev1.Lane_LANE_USAGE)
	stored := uint64(0)
	for range 100 {
		if _, err = js.Publish(t.Context(), subject, make([]byte, 4<<10)); err != nil {
			break
		}
		stored++
	}
	if err == nil {
		t.Fatal("it never got full")
	}
	stream, err := js.Stream(t.Context(), contract.AgentStream)
	if err != nil {
		t.Fatal(err)
	}
	if state := stream.CachedInfo().State; state.Msgs != stored || state.FirstSeq != 1 {
		t.Errorf("%d messages from %d on, %d were acknowledged", state.Msgs, state.FirstSeq, stored)
	}
}

// several are servers that hold the same: one, or a cluster of three.
type several []*natsserver.Server

func startSeveral(t *testing.T, size int, users ...natsserver.User) several {
	t.Helper()
	if size == 1 {
		return several{start(t, natsserver.Config{Listen: "127.0.0.1:0", Unsynced: true, Users: users})}
	}
	cluster, err := natsserver.StartCluster(t.Context(), t.TempDir(), quiet(), users...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Stop)
	return cluster.Servers
}

// at is the next server for who connects as the i-th.
func (s several) at(i int) *natsserver.Server { return s[i%len(s)] }

// What parts and Managers can do and cannot, they can and cannot on one server and on a cluster,
// each connected to another server than the next.
func TestOnOneServerAndOnThree(t *testing.T) {
	for _, size := range []int{1, 3} {
		for name, test := range map[string]func(*testing.T, int){
			"a Manager does its work": managerDoesItsWork, "a Manager is walled off": managerIsWalledOff,
			"a Manager's replies forge nothing": noReplyForgesEvents, "a Manager publishes much": managerPublishesMuch,
			"each part does its work": eachPartDoesItsWork, "parts are walled off": partsAreWalledOff,
			"consumers of others are refused": consumersOfOthersAreRefused, "a part's replies forge nothing": noPartForgesByReplies,
			"used keys are told to identity": usedKeysAreToldToIdentity, "report mail is asked for by metering": reportMailIsAskedForByMetering,
		} {
			t.Run(fmt.Sprintf("%d servers/%s", size, name), func(t *testing.T) { test(t, size) })
		}
	}
}

// managers are two Managers of two accounts and the platform with its parts.
type managers struct {
	servers           several
	platform          *nats.Conn
	metering, keyring *nats.Conn
	mine, theirs      *nats.Conn
	account, manager  contract.ID
	other, stranger   contract.ID
	violations        chan error
}

func newManagers(t *testing.T, size int) *managers {
	t.Helper()
	m := &managers{
		account: contract.ID{1}, manager: contract.ID{2}, other: contract.ID{3}, stranger: contract.ID{4},
		violations: make(chan error, 100),
	}
	platform := natsserver.PlatformUser(natsserver.NewPassword())
	key := newKey(t)
	mine := natsserver.EnrolledManager(m.account, m.manager, publicKey(t, key))
	theirs := natsserver.ManagerUser(m.other, m.stranger, natsserver.NewPassword())
	metering := natsserver.RoleUser(natsserver.Metering, natsserver.NewPassword())
	keyring := natsserver.RoleUser(natsserver.Keyring, natsserver.NewPassword())
	m.servers = startSeveral(t, size, platform, metering, keyring, theirs)
	for _, server := range m.servers {
		if err := server.SetManagers(mine); err != nil {
			t.Fatal(err)
		}
	}
	m.platform = connect(t, m.servers.at(0), platform)
	ensure(t, m.platform, natsserver.Streams{Replicas: size})
	m.mine = connect(t, m.servers.at(0), mine, signedBy(t, key), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		select {
		case m.violations <- err:
		default:
		}
	}))
	m.theirs = connect(t, m.servers.at(1), theirs)
	m.metering, m.keyring = connect(t, m.servers.at(1), metering), connect(t, m.servers.at(2), keyring)
	return m
}

// request asks and returns the answer's data or error text; "" where none came.
func request(nc *nats.Conn, subject string, data []byte, wait time.Duration) (string, nats.Header) {
	answer, err := nc.Request(subject, data, wait)
	if err != nil {
		return "", nil
	}
	return string(answer.Data), answer.Header
}

// hears has somebody say something until a subscription hears it, and returns that: what is listened to
// at one server is known at the others a moment later.
func hears(t *testing.T, sub *nats.Subscription, by *nats.Conn, subject string, data []byte) *nats.Msg {
	t.Helper()
	for late := time.Now().Add(patience); ; {
		if err := by.Publish(subject, data); err != nil {
			t.Fatal(err)
		}
		msg, err := sub.NextMsg(refused)
		if err == nil {
			return msg
		}
		if time.Now().After(late) {
			t.Fatalf("nobody hears %s: %v", subject, err)
		}
	}
}

// answered is what a question is answered that is put until somebody is known who answers.
func answered(nc *nats.Conn, subject string) string {
	for late := time.Now().Add(patience); ; {
		answer, err := nc.Request(subject, nil, patience)
		if err == nil {
			return string(answer.Data)
		}
		if !errors.Is(err, nats.ErrNoResponders) || time.Now().After(late) {
			return ""
		}
	}
}

func managerDoesItsWork(t *testing.T, size int) {
	m := newManagers(t, size)
	ctx := t.Context()
	js, err := jetstream.New(m.mine)
	if err != nil {
		t.Fatal(err)
	}
	truth, err := jetstream.New(m.platform)
	if err != nil {
		t.Fatal(err)
	}
	want, err := truth.Stream(ctx, contract.AgentStream)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctx, contract.AgentStream)
	if err != nil {
		t.Fatal(err)
	}
	if created := stream.CachedInfo().Created; !created.Equal(want.CachedInfo().Created) {
		t.Errorf("AGENT was made %v, the Manager learns %v", want.CachedInfo().Created, created)
	}
	if _, err := stream.GetLastMsgForSubject(ctx, contract.AgentSubject(m.account, m.manager, usagev1.Lane_LANE_USAGE)); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("the last message before there is one: %v", err)
	}
	for _, lane := range []usagev1.Lane{usagev1.Lane_LANE_USAGE, usagev1.Lane_LANE_CHOICE} {
		subject := contract.AgentSubject(m.account, m.manager, lane)
		for i := range 2 {
			expected := jetstream.WithExpectLastSequencePerSubject(0)
			if i == 1 {
				last, header := request(m.mine, "$JS.API.DIRECT.GET."+contract.AgentStream+"."+subject, nil, patience)
				if last != "0" || header.Get("Nats-Sequence") == "" {
					t.Fatalf("the last message of %s is %q %v", subject, last, header)
				}
				var seq uint64
				if _, err := fmt.Sscan(header.Get("Nats-Sequence"), &seq); err != nil {
					t.Fatal(err)
				}
				expected = jetstream.WithExpectLastSequencePerSubject(seq)
			}
			if _, err := js.Publish(ctx, subject, []byte(fmt.Sprint(i)), expected); err != nil {
				t.Fatalf("publish on %s: %v", subject, err)
			}
		}
	}

	live, err := m.metering.SubscribeSync(contract.LiveSubjects)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := m.metering.SubscribeSync(contract.SightingSubjects)
	if err != nil {
		t.Fatal(err)
	}
	health, err := m.metering.SubscribeSync(contract.HealthSubjects)
	if err != nil {
		t.Fatal(err)
	}
	keyring, err := m.keyring.Subscribe(contract.KeyringSubjects, func(msg *nats.Msg) { _ = msg.Respond([]byte("kept")) })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = keyring.Unsubscribe() }()
	if err := errors.Join(m.metering.Flush(), m.keyring.Flush()); err != nil {
		t.Fatal(err)
	}
	hears(t, live, m.mine, contract.LiveSubject(m.account, m.manager), nil)
	hears(t, health, m.mine, contract.HealthSubject(m.account, m.manager), nil)
	hears(t, seen, m.mine, contract.SightingSubject(m.account, m.manager), nil)
	if answer := answered(m.mine, contract.KeyringSubject(m.account, m.manager)); answer != "kept" {
		t.Errorf("a deposit is answered %q", answer)
	}

	changes, err := m.mine.SubscribeSync(contract.PolicySubject(m.account))
	if err != nil {
		t.Fatal(err)
	}
	conflicts, err := m.mine.SubscribeSync(contract.ConflictSubject(m.account))
	if err != nil {
		t.Fatal(err)
	}
	asked, err := m.mine.SubscribeSync(contract.SightingAskSubject)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.mine.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"one", "two"} {
		if _, err := m.metering.Request(contract.PolicySubject(m.account), []byte(want), patience); err != nil {
			t.Fatal(err)
		}
		if msg, err := changes.NextMsg(patience); err != nil || string(msg.Data) != want {
			t.Errorf("the policy changed: %v, %v, want %s", msg, err, want)
		}
		last, _ := request(m.mine, "$JS.API.DIRECT.GET."+contract.PolicyStream+"."+contract.PolicySubject(m.account), nil, patience)
		if last != want {
			t.Errorf("the last policy is %q, want %s", last, want)
		}
		if led, _ := request(m.mine, contract.PolicyAskSubject(m.account), nil, patience); led != want {
			t.Errorf("the last policy of the leader is %q, want %s", led, want)
		}
	}
	admission := contract.AdmissionSubject(m.account)
	told, err := m.mine.SubscribeSync(admission)
	if err == nil {
		err = m.mine.Flush()
	}
	if err == nil {
		_, err = m.platform.Request(admission, []byte("whom"), patience)
	}
	if err != nil {
		t.Fatal(err)
	}
	if msg, err := told.NextMsg(patience); err != nil || string(msg.Data) != "whom" {
		t.Errorf("whom it admits changed: %v, %v", msg, err)
	}
	if last, _ := request(m.mine, "$JS.API.DIRECT.GET."+contract.PolicyStream+"."+admission, nil, patience); last != "whom" {
		t.Errorf("whom it admits: %q", last)
	}
	hears(t, asked, m.metering, contract.SightingAskSubject, nil)
	hears(t, conflicts, m.metering, contract.ConflictSubject(m.account), nil)
	select {
	case err := <-m.violations:
		t.Errorf("the work of a Manager met %v", err)
	default:
	}
}

func managerIsWalledOff(t *testing.T, size int) {
	m := newManagers(t, size)
	foreign := contract.AgentSubject(m.other, m.stranger, usagev1.Lane_LANE_USAGE)
	sibling := contract.AgentSubject(m.account, m.stranger, usagev1.Lane_LANE_USAGE)
	js, err := jetstream.New(m.theirs)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), foreign, []byte("secret")); err != nil {
		t.Fatal(err)
	}
	if _, err := m.platform.Request(contract.PolicySubject(m.other), []byte("secret"), patience); err != nil {
		t.Fatal(err)
	}
	if _, err := m.platform.Request(contract.AdmissionSubject(m.other), []byte("secret"), patience); err != nil {
		t.Fatal(err)
	}
	platform, err := jetstream.New(m.platform)
	if err != nil {
		t.Fatal(err)
	}
	truth, err := platform.Stream(t.Context(), contract.PolicyStream)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := truth.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Name: "theirs", InactiveThreshold: time.Hour}); err != nil {
		t.Fatal(err)
	}
	ownConsumer := fmt.Sprintf(`{"stream_name":"POLICY","config":{"name":"c","ack_policy":"none","filter_subject":%q}}`, contract.PolicySubject(m.account))
	var asking sync.WaitGroup
	for name, r := range map[string]struct{ subject, data string }{
		"another account's batch":     {foreign, "x"},
		"another Manager's batch":     {sibling, "x"},
		"a decision":                  {contract.EventSubject(m.account, "metering", "catalog", "x"), "x"},
		"its own policy":              {contract.PolicySubject(m.account), "x"},
		"whom it admits":              {contract.AdmissionSubject(m.account), "x"},
		"another account's admission": {"$JS.API.DIRECT.GET." + contract.PolicyStream + "." + contract.AdmissionSubject(m.other), ""},
		"its admission, and others'":  {"$JS.API.DIRECT.GET." + contract.PolicyStream + "." + contract.AdmissionSubject(m.account), `{"multi_last":["admission.>"]}`},
		"another account's keys":      {contract.KeyringSubject(m.other, m.stranger), "x"},
		"another account's last":      {"$JS.API.DIRECT.GET." + contract.AgentStream + "." + foreign, ""},
		"any message by its number":   {"$JS.API.DIRECT.GET." + contract.AgentStream, `{"seq":1}`},
		"any message of the leader":   {"$JS.API.STREAM.MSG.GET." + contract.AgentStream, `{"seq":1}`},
		"another account's policy":    {"$JS.API.DIRECT.GET." + contract.PolicyStream + "." + contract.PolicySubject(m.other), ""},
		"another's of the leader":     {contract.PolicyAskSubject(m.other), ""},
		"any policy of the leader":    {"$JS.API.STREAM.MSG.GET." + contract.PolicyStream, `{"seq":1}`},
		"the events' subjects":        {"$JS.API.STREAM.INFO." + contract.EventStream, `{"subjects_filter":">"}`},
		"streams":                     {"$JS.API.STREAM.NAMES", ""},
		"consumers":                   {"$JS.API.CONSUMER.NAMES." + contract.PolicyStream, ""},
		"a stream's end":              {"$JS.API.STREAM.DELETE." + contract.AgentStream, ""},
		"a consumer on AGENT":         {"$JS.API.CONSUMER.CREATE." + contract.AgentStream + ".c", `{"stream_name":"AGENT","config":{"name":"c","ack_policy":"none"}}`},
		"a consumer of all policies":  {"$JS.API.CONSUMER.CREATE." + contract.PolicyStream + ".c", `{"stream_name":"POLICY","config":{"name":"c","ack_policy":"none"}}`},
		"a consumer of its policy":    {"$JS.API.CONSUMER.CREATE." + contract.PolicyStream + ".c." + contract.PolicySubject(m.account), ownConsumer},
		"a consumer of other filters": {"$JS.API.CONSUMER.CREATE." + contract.PolicyStream + ".c." + contract.PolicySubject(m.other), `{"stream_name":"POLICY","config":{"name":"c","ack_policy":"none"}}`},
		"a consumer without a name":   {"$JS.API.CONSUMER.CREATE." + contract.PolicyStream, ownConsumer},
		"a durable consumer":          {"$JS.API.CONSUMER.DURABLE.CREATE." + contract.PolicyStream + ".c", `{"stream_name":"POLICY","config":{"durable_name":"c","ack_policy":"none"}}`},
		"a consumer's next message":   {"$JS.API.CONSUMER.MSG.NEXT." + contract.PolicyStream + ".theirs", "1"},
		"a consumer's end":            {"$JS.API.CONSUMER.DELETE." + contract.PolicyStream + ".theirs", ""},
		"any policy by its number":    {"$JS.API.DIRECT.GET." + contract.PolicyStream, `{"seq":1}`},
		"any policy by its subject":   {"$JS.API.DIRECT.GET." + contract.PolicyStream, `{"last_by_subj":"` + contract.PolicySubject(m.other) + `"}`},
		"all policies at once":        {"$JS.API.DIRECT.GET." + contract.PolicyStream, `{"multi_last":["policy.>"]}`},
		"its own policy, and others":  {"$JS.API.DIRECT.GET." + contract.PolicyStream + "." + contract.PolicySubject(m.account), `{"multi_last":["policy.>"]}`},
		"others' sightings":           {contract.SightingAskSubject, ""},
	} {
		asking.Go(func() {
			if answer, _ := request(m.mine, r.subject, []byte(r.data), refused); answer != "" {
				t.Errorf("%s is answered: %s", name, answer)
			}
		})
	}
	asking.Wait()
	answer, _ := request(m.mine, "$JS.API.STREAM.INFO."+contract.AgentStream, []byte(`{"subjects_filter":">"}`), patience)
	if strings.Contains(answer, m.other.String()) || strings.Contains(answer, "messages") || !strings.Contains(answer, "created") || !strings.Contains(answer, "last_seq") {
		t.Errorf("AGENT is described as %s", answer)
	}
	consumers, theirs := truth.ConsumerNames(t.Context()), false
	for name := range consumers.Name() {
		if name != "theirs" {
			t.Errorf("a Manager made the consumer %s", name)
		}
		theirs = true
	}
	if !theirs || consumers.Err() != nil {
		t.Errorf("the platform's consumer is gone: %v", consumers.Err())
	}
	for _, subject := range []string{
		">", contract.LiveSubjects, contract.AgentSubjects, contract.PolicySubject(m.other), contract.AdmissionSubject(m.other), contract.SiteSubjects, "_INBOX.>", contract.ManagerInbox(m.stranger) + ".>",
	} {
		if _, err := m.mine.SubscribeSync(subject); err != nil {
			continue
		}
		if err := m.mine.Flush(); err != nil {
			t.Fatal(err)
		}
		for refused := false; !refused; {
			select {
			case err := <-m.violations:
				refused = errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(err.Error(), fmt.Sprintf("Subscription to %q", subject))
			case <-time.After(patience):
				t.Fatalf("subscribed to %s", subject)
			}
		}
	}
}

func newKey(t *testing.T) nkeys.KeyPair {
	t.Helper()
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicKey(t *testing.T, key nkeys.KeyPair) string {
	t.Helper()
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return public
}

func signedBy(t *testing.T, key nkeys.KeyPair) nats.Option {
	t.Helper()
	return nats.Nkey(publicKey(t, key), key.Sign)
}

// A Manager that has a password has its id to itself: nobody hears its answers by enrolling under
// that in another account. In its own account it goes over to a key so.
func TestAManagersIDIsItsOwn(t *testing.T) {
	t.Parallel()
	account, id := contract.ID{1}, contract.ID{2}
	platform, embedded := natsserver.PlatformUser(natsserver.NewPassword()), natsserver.ManagerUser(account, id, natsserver.NewPassword())
	s := start(t, natsserver.Config{Listen: "127.0.0.1:0", Users: []natsserver.User{platform, embedded}})
	foreign, own := newKey(t), newKey(t)
	if err := s.SetManagers(natsserver.EnrolledManager(contract.ID{3}, id, publicKey(t, foreign)), natsserver.EnrolledManager(account, id, publicKey(t, own))); err != nil {
		t.Fatal(err)
	}
	if nc, err := nats.Connect(s.URL(), signedBy(t, foreign)); err == nil {
		nc.Close()
		t.Error("another account's Manager of the same id is let in")
	}
	connect(t, s, natsserver.EnrolledManager(account, id, publicKey(t, own)), signedBy(t, own))
	connect(t, s, embedded)
}

// A Manager is let in by its own signature of the question that it is put, and by nothing
// else; one that is not known any more is cut off, and the others are not.
func TestManagersAreKnownByTheirKeys(t *testing.T) {
	t.Parallel()
	platform := natsserver.PlatformUser(natsserver.NewPassword())
	s := start(t, natsserver.Config{Listen: "127.0.0.1:0", Users: []natsserver.User{platform}})
	first, second, unknown := newKey(t), newKey(t), newKey(t)
	one := natsserver.EnrolledManager(contract.ID{1}, contract.ID{2}, publicKey(t, first))
	two := natsserver.EnrolledManager(contract.ID{1}, contract.ID{3}, publicKey(t, second))
	refusedEntry := func(what string, options ...nats.Option) {
		t.Helper()
		if nc, err := nats.Connect(s.URL(), options...); err == nil {
			nc.Close()
			t.Errorf("%s: connected", what)
		}
	}
	refusedEntry("before it enrolled", signedBy(t, first))
	if err := s.SetManagers(one, two); err != nil {
		t.Fatal(err)
	}
	var heard []byte
	seen := nats.Nkey(publicKey(t, first), func(nonce []byte) ([]byte, error) {
		signature, err := first.Sign(nonce)
		heard = signature
		return signature, err
	})
	gone, stays := make(chan struct{}, 10), make(chan struct{}, 10)
	leaves := connect(t, s, one, seen, nats.DisconnectErrHandler(func(*nats.Conn, error) { gone <- struct{}{} }))
	other := connect(t, s, two, signedBy(t, second), nats.DisconnectErrHandler(func(*nats.Conn, error) { stays <- struct{}{} }))
	refusedEntry("a key that nobody knows", signedBy(t, unknown))
	refusedEntry("another's signature", nats.Nkey(publicKey(t, first), second.Sign))
	refusedEntry("a signature that was heard before", nats.Nkey(publicKey(t, first), func([]byte) ([]byte, error) { return heard, nil }))
	refusedEntry("no signature", nats.Nkey(publicKey(t, first), func([]byte) ([]byte, error) { return nil, nil }))
	refusedEntry("its name without a password", nats.UserInfo(one.Name, ""))
	if err := s.SetManagers(two); err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone:
	case <-time.After(patience):
		t.Error("a Manager that was revoked stays connected")
	}
	leaves.Close()
	refusedEntry("one that was revoked", signedBy(t, first))
	if err := other.Flush(); err != nil || len(stays) > 0 {
		t.Errorf("the other was cut off, too: %v", err)
	}
	// Its key under another Manager's id is another Manager.
	if err := s.SetManagers(natsserver.EnrolledManager(contract.ID{1}, contract.ID{9}, publicKey(t, second))); err != nil {
		t.Fatal(err)
	}
	select {
	case <-stays:
	case <-time.After(patience):
		t.Error("a connection outlives the right to it")
	}
}

func TestStrangersStayOutside(t *testing.T) {
	user := natsserver.PlatformUser(natsserver.NewPassword())
	s := start(t, natsserver.Config{Listen: "127.0.0.1:0", Users: []natsserver.User{user}})
	for name, options := range map[string][]nats.Option{
		"no name":        nil,
		"wrong password": natsserver.PlatformUser("guess").Options(),
		"no password":    natsserver.PlatformUser("").Options(),
		"unknown name":   natsserver.ManagerUser(contract.ID{1}, contract.ID{2}, user.Password).Options(),
	} {
		if nc, err := nats.Connect(s.URL(), options...); err == nil {
			nc.Close()
			t.Errorf("%s: connected", name)
		}
	}
}

// TestSetUsers adds and removes a Manager while the platform is at work.
func TestSetUsers(t *testing.T) {
	platform := natsserver.PlatformUser(natsserver.NewPassword())
	first := natsserver.ManagerUser(contract.ID{1}, contract.ID{2}, natsserver.NewPassword())
	second := natsserver.ManagerUser(contract.ID{1}, contract.ID{3}, natsserver.NewPassword())
	s := start(t, natsserver.Config{Listen: "127.0.0.1:0", Users: []natsserver.User{platform, first}})
	address := s.Addr()
	reconnects := make(chan struct{}, 10)
	stays := connect(t, s, platform, nats.ReconnectHandler(func(*nats.Conn) { reconnects <- struct{}{} }))
	gone := make(chan struct{}, 10)
	leaves := connect(t, s, first, nats.DisconnectErrHandler(func(*nats.Conn, error) { gone <- struct{}{} }))
	if err := s.SetUsers(platform, second); err != nil {
		t.Fatal(err)
	}
	if s.Addr() != address {
		t.Errorf("the address moved from %s to %s", address, s.Addr())
	}
	connect(t, s, second)
	select {
	case <-gone:
	case <-time.After(patience):
		t.Error("a user that was removed stays connected")
	}
	leaves.Close()
	if err := stays.Flush(); err != nil {
		t.Errorf("the platform: %v", err)
	}
	select {
	case <-reconnects:
		t.Error("the platform was cut off")
	default:
	}
	// Over TCP: within the process a refusal comes only after the server has
	// waited ten seconds for its pipe.
	if nc, err := nats.Connect(s.URL(), first.Options()...); err == nil {
		nc.Close()
		t.Error("a user that was removed connects")
	}
}

func TestCluster(t *testing.T) {
	cluster, err := natsserver.StartCluster(t.Context(), t.TempDir(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Stop()
	nc := connect(t, cluster.Servers[0], natsserver.User{})
	ensure(t, nc, natsserver.Streams{Replicas: 3})
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	leader := func() string {
		t.Helper()
		for {
			attempt, cancel := context.WithTimeout(ctx, refused)
			s, err := js.Stream(attempt, contract.EventStream)
			cancel()
			if ctx.Err() != nil {
				t.Fatal(err)
			}
			if err != nil {
				continue // an election
			}
			info := s.CachedInfo()
			if len(info.Cluster.Replicas) != 2 {
				t.Fatalf("%d followers", len(info.Cluster.Replicas))
			}
			return info.Cluster.Leader
		}
	}
	before := leader()
	if err := cluster.StepDown(ctx, nc, contract.EventStream); err != nil {
		t.Fatal(err)
	}
	if after := leader(); after == before {
		t.Errorf("%s still leads", after)
	}
}

// noReplyForgesEvents asks for answers to be sent where the Manager itself
// may not publish: JetStream sends them with its own rights.
func noReplyForgesEvents(t *testing.T, size int) {
	m := newManagers(t, size)
	victim := contract.EventSubject(m.other, "metering", "catalog", "x")
	own := contract.AgentSubject(m.account, m.manager, usagev1.Lane_LANE_USAGE)
	forged := nats.NewMsg(own)
	forged.Header.Set("ce-type", "cetrus.metering.application.deleted.v1")
	if _, err := m.mine.RequestMsg(forged, patience); err != nil {
		t.Fatal(err)
	}
	for _, attempt := range []struct{ subject, data string }{
		{own, "batch"},
		{"$JS.API.DIRECT.GET." + contract.AgentStream + "." + own, ""},
		{"$JS.API.DIRECT.GET." + contract.PolicyStream + "." + contract.PolicySubject(m.account), ""},
		{
			"$JS.API.CONSUMER.CREATE." + contract.PolicyStream + ".c." + contract.PolicySubject(m.account),
			`{"stream_name":"POLICY","config":{"name":"c","ack_policy":"none","deliver_subject":"` + victim + `","filter_subject":"` + contract.PolicySubject(m.account) + `"}}`,
		},
	} {
		if err := m.mine.PublishRequest(attempt.subject, victim, []byte(attempt.data)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := m.platform.Request(contract.PolicySubject(m.account), []byte("policy"), patience); err != nil {
		t.Fatal(err)
	}
	if err := m.mine.Flush(); err != nil {
		t.Fatal(err)
	}
	<-time.After(refused) // nothing tells that nothing will come
	js, err := jetstream.New(m.platform)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), contract.EventStream)
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		msg, err := stream.GetMsg(t.Context(), seq)
		t.Errorf("EVENTS holds a forged message: %v %v", msg, err)
	}
}

// managerPublishesMuch sends as a forwarder does: one message behind the other, and one of the greatest
// size, which it reads again.
func managerPublishesMuch(t *testing.T, size int) {
	m := newManagers(t, size)
	js, err := jetstream.New(m.mine)
	if err != nil {
		t.Fatal(err)
	}
	subject := contract.AgentSubject(m.account, m.manager, usagev1.Lane_LANE_USAGE)
	last := func() (string, nats.Header) {
		return request(m.mine, "$JS.API.DIRECT.GET."+contract.AgentStream+"."+subject, nil, patience)
	}
	big := strings.Repeat("x", contract.MaxBatchBytes)
	if _, err := js.Publish(t.Context(), subject, []byte(big)); err != nil {
		t.Fatalf("a batch of the greatest size: %v", err)
	}
	if data, header := last(); data != big {
		t.Fatalf("a batch of the greatest size is read as %d bytes, %v", len(data), header)
	}
	const many = 100
	for i := range uint64(many) {
		ack, err := js.Publish(t.Context(), subject, make([]byte, 10<<10), jetstream.WithExpectLastSequencePerSubject(i+1))
		if err != nil || ack.Sequence != i+2 {
			t.Fatalf("message %d: %+v, %v", i+2, ack, err)
		}
	}
	if _, header := last(); header.Get("Nats-Sequence") != fmt.Sprint(many+1) {
		t.Errorf("the last message is number %s, want %d", header.Get("Nats-Sequence"), many+1)
	}
}
