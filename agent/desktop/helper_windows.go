package desktop

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"
	"unsafe"

	winio "github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"
)

const (
	pipePrefix = `\\.\pipe\cetrus-agent-`
	// How long a helper may take to start and connect.
	helperStart = 15 * time.Second
	// How long a helper that was let go of may take to end.
	helperEnd = 2 * time.Second
	// How often a helper tries to reach its service.
	helperTries = 5
)

// openHelper starts a helper in a session, as the person who is logged on there, and
// takes its connection. The pipe has a name that nobody can guess, lets in the person
// and the system, and is answered only for the very process that was started, where
// that knows the secret it was handed.
func openHelper(ctx context.Context, h Helper, s seat, wake func()) (_ eyes, err error) {
	ctx, cancel := context.WithTimeout(ctx, helperStart)
	defer cancel()
	var token windows.Token
	if err := windows.WTSQueryUserToken(s.number, &token); err != nil {
		return nil, fmt.Errorf("desktop: the token of the session's user: %w", err)
	}
	defer token.Close()
	owner, err := token.GetTokenUser()
	if err != nil {
		return nil, fmt.Errorf("desktop: the user of the session's token: %w", err)
	}
	random := make([]byte, 16+maxSecret/2)
	if _, err := rand.Read(random); err != nil {
		return nil, fmt.Errorf("desktop: draw a secret: %w", err)
	}
	name, secret := pipePrefix+hex.EncodeToString(random[:16]), random[16:]
	listener, err := winio.ListenPipe(name, &winio.PipeConfig{
		// Full access for the system and administrators, reading and writing for the person.
		SecurityDescriptor: "D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GRGW;;;" + owner.User.Sid.String() + ")",
		InputBufferSize:    64 << 10, OutputBufferSize: 4 << 10,
	})
	if err != nil {
		return nil, fmt.Errorf("desktop: listen for the helper: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	defer listener.Close()
	child, err := startHelper(token, h, name, secret)
	if err != nil {
		return nil, err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			child.end(0)
			return nil, fmt.Errorf("desktop: the helper did not come: %w", errors.Join(ctx.Err(), err))
		}
		admitted, err := admit(conn, child, secret, wake)
		if err == nil {
			return admitted, nil
		}
		_ = conn.Close() // a stranger; the helper may still come
	}
}

// admit takes a connection of the very process that was started.
func admit(conn net.Conn, child *helperProcess, secret []byte, wake func()) (*helperEyes, error) {
	pid, err := clientOf(conn)
	if err != nil {
		return nil, err
	}
	if pid != child.pid {
		return nil, fmt.Errorf("desktop: process %d is at the helper's pipe, and is none of ours", pid)
	}
	return admitHelper(conn, secret, wake, func() { child.end(helperEnd) })
}

// clientOf is the process at the other end of a pipe.
func clientOf(conn net.Conn) (uint32, error) {
	pipe, ok := conn.(interface{ Fd() uintptr })
	if !ok {
		return 0, errors.New("desktop: a pipe without a handle")
	}
	var pid uint32
	if err := windows.GetNamedPipeClientProcessId(windows.Handle(pipe.Fd()), &pid); err != nil {
		return 0, fmt.Errorf("desktop: who is at the pipe: %w", err)
	}
	return pid, nil
}

// helperProcess is a helper that was started.
type helperProcess struct {
	pid    uint32
	handle windows.Handle
	ending sync.Once
}

// end waits for the process to end, and ends it where it does not.
func (p *helperProcess) end(patience time.Duration) {
	p.ending.Do(func() {
		if event, err := windows.WaitForSingleObject(p.handle, uint32(patience.Milliseconds())); err != nil || event != windows.WAIT_OBJECT_0 {
			_ = windows.TerminateProcess(p.handle, 1)
		}
		_ = windows.CloseHandle(p.handle)
	})
}

// startHelper starts a helper with a user's token on their desktop. The secret goes
// through an inherited pipe, its standard input: neither the command line
// nor the environment, which others can read, holds it.
func startHelper(token windows.Token, h Helper, pipe string, secret []byte) (*helperProcess, error) {
	secretRead, secretWrite, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("desktop: %w", err)
	}
	defer secretRead.Close()
	defer secretWrite.Close()
	stdin := windows.Handle(secretRead.Fd())
	if err := windows.SetHandleInformation(stdin, windows.HANDLE_FLAG_INHERIT, windows.HANDLE_FLAG_INHERIT); err != nil {
		return nil, fmt.Errorf("desktop: hand over the secret: %w", err)
	}
	attributes, err := windows.NewProcThreadAttributeList(1)
	if err != nil {
		return nil, fmt.Errorf("desktop: start the helper: %w", err)
	}
	defer attributes.Delete()
	inherited := [1]windows.Handle{stdin} // nothing else of the service reaches the helper
	if err := attributes.Update(windows.PROC_THREAD_ATTRIBUTE_HANDLE_LIST, unsafe.Pointer(&inherited[0]), unsafe.Sizeof(inherited)); err != nil {
		return nil, fmt.Errorf("desktop: start the helper: %w", err)
	}
	var environment *uint16
	if err := windows.CreateEnvironmentBlock(&environment, token, false); err != nil {
		return nil, fmt.Errorf("desktop: the environment of the session's user: %w", err)
	}
	defer func() { _ = windows.DestroyEnvironmentBlock(environment) }()
	program, err := windows.UTF16PtrFromString(h.Executable)
	if err != nil {
		return nil, fmt.Errorf("desktop: %w", err)
	}
	line, err := windows.UTF16PtrFromString(windows.ComposeCommandLine(append(append([]string{h.Executable}, h.Args...), pipe)))
	if err != nil {
		return nil, fmt.Errorf("desktop: %w", err)
	}
	where, err := windows.UTF16PtrFromString(`winsta0\default`)
	if err != nil {
		return nil, fmt.Errorf("desktop: %w", err)
	}
	start := &windows.StartupInfoEx{ProcThreadAttributeList: attributes.List()}
	start.Cb = uint32(unsafe.Sizeof(*start))
	start.Desktop = where
	start.Flags = windows.STARTF_USESTDHANDLES
	start.StdInput = stdin
	var started windows.ProcessInformation
	const flags = windows.CREATE_UNICODE_ENVIRONMENT | windows.CREATE_NO_WINDOW | windows.EXTENDED_STARTUPINFO_PRESENT
	if err := windows.CreateProcessAsUser(token, program, line, nil, nil, true, flags, environment, nil, &start.StartupInfo, &started); err != nil {
		return nil, fmt.Errorf("desktop: start the helper %s: %w", h.Executable, err)
	}
	_ = windows.CloseHandle(started.Thread)
	child := &helperProcess{pid: started.ProcessId, handle: started.Process}
	if _, err := secretWrite.Write(secret); err != nil {
		child.end(0)
		return nil, fmt.Errorf("desktop: hand over the secret: %w", err)
	}
	return child, nil
}

// ServeSession is what the helper of a session does, until its service lets go of it:
// it reads its secret from secretFrom and tells what it sees through the pipe. It
// opens nothing else that leads out.
func ServeSession(ctx context.Context, pipe string, secretFrom *os.File) error {
	if !strings.HasPrefix(pipe, pipePrefix) {
		return fmt.Errorf("desktop: %q is no pipe of the agent; the service starts this command, nobody else does", pipe)
	}
	secret := make([]byte, maxSecret)
	n, err := secretFrom.Read(secret)
	if err != nil {
		return fmt.Errorf("desktop: no secret was handed over: %w", err)
	}
	p := newProcs()
	open := func(wake func()) (eyes, error) { return openSessionEyes(p, wake) }
	for range helperTries {
		dialling, cancel := context.WithTimeout(ctx, secretTimeout)
		conn, dialErr := winio.DialPipeContext(dialling, pipe)
		cancel()
		if dialErr != nil {
			return fmt.Errorf("desktop: the service's pipe: %w", dialErr)
		}
		// A pipe may be reached before anybody listens at it, who then does not greet.
		if err = serveSight(ctx, conn, secret[:n], open); !errors.Is(err, errNotGreeted) {
			return err
		}
	}
	return err
}
