package desktop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/res"
	"github.com/jezek/xgb/screensaver"
	"github.com/jezek/xgb/xproto"

	"github.com/cetrus/cetrus/agent/activity"
)

// Everything that is ever asked of an X server is in this file: names of atoms,
// properties of windows, which window has the focus, how the windows are
// nested, whose process a window is, and how long ago the last input was.
// x11_privacy_test.go holds it to that list.

// x11Window is what is known of one window.
type x11Window struct {
	id     xproto.Window
	pid    int32
	class  string
	title  string
	parent xproto.Window
	// auxiliary: it is a palette, a toolbar or the like.
	auxiliary bool
}

// x11Screen is what one look at the screen has found.
type x11Screen struct {
	// focusKnown is false where the system does not say what has the keyboard.
	focusKnown bool
	// foreground is zero where nothing has.
	foreground xproto.Window
	// input is when the last input was; known is false where the server does not
	// tell.
	input inputReading
	// windowsChanged tells whether any window came, went, or changed.
	windowsChanged bool
}

// x11 is one connection to an X server.
type x11 struct {
	conn   *xgb.Conn
	raw    *greetedConn
	root   xproto.Window
	atoms  atoms
	hasRes bool
	hasXSS bool
	host   string

	manager xproto.Window // the window manager's own window; zero: no window manager
	windows map[xproto.Window]*x11Window
	order   []xproto.Window
	focus   xproto.Window // as last seen

	mu        sync.Mutex
	dirty     x11Dirty
	titleTold time.Time // when a title last made us look
	// wake is called when something is dirty, and at the end.
	wake func()
	// done is closed when the connection is gone and nothing runs any more.
	done chan struct{}
}

// x11Dirty is what the server has told to have changed since the last look.
type x11Dirty struct {
	manager bool
	list    bool
	focus   bool
	windows map[xproto.Window]windowPart
}

type windowPart uint8

const (
	partTitle windowPart = 1 << iota
	partClass
	partParent
	partType
	partAll = partTitle | partClass | partParent | partType
)

// titlePeriod is the shortest time between two looks for a title's sake.
const titlePeriod = 250 * time.Millisecond

type atoms struct {
	activeWindow, clientList, managerCheck, netName, netPID, utf8String, windowType xproto.Atom
	// auxiliary are the types of windows that show no document of their own.
	auxiliary [len(auxiliaryTypes)]xproto.Atom
}

// auxiliaryTypes are window types of EWMH.
var auxiliaryTypes = [...]string{
	"_NET_WM_WINDOW_TYPE_UTILITY", "_NET_WM_WINDOW_TYPE_TOOLBAR", "_NET_WM_WINDOW_TYPE_MENU",
	"_NET_WM_WINDOW_TYPE_SPLASH", "_NET_WM_WINDOW_TYPE_DOCK",
}

// openX connects and subscribes; it reads nothing yet.
func openX(ctx context.Context, display, authority string, wake func()) (*x11, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	xgb.Logger.SetOutput(io.Discard) // its remarks have no level and no context; what matters comes back as an error
	raw, address, err := dialX(ctx, display, authority)
	if err != nil {
		return nil, err
	}
	guard := context.AfterFunc(ctx, func() { _ = raw.Close() })
	defer guard()
	conn, err := xgb.NewConnNet(raw)
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("desktop: the X server of display %q does not let us in: %w", display, err)
	}
	x := &x11{
		conn: conn, raw: raw,
		windows: make(map[xproto.Window]*x11Window),
		wake:    wake,
		done:    make(chan struct{}),
	}
	x.dirty = x11Dirty{manager: true, list: true, focus: true, windows: make(map[xproto.Window]windowPart)}
	x.host, _ = os.Hostname()
	go x.listen()
	if err := x.setUp(address.screen); err != nil {
		x.close()
		return nil, fmt.Errorf("desktop: display %q: %w", display, err)
	}
	return x, nil
}

