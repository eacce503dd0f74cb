package desktop

import (
	"context"
	"crypto/subtle"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/cetrus/cetrus/agent/activity"
)

// Helper says how the helper of a session is started: a program of ours that looks
// from inside, as only a process of that session can. It tells what it sees to the
// service that has started it, and to nobody else.
type Helper struct {
	// Executable and Args start it. Args come first on its command line; on Windows it is
	// told the name of its pipe as the last one.
	Executable string
	Args       []string
}

// The conversation: frames of JSON, each after its length (uint32, little-endian).
// The helper says its secret, where it has one, the service greets, and from then on
// asks for looks; the helper answers each, and wakes the service in between.

// maxFrame bounds a frame: maxHelperWindows windows, unless most have the longest titles.
const (
	maxFrame         = 4 << 20
	maxHelperWindows = 4000
	maxSecret        = 64
)

// toHelper is what the service says.
type toHelper struct {
	// Hello greets: the helper talks to its service.
	Hello bool `json:"hello,omitempty"`
	// Look asks for a look; the answer carries the same number.
	Look uint64 `json:"look,omitempty"`
}

// fromHelper is what the helper says.
type fromHelper struct {
	Secret []byte `json:"secret,omitempty"`
	Wake   bool   `json:"wake,omitempty"`
	Look   uint64 `json:"look,omitempty"`
	Sight  *Sight `json:"sight,omitempty"`
}

func writeFrame(w io.Writer, message any) error {
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("desktop: %w", err)
	}
	if len(body) > maxFrame {
		return fmt.Errorf("desktop: a frame of %d bytes, at most %d go between a helper and its service", len(body), maxFrame)
	}
	frame := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	_, err = w.Write(append(frame, body...))
	return err
}

// readFrame reads one frame. The buffer grows with what arrives, not with what is
// announced.
func readFrame(r io.Reader, into any) error {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint32(length[:])
	if n > maxFrame {
		return fmt.Errorf("desktop: a frame of %d bytes, at most %d go between a helper and its service", n, maxFrame)
	}
	body, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err != nil {
		return err
	}
	if len(body) < int(n) {
		return io.ErrUnexpectedEOF
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("desktop: a frame between a helper and its service: %w", err)
	}
	return nil
}

// checkSight refuses what no honest helper tells: the helper runs as the person,
// who is not to be able to harm the machine's service by it.
func checkSight(s *Sight) error {
	if s == nil {
		return errors.New("desktop: a helper answers without having looked")
	}
	if len(s.Windows) > maxHelperWindows {
		return fmt.Errorf("desktop: a helper tells of %d windows, at most %d are believed", len(s.Windows), maxHelperWindows)
	}
	seen := make(map[uint64]bool, len(s.Windows))
	for _, w := range s.Windows {
		if w.ID == 0 || seen[w.ID] {
			return fmt.Errorf("desktop: a helper tells of window %d twice, or of none", w.ID)
		}
		seen[w.ID] = true
		if len(w.Title) > 4*maxHelperText || len(w.Class) > 4*maxHelperText || !utf8.ValidString(w.Title) {
			return errors.New("desktop: a helper tells of a window whose title is none")
		}
	}
	return nil
}

// maxHelperText is the longest title, in characters.
const maxHelperText = 1024

// Times that a conversation may take to begin.
const (
	greetingTimeout = 2 * time.Second
	secretTimeout   = 5 * time.Second
)

// maxWakes is how often a helper may wake the service between two looks: an honest one
// does so once, and another time where the next look is on its way.
const maxWakes = 64

// helperEyes are the service's side of the conversation.
type helperEyes struct {
	conn net.Conn
	wake func()
	// ended waits until the helper has gone; nil: nothing to wait for.
	ended func()

	reading sync.WaitGroup
	mu      sync.Mutex
	number  uint64
	wakes   atomic.Int64 // since the last question
	answers chan fromHelper
	gone    chan struct{}
	err     error // why it has gone; read after gone is closed
}

// admitHelper takes a connection whose other end knows the secret; anybody else
// is refused.
func admitHelper(conn net.Conn, secret []byte, wake, ended func()) (*helperEyes, error) {
	_ = conn.SetDeadline(time.Now().Add(secretTimeout))
	var first fromHelper
	if err := readFrame(io.LimitReader(conn, 4*maxSecret), &first); err != nil {
		return nil, fmt.Errorf("desktop: whoever connected did not say the secret: %w", err)
	}
	if len(secret) == 0 || subtle.ConstantTimeCompare(first.Secret, secret) != 1 {
		return nil, errors.New("desktop: whoever connected does not know the secret")
	}
	return greetHelper(conn, wake, ended)
}

