package desktop

import (
	"testing"

	"github.com/cetrus/cetrus/agent/activity"
)

// fakeHandle is a window as Windows documents it.
type fakeHandle struct {
	hidden         bool
	style, cloaked uint32
	class, title   string
	pid            int32
	inner          map[string]uint64
	owner          uint64
}

type fakeHandles map[uint64]*fakeHandle

func (f fakeHandles) visible(w uint64) bool           { return f[w] != nil && !f[w].hidden }
func (f fakeHandles) style(w uint64) uint32           { return f[w].style }
func (f fakeHandles) cloaked(w uint64) uint32         { return f[w].cloaked }
func (f fakeHandles) class(w uint64) string           { return f[w].class }
func (f fakeHandles) title(w uint64) string           { return f[w].title }
func (f fakeHandles) process(w uint64) int32          { return f[w].pid }
func (f fakeHandles) child(w uint64, c string) uint64 { return f[w].inner[c] }
func (f fakeHandles) owner(w uint64) (owner uint64) {
	if f[w] != nil {
		owner = f[w].owner
	}
	return owner
}

func TestWhatIsAWindow(t *testing.T) {
	t.Parallel()
	const byApp, inherited = 1, 4 // DWM_CLOAKED_APP, DWM_CLOAKED_INHERITED
	for _, c := range []struct {
		name   string
		window fakeHandle
		is     bool
	}{
		{"plain", fakeHandle{class: "Notepad"}, true},
		{"not visible", fakeHandle{class: "Notepad", hidden: true}, false},
		{"tool window", fakeHandle{style: styleTool}, false},
		{"tool window that wants to be on the taskbar", fakeHandle{style: styleTool | styleAppWindow}, true},
		{"on another virtual desktop", fakeHandle{class: "Notepad", cloaked: cloakedByShell}, true},
		{"hidden by its program", fakeHandle{class: "Notepad", cloaked: byApp}, false},
		{"cloaked with its owner", fakeHandle{class: "Notepad", cloaked: inherited}, false},
		{"frame of a store app", fakeHandle{class: frameWindow}, true},
		{"frame that the shell keeps ready", fakeHandle{class: frameWindow, cloaked: cloakedByShell}, false},
		{"store app that is suspended", fakeHandle{class: storeWindow, cloaked: cloakedByShell}, false},
	} {
		if is := newWindowRules(fakeHandles{1: &c.window}).isWindow(1); is != c.is {
			t.Errorf("%s: a window? %v", c.name, is)
		}
	}
}

// A store app's window is the app's, also while it is minimised: its inner window then lies
// elsewhere, and the frame is the host's.
func TestWhoseAStoreAppsWindowIs(t *testing.T) {
	t.Parallel()
	const host, app = 10, 20
	frame := &fakeHandle{class: frameWindow, title: "Calculator", pid: host}
	rules := newWindowRules(fakeHandles{1: frame, 2: {class: storeWindow, pid: app}})
	if w := rules.describe(1); w.PID != host || w.Title != "Calculator" {
		t.Errorf("before the app is there: %+v", w)
	}
	frame.inner = map[string]uint64{storeWindow: 2}
	if w := rules.describe(1); w.PID != app || w.Class != frameWindow {
		t.Errorf("open: %+v", w)
	}
	if w := rules.describe(2); w.PID != app || w.Class != storeWindow {
		t.Errorf("by itself: %+v", w)
	}
	frame.inner = nil
	if w := rules.describe(1); w.PID != app {
		t.Errorf("minimised: %+v", w)
	}
	rules.forget(func(uint64) bool { return true })
	if w := rules.describe(1); w.PID != app {
		t.Errorf("still there: %+v", w)
	}
	// The handle is used again, for another frame.
	rules.forget(func(uint64) bool { return false })
	if w := rules.describe(1); w.PID != host {
		t.Errorf("another frame: %+v", w)
	}
}

func TestWhoseADialogIs(t *testing.T) {
	t.Parallel()
	list := []activity.Window{{ID: 1}, {ID: 2}, {ID: 3}, {ID: 5}, {ID: 6}}
	rules := newWindowRules(fakeHandles{
		1: {}, 2: {owner: 1}, 3: {owner: 4}, 4: {owner: 2}, // 4 is seen by nobody
		5: {owner: 7}, 7: {}, // all windows of a program owned by one that nobody sees
		6: {owner: 6}, // in a ring
	})
	for id, parent := range map[uint64]uint64{1: 0, 2: 1, 3: 2, 5: 0, 6: 0} {
		if got := rules.parentOf(list, id); got != parent {
			t.Errorf("window %d belongs to %d, not to %d", id, got, parent)
		}
	}
}
