package activity_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/cetrus/cetrus/agent/activity"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// scene drives one session by hand.
type scene struct {
	t *testing.T
	*player
	now         int64
	asleep      int64
	session     activity.Session
	firstPolicy *policyv1.Policy
	blind       int64
	labels      []activity.Label
}

func newScene(t *testing.T, change func(*policyv1.ApplicationPolicy)) *scene {
	t.Helper()
	id := appID(0)
	app := &policyv1.ApplicationPolicy{
		ApplicationId: id[:], Rules: []*policyv1.Rule{{RuleId: id[:], Executable: "alpha"}},
		ActivityGap: durationpb.New(30 * time.Second), Timeout: durationpb.New(time.Minute),
	}
	if change != nil {
		change(app)
	}
	m := activity.New(config(1))
	policy := &policyv1.Policy{Revision: 1, DocumentKey: make([]byte, 32), Applications: []*policyv1.ApplicationPolicy{app}, SightingsWanted: true}
	if err := m.SetPolicy(policy); err != nil {
		t.Fatal(err)
	}
	return &scene{t: t, player: newPlayer(m), firstPolicy: policy, now: 1_000, session: activity.Session{Key: "1", User: activity.User{Name: "ann"}}}
}

func (s *scene) observation() activity.Observation {
	return activity.Observation{
		BootID: contract.ID{1}, BootMillis: s.now, AwakeMillis: s.now - s.asleep, UTCMillis: 1_800_000_000_000 + s.now,
		BlindSinceMillis: s.blind, Sessions: []activity.Session{s.session},
	}
}

// see observes after a while.
func (s *scene) see(after int64) activity.Output {
	s.now += after
	out := s.take(s.machine.Observe(s.observation()))
	s.labels = append(s.labels, out.Labels...)
	s.blind = 0
	return out
}

func (s *scene) start(pid, parent int32, executable string) {
	s.session.Processes = append(s.session.Processes, activity.Process{PID: pid, ParentPID: parent, StartMillis: s.now, Executable: executable})
}

func (s *scene) exit(pid int32) {
	s.session.Processes = slices.DeleteFunc(s.session.Processes, func(p activity.Process) bool { return p.PID == pid })
	s.session.Windows = slices.DeleteFunc(s.session.Windows, func(w activity.Window) bool { return w.PID == pid })
}

func (s *scene) window(id, parent uint64, pid int32, title string) {
	s.session.Windows = append(s.session.Windows, activity.Window{ID: id, Parent: parent, PID: pid, Title: title})
}

func (s *scene) input() { s.session.LastInputMillis = s.now }

// recover crashes, and goes on from a slot that was written when so many events had
// been told.
func (s *scene) recover(slot []byte, told int) {
	s.t.Helper()
	m, err := activity.Recover(config(2), slot, s.events[told:], slices.Collect(maps.Values(s.anchors)))
	if err != nil {
		s.t.Fatal(err)
	}
	// A new machine has the policy from its file.
	if err := m.SetPolicy(s.firstPolicy); err != nil {
		s.t.Fatal(err)
	}
	s.machine = m
}

func (s *scene) end() []*line {
	o := s.observation()
	o.Sessions = nil
	s.take(s.machine.Observe(o))
	return lines(s.events)
}

func TestProcessTreeIsOneInstance(t *testing.T) {
	s := newScene(t, nil)
	s.see(0)
	s.now += 500
	s.start(10, 1, "alpha")
	s.see(0)
	s.start(11, 10, "helper")
	s.see(1000)
	s.start(12, 11, "alpha") // below a process that does not match
	s.see(1000)
	s.exit(10)
	s.exit(11)
	s.see(20_000)
	s.start(13, 12, "alpha")
	s.start(20, 1, "alpha") // on its own
	s.see(1000)
	s.exit(12)
	s.see(1000)
	ls := s.end()
	if len(ls) != 2 || ls[0].Opened != 1_500 || ls[0].Closed != s.now {
		t.Fatalf("got\n%s", text(ls, false))
	}
}

func TestStartAndExitAreTheKernels(t *testing.T) {
	s := newScene(t, nil)
	s.see(0)
	s.see(1000)
	s.session.Processes = []activity.Process{{PID: 10, StartMillis: s.now + 300, Executable: "alpha"}}
	s.see(1000)
	s.session.Processes[0].ExitMillis = s.now + 400
	s.see(1000)
	s.session.Processes = nil
	s.see(6000)
	ls := s.end()
	if len(ls) != 1 || ls[0].Opened != 2_300 || ls[0].Closed != 3_400 {
		t.Fatalf("got\n%s", text(ls, false))
	}
}

