package agent_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	"github.com/cetrus/cetrus/agent/fingerprint"
	"github.com/cetrus/cetrus/proto/contract"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
)

// hardware is a machine that differs from another in all that a clone differs in.
func hardware(n string) func() fingerprint.Traits {
	return func() fingerprint.Traits {
		return fingerprint.Traits{fingerprint.System: {"uuid-" + n}, fingerprint.Network: {"mac-" + n}, fingerprint.Installation: {"copied"}, fingerprint.Name: {"desk"}}
	}
}

func onMachine(n string) func(*agent.Config, *agent.Deps) {
	return func(c *agent.Config, d *agent.Deps) {
		c.LedgerDays, d.Traits, d.Policy = 100_000, hardware(n), policy(1, "editor", "calc")
	}
}

// away has an agent reach nobody.
func away(c *agent.Config, d *agent.Deps) {
	c.Drain = false
	d.Dial = append(d.Dial, grpc.WithContextDialer(nowhere))
}

func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

type kept struct {
	Agent   string `json:"agent_id"`
	Machine string `json:"machine_id"`
}

func identityOf(t *testing.T, dir string) (k kept) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "identity.json"))
	if err == nil {
		err = json.Unmarshal(text, &k)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A folder that is copied to another machine with records that wait makes another agent
// there, and what waited comes under the name of the first one, in an epoch of its own and
// with the same ids, from both.
func TestCopiedFolderBeginsAsAnotherAgent(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.play(day(), func(c *agent.Config, d *agent.Deps) {
		onMachine("one")(c, d)
		away(c, d)
	})
	first := identityOf(t, o.dir)
	original := *o
	original.dir = copyDir(t, o.dir)
	o.play(day(), onMachine("two")) // the copy, on another machine
	second := identityOf(t, o.dir)
	if first.Agent == second.Agent || first.Machine == second.Machine {
		t.Fatalf("the copy goes on as %v, the original was %v", second, first)
	}
	if days, err := filepath.Glob(filepath.Join(o.dir, "ledger", "*")); err != nil || len(days) != 1 {
		t.Errorf("the copy keeps days of use of the other machine, which nobody can be shown: %v, %v", days, err)
	}
	original.play(nil, onMachine("one"))
	if again := identityOf(t, original.dir); again != first {
		t.Errorf("the original goes on as %v, it was %v", again, first)
	}

	// The truth is two days: what waited, and the copy's own.
	epochs, times := map[string]map[uint64]bool{}, map[string]int{}
	busy := map[string]int64{}
	counted := map[string]bool{}
	for _, e := range o.manager.Usage() {
		agentID := contract.ID(e.GetAgentId()).String()
		if epochs[agentID] == nil {
			epochs[agentID] = map[uint64]bool{}
		}
		epochs[agentID][e.GetEpoch()] = true
		event := string(e.GetEventId())
		if times[event]++; counted[event] {
			continue // as readers do, which know ids over epochs of one agent
		}
		counted[event] = true
		if c := e.GetClosed(); c != nil && c.GetAttention() == 5 && len(e.GetDocumentId()) == 0 {
			busy[agentID] += c.GetToBootMillis() - c.GetFromBootMillis()
		}
	}
	if busy[first.Agent] != 10*minute || busy[second.Agent] != 10*minute || len(busy) != 2 {
		t.Errorf("busy for %v ms, want %d each of %s and %s", busy, 10*minute, first.Agent, second.Agent)
	}
	if len(epochs[first.Agent]) != 2 || len(epochs[second.Agent]) != 1 {
		t.Errorf("epochs are %v, want two of the first agent, one of the second", epochs)
	}
	if problems := o.manager.Problems(); len(problems) > 0 {
		t.Error(errors.Join(problems...))
	}
	if left, err := filepath.Glob(filepath.Join(o.dir, "inherited", "*")); err != nil || len(left) > 0 {
		t.Errorf("what was inherited is still there: %v, %v", left, err)
	}
	bequests := 0
	for _, hello := range o.manager.Hellos() {
		if hello.GetBequest() {
			bequests++
			if contract.ID(hello.GetAgentId()).String() != first.Agent {
				t.Errorf("a bequest comes as %x", hello.GetAgentId())
			}
		}
	}
	if bequests != 1 {
		t.Errorf("%d bequests, want 1", bequests)
	}
}

// Interrupted at any step, the change of identity is begun again, and loses nothing.
func TestLeavingIsBegunAgain(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.play(day(), func(c *agent.Config, d *agent.Deps) {
		onMachine("one")(c, d)
		away(c, d)
	})
	first := identityOf(t, o.dir)
	// As a crash after the journal was moved, and before there is another identity, leaves it.
	into := filepath.Join(o.dir, "inherited", first.Agent)
	if err := os.MkdirAll(into, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(o.dir, "usage"), filepath.Join(into, "usage")); err != nil {
		t.Fatal(err)
	}
	o.play(day(), onMachine("two"))
	if second := identityOf(t, o.dir); second.Agent == first.Agent {
		t.Fatal("it goes on as the first agent")
	}
	if got := o.totals()[100][5]; got != 20*minute {
		t.Errorf("busy for %d ms, want %d", got, 20*minute)
	}
}

// A virtual machine that was put back goes on as the same agent in another epoch.
func TestRestoredMachineTakesAnotherEpoch(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	generation := "g1"
	put := func(c *agent.Config, d *agent.Deps) {
		onMachine("one")(c, d)
		d.Traits = func() fingerprint.Traits {
			traits := hardware("one")()
			traits[fingerprint.Generation] = []string{generation}
			return traits
		}
	}
	o.play(day(), put)
	first := identityOf(t, o.dir)
	generation = "g2"
	o.playFrom(begin.AddDate(0, 0, 1), day(), put)
	o.playFrom(begin.AddDate(0, 0, 2), day(), put)
	if again := identityOf(t, o.dir); again != first {
		t.Errorf("it goes on as %v, it was %v", again, first)
	}
	epochs := map[uint64]bool{}
	for _, e := range o.manager.Usage() {
		epochs[e.GetEpoch()] = true
	}
	if len(epochs) != 2 {
		t.Errorf("there are %d epochs, want 2", len(epochs))
	}
	if got := o.totals()[100][5]; got != 30*minute {
		t.Errorf("busy for %d ms, want %d", got, 30*minute)
	}
}

// Told by the Manager, it stops in good order and is another agent at the next start, on
// the same machine.
func TestBeginsAnewWhenTold(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	d := scripted.New(scripted.Config{Script: scripted.Steps(day()...), Begin: begin, Booted: time.Hour, Pace: scripted.Real(), Host: desktop.Host{Name: "desk-1"}})
	defer d.Close()
	o.manager.Refuse(&agentv1.Refusal{Reason: contract.ReasonCopied, Message: "two of you", BeginAnew: true})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	a := o.agent(d, onMachine("one"))
	first := identityOf(t, o.dir)
	if err := a.Run(ctx); !errors.Is(err, agent.ErrBeginAnew) {
		t.Fatalf("it ended with %v", err)
	}
	o.play(day(), onMachine("one"))
	if second := identityOf(t, o.dir); second.Agent == first.Agent {
		t.Error("it is the same agent")
	}
}

func TestGeneralize(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.play(day(), func(c *agent.Config, d *agent.Deps) {
		onMachine("one")(c, d)
		away(c, d)
	})
	first := identityOf(t, o.dir)
	var waiting *agent.WaitingError
	if _, err := agent.Generalize(o.dir, false); !errors.As(err, &waiting) || waiting.Records == 0 {
		t.Fatalf("records wait, and it says %v", err)
	}
	running := o.agent(scripted.New(scripted.Config{Begin: begin}), onMachine("one"))
	if _, err := agent.Generalize(o.dir, true); err == nil {
		t.Fatal("an agent uses the folder, and it was made clean")
	}
	running.Close()
	o.play(nil, onMachine("one"))
	if removed, err := agent.Generalize(o.dir, false); err != nil || !removed {
		t.Fatalf("removed %t, %v", removed, err)
	}
	left, err := os.ReadDir(o.dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
	if removed, err := agent.Generalize(o.dir, false); err != nil || removed {
		t.Errorf("again: removed %t, %v", removed, err)
	}
	o.play(nil, onMachine("one"))
	if again := identityOf(t, o.dir); again.Agent == first.Agent {
		t.Error("it is the same agent")
	}
}

func nowhere(context.Context, string) (net.Conn, error) { return nil, errors.New("no network") }
