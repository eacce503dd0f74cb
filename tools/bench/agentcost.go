package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"

	"github.com/cetrus/cetrus/tools/figure"
	"github.com/cetrus/cetrus/tools/stack"
)

// monitored is how many applications the agent watches; each of them runs.
const monitored = 20

// agentCost runs the real agent on a real desktop, beside the bare loop, while a
// person types and turns from one window to another.
func agentCost(ctx context.Context, r *run) error {
	p, err := r.startPlatform(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = p.Stop(20 * time.Second) }()
	agentPath, err := r.build(ctx, "agent/cmd/cetrus-agent")
	if err != nil {
		return err
	}
	barePath, err := r.build(ctx, "tools/bench/bareloop")
	if err != nil {
		return err
	}
	screen, err := r.startScreen(ctx)
	if err != nil {
		return err
	}
	defer screen.close()
	windows, err := screen.openPrograms(ctx, p)
	if err != nil {
		return err
	}

	dir, err := r.folder("agent")
	if err != nil {
		return err
	}
	own, err := r.start(screen.env, agentPath, "run", "--data-dir", dir, "--manager", p.ManagerAgents, "--display", screen.display)
	if err != nil {
		return err
	}
	defer own.stop()
	bare, err := r.start(screen.env, barePath, p.ManagerAgents)
	if err != nil {
		return err
	}
	defer bare.stop()
	err = stack.Wait(ctx, 30*time.Second, "the agent to see all programs", func() error {
		answer := &meteringv1.ListInstancesResponse{}
		err := p.API.Get(ctx, "/v1/instances", map[string][]string{"open_only": {"true"}, "page_size": {"1000"}}, answer)
		if err == nil && len(answer.GetInstances()) < monitored {
			err = fmt.Errorf("it sees %d", len(answer.GetInstances()))
		}
		return errors.Join(err, own.Failure(), bare.Failure())
	})
	if err != nil {
		return err
	}

	span := sized(r, 10*time.Second, time.Minute)
	r.say("%d programs open; a person at work for %v, then idle for as long", monitored, span)
	// What starting costs is told by the peak of memory, not by the CPU a minute.
	minutes := func(begin time.Time, cpu time.Duration) float64 { return cpu.Seconds() / time.Since(begin).Minutes() }
	begin, ownBefore, bareBefore := time.Now(), own.cpu(), bare.cpu()
	for n := 0; time.Since(begin) < span; n++ {
		if err := errors.Join(screen.work(ctx, windows[n*7%len(windows)]), own.Failure(), bare.Failure()); err != nil {
			return err
		}
		if !pause(ctx, 2*time.Second) {
			return ctx.Err()
		}
	}
	busy, busyBare := minutes(begin, own.cpu()-ownBefore), minutes(begin, bare.cpu()-bareBefore)
	begin, ownBefore, bareBefore = time.Now(), own.cpu(), bare.cpu()
	if !pause(ctx, span) {
		return ctx.Err()
	}
	idle, idleBare := minutes(begin, own.cpu()-ownBefore), minutes(begin, bare.cpu()-bareBefore)
	if err := errors.Join(own.Failure(), bare.Failure()); err != nil {
		return err
	}
	return r.emit(figure.Line{Name: r.name, Value: busy, Unit: "CPU s/min", Limit: busyBare, More: map[string]any{
		"peak_rss_mb": float64(own.peakMemory()) / 1e6, "limit_peak_rss_mb": float64(bare.peakMemory()) / 1e6,
		"idle_cpu_s_per_min": idle, "limit_idle_cpu_s_per_min": idleBare, "idle_ratio": idle / idleBare, "applications": monitored,
	}})
}

// screen is an X server without a monitor, and a window manager.
type screen struct {
	r       *run
	display string
	env     []string
	started []*child
}

func (s *screen) close() {
	for i := len(s.started) - 1; i >= 0; i-- {
		s.started[i].stop()
	}
}

func (s *screen) start(path string, args ...string) (*child, error) {
	c, err := s.r.start(s.env, path, args...)
	if err == nil {
		s.started = append(s.started, c)
	}
	return c, err
}

func (r *run) startScreen(ctx context.Context) (s *screen, err error) {
	s = &screen{r: r}
	dir, err := r.folder("home")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	told := filepath.Join(dir, "display")
	// The shell hands the server a file to write its display's number to.
	server, err := s.start("sh", "-c", `exec 3>"$1"; exec Xvfb -displayfd 3 -screen 0 1280x800x24 -nolisten tcp -noreset`, "sh", told)
	if err != nil {
		return nil, err
	}
	err = stack.Wait(ctx, 20*time.Second, "Xvfb", func() error {
		text, err := os.ReadFile(told)
		if err == nil && !strings.HasSuffix(string(text), "\n") {
			err = errors.New("it has told no display")
		}
		s.display = ":" + strings.TrimSpace(string(text))
		return errors.Join(err, server.Failure())
	})
	if err != nil {
		return nil, err
	}
	s.env = []string{"DISPLAY=" + s.display, "HOME=" + dir}
	if _, err = s.start("openbox", "--sm-disable"); err != nil {
		return nil, err
	}
	return s, stack.Wait(ctx, 20*time.Second, "openbox", func() error {
		out, err := s.ask(ctx, "xprop", "-root", "_NET_SUPPORTING_WM_CHECK")
		if err == nil && !strings.Contains(out, "window id") {
			err = errors.New(out)
		}
		return err
	})
}

func (s *screen) ask(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), s.env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// openPrograms makes applications of as many programs as are to be watched, starts
// each, and tells their windows.
func (s *screen) openPrograms(ctx context.Context, p *stack.Platform) (windows []string, err error) {
	clock, err := exec.LookPath("xclock")
	if err != nil {
		return nil, fmt.Errorf("bench: a program with a window is needed: %w", err)
	}
	dir, err := s.r.folder("programs")
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(clock)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	for n := range monitored {
		name := fmt.Sprintf("program%02d", n)
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o755); err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
		if _, err := p.API.CreateApplication(ctx, &meteringv1.Application{DisplayName: name, Rules: []*meteringv1.Rule{{Executable: name}}}); err != nil {
			return nil, err
		}
		if _, err := s.start(path, "-title", name, "-update", "60"); err != nil {
			return nil, err
		}
	}
	for n := range monitored {
		err := stack.Wait(ctx, 20*time.Second, "a window", func() error {
			out, err := s.ask(ctx, "xdotool", "search", "--onlyvisible", "--name", fmt.Sprintf("^program%02d$", n))
			if err == nil {
				line, _ := bufio.NewReader(strings.NewReader(out + "\n")).ReadString('\n')
				windows = append(windows, strings.TrimSpace(line))
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return windows, nil
}

// work is what a person does in two seconds: turn to a window and type a word.
func (s *screen) work(ctx context.Context, window string) error {
	_, err := s.ask(ctx, "xdotool", "windowactivate", "--sync", window, "type", "--delay", "60", "cetrus")
	return err
}
