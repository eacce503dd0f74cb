//go:build linux

package desktoptest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Display is a running X server, and everything that was started on it.
type Display struct {
	// Name is what $DISPLAY has to be, such as ":7".
	Name string

	tb     testing.TB
	server *Program
	number string
	owner  *Owner
}

// Owner is the operating-system user whose display it is, and what runs on it.
type Owner struct {
	UID uint32
	// Home is a folder of theirs.
	Home string
	// Authority is the file with the secret that lets them in, and nobody else.
	Authority string
}

// Program is a process that the test has started.
type Program struct {
	PID int

	tb   testing.TB
	cmd  *exec.Cmd
	done chan struct{}
}

const startTimeout = time.Minute

// Start starts an X server on a free display, without a window manager. It ends
// with the test.
func Start(tb testing.TB) *Display {
	tb.Helper()
	d := &Display{tb: tb}
	d.startServer("")
	return d
}

// StartFor starts an X server of another user, with a window manager, that lets nobody
// else in. Only root can.
func StartFor(tb testing.TB, uid uint32) *Display {
	tb.Helper()
	home := tb.TempDir()
	for dir := home; dir != os.TempDir() && len(dir) > 1; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil { // the user has to get there
			tb.Fatal(err)
		}
	}
	d := &Display{tb: tb, owner: &Owner{UID: uid, Home: home, Authority: filepath.Join(home, "Xauthority")}}
	secret := make([]byte, 16)
	_, _ = rand.Read(secret)
	if err := os.WriteFile(d.owner.Authority, authority(secret), 0o600); err != nil {
		tb.Fatal(err)
	}
	for _, name := range []string{home, d.owner.Authority} {
		if err := os.Chown(name, int(uid), int(uid)); err != nil {
			tb.Fatal(err)
		}
	}
	// A server that is not root's cannot make the folder of all servers' sockets.
	if err := os.Mkdir("/tmp/.X11-unix", 0o777); err == nil {
		_ = os.Chmod("/tmp/.X11-unix", os.ModeSticky|0o777)
	}
	d.startServer("")
	d.Manage()
	return d
}

// authority is an Xauthority file with one secret, for any display of any machine.
func authority(secret []byte) []byte {
	const familyWild = 65535
	file := binary.BigEndian.AppendUint16(nil, familyWild)
	for _, field := range []string{"", "", "MIT-MAGIC-COOKIE-1", string(secret)} {
		file = append(binary.BigEndian.AppendUint16(file, uint16(len(field))), field...)
	}
	return file
}

// Owner is whose display it is, where that is another user's.
func (d *Display) Owner() Owner { return *d.owner }

// StartManaged starts an X server with a window manager.
func StartManaged(tb testing.TB) *Display {
	tb.Helper()
	d := Start(tb)
	d.Manage()
	return d
}

func (d *Display) startServer(number string) {
	d.tb.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		d.tb.Fatalf("pipe for the X server: %v", err)
	}
	defer read.Close()
	// With -displayfd the server looks for a free display itself, and tells it
	// when it is ready to be talked to.
	args := []string{"-displayfd", "3", "-screen", "0", "1280x1024x24", "-nolisten", "tcp", "-noreset"}
	if number != "" {
		args = append([]string{":" + number}, args...)
	}
	if d.owner != nil {
		args = append(args, "-auth", d.owner.Authority)
	}
	cmd := exec.Command(need(d.tb, "Xvfb", "xvfb"), args...)
	cmd.ExtraFiles = []*os.File{write}
	d.server = d.start(cmd)
	_ = write.Close()
	_ = read.SetReadDeadline(time.Now().Add(startTimeout))
	line, err := bufio.NewReader(read).ReadString('\n')
	if err != nil {
		d.tb.Fatalf("the X server did not say which display it has: %v", err)
	}
	d.number = strings.TrimSpace(line)
	d.Name = ":" + d.number
}

// Kill ends the X server at once, as a crash would.
func (d *Display) Kill() { d.server.Kill() }

// Revive starts a new X server on the same display after Kill.
func (d *Display) Revive() {
	d.tb.Helper()
	d.startServer(d.number)
}

// ServerPID is the X server's process.
func (d *Display) ServerPID() int { return d.server.PID }

// Manage starts a window manager and waits until it manages.
func (d *Display) Manage() *Program {
	d.tb.Helper()
	manager := d.Run("openbox", "openbox", "--sm-disable")
	d.Until("a window manager manages", func() bool {
		out, err := d.command("xprop", "-root", "_NET_SUPPORTING_WM_CHECK", "_NET_ACTIVE_WINDOW").Output()
		return err == nil && bytes.Contains(out, []byte("window id # 0x")) && !bytes.Contains(out, []byte("CHECK: not found"))
	})
	// A window that asks to be shown while it starts may be forgotten. It has started when
	// it does what it is asked for.
	desktops := func() string {
		out, _ := d.command("xdotool", "get_num_desktops").Output()
		return strings.TrimSpace(string(out))
	}
	other := "1"
	if desktops() == other {
		other = "2"
	}
	d.Until("the window manager listens", func() bool {
		return d.command("xdotool", "set_num_desktops", other).Run() == nil && desktops() == other
	})
	return manager
}

