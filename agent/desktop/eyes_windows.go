package desktop

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
	"unicode/utf16"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/cetrus/cetrus/agent/activity"
)

// What is asked of windows.
const (
	eventSystemForeground = 0x0003
	winEventOutOfContext  = 0x0000
	wmQuit                = 0x0012

	gwOwner    = 4
	gwlExStyle = -20

	dwmCloaked        = 14
	maxTitle          = 1024 // UTF-16 units
	maxClass          = 257
	maxWindows        = 2000
	tellAgain         = 50 * time.Millisecond
	foregroundUnknown = "the desktop does not tell which window is in front"
)

// sessionEyes look at the session that this process runs in. Nothing that they ask
// waits for another program, so none can hold them up.
type sessionEyes struct {
	procs *procs
	clock clocks
	wake  func()

	hooked   chan struct{} // closed when listen has ended
	thread   uint32
	listWins uintptr // callback of EnumWindows

	mu sync.Mutex
	// What follows belongs to whoever holds mu.
	listing []windows.HWND
	before  []activity.Window
	told    bool
	rules   windowRules
	input   tickInput
}

// tickInput gives one time to one input, though ticks are coarser than the clock.
type tickInput struct {
	known      bool
	tick       uint32
	bootMillis int64
}

// take accepts a reading of the ticks now and of the last input.
func (i *tickInput) take(boot int64, now, last uint32) int64 {
	if !i.known || i.tick != last {
		*i = tickInput{known: true, tick: last, bootMillis: max(i.bootMillis, activity.LastInputFromTicks(boot, now, last))}
	}
	return i.bootMillis
}

// openSessionEyes looks at the session of this process. wake is called when another
// window comes to the front.
func openSessionEyes(p *procs, wake func()) (*sessionEyes, error) {
	e := &sessionEyes{procs: p, clock: clocks{p}, wake: wake, hooked: make(chan struct{}), rules: newWindowRules(systemWindows{p})}
	// A process may make few callbacks, and never gives one back; this is one of two
	// for each time that a session is opened.
	e.listWins = windows.NewCallback(func(w windows.HWND, _ uintptr) uintptr {
		e.listing = append(e.listing, w)
		if len(e.listing) == maxWindows {
			return 0
		}
		return 1
	})
	started := make(chan error, 1)
	go e.listen(started)
	return e, <-started
}

// listen has the system tell when another window comes to the front. That is an
// announcement, no hook: no code of ours runs in other programs.
func (e *sessionEyes) listen(started chan<- error) {
	defer close(e.hooked)
	runtime.LockOSThread() // and it ends with the thread, so that no other listener finds its messages
	e.thread = windows.GetCurrentThreadId()
	announced := windows.NewCallback(func(_, _, _, _, _, _, _ uintptr) uintptr {
		e.wake()
		return 0
	})
	hook, _, err := e.procs.setWinEventHook.Call(eventSystemForeground, eventSystemForeground, 0, announced, 0, 0, winEventOutOfContext)
	if hook == 0 {
		started <- fmt.Errorf("desktop: changes of the foreground are not announced: %w", err)
		return
	}
	defer e.procs.unhookWinEvent.Call(hook) //nolint:errcheck // It ends with the thread.
	started <- nil
	var message [48]byte // MSG
	for {
		got, _, _ := e.procs.getMessage.Call(uintptr(unsafe.Pointer(&message[0])), 0, 0, 0)
		if int32(got) <= 0 {
			return
		}
	}
}

// close implements eyes. Until a thread asks for messages it may have no queue, and what it is told is lost:
// so it is told until it has ended.
func (e *sessionEyes) close() {
	again := time.NewTicker(tellAgain)
	defer again.Stop()
	for {
		_, _, _ = e.procs.postThread.Call(uintptr(e.thread), wmQuit, 0, 0)
		select {
		case <-e.hooked:
			return
		case <-again.C:
		}
	}
}

