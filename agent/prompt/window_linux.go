package prompt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"
)

// maxPutBytes is how much of an image goes into one request.
const maxPutBytes = 200 << 10

// window is a prompt on an X11 display.
type window struct {
	conn    *xgb.Conn
	setup   *xproto.SetupInfo
	screen  *xproto.ScreenInfo
	id      xproto.Window
	context xproto.Gcontext
	keys    *keyboard
	atoms   map[string]xproto.Atom
	painter *painter
	model   *Model
	order   binary.ByteOrder
	// shown stops asking for the window.
	shown func()
	// sync is the number of the extension that knows how long nobody has pressed a key.
	sync byte
	// serverTime is the counter of the server's time; compared is when it was what.
	serverTime uint32
	compared   struct {
		stamp xproto.Timestamp
		at    time.Time
	}
	attention attention
	// released is the last key that was let go: a key held down is let go and pressed again
	// in one moment.
	released xproto.KeyReleaseEvent
	// swapped: the server wants red where others want blue.
	swapped bool
}

// show puts a model on the display of the environment until it is answered; it gives
// Later where the window was closed.
func show(ctx context.Context, m *Model) error {
	xgb.Logger.SetOutput(io.Discard)
	conn, err := xgb.NewConn()
	if err != nil {
		return fmt.Errorf("prompt: connect to the display %q: %w", os.Getenv("DISPLAY"), err)
	}
	defer conn.Close()
	w := &window{conn: conn, setup: xproto.Setup(conn), model: m, order: binary.LittleEndian, atoms: map[string]xproto.Atom{}}
	w.screen = w.setup.DefaultScreen(conn)
	if err := w.checkFormat(); err != nil {
		return err
	}
	room := image.Pt(int(w.screen.WidthInPixels), int(w.screen.HeightInPixels))
	scale, err := fitting(m, wantedScale(w.scale), room)
	if err != nil {
		return err
	}
	if w.painter, err = newPainter(scale); err != nil {
		return err
	}
	if err := w.open(); err != nil {
		return err
	}
	w.attention.idle = w.idleTimes()
	w.listen()
	return w.run(ctx)
}

// checkFormat makes sure that the screen takes 32-bit pixels of plain colours.
func (w *window) checkFormat() error {
	if w.setup.ImageByteOrder == xproto.ImageOrderMSBFirst {
		w.order = binary.BigEndian
	}
	for _, f := range w.setup.PixmapFormats {
		if f.Depth == w.screen.RootDepth && f.BitsPerPixel != 32 {
			return fmt.Errorf("prompt: the screen has %d bits a pixel; 32 are needed", f.BitsPerPixel)
		}
	}
	for _, d := range w.screen.AllowedDepths {
		for _, v := range d.Visuals {
			if v.VisualId == w.screen.RootVisual {
				w.swapped = v.RedMask == 0xff
				if v.RedMask|v.GreenMask|v.BlueMask == 0xffffff {
					return nil
				}
			}
		}
	}
	return errors.New("prompt: the screen shows no true colours")
}

// scale is how many pixels there are to 1/96 inch, as the desktop's settings say.
func (w *window) scale() float64 {
	reply, err := xproto.GetProperty(w.conn, false, w.screen.Root, xproto.AtomResourceManager, xproto.AtomString, 0, 1<<16).Reply()
	if err != nil {
		return 1
	}
	for resource := range strings.Lines(string(reply.Value)) {
		name, value, _ := strings.Cut(resource, ":")
		if dpi, err := strconv.ParseFloat(strings.TrimSpace(value), 64); strings.TrimSpace(name) == "Xft.dpi" && err == nil {
			return min(max(dpi/96, 0.75), 4)
		}
	}
	return 1
}

func (w *window) atom(name string) xproto.Atom {
	if known, ok := w.atoms[name]; ok {
		return known
	}
	reply, err := xproto.InternAtom(w.conn, false, uint16(len(name)), name).Reply()
	if err != nil {
		return xproto.AtomNone
	}
	w.atoms[name] = reply.Atom
	return reply.Atom
}

func (w *window) open() error {
	var err error
	if w.id, err = xproto.NewWindowId(w.conn); err != nil {
		return fmt.Errorf("prompt: window: %w", err)
	}
	if w.context, err = xproto.NewGcontextId(w.conn); err != nil {
		return fmt.Errorf("prompt: window: %w", err)
	}
	size := w.painter.size(w.model)
	x := max(0, (int(w.screen.WidthInPixels)-size.X)/2)
	y := max(0, (int(w.screen.HeightInPixels)-size.Y)/3)
	events := uint32(xproto.EventMaskExposure | xproto.EventMaskKeyPress | xproto.EventMaskKeyRelease |
		xproto.EventMaskButtonPress | xproto.EventMaskStructureNotify | xproto.EventMaskFocusChange)
	if err := xproto.CreateWindowChecked(w.conn, w.screen.RootDepth, w.id, w.screen.Root, int16(x), int16(y), uint16(size.X), uint16(size.Y), 0,
		xproto.WindowClassInputOutput, w.screen.RootVisual, xproto.CwEventMask, []uint32{events}).Check(); err != nil {
		return fmt.Errorf("prompt: window: %w", err)
	}
	xproto.CreateGC(w.conn, w.context, xproto.Drawable(w.id), 0, nil)
	w.describe(size, x, y)
	if err := w.readKeyboard(); err != nil {
		return err
	}
	if err := xproto.MapWindowChecked(w.conn, w.id).Check(); err != nil {
		return fmt.Errorf("prompt: window: %w", err)
	}
	return nil
}

