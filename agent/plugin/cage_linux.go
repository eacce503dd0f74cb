package plugin

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// dataSlack is what the kernel's limit allows above the one that is watched: a runtime maps
// more than it uses, and the limit counts what is mapped.
const dataSlack = 192 << 20

// programSuffix ends the name of a program that has none of its own.
const programSuffix = ""

// cage holds a plug-in's processes and bounds their memory.
type cage struct{ memoryBytes int64 }

func newCage(memoryBytes int64) (*cage, error) { return &cage{memoryBytes: memoryBytes}, nil }

// prepare makes the child the head of a group, which the host ends with it, and the child
// end with the agent. Of an agent that is killed, children of the child stay.
func (*cage) prepare(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// enclose limits a process that has just started: what it maps before that is not
// refused, but counts.
func (c *cage) enclose(p *os.Process) error {
	limit := &unix.Rlimit{Cur: uint64(c.memoryBytes + dataSlack), Max: uint64(c.memoryBytes + dataSlack)}
	if err := unix.Prlimit(p.Pid, unix.RLIMIT_DATA, limit, nil); err != nil {
		return fmt.Errorf("plugin: limit its memory: %w", err)
	}
	core := &unix.Rlimit{}
	if err := unix.Prlimit(p.Pid, unix.RLIMIT_CORE, core, nil); err != nil {
		return fmt.Errorf("plugin: keep it from writing cores: %w", err)
	}
	return nil
}

// excess is how much memory a process takes where that is more than it may; 0: all
// is well.
func (c *cage) excess(p *os.Process) int64 {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(p.Pid) + "/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(text)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil || pages*int64(os.Getpagesize()) <= c.memoryBytes {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

func (*cage) kill(p *os.Process) {
	if p != nil {
		_ = unix.Kill(-p.Pid, unix.SIGKILL)
	}
}

func (*cage) close() {}
