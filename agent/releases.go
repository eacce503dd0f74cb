package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cetrus/cetrus/agent/release"
	"github.com/cetrus/cetrus/agent/uplink"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	signing "github.com/cetrus/cetrus/proto/release"
)

// ReleasesConfig lets an agent take releases of itself.
type ReleasesConfig struct {
	// Dir keeps them; only this agent, and whoever starts it, may use it.
	Dir string
	// Trust says whose releases are taken, and for which system.
	Trust release.Config
	// Trial: this run has to show that it is well, for the release that it is.
	Trial bool
	// WellFor is how long a trial lasts at least; 0: DefaultWellFor.
	WellFor time.Duration
	// BytesPerSecond bounds fetching; 0: DefaultReleaseBytesPerSecond.
	BytesPerSecond int64
	// OfflineAfter is how long a trial waits for a Manager before it looks whether any can
	// be reached at all; 0: DefaultOfflineAfter.
	OfflineAfter time.Duration
}

// Defaults of ReleasesConfig.
const (
	DefaultReleaseBytesPerSecond = 1 << 20
	DefaultWellFor               = 10 * time.Second
	DefaultOfflineAfter          = 30 * time.Second
)

const (
	// releasePiece is how much is asked for at once.
	releasePiece = 64 << 10
	// sayEvery is after how many bytes it is said how far fetching is.
	sayEvery = 2 << 20
	// wellAfter is how many observations a trial must have taken in.
	wellAfter = 3
	// trialLook is how often a trial looks whether it is well.
	trialLook = 50 * time.Millisecond
	// firstFetchPause and lastFetchPause bound the wait after a failure to fetch.
	firstFetchPause = 5 * time.Second
	lastFetchPause  = 10 * time.Minute
)

// ErrSwitch is what Run returns, after it has stopped in good order, where another program
// is to go on: the release that was fetched or, after a trial, this one without a guardian.
var ErrSwitch = errors.New("agent: another release is to go on")

// releasing is an agent's dealing with releases of itself. A nil one takes none.
type releasing struct {
	agent  *Agent
	config ReleasesConfig
	// due is closed when the agent is to stop for another program.
	due     chan struct{}
	dueOnce sync.Once

	mu       sync.Mutex // also guards the store
	store    *release.Store
	report   *agentv1.ReleaseReport
	observed int
}

func (a *Agent) openReleases() error {
	if a.config.Releases == nil {
		return nil
	}
	r := &releasing{agent: a, config: *a.config.Releases, due: make(chan struct{})}
	r.config.BytesPerSecond = cmp.Or(r.config.BytesPerSecond, DefaultReleaseBytesPerSecond)
	r.config.WellFor = cmp.Or(r.config.WellFor, DefaultWellFor)
	r.config.OfflineAfter = cmp.Or(r.config.OfflineAfter, DefaultOfflineAfter)
	disk, err := release.Dir(r.config.Dir)
	if err != nil {
		return err
	}
	var trouble error
	if r.store, trouble, err = release.Open(r.config.Trust, disk); err != nil {
		return err
	}
	if trouble != nil {
		a.log.Error("releases that were fetched are lost", "reason", trouble)
	}
	refused, reason := r.store.Refused()
	r.report = &agentv1.ReleaseReport{
		System: r.config.Trust.System, Architecture: r.config.Trust.Architecture,
		Number: r.store.Number(), State: agentv1.ReleaseState_RELEASE_STATE_CURRENT, Refused: refused,
	}
	if refused > r.report.GetNumber() {
		r.report.State, r.report.Target, r.report.Message = agentv1.ReleaseState_RELEASE_STATE_REFUSED, refused, shortened(reason)
	}
	if m, there := r.store.Trial(); there && r.config.Trial {
		r.report.Number, r.report.State, r.report.Target = m.Number, agentv1.ReleaseState_RELEASE_STATE_TRIAL, m.Number
	}
	a.releasing = r
	return nil
}

// shortened keeps a reason within what a report may hold.
func shortened(reason string) string { return reason[:min(len(reason), 1000)] }

// said is the report as it stands, nil where no releases are taken.
func (r *releasing) said() *agentv1.ReleaseReport {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	said := r.report
	return &agentv1.ReleaseReport{
		System: said.GetSystem(), Architecture: said.GetArchitecture(), Number: said.GetNumber(), State: said.GetState(),
		Target: said.GetTarget(), FetchedBytes: said.GetFetchedBytes(), SizeBytes: said.GetSizeBytes(),
		Refused: said.GetRefused(), Message: said.GetMessage(),
	}
}

func (r *releasing) say(state agentv1.ReleaseState, target uint64, fetched, size int64, message string) {
	r.mu.Lock()
	r.report.State, r.report.Target, r.report.Message = state, target, shortened(message)
	r.report.FetchedBytes, r.report.SizeBytes = uint64(fetched), uint64(size)
	r.mu.Unlock()
	r.agent.uplink.ShowHealth()
}

// see is told of each observation.
func (r *releasing) see() {
	if r == nil {
		return
	}
	r.mu.Lock()
	r.observed++
	r.mu.Unlock()
}

// stopping is closed when the agent is to stop for another program.
func (r *releasing) stopping() <-chan struct{} {
	if r == nil {
		return nil
	}
	return r.due
}

func (r *releasing) switchOver() { r.dueOnce.Do(func() { close(r.due) }) }

