package forward

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/buffer"
	"github.com/cetrus/cetrus/manager/internal/durable"
)

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 2 * time.Second
	// A stopped forwarder looks again this often: somebody may have put things
	// right on the platform.
	stoppedRetry = 15 * time.Second
	savePeriod   = time.Second
	tendPeriod   = 10 * time.Second
	// How long the platform may take to answer a question, and to store a message.
	askPatience = 5 * time.Second
	patience    = 15 * time.Second
	// Headers and protocol around a message.
	headroom = 16 << 10
)

// ErrForeign says that the platform's last message is not of this buffer.
var ErrForeign = errors.New("the platform's last message is not of this buffer")

var (
	errDisconnected = errors.New("not connected")
	// What stands where may have changed: a tail was lost, or a takeover began.
	errReborn = errors.New("the buffer has another identity")
)

// Source is the buffer.
type Source interface {
	Next(ctx context.Context, lane usagev1.Lane, from uint64) (buffer.Message, error)
	StoredAt(ctx context.Context, position uint64) (time.Time, error)
	Changed() <-chan struct{}
	State() buffer.State
	Segments() []buffer.Segment
	Rebirth(from uint64) error
	Release(ctx context.Context, through uint64) error
}

// Config is what a Forwarder needs to know.
type Config struct {
	AccountID, ManagerID contract.ID
	// StatePath is the file that remembers how far it came.
	StatePath string
	// KeepFor is how long forwarded messages stay in the buffer, KeepBytes how
	// much of them.
	KeepFor   time.Duration
	KeepBytes int64
	// Log takes what the forwarder has to say.
	Log *slog.Logger
}

// Phase is what a lane is doing.
type Phase string

// The phases of a lane.
const (
	// PhaseWaiting: the platform has not been reached.
	PhaseWaiting Phase = "waiting for the platform"
	// PhaseForwarding: all is well.
	PhaseForwarding Phase = "forwarding"
	// PhaseStopped: an explicit takeover is needed.
	PhaseStopped Phase = "stopped"
)

// LaneState is how one lane is doing.
type LaneState struct {
	Lane    usagev1.Lane
	Subject string
	Phase   Phase
	// Trouble says why the phase is not forwarding; empty otherwise.
	Trouble string
	// Cursor is the last position of the lane that the platform has.
	Cursor uint64
	// Level is the position up to which the lane has nothing left to send.
	Level uint64
	// Published counts messages, Positions what they held, Rewinds how often the
	// platform had lost a tail.
	Published, Positions, Rewinds uint64
	LastPublished                 time.Time
	// Lost are positions that the platform lost and this buffer keeps no more.
	Lost []buffer.Loss
}

// Forwarder forwards. Make it with New.
type Forwarder struct {
	config Config
	source Source
	log    *slog.Logger
	lanes  []*lane

	mu     sync.Mutex
	dirty  bool
	asked  chan struct{} // closed when a takeover is asked for
	broken chan struct{} // closed when the connection breaks
}

type lane struct {
	*Forwarder
	lane    usagev1.Lane
	subject string

	// Guarded by Forwarder.mu.
	state    LaneState
	created  time.Time // of the platform's stream, when the lane saw it last
	sequence uint64    // of that stream: the lane's last message there; 0 if not known
	adopted  adoption
	takeover bool // the next foreign last message may be followed
}

// adoption is a foreign last message that may be followed, and where.
type adoption struct {
	Sequence uint64 `json:"sequence"`
	ID       string `json:"id"`
	// From is the first of the lane's positions behind it.
	From uint64 `json:"from"`
}

type stateFile struct {
	Lanes map[string]laneFile `json:"lanes"`
}

type laneFile struct {
	Cursor   uint64        `json:"cursor"`
	Level    uint64        `json:"level"`
	Created  time.Time     `json:"stream_created,omitzero"`
	Sequence uint64        `json:"sequence,omitempty"`
	Adopted  adoption      `json:"adoption,omitzero"`
	Takeover bool          `json:"takeover,omitempty"`
	Lost     []buffer.Loss `json:"lost,omitempty"`
}

