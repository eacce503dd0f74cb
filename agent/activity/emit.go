package activity

import (
	"bytes"
	"encoding/binary"
	"io"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// schemaVersion of the usage events that this package writes.
const schemaVersion = 1

// emitter writes the events of one instance.
type emitter struct {
	machine  *Machine
	session  *session
	instance *instance
	anchors  anchors
}

func (m *Machine) emitter(s *session, i *instance) *emitter {
	return &emitter{machine: m, session: s, instance: i, anchors: m.anchors}
}

// emit writes an event about a track, whose open interval it closes.
func (e *emitter) emit(t *track, at int64, transition usagev1.Transition, attention usagev1.Attention, state usagev1.State, reason why) {
	m := e.machine
	event := &usagev1.UsageEvent{
		SchemaVersion:  schemaVersion,
		EventId:        m.newEventID(),
		SourceKind:     usagev1.SourceKind_SOURCE_KIND_AGENT,
		BootId:         bytes.Clone(m.bootID[:]),
		RuleId:         bytes.Clone(t.Entered.Rule[:]),
		ApplicationId:  e.instance.Application[:],
		PolicyRevision: t.Entered.Revision,
		PrincipalAlias: e.session.Alias[:],
		SessionId:      e.session.ID[:],
		InstanceId:     e.instance.ID[:],
		Transition:     transition,
		Attention:      attention,
		State:          state,
		AtBootMillis:   at,
		Reason:         reason.Reason,
		PauseReason:    reason.Pause,
	}
	if transition != usagev1.Transition_TRANSITION_CLOSED {
		event.SessionAccess = t.Settings.Access
	}
	if !t.Document.IsZero() {
		event.DocumentId = t.Document[:]
		event.DocumentSource, event.DocumentConfidence = t.Recognised.Source, t.Recognised.Confidence
		event.DocumentUnsaved = t.Recognised.Unsaved
	}
	placed := at
	if transition != usagev1.Transition_TRANSITION_OPENED {
		placed = t.Since
		event.Closed = &usagev1.Interval{
			Attention: t.Attention, State: t.State, Reason: t.Reason.Reason, PauseReason: t.Reason.Pause,
			FromBootMillis: t.Since, ToBootMillis: at, SessionAccess: t.Entered.Access,
		}
	}
	a := e.anchors.at(placed)
	event.AnchorId = a.ID
	m.name(a)
	m.out.Events = append(m.out.Events, event)
}

// name adds an anchor to the output, since an event names it.
func (m *Machine) name(a anchor) {
	for _, there := range m.out.Anchors {
		if there.GetAnchorId() == a.ID {
			return
		}
	}
	m.out.Anchors = append(m.out.Anchors, a.message(m.bootID))
}

// newID draws a random id.
func (m *Machine) newID() contract.ID {
	var id contract.ID
	m.read(id[:])
	return id
}

// newEventID is a UUIDv7 at the wall clock of the observation.
func (m *Machine) newEventID() []byte {
	id := make([]byte, 16)
	m.read(id[6:])
	var millis [8]byte
	binary.BigEndian.PutUint64(millis[:], uint64(m.utc))
	copy(id[:6], millis[2:])
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	return id
}

// read fills b from the source of randomness. crypto/rand cannot fail; another source
// that does is a fault of the program.
func (m *Machine) read(b []byte) {
	if _, err := io.ReadFull(m.random, b); err != nil {
		panic("activity: the source of randomness failed: " + err.Error())
	}
}
