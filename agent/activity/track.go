package activity

import (
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// raw is what is known of a piece of time before stretches of input are judged.
type raw uint8

const (
	rawBehind raw = iota
	rawFront
	rawAway
	rawPaused
	rawUnknown
	rawSuspended
)

// breaks tells whether a stretch of input cannot go on through such a piece.
func (r raw) breaks() bool { return r >= rawAway }

// piece is a half-open stretch of boot time in which one raw class holds.
type piece struct {
	Raw    raw   `json:"r"`
	Reason why   `json:"w,omitzero"`
	From   int64 `json:"f"`
	To     int64 `json:"t"`
	// Busy and Touch are set once it is decided: the session was in a stretch; there
	// was an input at From.
	Busy  bool `json:"b,omitempty"`
	Touch bool `json:"i,omitempty"`
	// Access is where the session was shown; of a session's history alone.
	Access usagev1.SessionAccess `json:"-"`
}

// settings are what holds for a track from a moment on: what policy says, and where its
// session is shown.
type settings struct {
	Rule     contract.ID           `json:"rule"`
	Revision uint64                `json:"rev"`
	Gap      int64                 `json:"g"`
	Timeout  int64                 `json:"t"`
	Access   usagev1.SessionAccess `json:"access,omitempty"`
}

// settingsChange is a change that decided time has not reached yet.
type settingsChange struct {
	At       int64    `json:"at"`
	Cut      bool     `json:"cut,omitempty"`
	Settings settings `json:"s"`
}

// never is a time that is not there.
const never = int64(-1)

// track is the timeline of one open instance or document. It is fed with raw
// pieces without gaps, and with the session's inputs; it decides what no later
// input can change, and emits events.
//
// Invariant: where lastInput is there, everything before it is decided, and what
// waits lies in [lastInput, cursor), no longer than the gap.
type track struct {
	Document contract.ID `json:"doc"`
	// Window is the owner of a document that has no name; else 0.
	Window uint64 `json:"win,omitempty"`
	// Recognised is how its document was found out when it opened.
	Recognised recognised `json:"rec,omitzero"`
	Opened     int64      `json:"opened"`
	// Closed is when it closed; never while it is open. Nothing at or behind it is
	// decided, since an instance may still be continued by a hand-over.
	Closed      int64          `json:"closed"`
	CloseReason usagev1.Reason `json:"why,omitempty"`
	Cursor      int64          `json:"cursor"`
	Waiting     []piece        `json:"waiting,omitempty"`
	LastInput   int64          `json:"input"`
	// Touched is the last input counted here: a busy moment, if in front then.
	Touched int64 `json:"touched"`

	Started   bool              `json:"started,omitempty"`
	Done      bool              `json:"done,omitempty"`
	Attention usagev1.Attention `json:"att,omitempty"`
	State     usagev1.State     `json:"state,omitempty"`
	Reason    why               `json:"reason,omitzero"`
	Since     int64             `json:"since"`
	// Entered is what the open interval began under.
	Entered settings `json:"entered"`
	// Counted is the time towards the timeout since the last busy moment.
	Counted  int64            `json:"counted"`
	TimedOut bool             `json:"timedOut,omitempty"`
	Settings settings         `json:"settings"`
	Changes  []settingsChange `json:"changes,omitempty"`

	// Ready is decided, and waits until the events of an earlier track are out.
	Ready []piece `json:"ready,omitempty"`
	// after is that earlier track: a closed one of the same document.
	after *track
	// live is what was last told in a snapshot.
	live liveStatus
}

func newTrack(document contract.ID, opened int64, s settings) *track {
	return &track{
		Document: document, Opened: opened, Closed: never, Cursor: opened, Since: opened,
		LastInput: never, Touched: never, Settings: s,
	}
}

// gap is the activity gap in force at the cursor.
func (t *track) gap() int64 {
	if n := len(t.Changes); n > 0 {
		return t.Changes[n-1].Settings.Gap
	}
	return t.Settings.Gap
}

// latest are the settings in force at the cursor.
func (t *track) latest() settings {
	if n := len(t.Changes); n > 0 {
		return t.Changes[n-1].Settings
	}
	return t.Settings
}

// change makes new settings hold from the cursor on.
func (t *track) change(s settings, cut bool) {
	t.Changes = append(t.Changes, settingsChange{At: t.Cursor, Settings: s, Cut: cut})
}

// show says where the session is shown from the cursor on, which cuts what is open.
func (t *track) show(access usagev1.SessionAccess) {
	if now := t.latest(); now.Access != access {
		now.Access = access
		t.change(now, true)
	}
}

// feed says what held from the cursor to a later moment.
func (t *track) feed(e *emitter, r raw, reason why, to int64) {
	if to <= t.Cursor || t.Done {
		return
	}
	if r.breaks() {
		t.endStretch(e)
	}
	if n := len(t.Waiting); n > 0 && t.Waiting[n-1].Raw == r && t.Waiting[n-1].Reason == reason {
		t.Waiting[n-1].To = to
	} else {
		t.Waiting = append(t.Waiting, piece{Raw: r, Reason: reason, From: t.Cursor, To: to})
	}
	t.Cursor = to
	t.judge(e)
}

// judge decides all that waits once no input can lengthen the stretch any more: an
// input at the cursor itself may still be told.
func (t *track) judge(e *emitter) {
	if t.LastInput >= 0 && t.Cursor > t.LastInput+t.gap() {
		t.LastInput = never
	}
	if t.LastInput < 0 {
		t.decide(e, t.Cursor, false)
	}
}

// endStretch decides all that waits as not busy.
func (t *track) endStretch(e *emitter) {
	t.LastInput = never
	t.decide(e, t.Cursor, false)
}

// input says that the session had an input at the cursor.
func (t *track) input(e *emitter) {
	t.decide(e, t.Cursor, t.LastInput >= 0)
	t.LastInput, t.Touched = t.Cursor, t.Cursor
}

// reopen continues a closed track, as if it had been in the background.
func (t *track) reopen(e *emitter) {
	t.CloseReason = 0
	t.goOn(e, never)
}

// goOnUntil continues a closed track up to a moment that has passed, as if it had been in
// the background.
func (t *track) goOnUntil(e *emitter, at int64) {
	if at > t.Closed {
		t.goOn(e, at)
	}
}

func (t *track) goOn(e *emitter, closed int64) {
	t.Closed = closed
	// What was fed since is not in front, so it needs no input to decide.
	if t.LastInput >= 0 {
		t.decide(e, t.LastInput, false)
	}
	t.judge(e)
}

// close ends the track at the cursor or before.
func (t *track) close(at int64, reason usagev1.Reason) {
	if t.Closed == never {
		t.Closed, t.CloseReason = at, reason
	}
}

// decided tells how far events have been decided.
func (t *track) decided() int64 {
	if len(t.Waiting) > 0 {
		return t.Waiting[0].From
	}
	return t.Cursor
}

// finish emits the closing once everything before it is decided.
func (t *track) finish(e *emitter) bool {
	if t.Done || t.Closed == never {
		return t.Done
	}
	if !t.flush(e) || t.decided() < t.Closed {
		return false
	}
	t.Done = true
	t.Waiting = nil
	if t.Started {
		e.emit(t, t.Closed, usagev1.Transition_TRANSITION_CLOSED, 0, 0, because(t.CloseReason))
	}
	return true
}

// decide makes final what waits up to a moment; what is in front there is busy or not.
func (t *track) decide(e *emitter, to int64, busy bool) {
	direct := t.flush(e)
	for len(t.Waiting) > 0 && t.Waiting[0].From < to {
		p := t.Waiting[0]
		end := min(p.To, to)
		if t.Closed != never {
			if p.From >= t.Closed {
				return
			}
			end = min(end, t.Closed)
		}
		done := piece{Raw: p.Raw, Reason: p.Reason, From: p.From, To: end, Busy: busy, Touch: p.Raw == rawFront && p.From == t.Touched}
		if direct {
			t.settle(e, done)
		} else {
			t.Ready = append(t.Ready, done)
		}
		if end == p.To {
			t.Waiting = t.Waiting[1:]
		} else {
			t.Waiting[0].From = end
		}
	}
	if len(t.Waiting) == 0 {
		t.Waiting = nil
	}
}

// flush settles what was ready, unless an earlier track still has events to give.
func (t *track) flush(e *emitter) bool {
	if t.after != nil && !t.after.Done {
		return false
	}
	t.after = nil
	for _, p := range t.Ready {
		t.settle(e, p)
	}
	t.Ready = nil
	return true
}

// settle writes one decided piece, split at cuts, policy changes and the timeout.
func (t *track) settle(e *emitter, p piece) {
	attention := attentionOf(p.Raw, p.Busy)
	busy := attention == usagev1.Attention_ATTENTION_BUSY
	for at := p.From; at < p.To; {
		cut := at > t.Since && e.anchors.isCut(at)
		for len(t.Changes) > 0 && t.Changes[0].At <= at {
			cut = cut || t.Changes[0].Cut && at > t.Since
			t.Settings = t.Changes[0].Settings
			t.Changes = t.Changes[1:]
		}
		if busy || at == p.From && p.Touch {
			t.Counted, t.TimedOut = 0, false
		}
		if !busy && t.Counted >= t.Settings.Timeout {
			t.TimedOut = true
		}
		t.enter(e, at, attention, stateOf(busy, t.TimedOut), p.Reason, cut)

		next := min(p.To, e.anchors.nextCut(at))
		if len(t.Changes) > 0 {
			next = min(next, t.Changes[0].At)
		}
		if counts(attention) && !t.TimedOut {
			next = min(next, at+t.Settings.Timeout-t.Counted)
		}
		if counts(attention) {
			t.Counted += next - at
		}
		at = next
	}
}

// enter begins an interval where something differs from the open one, or cuts it.
func (t *track) enter(e *emitter, at int64, attention usagev1.Attention, state usagev1.State, reason why, cut bool) {
	transition := usagev1.Transition_TRANSITION_CHANGED
	switch {
	case !t.Started:
		transition = usagev1.Transition_TRANSITION_OPENED
		t.Started = true
	case state == usagev1.State_STATE_TIMEOUT && t.State != state:
		transition = usagev1.Transition_TRANSITION_TIMED_OUT
	case attention != t.Attention || state != t.State || reason != t.Reason:
	case cut:
		transition = usagev1.Transition_TRANSITION_CUT
	default:
		return
	}
	if transition == usagev1.Transition_TRANSITION_OPENED {
		t.Entered = t.Settings
	}
	e.emit(t, at, transition, attention, state, reason)
	t.Attention, t.State, t.Reason, t.Since, t.Entered = attention, state, reason, at, t.Settings
}

// counts tells whether time in this attention counts towards the timeout.
func counts(a usagev1.Attention) bool {
	switch a {
	case usagev1.Attention_ATTENTION_AWAY, usagev1.Attention_ATTENTION_IDLE, usagev1.Attention_ATTENTION_BACKGROUND:
		return true
	default:
		return false
	}
}

func attentionOf(r raw, busy bool) usagev1.Attention {
	switch r {
	case rawSuspended:
		return usagev1.Attention_ATTENTION_SUSPENDED
	case rawUnknown:
		return usagev1.Attention_ATTENTION_UNKNOWN
	case rawPaused:
		return usagev1.Attention_ATTENTION_PAUSED
	case rawAway:
		return usagev1.Attention_ATTENTION_AWAY
	case rawFront:
		if busy {
			return usagev1.Attention_ATTENTION_BUSY
		}
		return usagev1.Attention_ATTENTION_IDLE
	default:
		return usagev1.Attention_ATTENTION_BACKGROUND
	}
}

func stateOf(busy, timedOut bool) usagev1.State {
	switch {
	case busy:
		return usagev1.State_STATE_ACTIVE
	case timedOut:
		return usagev1.State_STATE_TIMEOUT
	default:
		return usagev1.State_STATE_INACTIVE
	}
}