// describe tells the window manager what this window is.
func (w *window) describe(size image.Point, x, y int) {
	title := windowTitle(w.model.request)
	text := func(property, kind xproto.Atom, value string) {
		xproto.ChangeProperty(w.conn, xproto.PropModeReplace, w.id, property, kind, 8, uint32(len(value)), []byte(value))
	}
	words := func(property, kind xproto.Atom, values ...uint32) {
		data := make([]byte, 0, 4*len(values))
		for _, v := range values {
			data = binary.LittleEndian.AppendUint32(data, v) // the order that xgb has announced
		}
		xproto.ChangeProperty(w.conn, xproto.PropModeReplace, w.id, property, kind, 32, uint32(len(values)), data)
	}
	text(xproto.AtomWmName, w.atom("UTF8_STRING"), title)
	text(w.atom("_NET_WM_NAME"), w.atom("UTF8_STRING"), title)
	text(xproto.AtomWmClass, xproto.AtomString, "cetrus-prompt\x00Cetrus-prompt\x00")
	words(w.atom("_NET_WM_WINDOW_TYPE"), xproto.AtomAtom, uint32(w.atom("_NET_WM_WINDOW_TYPE_DIALOG")))
	words(w.atom("_NET_WM_STATE"), xproto.AtomAtom, uint32(w.atom("_NET_WM_STATE_ABOVE")), uint32(w.atom("_NET_WM_STATE_SKIP_TASKBAR")))
	words(w.atom("WM_PROTOCOLS"), xproto.AtomAtom, uint32(w.atom("WM_DELETE_WINDOW")))
	words(w.atom("_NET_WM_PID"), xproto.AtomCardinal, uint32(os.Getpid()))
	// Position and size are the program's, and the size is fixed.
	const position, fixed = 1 << 2, 1<<3 | 1<<4 | 1<<5
	words(xproto.AtomWmNormalHints, xproto.AtomWmSizeHints, position|fixed, uint32(x), uint32(y), uint32(size.X), uint32(size.Y),
		uint32(size.X), uint32(size.Y), uint32(size.X), uint32(size.Y), 0, 0, 0, 0, 0, 0, 0, 0, 0)
	// It takes the keyboard.
	words(xproto.AtomWmHints, xproto.AtomWmHints, 1, 1, 0, 0, 0, 0, 0, 0, 0)
}

func (w *window) readKeyboard() error {
	count := byte(w.setup.MaxKeycode - w.setup.MinKeycode + 1)
	reply, err := xproto.GetKeyboardMapping(w.conn, w.setup.MinKeycode, count).Reply()
	if err != nil {
		return fmt.Errorf("prompt: keyboard: %w", err)
	}
	w.keys = newKeyboard(w.setup, reply)
	return nil
}

// managed tells whether a window manager gives the focus.
func (w *window) managed() bool {
	reply, err := xproto.GetProperty(w.conn, false, w.screen.Root, w.atom("_NET_SUPPORTING_WM_CHECK"), xproto.AtomWindow, 0, 1).Reply()
	return err == nil && reply.ValueLen == 1
}

// happened is what the display tells.
type happened struct {
	event xgb.Event
	err   xgb.Error
}