func TestScopes(t *testing.T) {
	for scope, want := range map[policyv1.InstanceScope]int{
		policyv1.InstanceScope_INSTANCE_SCOPE_PROCESS_TREE: 2,
		policyv1.InstanceScope_INSTANCE_SCOPE_SESSION:      1,
		policyv1.InstanceScope_INSTANCE_SCOPE_WINDOW:       3,
	} {
		s := newScene(t, func(a *policyv1.ApplicationPolicy) { a.InstanceScope = scope })
		s.start(10, 1, "alpha")
		s.start(11, 1, "alpha")
		s.window(1, 0, 10, "a")
		s.window(2, 0, 10, "b")
		s.window(3, 2, 10, "dialog of b")
		s.window(4, 0, 11, "c")
		s.session.Foreground = 3
		s.see(0)
		s.input()
		s.see(0)
		s.see(10_000)
		s.input()
		s.see(0)
		s.see(40_000)
		ls := s.end()
		busy := int64(0)
		for _, l := range ls {
			busy += l.sum(usagev1.Attention_ATTENTION_BUSY)
		}
		if len(ls) != want || busy != 10_000 {
			t.Errorf("%v: busy for %d\n%s", scope, busy, text(ls, false))
		}
	}
}

func TestDialogBelongsToItsParentsDocument(t *testing.T) {
	s := newScene(t, func(a *policyv1.ApplicationPolicy) {
		a.Documents, a.DocumentReduction = true, policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME
	})
	s.start(10, 1, "alpha")
	s.start(11, 1, "portal")
	s.window(1, 0, 10, "/home/ann/Plan.docx")
	s.window(2, 1, 11, "Save as") // another process's dialog
	s.session.Foreground = 2
	s.input()
	s.see(0)
	s.see(5_000)
	s.input()
	s.see(0)
	s.see(31_000)
	ls := s.end()
	if len(ls) != 2 || ls[1].Document.IsZero() || ls[1].sum(usagev1.Attention_ATTENTION_BUSY) != 5_000 {
		t.Fatalf("got\n%s", text(ls, false))
	}
	if len(s.labels) != 1 || s.labels[0].Name != "Plan.docx" || s.labels[0].DocumentID != ls[1].Document {
		t.Fatalf("labels %v", s.labels)
	}
}

// The windows of a process that has ended go one after the other, and may be renamed, or come,
// until the system has noticed: none of them is another instance, nor in front of one.
func TestWindowsThatOutliveTheirProcess(t *testing.T) {
	for _, scope := range []policyv1.InstanceScope{
		policyv1.InstanceScope_INSTANCE_SCOPE_PROCESS_TREE, policyv1.InstanceScope_INSTANCE_SCOPE_SESSION, policyv1.InstanceScope_INSTANCE_SCOPE_WINDOW,
	} {
		for name, leave := range map[string]func(*scene){
			"a dialog that has lost its parent": func(s *scene) { s.session.Windows = s.session.Windows[1:]; s.session.Windows[0].Parent = 0 },
			"another title":                     func(s *scene) { s.session.Windows[0].Title = "alpha - saving" },
			"a window that was not there yet":   func(s *scene) { s.window(3, 0, 10, "alpha - Sorry"); s.session.Foreground = 3 },
		} {
			for told, end := range map[string]func(*scene){
				"by the list": func(s *scene) { s.session.Processes = nil },
				"by the kernel": func(s *scene) {
					s.session.Processes = slices.Clone(s.session.Processes)
					s.session.Processes[0].ExitMillis = s.now
				},
			} {
				for _, rule := range []*policyv1.Rule{{Executable: "alpha"}, {Title: "^alpha"}} {
					t.Run(fmt.Sprintf("%v/%v/%s/%s", scope, rule, name, told), func(t *testing.T) {
						s := newScene(t, func(a *policyv1.ApplicationPolicy) {
							rule.RuleId = a.Rules[0].RuleId
							a.InstanceScope, a.Rules = scope, []*policyv1.Rule{rule}
						})
						s.see(0)
						s.start(10, 1, "alpha")
						s.window(1, 0, 10, "alpha - note")
						s.window(2, 1, 10, "alpha - Save?")
						s.session.Foreground = 2
						s.see(1_000)
						s.input()
						s.see(100)
						s.now += 100
						end(s)
						leave(s)
						s.input()
						s.see(0)
						s.session.Processes = nil
						s.see(200)
						s.session.Windows = nil
						s.see(200)
						if ls := s.end(); len(ls) != 1 {
							t.Errorf("got\n%s", text(ls, false))
						}
					})
				}
			}
		}
	}
}

