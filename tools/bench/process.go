package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cetrus/cetrus/tools/stack"
)

// child is a process of this run, whose cost can be asked for.
type child struct{ *stack.Process }

// start runs a program; what it says goes to a file of the run.
func (r *run) start(env []string, path string, args ...string) (*child, error) {
	r.started++
	name := filepath.Base(path)
	p, err := stack.Start(stack.Command{
		Name: name, Path: path, Args: args, Env: env, Log: filepath.Join(r.dir, fmt.Sprintf("%s-%d.log", name, r.started)),
	})
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	return &child{p}, nil
}

// stop asks the process to end, and kills it where it does not.
func (c *child) stop() { _ = c.Stop(20 * time.Second) }

// cpu is the processor time of all threads that the process has, to the
// nanosecond where the kernel tells, else to the tick.
func (c *child) cpu() time.Duration {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", c.PID()))
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
func (c *child) peakMemory() int64 { return peakMemory(c.PID()) }

func peakMemory(pid int) int64 { return memory(pid, "VmHWM:") }

// memory is a figure of a process's status, in bytes.
func memory(pid int, line string) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(l, line); ok {
			kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// build makes one of the project's programs, and tells where it is.
func (r *run) build(ctx context.Context, program string) (string, error) {
	return stack.Build(ctx, filepath.Join(r.dir, "bin"), program)
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
