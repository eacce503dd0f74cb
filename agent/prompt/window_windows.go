package prompt

import (
	"context"
	"errors"
	"image"
	"unicode/utf16"

	"github.com/cetrus/cetrus/agent/win32"
)

// Keys as Windows numbers them (virtual-key codes).
const (
	keyShift = 0x10
	// heldBefore is set in a key's message where the key was down already.
	heldBefore = 1 << 30
	// What Ctrl+A writes.
	charSelectAll = 0x01
	wheelNotch    = 120
)

var virtualKeys = map[uintptr]KeyName{
	0x08: Backspace, 0x09: Tab, 0x0D: Enter, 0x1B: Escape, 0x21: PageUp, 0x22: PageDown, 0x23: End, 0x24: Home,
	0x25: Left, 0x26: Up, 0x27: Right, 0x28: Down, 0x2E: Delete,
}

// window is a prompt on the desktop of the session that this process runs in.
type window struct {
	model   *Model
	painter *painter
	scale   float64
	// shift is held, as this window's own keys say: nothing else is asked.
	shift bool
	// high is the first half of a character that comes in two.
	high rune
	err  error
}

// show puts a model on the desktop until it is answered; it gives Later where the window was
// closed.
func show(ctx context.Context, m *Model) error {
	p := &window{model: m}
	err := win32.Run(ctx, win32.Options{
		Class: "CetrusPrompt", Title: windowTitle(m.request),
		// A dialog that stands above and can be reached with Alt+Tab.
		Style:   win32.StylePopup | win32.StyleCaption | win32.StyleSystemMenu,
		ExStyle: win32.ExStyleFrame | win32.ExStyleTopmost,
		Handle:  p.handle, Ready: p.ready,
	})
	switch {
	case errors.Join(err, p.err) != nil:
		return errors.Join(err, p.err)
	case m.Answer() == nil:
		return errors.New("prompt: its window was destroyed")
	}
	return nil
}

// ready puts the window into the middle of the screen that the person works at.
func (p *window) ready(w *win32.Window) error {
	room := w.Room(false)
	// First onto that screen, whose scale may be another one.
	w.Move(image.Rectangle{Min: room.Min, Max: room.Min.Add(image.Pt(1, 1))})
	if err := p.resize(w, room); err != nil {
		return err
	}
	w.Show()
	return nil
}

// resize gives the window the size that its screen's scale asks for.
func (p *window) resize(w *win32.Window, room image.Rectangle) error {
	frame := w.Frame()
	scale, err := fitting(p.model, wantedScale(w.Scale), room.Size().Sub(frame))
	if err != nil {
		return err
	}
	if p.painter == nil || scale != p.scale {
		if p.painter, err = newPainter(scale); err != nil {
			return err
		}
		p.scale = scale
	}
	size := p.painter.size(p.model).Add(frame)
	at := room.Min.Add(image.Pt((room.Dx()-size.X)/2, (room.Dy()-size.Y)/3))
	w.Move(image.Rectangle{Min: at, Max: at.Add(size)})
	return nil
}

func (p *window) handle(w *win32.Window, m win32.Message) (result uintptr, done bool) {
	switch m.ID {
	case win32.MsgEraseGround:
		return 1, true // all of it is painted
	case win32.MsgPaint:
		if p.painter == nil {
			return 0, false
		}
		w.Paint(p.painter.paint(p.model))
		return 0, true
	case win32.MsgDPIChanged:
		if p.painter != nil {
			p.err = p.resize(w, w.Room(true))
		}
	case win32.MsgClose:
		p.model.Dismiss()
	case win32.MsgKillFocus:
		p.shift = false
		return 0, false
	case win32.MsgLeftDown:
		at := image.Pt(int(int16(m.Long)), int(int16(m.Long>>16)))
		if element, entry, ok := p.painter.hit(p.model, at); ok {
			p.model.Point(element, entry)
		}
	case win32.MsgMouseWheel:
		name := Up
		if int16(m.Word>>16) <= -wheelNotch {
			name = Down
		}
		p.model.Press(Key{Name: name})
	default:
		key, ok := p.key(m)
		if !ok {
			return 0, false
		}
		p.model.Press(key)
	}
	if p.model.Answer() != nil || p.err != nil {
		w.Destroy()
	} else {
		w.Redraw()
	}
	return 0, true
}

// key turns a message into a key; ok is false where it is none that means something here.
func (p *window) key(m win32.Message) (key Key, ok bool) {
	switch m.ID {
	case win32.MsgKeyDown:
		if m.Word == keyShift {
			p.shift = true
			return key, false
		}
		key.Name, ok = virtualKeys[m.Word]
		switch {
		case key.Name == Tab && p.shift:
			key.Name = BackTab
		case key.Name == Enter && m.Long&heldBefore != 0:
			return key, false // it was pressed to start the program
		}
		return key, ok
	case win32.MsgKeyUp:
		if m.Word == keyShift {
			p.shift = false
		}
		return key, false
	case win32.MsgChar:
		if m.Word == charSelectAll {
			return Key{Rune: 'a', Control: true}, true
		}
		key.Rune, ok = p.character(rune(m.Word))
		return key, ok
	case win32.MsgSysChar:
		if m.Word == ' ' {
			return key, false // the window's menu
		}
		return Key{Rune: rune(m.Word), Alt: true}, true
	}
	return key, false
}

// character puts together what comes in two halves, and leaves out what is no
// character.
func (p *window) character(half rune) (r rune, ok bool) {
	if utf16.IsSurrogate(half) {
		if p.high == 0 {
			p.high = half
			return 0, false
		}
		half = utf16.DecodeRune(p.high, half)
	}
	p.high = 0
	return half, half >= ' ' && half != 0x7F
}
