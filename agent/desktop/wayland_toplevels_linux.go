package desktop

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop/wayland"
)

// Opcodes of wlr-foreign-toplevel-management-unstable-v1, version 3.
const (
	managerToplevel = 0 // event: id
	managerFinished = 1 // event

	handleTitle   = 0 // event: text
	handleAppID   = 1 // event: text
	handleState   = 4 // event: array of states
	handleDone    = 5 // event
	handleClosed  = 6 // event
	handleParent  = 7 // event: id, or 0
	handleDestroy = 7 // request

	stateActivated = 2

	toplevelsVersion = 3
)

// whoseWindow says why a window that is known to be in front is of no use.
const whoseWindow = "the compositor does not say whose window is in front, and not exactly one running program can be it"

// toplevels follows the windows of a compositor of wlroots, which tells an application
// id and no process.
type toplevels struct {
	conn     *wayland.Conn
	programs *programs
	wake     func()

	mu     sync.Mutex
	nextID uint64
	list   map[uint32]*toplevel
	// finished: the compositor tells no more.
	finished  bool
	titleTold time.Time
}

// toplevel is one window: what was told, and what of it holds, which a done says.
type toplevel struct {
	id          uint64
	told, holds toplevelFacts
	done        bool // something holds
}

type toplevelFacts struct {
	title, appID string
	activated    bool
	parent       uint32
}

func openToplevels(conn *wayland.Conn, g wayland.Global, p *programs, wake func()) (*toplevels, error) {
	t := &toplevels{conn: conn, programs: p, wake: wake, list: make(map[uint32]*toplevel)}
	if _, err := conn.Bind(g, min(g.Version, toplevelsVersion), t.onManager); err != nil {
		return nil, fmt.Errorf("desktop: %w", err)
	}
	return t, nil
}

func (t *toplevels) onManager(opcode uint16, args *wayland.Args) {
	switch opcode {
	case managerToplevel:
		object := args.Uint()
		t.mu.Lock()
		defer t.mu.Unlock()
		if len(t.list) >= maxWindows {
			return
		}
		t.nextID++
		w := &toplevel{id: t.nextID}
		t.list[object] = w
		t.conn.Adopt(object, func(opcode uint16, args *wayland.Args) { t.onHandle(object, w, opcode, args) })
	case managerFinished:
		t.mu.Lock()
		t.finished = true
		t.mu.Unlock()
		t.wake()
	}
}

func (t *toplevels) onHandle(object uint32, w *toplevel, opcode uint16, args *wayland.Args) {
	if t.note(object, w, opcode, args) {
		t.wake()
	}
	if opcode == handleClosed {
		_ = t.conn.Request(wayland.NewMessage(object, handleDestroy))
		t.conn.Forget(object)
	}
}

// note takes in what an event says; it tells whether to look at once.
func (t *toplevels) note(object uint32, w *toplevel, opcode uint16, args *wayland.Args) (matters bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch opcode {
	case handleTitle:
		w.told.title = clipText(args.String())
	case handleAppID:
		w.told.appID = clipText(args.String())
	case handleState:
		w.told.activated = false
		for states := args.Array(); len(states) >= 4; states = states[4:] {
			w.told.activated = w.told.activated || binary.NativeEndian.Uint32(states) == stateActivated
		}
	case handleParent:
		w.told.parent = args.Uint()
	case handleClosed:
		delete(t.list, object)
		return true
	case handleDone:
		was := w.holds
		titleOnly := was
		titleOnly.title = w.told.title
		fresh := !w.done
		w.holds, w.done = w.told, true
		switch {
		case fresh || w.holds != titleOnly:
			return true
		case w.holds != was && time.Since(t.titleTold) >= titlePeriod:
			t.titleTold = time.Now()
			return true
		}
	}
	return false
}

// windows implements windowSource.
func (t *toplevels) windows(context.Context) (windowFacts, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.finished {
		return windowFacts{}, errors.New("desktop: the compositor tells no more of its windows")
	}
	t.programs.startLook()
	var facts windowFacts
	for _, w := range t.list {
		if !w.done {
			continue
		}
		shown := activity.Window{ID: w.id, Class: w.holds.appID, Title: w.holds.title, PID: t.programs.of(w.holds.appID)}
		if parent := t.list[w.holds.parent]; w.holds.parent != 0 && parent != nil && parent.done {
			shown.Parent = parent.id
		}
		facts.list = append(facts.list, shown)
		if w.holds.activated {
			facts.foreground = w.id
			if shown.PID == 0 {
				facts.unsupported = whoseWindow
			}
		}
	}
	slices.SortFunc(facts.list, func(a, b activity.Window) int { return cmp.Compare(a.ID, b.ID) })
	return facts, nil
}

// close implements windowSource; the connection is not its own.
func (*toplevels) close() {}
