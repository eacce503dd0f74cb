package desktop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// helperStart is how long a helper may take to open its session's desktop.
	helperStart = 15 * time.Second
	// helperEnd is how long a helper that was let go of may take to end.
	helperEnd = 2 * time.Second
	// helperPipe is the descriptor that a helper talks to its service through.
	helperPipe = 3
)

// openHelper starts a helper as the user of a session. They talk through a pair of sockets that
// have no name: nobody else can be at the other end, so there is no secret.
func openHelper(ctx context.Context, h Helper, s seat, wake func()) (eyes, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	cmd := sessionCommand(s, h.Executable, h.Args)
	cmd.ExtraFiles = []*os.File{theirs}
	words := &lastWords{room: maxLastWords}
	cmd.Stderr = words
	// The person may hold on to what their helper had open: its end is not waited for by that.
	cmd.WaitDelay = helperEnd
	err = cmd.Start()
	_ = theirs.Close() // only the helper is to hold it: its end is seen by that
	if err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("desktop: start the helper %s: %w", h.Executable, err)
	}
	child := &helperProcess{cmd: cmd, words: words, ended: make(chan struct{})}
	child.waiting.Go(child.wait)
	opened, err := greetHelper(ours, wake, func() { child.end(helperEnd) })
	if err != nil {
		_ = ours.Close()
		child.end(0)
		return nil, err
	}
	// It sees nothing before its desktop is open, which may take longer than a look.
	ctx, cancel := context.WithTimeout(ctx, helperStart)
	defer cancel()
	if _, err := opened.look(ctx); err != nil {
		opened.close()
		return nil, errors.Join(err, child.said())
	}
	return opened, nil
}

// socketPair makes the two ends of a conversation.
func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("desktop: a pipe for the helper: %w", err)
	}
	end, theirs := os.NewFile(uintptr(fds[0]), "pipe to a helper"), os.NewFile(uintptr(fds[1]), "pipe of a helper")
	defer end.Close()
	ours, err = net.FileConn(end)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("desktop: a pipe for the helper: %w", err)
	}
	return ours, theirs, nil
}

// helperProcess is a helper that was started.
type helperProcess struct {
	cmd     *exec.Cmd
	words   *lastWords
	waiting sync.WaitGroup
	ended   chan struct{}
}

// lastWords keep the beginning of what a helper says before it ends.
type lastWords struct {
	room int
	text []byte
}

// maxLastWords bounds what is kept, as the helper may be made to say anything.
const maxLastWords = 512

// Write implements io.Writer.
func (w *lastWords) Write(p []byte) (int, error) {
	kept := p[:min(len(p), w.room)]
	w.text = append(w.text, kept...)
	w.room -= len(kept)
	return len(p), nil
}

func (p *helperProcess) wait() {
	defer close(p.ended)
	_ = p.cmd.Wait()
}

// end waits for the process to end, and ends it where it does not.
func (p *helperProcess) end(patience time.Duration) {
	select {
	case <-p.ended:
	case <-time.After(patience):
		_ = p.cmd.Process.Kill()
	}
	p.waiting.Wait()
}

// said is why it has ended, where it has said so.
func (p *helperProcess) said() error {
	select {
	case <-p.ended:
	default:
		return nil
	}
	if text := strings.TrimSpace(string(p.words.text)); text != "" {
		return fmt.Errorf("it has said %q", text)
	}
	return nil
}

// ServeSession is what the helper of a session does, until its service lets go of it: it
// tells what it sees through the pipe that it was started with. It opens nothing else than
// the desktop of the session that its environment leads to.
func ServeSession(ctx context.Context) error {
	var kind int
	kind, err := unix.GetsockoptInt(helperPipe, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_STREAM {
		return errors.New("desktop: there is no pipe to a service; the service starts this command, nobody else does")
	}
	pipe := os.NewFile(helperPipe, "pipe to the service")
	conn, err := net.FileConn(pipe)
	_ = pipe.Close()
	if err != nil {
		return fmt.Errorf("desktop: the pipe to the service: %w", err)
	}
	if name, err := unix.BytePtrFromString("cetrus-helper"); err == nil { // it is called exe otherwise
		_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(name)), 0, 0, 0) //nolint:gosec // The kernel takes the address of the name.
	}
	at := placeOf(os.Getenv)
	// Some compositors take a script of ours, which they want as a file.
	if err := confine(at.kind == kindWayland); err != nil {
		return err
	}
	return serveSight(ctx, conn, nil, func(wake func()) (eyes, error) {
		opened, err := openSessionEyes(ctx, at, wake)
		if err != nil {
			return nil, err
		}
		if err := confine(false); err != nil {
			opened.close()
			return nil, err
		}
		return opened, nil
	})
}