func TestReductions(t *testing.T) {
	for reduction, want := range map[policyv1.DocumentReduction]string{
		policyv1.DocumentReduction_DOCUMENT_REDUCTION_NOTHING:   "",
		policyv1.DocumentReduction_DOCUMENT_REDUCTION_CATEGORY:  ".docx",
		policyv1.DocumentReduction_DOCUMENT_REDUCTION_HASH:      "",
		policyv1.DocumentReduction_DOCUMENT_REDUCTION_FILE_NAME: "Plan.DOCX",
		policyv1.DocumentReduction_DOCUMENT_REDUCTION_ALL:       `C:\secret\Plan.DOCX`,
	} {
		var ids []contract.ID
		for range 2 {
			s := newScene(t, func(a *policyv1.ApplicationPolicy) { a.Documents, a.DocumentReduction = true, reduction })
			s.machine = activity.New(config(uint64(len(ids) + 9)))
			id := appID(0)
			_ = s.machine.SetPolicy(&policyv1.Policy{Revision: 1, DocumentKey: make([]byte, 32), Applications: []*policyv1.ApplicationPolicy{{
				ApplicationId: id[:], Rules: []*policyv1.Rule{{RuleId: id[:], Executable: "alpha"}}, Documents: true, DocumentReduction: reduction,
			}}})
			s.start(10, 1, "alpha")
			s.window(1, 0, 10, `C:\secret\Plan.DOCX`)
			s.see(0)
			for _, secret := range []string{"secret", "Plan"} {
				if slot := string(s.machine.Slot()); contains(slot, secret) {
					t.Errorf("%v: the slot holds %q", reduction, secret)
				}
			}
			s.now += 1000
			ls := s.end()
			name := ""
			if len(s.labels) > 0 {
				name = s.labels[0].Name
			}
			if name != want || len(ls) != 2 {
				t.Errorf("%v: label %q, want %q\n%s", reduction, name, want, text(ls, false))
				continue
			}
			ids = append(ids, ls[1].Document)
		}
		random := reduction == policyv1.DocumentReduction_DOCUMENT_REDUCTION_NOTHING
		if len(ids) == 2 && (ids[0] == ids[1]) == random {
			t.Errorf("%v: the ids on two machines are %v", reduction, ids)
		}
	}
}

func contains(s, part string) bool {
	for i := 0; i+len(part) <= len(s); i++ {
		if s[i:i+len(part)] == part {
			return true
		}
	}
	return false
}

// TestWakingInputCounts: nobody told of the sleep, a poll finds it; the key that woke
// the machine is an input after it.
func TestWakingInputCounts(t *testing.T) {
	s := newScene(t, nil)
	s.start(10, 1, "alpha")
	s.window(1, 0, 10, "a")
	s.session.Foreground = 1
	s.see(0)
	s.input()
	s.see(0)
	s.now += 3_600_000 + 1_000
	s.asleep = 3_600_000
	s.session.LastInputMillis = s.now - 200
	s.see(0)
	s.see(800)
	s.input()
	s.see(0)
	s.see(40_000)
	ls := s.end()
	if got := ls[0].sum(usagev1.Attention_ATTENTION_SUSPENDED); got != 3_600_000 {
		t.Errorf("suspended for %d", got)
	}
	if got := ls[0].sum(usagev1.Attention_ATTENTION_BUSY); got != 1_000 {
		t.Errorf("busy for %d\n%s", got, text(ls, false))
	}
}

func TestBlindnessIsUnknownAndEndsAStretch(t *testing.T) {
	s := newScene(t, nil)
	s.start(10, 1, "alpha")
	s.window(1, 0, 10, "a")
	s.session.Foreground = 1
	s.input()
	s.see(0)
	s.see(1_000)
	s.blind = s.now + 500
	s.now += 3_000
	s.input()
	s.see(0)
	s.see(40_000)
	ls := s.end()
	if got := ls[0].sum(usagev1.Attention_ATTENTION_UNKNOWN); got != 2_500 || ls[0].sum(usagev1.Attention_ATTENTION_BUSY) != 0 {
		t.Fatalf("got\n%s", text(ls, false))
	}
}

