package plugin

import (
	"fmt"
	"os"
	"os/exec"
	"unsafe"

	"golang.org/x/sys/windows"
)

// programSuffix ends the name of a program that has none of its own.
const programSuffix = ".exe"

// cage is a job object: its processes end when it is closed, and may not take
// more memory than it allows.
type cage struct{ job windows.Handle }

func newCage(memoryBytes int64) (*cage, error) {
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return nil, fmt.Errorf("plugin: job object: %w", err)
	}
	limits := windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION{JobMemoryLimit: uintptr(memoryBytes)}
	limits.BasicLimitInformation.LimitFlags = windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | windows.JOB_OBJECT_LIMIT_JOB_MEMORY
	if _, err := windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation, uintptr(unsafe.Pointer(&limits)), uint32(unsafe.Sizeof(limits))); err != nil {
		_ = windows.CloseHandle(job)
		return nil, fmt.Errorf("plugin: limits of the job object: %w", err)
	}
	return &cage{job: job}, nil
}

func (*cage) prepare(*exec.Cmd) {}

func (c *cage) enclose(p *os.Process) error {
	handle, err := windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE, false, uint32(p.Pid))
	if err != nil {
		return fmt.Errorf("plugin: open its process: %w", err)
	}
	defer func() { _ = windows.CloseHandle(handle) }()
	if err := windows.AssignProcessToJobObject(c.job, handle); err != nil {
		return fmt.Errorf("plugin: put it into its job: %w", err)
	}
	return nil
}

// excess is left to the job, which refuses memory.
func (*cage) excess(*os.Process) int64 { return 0 }

func (c *cage) kill(*os.Process) { _ = windows.TerminateJobObject(c.job, 1) }

func (c *cage) close() { _ = windows.CloseHandle(c.job) }
