package load

import (
	"bytes"
	"context"
	"flag"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/tools/office"
)

var update = flag.Bool("update", false, "record the corpus anew")

// TestRecord keeps the corpus what the agent's code says. It is recorded by
// letting the office work for two days.
func TestRecord(t *testing.T) {
	if !*update {
		corpus, err := Recorded()
		if err != nil {
			t.Fatal(err)
		}
		checkCorpus(t, corpus)
		return
	}
	policy := office.Policy()
	corpus := &Corpus{}
	begin := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	for _, person := range office.Staff() {
		session := record(t, person, policy, begin, begin.AddDate(0, 0, 2))
		if len(session.Events) > 0 { // nobody works while ill
			corpus.Sessions = append(corpus.Sessions, session)
		}
	}
	checkCorpus(t, corpus)
	var file bytes.Buffer
	if err := WriteCorpus(&file, corpus); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("corpus.pb.gz", file.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d sessions, %d events, %d bytes", len(corpus.Sessions), corpus.Events(), file.Len())
}

// record plays a person's days through the state machine of the real agent.
func record(t *testing.T, person office.Person, policy *policyv1.Policy, begin, end time.Time) Session {
	t.Helper()
	machine := activity.New(activity.Config{
		Alias:  func(activity.User) contract.ID { return contract.ID{1} },
		Random: rand.NewChaCha8([32]byte{byte(person.Number)}),
	})
	if err := machine.SetPolicy(policy); err != nil {
		t.Fatal(err)
	}
	var session Session
	keep := func(out activity.Output) {
		for _, event := range out.Events {
			event.PolicyRevision = policy.GetRevision()
			session.Events = append(session.Events, event)
			session.SpanMillis = max(session.SpanMillis, event.GetAtBootMillis()+pauseMillis)
		}
	}
	desk := scripted.New(scripted.Config{
		Host:   desktop.Host{Name: person.Host, OperatingSystem: person.System},
		Script: office.Script(person, office.Days(person, 1, begin, end), begin),
		Begin:  begin, Booted: time.Minute, Seed: [32]byte{byte(person.Number)}, Period: 30 * time.Second,
	})
	defer desk.Close()
	if err := desk.Watch(context.Background(), func(o activity.Observation) { keep(machine.Observe(o)) }); err != nil {
		t.Fatal(err)
	}
	return session
}

// checkCorpus holds a corpus to what readers rely on: intervals of each
// instance and document follow one another, and everything closes.
func checkCorpus(t *testing.T, corpus *Corpus) {
	t.Helper()
	if len(corpus.Sessions) < 15 || corpus.Events() < 10_000 {
		t.Errorf("%d sessions with %d events: too small to be like life", len(corpus.Sessions), corpus.Events())
	}
	for i, session := range corpus.Sessions {
		at := map[string]int64{}
		open := map[string]bool{}
		for n, event := range session.Events {
			key := string(event.GetInstanceId()) + string(event.GetDocumentId())
			if closed := event.GetClosed(); closed != nil {
				if closed.GetFromBootMillis() != at[key] {
					t.Fatalf("session %d event %d: an interval begins at %d, the one before ended at %d", i, n, closed.GetFromBootMillis(), at[key])
				}
			}
			at[key] = event.GetAtBootMillis()
			open[key] = event.GetTransition() != usagev1.Transition_TRANSITION_CLOSED
			if proto.Size(event) > 1024 {
				t.Errorf("session %d event %d has %d bytes", i, n, proto.Size(event))
			}
		}
		for _, still := range open {
			if still {
				t.Errorf("session %d ends with something open", i)
				break
			}
		}
	}
}
