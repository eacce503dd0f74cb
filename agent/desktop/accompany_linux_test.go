package desktop

import (
	"context"
	"log/slog"
	"os/exec"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent/activity"
)

// cats starts cat, which ends with its input, as a companion does.
type cats struct {
	mu      sync.Mutex
	running map[string][]*exec.Cmd
	starts  map[string]int
}

type cat struct {
	Launched
	gone func()
}

func (c cat) Wait() error {
	defer c.gone()
	return c.Launched.Wait()
}

func (c *cats) Launch(session string, p Program) (Launched, error) {
	cmd := exec.Command("cat")
	p.handTo(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running[session] = append(c.running[session], cmd)
	c.starts[session]++
	return cat{commandLaunched{cmd}, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.running[session] = slices.DeleteFunc(c.running[session], func(other *exec.Cmd) bool { return other == cmd })
	}}, nil
}

func (c *cats) counts(session string) (running, starts int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.running[session]), c.starts[session]
}

// spoken is a desktop that tells what it is handed.
type spoken chan []activity.Session

func (spoken) LookNow()   {}
func (spoken) Host() Host { return Host{} }
func (d spoken) Watch(ctx context.Context, tell func(activity.Observation)) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case sessions := <-d:
			tell(activity.Observation{Sessions: sessions})
		}
	}
}

// Each session has one companion while it is there and watched, again after it has ended.
// sifting is a desktop that is told which programs are wanted.
type sifting struct {
	spoken
	wanted func(executable, path, pkg string) bool
}

func (d *sifting) Sift(wanted func(executable, path, pkg string) bool) { d.wanted = wanted }

// A desktop with companions is told which programs are wanted as one without.
func TestSiftOfADesktopWithCompanions(t *testing.T) {
	t.Parallel()
	d := &sifting{}
	sieve, can := Accompany(d, nil, Program{}, slog.New(slog.DiscardHandler)).(Sieve)
	if !can {
		t.Fatal("it is not told")
	}
	sieve.Sift(func(executable, _, _ string) bool { return executable == "wanted" })
	if d.wanted == nil || !d.wanted("wanted", "", "") || d.wanted("other", "", "") {
		t.Error("the desktop was not told")
	}
}

func TestCompanions(t *testing.T) {
	t.Parallel()
	c := &cats{running: make(map[string][]*exec.Cmd), starts: make(map[string]int)}
	d := make(spoken)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- Accompany(d, c, Program{}, slog.New(slog.DiscardHandler)).Watch(ctx, func(activity.Observation) {})
	}()
	wait := func(session string, running, starts int) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for {
			r, s := c.counts(session)
			if r == running && s == starts {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("session %s: %d run, %d were started, want %d and %d", session, r, s, running, starts)
			}
			<-time.After(10 * time.Millisecond)
		}
	}
	both := []activity.Session{{Key: "a"}, {Key: "b"}}
	d <- both
	d <- both
	wait("a", 1, 1)
	wait("b", 1, 1)
	c.mu.Lock()
	_ = c.running["a"][0].Process.Kill()
	c.mu.Unlock()
	wait("a", 1, 2)
	d <- both[:1]
	wait("b", 0, 1)
	d <- both
	wait("b", 1, 2)
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	wait("a", 0, 2)
	wait("b", 0, 2)
}
