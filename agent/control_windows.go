package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"path/filepath"
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

func dialControl(ctx context.Context, pipe string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return winio.DialPipeContext(ctx, pipe)
}

// askerOf is who is at the other end of a connection: the user of the process that opened
// the pipe. A process that began
// after the connection was taken is another one, which has
// got the number of the first.
func askerOf(conn net.Conn, taken time.Time) (asker, error) {
	pipe, ok := conn.(interface{ Fd() uintptr })
	if !ok {
		return asker{}, errors.New("agent: control pipe: a connection without a handle")
	}
	var pid uint32
	if err := windows.GetNamedPipeClientProcessId(windows.Handle(pipe.Fd()), &pid); err != nil {
		return asker{}, fmt.Errorf("agent: control pipe: which process asks: %w", err)
	}
	process, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, pid)
	if err != nil {
		return asker{}, fmt.Errorf("agent: control pipe: process %d: %w", pid, err)
	}
	defer func() { _ = windows.CloseHandle(process) }()
	var created, exited, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(process, &created, &exited, &kernel, &user); err != nil {
		return asker{}, fmt.Errorf("agent: control pipe: process %d: %w", pid, err)
	}
	if time.Unix(0, created.Nanoseconds()).After(taken) {
		return asker{}, fmt.Errorf("agent: control pipe: process %d has gone", pid)
	}
	var token windows.Token
	if err := windows.OpenProcessToken(process, windows.TOKEN_QUERY, &token); err != nil {
		return asker{}, fmt.Errorf("agent: control pipe: the token of process %d: %w", pid, err)
	}
	defer token.Close()
	owner, err := token.GetTokenUser()
	if err != nil {
		return asker{}, fmt.Errorf("agent: control pipe: the user of process %d: %w", pid, err)
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
