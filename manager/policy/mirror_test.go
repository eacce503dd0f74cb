package policy

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/internal/durable"
)

var (
	silent  = slog.New(slog.DiscardHandler)
	account = contract.ID{1}
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func body(t testing.TB, account contract.ID, revision uint64) []byte {
	t.Helper()
	raw, err := proto.Marshal(&policyv1.Policy{AccountId: account[:], Revision: revision, Applications: []*policyv1.ApplicationPolicy{{DisplayName: "Editor"}}})
	must(t, err)
	return raw
}

func TestTheMirrorFollowsAndSurvives(t *testing.T) {
	server, err := natsserver.NewServer(&natsserver.Options{DontListen: true, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir()})
	must(t, err)
	server.Start()
	defer server.Shutdown()
	nc, err := nats.Connect("", nats.InProcessServer(server))
	must(t, err)
	defer nc.Close()
	path := filepath.Join(t.TempDir(), "policy")
	m, err := Open(path, account, silent)
	must(t, err)
	if p, _ := m.Current(); p != nil {
		t.Fatal("a policy out of nothing")
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = m.Follow(ctx, nc) }()
	defer func() { cancel(); <-ended }()

	// The stream comes later than the Manager, as on a first start.
	_, changed := m.Current()
	js, err := jetstream.New(nc)
	must(t, err)
	_, err = js.CreateStream(ctx, jetstream.StreamConfig{Name: contract.PolicyStream, Subjects: []string{contract.PolicySubjects}, MaxMsgsPerSubject: 1, AllowDirect: true})
	must(t, err)
	for _, foreign := range []uint64{1, 2} {
		_, err = js.Publish(ctx, contract.PolicySubject(contract.ID{9}), body(t, contract.ID{9}, foreign))
		must(t, err)
	}
	for _, step := range []struct {
		data     []byte
		revision uint64
	}{{body(t, account, 3), 3}, {body(t, account, 4), 4}, {body(t, account, 2), 2}} {
		_, err = js.Publish(ctx, contract.PolicySubject(account), []byte("not a policy"))
		must(t, err)
		_, err = js.Publish(ctx, contract.PolicySubject(account), step.data)
		must(t, err)
		published := time.Now()
		select {
		case <-changed:
		case <-time.After(15 * time.Second):
			t.Fatalf("revision %d does not come", step.revision)
		}
		if took := time.Since(published); step.revision == 4 && took > 15*time.Second {
			t.Errorf("the change took %v: it was not heard, but found", took)
		}
		var p *policyv1.Policy
		if p, changed = m.Current(); p.GetRevision() != step.revision {
			t.Fatalf("revision %d, not %d", p.GetRevision(), step.revision)
		}
	}
	// The stream refuses what another publisher overtook; whoever listens hears it.
	if _, err := js.Publish(ctx, contract.PolicySubject(account), body(t, account, 9), jetstream.WithExpectLastSequencePerSubject(1)); err == nil {
		t.Fatal("published over a newer one")
	}
	_, err = js.Publish(ctx, contract.PolicySubject(account), body(t, account, 5))
	must(t, err)
	<-changed
	if p, _ := m.Current(); p.GetRevision() != 5 {
		t.Fatalf("revision %d is in force, which the stream refused", p.GetRevision())
	}
	again, err := Open(path, account, silent)
	must(t, err)
	if p, _ := again.Current(); p.GetRevision() != 5 || len(p.GetApplications()) != 1 {
		t.Errorf("after opening again: %v", p)
	}
}

// TestAPlatformThatWasPutBackIsFollowed: agents refuse what was published before what
// they have, and nobody but a Manager can tell that the platform has forgotten it.
func TestAPlatformThatWasPutBackIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy")
	published := func(revision uint64, millis int64) []byte {
		raw, err := proto.Marshal(&policyv1.Policy{AccountId: account[:], Revision: revision, PublishedUtcMillis: millis})
		must(t, err)
		return raw
	}
	m, err := Open(path, account, silent)
	must(t, err)
	is := func(when string, revision uint64, millis int64) {
		t.Helper()
		if p, _ := m.Current(); p.GetRevision() != revision || p.GetPublishedUtcMillis() != millis {
			t.Fatalf("%s: revision %d published at %d is current, not %d at %d", when, p.GetRevision(), p.GetPublishedUtcMillis(), revision, millis)
		}
	}
	before, after := published(3, 1000), published(4, 2000)
	must(t, m.take(before, true))
	must(t, m.take(after, true))
	for range 3 { // a replica that lags
		must(t, m.take(before, true))
		is("an earlier policy for a moment", 4, 2000)
		must(t, m.take(after, true))
		is("the mirrored policy again", 4, 2000)
	}
	must(t, m.take(before, true))
	m.putBackAfter = 0
	if err := m.take(before, false); !errors.Is(err, errAskLeader) {
		t.Fatalf("a replica is believed without its leader: %v", err)
	}
	is("an earlier policy that only a replica tells", 4, 2000)
	must(t, m.take(before, true))
	is("an earlier policy that stays", 3, 2001)
	must(t, m.take(before, true))
	is("the same again", 3, 2001)
	if m, err = Open(path, account, silent); err != nil {
		t.Fatal(err)
	}
	m.putBackAfter = 0
	must(t, m.take(before, true))
	is("the same after a restart", 3, 2001)
	must(t, m.take(published(3, 2000), true))
	is("the same, published at another time", 3, 2001)
	must(t, m.take(published(5, 3000), true))
	is("the next decision", 5, 3000)
}

