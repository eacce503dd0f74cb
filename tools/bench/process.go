package bench

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// child is a process of this run. It ends with this one.
type child struct {
	cmd   *exec.Cmd
	log   string
	ended chan struct{}
}

// start runs a program; what it says goes to a file of the run.
func (r *run) start(env []string, path string, args ...string) (*child, error) {
	log, err := os.CreateTemp(r.dir, filepath.Base(path)+"-*.log")
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	c := &child{cmd: exec.Command(path, args...), log: log.Name(), ended: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.Env = log, log, append(os.Environ(), env...)
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		// The child dies with the thread that started it, so this one stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(c.ended)
		defer func() { _ = log.Close() }()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			_ = c.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("bench: start %s: %w", path, err)
	}
	return c, nil
}

// stop asks the process to end, and kills it where it does not.
func (c *child) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.NewTimer(20 * time.Second)
	defer timer.Stop()
	select {
	case <-c.ended:
	case <-timer.C:
		_ = c.cmd.Process.Kill()
		<-c.ended
	}
}

// said is the end of what the process wrote.
func (c *child) said() string {
	text, _ := os.ReadFile(c.log)
	return string(text[max(0, len(text)-2000):])
}

// alive is an error once the process has ended.
func (c *child) alive() error {
	select {
	case <-c.ended:
		return fmt.Errorf("%s ended by itself:\n%s", filepath.Base(c.cmd.Path), c.said())
	default:
		return nil
	}
}

// cpu is the processor time of all threads that the process has, to the
// nanosecond where the kernel tells, else to the tick.
func (c *child) cpu() time.Duration {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", c.cmd.Process.Pid))
	var sum int64
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		first, _, _ := strings.Cut(string(text), " ")
		ns, _ := strconv.ParseInt(first, 10, 64)
		sum += ns
	}
	return time.Duration(sum)
}

// peakMemory is the greatest resident set that the process has had, in bytes.
func (c *child) peakMemory() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// build makes one of the project's programs as `make run` makes it, and tells where it is.
func (r *run) build(ctx context.Context, module, command string) (string, error) {
	_, here, _, _ := runtime.Caller(0)
	bin := filepath.Join(r.dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", fmt.Errorf("bench: %w", err)
	}
	args := []string{"build", "-trimpath"}
	if module == "agent" {
		args = append(args, "-tags", "grpcnotrace", "-ldflags", "-s -w")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "-o", bin+"/", "./"+command)...)
	cmd.Dir = filepath.Join(filepath.Dir(here), "..", "..", module)
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("bench: go build %s: %w\n%s", command, err, out)
	}
	return filepath.Join(bin, filepath.Base(command)), nil
}

// until asks until the condition holds.
func until(ctx context.Context, limit time.Duration, what string, condition func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := condition()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || !pause(ctx, 50*time.Millisecond) {
			return fmt.Errorf("bench: waited %v for %s: %w", limit, what, err)
		}
	}
}

// pause waits, and tells whether ctx still lasts.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// freePorts are loopback addresses that nobody listens on.
func freePorts(n int) ([]string, error) {
	var addresses []string
	for range n {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
		defer func() { _ = l.Close() }()
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}
