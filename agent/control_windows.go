package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	winio "github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"
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

// listenControl listens for the agent's own user, administrators and the system.
func listenControl(pipe string) (net.Listener, error) {
	owner, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, fmt.Errorf("agent: control pipe: the user of this process: %w", err)
	}
	listener, err := winio.ListenPipe(pipe, &winio.PipeConfig{
		SecurityDescriptor: "D:P(A;;GA;;;SY)(A;;GA;;;BA)(A;;GA;;;" + owner.User.Sid.String() + ")",
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