func (x *x11) setUp(screen int) error {
	setup := xproto.Setup(x.conn)
	if screen >= len(setup.Roots) {
		return fmt.Errorf("there is no screen %d", screen)
	}
	x.root = setup.Roots[screen].Root
	type named struct {
		name string
		into *xproto.Atom
	}
	wanted := []named{
		{"_NET_ACTIVE_WINDOW", &x.atoms.activeWindow},
		{"_NET_CLIENT_LIST", &x.atoms.clientList},
		{"_NET_SUPPORTING_WM_CHECK", &x.atoms.managerCheck},
		{"_NET_WM_NAME", &x.atoms.netName},
		{"_NET_WM_PID", &x.atoms.netPID},
		{"UTF8_STRING", &x.atoms.utf8String},
		{"_NET_WM_WINDOW_TYPE", &x.atoms.windowType},
	}
	for i, name := range auxiliaryTypes {
		wanted = append(wanted, named{name, &x.atoms.auxiliary[i]})
	}
	for _, a := range wanted {
		reply, err := xproto.InternAtom(x.conn, false, uint16(len(a.name)), a.name).Reply()
		if err != nil {
			return fmt.Errorf("atom %s: %w", a.name, err)
		}
		*a.into = reply.Atom
	}
	x.hasRes = res.Init(x.conn) == nil
	x.hasXSS = screensaver.Init(x.conn) == nil
	x.subscribe(x.root, xproto.EventMaskPropertyChange)
	return nil
}

// close cuts the connection and waits for what it started.
func (x *x11) close() {
	_ = x.raw.Close()
	<-x.done
}

func (x *x11) subscribe(w xproto.Window, mask uint32) {
	xproto.ChangeWindowAttributes(x.conn, w, xproto.CwEventMask, []uint32{mask})
}

// listen notes what the server says has changed, until the connection ends.
func (x *x11) listen() {
	defer x.wake()
	defer close(x.done)
	for {
		event, xerr := x.conn.WaitForEvent()
		if event == nil && xerr == nil {
			return
		}
		if event != nil && x.note(event) {
			x.wake()
		}
	}
}

// list gives the known windows.
func (x *x11) list() []activity.Window {
	list := make([]activity.Window, 0, len(x.order))
	for _, id := range x.order {
		w := x.windows[id]
		list = append(list, activity.Window{
			ID: uint64(w.id), Parent: uint64(w.parent), PID: w.pid, Class: w.class, Title: w.title, Auxiliary: w.auxiliary,
		})
	}
	return list
}

// note keeps what an event says has changed; it tells whether to look at once.
func (x *x11) note(event xgb.Event) (matters bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	d := &x.dirty
	switch e := event.(type) {
	case xproto.PropertyNotifyEvent:
		if e.Window == x.root {
			switch e.Atom {
			case x.atoms.activeWindow:
				d.focus = true
			case x.atoms.clientList:
				d.list = true
			case x.atoms.managerCheck:
				d.manager, d.list, d.focus = true, true, true
			default:
				return false
			}
			return true
		}
		switch e.Atom {
		case x.atoms.netName, xproto.AtomWmName:
			d.windows[e.Window] |= partTitle
			// Some programs draw in their title; those wait for the next look.
			if time.Since(x.titleTold) < titlePeriod {
				return false
			}
			x.titleTold = time.Now()
		case xproto.AtomWmClass:
			d.windows[e.Window] |= partClass
		case xproto.AtomWmTransientFor:
			d.windows[e.Window] |= partParent
		case x.atoms.windowType:
			d.windows[e.Window] |= partType
		default:
			return false
		}
		return true
	case xproto.DestroyNotifyEvent:
		d.manager, d.list, d.focus = true, true, true
		return true
	case xproto.MapNotifyEvent, xproto.UnmapNotifyEvent:
		d.list, d.focus = true, true
		return true
	case xproto.FocusInEvent, xproto.FocusOutEvent:
		d.focus = true
		return true
	}
	return false
}

