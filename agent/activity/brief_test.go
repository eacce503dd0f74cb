package activity_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/agent/activity"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// tell adds a process that has come and gone; it is told until gone.
func (s *scene) tell(pid, parent int32, executable string, from, to int64) {
	s.session.Passed = append(s.session.Passed, activity.Process{PID: pid, ParentPID: parent, StartMillis: from, ExitMillis: to, Executable: executable})
}

func (s *scene) gone() { s.session.Passed = nil }

// A program that nobody saw running is an instance from its start to its exit, and nothing
// is told of one that no application claims. It may stand on a list too, with its exit.
func TestBriefProcessIsAnInstance(t *testing.T) {
	for _, listed := range []bool{false, true} {
		s := newScene(t, nil)
		s.see(0)
		s.tell(10, 1, "alpha", 1_300, 1_500)
		s.tell(11, 1, "other", 1_310, 1_320)
		if listed {
			s.session.Processes, s.session.Passed = s.session.Passed, nil
			s.see(999)
			s.session.Foreground = 5 // the same list once more
			s.see(1)
		} else {
			s.see(1_000)
		}
		s.gone()
		s.session.Processes = nil
		s.see(500)
		s.see(activity.HandOver + 1_000)
		ls := s.end()
		if len(ls) != 1 || ls[0].Opened != 1_300 || ls[0].Closed != 1_500 || ls[0].sum(usagev1.Attention_ATTENTION_BACKGROUND) != 200 {
			t.Fatalf("on a list %v: got\n%s", listed, text(ls, false))
		}
		seen, _ := s.machine.Sightings()
		if len(seen) != 1 || seen[0].GetExecutable() != "alpha" {
			t.Errorf("on a list %v: sighted are %v", listed, seen)
		}
		for _, l := range s.live {
			if len(l.GetOpen()) > 0 {
				t.Errorf("on a list %v: what is over is shown as open: %v", listed, l)
			}
		}
	}
}

// What the session was while it ran counts, not what it is when it is told.
func TestBriefProcessIsPlacedInThePast(t *testing.T) {
	s := newScene(t, nil)
	s.see(0)
	s.see(1_000)
	s.session.Locked = true
	s.see(100)
	s.session.Locked = false
	s.see(400)
	s.session.PausedByPerson = true
	s.tell(10, 1, "alpha", 1_900, 2_300)
	s.see(3_000)
	s.gone()
	s.see(10_000)
	ls := s.end()
	if len(ls) != 1 || ls[0].Opened != 1_900 || ls[0].Closed != 2_300 || ls[0].sum(usagev1.Attention_ATTENTION_BACKGROUND) != 200 ||
		ls[0].sum(usagev1.Attention_ATTENTION_AWAY) != 200 {
		t.Fatalf("got\n%s", text(ls, false))
	}
}

// A launcher that was gone before anybody looked does not split the instance, whether it is
// told with what it started or later, whether that descends from it or not, and whether that
// has gone meanwhile too.
func TestBriefLauncherDoesNotSplit(t *testing.T) {
	for _, c := range []struct {
		name           string
		late, briefer  bool
		parent         int32
		started        int64
		opened, closed int64
		instances      int
	}{
		{name: "together", parent: 1, started: 1_450, opened: 1_300, instances: 1},
		{name: "together, its child", parent: 10, started: 1_450, opened: 1_300, instances: 1},
		{name: "late", late: true, parent: 1, started: 1_450, opened: 1_450, instances: 1},
		{name: "late, its child", late: true, parent: 10, started: 1_450, opened: 1_450, instances: 1},
		{name: "after a while", parent: 1, started: 1_500 + activity.HandOver, opened: 1_300, instances: 1},
		{name: "too late a successor", parent: 1, started: 1_501 + activity.HandOver, opened: 1_300, closed: 1_500, instances: 2},
		{name: "both brief", briefer: true, parent: 1, started: 1_450, opened: 1_300, closed: 1_800, instances: 1},
		{name: "both brief, after a while", briefer: true, parent: 1, started: 4_000, opened: 1_300, closed: 4_300, instances: 1},
	} {
		s := newScene(t, nil)
		s.see(0)
		if !c.late {
			s.tell(10, 1, "alpha", 1_300, 1_500)
		}
		if c.started > 2_000 {
			s.see(1_000)
			s.gone()
		}
		end := max(2_000, c.started+400)
		if c.briefer {
			end = max(end, c.closed)
			s.tell(20, c.parent, "alpha", c.started, c.closed)
		} else {
			s.session.Processes = append(s.session.Processes, activity.Process{PID: 20, ParentPID: c.parent, StartMillis: c.started, Executable: "alpha"})
		}
		s.see(end - s.now)
		s.gone()
		if c.late {
			s.tell(10, 1, "alpha", 1_300, 1_500)
			s.see(1_000)
			s.gone()
		}
		s.see(1_000)
		s.exit(20)
		if c.closed == 0 {
			c.closed = s.now + 1_000
		}
		s.see(1_000)
		s.see(10_000)
		ls := s.end()
		if len(ls) != c.instances || ls[0].Opened != c.opened || ls[0].Closed != c.closed {
			t.Errorf("%s: want %d, the first from %d to %d, got\n%s", c.name, c.instances, c.opened, c.closed, text(ls, false))
		}
	}
}

