package desktop

import (
	"slices"

	"github.com/cetrus/cetrus/agent/activity"
)

// windowSystem is what Windows tells of a window, by its handle.
type windowSystem interface {
	visible(w uint64) bool
	// style is the extended style.
	style(w uint64) uint32
	// cloaked is why the compositor does not show a visible window; 0: it shows it.
	cloaked(w uint64) (why uint32)
	class(w uint64) string
	title(w uint64) string
	process(w uint64) (pid int32)
	// child is the first one of a class in a window; 0: there is none.
	child(w uint64, class string) uint64
	// owner is the window that owns this one; 0: none does.
	owner(w uint64) uint64
}

const (
	styleTool      = 0x00000080
	styleAppWindow = 0x00040000
	cloakedByShell = 2
	maxOwners      = 16
	frameWindow    = "ApplicationFrameWindow"
	storeWindow    = "Windows.UI.Core.CoreWindow"
)

// windowRules say what of all that Windows calls a window is one, and whose it is.
type windowRules struct {
	system windowSystem
	// frames remembers whose program an ApplicationFrameWindow shows: while that is
	// minimised, its inner window is elsewhere.
	frames map[uint64]int32
}

func newWindowRules(system windowSystem) windowRules {
	return windowRules{system: system, frames: make(map[uint64]int32)}
}

// isWindow tells whether a person would call it a window.
func (r windowRules) isWindow(w uint64) bool {
	if !r.system.visible(w) {
		return false
	}
	if style := r.system.style(w); style&styleTool != 0 && style&styleAppWindow == 0 {
		return false
	}
	why := r.system.cloaked(w)
	if why == 0 {
		return true
	}
	// The shell cloaks what is on another virtual desktop, which is open, and store
	// apps that are suspended or only prepared, which are not.
	class := r.system.class(w)
	return why == cloakedByShell && class != frameWindow && class != storeWindow
}

func (r windowRules) describe(w uint64) activity.Window {
	pid, class := r.system.process(w), r.system.class(w)
	if class == frameWindow {
		pid = r.framed(w, pid)
	}
	return activity.Window{ID: w, PID: pid, Class: class, Title: r.system.title(w)}
}

// framed finds the program that a frame of ApplicationFrameHost shows.
func (r windowRules) framed(frame uint64, host int32) int32 {
	if inner := r.system.child(frame, storeWindow); inner != 0 {
		if pid := r.system.process(inner); pid != 0 {
			r.frames[frame] = pid
		}
	}
	if known, ok := r.frames[frame]; ok {
		return known
	}
	return host
}

// forget forgets frames that are not there any more.
func (r windowRules) forget(isThere func(frame uint64) bool) {
	for frame := range r.frames {
		if !isThere(frame) {
			delete(r.frames, frame)
		}
	}
}

// parentOf finds the window that a dialog belongs to. Some programs own all their
// windows by one that nobody sees; that is no parent.
func (r windowRules) parentOf(list []activity.Window, id uint64) uint64 {
	owner := id
	for range maxOwners {
		if owner = r.system.owner(owner); owner == 0 {
			return 0
		}
		if owner != id && slices.ContainsFunc(list, func(w activity.Window) bool { return w.ID == owner }) {
			return owner
		}
	}
	return 0
}