// New makes a forwarder. A damaged state file is no error: the platform's last
// message tells how far it came, and where there is none everything kept is sent.
func New(config Config, source Source) (*Forwarder, error) {
	if config.Log == nil {
		config.Log = slog.Default()
	}
	f := &Forwarder{config: config, source: source, log: config.Log.With("part", "forward"), asked: make(chan struct{}), broken: make(chan struct{})}
	for _, l := range []usagev1.Lane{usagev1.Lane_LANE_USAGE, usagev1.Lane_LANE_CHOICE} {
		subject := contract.AgentSubject(config.AccountID, config.ManagerID, l)
		f.lanes = append(f.lanes, &lane{Forwarder: f, lane: l, subject: subject, state: LaneState{Lane: l, Subject: subject, Phase: PhaseWaiting}})
	}
	stored, err := loadState(config.StatePath)
	if errors.Is(err, durable.ErrDamaged) {
		f.log.Error("the forwarder's state is damaged: what the platform has is asked for instead", "error", err)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("forward: %w", err)
	}
	last := source.State().LastPosition
	for _, l := range f.lanes {
		remembered := stored.Lanes[l.lane.String()]
		// A cursor ahead of the buffer belongs to positions that were lost.
		l.state.Cursor, l.state.Lost = min(remembered.Cursor, last), remembered.Lost
		l.state.Level = min(max(remembered.Level, remembered.Cursor), last)
		l.created, l.sequence, l.adopted, l.takeover = remembered.Created, remembered.Sequence, remembered.Adopted, remembered.Takeover
	}
	return f, nil
}

func loadState(path string) (stateFile, error) {
	var s stateFile
	raw, err := durable.Read(path)
	if err == nil {
		if err = json.Unmarshal(raw, &s); err != nil {
			err = fmt.Errorf("%s: %w: %v", path, durable.ErrDamaged, err)
		}
	}
	return s, err
}

// save writes the state file if there is something new.
func (f *Forwarder) save() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.dirty {
		return nil
	}
	s := stateFile{Lanes: make(map[string]laneFile)}
	for _, l := range f.lanes {
		s.Lanes[l.lane.String()] = laneFile{Cursor: l.state.Cursor, Level: l.state.Level, Created: l.created, Sequence: l.sequence, Adopted: l.adopted, Takeover: l.takeover, Lost: l.state.Lost}
	}
	raw, err := json.MarshalIndent(s, "", "  ")
	if err == nil {
		err = durable.Replace(f.config.StatePath, raw)
	}
	if err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	f.dirty = false
	return nil
}

// Run forwards over a connection until the context ends.
func (f *Forwarder) Run(ctx context.Context, nc *nats.Conn) error {
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncTimeout(patience), jetstream.WithDefaultTimeout(patience))
	if err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	defer js.CleanupPublisher()
	broken := nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	defer nc.RemoveStatusListener(broken)
	var wg sync.WaitGroup
	wg.Go(func() { f.watch(ctx, broken) })
	for _, l := range f.lanes {
		wg.Go(func() { l.run(ctx, nc, js) })
	}
	wg.Wait()
	return errors.Join(ctx.Err(), f.save())
}

// watch makes lanes look again at what the platform has when the connection broke.
func (f *Forwarder) watch(ctx context.Context, broken <-chan nats.Status) {
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-broken:
			if !ok {
				return
			}
		}
		f.mu.Lock()
		close(f.broken)
		f.broken = make(chan struct{})
		f.mu.Unlock()
	}
}

// Tend saves the state and releases what was forwarded and is old enough, until
// the context ends. It needs no platform.
func (f *Forwarder) Tend(ctx context.Context) error {
	save := time.NewTicker(savePeriod)
	defer save.Stop()
	tend := time.NewTicker(tendPeriod)
	defer tend.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return f.save()
		case <-save.C:
			err = f.save()
		case <-tend.C:
			err = f.release(ctx)
		}
		if err != nil && ctx.Err() == nil {
			f.log.Error("keeping the forwarder's house", "error", err)
		}
	}
}

// State tells how each lane is doing.
func (f *Forwarder) State() []LaneState {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]LaneState, 0, len(f.lanes))
	for _, l := range f.lanes {
		out = append(out, l.state)
	}
	return out
}

// Takeover lets lanes that stopped because of a foreign last message follow it:
// everything that the platform does not have from this buffer is sent under a new
// identity. It is durable when it returns.
func (f *Forwarder) Takeover() error {
	f.mu.Lock()
	f.dirty = true
	for _, l := range f.lanes {
		l.takeover = true
	}
	f.mu.Unlock()
	if err := f.save(); err != nil {
		return err
	}
	f.mu.Lock()
	close(f.asked)
	f.asked = make(chan struct{})
	f.mu.Unlock()
	return nil
}