// TestLiveSinceOutlivesARestart: what is shown after a restart began when the agent
// came back, or when it last changed, never when the instance opened.
func TestLiveSinceOutlivesARestart(t *testing.T) {
	s := newScene(t, nil)
	s.see(0)
	s.start(10, 1, "alpha")
	s.start(11, 1, "other")
	s.window(1, 0, 10, "a")
	s.session.Foreground = 1
	s.see(1000)
	s.see(40_000)
	slot, told := s.machine.Slot(), len(s.events)
	s.now += 60_000
	s.recover(slot, told)
	at := s.now
	out := s.see(0)
	if len(out.Live) != 1 || len(out.Live[0].Open) != 1 || out.Live[0].Open[0].SinceUtcMillis != 1_800_000_000_000+at ||
		out.Live[0].Open[0].OpenedUtcMillis != 1_800_000_000_000+1_000 {
		t.Fatalf("live after a restart at %d: %v", at, out.Live)
	}
	// A blind desktop says so since the agent was gone, whatever that is called.
	s.see(10_000)
	slot, told = s.machine.Slot(), len(s.events)
	from := s.now
	s.recover(slot, told)
	s.session.FocusUnsupported = true
	out = s.see(5_000)
	if len(out.Live) != 1 || out.Live[0].Open[0].SinceUtcMillis != 1_800_000_000_000+from {
		t.Fatalf("live of a blind desktop that was not watched since %d: %v", from, out.Live)
	}
}

// TestLiveSinceOfANewInstance: a program that started between two looks has been there
// since it started, and in front since it was seen there.
func TestLiveSinceOfANewInstance(t *testing.T) {
	for _, front := range []bool{false, true} {
		s := newScene(t, nil)
		s.see(0)
		s.start(10, 1, "alpha")
		opened := s.now
		s.window(1, 0, 10, "a")
		if front {
			s.session.Foreground = 1
		}
		out := s.see(800)
		want := opened
		if front {
			want = s.now
		}
		if len(out.Live) != 1 || out.Live[0].Open[0].SinceUtcMillis != 1_800_000_000_000+want {
			t.Errorf("in front %v: live %v, want since %d", front, out.Live, want)
		}
	}
}

// TestLiveDoesNotWait: a snapshot says busy at the first input, and idle, dated back,
// once the gap is over.
func TestLiveDoesNotWait(t *testing.T) {
	s := newScene(t, nil)
	s.start(10, 1, "alpha")
	s.window(1, 0, 10, "a")
	s.session.Foreground = 1
	s.see(0)
	s.now += 1_000
	s.input()
	at := s.now
	out := s.see(0)
	if len(out.Live) != 1 || out.Live[0].Open[0].State != usagev1.State_STATE_ACTIVE {
		t.Fatalf("live after the first input: %v", out.Live)
	}
	if out = s.see(29_000); len(out.Live) != 0 {
		t.Fatalf("live without a change: %v", out.Live)
	}
	out = s.see(2_000)
	if len(out.Live) != 1 || out.Live[0].Open[0].Attention != usagev1.Attention_ATTENTION_IDLE || out.Live[0].Open[0].SinceUtcMillis != 1_800_000_000_000+at {
		t.Fatalf("live after the gap: %v, input at %d", out.Live, at)
	}
	out = s.see(60_000)
	if len(out.Live) != 1 || out.Live[0].Open[0].State != usagev1.State_STATE_TIMEOUT {
		t.Fatalf("live after the timeout: %v", out.Live)
	}
	if s.see(0); len(s.machine.Live()) != 1 {
		t.Fatal("no snapshot for a heartbeat")
	}
	o := s.observation()
	o.Sessions = nil
	if out = s.machine.Observe(o); len(out.Live) != 1 || !out.Live[0].Ended {
		t.Fatalf("live after logging off: %v", out.Live)
	}
}

