package win32

import (
	"context"
	"errors"
	"fmt"
	"image"
	"runtime"
	"unsafe"

	"golang.org/x/sys/windows"
)

// Messages that a window may get.
const (
	MsgDestroy      = 0x0002
	MsgKillFocus    = 0x0008
	MsgPaint        = 0x000F
	MsgClose        = 0x0010
	MsgEraseGround  = 0x0014
	MsgKeyDown      = 0x0100
	MsgKeyUp        = 0x0101
	MsgChar         = 0x0102
	MsgSysKeyDown   = 0x0104
	MsgSysChar      = 0x0106
	MsgLeftDown     = 0x0201
	MsgMouseWheel   = 0x020A
	MsgDPIChanged   = 0x02E0
	MsgApp          = 0x8000 // the first of a program's own
	msgEnd          = MsgApp + 0x3FFF
	MostOwnMessages = 0x3FFF
)

// Styles of a window.
const (
	StylePopup      = 0x80000000
	StyleCaption    = 0x00C00000
	StyleSystemMenu = 0x00080000
	ExStyleFrame    = 0x00000001 // a dialog's
	ExStyleTopmost  = 0x00000008
)

// Dots are how many there are to the inch where nothing is scaled.
const Dots = 96

// Options say which window is made.
type Options struct {
	// Class names what kind of window it is, for other programs and tests; the
	// title is what people and screen readers are told.
	Class, Title   string
	Style, ExStyle uint32
	// Handle takes in a message; done is false where the system is to do what it
	// always does. It is called on the window's own thread, inside of Run.
	Handle func(w *Window, m Message) (result uintptr, done bool)
	// Ready is called on that thread once the window is there, and not yet shown.
	Ready func(w *Window) error
}

// Message is one message of a window.
type Message struct {
	ID         uint32
	Word, Long uintptr
}

// Window is one that Run has made. All but Post belongs to its thread.
type Window struct {
	procs   *procs
	handle  windows.HWND
	options Options
	// icon: there is one beside the clock.
	icon bool
}

// msg is MSG, laid out as in C.
type msg struct {
	window     windows.HWND
	id         uint32
	word, long uintptr
	time       uint32
	x, y       int32
	_          uint32
}

// class is WNDCLASSEXW.
type class struct {
	size, style             uint32
	proc                    uintptr
	classExtra, windowExtra int32
	instance                windows.Handle
	icon, cursor, ground    windows.Handle
	menu, name              *uint16
	smallIcon               windows.Handle
}

const (
	arrowCursor   = 32512
	perMonitorV2  = ^uintptr(3) // -4
	perMonitor    = ^uintptr(2) // -3
	showNormal    = 1
	flashTray     = 2
	flashUntilSee = 12
	// Whoever asks where a window stands that is on no monitor means the first.
	nearestMonitor = 2
	keepOrder      = 0x0004
	keepActive     = 0x0010
)

// Run makes a window and serves it until it is destroyed or ctx ends. It keeps a
// thread of the system for itself.
func Run(ctx context.Context, o Options) error {
	runtime.LockOSThread() // what happens to a window is told to the thread that has made it
	defer runtime.UnlockOSThread()
	w := &Window{procs: newProcs(), options: o}
	// Pixels are the screen's own, on each monitor. Systems that know only the older way
	// leave the frame to its size.
	if before, _, _ := w.procs.setThreadDPI.Call(perMonitorV2); before == 0 {
		_, _, _ = w.procs.setThreadDPI.Call(perMonitor)
	}
	if err := w.make(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _, _, _ = w.procs.postMessage.Call(uintptr(w.handle), msgEnd, 0, 0) })
	defer stop()
	if o.Ready != nil {
		if err := o.Ready(w); err != nil {
			w.Destroy()
			return errors.Join(err, w.serve())
		}
	}
	if err := w.serve(); err != nil {
		return err
	}
	return ctx.Err()
}