func (x *x11) takeDirty() x11Dirty {
	x.mu.Lock()
	defer x.mu.Unlock()
	d := x.dirty
	x.dirty = x11Dirty{windows: make(map[xproto.Window]windowPart)}
	return d
}

// errServerGone says that the X server has ended, or stopped answering.
var errServerGone = errors.New("desktop: the X server is gone")

// look reads what has changed, the focus and the idle time; with all it reads
// the list of windows too, even if no event said that it changed.
func (x *x11) look(all bool) (x11Screen, error) {
	guard := time.AfterFunc(answerTimeout, func() { _ = x.raw.Close() })
	defer guard.Stop()
	d := x.takeDirty()
	if d.manager || all {
		x.findManager()
	}
	// Both questions go out before either answer is waited for: most looks ask nothing
	// else, and waiting costs more than asking.
	input, focus := x.askInput(), x.askFocus()
	screen := x11Screen{input: input()}
	if d.list || all {
		screen.windowsChanged = x.readList()
	}
	for w, parts := range d.windows {
		if known := x.windows[w]; known != nil && x.readWindow(known, parts) {
			screen.windowsChanged = true
		}
	}
	screen.focusKnown, screen.foreground = focus()
	x.focus = screen.foreground
	if screen.foreground != 0 && x.windows[screen.foreground] == nil {
		x.admit(screen.foreground)
		screen.windowsChanged = true
	}
	select {
	case <-x.done:
		return screen, errServerGone
	default:
		return screen, nil
	}
}

// askInput asks how long ago the last input was, and when it asked: nothing
// else of the input is ever read.
func (x *x11) askInput() (answer func() inputReading) {
	if !x.hasXSS {
		return func() inputReading { return inputReading{} }
	}
	before := awakeMillis()
	cookie := screensaver.QueryInfo(x.conn, xproto.Drawable(x.root))
	return func() inputReading {
		reply, err := cookie.Reply()
		if err != nil || reply == nil {
			return inputReading{}
		}
		idle := int64(reply.MsSinceUserInput)
		return inputReading{known: true, earliest: before - idle, latest: awakeMillis() - idle}
	}
}

// findManager looks for a living window manager that follows EWMH: the root
// names a window of its own, which names itself.
func (x *x11) findManager() {
	was := x.manager
	x.manager = 0
	if w := x.windowProperty(x.root, x.atoms.managerCheck); w != 0 && x.windowProperty(w, x.atoms.managerCheck) == w {
		x.manager = w
	}
	if x.manager == was && was != 0 {
		return
	}
	if x.manager != 0 {
		x.subscribe(x.root, xproto.EventMaskPropertyChange)
		x.subscribe(x.manager, xproto.EventMaskStructureNotify)
		return
	}
	// Nobody keeps a list, so the root has to say itself which windows come and go.
	x.subscribe(x.root, xproto.EventMaskPropertyChange|xproto.EventMaskSubstructureNotify)
}

// readList brings the known windows up to date.
func (x *x11) readList() (changed bool) {
	var list []xproto.Window
	if x.manager != 0 {
		list = x.windowsProperty(x.root, x.atoms.clientList)
	} else {
		list = x.topWindows()
	}
	for id := range x.windows {
		if !slices.Contains(list, id) && id != x.focus {
			delete(x.windows, id)
			changed = true
		}
	}
	for _, id := range list {
		if x.windows[id] == nil {
			x.admit(id)
			changed = true
		}
	}
	if changed {
		x.order = x.order[:0]
		for id := range x.windows {
			x.order = append(x.order, id)
		}
		slices.Sort(x.order)
	}
	return changed
}

