package tray

import (
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/agent"
)

func status() agent.Status {
	return agent.Status{
		Recording: true, PauseAllowed: true, Manager: agent.ManagerStatus{Connected: true},
		Person: agent.PersonStatus{User: "ada", Watched: true},
		Open: []agent.OpenStatus{
			{Application: "Mail", User: "ada", State: "inactive", Attention: "background"},
			{Application: "FreeCAD", User: "ada", Document: "Pier 3.FCStd", Project: "Bridge", State: "active", Attention: "busy"},
			{Application: "Chess", User: "eve", State: "active", Attention: "busy"},
		},
	}
}

// labels are the labels of a menu, one a line; what can be chosen has a star.
func labels(entries []Entry) string {
	var all strings.Builder
	for _, e := range entries {
		switch {
		case e.Separator:
			all.WriteString("---")
		case !e.Disabled:
			all.WriteString("* " + e.Label)
		default:
			all.WriteString(e.Label)
		}
		all.WriteString("\n" + labels(e.Entries))
	}
	return all.String()
}

func TestViews(t *testing.T) {
	t.Parallel()
	reasons := []agent.PauseReason{{Code: "break", Label: "A break"}}
	for name, c := range map[string]struct {
		change func(*agent.Status)
		err    error
		icon   Icon
		has    []string
		hasNot []string
	}{
		"recording":      {icon: Recording, has: []string{"FreeCAD – Pier 3.FCStd: active since", "[Bridge]", "* Pause recording\n", "* My data", "* What is recorded"}, hasNot: []string{"Chess", "Resume"}},
		"no agent":       {err: errors.New("none"), icon: Off, has: []string{"no agent answers"}, hasNot: []string{"*"}},
		"no Manager":     {change: func(s *agent.Status) { s.Manager.Connected = false }, icon: Waiting, has: []string{"* Pause recording"}},
		"trouble":        {change: func(s *agent.Status) { s.Recording, s.Problem = false, "the disk is full" }, icon: Trouble},
		"paused":         {change: func(s *agent.Status) { s.Person.Pause = &agent.PauseStatus{By: agent.ByPerson} }, icon: Paused, has: []string{"* Resume recording"}, hasNot: []string{"* Pause"}},
		"by another":     {change: func(s *agent.Status) { s.Person.Pause = &agent.PauseStatus{By: agent.ByAdministrator} }, icon: Paused, has: []string{"Paused by an administrator"}, hasNot: []string{"* Resume", "* Pause"}},
		"by the account": {change: func(s *agent.Status) { s.Person.Pause = &agent.PauseStatus{By: agent.ByAccount} }, icon: Paused, has: []string{"Paused by your organisation"}, hasNot: []string{"* Resume", "* Pause"}},
		"not allowed":    {change: func(s *agent.Status) { s.PauseAllowed = false }, icon: Recording, hasNot: []string{"* Pause"}},
		"with reasons":   {change: func(s *agent.Status) { s.Person.PauseReasons = reasons }, icon: Recording, has: []string{"* Without a reason", "* A break"}},
		"reason required": {
			change: func(s *agent.Status) { s.Person.PauseReasons, s.Person.PauseReasonRequired = reasons, true }, icon: Recording,
			has: []string{"* A break"}, hasNot: []string{"Without"},
		},
		"nobody": {change: func(s *agent.Status) { s.Person.Watched, s.Open = false, nil }, icon: Recording, hasNot: []string{"* Pause"}},
	} {
		s := status()
		if c.change != nil {
			c.change(&s)
		}
		v := ViewOf(s, c.err)
		text := labels(v.Menu)
		if v.Icon != c.icon || v.Title == "" {
			t.Errorf("%s: icon %d, title %q", name, v.Icon, v.Title)
		}
		for _, want := range c.has {
			if !strings.Contains(text, want) {
				t.Errorf("%s: the menu lacks %q:\n%s", name, want, text)
			}
		}
		for _, not := range c.hasNot {
			if strings.Contains(text, not) {
				t.Errorf("%s: the menu has %q:\n%s", name, not, text)
			}
		}
	}
}

// A number means the same entry in every view that has it, and no two share one.
func TestNumbersMeanOneEntry(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		meant := map[int32]Action{}
		for range 3 {
			s := status()
			names := rapid.SliceOfN(rapid.StringN(0, 80, -1), 0, 12).Draw(t, "names")
			for _, name := range names {
				s.Open = append(s.Open, agent.OpenStatus{Application: name, User: "ada", Since: time.UnixMilli(rapid.Int64Range(0, 1e12).Draw(t, "since"))})
			}
			s.Person.PauseReasons = []agent.PauseReason{{Code: "a", Label: "A"}, {Code: "b", Label: "B"}}
			if rapid.Bool().Draw(t, "paused") {
				s.Person.Pause = &agent.PauseStatus{By: agent.ByPerson}
			}
			v := ViewOf(s, nil)
			here := map[int32]bool{}
			var walk func([]Entry)
			walk = func(list []Entry) {
				for _, e := range list {
					if e.ID <= 0 || here[e.ID] {
						t.Fatalf("the number %d of %q is there twice, or none", e.ID, e.Label)
					}
					here[e.ID] = true
					if before, known := meant[e.ID]; known && before != e.Action {
						t.Fatalf("%d did %+v and does %+v", e.ID, before, e.Action)
					}
					meant[e.ID] = e.Action
					if found, ok := v.Find(e.ID); !ok || found.Label != e.Label {
						t.Fatalf("%d is not found", e.ID)
					}
					walk(e.Entries)
				}
			}
			walk(v.Menu)
		}
	})
}

// Icons differ in more than colour, and fill their square.
func TestIconsDiffer(t *testing.T) {
	t.Parallel()
	seen := map[string]Icon{}
	for icon := Off; icon <= Trouble; icon++ {
		for _, size := range []int{16, 22, 64} {
			drawn := icon.Draw(size)
			var shape strings.Builder
			for y := range size {
				for x := range size {
					c := drawn.NRGBAAt(x, y)
					shape.WriteByte("01"[min(1, int(c.A)/128*int(c.R)/240)]) // white or not
				}
			}
			if other, there := seen[shape.String()]; there && other != icon {
				t.Errorf("the icons %d and %d have one shape in size %d", icon, other, size)
			}
			seen[shape.String()] = icon
			if drawn.NRGBAAt(size/2, size/8).A == 0 || drawn.NRGBAAt(0, 0).A > 60 {
				t.Errorf("icon %d in size %d is no disc", icon, size)
			}
		}
	}
}
