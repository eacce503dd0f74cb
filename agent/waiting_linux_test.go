package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/journal"
	pluginv1 "github.com/cetrus/cetrus/proto/cetrus/plugin/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
)

// sleeper starts a program that can be stopped, and gives its key.
func sleeper(t *testing.T) activity.ProcessKey {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	pid := int32(cmd.Process.Pid)
	start, err := desktop.StartMillis(pid)
	if err != nil {
		t.Fatal(err)
	}
	return activity.ProcessKey{PID: pid, StartMillis: start}
}

// stopped tells whether a process is or gets stopped; it waits a moment for the kernel where
// it is to be.
func stopped(t *testing.T, key activity.ProcessKey, want bool) {
	t.Helper()
	var state string
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); <-time.After(time.Millisecond) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", key.PID))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		if state = rest[:1]; (state == "T") == want {
			return
		}
	}
	t.Errorf("the process %d is in the state %s", key.PID, state)
}

func testPlugins(t *testing.T) *plugins {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	return &plugins{
		agent: &Agent{config: Config{DataDir: t.TempDir()}, deps: Deps{Random: strings.NewReader(strings.Repeat("r", 1000))}, log: log}, log: log,
		instances: map[string]*opening{},
		users:     map[string]string{}, sessions: map[string]string{}, processes: map[string][]activity.Process{}, owners: map[string]activity.User{},
		waiting: waiting{file: filepath.Join(t.TempDir(), heldFile), log: log},
	}
}

// What waits is of the session, and run by its person: whoever says that somebody else's
// program shows a window there does not make that wait.
func TestOnlyTheProgramsOfItsOwnSessionWait(t *testing.T) {
	t.Parallel()
	p := testPlugins(t)
	app := contract.ID{10}
	var err error
	if p.matcher, err = rules.Compile(&policyv1.Policy{Applications: []*policyv1.ApplicationPolicy{{
		ApplicationId: app[:], DisplayName: "sleep", Rules: []*policyv1.Rule{{RuleId: make([]byte, 16), Executable: "sleep"}},
	}}}); err != nil {
		t.Fatal(err)
	}
	if p.moment.BootID, err = desktop.BootID(); err != nil {
		t.Fatal(err)
	}
	own, other := sleeper(t), sleeper(t)
	session, otherSession, alias := contract.ID{1}, contract.ID{2}, contract.ID{3}
	p.sessions[string(session[:])], p.sessions[string(otherSession[:])] = "one", "two"
	p.users[string(alias[:])] = "ada"
	p.processes["one"] = []activity.Process{{PID: own.PID, StartMillis: own.StartMillis, Executable: "sleep"}}
	p.processes["two"] = []activity.Process{{PID: other.PID, StartMillis: other.StartMillis, Executable: "sleep"}}
	opened := &pluginv1.Event{ApplicationId: app[:], SessionId: session[:], PrincipalAlias: alias[:], AtBootMillis: min(own.StartMillis, other.StartMillis)}
	for name, user := range map[string]string{"somebody else": strconv.Itoa(os.Getuid() + 1), "nobody told": ""} {
		p.owners["one"] = activity.User{UID: user}
		if release := p.hold(opened); release != nil {
			t.Errorf("what another runs waits in the session of %s", name)
			release()
		}
	}
	p.owners["one"] = activity.User{UID: strconv.Itoa(os.Getuid())}
	release := p.hold(opened)
	stopped(t, own, true)
	stopped(t, other, false)
	release()
	stopped(t, own, false)
}

func TestACrashLetsGoOnOnlyWhatItHadStopped(t *testing.T) {
	t.Parallel()
	boot, err := desktop.BootID()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		boot   contract.ID
		before int64 // how much earlier the process of that pid had started
		goesOn bool
	}{
		"the same process":      {boot: boot, goesOn: true},
		"another with its pid":  {boot: boot, before: 1000},
		"another run of system": {boot: contract.ID{9}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			key := sleeper(t)
			file := filepath.Join(t.TempDir(), heldFile)
			log := slog.New(slog.NewTextHandler(t.Output(), nil))
			crashed := &waiting{file: file, log: log}
			crashed.boot, crashed.held = c.boot, map[program]int{{PID: key.PID, Start: key.StartMillis - c.before}: 1}
			crashed.save()
			suspend(program{key.PID, key.StartMillis})
			stopped(t, key, true)
			(&waiting{file: file, log: log}).releaseLeftOver()
			stopped(t, key, !c.goesOn)
			if _, err := os.Stat(file); err == nil {
				t.Error("the file is still there")
			}
			resume(program{key.PID, key.StartMillis})
		})
	}
}