func (l *lane) run(ctx context.Context, nc *nats.Conn, js jetstream.JetStream) {
	pause := firstRetry
	defer l.phase(PhaseWaiting, "")
	for ctx.Err() == nil {
		l.mu.Lock()
		asked, broken := l.asked, l.broken
		l.mu.Unlock()
		var next, expected uint64
		identity := l.source.State().ID
		err := errDisconnected
		if nc.IsConnected() {
			next, expected, err = l.decide(ctx, js)
		}
		if err == nil {
			l.phase(PhaseForwarding, "")
			before := l.cursor()
			err = l.publish(ctx, broken, nc, js, identity, next, expected)
			if l.cursor() > before {
				pause = firstRetry
			}
		}
		if ctx.Err() != nil {
			return
		}
		wait := pause
		if errors.Is(err, errReborn) {
			continue
		}
		if errors.Is(err, ErrForeign) {
			l.phase(PhaseStopped, err.Error())
			wait = stoppedRetry
		} else {
			l.phase(PhaseWaiting, err.Error())
			pause = min(2*pause, lastRetry)
		}
		select {
		case <-ctx.Done():
		case <-asked:
		case <-time.After(wait):
		}
	}
}

func (l *lane) phase(p Phase, trouble string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p == PhaseStopped && l.state.Phase != p {
		l.log.Error("forwarding stopped: `cetrus-manager takeover` is needed", "lane", l.lane, "reason", trouble)
	} else if p == PhaseWaiting && trouble != "" && l.state.Trouble != trouble {
		l.log.Warn("the platform does not take data", "lane", l.lane, "reason", trouble)
	}
	l.state.Phase, l.state.Trouble = p, trouble
}

func (l *lane) cursor() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.Cursor
}

func (l *lane) advance(through, positions, sequence uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dirty = true
	l.sequence = sequence
	l.state.Cursor = through
	l.state.Level = max(l.state.Level, through)
	l.state.Published++
	l.state.Positions += positions
	l.state.LastPublished = time.Now().UTC()
}

func (l *lane) level(position uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if position > l.state.Level {
		l.state.Level, l.dirty = position, true
	}
}

// decide reads the subject's last message, and says at which position to go on and
// which sequence to expect.
func (l *lane) decide(ctx context.Context, js jetstream.JetStream) (next, expected uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	stream, err := js.Stream(ctx, contract.AgentStream)
	if err != nil {
		return 0, 0, fmt.Errorf("find the stream %s: %w", contract.AgentStream, err)
	}
	info := stream.CachedInfo()
	last, err := stream.GetLastMsgForSubject(ctx, l.subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return l.afterNothing(info), 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("read the last message of %s: %w", l.subject, err)
	}
	if next, err = l.after(ctx, last); err != nil {
		return 0, 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.streamIs(info)
	if l.sequence != last.Sequence {
		l.sequence, l.dirty = last.Sequence, true
	}
	return next, last.Sequence, nil
}

// streamIs remembers which stream the platform has. Of another one than before the lane knows no sequence. The
// caller holds mu.
func (l *lane) streamIs(info *jetstream.StreamInfo) {
	if l.created.Equal(info.Created) {
		return
	}
	if !l.created.IsZero() {
		l.sequence = 0
	}
	l.created, l.dirty = info.Created, true
}

// afterNothing is where to go on when the platform holds nothing of this lane. Only
// where what it held must have gone into its archive is it not sent again.
func (l *lane) afterNothing(info *jetstream.StreamInfo) uint64 {
	state := l.source.State()
	l.mu.Lock()
	defer l.mu.Unlock()
	gone, same := l.sequence != 0 && l.sequence < info.State.FirstSeq, l.created.Equal(info.Created)
	l.streamIs(info)
	switch {
	case l.state.Cursor == 0:
		return 1
	case gone && (same || state.FirstPosition > l.state.Cursor):
		return l.state.Cursor + 1
	case gone:
		// A log that was put back begins behind what the lane sent last: its archive has that, as far as can be
		// told from here. What is kept is sent again, since what came after the backup may be lost.
		return l.rewind(state.FirstPosition, state)
	default:
		return l.rewind(1, state)
	}
}

// after is the position behind the subject's last message.
func (l *lane) after(ctx context.Context, last *jetstream.RawStreamMsg) (uint64, error) {
	l.mu.Lock()
	adopted, takeover := l.adopted, l.takeover
	l.mu.Unlock()
	if adopted.Sequence == last.Sequence && adopted.ID == last.Header.Get(contract.HeaderID) {
		next := l.goOn(adopted.From, l.source.State())
		l.settled()
		return next, nil
	}
	next, err := l.follow(ctx, last)
	if errors.Is(err, ErrForeign) && takeover {
		foreign := err
		if err = l.adopt(last); err == nil {
			next = l.cursor() + 1
			l.log.Warn("took over", "lane", l.lane, "from", next, "although", foreign)
		}
	}
	if err != nil {
		return 0, err
	}
	l.settled()
	return next, nil
}

// settled ends the permission to take over where it is not needed any more.
func (l *lane) settled() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.takeover {
		l.takeover, l.dirty = false, true
	}
}