// A replica that is cut off from its stream's leader answers with what was; only the leader
// is believed, and what was believed is told until somebody has looked at it.
func TestTheLeaderIsAskedBeforeAPlatformCountsAsPutBack(t *testing.T) {
	server, err := natsserver.NewServer(&natsserver.Options{DontListen: true, NoSigs: true, NoLog: true})
	must(t, err)
	server.Start()
	defer server.Shutdown()
	nc, err := nats.Connect("", nats.InProcessServer(server))
	must(t, err)
	defer nc.Close()
	asking, giveUp := context.WithCancel(t.Context()) // until somebody is asked who does not answer
	defer giveUp()
	answers := func(subject string) *atomic.Pointer[[]byte] {
		t.Helper()
		answer := new(atomic.Pointer[[]byte])
		_, err := nc.Subscribe(subject, func(m *nats.Msg) {
			body := answer.Load()
			if body == nil {
				giveUp()
				return
			}
			_ = m.Respond(*body)
		})
		must(t, err)
		return answer
	}
	replica := answers("$JS.API.DIRECT.GET." + contract.PolicyStream + "." + contract.PolicySubject(account))
	leader := answers(contract.PolicyAskSubject(account))
	published := func(revision uint64, millis int64) *[]byte {
		raw, err := proto.Marshal(&policyv1.Policy{AccountId: account[:], Revision: revision, PublishedUtcMillis: millis})
		must(t, err)
		return &raw
	}
	path := filepath.Join(t.TempDir(), "policy")
	m, err := Open(path, account, silent)
	must(t, err)
	m.putBackAfter = 0
	is := func(when string, revision uint64, told, believed bool) {
		t.Helper()
		if p, _ := m.Current(); p.GetRevision() != revision {
			t.Fatalf("%s: revision %d is current, not %d", when, p.GetRevision(), revision)
		}
		if b := m.PutBack(); (b != nil) != told || told && b.Believed != believed {
			t.Fatalf("%s: it is told that %+v", when, b)
		}
	}
	before, after := published(3, 1000), published(4, 2000)
	replica.Store(after)
	_, err = m.read(t.Context(), nc)
	must(t, err)
	is("at first", 4, false, false)
	replica.Store(before)
	if _, err = m.read(asking, nc); err == nil {
		t.Error("a leader that does not answer is not missed")
	}
	is("while the leader does not answer", 4, true, false)
	leader.Store(after)
	_, err = m.read(t.Context(), nc)
	must(t, err)
	is("when the leader has the newer one", 4, false, false)
	leader.Store(before)
	_, err = m.read(t.Context(), nc)
	must(t, err)
	is("when the leader says the same", 3, true, true)
	m, err = Open(path, account, silent)
	must(t, err)
	is("after a restart", 3, true, true)
	m.putBackAfter = time.Hour
	replica.Store(published(2, 500))
	_, err = m.read(t.Context(), nc)
	must(t, err)
	is("while a replica lags again", 3, true, true)
	replica.Store(published(4, 5000))
	_, err = m.read(t.Context(), nc)
	must(t, err)
	is("once it does not any more", 4, true, true)
	must(t, m.Acknowledge())
	is("once it is acknowledged", 4, false, false)
	m, err = Open(path, account, silent)
	must(t, err)
	is("after another restart", 4, false, false)
	replica.Store(published(2, 6000))
	_, err = m.read(t.Context(), nc)
	must(t, err)
	is("when something is decided in a log that was put back", 2, true, true)
	must(t, m.Acknowledge())
	raw, err := proto.Marshal(&policyv1.Policy{AccountId: account[:], Revision: 1, PublishedUtcMillis: 7000, LogCreatedUtcMillis: 7000})
	must(t, err)
	replica.Store(&raw)
	_, err = m.read(t.Context(), nc)
	must(t, err)
	is("when a log was made anew", 1, false, false)
}

func TestAFileThatCannotBeTrustedIsNotUsed(t *testing.T) {
	for name, spoil := range map[string]func(path string){
		"damaged": func(path string) { must(t, os.WriteFile(path, []byte("rubbish rubbish rubbish"), 0o600)) },
		"foreign": func(path string) { must(t, durable.Replace(path, body(t, contract.ID{9}, 1))) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "policy")
			spoil(path)
			m, err := Open(path, account, silent)
			must(t, err)
			if p, _ := m.Current(); p != nil {
				t.Errorf("used: %v", p)
			}
		})
	}
}

func FuzzPolicy(f *testing.F) {
	f.Add(body(f, account, 1))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if p, err := decode(raw, account); err == nil && string(p.GetAccountId()) != string(account[:]) {
			t.Fatal("a foreign policy was taken")
		}
	})
}
