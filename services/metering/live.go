package metering

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
)

const (
	// sweepEvery is how often silent sessions are looked for.
	sweepEvery = 250 * time.Millisecond
	// maxValid bounds how long a snapshot may claim to hold; agents claim 90 s and
	// renew after 30.
	maxValid = 5 * time.Minute
	// maxLiveSessions bounds an account's sessions in memory.
	maxLiveSessions = 100_000
	// endedMemory is how long an ended session's last serial is remembered, so
	// that a snapshot overtaken on the way does not bring it back.
	endedMemory = time.Minute
)

// liveView holds the last snapshot of each desktop session. It is provisional:
// lost with the process, and whole again after one heartbeat of every session.
type liveView struct {
	log      *slog.Logger
	mu       sync.Mutex
	accounts map[contract.ID]*liveAccount
}

type liveAccount struct {
	sessions map[contract.ID]*liveSession
	watchers map[*liveWatcher]struct{}
}

// liveSession is one session; its snapshot is not changed once it is here.
type liveSession struct {
	snapshot *usagev1.LiveSnapshot
	// expires is by this process's clock: a snapshot's own may be wrong.
	expires time.Time
	// ended sessions stay a while for the order of what comes late.
	ended bool
}

// liveWatcher is told which sessions have changed. What it has not fetched yet is
// a set, so a slow reader costs no memory and misses no last state.
type liveWatcher struct {
	changed map[contract.ID]struct{}
	wake
	// ownOnly: it sees the sessions of these principals and no others. No wall of PostgreSQL
	// stands around this memory.
	ownOnly bool
	own     []contract.ID
	// shown are the sessions that it was handed.
	shown map[contract.ID]struct{}
}

// sees tells whether whoever watches may see a session.
func (w *liveWatcher) sees(s *usagev1.LiveSnapshot) bool {
	return !w.ownOnly || slices.Contains(w.own, principalOf(s))
}

// principalOf is whose a session is: before the Manager's binding is known, by its alias.
func principalOf(s *usagev1.LiveSnapshot) contract.ID {
	for _, text := range [][]byte{s.GetPrincipalId(), s.GetPrincipalAlias()} {
		if id, err := contract.IDFrom(text); err == nil && !id.IsZero() {
			return id
		}
	}
	return contract.ID{}
}

func newLiveView(log *slog.Logger) *liveView {
	return &liveView{log: log, accounts: make(map[contract.ID]*liveAccount)}
}

// run listens until ctx ends.
func (v *liveView) run(ctx context.Context, nc *nats.Conn, aside *aside) error {
	return listen(ctx, nc, aside, channel{subjects: contract.LiveSubjects, what: "a live snapshot", room: 8192},
		func() {}, checked(aside, v.take), sweepEvery, v.expire)
}

// take takes in one snapshot.
func (v *liveView) take(account contract.ID, snapshot *usagev1.LiveSnapshot, now time.Time) {
	session, err := contract.IDFrom(snapshot.GetSessionId())
	if err != nil {
		v.log.Warn("a live snapshot names no session", "account", account.String(), "error", err)
		return
	}
	valid := time.Duration(min(snapshot.GetValidMillis(), maxValid.Milliseconds())) * time.Millisecond

	v.mu.Lock()
	defer v.mu.Unlock()
	a := v.account(account)
	old := a.sessions[session]
	if old != nil && !newer(snapshot, old.snapshot) {
		return
	}
	if old == nil && len(a.sessions) >= maxLiveSessions {
		v.log.Warn("an account has too many live sessions: one is not shown", "account", account.String(), "limit", maxLiveSessions)
		return
	}
	s := &liveSession{snapshot: snapshot, expires: now.Add(valid)}
	if snapshot.GetEnded() || valid <= 0 {
		s.ended, s.expires = true, now.Add(endedMemory)
	}
	a.sessions[session] = s
	if old == nil || old.ended != s.ended || !sameUse(old.snapshot, snapshot) {
		a.tell(session)
	}
}

