package e2e

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// person works at a desktop by script, and keeps the truth of what they did.
type person struct {
	t       *testing.T
	desktop *xdesktop
	truth   *truth
	// open programs by name.
	open map[string]*program
}

// program is one running program with one window.
type program struct {
	name    string
	cmd     *exec.Cmd
	window  string
	started time.Time
	exited  chan struct{}
}

// catalog holds the programs that the script uses, and how each is started.
var catalog = map[string][]string{
	"xterm": {"xterm", "-T", windowTitle, "-e", "cat"},
	"xcalc": {"xcalc", "-title", windowTitle},
	"xedit": {"xedit", "-title", windowTitle},
	"xlogo": {"xlogo", "-title", windowTitle},
}

// What must never be found in a journal or in the log.
const (
	windowTitle = "Severance agreement of J Doe"
	typedText   = "hunter2secret"
)

// start opens a program and waits until its window has the focus.
func (p *person) start(name string) {
	p.t.Helper()
	args := catalog[name]
	cmd := p.desktop.command(args[0], args[1:]...)
	prog := &program{name: name, cmd: cmd, exited: make(chan struct{}), started: time.Now()}
	if err := cmd.Start(); err != nil {
		p.t.Fatalf("start %s: %v", name, err)
	}
	go func() { _ = cmd.Wait(); close(prog.exited) }()
	p.t.Cleanup(func() { _ = cmd.Process.Kill(); <-prog.exited })
	// The window manager gives the focus to a window that is new.
	eventually(p.t, 10*time.Second, name+" to come to the front", func() error {
		prog.window = p.activeWindow()
		if p.programOf(prog.window) != "" || prog.window == "" {
			return fmt.Errorf("window %q is in front", prog.window)
		}
		return nil
	})
	p.open[name] = prog
	p.cameToFront(name)
}

// activeWindow is the window in front; empty where there is none.
func (p *person) activeWindow() string {
	out, err := p.desktop.command("xdotool", "getactivewindow").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func (p *person) programOf(window string) string {
	for name, prog := range p.open {
		if prog.window == window {
			return name
		}
	}
	return ""
}

// focus brings a program to the front.
func (p *person) focus(name string) {
	p.t.Helper()
	p.desktop.xdotool(p.t, "windowactivate", "--sync", p.open[name].window)
	p.cameToFront(name)
}

// minimize hides the window in front and notes what came to the front instead.
func (p *person) minimize(name string) {
	p.t.Helper()
	p.desktop.xdotool(p.t, "windowminimize", "--sync", p.open[name].window)
	p.settleFocus()
}

func (p *person) cameToFront(name string) {
	now := time.Now()
	if n := len(p.truth.front); n > 0 && p.truth.front[n-1].program == name {
		return
	}
	p.truth.front = append(p.truth.front, focus{now, name})
	p.truth.changes++
}

// settleFocus waits until the window manager has decided what is in front.
func (p *person) settleFocus() {
	p.t.Helper()
	var last string
	var same int
	eventually(p.t, 10*time.Second, "the focus to settle", func() error {
		now := p.activeWindow()
		if now == last {
			same++
		} else {
			last, same = now, 0
		}
		if same < 3 {
			return fmt.Errorf("window %q", now)
		}
		return nil
	})
	p.cameToFront(p.programOf(last))
}

// typeKeys types into whatever is in front, one key a second.
func (p *person) typeKeys(n int) {
	p.t.Helper()
	for i := range n {
		if i > 0 {
			p.rest(time.Second)
		}
		p.clear()
		p.desktop.xdotool(p.t, "key", string(typedText[i%len(typedText)]))
		p.input()
	}
}

// click clicks into the window in front.
func (p *person) click(name string) {
	p.t.Helper()
	p.clear()
	p.desktop.xdotool(p.t, "mousemove", "--window", p.open[name].window, "20", "20", "click", "1")
	p.input()
}

// clear keeps the next input clear of the activity gap: where the machine was so slow
// that it would come near, the person has idled. What is true follows from the inputs.
func (p *person) clear() {
	const reaction = 800 * time.Millisecond // until the input is there
	n := len(p.truth.inputs)
	if n == 0 {
		return
	}
	since := time.Since(p.truth.inputs[n-1])
	if since > p.truth.gap-margin-reaction && since < p.truth.gap+margin {
		p.rest(p.truth.gap + margin - since)
	}
}

func (p *person) input() {
	p.truth.inputs = append(p.truth.inputs, time.Now())
	p.truth.changes++
}

// rest does nothing for a while. It is part of the script, not a wait for something.
func (p *person) rest(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.t.Context().Done():
	}
}

// close closes a window as people do, by Alt+F4, which is an input too.
func (p *person) close(name string) {
	p.t.Helper()
	prog := p.open[name]
	p.focus(name)
	p.clear()
	p.desktop.xdotool(p.t, "key", "alt+F4")
	p.input()
	p.gone(prog)
}

// kill ends a program at once.
func (p *person) kill(name string) {
	p.t.Helper()
	prog := p.open[name]
	_ = prog.cmd.Process.Signal(syscall.SIGKILL)
	p.gone(prog)
}

func (p *person) gone(prog *program) {
	p.t.Helper()
	select {
	case <-prog.exited:
	case <-time.After(15 * time.Second):
		p.t.Fatalf("%s did not exit", prog.name)
	}
	delete(p.open, prog.name)
	p.truth.runs[prog.name] = append(p.truth.runs[prog.name], span{prog.started, time.Now()})
	p.truth.changes++
	p.settleFocus()
}

// pause runs a function while recording is paused.
func (p *person) pause(stop, resume, while func()) {
	stop()
	from := time.Now()
	while()
	resume()
	p.truth.paused = append(p.truth.paused, span{from, time.Now()})
	p.truth.changes += 2
}
