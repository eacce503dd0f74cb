package desktop

import (
	"context"
	"fmt"
	"sync"

	"github.com/cetrus/cetrus/agent/desktop/wayland"
)

// Opcodes of ext-idle-notify-v1 and of org_kde_kwin_idle, which compositors of before
// 2023 have instead. Both tell the same two things.
const (
	extGetIdle      = 1 // request: id, timeout, seat
	extGetInputIdle = 2 // request since version 2: id, timeout, seat
	kdeGetIdle      = 0 // request: id, seat, timeout

	idleEvent    = 0
	resumedEvent = 1
)

// idleTimeoutMillis is after how long without input the compositor is to say idle. It
// bounds the error of a busy time's end (usage semantics want a second); a shorter one
// would have the compositor speak at each pause between two words.
const idleTimeoutMillis = 250

// openIdleSource takes the best that is there: input alone, which no film that keeps
// the screen on is taken for, before what inhibitors hold up.
func openIdleSource(conn *wayland.Conn, shell shellBus) (idleSource, error) {
	offered := make(map[string]wayland.Global)
	for _, g := range conn.Globals() {
		offered[g.Interface] = g
	}
	ext, hasExt := offered[extIdleInterface]
	kde, hasKDE := offered[kdeIdleInterface]
	switch {
	case hasExt && ext.Version >= 2:
		return openIdleNotices(conn, ext, 2, inputIdleRequest, false)
	case shell.name == gnomeShell:
		return &mutterIdle{shell: shell}, nil
	case hasExt:
		return openIdleNotices(conn, ext, 1, idleRequest, true)
	case hasKDE && shell.name == kwin:
		return blindIdleness(oldKWinIdleness), nil
	case hasKDE:
		return openIdleNotices(conn, kde, 1, kdeIdleRequest, true)
	}
	return blindIdleness(noIdlenessOffered), nil
}

// idleRequestFunc builds the request for notices of one seat.
type idleRequestFunc func(manager, id, seat uint32) *wayland.Builder

func inputIdleRequest(manager, id, seat uint32) *wayland.Builder {
	return wayland.NewMessage(manager, extGetInputIdle).Uint(id).Uint(idleTimeoutMillis).Uint(seat)
}

func idleRequest(manager, id, seat uint32) *wayland.Builder {
	return wayland.NewMessage(manager, extGetIdle).Uint(id).Uint(idleTimeoutMillis).Uint(seat)
}

func kdeIdleRequest(manager, id, seat uint32) *wayland.Builder {
	return wayland.NewMessage(manager, kdeGetIdle).Uint(id).Uint(seat).Uint(idleTimeoutMillis)
}

// idleNotices follows what a compositor says of each of its seats.
type idleNotices struct {
	conn    *wayland.Conn
	manager uint32
	request idleRequestFunc
	// inhibitable: a program can keep the compositor from saying idle.
	inhibitable bool
	sleep       sleepMeter
	reading     moment

	mu    sync.Mutex
	seats map[uint32]*idleness // by the name of the seat's global
	// inhibited: a program does so now, where inhibitorsTold.
	inhibited, inhibitorsTold bool
	// last is the last input on the clock that stops in sleep, and boot where that is
	// on the boot timeline.
	last, boot int64
}

func openIdleNotices(conn *wayland.Conn, g wayland.Global, version uint32, request idleRequestFunc, inhibitable bool) (*idleNotices, error) {
	manager, err := conn.Bind(g, version, func(uint16, *wayland.Args) {})
	if err != nil {
		return nil, fmt.Errorf("desktop: %w", err)
	}
	return &idleNotices{conn: conn, manager: manager, request: request, inhibitable: inhibitable, seats: make(map[uint32]*idleness)}, nil
}

// followSeats asks for notices of seats that are new, and forgets those that are gone.
func (n *idleNotices) followSeats(ctx context.Context) error {
	there := make(map[uint32]bool)
	var fresh []*idleness
	for _, g := range n.conn.Globals() {
		if g.Interface != seatInterface {
			continue
		}
		there[g.Name] = true
		if n.seat(g.Name) != nil {
			continue
		}
		seat, err := n.conn.Bind(g, 1, func(uint16, *wayland.Args) {})
		if err != nil {
			return fmt.Errorf("desktop: %w", err)
		}
		s := &idleness{timeoutMillis: idleTimeoutMillis}
		s.begin(notYet)
		fresh = append(fresh, s)
		n.mu.Lock()
		n.seats[g.Name] = s
		n.mu.Unlock()
		_, err = n.conn.Create(func(opcode uint16, _ *wayland.Args) {
			now := awakeMillis()
			n.mu.Lock()
			defer n.mu.Unlock()
			switch opcode {
			case resumedEvent:
				s.resumed(now)
			case idleEvent:
				s.becameIdle(now)
			}
		}, func(id uint32) *wayland.Builder { return n.request(n.manager, id, seat) })
		if err != nil {
			return fmt.Errorf("desktop: %w", err)
		}
	}
	if len(fresh) > 0 {
		// The compositor's time without input begins when it takes the request.
		if err := n.conn.Sync(ctx); err != nil {
			return err
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range fresh {
		s.begin(awakeMillis())
	}
	for name := range n.seats {
		if !there[name] {
			delete(n.seats, name)
		}
	}
	return nil
}

func (n *idleNotices) seat(name uint32) *idleness {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seats[name]
}

// inhibit takes in whether a program keeps the session from becoming idle: as long as
// one does, silence says nothing, and the compositor says that it resumed when that
// begins, though there was no input.
func (n *idleNotices) inhibit(facts windowFacts) {
	n.mu.Lock()
	defer n.mu.Unlock()
	was := n.inhibited
	n.inhibited, n.inhibitorsTold = facts.inhibited && n.inhibitable, facts.inhibitorsTold
	if !was && !n.inhibited {
		return
	}
	for _, s := range n.seats {
		s.begin(awakeMillis())
		s.last = min(s.last, n.last)
	}
}

// lastInput implements idleSource.
func (n *idleNotices) lastInput(ctx context.Context, reading moment) (inputFacts, error) {
	if err := n.followSeats(ctx); err != nil {
		return inputFacts{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sleep.note(n.reading, reading)
	n.reading = reading
	for _, s := range n.seats {
		if last := s.at(reading.awakeMillis); last > n.last {
			n.last = last
			n.boot = max(n.boot, last+n.sleep.sleptBy(last))
		}
	}
	facts := inputFacts{bootMillis: n.boot}
	switch {
	case n.inhibited:
		facts.unsupported = inhibitedIdleness
	case n.inhibitable && !n.inhibitorsTold:
		facts.shortfall = inhibitorsNotTold
	}
	return facts, nil
}

// close implements idleSource; the connection is not its own.
func (*idleNotices) close() {}