func TestTitleRuleKeepsTheProcess(t *testing.T) {
	s := newScene(t, func(a *policyv1.ApplicationPolicy) { a.Rules[0].Executable, a.Rules[0].Title = "browser", "jira" })
	s.start(10, 1, "browser")
	s.window(1, 0, 10, "News")
	s.session.Foreground = 1
	s.see(0)
	s.session.Windows[0].Title = "Board - Jira"
	s.see(1_000)
	s.session.Windows[0].Title = "News"
	s.see(1_000)
	ls := s.end()
	if len(ls) != 1 || ls[0].Opened != 2_000 || ls[0].sum(usagev1.Attention_ATTENTION_IDLE) != 1_000 {
		t.Fatalf("got\n%s", text(ls, false))
	}
}

func TestSightings(t *testing.T) {
	s := newScene(t, nil)
	s.start(10, 1, "gamma")
	s.start(11, 1, "alpha")
	s.see(0)
	s.see(1_000)
	told := func(want ...string) {
		t.Helper()
		list, changed := s.machine.Sightings()
		got := map[string]bool{}
		for _, l := range list {
			got[fmt.Sprintf("%s claimed: %v", l.GetExecutable(), len(l.GetApplicationId()) == 16 && len(l.GetRuleId()) == 16)] = true
		}
		if !changed || len(got) != len(want) {
			t.Fatalf("changed: %v, got %v, want %v", changed, got, want)
		}
		for _, w := range want {
			if !got[w] {
				t.Fatalf("got %v, want %v", got, want)
			}
		}
		if _, again := s.machine.Sightings(); again {
			t.Fatal("changed by being asked for")
		}
	}
	told("gamma claimed: false", "alpha claimed: true")

	// A policy that does not ask for others any more makes them forgotten at once.
	policy := proto.CloneOf(s.firstPolicy)
	policy.Revision++
	policy.SightingsWanted = false
	if err := s.machine.SetPolicy(policy); err != nil {
		t.Fatal(err)
	}
	s.see(1_000)
	told("alpha claimed: true")

	// One that claims what was seen, and is asked for, says so, and nothing of a
	// pause is told.
	policy = proto.CloneOf(policy)
	policy.Revision++
	policy.SightingsWanted = true
	if err := s.machine.SetPolicy(policy); err != nil {
		t.Fatal(err)
	}
	s.see(1_000)
	told("alpha claimed: true", "gamma claimed: false")
	s.start(12, 1, "delta")
	s.now += 1_000
	paused := s.observation()
	paused.PausedByPerson = true
	s.take(s.machine.Observe(paused))
	s.exit(12)
	s.start(13, 1, "epsilon")
	s.see(1_000)
	told("alpha claimed: true", "gamma claimed: false", "epsilon claimed: false")
}

// TestSightingsFollowThePolicy: whoever claims a window by its title is told, and who
// claimed it under the policy before is not.
func TestSightingsFollowThePolicy(t *testing.T) {
	s := newScene(t, nil)
	s.start(10, 1, "alpha")
	s.window(1, 0, 10, "a tracker")
	s.see(0)
	policy := proto.CloneOf(s.firstPolicy)
	policy.Revision++
	tracker := appID(1)
	policy.Applications = append(policy.Applications, &policyv1.ApplicationPolicy{
		ApplicationId: tracker[:], Rules: []*policyv1.Rule{{RuleId: tracker[:], Title: "tracker", Priority: 9}},
	})
	s.session.Windows[0].Class = "Alpha"
	for range 2 {
		if err := s.machine.SetPolicy(policy); err != nil {
			t.Fatal(err)
		}
		s.see(1_000)
		list, _ := s.machine.Sightings()
		var by []string
		for _, seen := range list {
			if seen.GetWindowClass() != "" {
				by = append(by, fmt.Sprintf("%x", seen.GetApplicationId()))
			}
		}
		if want := fmt.Sprintf("%x", tracker[:]); len(by) != 1 || by[0] != want {
			t.Fatalf("claimed by %v, not by %v alone", by, want)
		}
	}
	// Nothing shows the title any more, so the process alone decides again.
	s.exit(10)
	s.see(1_000)
	if err := s.machine.SetPolicy(policy); err != nil {
		t.Fatal(err)
	}
	s.see(1_000)
	if list, changed := s.machine.Sightings(); !changed || len(list) != 2 {
		t.Fatalf("remembered: %v", list)
	}
}