// A brief process below an open instance belongs to it, also through one that matches
// nothing and was as brief; one beside it is another run.
func TestBriefProcessesOfATree(t *testing.T) {
	s := newScene(t, nil)
	s.start(10, 1, "alpha")
	s.see(0)
	s.see(1_000)
	s.tell(11, 10, "shell", 2_100, 2_400)
	s.tell(12, 11, "alpha", 2_200, 2_300)
	s.session.Processes = append(s.session.Processes, activity.Process{PID: 13, ParentPID: 12, StartMillis: 2_250, Executable: "alpha"})
	s.tell(30, 1, "alpha", 2_500, 2_600)
	s.see(1_000)
	s.gone()
	s.exit(10)
	s.see(10_000)
	s.exit(13)
	s.see(1_000)
	s.see(10_000)
	ls := s.end()
	if len(ls) != 2 || ls[0].Opened != 1_000 || ls[0].Closed != 14_000 || ls[1].Opened != 2_500 || ls[1].Closed != 2_600 {
		t.Fatalf("got\n%s", text(ls, false))
	}
}

// In the scopes of a session and of windows a brief process is one run of its own, or none.
func TestBriefProcessInOtherScopes(t *testing.T) {
	for scope, want := range map[policyv1.InstanceScope]int{policyv1.InstanceScope_INSTANCE_SCOPE_SESSION: 1, policyv1.InstanceScope_INSTANCE_SCOPE_WINDOW: 0} {
		s := newScene(t, func(a *policyv1.ApplicationPolicy) { a.InstanceScope = scope })
		s.see(0)
		s.tell(10, 1, "alpha", 1_300, 1_500)
		s.see(1_000)
		s.gone()
		s.see(1_000)
		if ls := s.end(); len(ls) != want || want == 1 && (ls[0].Opened != 1_300 || ls[0].Closed != 1_500) {
			t.Errorf("%v: got\n%s", scope, text(ls, false))
		}
	}
}

// What went before the agent watched, or before the policy that it is told under, does not
// count, and what has gone is open for nobody.
func TestBriefProcessOfAnotherTime(t *testing.T) {
	s := newScene(t, nil)
	s.tell(10, 1, "alpha", 500, 900)
	s.see(0)
	s.gone()
	s.see(1_000)
	policy := proto.CloneOf(s.firstPolicy)
	policy.Revision++
	if err := s.machine.SetPolicy(policy); err != nil {
		t.Fatal(err)
	}
	s.tell(11, 1, "alpha", 2_100, 2_200)
	s.see(1_000)
	s.gone()
	s.see(10_000)
	if ls := s.end(); len(ls) != 0 {
		t.Fatalf("got\n%s", text(ls, false))
	}
}

// A process that has run another program for long is the new one's from when it became it.
func TestProcessThatBecameAnotherProgram(t *testing.T) {
	for _, told := range []bool{true, false} {
		for _, runs := range []bool{true, false} {
			s := newScene(t, nil)
			s.start(10, 1, "shell")
			s.see(0)
			s.see(60_000)
			p := &s.session.Processes[0]
			p.Executable = "alpha"
			if told {
				p.ProgramMillis = s.now + 300
			}
			if !runs {
				p.ExitMillis = s.now + 700
			}
			s.see(1_000)
			s.session.Processes = nil
			s.see(1_000)
			s.see(10_000)
			ls := s.end()
			switch {
			case !runs && !told:
				if len(ls) != 0 {
					t.Errorf("it is not known since when it was the program:\n%s", text(ls, false))
				}
			case len(ls) != 1 || told && ls[0].Opened != 61_300 || !told && ls[0].Opened != 62_000 || runs && ls[0].Closed != 63_000 || !runs && ls[0].Closed != 61_700:
				t.Errorf("told %v, runs on %v: got\n%s", told, runs, text(ls, false))
			}
		}
	}
}

