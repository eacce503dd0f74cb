package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	winio "github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"

	"github.com/cetrus/cetrus/agent/activity"
)

// controlIn is the pipe of a data directory. Windows keeps pipes in a place of
// their own, so the name says which directory is meant.
func controlIn(dataDir string) string {
	if full, err := filepath.Abs(dataDir); err == nil {
		dataDir = full
	}
	sum := sha256.Sum256([]byte(strings.ToLower(filepath.Clean(dataDir))))
	return `\\.\pipe\cetrus-agent-control-` + hex.EncodeToString(sum[:8])
}

// interactive is what people who are logged on here may do with the pipe: read and write,
// but not listen at it in the agent's place (FILE_CREATE_PIPE_INSTANCE).
const interactive = "0x12019b"

// listenControl listens for the people who are logged on to this machine; whom each is
// answered as, askerOf says.
func listenControl(pipe string) (net.Listener, error) {
	owner, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, fmt.Errorf("agent: control pipe: the user of this process: %w", err)
	}
	listener, err := winio.ListenPipe(pipe, &winio.PipeConfig{
		SecurityDescriptor: "D:P(D;;GA;;;NU)(A;;GA;;;SY)(A;;GA;;;BA)(A;;GA;;;" + owner.User.Sid.String() + ")(A;;" + interactive + ";;;IU)",
		InputBufferSize:    16 << 10, OutputBufferSize: 64 << 10,
	})
	if err != nil {
		return nil, fmt.Errorf("agent: control pipe %s: %w", pipe, err)
	}
	return listener, nil
}

// dialControl lets the agent see who asks, and no more: with a token for identification
// nobody can act in their place.
func dialControl(ctx context.Context, pipe string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return winio.DialPipeAccessImpLevel(ctx, pipe, windows.GENERIC_READ|windows.GENERIC_WRITE, winio.PipeImpLevelIdentification)
}

// askerOf is who opened the pipe at the other end of a connection, of which something has
// been read: the system tells nobody before.
func askerOf(conn net.Conn) (asker, error) {
	pipe, ok := conn.(interface{ Fd() uintptr })
	if !ok {
		return asker{}, errors.New("agent: control pipe: a connection without a handle")
	}
	token, err := tokenOf(clientThread{windows.Handle(pipe.Fd())})
	if err != nil {
		return asker{}, fmt.Errorf("agent: control pipe: who asks: %w", err)
	}
	defer token.Close()
	owner, err := token.GetTokenUser()
	if err != nil {
		return asker{}, fmt.Errorf("agent: control pipe: the user who asks: %w", err)
	}
	self, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return asker{}, fmt.Errorf("agent: control pipe: the user of this process: %w", err)
	}
	who := asker{user: activity.User{SID: owner.User.Sid.String()}, administrator: token.IsElevated() || owner.User.Sid.String() == self.User.Sid.String()}
	if name, domain, _, err := owner.User.Sid.LookupAccount(""); err == nil {
		who.user.Name, who.user.Domain = name, domain
	}
	return who, nil
}

// impersonation makes a thread of ours pass for somebody else.
type impersonation interface {
	// begin makes the calling thread pass for them.
	begin() error
	// token is whom the calling thread passes for.
	token() (windows.Token, error)
	// end makes the calling thread itself again.
	end() error
}

// tokenOf passes for somebody for as long as it takes to ask who that is. A thread that
// cannot be made itself again runs nothing else: it ends with its goroutine.
func tokenOf(i impersonation) (windows.Token, error) {
	type result struct {
		token windows.Token
		err   error
	}
	told := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		if err := i.begin(); err != nil {
			runtime.UnlockOSThread()
			told <- result{err: err}
			return
		}
		token, err := i.token()
		if back := i.end(); back != nil {
			if err == nil {
				_ = token.Close()
			}
			told <- result{err: fmt.Errorf("a thread cannot be made ours again, and is given up: %w", back)}
			return // locked to its thread, which ends with it
		}
		runtime.UnlockOSThread()
		told <- result{token, err}
	}()
	r := <-told
	return r.token, r.err
}

// clientThread passes for whoever opened the other end of a pipe.
type clientThread struct{ pipe windows.Handle }

// begin implements impersonation.
func (c clientThread) begin() error {
	if ok, _, err := windows.NewLazySystemDLL("advapi32.dll").NewProc("ImpersonateNamedPipeClient").Call(uintptr(c.pipe)); ok == 0 {
		return err
	}
	return nil
}

// token implements impersonation. It is this process that may look, not the client.
func (clientThread) token() (token windows.Token, err error) {
	err = windows.OpenThreadToken(windows.CurrentThread(), windows.TOKEN_QUERY, true, &token)
	if errors.Is(err, windows.ERROR_CANT_OPEN_ANONYMOUS) {
		err = fmt.Errorf("the client does not let itself be known; it must open the pipe for identification (SECURITY_IDENTIFICATION), as cetrus-agent does: %w", err)
	}
	return token, err
}

// end implements impersonation.
func (clientThread) end() error { return windows.RevertToSelf() }
