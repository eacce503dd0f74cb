package activity

import (
	"bytes"
	"slices"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// liveStatus is what a snapshot last told of a track.
type liveStatus struct {
	told      bool
	attention usagev1.Attention
	state     usagev1.State
	since     int64
}

// told is what a snapshot last told of a session.
type told struct {
	open   []*usagev1.OpenInstance
	access usagev1.SessionAccess
	any    bool
}

// see brings the provisional status of a track up to a moment: what waits counts as
// busy until it is decided.
func (t *track) see(now int64, class raw, inFront, inputUnsupported bool) liveStatus {
	switch {
	case class.breaks():
	case inFront && inputUnsupported:
		class = rawUnknown
	case inFront:
		class = rawFront
	}
	attention := attentionOf(class, t.LastInput >= 0)
	counted, timedOut := t.Counted, t.TimedOut
	for _, p := range append(slices.Clone(t.Ready), t.Waiting...) {
		switch {
		case p.Raw == rawFront:
			counted, timedOut = 0, false
		case counts(attentionOf(p.Raw, false)):
			counted += p.To - p.From
		}
	}
	timedOut = timedOut || counted >= t.latest().Timeout
	busy := attention == usagev1.Attention_ATTENTION_BUSY
	status := liveStatus{told: true, attention: attention, state: stateOf(busy, timedOut), since: t.live.since}
	switch {
	case !t.live.told:
		status.since = t.enteredAt(class, now)
	case t.live.attention == attention:
	case t.live.attention == usagev1.Attention_ATTENTION_BUSY && attention == usagev1.Attention_ATTENTION_IDLE:
		status.since = max(status.since, t.Touched)
	case busy:
		status.since = max(status.since, t.LastInput)
	default:
		status.since = now
	}
	t.live = status
	return status
}

// enteredAt is since when a class has held without a break, now where it did not before:
// for a track that is new, or that was taken over from a crash slot.
func (t *track) enteredAt(class raw, now int64) int64 {
	since := now
	for _, p := range slices.Backward(append(slices.Clone(t.Ready), t.Waiting...)) {
		if p.Raw != class {
			return since
		}
		since = p.From
	}
	if t.Started && (t.Attention == attentionOf(class, false) || t.Attention == attentionOf(class, true)) {
		return t.Since
	}
	return since
}

// snapshot shows one session.
func (m *Machine) snapshot(s *session) *usagev1.LiveSnapshot {
	snapshot := &usagev1.LiveSnapshot{
		SessionId: bytes.Clone(s.ID[:]), PrincipalAlias: bytes.Clone(s.Alias[:]),
		ObservedUtcMillis: m.utc, ValidMillis: LiveValid, SessionAccess: s.access,
	}
	for _, i := range s.Instances {
		if i.Track.Closed != never || len(snapshot.GetOpen()) == maxLiveInstances {
			continue
		}
		status := i.Track.see(m.now, s.base, i.inFront, s.inputUnsupported)
		open := &usagev1.OpenInstance{
			InstanceId: i.ID[:], ApplicationId: i.Application[:],
			Attention: status.attention, State: status.state,
			SinceUtcMillis:  m.anchors.at(status.since).utc(status.since),
			OpenedUtcMillis: m.anchors.at(i.Track.Opened).utc(i.Track.Opened),
		}
		rule := i.Track.latest().Rule
		open.RuleId = bytes.Clone(rule[:])
		document := i.lastDocument
		if !document.IsZero() && slices.ContainsFunc(i.Documents, func(d *track) bool { return d.Document == document && d.Closed == never }) {
			open.DocumentId = bytes.Clone(document[:])
		}
		snapshot.Open = append(snapshot.Open, open)
	}
	return snapshot
}

// maxLiveInstances is the greatest number of instances that a snapshot may hold.
const maxLiveInstances = 1000

// tellLive adds the snapshots of sessions in which something changed.
func (m *Machine) tellLive() {
	if !m.watching {
		return
	}
	for _, s := range m.sessions {
		snapshot := m.snapshot(s)
		same := slices.EqualFunc(snapshot.GetOpen(), s.told.open, func(a, b *usagev1.OpenInstance) bool {
			return bytes.Equal(a.GetInstanceId(), b.GetInstanceId()) && a.GetAttention() == b.GetAttention() && a.GetState() == b.GetState() &&
				a.GetSinceUtcMillis() == b.GetSinceUtcMillis() && bytes.Equal(a.GetDocumentId(), b.GetDocumentId())
		})
		if same && s.told.any && s.told.access == s.access {
			continue
		}
		s.told = told{open: snapshot.GetOpen(), access: s.access, any: true}
		m.out.Live = append(m.out.Live, snapshot)
	}
}

// tellEnded says that a session is over.
func (m *Machine) tellEnded(s *session) {
	if len(s.toldWindows) > 0 {
		m.out.Windows = append(m.out.Windows, SessionWindows{SessionID: s.ID})
	}
	m.out.Live = append(m.out.Live, &usagev1.LiveSnapshot{
		SessionId: bytes.Clone(s.ID[:]), PrincipalAlias: bytes.Clone(s.Alias[:]),
		ObservedUtcMillis: m.utc, ValidMillis: LiveValid, Ended: true,
	})
}

// Live gives a snapshot of every session, for the heartbeat and new connections.
func (m *Machine) Live() []*usagev1.LiveSnapshot {
	var all []*usagev1.LiveSnapshot
	for _, s := range m.sessions {
		all = append(all, m.snapshot(s))
	}
	return all
}

// SessionKey is the desktop's key of a session that is there; empty: none is.
func (m *Machine) SessionKey(id []byte) string {
	for _, s := range m.sessions {
		if string(s.ID[:]) == string(id) {
			return s.Key
		}
	}
	return ""
}