// sameUse tells whether two snapshots of a session differ in nothing that a reader
// is shown: a heartbeat is no change.
func sameUse(a, b *usagev1.LiveSnapshot) bool {
	return slices.EqualFunc(a.GetOpen(), b.GetOpen(), func(x, y *usagev1.OpenInstance) bool { return proto.Equal(x, y) }) &&
		slices.EqualFunc(a.GetNames(), b.GetNames(), func(x, y *usagev1.SealedName) bool { return proto.Equal(x, y) }) &&
		a.GetSessionAccess() == b.GetSessionAccess() &&
		bytes.Equal(a.GetPrincipalId(), b.GetPrincipalId()) && bytes.Equal(a.GetPrincipalAlias(), b.GetPrincipalAlias()) &&
		bytes.Equal(a.GetMachineId(), b.GetMachineId()) && a.GetMachine().GetHostName() == b.GetMachine().GetHostName()
}

// together tells, by agent, which others tell of sessions on the same machine, or
// on one of the same name: an agent with another data directory counts as another
// machine. Only those that are not alone are in it.
func (v *liveView) together(account contract.ID) map[string][]string {
	v.mu.Lock()
	on := make(map[string]map[string]bool) // agents by machine or host
	if a := v.accounts[account]; a != nil {
		for _, s := range a.sessions {
			agent, err := contract.IDFrom(s.snapshot.GetAgentId())
			if err != nil || s.ended {
				continue
			}
			keys := []string{"id " + string(s.snapshot.GetMachineId())}
			if host := s.snapshot.GetMachine().GetHostName(); host != "" {
				keys = append(keys, "host "+strings.ToLower(host))
			}
			for _, key := range keys {
				if on[key] == nil {
					on[key] = make(map[string]bool)
				}
				on[key][agent.String()] = true
			}
		}
	}
	v.mu.Unlock()
	others := make(map[string][]string)
	for _, agents := range on {
		for one := range agents {
			for other := range agents {
				if other != one && !slices.Contains(others[one], other) {
					others[one] = append(others[one], other)
				}
			}
		}
	}
	for _, list := range others {
		slices.Sort(list)
	}
	return others
}

// newer orders two snapshots of a session. Within one start of the agent its
// serial decides; between two, the agent's own clock.
func newer(a, b *usagev1.LiveSnapshot) bool {
	if a.GetRunId() == b.GetRunId() {
		return a.GetSerial() > b.GetSerial()
	}
	return a.GetObservedUtcMillis() >= b.GetObservedUtcMillis()
}

// expire ends sessions that went silent.
func (v *liveView) expire(now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, a := range v.accounts {
		for session, s := range a.sessions {
			if now.Before(s.expires) {
				continue
			}
			delete(a.sessions, session)
			if !s.ended {
				a.tell(session)
			}
		}
		if len(a.sessions) == 0 && len(a.watchers) == 0 {
			delete(v.accounts, id)
		}
	}
}

func (v *liveView) account(id contract.ID) *liveAccount {
	a := v.accounts[id]
	if a == nil {
		a = &liveAccount{sessions: make(map[contract.ID]*liveSession), watchers: make(map[*liveWatcher]struct{})}
		v.accounts[id] = a
	}
	return a
}

func (a *liveAccount) tell(session contract.ID) {
	for w := range a.watchers {
		w.changed[session] = struct{}{}
		w.soon()
	}
}

// watch begins to watch an account for whoever asks in ctx, who may see only what is their
// own: every session that is there counts as changed.
func (v *liveView) watch(ctx context.Context, account contract.ID) *liveWatcher {
	w := &liveWatcher{changed: make(map[contract.ID]struct{}), wake: newWake(), shown: make(map[contract.ID]struct{})}
	w.own, w.ownOnly = authn.OwnOnly(ctx)
	v.mu.Lock()
	defer v.mu.Unlock()
	a := v.account(account)
	for session, s := range a.sessions {
		if !s.ended {
			w.changed[session] = struct{}{}
		}
	}
	a.watchers[w] = struct{}{}
	return w
}

func (v *liveView) unwatch(account contract.ID, w *liveWatcher) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if a := v.accounts[account]; a != nil {
		delete(a.watchers, w)
	}
}

// fetch returns what has changed since the last fetch: the sessions that are there and may
// be seen, and the ids of those that were, and are gone.
func (v *liveView) fetch(account contract.ID, w *liveWatcher) (there []*usagev1.LiveSnapshot, gone []contract.ID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	a := v.account(account)
	for session := range w.changed {
		if s := a.sessions[session]; s != nil && !s.ended && w.sees(s.snapshot) {
			there = append(there, s.snapshot)
			w.shown[session] = struct{}{}
		} else if _, was := w.shown[session]; was {
			gone = append(gone, session)
			delete(w.shown, session)
		}
	}
	clear(w.changed)
	return there, gone
}
