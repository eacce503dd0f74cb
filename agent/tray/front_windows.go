package tray

import (
	"context"
	"image"
	"log/slog"
	"sync"
	"time"

	"github.com/cetrus/cetrus/agent/win32"
)

const (
	// againAfter is when a shell is asked once more that would not show the icon: at
	// log-on it may still be starting.
	againAfter = 10 * time.Second
	// hoverEvery is how often a pointer over the icon asks how the agent stands, so that
	// what the menu then shows is fresh.
	hoverEvery = time.Second
	// iconDots is the size of an icon beside the clock, in 1/96 inch.
	iconDots = 16
	// putIcon is the window's own message: the view has changed.
	putIcon = 1
)

// shellIcon is an icon beside the clock of Windows. A window that nobody sees stands behind
// it and hears of its clicks.
type shellIcon struct {
	log *slog.Logger

	mu     sync.Mutex
	view   View
	window *win32.Window // nil while there is none

	// Only the window's thread touches what follows.
	look       func()
	do         func(Action)
	newTaskbar uint32
	again      *time.Timer
	hovered    time.Time
	open, said bool
}

// NewFront is the icon of this system.
func NewFront(log *slog.Logger) Front { return &shellIcon{log: log} }

// Show implements Front.
func (i *shellIcon) Show(v View) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.view = v
	i.askToPut()
}

// askToPut is called with mu held.
func (i *shellIcon) askToPut() {
	if i.window != nil {
		i.window.Post(putIcon)
	}
}

func (i *shellIcon) tryAgain() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.askToPut()
}

func (i *shellIcon) current() View {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.view
}

func (i *shellIcon) setWindow(w *win32.Window) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.window = w
}

// Run implements Front.
func (i *shellIcon) Run(ctx context.Context, look func(), do func(Action)) error {
	i.look, i.do = look, do
	defer func() {
		i.setWindow(nil)
		if i.again != nil {
			i.again.Stop()
		}
	}()
	// A window of the desktop, though never shown: messages for everybody do not reach
	// others.
	return win32.Run(ctx, win32.Options{Class: "CetrusTray", Title: "Cetrus", Style: win32.StylePopup, Handle: i.handle, Ready: i.ready})
}

func (i *shellIcon) ready(w *win32.Window) (err error) {
	// Sent by a shell that begins, after a crash of the one before too.
	if i.newTaskbar, err = w.RegisterMessage("TaskbarCreated"); err != nil {
		return err
	}
	i.setWindow(w)
	i.put(w)
	return nil
}

func (i *shellIcon) handle(w *win32.Window, m win32.Message) (result uintptr, done bool) {
	switch m.ID {
	case win32.MsgApp + putIcon, i.newTaskbar, win32.MsgDPIChanged:
		i.put(w)
	case win32.MsgIcon:
		switch event, at := m.IconEvent(); event {
		case win32.IconHover:
			if time.Since(i.hovered) >= hoverEvery {
				i.hovered = time.Now()
				i.look()
			}
		case win32.IconMenu:
			i.menu(w, at)
		case win32.IconOther:
		}
	default:
		return 0, false
	}
	return 0, true
}

// put shows the view's icon.
func (i *shellIcon) put(w *win32.Window) {
	v := i.current()
	tip := v.Title
	if v.Text != "" {
		tip += "\n" + v.Text
	}
	err := w.PutIcon(v.Icon.Draw(int(iconDots*w.Scale()+0.5)), tip)
	if err == nil {
		i.said = false
		return
	}
	if !i.said {
		i.said = true
		i.log.Info("the icon waits for a taskbar", "reason", err)
	}
	if i.again == nil {
		i.again = time.AfterFunc(againAfter, i.tryAgain)
	} else {
		i.again.Reset(againAfter)
	}
}

// menu lets the person choose. What they choose is what they saw, though the view may have
// changed meanwhile.
func (i *shellIcon) menu(w *win32.Window, at image.Point) {
	v := i.current()
	// Messages are taken in while it is open; and at first nothing is known to be shown.
	if i.open || len(v.Menu) == 0 {
		return
	}
	i.open = true
	defer func() { i.open = false }()
	i.look()
	var shown []Entry
	chosen, err := w.Menu(at, menuOf(v.Menu, &shown))
	switch {
	case err != nil:
		i.log.Error("the icon's menu cannot be shown", "reason", err)
	case chosen > 0 && int(chosen) <= len(shown):
		i.do(shown[chosen-1].Action)
	}
}

// menuOf numbers entries by their place in shown.
func menuOf(entries []Entry, shown *[]Entry) (menu []win32.MenuEntry) {
	for _, e := range entries {
		*shown = append(*shown, e)
		line := win32.MenuEntry{ID: uint16(len(*shown)), Label: e.Label, Separator: e.Separator, Disabled: e.Disabled}
		line.Entries = menuOf(e.Entries, shown)
		menu = append(menu, line)
	}
	return menu
}
