package prompt_test

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"

	"github.com/cetrus/cetrus/agent/desktop/desktoptest"
	"github.com/cetrus/cetrus/agent/prompt"
)

// ownWindows says for each request of the X protocol that the prompt may make what else has
// to hold: it looks at nothing but windows of its own.
type ownWindows struct {
	root   uint32
	own    map[uint32]bool
	screen map[xproto.Atom]bool // properties of the root window that it may read
	sync   byte                 // the extension that knows how long nobody has pressed a key
	ask    xproto.Atom          // what it may ask the window manager for
}

// Events of a window of its own: its keys, its clicks, and what becomes of it.
const ownEvents = xproto.EventMaskExposure | xproto.EventMaskKeyPress | xproto.EventMaskKeyRelease | xproto.EventMaskButtonPress |
	xproto.EventMaskStructureNotify | xproto.EventMaskFocusChange

func (o *ownWindows) check(request []byte) error {
	word := func(i int) uint32 {
		if len(request) < i+4 {
			return 0
		}
		return binary.LittleEndian.Uint32(request[i:])
	}
	window, major := word(4), request[0]
	switch major {
	case 1: // CreateWindow
		if mask, events := word(28), word(32); mask != xproto.CwEventMask || events&^ownEvents != 0 {
			return fmt.Errorf("a window is made with attributes %#x and events %#x", mask, events)
		}
		o.own[window] = true
		return nil
	case 16, 43, 60, 98, 101: // InternAtom, GetInputFocus, FreeGC, QueryExtension, GetKeyboardMapping
		return nil // what is printed on the keys, not which are pressed
	case 4, 8, 18, 42, 72: // DestroyWindow, MapWindow, ChangeProperty, SetInputFocus, PutImage
		if !o.own[window] {
			return fmt.Errorf("request %d concerns the window %#x of somebody else", major, window)
		}
		return nil
	case 55: // CreateGC
		if !o.own[word(8)] {
			return fmt.Errorf("it draws on the window %#x of somebody else", word(8))
		}
		return nil
	case 20: // GetProperty
		if atom := xproto.Atom(word(8)); window != o.root || !o.screen[atom] || request[1] != 0 {
			return fmt.Errorf("the property %d of the window %#x is read (delete: %d)", atom, window, request[1])
		}
		return nil
	case 25: // SendEvent
		if target, kind, about, what := word(4), word(12)&0x7f, word(16), xproto.Atom(word(20)); target != o.root || kind != xproto.ClientMessage || !o.own[about] || what != o.ask {
			return fmt.Errorf("the window %#x is sent the event %d with %d about %#x", target, kind, what, about)
		}
		return nil
	case o.sync:
		if minor := request[1]; minor > 1 && minor != 5 { // Initialize, ListSystemCounters, QueryCounter
			return fmt.Errorf("request %d of the extension SYNC", minor)
		}
		return nil
	default:
		return fmt.Errorf("request %d.%d", major, request[1])
	}
}

// The prompt reads keys and clicks of its own window, and asks for nothing else: no key of
// another window, no state of the keyboard, no pointer position, no image, no selection.
func TestPromptAsksForNothingElse(t *testing.T) {
	t.Parallel()
	managed, bare := desktoptest.StartManaged(t), desktoptest.Start(t)
	for _, d := range []*desktoptest.Display{managed, bare} {
		teach(t, d)
		r := desktoptest.Record(t, d, filepath.Join(t.TempDir(), "x"))
		done, _ := askOn(t, r.Display, "1", question())
		focused(t, d)
		if d == managed {
			doc := openDocument(t, d)
			d.Until("the document has lost the keyboard again", doc.lost)
			focused(t, d)
		}
		window := d.Window(title)
		d.Do("mousemove", "--window", window, "100", "105", "click", "1")
		for _, keys := range [][]string{{"type", "--delay", "30", "capk"}, {"key", "Tab"}, {"key", "Down"}, {"key", "ctrl+v"}, {"key", "ctrl+c"}, {"key", "shift+Insert"}, {"key", "alt+n"}} {
			d.Do(keys...)
		}
		if a := result(t, done); a.err != nil || a.answer.Outcome != prompt.NotChargeable {
			t.Fatalf("the answer is %+v, %v", a.answer, a.err)
		}

		x, err := xgb.NewConnDisplay(d.Name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(x.Close)
		allowed := &ownWindows{root: uint32(xproto.Setup(x).DefaultScreen(x).Root), own: map[uint32]bool{}, screen: map[xproto.Atom]bool{xproto.AtomResourceManager: true}}
		const sync, ask = "SYNC", "_NET_ACTIVE_WINDOW"
		extension, err := xproto.QueryExtension(x, uint16(len(sync)), sync).Reply()
		if err != nil {
			t.Fatal(err)
		}
		asks, err := xproto.InternAtom(x, false, uint16(len(ask)), ask).Reply()
		if err != nil {
			t.Fatal(err)
		}
		allowed.sync, allowed.ask = extension.MajorOpcode, asks.Atom
		reply, err := xproto.InternAtom(x, false, uint16(len("_NET_SUPPORTING_WM_CHECK")), "_NET_SUPPORTING_WM_CHECK").Reply()
		if err != nil {
			t.Fatal(err)
		}
		allowed.screen[reply.Atom] = true
		seen := map[byte]int{}
		for _, request := range r.Requests() {
			seen[request[0]]++
			if err := allowed.check(request); err != nil {
				t.Error(err)
			}
		}
		if r.Connections() != 1 || seen[1] != 1 || seen[8] == 0 || seen[72] == 0 || seen[101] == 0 || d == managed && seen[25] == 0 {
			t.Errorf("the recorder has missed requests: %v", seen)
		}
		t.Logf("requests by opcode: %v", seen)
		// The list itself is tried: what it must catch, it catches.
		for name, request := range map[string][]byte{
			"QueryPointer": {38, 0, 2, 0, 0, 0, 0, 0}, "QueryKeymap": {44, 0, 1, 0}, "GetImage": {73, 2, 5, 0},
			"ConvertSelection": {24, 0, 6, 0}, "GetSelectionOwner": {23, 0, 2, 0}, "GrabKeyboard": {31, 0, 4, 0}, "GrabKey": {33, 0, 4, 0},
			"keys of another window":            {2, 0, 4, 0, 0, 0, 0, 0, 0, 8, 0, 0, xproto.EventMaskKeyPress, 0, 0, 0},
			"the pointer's way over its window": append(append([]byte{1, 0, 9, 0}, make([]byte, 24)...), 0, 8, 0, 0, xproto.EventMaskPointerMotion, 0, 0, 0),
			"another window's property":         {20, 0, 6, 0, 1, 2, 3, 4, byte(reply.Atom), 0, 0, 0},
			"a key sent to another window":      append([]byte{25, 0, 11, 0, 1, 2, 3, 4, 1, 0, 0, 0, xproto.KeyPress}, make([]byte, 31)...),
			"an alarm for each key":             {extension.MajorOpcode, 8, 2, 0, 1, 2, 3, 4},
			"the focus for another window":      {42, 0, 3, 0, 1, 2, 3, 4, 0, 0, 0, 0},
		} {
			if allowed.check(request) == nil {
				t.Errorf("the list lets %s pass", name)
			}
		}
	}
}