// A slow disk does not keep the agent from observing while a choice is written.
func TestObservingDoesNotWaitForAChoiceToBeWritten(t *testing.T) {
	t.Parallel()
	p := testPlugins(t)
	syncing, goOn := make(chan struct{}, 100), make(chan struct{})
	var slow atomic.Bool
	j, err := journal.Open(journal.Config{
		Dir: t.TempDir(), Lane: usagev1.Lane_LANE_CHOICE, AgentID: contract.ID{1}, Log: p.log,
		Sync: func(*os.File) error {
			if slow.Load() {
				syncing <- struct{}{}
				<-goOn
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.choices.opened.Store(j)
	instance := contract.ID{5}
	anchor := &usagev1.Anchor{BootId: make([]byte, 16), BootMillis: 5, UtcMillis: 7}
	anchor.AnchorId = contract.AnchorID(anchor)
	p.instances[string(instance[:])] = &opening{told: map[place]told{}, anchor: anchor, event: &pluginv1.Event{
		InstanceId: instance[:], ApplicationId: make([]byte, 16), SessionId: make([]byte, 16), PrincipalAlias: make([]byte, 16), BootId: make([]byte, 16),
	}}
	slow.Store(true)
	kept := make(chan error, 1)
	go func() {
		kept <- p.keep(context.Background(), &pluginv1.Choice{InstanceId: instance[:], Chosen: &pluginv1.Choice_NotChargeable{NotChargeable: true}})
	}()
	<-syncing
	free := p.mu.TryLock()
	if free {
		p.mu.Unlock()
	}
	close(goOn)
	if err := <-kept; err != nil {
		t.Error(err)
	}
	if !free {
		t.Error("whoever observes waits for the disk")
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if c := p.instances[string(instance[:])].told[place{}].choice; c == nil || c.GetRevision() != 1 {
		t.Errorf("%v is remembered", c)
	}
}

// One place has one choice, whose later word is a new revision, placed as the first was; from
// another moment on it is another choice, placed by the clock of now: it may have been set
// since the instance opened.
func TestAPlaceHasOneChoice(t *testing.T) {
	t.Parallel()
	p := testPlugins(t)
	p.agent.deps.Random = strings.NewReader(strings.Repeat("r", 1000))
	j, err := journal.Open(journal.Config{Dir: t.TempDir(), Lane: usagev1.Lane_LANE_CHOICE, AgentID: contract.ID{1}, Log: p.log})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}()
	p.choices.opened.Store(j)
	instance, document := contract.ID{5}, contract.ID{6}
	anchor := &usagev1.Anchor{BootId: make([]byte, 16), BootMillis: 5000, UtcMillis: 7000}
	anchor.AnchorId = contract.AnchorID(anchor)
	opened := &opening{told: map[place]told{}, anchor: anchor, event: &pluginv1.Event{
		InstanceId: instance[:], ApplicationId: make([]byte, 16), SessionId: make([]byte, 16), PrincipalAlias: make([]byte, 16), BootId: make([]byte, 16), AtBootMillis: 5000,
	}}
	p.instances[string(instance[:])] = opened
	keep := func(document []byte, since int64) *usagev1.Choice {
		t.Helper()
		err := p.keep(t.Context(), &pluginv1.Choice{InstanceId: instance[:], DocumentId: document, EffectiveFromBootMillis: since, Chosen: &pluginv1.Choice_NotChargeable{NotChargeable: true}})
		if err != nil {
			t.Fatal(err)
		}
		return opened.told[place{string(document), since}].choice
	}
	p.moment.BootMillis, p.moment.UTCMillis = 10_000, 99_000
	stepped := p.anchor().GetAnchorId()
	whole, first := keep(nil, 0), keep(document[:], 8000)
	p.moment.BootMillis, p.moment.UTCMillis = 20_000, 555_000
	again, later := keep(document[:], 8000), keep(document[:], 9000)
	if whole.GetAnchorId() != anchor.GetAnchorId() || first.GetAnchorId() != stepped || again.GetAnchorId() != stepped || later.GetAnchorId() != p.anchor().GetAnchorId() {
		t.Errorf("the anchors are %x, %x, %x, %x", whole.GetAnchorId(), first.GetAnchorId(), again.GetAnchorId(), later.GetAnchorId())
	}
	if string(again.GetChoiceId()) != string(first.GetChoiceId()) || again.GetRevision() != 2 || later.GetRevision() != 1 || first.GetEffectiveFromBootMillis() != 8000 || string(first.GetDocumentId()) != string(document[:]) {
		t.Errorf("told was %v, then %v and %v", first, again, later)
	}
	if err := p.tell(t.Context(), "stranger", &pluginv1.ReportResponse{Report: &pluginv1.ReportResponse_Choice{Choice: &pluginv1.Choice{InstanceId: instance[:], DocumentId: document[:]}}}); err == nil {
		t.Error("a program names a document that nobody told it of")
	}
}

func TestChoicesTakeAnEighthOfTheJournalsBytes(t *testing.T) {
	t.Parallel()
	p := testPlugins(t)
	p.agent.config.JournalBytes, p.agent.deps.Random = 8<<20, nil
	p.agent.identity.AgentID = contract.ID{1}
	if err := p.openChoices(); err != nil {
		t.Fatal(err)
	}
	defer p.close()
	anchor := &usagev1.Anchor{BootId: make([]byte, 16), BootMillis: 5, UtcMillis: 7}
	anchor.AnchorId = contract.AnchorID(anchor)
	var full *journal.FullError
	for range 100 {
		choice := &usagev1.Choice{SchemaVersion: 1, ChoiceId: make([]byte, 16), BootId: make([]byte, 16), AnchorId: anchor.GetAnchorId(), Fields: map[string]string{"note": strings.Repeat("n", 30<<10)}}
		err := p.choices.opened.Load().Append(t.Context(), journal.Batch{Choices: []*usagev1.Choice{choice}, Anchors: []*usagev1.Anchor{anchor}})
		if errors.As(err, &full) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if full == nil || full.MaxBytes != 1<<20 {
		t.Errorf("3 MB of choices end with %v", full)
	}
}
