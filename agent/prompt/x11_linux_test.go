package prompt_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"

	"github.com/cetrus/cetrus/agent/desktop/desktoptest"
	"github.com/cetrus/cetrus/agent/prompt"
	"github.com/cetrus/cetrus/proto/expense"
)

// asPrompt makes this test binary be `cetrus-agent prompt`.
const asPrompt = "CETRUS_TEST_AS_PROMPT"

func TestMain(m *testing.M) {
	if os.Getenv(asPrompt) != "" {
		if err := prompt.Run(context.Background(), os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func question() prompt.Request {
	return prompt.Request{
		Application: "FreeCAD", Document: "Pfeiler 3 – Übersicht.FCStd",
		Fields: []prompt.Field{
			{Key: "project", Label: "Project", Kind: prompt.Project, Required: true, Value: "p2", Options: []prompt.Option{
				{ID: "p1", Label: "2024-017 Pier 3, Hafen"},
				{ID: "p2", Label: "2024-018 Мост через Неву"},
				{ID: "p3", Label: "2025-001 Γέφυρα"},
				{ID: "p4", Label: "2025-002 Čapkův most"},
			}},
			{Key: "phase", Label: "Phase", Kind: prompt.Choice, Options: []prompt.Option{
				{ID: "draft", Label: "Draft"}, {ID: "detail", Label: "Detailed design"}, {ID: "site", Label: "On site"},
			}},
			{Key: "note", Label: "Note", Kind: prompt.Text},
		},
	}
}

// strict is a question with a field that takes few texts.
func strict(r *prompt.Request) {
	r.Fields[2] = prompt.Field{
		Key: "order", Label: "Order", Kind: prompt.Text, Required: true,
		Limits: expense.Limits{Pattern: `[A-Z]{2}\d{4}`, Message: "Two capital letters and four digits, as they stand at the top right of the order, for example AB1234."},
	}
	r.Others = 11
}

// asked is a prompt on a display.
type asked struct {
	answer prompt.Answer
	err    error
}

func ask(t *testing.T, d *desktoptest.Display, scale string, r prompt.Request) (<-chan asked, context.CancelFunc) {
	t.Helper()
	return askOn(t, d.Name, scale, r)
}

// askOn asks on a display by its name, which may be a recorder's.
func askOn(t *testing.T, display, scale string, r prompt.Request) (<-chan asked, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	command := exec.Command(os.Args[0], "-test.run=^$")
	command.Env = append(os.Environ(), asPrompt+"=1", "DISPLAY="+display, "CETRUS_PROMPT_SCALE="+scale)
	done := make(chan asked, 1)
	go func() {
		answer, err := prompt.Ask(ctx, prompt.Command(command), r)
		done <- asked{answer, err}
	}()
	t.Cleanup(cancel)
	return done, cancel
}

// title is what the window is called, as xdotool looks for it.
const title = "^Project: FreeCAD$"

// focused waits until keys that are pressed count.
func focused(t *testing.T, d *desktoptest.Display) {
	t.Helper()
	window := d.Window(title)
	d.Until("the prompt listens", func() bool { return d.Property(window, "_CETRUS_LISTENS") == "1" })
}

func result(t *testing.T, done <-chan asked) asked {
	t.Helper()
	select {
	case a := <-done:
		return a
	case <-time.After(20 * time.Second):
		t.Fatal("the prompt did not end")
		return asked{}
	}
}

// What people press is what comes out, with and without a window manager.
func TestKeysOnX11(t *testing.T) {
	t.Parallel()
	managed, bare := desktoptest.StartManaged(t), desktoptest.Start(t)
	teach(t, managed)
	teach(t, bare)
	cases := []struct {
		name    string
		change  func(*prompt.Request)
		keys    [][]string
		outcome prompt.Outcome
		values  map[string]string
		forAll  bool
	}{
		{name: "one Enter", keys: [][]string{{"key", "Return"}}, outcome: prompt.Chosen, values: map[string]string{"project": "p2"}},
		{name: "Escape", keys: [][]string{{"key", "Escape"}}, outcome: prompt.Later},
		{name: "not chargeable", keys: [][]string{{"key", "alt+n"}}, outcome: prompt.NotChargeable},
		{
			name:    "write and choose",
			keys:    [][]string{{"type", "--delay", "30", "capk"}, {"key", "Tab"}, {"key", "Down"}, {"key", "Down"}, {"key", "Tab"}, {"type", "--delay", "30", "Größe Žižkov жδÅ €5"}, {"key", "Return"}},
			outcome: prompt.Chosen, values: map[string]string{"project": "p4", "phase": "detail", "note": "Größe Žižkov жδÅ €5"},
		},
		{
			name: "own words", change: func(r *prompt.Request) { r.ProposeAllowed = true },
			keys:    [][]string{{"type", "--delay", "30", "New bridge"}, {"key", "Return"}},
			outcome: prompt.Chosen, values: map[string]string{"project": "New bridge"},
		},
		{
			name: "it waits", change: func(r *prompt.Request) { r.Waiting = true; r.Fields[0].Value = "" },
			keys:    [][]string{{"key", "Escape"}, {"key", "Return"}, {"key", "shift+Tab"}, {"key", "Return"}},
			outcome: prompt.NotChargeable,
		},
		{
			// Enter does not accept what is not valid, neither does the second one.
			name: "not valid, then put right", change: strict,
			keys:    [][]string{{"type", "--delay", "30", "ab12"}, {"key", "Return"}, {"key", "Return"}, {"type", "--delay", "30", "AB1234"}, {"key", "Return"}},
			outcome: prompt.Chosen, values: map[string]string{"project": "p2", "order": "AB1234"},
		},
		{
			// Somebody else than last time works at a shared login.
			name: "another worker", change: func(r *prompt.Request) {
				r.Fields[2] = r.Fields[0]
				r.Fields[0] = prompt.Field{
					Key: "who", Label: "Who is working?", Kind: prompt.Worker, Required: true, Value: "ada",
					Options: []prompt.Option{{ID: "ada", Label: "Ada Obi"}, {ID: "marek", Label: "Marek Dvorak"}},
				}
				r.Recent = map[string]map[string]string{"ada": {"project": "p2"}, "marek": {"project": "p1", "phase": "site"}}
			},
			keys:    [][]string{{"type", "--delay", "30", "Mar"}, {"key", "Return"}},
			outcome: prompt.Chosen, values: map[string]string{"who": "marek", "project": "p1", "phase": "site"},
		},
		{
			name: "the same for all", change: func(r *prompt.Request) { r.Others = 11 },
			keys:    [][]string{{"key", "alt+s"}, {"key", "Return"}},
			outcome: prompt.Chosen, values: map[string]string{"project": "p2"}, forAll: true,
		},
	}
	for n, c := range cases {
		d := managed
		if n%2 == 1 {
			d = bare
		}
		r := question()
		if c.change != nil {
			c.change(&r)
		}
		done, _ := ask(t, d, "1", r)
		focused(t, d)
		for _, k := range c.keys {
			d.Do(k...)
		}
		a := result(t, done)
		if a.err != nil {
			t.Fatalf("%s: %v", c.name, a.err)
		}
		if a.answer.Outcome != c.outcome || !maps.Equal(a.answer.Values, c.values) || a.answer.ForAll != c.forAll {
			t.Errorf("%s: the answer is %+v, want %s %v", c.name, a.answer, c.outcome, c.values)
		}
	}
}

func TestMouseAndWithdrawal(t *testing.T) {
	t.Parallel()
	d := desktoptest.StartManaged(t)
	done, _ := ask(t, d, "2", question())
	focused(t, d)
	// The project's list, its third entry, then Accept.
	window := d.Window(title)
	for _, at := range [][2]string{{"200", "210"}, {"200", "380"}, {"120", "630"}} {
		d.Do("mousemove", "--window", window, at[0], at[1], "click", "1")
	}
	if a := result(t, done); a.err != nil || a.answer.Outcome != prompt.Chosen || a.answer.Values["project"] != "p3" {
		t.Errorf("by mouse: %+v, %v", a.answer, a.err)
	}
	done, cancel := ask(t, d, "1", question())
	focused(t, d)
	cancel()
	if a := result(t, done); a.err == nil {
		t.Errorf("a question that was taken back was answered: %+v", a.answer)
	}
	done, _ = ask(t, d, "1", question())
	focused(t, d)
	// The window manager closes what it holds to be active, of which it hears after the prompt does.
	window = d.Window(title)
	d.Until("the window manager has heard of it", func() bool { return d.Active() == window })
	d.Do("key", "alt+F4")
	if a := result(t, done); a.err != nil || a.answer.Outcome != prompt.Later {
		t.Errorf("closed by the window manager: %+v, %v", a.answer, a.err)
	}
}

// What is on the screen is what was painted: title in its colour, no black holes. With
// CETRUS_TEST_SHOTS a picture of each scale is left there for a person to look at.
func TestLooks(t *testing.T) {
	t.Parallel()
	d := desktoptest.StartManaged(t)
	for scale, want := range map[string]int{"1": 12_000, "2": 48_000} {
		done, cancel := ask(t, d, scale, question())
		focused(t, d)
		d.Do("key", "Down")
		var shot image.Image
		d.Until("the list is painted", func() bool {
			shot = screenshot(t, d)
			return count(shot, color.RGBA{0x1f, 0x5f, 0xbf, 0xff}) > want
		})
		if black := count(shot, color.RGBA{0, 0, 0, 0xff}); black > 1280*1024*9/10 {
			t.Errorf("%d black pixels at scale %s", black, scale)
		}
		keepShot(t, shot, "prompt-"+scale+"x")
		cancel()
		result(t, done)
	}
}

// A field that is not valid is said to be so where it stands, with what is asked for.
func TestLooksOfAFault(t *testing.T) {
	t.Parallel()
	d := desktoptest.StartManaged(t)
	r := question()
	strict(&r)
	done, cancel := ask(t, d, "1", r)
	focused(t, d)
	fault := color.RGBA{0xb0, 0x24, 0x18, 0xff}
	for _, k := range [][]string{{"type", "--delay", "30", "ab12"}, {"key", "Return"}} {
		if count(screenshot(t, d), fault) > 0 {
			t.Error("a fault is shown before anybody went on from it")
		}
		d.Do(k...)
	}
	var shot image.Image
	d.Until("the fault is painted", func() bool {
		shot = screenshot(t, d)
		return count(shot, fault) > 500 // the frame of the field, and words
	})
	keepShot(t, shot, "prompt-fault")
	cancel()
	result(t, done)
}

// keepShot leaves a picture for a person to look at, where CETRUS_TEST_SHOTS says so.
func keepShot(t *testing.T, shot image.Image, name string) {
	t.Helper()
	dir := os.Getenv("CETRUS_TEST_SHOTS")
	if dir == "" {
		return
	}
	file, err := os.Create(filepath.Join(dir, name+".png"))
	if err != nil {
		t.Fatal(err)
	}
	if err := png.Encode(file, shot); err != nil {
		t.Error(err)
	}
	_ = file.Close()
}

// teach gives keys of their own to letters of several scripts, in old symbols and in
// those of Unicode. Otherwise xdotool changes the mapping with each letter, faster than
// any program can follow.
func teach(t *testing.T, d *desktoptest.Display) {
	t.Helper()
	conn, err := xgb.NewConnDisplay(d.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	symbols := []xproto.Keysym{0xf6, 0xdf, 0x1ae, 0x1be, 0x6d6, 0x1000448, 0x7e4, 0xc5, 0x20ac, 0xe4}
	mapping := make([]xproto.Keysym, 0, 2*len(symbols))
	for _, s := range symbols {
		mapping = append(mapping, s, s)
	}
	if err := xproto.ChangeKeyboardMappingChecked(conn, byte(len(symbols)), 230, 2, mapping).Check(); err != nil {
		t.Fatal(err)
	}
}

func count(shot image.Image, want color.RGBA) (n int) {
	for y := range shot.Bounds().Dy() {
		for x := range shot.Bounds().Dx() {
			if shot.At(x, y) == want {
				n++
			}
		}
	}
	return n
}

func screenshot(t *testing.T, d *desktoptest.Display) image.Image {
	t.Helper()
	conn, err := xgb.NewConnDisplay(d.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	screen := xproto.Setup(conn).DefaultScreen(conn)
	width, height := int(screen.WidthInPixels), int(screen.HeightInPixels)
	reply, err := xproto.GetImage(conn, xproto.ImageFormatZPixmap, xproto.Drawable(screen.Root), 0, 0, uint16(width), uint16(height), ^uint32(0)).Reply()
	if err != nil {
		t.Fatal(err)
	}
	shot := image.NewRGBA(image.Rect(0, 0, width, height))
	for i := range width * height {
		pixel := binary.LittleEndian.Uint32(reply.Data[4*i:])
		shot.SetRGBA(i%width, i/width, color.RGBA{uint8(pixel >> 16), uint8(pixel >> 8), uint8(pixel), 0xff})
	}
	return shot
}