func TestAPathTellsNobodysName(t *testing.T) {
	for path, want := range map[string]string{
		"/home/ada/bin/prog":                 "/home/*/bin/prog",
		"/var/home/ada/bin/prog":             "/var/home/*/bin/prog",
		`C:\Users\Ada Obi\App\prog.exe`:      `C:\Users\*\App\prog.exe`,
		`\\server\users\ada\prog.exe`:        `\\server\users\*\prog.exe`,
		"/usr/bin/prog":                      "/usr/bin/prog",
		"/opt/suite/lib/parts/home/ada/prog": "/opt/suite/lib/parts/home/ada/prog",
		"":                                   "",
		"/home/prog":                         "/home/prog",
	} {
		s := newScene(t, nil)
		s.start(10, 1, "prog")
		s.session.Processes[0].Path = path
		s.see(0)
		if list, _ := s.machine.Sightings(); len(list) != 1 || list[0].GetPath() != want {
			t.Errorf("%s becomes %v, not %s", path, list, want)
		}
	}
}

// TestWrongPolicyLeavesTheOldOne: nothing that runs is lost for a typing error.
func TestWrongPolicyLeavesTheOldOne(t *testing.T) {
	s := newScene(t, nil)
	s.start(10, 1, "alpha")
	s.see(0)
	id := appID(0)
	if err := s.machine.SetPolicy(&policyv1.Policy{Applications: []*policyv1.ApplicationPolicy{{ApplicationId: id[:], Rules: []*policyv1.Rule{{RuleId: id[:], Title: "("}}}}}); err == nil {
		t.Fatal("a wrong expression was taken")
	}
	s.see(1_000)
	if ls := s.end(); len(ls) != 1 || ls[0].Closed-ls[0].Opened != 1_000 {
		t.Fatalf("got\n%s", text(ls, false))
	}
}

// TestHandOverAtOnceKeepsTheDocument was found by TestSessionsDoNotTouch: one process
// exits and its successor starts in the same millisecond, with the same file.
func TestHandOverAtOnceKeepsTheDocument(t *testing.T) {
	s := newScene(t, func(a *policyv1.ApplicationPolicy) {
		a.Documents, a.DocumentReduction = true, policyv1.DocumentReduction_DOCUMENT_REDUCTION_HASH
	})
	s.start(10, 1, "alpha")
	s.window(1, 0, 10, "a.txt")
	s.see(0)
	s.now += 1_000
	s.exit(10)
	s.start(11, 1, "alpha")
	s.window(2, 0, 11, "a.txt")
	s.see(0)
	s.see(1_000)
	if ls := s.end(); len(ls) != 2 || ls[1].Closed-ls[1].Opened != 2_000 {
		t.Fatalf("got\n%s", text(ls, false))
	}
}

// TestInputAtTheFirstMomentCounts was found by TestOracle: the next input hid it.
func TestInputAtTheFirstMomentCounts(t *testing.T) {
	s := newScene(t, nil)
	s.start(10, 1, "alpha")
	s.window(1, 0, 10, "a")
	s.session.Foreground = 1
	s.input()
	s.see(0)
	s.now++
	s.input()
	s.see(0)
	s.see(40_000)
	if ls := s.end(); ls[0].sum(usagev1.Attention_ATTENTION_BUSY) != 1 {
		t.Fatalf("got\n%s", text(ls, false))
	}
}