// run takes in events until the question is answered.
func (w *window) run(ctx context.Context) error {
	var helpers sync.WaitGroup
	defer helpers.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(ctx, w.conn.Close) // which ends the reading
	asked, shown := context.WithCancel(ctx)
	defer shown()
	w.shown = shown
	helpers.Go(func() { w.askAgain(asked) })
	events := make(chan happened)
	helpers.Go(func() { w.read(ctx, events) })
	for w.model.Answer() == nil {
		var due <-chan time.Time
		if at, ok := w.attention.due(); ok {
			due = time.After(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-due:
			if w.attention.wake(now) {
				w.takeKeyboard()
			}
			w.listen()
		case h, open := <-events:
			if !open {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				return errors.New("prompt: the display has gone")
			}
			if h.event == nil {
				continue // an error of a request; what matters was checked
			}
			if err := w.handle(h.event); err != nil {
				return err
			}
		}
	}
	return nil
}

// read passes events on until the display has gone.
func (w *window) read(ctx context.Context, events chan<- happened) {
	defer close(events)
	for {
		event, err := w.conn.WaitForEvent()
		if event == nil && err == nil {
			return
		}
		select {
		case events <- happened{event, err}:
		case <-ctx.Done():
			return
		}
	}
}

// takeKeyboard asks for the keyboard, as a list of windows does for somebody who picks one
// of them.
func (w *window) takeKeyboard() {
	if !w.managed() {
		xproto.SetInputFocus(w.conn, xproto.InputFocusParent, w.id, xproto.TimeCurrentTime)
		return
	}
	const byPager = 2
	request := xproto.ClientMessageEvent{
		Format: 32, Window: w.id, Type: w.atom("_NET_ACTIVE_WINDOW"),
		Data: xproto.ClientMessageDataUnionData32New([]uint32{byPager, xproto.TimeCurrentTime, 0, 0, 0}),
	}
	xproto.SendEvent(w.conn, false, w.screen.Root, xproto.EventMaskSubstructureRedirect|xproto.EventMaskSubstructureNotify, string(request.Bytes()))
}

// listensProperty of the window is 1 while keys count, for whatever presses keys for people.
const listensProperty = "_CETRUS_LISTENS"

// listen shows whether keys count now.
func (w *window) listen() {
	if w.model.away != w.attention.listens {
		return
	}
	w.model.away = !w.attention.listens
	w.draw()
	words := []byte{0, 0, 0, 0}
	if w.attention.listens {
		words[0] = 1
	}
	xproto.ChangeProperty(w.conn, xproto.PropModeReplace, w.id, w.atom(listensProperty), xproto.AtomCardinal, 32, 1, words)
}

// mapAgain is how often the window is asked for until it is there: a window manager
// that has just started may lose the request.
const mapAgain = time.Second

func (w *window) askAgain(ctx context.Context) {
	ticker := time.NewTicker(mapAgain)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			xproto.MapWindow(w.conn, w.id)
		}
	}
}

func (w *window) handle(event xgb.Event) error {
	now := time.Now()
	defer w.listen()
	switch e := event.(type) {
	case xproto.ExposeEvent:
		if e.Count == 0 {
			w.draw()
		}
	case xproto.MapNotifyEvent:
		w.shown()
		w.attention.show(now)
		if !w.managed() {
			xproto.SetInputFocus(w.conn, xproto.InputFocusParent, w.id, xproto.TimeCurrentTime)
		}
	case xproto.MappingNotifyEvent:
		return w.readKeyboard()
	case xproto.FocusInEvent:
		if !grabbed(e.Mode) {
			w.compareClocks()
			w.attention.gain(now)
		}
	case xproto.FocusOutEvent:
		if !grabbed(e.Mode) {
			w.attention.lose(now)
		}
	case xproto.KeyReleaseEvent:
		w.released = e
	case xproto.KeyPressEvent:
		if !w.attention.key(w.pressed(e.Time, now)) {
			return nil
		}
		held := w.released.Detail == e.Detail && w.released.Time == e.Time
		if key, ok := w.keys.press(e); ok && (key.Name != Enter || !held) {
			w.model.Press(key)
			w.draw()
		}
	case xproto.ButtonPressEvent:
		w.attention.click()
		switch e.Detail {
		case xproto.ButtonIndex1:
			if element, entry, ok := w.painter.hit(w.model, image.Pt(int(e.EventX), int(e.EventY))); ok {
				w.model.Point(element, entry)
			}
		case xproto.ButtonIndex4:
			w.model.Press(Key{Name: Up})
		case xproto.ButtonIndex5:
			w.model.Press(Key{Name: Down})
		}
		w.draw()
	case xproto.ClientMessageEvent:
		if e.Type == w.atom("WM_PROTOCOLS") && xproto.Atom(e.Data.Data32[0]) == w.atom("WM_DELETE_WINDOW") {
			w.model.Dismiss()
			w.draw()
		}
	case xproto.DestroyNotifyEvent:
		return errors.New("prompt: its window was destroyed")
	}
	return nil
}

// grabbed tells of a change of focus that it is none: the window manager holds all keys for a
// moment.
func grabbed(mode byte) bool { return mode == xproto.NotifyModeGrab || mode == xproto.NotifyModeUngrab }

// draw puts the model's image into the window, in strips that fit into a request.
func (w *window) draw() {
	if w.model.Answer() != nil {
		return
	}
	canvas := w.painter.paint(w.model)
	size := canvas.Bounds().Max
	rows := max(1, maxPutBytes/(4*size.X))
	data := make([]byte, 0, rows*size.X*4)
	for top := 0; top < size.Y; top += rows {
		height := min(rows, size.Y-top)
		data = data[:0]
		pixels := canvas.Pix[top*canvas.Stride : (top+height)*canvas.Stride]
		for i := 0; i < len(pixels); i += 4 {
			red, green, blue := uint32(pixels[i]), uint32(pixels[i+1]), uint32(pixels[i+2])
			if w.swapped {
				red, blue = blue, red
			}
			var pixel [4]byte
			w.order.PutUint32(pixel[:], 0xff<<24|red<<16|green<<8|blue)
			data = append(data, pixel[:]...)
		}
		xproto.PutImage(w.conn, xproto.ImageFormatZPixmap, xproto.Drawable(w.id), w.context,
			uint16(size.X), uint16(height), 0, int16(top), 0, w.screen.RootDepth, data)
	}
}
