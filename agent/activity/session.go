package activity

import (
	"slices"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
)

// session is one desktop session. What is exported is kept in the crash slot; titles,
// paths and lists of programs are not.
type session struct {
	Key     string      `json:"key"`
	UserKey string      `json:"user"`
	ID      contract.ID `json:"id"`
	Alias   contract.ID `json:"alias"`
	// LastInput is the greatest last input told.
	LastInput int64 `json:"last"`
	// Stretch is the last input that a stretch could go on from; never after a break.
	Stretch   int64       `json:"stretch"`
	Instances []*instance `json:"instances,omitempty"`
	// Orphaned: it was found in the journal but not in the slot; only its user is known.
	Orphaned bool `json:"-"`

	// base is what holds for the whole session: rawBehind where nothing special does.
	base             raw
	baseReason       why
	inputUnsupported bool
	// access is where it is shown.
	access usagev1.SessionAccess
	// listed is the last list of processes; unmatched: some may not be attached yet.
	listed    []Process
	unmatched bool
	processes map[ProcessKey]*process
	byPID     map[int32]*process
	// lineage leads from a process to its parent as first seen, dead ones included
	// as long as a living process descends from them.
	lineage map[ProcessKey]ProcessKey
	exited  map[ProcessKey]int64
	// gone are, by their number, those of the list before that the last one does not have.
	gone map[int32]ProcessKey
	// brief came and went between two observations, or became the program that they ended
	// as, and are not attached yet.
	brief   []*process
	windows map[uint64]*window
	order   []uint64
	front   uint64
	// history is what the session was since remembered.
	remembered int64
	history    []piece
	told       told
	// toldWindows are those of the last SessionWindows.
	toldWindows []ShownWindow
}

type process struct {
	Process
	match    rules.Match
	matched  bool
	looked   bool
	attached bool
	// became: it was known before, when it ran another program.
	became bool
	// files is what was found out of files that titles name.
	files map[string]found
}

type window struct {
	Window
	// process is the key of the owner, known or not.
	process    ProcessKey
	known      bool
	executable string
	// owner is the window that decides to what this one belongs: itself, or the one
	// that it is a dialog of.
	owner   uint64
	match   rules.Match
	matched bool
	// said is what its title says of a document, and found what that is, whole.
	said  rules.Document
	found found
	// again is when to look for its file once more; never if not.
	again int64
	// document is the id of what is kept of it, and label what may be told of it;
	// named: there is such an id.
	document   contract.ID
	label      string
	named      bool
	recognised recognised
	// looked: it has been matched; stale: under a policy before this one, since titles
	// are not looked at while paused; attached: its instance has it.
	looked   bool
	stale    bool
	attached bool
}

// holder is what keeps an instance open: a process or, in window scope, a window.
type holder struct {
	Process ProcessKey `json:"p"`
	Window  uint64     `json:"w,omitempty"`
	// ByWindow: the process belongs to it only since a window of it matched.
	ByWindow bool        `json:"byWindow,omitempty"`
	Rule     contract.ID `json:"rule"`
}

func (h holder) isWindow() bool { return h.Window != 0 }

// instance is one run of one application.
type instance struct {
	ID          contract.ID            `json:"id"`
	Application contract.ID            `json:"app"`
	Scope       policyv1.InstanceScope `json:"scope"`
	Holders     []holder               `json:"holders,omitempty"`
	// Past are processes that held it and that living ones descend from.
	Past      []ProcessKey `json:"past,omitempty"`
	Track     *track       `json:"track"`
	Documents []*track     `json:"documents,omitempty"`
	// Orphaned: it was found in the journal but not in the slot, so its process is
	// not known.
	Orphaned bool `json:"-"`

	inFront       bool
	frontDocument contract.ID
	frontWindow   uint64
	lastDocument  contract.ID
	// exit is when its last holder exits within the step at hand; never if not.
	exit       int64
	exitReason usagev1.Reason
}

func (i *instance) holds(key ProcessKey) bool {
	return slices.ContainsFunc(i.Holders, func(h holder) bool { return !h.isWindow() && h.Process == key })
}

// tracks are the instance's own and its documents'.
func (i *instance) tracks(yield func(*track) bool) {
	if !yield(i.Track) {
		return
	}
	for _, d := range i.Documents {
		if !yield(d) {
			return
		}
	}
}