func (w *Window) make() error {
	var instance windows.Handle
	if err := windows.GetModuleHandleEx(windows.GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT, nil, &instance); err != nil {
		return fmt.Errorf("win32: this program's own handle: %w", err)
	}
	name, err := windows.UTF16PtrFromString(w.options.Class)
	if err != nil {
		return fmt.Errorf("win32: the window's class: %w", err)
	}
	title, err := windows.UTF16PtrFromString(w.options.Title)
	if err != nil {
		return fmt.Errorf("win32: the window's title: %w", err)
	}
	cursor, _, _ := w.procs.loadCursor.Call(0, arrowCursor)
	kind := class{instance: instance, cursor: windows.Handle(cursor), name: name, proc: windows.NewCallback(w.take)}
	kind.size = uint32(unsafe.Sizeof(kind))
	if atom, _, err := w.procs.registerClass.Call(uintptr(unsafe.Pointer(&kind))); atom == 0 {
		return fmt.Errorf("win32: the window's class: %w", err)
	}
	made, _, err := w.procs.createWindow.Call(uintptr(w.options.ExStyle), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(title)),
		uintptr(w.options.Style), 0, 0, 0, 0, 0, 0, uintptr(instance), 0)
	if made == 0 {
		return fmt.Errorf("win32: make a window: %w", err)
	}
	w.handle = windows.HWND(made)
	return nil
}

// take is the window procedure.
func (w *Window) take(handle windows.HWND, id uint32, word, long uintptr) uintptr {
	switch id {
	case msgEnd:
		w.Destroy()
		return 0
	case MsgDestroy:
		w.removeIcon()
		_, _, _ = w.procs.postQuit.Call(0)
		return 0
	}
	if w.handle == handle { // what comes while it is made is the system's
		if result, done := w.options.Handle(w, Message{ID: id, Word: word, Long: long}); done {
			return result
		}
	}
	result, _, _ := w.procs.defWindow.Call(uintptr(handle), uintptr(id), word, long)
	return result
}

// serve takes in messages until the window is destroyed.
func (w *Window) serve() error {
	var m msg
	for {
		got, _, err := w.procs.getMessage.Call(uintptr(unsafe.Pointer(&m)), 0, 0, 0)
		switch int32(got) {
		case 0:
			return nil
		case -1:
			return fmt.Errorf("win32: the window's messages: %w", err)
		}
		_, _, _ = w.procs.translateMessage.Call(uintptr(unsafe.Pointer(&m))) // keys become characters
		_, _, _ = w.procs.dispatchMessage.Call(uintptr(unsafe.Pointer(&m)))
	}
}

// Destroy ends the window, and Run with it.
func (w *Window) Destroy() { _, _, _ = w.procs.destroyWindow.Call(uintptr(w.handle)) }

// Post sends the window one of the program's own messages (MsgApp + n), from any
// goroutine.
func (w *Window) Post(n uint32) {
	_, _, _ = w.procs.postMessage.Call(uintptr(w.handle), uintptr(MsgApp+n%MostOwnMessages), 0, 0)
}

// Scale is how many pixels there are to 1/96 inch on the monitor of the window.
func (w *Window) Scale() float64 {
	if dots, _, _ := w.procs.getWindowDPI.Call(uintptr(w.handle)); dots > 0 {
		return float64(dots) / Dots
	}
	return 1
}

// Room is the part of a monitor that windows may cover: of the one with the window in
// front, where the person works, or, once shown, of its own.
func (w *Window) Room(shown bool) image.Rectangle {
	of := windows.GetForegroundWindow()
	if shown {
		of = w.handle
	}
	info := struct {
		size          uint32
		monitor, work windows.Rect
		flags         uint32
	}{}
	info.size = uint32(unsafe.Sizeof(info))
	monitor, _, _ := w.procs.monitorFromWindow.Call(uintptr(of), nearestMonitor)
	_, _, _ = w.procs.getMonitorInfo.Call(monitor, uintptr(unsafe.Pointer(&info)))
	return rectangle(info.work)
}

