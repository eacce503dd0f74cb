package desktop

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// sessionCommand is a program that is to run as the user of a session, with the few
// variables of its environment that lead to the session's desktop.
func sessionCommand(s seat, executable string, args []string) *exec.Cmd {
	cmd := exec.Command(executable, args...)
	cmd.Args[0] = "cetrus-agent"
	cmd.Dir = "/"
	cmd.Env = s.at.environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if uint32(os.Geteuid()) != s.uid {
		// No further groups: what it needs is the person's own.
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: s.uid, Gid: groupOf(s.uid)}
	}
	return cmd
}

// launchIn starts a program in a session.
func launchIn(s seat, p Program) (Launched, error) {
	if s.at.home == "" { // no helper has been started there yet
		s.at.home = homeOf(s.uid)
	}
	return launch(sessionCommand(s, p.Executable, p.Args), p)
}

// launchHere starts a program with the environment of this process, in the session that
// it watches.
func launchHere(s seat, p Program) (Launched, error) {
	cmd := exec.Command(p.Executable, p.Args...)
	cmd.Env = append(os.Environ(), s.at.environment()...)
	return launch(cmd, p)
}

func launch(cmd *exec.Cmd, p Program) (Launched, error) {
	p.handTo(cmd)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("desktop: start %s: %w", p.Executable, err)
	}
	return commandLaunched{cmd}, nil
}
