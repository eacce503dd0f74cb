package tray

import (
	"fmt"
	"hash/fnv"
	"math"
	"strings"

	"github.com/cetrus/cetrus/agent"
)

// Icon is what the icon looks like.
type Icon int

// The icons.
const (
	// Off: no agent answers.
	Off Icon = iota
	// Recording: what is open is recorded.
	Recording
	// Paused: nothing is, since somebody has paused.
	Paused
	// Waiting: it is recorded, and waits for a Manager that cannot be reached.
	Waiting
	// Trouble: nothing is recorded, though it should be.
	Trouble
)

// Do is what an entry of the menu does.
type Do int

// What entries do.
const (
	Nothing Do = iota
	Pause
	Resume
	ShowData
	ShowNotice
)

// Action is what a person has chosen.
type Action struct {
	Do Do
	// Reason is the code of the reason for a pause.
	Reason string
}

// Entry is one line of the menu.
type Entry struct {
	// ID is the entry's number, greater than 0.
	ID        int32
	Label     string
	Separator bool
	// Disabled: it is there to be read.
	Disabled bool
	Action   Action
	Entries  []Entry
}

// View is what the icon shows.
type View struct {
	Icon Icon
	// Title is one short line; Text some more.
	Title, Text string
	Menu        []Entry
	// Notice is due to be shown to the person; nil: none is.
	Notice *agent.NoticeStatus
}

// maxOpen is how many open applications the menu lists.
const maxOpen = 8

// maxLabel is how long an entry may be, in characters.
const maxLabel = 60

// ViewOf is the view of a status; err says why there is none.
func ViewOf(s agent.Status, err error) View {
	if err != nil {
		v := View{Icon: Off, Title: "Cetrus: no agent answers", Text: "Nothing is recorded, or it cannot be asked."}
		v.Menu = number([]Entry{said(v.Title)})
		return v
	}
	v := View{}
	v.Icon, v.Title, v.Text = standing(s)
	if s.Person.Notice.Due {
		due := s.Person.Notice
		v.Notice = &due
	}
	v.Menu = number(menu(s, v))
	return v
}

// standing is how the agent stands with its person.
func standing(s agent.Status) (icon Icon, title, text string) {
	switch p := s.Person.Pause; {
	case p != nil && p.By == agent.ByPerson:
		text = "You have paused."
		if p.Reason != "" {
			text = "You have paused: " + p.Reason + "."
		}
		return Paused, "Cetrus: paused", text
	case p != nil && p.By == agent.ByAdministrator:
		return Paused, "Cetrus: paused", "An administrator of this computer has paused for everybody."
	case p != nil:
		return Paused, "Cetrus: paused", "Your organisation has paused recording."
	case !s.Recording:
		return Trouble, "Cetrus: not recording", s.Problem
	}
	text = "Nothing that is recorded is open."
	if mine := own(s); len(mine) > 0 {
		text = fmt.Sprintf("%s: %s", mine[0].Application, mine[0].State)
		if n := len(mine) - 1; n > 0 {
			text += fmt.Sprintf(", and %d more", n)
		}
	}
	if !s.Manager.Connected {
		return Waiting, "Cetrus: recording, the Manager cannot be reached", text + ". What is recorded waits on this computer."
	}
	return Recording, "Cetrus: recording", text
}

// own is what is open in the person's own sessions, what they work in first.
func own(s agent.Status) (mine []agent.OpenStatus) {
	var others []agent.OpenStatus
	for _, open := range s.Open {
		switch {
		case open.User != s.Person.User:
		case open.Attention == "busy" || open.Attention == "idle":
			mine = append(mine, open)
		default:
			others = append(others, open)
		}
	}
	return append(mine, others...)
}