// greetHelper begins the conversation with a helper that is known to be at the other end.
func greetHelper(conn net.Conn, wake, ended func()) (*helperEyes, error) {
	_ = conn.SetDeadline(time.Now().Add(secretTimeout))
	if err := writeFrame(conn, toHelper{Hello: true}); err != nil {
		return nil, fmt.Errorf("desktop: greet the helper: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	h := &helperEyes{conn: conn, wake: wake, ended: ended, answers: make(chan fromHelper, 1), gone: make(chan struct{})}
	h.reading.Go(h.read)
	return h, nil
}

func (h *helperEyes) read() {
	defer h.wake()
	defer close(h.gone)
	var windows []activity.Window
	for {
		var said fromHelper
		if h.err = readFrame(h.conn, &said); h.err != nil {
			h.err = fmt.Errorf("desktop: the session's helper has gone: %w", h.err)
			return
		}
		if said.Wake {
			if h.wakes.Add(1) > maxWakes {
				h.err = errors.New("desktop: the session's helper wakes the service without end")
				return
			}
			h.wake()
			continue
		}
		if h.err = checkSight(said.Sight); h.err != nil {
			return
		}
		// Filled in here, where no answer is missed.
		if said.Sight.SameWindows {
			said.Sight.Windows, said.Sight.SameWindows = windows, false
		}
		windows = said.Sight.Windows
		// Only the last answer is waited for.
		select {
		case <-h.answers:
		default:
		}
		h.answers <- said
	}
}

// look implements eyes.
func (h *helperEyes) look(ctx context.Context) (Sight, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.number++
	h.wakes.Store(0)
	if deadline, ok := ctx.Deadline(); ok {
		_ = h.conn.SetWriteDeadline(deadline)
	}
	if err := writeFrame(h.conn, toHelper{Look: h.number}); err != nil {
		return Sight{}, fmt.Errorf("desktop: the session's helper does not listen: %w", err)
	}
	for {
		select {
		case <-ctx.Done():
			return Sight{}, ctx.Err()
		case <-h.gone:
			return Sight{}, h.err
		case answer := <-h.answers:
			if answer.Look == h.number { // otherwise it is a late answer to a question that was given up
				return *answer.Sight, nil
			}
		}
	}
}

// close implements eyes.
func (h *helperEyes) close() {
	_ = h.conn.Close()
	h.reading.Wait()
	if h.ended != nil {
		h.ended()
	}
}

// errNotGreeted says that whatever listens at the pipe is not the service, or not
// yet.
var errNotGreeted = errors.New("desktop: the service does not greet")

// serveSight is the helper's side: it looks when it is asked to, until the service
// closes the connection. Where nobody else can be at the other end, there is no secret.
func serveSight(ctx context.Context, conn net.Conn, secret []byte, open func(wake func()) (eyes, error)) error {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(greetingTimeout))
	if len(secret) > 0 {
		if err := writeFrame(conn, fromHelper{Secret: secret}); err != nil {
			return fmt.Errorf("%w: %w", errNotGreeted, err)
		}
	}
	var said toHelper
	if err := readFrame(conn, &said); err != nil || !said.Hello {
		return fmt.Errorf("%w: %w", errNotGreeted, err)
	}
	_ = conn.SetDeadline(time.Time{})

	var writing sync.Mutex
	write := func(message fromHelper) error {
		writing.Lock()
		defer writing.Unlock()
		return writeFrame(conn, message)
	}
	// Whoever announces a change is not to wait for the pipe. One announcement stands until
	// the service looks, however much happens meanwhile.
	waking := make(chan struct{}, 1)
	var announced atomic.Bool
	looks, err := open(func() {
		select {
		case waking <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return err
	}
	defer looks.close()
	ended := make(chan struct{})
	var waker sync.WaitGroup
	waker.Go(func() {
		for {
			select {
			case <-ended:
				return
			case <-waking:
				if !announced.CompareAndSwap(false, true) {
					continue
				}
				if write(fromHelper{Wake: true}) != nil {
					return
				}
			}
		}
	})
	defer waker.Wait()
	defer close(ended)
	defer conn.Close() // before the waker is waited for: it may be writing
	for {
		said = toHelper{}
		if err := readFrame(conn, &said); err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("desktop: the service has gone: %w", err)
		}
		announced.Store(false) // what happens from here on, this look may not see
		sight, err := looks.look(ctx)
		if err != nil {
			return err
		}
		bound(&sight)
		if err := write(fromHelper{Look: said.Look, Sight: &sight}); err != nil {
			return fmt.Errorf("desktop: the service has gone: %w", err)
		}
	}
}

// bound keeps a sight within what the service believes and what a frame takes. The
// window in front is kept, and of the others as many as there is room for.
func bound(s *Sight) {
	raw := 0
	for _, w := range s.Windows {
		raw += maxEscape*(len(w.Class)+len(w.Title)) + windowOverhead
	}
	if len(s.Windows) <= maxHelperWindows && raw <= maxSightBytes {
		return
	}
	room, count := maxSightBytes, maxHelperWindows
	fits := make([]bool, len(s.Windows))
	try := func(n int) {
		if size := encodedBytes(s.Windows[n]); !fits[n] && count > 0 && size <= room {
			fits[n], room, count = true, room-size, count-1
		}
	}
	if front := slices.IndexFunc(s.Windows, func(w activity.Window) bool { return w.ID == s.Foreground }); front >= 0 {
		try(front)
	}
	kept := make([]activity.Window, 0, min(len(s.Windows), maxHelperWindows))
	for n, w := range s.Windows {
		if try(n); fits[n] {
			kept = append(kept, w)
		}
	}
	s.Windows = kept
}

const (
	// maxEscape is how many bytes JSON makes of one at most.
	maxEscape = 6
	// windowOverhead is more than a window takes without its texts.
	windowOverhead = 256
	// maxSightBytes leaves room in a frame for the rest of a sight.
	maxSightBytes = maxFrame - 64<<10
)

// encodedBytes is what a window takes in a frame, its comma included.
func encodedBytes(w activity.Window) int {
	text, err := json.Marshal(w)
	if err != nil {
		return maxFrame // the frame could not be written either
	}
	return len(text) + 1
}
