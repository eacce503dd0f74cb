//go:build linux

package desktoptest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
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
}

// Program is a process that the test has started.
type Program struct {
	PID int

	tb   testing.TB
	cmd  *exec.Cmd
	done chan struct{}
}

const startTimeout = 20 * time.Second

// Start starts an X server on a free display, without a window manager. It ends
// with the test.
func Start(tb testing.TB) *Display {
	tb.Helper()
	d := &Display{tb: tb}
	d.startServer("")
	return d
}

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
	cmd := exec.Command(need(d.tb, "Xvfb", "xvfb"), args...)
	cmd.ExtraFiles = []*os.File{write}
	d.server = start(d.tb, cmd)
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
	return manager
}

// Run starts a program of a Debian package on the display.
func (d *Display) Run(pkg, name string, args ...string) *Program {
	d.tb.Helper()
	need(d.tb, name, pkg)
	return start(d.tb, d.command(name, args...))
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
	return cmd
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