// follow is the position behind a message of this buffer; ErrForeign where it is
// not of this buffer.
func (l *lane) follow(ctx context.Context, last *jetstream.RawStreamMsg) (uint64, error) {
	id, err := contract.ParseID(last.Header.Get(contract.HeaderBuffer))
	if err != nil {
		return 0, fmt.Errorf("%w: message %d of %s names no buffer", ErrForeign, last.Sequence, l.subject)
	}
	position, err := strconv.ParseUint(last.Header.Get(contract.HeaderBufferPosition), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: message %d of %s names no position", ErrForeign, last.Sequence, l.subject)
	}
	state := l.source.State()
	for _, segment := range l.source.Segments() {
		if segment.ID != id {
			continue
		}
		end := segment.To
		if end == 0 {
			end = state.LastPosition
		}
		if position > end && segment.To != 0 {
			// Known to be lost, and sent before: this is why the identity changed.
			return l.goOn(end+1, state), nil
		}
		if position > end {
			return 0, fmt.Errorf("%w: it holds position %d, the buffer ends at %d: this is an older copy, or a copy elsewhere went on", ErrForeign, position, end)
		}
		// What this buffer lost, as it has told, it cannot compare; its name is proof enough.
		lost := slices.ContainsFunc(state.Losses, func(loss buffer.Loss) bool { return loss.From <= position && position <= loss.To })
		if position >= state.FirstPosition && !lost {
			own, err := l.source.Next(ctx, l.lane, position)
			if err != nil && !errors.Is(err, buffer.ErrNothing) {
				return 0, err
			}
			if err != nil || own.Position != position || !endsIn(last.Data, own.Data) {
				return 0, fmt.Errorf("%w: position %d holds something else there: a copy of this buffer went on elsewhere", ErrForeign, position)
			}
		}
		return l.goOn(position+1, state), nil
	}
	return 0, fmt.Errorf("%w: it is of buffer %s, this one is %s: another Manager has the id %s, or this one was installed anew", ErrForeign, id, state.ID, l.config.ManagerID)
}

func endsIn(whole, end []byte) bool {
	return len(whole) >= len(end) && string(whole[len(whole)-len(end):]) == string(end)
}

// goOn moves the cursor to where the platform stands, and notes what that means.
func (l *lane) goOn(next uint64, state buffer.State) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if next <= l.state.Cursor {
		return l.rewind(next, state)
	}
	if l.state.Cursor != next-1 {
		l.state.Cursor, l.dirty = next-1, true
	}
	l.state.Level = max(l.state.Level, next-1)
	return next
}

// rewind moves the cursor back to before next, or to what is kept.
func (l *lane) rewind(next uint64, state buffer.State) uint64 {
	l.state.Rewinds++
	l.dirty = true
	l.log.Warn("the platform lost a tail: it is sent again", "lane", l.lane, "from", max(next, state.FirstPosition), "through", l.state.Cursor)
	if next < state.FirstPosition {
		loss := buffer.Loss{From: next, To: state.FirstPosition - 1, Found: time.Now().UTC(), Reason: "the platform lost what this Manager keeps no more"}
		l.state.Lost = append(l.state.Lost, loss)
		l.log.Error("the platform lost messages that this Manager keeps no more", "lane", l.lane, "from", loss.From, "to", loss.To)
		next = state.FirstPosition
	}
	l.state.Cursor, l.state.Level = next-1, next-1
	return next
}

// adopt makes a foreign last message one that may be followed.
func (l *lane) adopt(last *jetstream.RawStreamMsg) error {
	l.mu.Lock()
	own := l.state.Cursor + 1
	from := own
	for _, other := range l.lanes {
		from = min(from, other.state.Cursor+1)
	}
	current := l.source.Segments()
	reborn := current[len(current)-1].From == from && from > 1
	l.mu.Unlock()
	if !reborn {
		if err := l.source.Rebirth(from); err != nil {
			return err
		}
	}
	l.mu.Lock()
	l.adopted, l.dirty = adoption{Sequence: last.Sequence, ID: last.Header.Get(contract.HeaderID), From: own}, true
	l.mu.Unlock()
	return l.save()
}