// look implements eyes.
func (e *sessionEyes) look(context.Context) (Sight, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	sight := Sight{}
	front := windows.GetForegroundWindow()
	if err := e.readInput(&sight); err != nil {
		return sight, err
	}
	e.listing = e.listing[:0]
	if err := windows.EnumWindows(e.listWins, nil); err != nil && len(e.listing) == 0 && !errors.Is(err, windows.ERROR_SUCCESS) {
		sight.FocusUnsupported = foregroundUnknown
		return sight, nil
	}
	list := make([]activity.Window, 0, max(16, len(e.before)))
	for _, w := range e.listing {
		if w == front || e.rules.isWindow(uint64(w)) {
			list = append(list, e.rules.describe(uint64(w)))
		}
	}
	if front != 0 && !slices.ContainsFunc(list, func(w activity.Window) bool { return w.ID == uint64(front) }) {
		list = append(list, e.rules.describe(uint64(front)))
	}
	sight.Foreground = uint64(front)
	slices.SortFunc(list, func(a, b activity.Window) int { return int(int64(a.ID) - int64(b.ID)) })
	for i := range list {
		list[i].Parent = e.rules.parentOf(list, list[i].ID)
	}
	if e.told && slices.Equal(list, e.before) {
		sight.SameWindows = true
		return sight, nil
	}
	e.before, e.told = list, true
	sight.Windows = list
	e.rules.forget(func(frame uint64) bool { return slices.Contains(e.listing, windows.HWND(frame)) })
	return sight, nil
}

// readInput reads when the last input was, and nothing else of it.
func (e *sessionEyes) readInput(s *Sight) error {
	now, err := e.clock.now()
	if err != nil {
		return err
	}
	info := struct{ size, tick uint32 }{size: 8}
	if ok, _, err := e.procs.getLastInputInfo.Call(uintptr(unsafe.Pointer(&info))); ok == 0 {
		s.InputUnsupported = fmt.Sprintf("the last input: %v", err)
		return nil
	}
	ticks, _, _ := e.procs.getTickCount.Call()
	s.LastInputMillis = e.input.take(now.bootMillis, uint32(ticks), info.tick)
	return nil
}

// systemWindows asks the system about windows.
type systemWindows struct{ procs *procs }

func (systemWindows) visible(w uint64) bool { return windows.IsWindowVisible(windows.HWND(w)) }

func (s systemWindows) style(w uint64) uint32 {
	style, _, _ := s.procs.getWindowLong.Call(uintptr(w), signed(gwlExStyle))
	return uint32(style)
}

// signed is a negative argument of a procedure.
func signed(n int32) uintptr { return uintptr(uint32(n)) }

func (systemWindows) cloaked(w uint64) (why uint32) {
	if err := windows.DwmGetWindowAttribute(windows.HWND(w), dwmCloaked, unsafe.Pointer(&why), 4); err != nil {
		return 0 // without a compositor nothing is cloaked
	}
	return why
}

func (systemWindows) class(w uint64) string {
	var text [maxClass]uint16
	n, err := windows.GetClassName(windows.HWND(w), &text[0], maxClass)
	if err != nil {
		return ""
	}
	return string(utf16.Decode(text[:min(int(n), maxClass)]))
}

// title asks the system, never the program: one that hangs would not answer.
func (s systemWindows) title(w uint64) string {
	var text [maxTitle]uint16
	n, _, _ := s.procs.internalGetWindowText.Call(uintptr(w), uintptr(unsafe.Pointer(&text[0])), maxTitle)
	return string(utf16.Decode(text[:min(int(n), maxTitle)]))
}

func (systemWindows) process(w uint64) (pid int32) {
	var number uint32
	_, _ = windows.GetWindowThreadProcessId(windows.HWND(w), &number)
	return int32(number)
}

func (s systemWindows) child(w uint64, class string) uint64 {
	name, err := windows.UTF16PtrFromString(class)
	if err != nil {
		return 0
	}
	inner, _, _ := s.procs.findChild.Call(uintptr(w), 0, uintptr(unsafe.Pointer(name)), 0)
	return uint64(inner)
}

func (s systemWindows) owner(w uint64) uint64 {
	owner, _, _ := s.procs.getWindow.Call(uintptr(w), gwOwner)
	return uint64(owner)
}
