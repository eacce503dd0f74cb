package release

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

// handlesVariable holds, in the environment of a release, the handles by which its guardian
// speaks to it: of the event that it is to stop, of the event that its desktop may have
// changed, and of the guardian itself.
const handlesVariable = "CETRUS_RELEASE_HANDLES"

// goOnAs runs a release as long as it runs: no process can become another program here, so
// this one stays, asleep, and is what a service manager knows.
func (l Launcher) goOnAs(ctx context.Context, program, self string) (again bool, err error) {
	code, _, err := l.run(ctx, program, self, roleCurrent, 0)
	if err != nil {
		return false, err
	}
	select {
	case <-ctx.Done():
		return false, nil // it ended because it was told to
	default:
	}
	if code == provenCode {
		return true, nil
	}
	return false, fmt.Errorf("release: the release that runs has ended with exit status %d", code)
}

// child is a release that runs under this process. It is in a job, which ends it whatever
// becomes of this process.
type child struct {
	process *os.Process
	job     windows.Handle
	// What it is told by: it is to stop, its desktop may have changed, its guardian has gone.
	stopped, mayLook, guardian windows.Handle
}

func startChild(program string, environment []string) (_ *child, err error) {
	c := new(child)
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.job, err = windows.CreateJobObject(nil, nil); err != nil {
		return nil, fmt.Errorf("release: job object: %w", err)
	}
	// What the release starts is its own affair: helpers belong to other sessions, and
	// plug-ins to jobs of their own.
	limits := windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION{}
	limits.BasicLimitInformation.LimitFlags = windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | windows.JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK
	if _, err = windows.SetInformationJobObject(c.job, windows.JobObjectExtendedLimitInformation, uintptr(unsafe.Pointer(&limits)), uint32(unsafe.Sizeof(limits))); err != nil {
		return nil, fmt.Errorf("release: limits of the job object: %w", err)
	}
	const manualReset = 1
	if c.stopped, err = windows.CreateEvent(nil, manualReset, 0, nil); err != nil {
		return nil, fmt.Errorf("release: an event: %w", err)
	}
	if c.mayLook, err = windows.CreateEvent(nil, 0, 0, nil); err != nil {
		return nil, fmt.Errorf("release: an event: %w", err)
	}
	own := windows.CurrentProcess()
	if err = windows.DuplicateHandle(own, own, own, &c.guardian, windows.SYNCHRONIZE, false, 0); err != nil {
		return nil, fmt.Errorf("release: a handle of this process: %w", err)
	}
	inherited := []windows.Handle{c.stopped, c.mayLook, c.guardian}
	attributes := &syscall.SysProcAttr{HideWindow: true}
	texts := make([]string, len(inherited))
	for i, handle := range inherited {
		if err = windows.SetHandleInformation(handle, windows.HANDLE_FLAG_INHERIT, windows.HANDLE_FLAG_INHERIT); err != nil {
			return nil, fmt.Errorf("release: hand over a handle: %w", err)
		}
		attributes.AdditionalInheritedHandles = append(attributes.AdditionalInheritedHandles, syscall.Handle(handle))
		texts[i] = strconv.FormatUint(uint64(handle), 10)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("release: %w", err)
	}
	defer null.Close()
	said := null // a service has no output
	if _, statErr := os.Stderr.Stat(); statErr == nil {
		said = os.Stderr
	}
	c.process, err = os.StartProcess(program, append([]string{program}, os.Args[1:]...), &os.ProcAttr{ //nolint:gosec // The release was verified; it is told what this process was.
		Env: append(environment, handlesVariable+"="+strings.Join(texts, ",")), Files: []*os.File{null, said, said}, Sys: attributes,
	})
	if err != nil {
		return nil, err
	}
	if err = c.enclose(); err != nil {
		_ = c.process.Kill()
		_, _ = c.process.Wait()
		return nil, err
	}
	return c, nil
}

func (c *child) enclose() error {
	handle, err := windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE, false, uint32(c.process.Pid))
	if err != nil {
		return fmt.Errorf("release: open its process: %w", err)
	}
	defer func() { _ = windows.CloseHandle(handle) }()
	if err := windows.AssignProcessToJobObject(c.job, handle); err != nil {
		return fmt.Errorf("release: put it into its job: %w", err)
	}
	return nil
}

func (c *child) wait() (code int, err error) {
	state, err := c.process.Wait()
	if err != nil {
		return 0, err
	}
	return state.ExitCode(), nil
}

func (c *child) stop() { _ = windows.SetEvent(c.stopped) }

func (c *child) kill() { _ = windows.TerminateJobObject(c.job, 1) }

func (c *child) look() { _ = windows.SetEvent(c.mayLook) }

func (c *child) close() {
	for _, handle := range []windows.Handle{c.job, c.stopped, c.mayLook, c.guardian} {
		if handle != 0 {
			_ = windows.CloseHandle(handle)
		}
	}
}

// Guarded gives a context that also ends when the guardian of this process tells it to stop,
// or is no more; look is called when the guardian passes on that the desktop may have
// changed. done lets go of the guardian, and waits.
func Guarded(ctx context.Context, look func()) (guarded context.Context, done func(), err error) {
	text, there := os.LookupEnv(handlesVariable)
	if !Launched() || !there {
		return ctx, func() {}, nil
	}
	given, err := handles(text)
	if err != nil {
		return nil, nil, err
	}
	letGo, err := windows.CreateEvent(nil, 0, 0, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("release: an event: %w", err)
	}
	guarded, cancel := context.WithCancel(ctx)
	var waiting sync.WaitGroup
	waiting.Go(func() {
		defer cancel()
		const stopped, mayLook, guardian = windows.WAIT_OBJECT_0, windows.WAIT_OBJECT_0 + 1, windows.WAIT_OBJECT_0 + 2
		for {
			event, err := windows.WaitForMultipleObjects([]windows.Handle{given[0], given[1], given[2], letGo}, false, windows.INFINITE)
			if err != nil || event != mayLook {
				return // stopped, the guardian has gone, or nobody asks any more
			}
			look()
		}
	})
	return guarded, func() {
		_ = windows.SetEvent(letGo)
		waiting.Wait()
		for _, handle := range append(given[:], letGo) {
			_ = windows.CloseHandle(handle)
		}
	}, nil
}

// handles reads what a guardian handed over.
func handles(text string) (given [3]windows.Handle, err error) {
	parts := strings.Split(text, ",")
	if len(parts) != len(given) {
		return given, fmt.Errorf("release: %s=%s is no three handles", handlesVariable, text)
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 64)
		if err != nil || n == 0 {
			return given, errors.Join(fmt.Errorf("release: %s=%s is no three handles", handlesVariable, text), err)
		}
		given[i] = windows.Handle(n)
	}
	return given, nil
}

// Switch ends this process, a release that has stopped for another one, and tells its
// guardian thereby that another is to go on. It returns only where it has none.
func Switch(context.Context) error {
	if !Launched() {
		return errors.New("release: this process has no guardian, and goes on by itself")
	}
	os.Exit(provenCode)
	return nil
}