// Run starts a program of a Debian package on the display.
func (d *Display) Run(pkg, name string, args ...string) *Program {
	d.tb.Helper()
	need(d.tb, name, pkg)
	return d.start(d.command(name, args...))
}

// Open starts a program and waits for its window, which it returns.
func (d *Display) Open(pkg, title, name string, args ...string) (*Program, string) {
	d.tb.Helper()
	p := d.Run(pkg, name, args...)
	return p, d.Window(title)
}

// Window waits for a visible window whose title matches and returns its id, as
// xdotool writes it.
func (d *Display) Window(title string) string {
	d.tb.Helper()
	var id string
	d.Until(fmt.Sprintf("a window is called %q", title), func() bool {
		out, err := d.command("xdotool", "search", "--onlyvisible", "--name", title).Output()
		id, _, _ = strings.Cut(strings.TrimSpace(string(out)), "\n")
		return err == nil && id != ""
	})
	return id
}

// Active is the window that the window manager holds to be active, as xdotool writes its id; empty: none, or nobody manages windows.
func (d *Display) Active() string {
	d.tb.Helper()
	out, err := d.command(need(d.tb, "xdotool", "xdotool"), "getactivewindow").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// Property is the value of a window's property, as xprop writes it; empty where there is none.
func (d *Display) Property(window, property string) string {
	d.tb.Helper()
	out, err := d.command(need(d.tb, "xprop", "x11-utils"), "-id", window, property).Output()
	_, value, has := strings.Cut(string(out), " = ")
	if err != nil || !has {
		return ""
	}
	return strings.TrimSpace(value)
}

// Do runs xdotool and fails the test where it fails.
func (d *Display) Do(args ...string) {
	d.tb.Helper()
	need(d.tb, "xdotool", "xdotool")
	out, err := d.command("xdotool", args...).CombinedOutput()
	if err != nil {
		d.tb.Fatalf("xdotool %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// Until waits for a condition of the desktop that nothing announces, and fails
// the test when it does not come about.
func (d *Display) Until(what string, holds func() bool) {
	d.tb.Helper()
	until(d.tb, what, holds)
}

func until(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	deadline := time.Now().Add(startTimeout)
	for !holds() {
		if time.Now().After(deadline) {
			tb.Fatalf("waited %v in vain until %s", startTimeout, what)
		}
		<-time.After(20 * time.Millisecond)
	}
}

func (d *Display) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	for _, entry := range os.Environ() {
		if !strings.HasPrefix(entry, "DISPLAY=") && !strings.HasPrefix(entry, "XAUTHORITY=") {
			cmd.Env = append(cmd.Env, entry)
		}
	}
	cmd.Env = append(cmd.Env, "DISPLAY="+d.Name)
	if d.owner != nil {
		cmd.Env = []string{
			"DISPLAY=" + d.Name, "XAUTHORITY=" + d.owner.Authority, "HOME=" + d.owner.Home,
			"PATH=" + os.Getenv("PATH"), "XDG_RUNTIME_DIR=" + d.owner.Home,
		}
	}
	d.own(cmd)
	return cmd
}

// own has a program run as the display's user.
func (d *Display) own(cmd *exec.Cmd) {
	if d.owner != nil {
		cmd.Dir = d.owner.Home
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: d.owner.UID, Gid: d.owner.UID}}
	}
}

func (d *Display) start(cmd *exec.Cmd) *Program {
	d.tb.Helper()
	d.own(cmd)
	return start(d.tb, cmd)
}

func start(tb testing.TB, cmd *exec.Cmd) *Program {
	tb.Helper()
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
	if err := cmd.Start(); err != nil {
		tb.Fatalf("start %s: %v", cmd.Path, err)
	}
	p := &Program{PID: cmd.Process.Pid, tb: tb, cmd: cmd, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait()
	}()
	tb.Cleanup(p.Kill)
	return p
}

// Kill ends the program and what it started, and waits for its end.
func (p *Program) Kill() { p.signal(syscall.SIGKILL) }

// Close asks the program to end and waits for its end.
func (p *Program) Close() { p.signal(syscall.SIGTERM) }

// Freeze stops the program without ending it; Thaw lets it go on.
func (p *Program) Freeze() { _ = syscall.Kill(p.PID, syscall.SIGSTOP) }

// Thaw lets a frozen program go on.
func (p *Program) Thaw() { _ = syscall.Kill(p.PID, syscall.SIGCONT) }

func (p *Program) signal(s syscall.Signal) {
	select {
	case <-p.done:
		return
	default:
	}
	_ = syscall.Kill(-p.PID, s)
	select {
	case <-p.done:
	case <-time.After(startTimeout):
		_ = syscall.Kill(-p.PID, syscall.SIGKILL)
		<-p.done
	}
}

// Wait waits until the program has ended by itself.
func (p *Program) Wait(ctx context.Context) {
	p.tb.Helper()
	select {
	case <-p.done:
	case <-ctx.Done():
		p.tb.Fatalf("%s did not end: %v", p.cmd.Path, ctx.Err())
	}
}

func need(tb testing.TB, name, pkg string) string {
	tb.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		tb.Fatalf("%s is missing: install it with: apt-get install %s", name, pkg)
	}
	return path
}