// topWindows lists the windows that a person can see, where no window manager
// keeps a list.
func (x *x11) topWindows() []xproto.Window {
	tree, err := xproto.QueryTree(x.conn, x.root).Reply()
	if err != nil || tree == nil {
		return nil
	}
	cookies := make([]xproto.GetWindowAttributesCookie, len(tree.Children))
	for i, w := range tree.Children {
		cookies[i] = xproto.GetWindowAttributes(x.conn, w)
	}
	var list []xproto.Window
	for i, w := range tree.Children {
		a, err := cookies[i].Reply()
		if err == nil && a != nil && a.MapState == xproto.MapStateViewable && !a.OverrideRedirect && a.Class == xproto.WindowClassInputOutput {
			list = append(list, w)
		}
	}
	return list
}

// admit reads a window for the first time and asks to be told of its changes.
func (x *x11) admit(id xproto.Window) {
	mask := uint32(xproto.EventMaskPropertyChange)
	if x.manager == 0 {
		mask |= xproto.EventMaskFocusChange
	}
	// Subscribed before it is read, so that no change falls in between.
	x.subscribe(id, mask)
	w := &x11Window{id: id}
	w.pid = x.processOf(id)
	x.readWindow(w, partAll)
	x.windows[id] = w
	if at, ok := slices.BinarySearch(x.order, id); !ok {
		x.order = slices.Insert(x.order, at, id)
	}
}

func (x *x11) readWindow(w *x11Window, parts windowPart) (changed bool) {
	was := *w
	if parts&partTitle != 0 {
		w.title = x.titleOf(w.id)
	}
	if parts&partClass != 0 {
		w.class = x.classOf(w.id)
	}
	if parts&partParent != 0 {
		w.parent = x.windowProperty(w.id, xproto.AtomWmTransientFor)
		if w.parent == x.root || w.parent == w.id {
			w.parent = 0
		}
	}
	if parts&partType != 0 {
		w.auxiliary = x.isAuxiliary(w.id)
	}
	return *w != was
}

// isAuxiliary reads what kind of window it is: the first kind that is known counts, and
// those that are not listed here are windows as any other.
func (x *x11) isAuxiliary(w xproto.Window) bool {
	value, _ := x.property(w, x.atoms.windowType, maxTypes)
	return len(value) >= 4 && slices.Contains(x.atoms.auxiliary[:], xproto.Atom(xgb.Get32(value)))
}

// maxTypes is how many types of a window are read.
const maxTypes = 8

// askFocus asks for the window that owns the keyboard.
func (x *x11) askFocus() (answer func() (known bool, focus xproto.Window)) {
	if x.manager != 0 {
		cookie := x.ask(x.root, x.atoms.activeWindow, 1)
		return func() (bool, xproto.Window) {
			list := windowsOf(cookie)
			if len(list) == 0 {
				return true, 0
			}
			return true, list[0]
		}
	}
	cookie := xproto.GetInputFocus(x.conn)
	return func() (bool, xproto.Window) {
		reply, err := cookie.Reply()
		if err != nil || reply == nil {
			return false, 0
		}
		switch reply.Focus {
		case xproto.InputFocusNone:
			return true, 0
		case xproto.InputFocusPointerRoot:
			// The keyboard goes wherever the pointer is, and that is never asked.
			return false, 0
		}
		return true, x.topOf(reply.Focus)
	}
}

// topOf climbs from a window to the one that stands directly on the root.
func (x *x11) topOf(w xproto.Window) xproto.Window {
	const deepest = 64
	for range deepest {
		if w == 0 || w == x.root {
			return 0
		}
		if x.windows[w] != nil {
			return w
		}
		tree, err := xproto.QueryTree(x.conn, w).Reply()
		if err != nil || tree == nil {
			return 0
		}
		if tree.Parent == x.root {
			return w
		}
		w = tree.Parent
	}
	return 0
}

