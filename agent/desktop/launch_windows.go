package desktop

import (
	"fmt"
	"os"
	"os/exec"
	"sync"
	"unsafe"

	"golang.org/x/sys/windows"
)

// interactiveDesktop is where a person's windows are; a service's are elsewhere.
const interactiveDesktop = `winsta0\default`

// launchHere starts a program in the session that this process runs in.
func launchHere(_ seat, p Program) (Launched, error) {
	command := exec.Command(p.Executable, p.Args...)
	command.SysProcAttr = &windows.SysProcAttr{CreationFlags: windows.CREATE_NO_WINDOW}
	p.handTo(command)
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("desktop: start %s: %w", p.Executable, err)
	}
	return commandLaunched{command}, nil
}

// launchIn starts a program in another session, with the token of the person who is
// logged on there.
func launchIn(s seat, p Program) (Launched, error) {
	token, err := tokenOf(s)
	if err != nil {
		return nil, err
	}
	defer token.Close()
	return startAs(token, p)
}

// tokenOf is the token of whoever is logged on in a session. Only the system itself is
// given it.
func tokenOf(s seat) (token windows.Token, err error) {
	if err := windows.WTSQueryUserToken(s.number, &token); err != nil {
		return 0, fmt.Errorf("desktop: the token of the session's user: %w", err)
	}
	return token, nil
}

// startAs starts a program with a user's token on their desktop. Its standard files are
// all that it inherits: neither the command line nor the environment, which others can
// read, has to hold what is meant for it alone.
func startAs(token windows.Token, p Program) (*launchedProcess, error) {
	fail := func(err error) (*launchedProcess, error) {
		return nil, fmt.Errorf("desktop: start %s: %w", p.Executable, err)
	}
	start := &windows.StartupInfoEx{}
	start.Cb = uint32(unsafe.Sizeof(*start))
	start.Flags = windows.STARTF_USESTDHANDLES
	var inherited []windows.Handle
	for _, f := range []struct {
		file *os.File
		into *windows.Handle
	}{{p.In, &start.StdInput}, {p.Out, &start.StdOutput}, {p.Err, &start.StdErr}} {
		if f.file == nil {
			continue
		}
		// A copy, since the file's own handle is not to reach other children.
		self := windows.CurrentProcess()
		if err := windows.DuplicateHandle(self, windows.Handle(f.file.Fd()), self, f.into, 0, true, windows.DUPLICATE_SAME_ACCESS); err != nil {
			return fail(err)
		}
		defer windows.CloseHandle(*f.into) //nolint:errcheck // The child has its own.
		inherited = append(inherited, *f.into)
	}
	if len(inherited) > 0 {
		attributes, err := windows.NewProcThreadAttributeList(1)
		if err != nil {
			return fail(err)
		}
		defer attributes.Delete()
		if err := attributes.Update(windows.PROC_THREAD_ATTRIBUTE_HANDLE_LIST, unsafe.Pointer(&inherited[0]), uintptr(len(inherited))*unsafe.Sizeof(inherited[0])); err != nil {
			return fail(err)
		}
		start.ProcThreadAttributeList = attributes.List()
	}
	var environment *uint16
	if err := windows.CreateEnvironmentBlock(&environment, token, false); err != nil {
		return fail(fmt.Errorf("the environment of the session's user: %w", err))
	}
	defer func() { _ = windows.DestroyEnvironmentBlock(environment) }()
	program, err := windows.UTF16PtrFromString(p.Executable)
	if err != nil {
		return fail(err)
	}
	line, err := windows.UTF16PtrFromString(windows.ComposeCommandLine(append([]string{p.Executable}, p.Args...)))
	if err != nil {
		return fail(err)
	}
	if start.Desktop, err = windows.UTF16PtrFromString(interactiveDesktop); err != nil {
		return fail(err)
	}
	var started windows.ProcessInformation
	const flags = windows.CREATE_UNICODE_ENVIRONMENT | windows.CREATE_NO_WINDOW | windows.EXTENDED_STARTUPINFO_PRESENT
	if err := windows.CreateProcessAsUser(token, program, line, nil, nil, len(inherited) > 0, flags, environment, nil, &start.StartupInfo, &started); err != nil {
		return fail(err)
	}
	_ = windows.CloseHandle(started.Thread)
	return &launchedProcess{pid: started.ProcessId, handle: started.Process}, nil
}

// launchedProcess is a process that was started with a user's token.
type launchedProcess struct {
	pid uint32

	mu     sync.Mutex
	handle windows.Handle // 0: let go of
}

// Wait implements Launched.
func (p *launchedProcess) Wait() error {
	if _, err := windows.WaitForSingleObject(p.handle, windows.INFINITE); err != nil {
		return fmt.Errorf("desktop: wait for process %d: %w", p.pid, err)
	}
	var code uint32
	err := windows.GetExitCodeProcess(p.handle, &code)
	p.letGo()
	switch {
	case err != nil:
		return fmt.Errorf("desktop: how process %d has ended: %w", p.pid, err)
	case code != 0:
		return fmt.Errorf("desktop: process %d has ended with %d", p.pid, code)
	}
	return nil
}

// Kill implements Launched.
func (p *launchedProcess) Kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.handle == 0 {
		return os.ErrProcessDone
	}
	return windows.TerminateProcess(p.handle, 1)
}

func (p *launchedProcess) letGo() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.handle != 0 {
		_ = windows.CloseHandle(p.handle)
		p.handle = 0
	}
}