func menu(s agent.Status, v View) []Entry {
	entries := []Entry{said(strings.TrimPrefix(v.Title, "Cetrus: "))}
	open := own(s)
	for i, o := range open {
		if i == maxOpen {
			entries = append(entries, said(fmt.Sprintf("… and %d more: cetrus-agent status", len(open)-i)))
			break
		}
		line := o.Application
		if o.Document != "" {
			line += " – " + o.Document
		}
		line += ": " + words(o)
		if o.Project != "" {
			line += " [" + o.Project + "]"
		}
		entries = append(entries, said(line))
	}
	if len(open) == 0 && s.Person.Pause == nil {
		entries = append(entries, said("Nothing that is recorded is open"))
	}
	entries = append(entries, Entry{Separator: true})
	entries = append(entries, pausing(s)...)
	return append(entries,
		Entry{Separator: true},
		Entry{Label: "My data of the last 30 days", Action: Action{Do: ShowData}},
		Entry{Label: "What is recorded, and what never…", Action: Action{Do: ShowNotice}},
	)
}

// words are how an open application stands.
func words(o agent.OpenStatus) string {
	state := o.State
	if o.Attention != "busy" && o.Attention != "" {
		state += ", " + o.Attention
	}
	return state + " since " + o.Since.Local().Format("15:04") //nolint:gosmopolitan // For the person at this machine.
}

// pausing are the entries by which a person pauses or goes on.
func pausing(s agent.Status) []Entry {
	p := s.Person
	switch {
	case p.Pause != nil && p.Pause.By == agent.ByPerson:
		label := "Resume recording"
		if p.Pause.Since != nil {
			label += " (paused since " + p.Pause.Since.Local().Format("15:04") + ")" //nolint:gosmopolitan // For the person at this machine.
		}
		return []Entry{{Label: label, Action: Action{Do: Resume}}}
	case p.Pause != nil:
		return []Entry{said("Paused by " + map[string]string{agent.ByAdministrator: "an administrator", agent.ByAccount: "your organisation"}[p.Pause.By])}
	case !s.PauseAllowed:
		return []Entry{said("Your organisation has switched pausing off")}
	case !p.Watched:
		return []Entry{said("Nothing of you is recorded here")}
	case len(p.PauseReasons) == 0:
		return []Entry{{Label: "Pause recording", Action: Action{Do: Pause}}}
	}
	pause := Entry{Label: "Pause recording"}
	if !p.PauseReasonRequired {
		pause.Entries = append(pause.Entries, Entry{Label: "Without a reason", Action: Action{Do: Pause}}, Entry{Separator: true})
	}
	for _, reason := range p.PauseReasons {
		pause.Entries = append(pause.Entries, Entry{Label: clip(reason.Label), Action: Action{Do: Pause, Reason: reason.Code}})
	}
	return []Entry{pause}
}

func said(label string) Entry { return Entry{Label: clip(label), Disabled: true} }

// clip shortens what is too long for a menu.
func clip(label string) string {
	label = strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, label)
	if runes := []rune(label); len(runes) > maxLabel {
		return string(runes[:maxLabel-1]) + "…"
	}
	return label
}

// number gives the entries their numbers. They follow from what an entry says and does, so
// that a choice from a menu that is shown still, but has changed since, is either the same
// entry or none.
func number(entries []Entry) []Entry {
	taken := map[int32]bool{0: true}
	var walk func(list []Entry, above uint32)
	walk = func(list []Entry, above uint32) {
		for i := range list {
			e := &list[i]
			hash := fnv.New32a()
			fmt.Fprintf(hash, "%d %d %s %s", above, e.Action.Do, e.Action.Reason, e.Label)
			id := hash.Sum32()
			e.ID = int32(id >> 1)
			for taken[e.ID] {
				e.ID = (e.ID + 1) & math.MaxInt32
			}
			taken[e.ID] = true
			walk(e.Entries, id)
		}
	}
	walk(entries, 0)
	return entries
}

// Find is the entry of a number.
func (v View) Find(id int32) (Entry, bool) {
	var find func([]Entry) (Entry, bool)
	find = func(list []Entry) (Entry, bool) {
		for _, e := range list {
			if e.ID == id {
				return e, true
			}
			if inner, ok := find(e.Entries); ok {
				return inner, true
			}
		}
		return Entry{}, false
	}
	return find(v.Menu)
}
