package desktop

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop/desktoptest"
)

// allowList says for each request of the X protocol that the agent may make what
// else has to hold.
type allowList struct {
	x          *xgb.Conn
	res, saver byte
	atoms      map[xproto.Atom]string
}

// Events that say that something changed, and nothing of what a person does.
const allowedEvents = xproto.EventMaskPropertyChange | xproto.EventMaskStructureNotify |
	xproto.EventMaskSubstructureNotify | xproto.EventMaskFocusChange

var allowedProperties = map[string]bool{
	"_NET_ACTIVE_WINDOW": true, "_NET_CLIENT_LIST": true, "_NET_SUPPORTING_WM_CHECK": true,
	"_NET_WM_NAME": true, "WM_NAME": true, "WM_CLASS": true, "WM_TRANSIENT_FOR": true,
	"_NET_WM_PID": true, "WM_CLIENT_MACHINE": true, "_NET_WM_WINDOW_TYPE": true,
}

func (a *allowList) check(request []byte) error {
	word := func(i int) uint32 {
		if len(request) < i+4 {
			return 0
		}
		return binary.LittleEndian.Uint32(request[i:])
	}
	switch major, minor := request[0], request[1]; major {
	case 3, 15, 16, 43, 98: // GetWindowAttributes, QueryTree, InternAtom, GetInputFocus, QueryExtension
		return nil
	case 2: // ChangeWindowAttributes
		if mask := word(8); mask != xproto.CwEventMask {
			return fmt.Errorf("attributes %#x of a window are changed", mask)
		}
		if events := word(12); events&^allowedEvents != 0 {
			return fmt.Errorf("the events %#x are asked for", events&^allowedEvents)
		}
		return nil
	case 20: // GetProperty
		atom := xproto.Atom(word(8))
		if a.atoms[atom] == "" {
			reply, err := xproto.GetAtomName(a.x, atom).Reply()
			if err != nil {
				return fmt.Errorf("property %d: %w", atom, err)
			}
			a.atoms[atom] = reply.Name
		}
		if name := a.atoms[atom]; !allowedProperties[name] || minor != 0 {
			return fmt.Errorf("the property %s is read (delete: %d)", name, minor)
		}
		return nil
	case a.res:
		if minor != 4 {
			return fmt.Errorf("request %d of X-Resource", minor)
		}
		return nil
	case a.saver:
		if minor != 1 {
			return fmt.Errorf("request %d of MIT-SCREEN-SAVER", minor)
		}
		return nil
	default:
		return fmt.Errorf("request %d.%d", major, minor)
	}
}

// The agent asks for no key, no pointer position, no image and no selection, neither by
// itself nor by a session's helper: everything that they ever send is on a short list. What
// the prompt asks for is in its own package's test; the icon is at no X server at all.
func TestAsksForNothingElse(t *testing.T) {
	t.Parallel()
	d := desktoptest.Start(t)
	r := desktoptest.Record(t, d, filepath.Join(t.TempDir(), "x"))
	ofHelper := desktoptest.Record(t, d, filepath.Join(t.TempDir(), "x"))
	w := watch(t, Config{Display: r.Display})
	w.until("there is a session", func(o activity.Observation) bool { return len(o.Sessions) == 1 })
	helper := openTestHelper(t, Helper{Executable: selfProgram, Args: []string{asHelper}}, ofHelper.Display, func() {})

	_, calculator := d.Open("x11-apps", "Calculator", "xcalc")
	d.Do("windowfocus", "--sync", calculator)
	w.untilFront("XCalc")
	manager := d.Manage()
	_, terminal := d.Open("xterm", "^shell$", "xterm", "-T", "shell")
	d.Do("windowactivate", "--sync", terminal)
	w.untilFront("XTerm")
	d.Until("the helper sees it too", func() bool {
		seen := lookIn(t, helper)
		return seen.inFront().Title == "shell" && seen.FocusUnsupported == "" && seen.InputUnsupported == ""
	})
	d.Do("type", "--window", "0", "secret")
	d.Do("mousemove", "300", "300", "click", "1")
	d.Do("windowactivate", "--sync", calculator)
	w.untilFront("XCalc")
	d.Do("windowminimize", calculator)
	manager.Kill()
	w.until("the list was read again", func(activity.Observation) bool { return true })
	w.stop()
	lookIn(t, helper)
	helper.close()

	x, err := xgb.NewConnDisplay(d.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	list := &allowList{x: x, atoms: make(map[xproto.Atom]string)}
	for name, into := range map[string]*byte{"X-Resource": &list.res, "MIT-SCREEN-SAVER": &list.saver} {
		reply, err := xproto.QueryExtension(x, uint16(len(name)), name).Reply()
		if err != nil || !reply.Present {
			t.Fatalf("the server has no %s: %v", name, err)
		}
		*into = reply.MajorOpcode
	}
	for who, recorded := range map[string]*desktoptest.Recorder{"the agent": r, "a helper": ofHelper} {
		seen := make(map[byte]int)
		requests := recorded.Requests()
		for _, request := range requests {
			seen[request[0]]++
			if err := list.check(request); err != nil {
				t.Errorf("%s: %v", who, err)
			}
		}
		if seen[list.saver] == 0 || seen[list.res] == 0 || seen[20] == 0 || seen[43] == 0 {
			t.Errorf("the recorder has missed requests of %s: %v", who, seen)
		}
		t.Logf("%s: %d requests by opcode: %v", who, len(requests), seen)
	}
	// The list itself is tried: what it must catch, it catches.
	for name, request := range map[string][]byte{
		"QueryPointer": {38, 0, 2, 0, 0, 0, 0, 0}, "QueryKeymap": {44, 0, 1, 0}, "GetImage": {73, 2, 5, 0},
		"ConvertSelection": {24, 0, 6, 0}, "GetSelectionOwner": {23, 0, 2, 0}, "GrabKeyboard": {31, 0, 4, 0},
		"key events": {2, 0, 4, 0, 0, 0, 0, 0, 0, 8, 0, 0, xproto.EventMaskKeyPress, 0, 0, 0},
	} {
		if list.check(request) == nil {
			t.Errorf("the list lets %s pass", name)
		}
	}
}