func rectangle(r windows.Rect) image.Rectangle {
	return image.Rect(int(r.Left), int(r.Top), int(r.Right), int(r.Bottom))
}

// Frame is how much wider and higher the window is than what is drawn in it.
func (w *Window) Frame() image.Point {
	r := windows.Rect{}
	_, _, _ = w.procs.adjustRect.Call(uintptr(unsafe.Pointer(&r)), uintptr(w.options.Style), 0, uintptr(w.options.ExStyle), uintptr(w.Scale()*Dots))
	return rectangle(r).Size()
}

// Place is where the window stands, frame included.
func (w *Window) Place() image.Rectangle {
	r := windows.Rect{}
	_, _, _ = w.procs.getWindowRect.Call(uintptr(w.handle), uintptr(unsafe.Pointer(&r)))
	return rectangle(r)
}

// Move gives the window a place and a size, frame included.
func (w *Window) Move(to image.Rectangle) {
	_, _, _ = w.procs.setWindowPos.Call(uintptr(w.handle), 0, signed(to.Min.X), signed(to.Min.Y), signed(to.Dx()), signed(to.Dy()), keepOrder|keepActive)
}

func signed(n int) uintptr { return uintptr(uint32(int32(n))) }

// Show shows the window and asks for the keyboard. The system may refuse that to a
// program that the person has not started; then the window stands above the others, and
// its button in the taskbar flashes until it is looked at.
func (w *Window) Show() {
	_, _, _ = w.procs.showWindow.Call(uintptr(w.handle), showNormal)
	_, _, _ = w.procs.setForegroundWindow.Call(uintptr(w.handle))
	if windows.GetForegroundWindow() == w.handle {
		return
	}
	info := struct {
		size           uint32
		window         windows.HWND
		flags          uint32
		count, timeout uint32
	}{window: w.handle, flags: flashTray | flashUntilSee}
	info.size = uint32(unsafe.Sizeof(info))
	_, _, _ = w.procs.flashWindow.Call(uintptr(unsafe.Pointer(&info)))
}

// Redraw asks for a MsgPaint.
func (w *Window) Redraw() { _, _, _ = w.procs.invalidate.Call(uintptr(w.handle), 0, 0) }

// bitmapHeader is BITMAPINFOHEADER.
type bitmapHeader struct {
	size             uint32
	width, height    int32
	planes, bits     uint16
	compression      uint32
	imageBytes       uint32
	xPixels, yPixels int32
	used, important  uint32
}

// Paint answers MsgPaint with an image, at the window's top left.
func (w *Window) Paint(canvas *image.RGBA) {
	var paint [72]byte // PAINTSTRUCT
	onto, _, _ := w.procs.beginPaint.Call(uintptr(w.handle), uintptr(unsafe.Pointer(&paint[0])))
	if onto == 0 {
		return
	}
	defer w.procs.endPaint.Call(uintptr(w.handle), uintptr(unsafe.Pointer(&paint[0]))) //nolint:errcheck // It tells nothing.
	size := canvas.Bounds().Size()
	if size.X == 0 || size.Y == 0 {
		return
	}
	pixels := make([]byte, 0, 4*size.X*size.Y)
	for y := range size.Y {
		row := canvas.Pix[y*canvas.Stride:][:4*size.X]
		for x := 0; x < len(row); x += 4 {
			pixels = append(pixels, row[x+2], row[x+1], row[x], 0)
		}
	}
	// A negative height: the first row is the uppermost.
	header := bitmapHeader{width: int32(size.X), height: -int32(size.Y), planes: 1, bits: 32}
	header.size = uint32(unsafe.Sizeof(header))
	_, _, _ = w.procs.setDIBits.Call(onto, 0, 0, uintptr(size.X), uintptr(size.Y), 0, 0, 0, uintptr(size.Y),
		uintptr(unsafe.Pointer(&pixels[0])), uintptr(unsafe.Pointer(&header)), 0)
}
