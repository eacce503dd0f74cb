package e2e

import (
	"context"
	_ "embed" // window.c.txt
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent/desktop/desktoptest"
	"github.com/cetrus/cetrus/tools/wine"
)

// window is a small program of Windows.
//
//go:embed window.c.txt
var window []byte

// xHands work at an X server.
type xHands struct {
	display *desktoptest.Display
	person  string
	windows map[string]string
	running map[string]*desktoptest.Program
}

func newXHands(d *desktoptest.Display, person string) *xHands {
	return &xHands{display: d, person: person, windows: map[string]string{}, running: map[string]*desktoptest.Program{}}
}

func (h *xHands) open(program string) {
	title := h.person + "'s " + program
	h.running[program] = h.display.Run("xterm or x11-apps", program, "-title", title)
	h.windows[program] = h.display.Window("^" + title + "$")
	h.turnTo(program)
}

func (h *xHands) turnTo(program string) {
	h.display.Do("windowactivate", "--sync", h.windows[program])
}

func (h *xHands) press() { h.display.Do("key", "a") }

func (h *xHands) end(program string) { h.running[program].Kill() }

// swayHands work at a Wayland compositor.
type swayHands struct {
	sway *desktoptest.Sway
	// programs are files: some of Wayland, and with xterm's arguments some of Xwayland.
	programs map[string]string
	running  map[string]*desktoptest.Program
}

func (h *swayHands) open(program string) {
	file := h.programs[program]
	args := []string{"--title=" + program, "sleep", "600"}
	if strings.HasPrefix(filepath.Base(file), "x") {
		args = []string{"-T", program, "-e", "sleep", "600"}
	}
	h.running[program] = h.sway.Open("foot or xterm", program, file, args...)
	h.turnTo(program)
}

func (h *swayHands) turnTo(program string) { h.sway.Focus(program) }

func (h *swayHands) press() { h.sway.Do("wtype", "wtype", "a") }

func (h *swayHands) end(program string) { h.running[program].Kill() }

// publicCopy is a copy of a program of this system, which any user may run, under a name
// that no other program has.
func publicCopy(t *testing.T, program, name string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(publicTempDir(t), name)
	// Another process writes it: a program started meanwhile would inherit the open file,
	// and what somebody may write to cannot be run.
	if out, err := exec.Command("install", "--mode=755", path, file).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v: %s", path, err, out)
	}
	return file
}

// wineHands work with Windows programs.
type wineHands struct {
	t       *testing.T
	wine    *wine.Wine
	desktop *xdesktop
	// titles are what the windows of programs are called, in part.
	titles  map[string]string
	windows map[string]string
}

func (h *wineHands) open(program string) {
	h.t.Helper()
	file := program // Windows finds its own
	if _, err := os.Stat(h.wine.C(program)); err == nil {
		file = `C:\` + program
	}
	cmd := h.wine.Command(context.WithoutCancel(h.t.Context()), file)
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }() // it ends with the desktop, where not before
	eventually(h.t, time.Minute, program+" to have a window", func() error {
		out, err := h.desktop.command("xdotool", "search", "--onlyvisible", "--name", h.titles[program]).Output()
		id, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		if err != nil || id == "" {
			return errors.Join(err, errors.New("there is none"))
		}
		h.windows[program] = id
		return nil
	})
	h.turnTo(program)
}

// turnTo waits for the keyboard too: with it Windows programs learn that they are in front.
func (h *wineHands) turnTo(program string) {
	h.t.Helper()
	eventually(h.t, time.Minute, program+" to have the keyboard", func() error {
		_ = h.desktop.command("xdotool", "windowactivate", h.windows[program]).Run()
		out, err := h.desktop.command("xdotool", "getwindowfocus", "getwindowname").Output()
		if err == nil && !strings.Contains(string(out), h.titles[program]) {
			err = fmt.Errorf("%q has it", out)
		}
		return err
	})
}

// readNotice waits for what the agent shows once to whoever is recorded, and closes it.
func (h *wineHands) readNotice() {
	h.t.Helper()
	const notice = "What Cetrus records on this computer"
	seen := false
	eventually(h.t, 2*time.Minute, "the notice to be read", func() error {
		there := h.desktop.command("xdotool", "search", "--onlyvisible", "--name", "^"+notice+"$", "windowactivate").Run() == nil
		out, err := h.desktop.command("xdotool", "getwindowfocus", "getwindowname").Output()
		if err == nil && strings.Contains(string(out), notice) {
			seen = true
			err = h.desktop.command("xdotool", "key", "Return").Run()
		}
		if there || !seen {
			err = errors.Join(err, errors.New("it is not"))
		}
		return err
	})
}

func (h *wineHands) press() {
	h.t.Helper()
	h.desktop.xdotool(h.t, "key", "a")
}

func (h *wineHands) end(program string) {
	h.t.Helper()
	h.wine.Run(time.Minute, "taskkill", "/f", "/im", program)
	eventually(h.t, time.Minute, program+" to end", func() error {
		if n := h.wine.Running(program); n > 0 {
			return fmt.Errorf("%d processes", n)
		}
		return nil
	})
}

// compileWindow makes a small program of Windows with a window, on drive C.
func compileWindow(t *testing.T, w *wine.Wine, names ...string) {
	t.Helper()
	source := filepath.Join(t.TempDir(), "window.c")
	if err := os.WriteFile(source, window, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		out, err := exec.CommandContext(t.Context(), "x86_64-w64-mingw32-gcc", "-municode", "-mwindows", "-O1", "-s", "-o", w.C(name), source).CombinedOutput()
		if err != nil {
			t.Fatalf("compile %s: %v\n%s", name, err, out)
		}
	}
}
