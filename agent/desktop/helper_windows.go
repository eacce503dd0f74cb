package desktop

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

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
	token, err := tokenOf(s)
	if err != nil {
		return nil, err
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
	*launchedProcess
	ending sync.Once
}

// end waits for the process to end, and ends it where it does not.
func (p *helperProcess) end(patience time.Duration) {
	p.ending.Do(func() {
		if event, err := windows.WaitForSingleObject(p.handle, uint32(patience.Milliseconds())); err != nil || event != windows.WAIT_OBJECT_0 {
			_ = p.Kill()
		}
		p.letGo()
	})
}

// startHelper starts a helper with a user's token on their desktop. The secret goes
// through an inherited pipe, its standard input.
func startHelper(token windows.Token, h Helper, pipe string, secret []byte) (*helperProcess, error) {
	secretRead, secretWrite, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("desktop: %w", err)
	}
	defer secretRead.Close()
	defer secretWrite.Close()
	started, err := startAs(token, Program{Executable: h.Executable, Args: append(slices.Clone(h.Args), pipe), In: secretRead})
	if err != nil {
		return nil, err
	}
	child := &helperProcess{launchedProcess: started}
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