// processOf asks the server whose connection made the window; what the program
// itself says is believed only where the server does not tell.
func (x *x11) processOf(w xproto.Window) int32 {
	if x.hasRes {
		spec := res.ClientIdSpec{Client: uint32(w), Mask: res.ClientIdMaskLocalClientPID}
		reply, err := res.QueryClientIds(x.conn, 1, []res.ClientIdSpec{spec}).Reply()
		if err == nil && reply != nil {
			for _, id := range reply.Ids {
				if id.Spec.Mask&res.ClientIdMaskLocalClientPID != 0 && len(id.Value) == 1 && id.Value[0] > 0 {
					return int32(id.Value[0])
				}
			}
		}
	}
	if machine := x.textProperty(w, xproto.AtomWmClientMachine); machine != "" && !strings.EqualFold(machine, x.host) {
		return 0 // a program of another machine, whose numbers mean nothing here
	}
	value, _ := x.property(w, x.atoms.netPID, 1)
	if len(value) < 4 {
		return 0
	}
	return int32(xgb.Get32(value))
}

func (x *x11) titleOf(w xproto.Window) string {
	if title := x.textProperty(w, x.atoms.netName); title != "" {
		return title
	}
	return x.textProperty(w, xproto.AtomWmName)
}

// classOf reads the class out of WM_CLASS, which holds instance and class.
func (x *x11) classOf(w xproto.Window) string {
	instance, rest, found := strings.Cut(x.textProperty(w, xproto.AtomWmClass), "\x00")
	class, _, _ := strings.Cut(rest, "\x00")
	if !found || class == "" {
		return instance
	}
	return class
}

func (x *x11) windowProperty(w xproto.Window, name xproto.Atom) xproto.Window {
	if list := x.windowsPropertyN(w, name, 1); len(list) == 1 {
		return list[0]
	}
	return 0
}

// maxWindows is how many windows of a list are read; a desktop with more is not
// used by a person.
const maxWindows = 4096

func (x *x11) windowsProperty(w xproto.Window, name xproto.Atom) []xproto.Window {
	return x.windowsPropertyN(w, name, maxWindows)
}

func (x *x11) windowsPropertyN(w xproto.Window, name xproto.Atom, most uint32) []xproto.Window {
	return windowsOf(x.ask(w, name, most))
}

func windowsOf(cookie xproto.GetPropertyCookie) []xproto.Window {
	value, _ := propertyOf(cookie)
	list := make([]xproto.Window, 0, len(value)/4)
	for ; len(value) >= 4; value = value[4:] {
		list = append(list, xproto.Window(xgb.Get32(value)))
	}
	return list
}

// maxText is the longest text that is read of a property, in bytes.
const maxText = 4096

func (x *x11) textProperty(w xproto.Window, name xproto.Atom) string {
	value, kind := x.property(w, name, maxText/4)
	return decodeText(value, kind == x.atoms.utf8String)
}

// decodeText turns a text property into UTF-8: old programs write Latin-1.
func decodeText(value []byte, isUTF8 bool) string {
	if isUTF8 || utf8.Valid(value) {
		return strings.ToValidUTF8(string(value), "\uFFFD")
	}
	var b strings.Builder
	for _, c := range value {
		b.WriteRune(rune(c))
	}
	return b.String()
}

func (x *x11) property(w xproto.Window, name xproto.Atom, longs uint32) (value []byte, kind xproto.Atom) {
	return propertyOf(x.ask(w, name, longs))
}

func (x *x11) ask(w xproto.Window, name xproto.Atom, longs uint32) xproto.GetPropertyCookie {
	return xproto.GetProperty(x.conn, false, w, name, xproto.GetPropertyTypeAny, 0, longs)
}

func propertyOf(cookie xproto.GetPropertyCookie) (value []byte, kind xproto.Atom) {
	reply, err := cookie.Reply()
	if err != nil || reply == nil {
		return nil, 0 // the window has gone, or the connection: look says which
	}
	return reply.Value, reply.Type
}
