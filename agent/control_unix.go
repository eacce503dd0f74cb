//go:build unix

package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
)

// controlIn is where the control socket of a data directory is.
func controlIn(dataDir string) string { return filepath.Join(dataDir, controlFile) }

// socketListener also lets go of the name that it listens under.
type socketListener struct {
	net.Listener
	release func()
}

func (l socketListener) Close() error {
	err := l.Listener.Close()
	l.release()
	return err
}

// listenControl listens for the people of this machine, as far as the folder lets them in:
// whom each is answered as, askerOf says.
func listenControl(socket string) (net.Listener, error) {
	// The directory's lock says that no other agent listens here: it is a leftover.
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("agent: control socket: %w", err)
	}
	if _, err := os.Stat(filepath.Dir(socket)); errors.Is(err, fs.ErrNotExist) {
		// The system empties /run when it starts.
		if err := errors.Join(os.MkdirAll(filepath.Dir(socket), 0o755), os.Chmod(filepath.Dir(socket), 0o755)); err != nil {
			return nil, fmt.Errorf("agent: the folder of the control socket: %w", err)
		}
	}
	address, release, err := socketAddress(socket)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", address)
	if err != nil {
		release()
		return nil, fmt.Errorf("agent: control socket %s: %w", socket, err)
	}
	bound := socketListener{listener, sync.OnceFunc(release)}
	if err := os.Chmod(socket, 0o666); err != nil {
		_ = bound.Close()
		return nil, fmt.Errorf("agent: control socket: %w", err)
	}
	return bound, nil
}

func dialControl(ctx context.Context, socket string) (net.Conn, error) {
	address, release, err := socketAddress(socket)
	if err != nil {
		return nil, err
	}
	defer release()
	return new(net.Dialer).DialContext(ctx, "unix", address)
}
