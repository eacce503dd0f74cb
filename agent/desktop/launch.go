package desktop

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// Program is one of ours that is to run in a desktop session: the prompt, what stands
// behind the tray icon.
type Program struct {
	Executable string
	Args       []string
	// In, Out and Err are its standard input and outputs, which reach nobody else;
	// nil: it has none. They stay the caller's.
	In, Out, Err *os.File
}

// Launched is a program that was started in a session.
type Launched interface {
	// Wait waits for its end; an error says that it was no good one. It is called once.
	Wait() error
	Kill() error
}

// Launcher starts programs in desktop sessions, each as the person who is logged on
// there. A Desktop that can do so implements it.
type Launcher interface {
	// Launch starts a program in the session of that key, as observations name it.
	Launch(session string, p Program) (Launched, error)
}

// ErrNoSession says that there is no such session, or none any more.
var ErrNoSession = errors.New("desktop: there is no such session")

// Launch implements Launcher.
func (m *machineDesktop) Launch(session string, p Program) (Launched, error) {
	if m.parts.launch == nil {
		return nil, errors.New("desktop: no program can be started in a session of this system")
	}
	m.seatsMu.Lock()
	s, known := m.present[session]
	m.seatsMu.Unlock()
	if !known {
		return nil, fmt.Errorf("%w: %s", ErrNoSession, session)
	}
	return m.parts.launch(s, p)
}

// handTo gives a command the program's files, one by one: a nil file in an interface would
// not be nil.
func (p Program) handTo(cmd *exec.Cmd) {
	if p.In != nil {
		cmd.Stdin = p.In
	}
	if p.Out != nil {
		cmd.Stdout = p.Out
	}
	if p.Err != nil {
		cmd.Stderr = p.Err
	}
}

// commandLaunched is a program that was started without further ado.
type commandLaunched struct{ cmd *exec.Cmd }

func (c commandLaunched) Wait() error { return c.cmd.Wait() }
func (c commandLaunched) Kill() error { return c.cmd.Process.Kill() }