// switching tells whether the agent stops for another program.
func (r *releasing) switching() bool {
	select {
	case <-r.stopping():
		return true
	default:
		return false
	}
}

// take fetches what a Manager offers, as long as its connection lasts, and stages it.
func (r *releasing) take(ctx context.Context, offer *agentv1.ReleaseOffer, fetch uplink.Fetch) {
	if r.config.Trial || r.switching() {
		return // one after the other
	}
	signed := signing.Signed{Manifest: offer.GetManifest(), KeyID: offer.GetKeyId(), Ed25519: offer.GetSignature()}
	for pause := firstFetchPause; ; pause = min(2*pause, lastFetchPause) {
		r.mu.Lock()
		m, err := r.store.Judge(signed)
		r.mu.Unlock()
		if errors.Is(err, release.ErrRuns) {
			return
		}
		if err != nil {
			r.agent.log.ErrorContext(ctx, "an offered release is not taken", "reason", err)
			r.say(agentv1.ReleaseState_RELEASE_STATE_REFUSED, m.Number, 0, m.Size, err.Error())
			return
		}
		if err = r.fetch(ctx, signed, m, fetch); err == nil {
			r.agent.log.InfoContext(ctx, "a release is fetched and verified; the agent stops for it", "release", m)
			r.say(agentv1.ReleaseState_RELEASE_STATE_STAGED, m.Number, m.Size, m.Size, "")
			r.switchOver()
			return
		}
		if ctx.Err() != nil {
			return // it is offered again on the next connection, and goes on where it was
		}
		r.agent.log.WarnContext(ctx, "a release cannot be fetched", "release", m, "reason", err, "again_in", pause)
		r.say(agentv1.ReleaseState_RELEASE_STATE_FETCHING, m.Number, 0, m.Size, err.Error())
		if !sleep(ctx, pause) {
			return
		}
	}
}

func (r *releasing) fetch(ctx context.Context, signed signing.Signed, m signing.Manifest, fetch uplink.Fetch) error {
	f := fetching{store: r.store, guard: &r.mu, bytesPerSecond: r.config.BytesPerSecond, log: r.agent.log, say: func(at int64) {
		r.say(agentv1.ReleaseState_RELEASE_STATE_FETCHING, m.Number, at, m.Size, "")
	}}
	return f.run(ctx, signed, m, fetch)
}

// fetching fetches releases into a store.
type fetching struct {
	store *release.Store
	guard *sync.Mutex // of the store
	// bytesPerSecond bounds it.
	bytesPerSecond int64
	log            *slog.Logger
	say            func(at int64) // told how far it is
}

// run fetches what is missing of a release, and stages it.
func (f *fetching) run(ctx context.Context, signed signing.Signed, m signing.Manifest, fetch uplink.Fetch) error {
	f.guard.Lock()
	at, err := f.store.Fetched(m)
	f.guard.Unlock()
	if err != nil {
		return err
	}
	f.log.InfoContext(ctx, "fetching a release", "release", m, "bytes", m.Size, "from", at)
	sum := m.Sum()
	for said := int64(-sayEvery); at < m.Size; {
		began := time.Now()
		if at-said >= sayEvery {
			said = at
			f.say(at)
		}
		piece, err := fetch(ctx, sum[:], uint64(at), uint32(min(releasePiece, f.bytesPerSecond)))
		switch {
		case err != nil:
			return fmt.Errorf("agent: fetch a release: %w", err)
		case len(piece) == 0:
			return fmt.Errorf("agent: fetch a release: the Manager has %d bytes of it, and %d were signed", at, m.Size)
		case int64(len(piece)) > m.Size-at:
			return fmt.Errorf("agent: fetch a release: the Manager sent more than the %d bytes that were signed", m.Size)
		}
		f.guard.Lock()
		err = f.store.Take(m, piece)
		f.guard.Unlock()
		if err != nil {
			return err
		}
		at += int64(len(piece))
		if !sleep(ctx, time.Duration(len(piece))*time.Second/time.Duration(f.bytesPerSecond)-time.Since(began)) {
			return ctx.Err()
		}
	}
	f.guard.Lock()
	defer f.guard.Unlock()
	return f.store.Stage(signed)
}

// sleep waits, and tells whether the context lasted.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// prove watches a trial, and stops the agent for good news once it is well: the journal is open,
// the stored policy in force, the desktop was observed for a while, and a Manager has welcomed
// the agent, or none can be reached at all. It says nothing where that never comes: the
// guardian knows how long to wait.
func (r *releasing) prove(ctx context.Context) {
	if r == nil || !r.config.Trial {
		return
	}
	began := time.Now()
	for sleep(ctx, trialLook) {
		if time.Since(began) >= r.config.WellFor && r.well(ctx, time.Since(began) > r.config.OfflineAfter) {
			r.agent.log.InfoContext(ctx, "the release is well")
			r.switchOver()
			return
		}
	}
}

func (r *releasing) well(ctx context.Context, late bool) bool {
	a := r.agent
	r.mu.Lock()
	observed := r.observed
	r.mu.Unlock()
	a.mu.Lock()
	trouble := a.trouble
	a.mu.Unlock()
	if observed < wellAfter || trouble != "" {
		return false
	}
	if a.uplink.Status().Connected {
		return true
	}
	return late && !a.uplink.AnyReachable(ctx)
}
