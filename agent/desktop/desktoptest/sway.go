//go:build linux

package desktoptest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Sway is a running Wayland compositor without a screen, and everything that was
// started in it.
type Sway struct {
	// RuntimeDir and Socket are what $XDG_RUNTIME_DIR and $WAYLAND_DISPLAY have to be;
	// Display is $DISPLAY of its Xwayland.
	RuntimeDir, Socket, Display string
	// PID is the compositor's process, and UID whose it is.
	PID int
	UID uint32

	tb     testing.TB
	login  string // the session that its programs say to be of; empty: none
	server *Program
	user   *syscall.Credential // nil: the test's own
	ipc    string
}

// StartSway starts a compositor. It refuses to run as root: where the test does, it
// and all its programs run as nobody.
func StartSway(tb testing.TB) *Sway {
	tb.Helper()
	return StartSwayIn(tb, "")
}

// StartSwayIn starts a compositor in a session of a login manager, as the environment of
// its programs tells.
func StartSwayIn(tb testing.TB, login string) *Sway {
	tb.Helper()
	// Sockets have short names, so this is no folder of the test's.
	dir, err := os.MkdirTemp("", "sway")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &Sway{RuntimeDir: dir, UID: uint32(os.Getuid()), tb: tb, login: login}
	if os.Getuid() == 0 {
		s.user = nobody(tb)
		s.UID = s.user.Uid
		if err := os.Chown(dir, int(s.user.Uid), int(s.user.Gid)); err != nil {
			tb.Fatal(err)
		}
	}
	config := filepath.Join(dir, "config")
	// What it starts tells which display its Xwayland has.
	text := "xwayland enable\nexec printenv DISPLAY >" + dir + "/display.new && mv " + dir + "/display.new " + dir + "/display\n"
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		tb.Fatal(err)
	}
	need(tb, "Xwayland", "xwayland")
	cmd := s.Command("sway", "sway", "--config", config)
	cmd.Env = append(cmd.Env, "WLR_BACKENDS=headless", "WLR_LIBINPUT_NO_DEVICES=1", "WLR_RENDERER=pixman")
	s.server = start(tb, cmd)
	s.PID = s.server.PID
	s.Until("the compositor runs", func() bool {
		s.Socket = only(dir, "wayland-*[0-9]")
		s.ipc = only(dir, "sway-ipc.*.sock")
		display, err := os.ReadFile(filepath.Join(dir, "display"))
		s.Display = strings.TrimSpace(string(display))
		return s.Socket != "" && s.ipc != "" && err == nil
	})
	s.Socket = filepath.Base(s.Socket)
	return s
}

// only is the file of a folder whose name matches.
func only(dir, pattern string) string {
	if found, err := fs.Glob(os.DirFS(dir), pattern); err == nil && len(found) == 1 {
		return filepath.Join(dir, found[0])
	}
	return ""
}

// nobody is a user without rights.
func nobody(tb testing.TB) *syscall.Credential {
	tb.Helper()
	u, err := user.Lookup("nobody")
	if err != nil {
		tb.Fatal(err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		tb.Fatal(err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		tb.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// Command is a program of a Debian package as a user of the session would start it. It
// is not started.
func (s *Sway) Command(pkg, name string, args ...string) *exec.Cmd {
	s.tb.Helper()
	cmd := exec.Command(need(s.tb, name, pkg), args...)
	for _, entry := range os.Environ() {
		switch variable, _, _ := strings.Cut(entry, "="); variable {
		case "DISPLAY", "XAUTHORITY", "WAYLAND_DISPLAY", "SWAYSOCK", "XDG_RUNTIME_DIR", "XDG_SESSION_ID", "DBUS_SESSION_BUS_ADDRESS", "HOME":
		default:
			cmd.Env = append(cmd.Env, entry)
		}
	}
	cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+s.RuntimeDir, "HOME="+s.RuntimeDir)
	if s.login != "" {
		cmd.Env = append(cmd.Env, "XDG_SESSION_ID="+s.login)
	}
	if s.Socket != "" {
		cmd.Env = append(cmd.Env, "WAYLAND_DISPLAY="+s.Socket, "SWAYSOCK="+s.ipc)
	}
	if s.Display != "" {
		cmd.Env = append(cmd.Env, "DISPLAY="+s.Display)
	}
	cmd.Dir = s.RuntimeDir
	if s.user != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.user}
	}
	return cmd
}

// Run starts a program of a Debian package in the session.
func (s *Sway) Run(pkg, name string, args ...string) *Program {
	s.tb.Helper()
	return start(s.tb, s.Command(pkg, name, args...))
}

// Open starts a program and waits for its window, by title.
func (s *Sway) Open(pkg, title, name string, args ...string) *Program {
	s.tb.Helper()
	p := s.Run(pkg, name, args...)
	s.Until(fmt.Sprintf("a window is called %q", title), func() bool {
		out, err := s.Command("sway", "swaymsg", "-t", "get_tree").Output()
		return err == nil && strings.Contains(string(out), `"`+title+`"`)
	})
	return p
}

// Focus brings the window with a title to the front.
func (s *Sway) Focus(title string) {
	s.tb.Helper()
	s.Do("sway", "swaymsg", `[title="^`+title+`$"] focus`)
}

// Do runs a program of a Debian package in the session and waits for it; the test fails
// where it fails.
func (s *Sway) Do(pkg, name string, args ...string) {
	s.tb.Helper()
	if out, err := s.Command(pkg, name, args...).CombinedOutput(); err != nil {
		s.tb.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// Lock locks the screen as swaylock does, and waits until it is; nothing is in front then.
// Unlock gives it back to the window that was.
func (s *Sway) Lock() (unlock func()) {
	s.tb.Helper()
	locker := s.Run("swaylock", "swaylock", "--color", "000000")
	focus := func() bool {
		out, err := s.Command("sway", "swaymsg", "-t", "get_tree").Output()
		return err != nil || strings.Contains(string(out), `"focused": true`)
	}
	s.Until("the screen is locked", func() bool { return !focus() })
	return func() {
		s.tb.Helper()
		_ = syscall.Kill(locker.PID, syscall.SIGUSR1)
		s.Until("the screen is unlocked", focus)
	}
}

// Until waits for a condition that nothing announces.
func (s *Sway) Until(what string, holds func() bool) {
	s.tb.Helper()
	until(s.tb, what, holds)
}

// Kill ends the compositor at once, as a crash would.
func (s *Sway) Kill() { s.server.Kill() }