// TestPolicyChangeWhilePausedKeepsDocuments was found by TestOracle: titles are not
// looked at while paused, and what is open stays open.
func TestPolicyChangeWhilePausedKeepsDocuments(t *testing.T) {
	var s script
	w := world{At: 10_000, UTC: 1_700_000_000_000, PolicyNo: 1, Policy: setting{Gap: [2]int64{1000, 1000}, Timeout: [2]int64{5000, 5000}}}
	w.Procs = []activity.Process{{PID: 1, StartMillis: 9_000, Executable: "beta"}}
	w.Windows = []activity.Window{{ID: 1, PID: 1, Title: "a.txt"}}
	s.Worlds = append(s.Worlds, w)
	w.At, w.PolicyNo, w.Policy.Paused = 12_000, 2, true
	s.Worlds = append(s.Worlds, w)
	s.End = 15_000
	got, want := text(lines(play(s, s.moments()).events), false), text(s.truth(), false)
	if got != want {
		t.Fatalf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestReopenedDocumentClosesFirstAfterACrash was found by TestP8Restart…: a document
// shut and opened again while its last piece was undecided, then a crash.
func TestReopenedDocumentClosesFirstAfterACrash(t *testing.T) {
	s := newScene(t, func(a *policyv1.ApplicationPolicy) {
		a.Documents, a.DocumentReduction = true, policyv1.DocumentReduction_DOCUMENT_REDUCTION_HASH
	})
	s.start(10, 1, "alpha")
	s.window(1, 0, 10, "a.txt")
	s.session.Foreground = 1
	s.input()
	s.see(0)
	s.session.Windows[0].Title = "b.txt"
	s.see(1_000)
	s.session.Windows[0].Title = "a.txt"
	s.see(1_000)
	m, err := activity.Recover(config(2), s.machine.Slot(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.machine = m
	o := s.observation()
	o.BootID = contract.ID{9}
	s.take(m.Observe(o))
	for _, l := range lines(s.events) {
		if l.Closed < 0 {
			t.Fatalf("never closed:\n%s", text([]*line{l}, false))
		}
	}
}

// TestDocumentOfTheJournalHasItsInstancesGap was found by TestP8CrashNeverAddsBusyTime: a
// document that opened behind the slot is known from the journal alone, which does not
// say what its activity gap is.
func TestDocumentOfTheJournalHasItsInstancesGap(t *testing.T) {
	s := newScene(t, func(a *policyv1.ApplicationPolicy) {
		a.ActivityGap = durationpb.New(time.Second)
		a.Documents, a.DocumentReduction = true, policyv1.DocumentReduction_DOCUMENT_REDUCTION_HASH
	})
	s.start(10, 1, "alpha")
	s.see(0)
	slot, told := s.machine.Slot(), len(s.events)
	s.window(1, 0, 10, "a.txt")
	s.session.Foreground = 1
	s.see(1_000)
	s.see(1_000)
	s.recover(slot, told)
	s.see(1_000)
	for range 3 {
		s.input()
		s.see(20_000)
	}
	for _, l := range s.end() {
		if busy := l.sum(usagev1.Attention_ATTENTION_BUSY); busy != 0 {
			t.Errorf("lone inputs 20 s apart are busy for %d ms:\n%s", busy, text([]*line{l}, false))
		}
	}
}

// TestContinuedInstanceOfTheJournal: behind the slot one process took over from another,
// which only the journal tells, and after the crash the second is gone too.
func TestContinuedInstanceOfTheJournal(t *testing.T) {
	s := newScene(t, nil)
	s.start(10, 1, "alpha")
	s.see(0)
	s.exit(10)
	s.see(1_000)
	slot, told := s.machine.Slot(), len(s.events)
	s.now += 1_000
	s.start(11, 1, "alpha")
	s.window(1, 0, 11, "a")
	s.session.Foreground = 1
	s.see(0)
	s.see(5_000)
	s.session.Foreground = 0
	s.see(1_000)
	s.see(1_000)
	s.exit(11)
	s.recover(slot, told)
	s.see(1_000)
	ls := s.end()
	if len(ls) != 1 || ls[0].Closed != 9_001 || ls[0].Why != usagev1.Reason_REASON_LOST {
		t.Fatalf("the journal told that it went to the background at 9000:\n%s", text(ls, false))
	}
}

// TestPolicyReachesWhatAHandOverContinues was found by TestP8CrashNeverAddsBusyTime: a
// policy comes while one process is gone and the next is not there yet.
func TestPolicyReachesWhatAHandOverContinues(t *testing.T) {
	s := newScene(t, nil)
	s.start(10, 1, "alpha")
	s.see(0)
	s.exit(10)
	s.see(1_000)
	id := appID(0)
	if err := s.machine.SetPolicy(&policyv1.Policy{Revision: 2, Applications: []*policyv1.ApplicationPolicy{{
		ApplicationId: id[:], Rules: []*policyv1.Rule{{RuleId: id[:], Executable: "alpha"}},
		ActivityGap: durationpb.New(time.Minute), Timeout: durationpb.New(time.Minute),
	}}}); err != nil {
		t.Fatal(err)
	}
	s.see(1_000)
	s.now += 1_000
	s.start(11, 1, "alpha")
	s.window(1, 0, 11, "a")
	s.session.Foreground = 1
	s.input()
	s.see(0)
	s.see(40_000)
	s.input()
	s.see(0)
	if ls := s.end(); len(ls) != 1 || ls[0].sum(usagev1.Attention_ATTENTION_BUSY) != 40_000 {
		t.Fatalf("inputs 40 s apart are a stretch under the new gap:\n%s", text(ls, false))
	}
}
