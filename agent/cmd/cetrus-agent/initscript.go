package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kardianos/service"
)

// initScript is a service of System V's init. The package of service managers cannot
// tell one that is stopped from one that was never installed, and leaves the links to
// its script behind.
type initScript struct {
	service.Service
	root string // "/", but in tests
	name string
}

func (s *initScript) path(parts ...string) string {
	return filepath.Join(append([]string{s.root}, parts...)...)
}

// Status implements service.Service as the script itself answers.
func (s *initScript) Status() (service.Status, error) {
	if _, err := os.Lstat(s.path("etc", "init.d", s.name)); err != nil {
		return service.StatusUnknown, service.ErrNotInstalled
	}
	pid, err := os.ReadFile(s.path("var", "run", s.name+".pid"))
	if err != nil {
		return service.StatusStopped, nil //nolint:nilerr // It is stopped: the script writes the file at a start.
	}
	number, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	if err != nil {
		return service.StatusStopped, nil //nolint:nilerr // as above
	}
	stat, err := os.ReadFile(s.path("proc", strconv.Itoa(number), "stat"))
	// A zombie, which nobody has waited for, has ended as well.
	if _, state, _ := strings.Cut(string(stat), ") "); err != nil || strings.HasPrefix(state, "Z") {
		return service.StatusStopped, nil //nolint:nilerr // as above
	}
	return service.StatusRunning, nil
}

// Uninstall implements service.Service.
func (s *initScript) Uninstall() error {
	if err := s.Service.Uninstall(); err != nil {
		return err
	}
	links, err := filepath.Glob(s.path("etc", "rc?.d", "[SK][0-9][0-9]"+s.name))
	problems := []error{err}
	for _, link := range append(links, s.path("var", "run", s.name+".pid")) {
		if err := os.Remove(link); !errors.Is(err, os.ErrNotExist) {
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

// logs are the files in which the script keeps what the agent says.
func (s *initScript) logs() []string {
	var logs []string
	for _, kind := range []string{".log", ".err"} {
		file := s.path("var", "log", s.name+kind)
		if about, err := os.Stat(file); err == nil && about.Size() > 0 {
			logs = append(logs, file)
		}
	}
	return logs
}

// lastWords is the last line that the agent has said, and where it stands.
func (s *initScript) lastWords() string {
	file := s.path("var", "log", s.name+".err")
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return fmt.Sprintf("%s (%s)", lines[len(lines)-1], file)
}
