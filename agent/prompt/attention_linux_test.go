package prompt_test

import (
	"testing"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"
	"github.com/jezek/xgb/xtest"

	"github.com/cetrus/cetrus/agent/desktop/desktoptest"
	"github.com/cetrus/cetrus/agent/prompt"
)

// document is a window of a program, which counts the keys that are pressed in it.
type document struct {
	t    *testing.T
	conn *xgb.Conn
	keys int
	// came: it has had the keyboard; here: and has it.
	came, here bool
}

func openDocument(t *testing.T, d *desktoptest.Display) *document {
	t.Helper()
	conn, err := xgb.NewConnDisplay(d.Name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if err := xtest.Init(conn); err != nil {
		t.Fatal(err)
	}
	screen := xproto.Setup(conn).DefaultScreen(conn)
	id, err := xproto.NewWindowId(conn)
	if err != nil {
		t.Fatal(err)
	}
	xproto.CreateWindow(conn, screen.RootDepth, id, screen.Root, 50, 60, 900, 700, 0, xproto.WindowClassInputOutput, screen.RootVisual,
		xproto.CwBackPixel|xproto.CwEventMask, []uint32{screen.WhitePixel, xproto.EventMaskKeyPress | xproto.EventMaskFocusChange})
	const name = "Document"
	xproto.ChangeProperty(conn, xproto.PropModeReplace, id, xproto.AtomWmName, xproto.AtomString, 8, uint32(len(name)), []byte(name))
	if err := xproto.MapWindowChecked(conn, id).Check(); err != nil {
		t.Fatal(err)
	}
	doc := &document{t: t, conn: conn}
	d.Until("the document has got the keyboard", func() bool {
		doc.look()
		return doc.came
	})
	return doc
}

// look takes in what has happened.
func (d *document) look() {
	for {
		event, err := d.conn.PollForEvent()
		switch e := event.(type) {
		case xproto.KeyPressEvent:
			d.keys++
		case xproto.FocusInEvent:
			if e.Mode == xproto.NotifyModeNormal && e.Detail != xproto.NotifyDetailPointer {
				d.came, d.here = true, true
			}
		case xproto.FocusOutEvent:
			if e.Mode == xproto.NotifyModeNormal && e.Detail != xproto.NotifyDetailPointer {
				d.here = false
			}
		}
		if event == nil && err == nil {
			return
		}
	}
}

// has tells whether the document has had the keyboard and has it still.
func (d *document) has() bool {
	d.look()
	return d.here
}

// lost tells whether it has had the keyboard and has it no more.
func (d *document) lost() bool {
	d.look()
	return d.came && !d.here
}

// press presses a key of the usual keyboard by its code.
func (d *document) press(code byte) {
	d.t.Helper()
	for _, kind := range []byte{xproto.KeyPress, xproto.KeyRelease} {
		if err := xtest.FakeInputChecked(d.conn, kind, code, 0, 0, 0, 0, 0).Check(); err != nil {
			d.t.Fatal(err)
		}
	}
}

const (
	codeReturn = 36
	codeX      = 53
)

// A program that opens its window later than the prompt takes the keyboard; the prompt takes
// it back, and one Enter accepts.
func TestKeyboardIsTakenBackFromWhatOpensLater(t *testing.T) {
	t.Parallel()
	d := desktoptest.StartManaged(t)
	done, _ := ask(t, d, "1", question())
	focused(t, d)
	doc := openDocument(t, d)
	d.Until("the document has lost the keyboard again", doc.lost)
	focused(t, d)
	keepShot(t, screenshot(t, d), "prompt-takes-back")
	// Where it stays without, the person's own way leads to it.
	openDocument(t, d)
	window := d.Window(title)
	d.Until("the prompt listens no more", func() bool { return d.Property(window, "_CETRUS_LISTENS") == "0" })
	keepShot(t, screenshot(t, d), "prompt-without-keyboard")
	d.Do("key", "alt+Tab")
	focused(t, d)
	doc.press(codeReturn)
	if a := result(t, done); a.err != nil || a.answer.Outcome != prompt.Chosen || a.answer.Values["project"] != "p2" {
		t.Errorf("the answer is %+v, %v", a.answer, a.err)
	}
	if doc.look(); doc.keys > 0 {
		t.Errorf("%d keys went into the document", doc.keys)
	}
}

// A prompt that comes up while somebody writes takes in nothing of it, Enter included.
func TestWhoWritesAnswersNothing(t *testing.T) {
	t.Parallel()
	d := desktoptest.StartManaged(t)
	doc := openDocument(t, d)
	// How somebody writes, by their own clock: a machine may be too slow for it.
	const usual = 140 * time.Millisecond
	for range 20 {
		done, cancel := ask(t, d, "1", question())
		last, gap := time.Now(), time.Duration(0)
		write := func(code byte) {
			doc.press(code)
			gap, last = max(gap, time.Since(last)), time.Now()
			<-time.After(10 * time.Millisecond)
		}
		d.Until("the prompt has the keyboard", func() bool {
			write(codeX)
			return doc.lost()
		})
		for range 50 {
			write(codeX)
		}
		write(codeReturn)
		if gap > usual {
			t.Logf("pauses of up to %v: once more", gap)
			cancel()
			result(t, done)
			d.Until("the document has the keyboard", doc.has)
			continue
		}
		focused(t, d)
		doc.press(codeReturn)
		if a := result(t, done); a.err != nil || a.answer.Outcome != prompt.Chosen || a.answer.Values["project"] != "p2" || len(a.answer.Values) > 1 {
			t.Errorf("the answer is %+v, %v", a.answer, a.err)
		}
		return
	}
	t.Skip("this machine is too slow for anybody to write on")
}