// An instance that is over when it is told stays so over a crash.
func TestBriefProcessOverACrash(t *testing.T) {
	s := newScene(t, nil)
	s.see(0)
	s.tell(10, 1, "alpha", 1_300, 1_500)
	s.see(1_000)
	s.gone()
	slot, told := s.machine.Slot(), len(s.events)
	s.now += 1_000
	s.recover(slot, told)
	s.see(0)
	s.see(10_000)
	if ls := s.end(); len(ls) != 1 || ls[0].Opened != 1_300 || ls[0].Closed != 1_500 || ls[0].Why != 0 {
		t.Fatalf("got\n%s", text(ls, false))
	}
}

// What is remembered of short lives does not grow while the list of what runs stays the same.
func TestBriefProcessesAreForgotten(t *testing.T) {
	s := newScene(t, nil)
	s.start(10, 1, "alpha")
	s.see(0)
	s.see(1_000)
	var sizes []int
	for n := range int32(400) {
		s.tell(1_000+n, 10, "alpha", s.now+100, s.now+200)
		s.see(1_000)
		s.gone()
		if n%200 == 199 {
			sizes = append(sizes, len(s.machine.Slot()))
		}
	}
	if sizes[1] > sizes[0]+200 {
		t.Errorf("after 200 short lives the slot has %d bytes, after 400 %d", sizes[0], sizes[1])
	}
	s.exit(10)
	s.see(10_000)
	if ls := s.end(); len(ls) != 1 {
		t.Fatalf("got\n%s", text(ls, false))
	}
}

// What becomes another program is the first one's up to that moment, where it is told.
func TestProcessThatIsAnotherProgramsNow(t *testing.T) {
	for _, told := range []bool{true, false} {
		s := newScene(t, nil)
		s.start(10, 1, "alpha")
		s.see(0)
		s.see(60_000)
		p := &s.session.Processes[0]
		p.Executable = "shell"
		want := s.now + 1_000
		if told {
			p.ProgramMillis = s.now + 300
			want = p.ProgramMillis
		}
		s.see(1_000)
		s.see(10_000)
		if ls := s.end(); len(ls) != 1 || ls[0].Closed != want || ls[0].Why != 0 {
			t.Errorf("told %v: want it closed at %d, got\n%s", told, want, text(ls, false))
		}
	}
}

// A process that was something else, and that nobody told of, counts from when it became
// this program, whether it still runs or not.
func TestProcessThatIsToldAsWhatItBecame(t *testing.T) {
	for _, runs := range []bool{true, false} {
		s := newScene(t, nil)
		s.see(0)
		s.see(60_000)
		p := activity.Process{PID: 10, ParentPID: 1, StartMillis: 5_000, ProgramMillis: s.now + 300, Executable: "alpha"}
		want := int64(63_000)
		if runs {
			s.session.Processes = []activity.Process{p}
		} else {
			p.ExitMillis, want = s.now+700, s.now+700
			s.session.Passed = []activity.Process{p}
		}
		s.see(1_000)
		s.gone()
		s.session.Processes = nil
		s.see(1_000)
		s.see(10_000)
		if ls := s.end(); len(ls) != 1 || ls[0].Opened != 61_300 || ls[0].Closed != want {
			t.Errorf("runs on %v: got\n%s", runs, text(ls, false))
		}
	}
}

// What is told long after it began counts from when it is told, also where the list was the
// same for long.
func TestProcessThatIsToldLate(t *testing.T) {
	for _, same := range []bool{true, false} {
		s := newScene(t, nil)
		s.see(0)
		s.session.SameProcesses = same
		for range 60 {
			s.see(1_000)
		}
		s.session.SameProcesses = false
		s.session.Processes = []activity.Process{{PID: 10, ParentPID: 1, StartMillis: 31_000, Executable: "alpha"}}
		s.see(1_000)
		s.exit(10)
		s.see(1_000)
		s.see(10_000)
		if ls := s.end(); len(ls) != 1 || ls[0].Opened != 62_000 || ls[0].Closed != 63_000 {
			t.Errorf("same %v: got\n%s", same, text(ls, false))
		}
	}
}
