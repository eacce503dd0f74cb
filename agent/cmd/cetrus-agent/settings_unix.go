//go:build unix

package main

import (
	"os"
	"path/filepath"
)

const (
	machineDataDir    = "/var/lib/cetrus-agent"
	machineConfigFile = "/etc/cetrus/agent.yaml"
)

// defaultDataDir is the system's place for a service's state, or the user's own.
func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return machineDataDir
	}
	if state := os.Getenv("XDG_STATE_HOME"); state != "" {
		return filepath.Join(state, "cetrus-agent")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".local", "state", "cetrus-agent")
}

// defaultConfigFile is the user's own where there is one, else the machine's.
func defaultConfigFile() string {
	if os.Geteuid() == 0 {
		return machineConfigFile
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return machineConfigFile
	}
	own := filepath.Join(dir, "cetrus", "agent.yaml")
	if _, err := os.Stat(own); err != nil {
		return machineConfigFile
	}
	return own
}

// prepareDataDir makes the data folder where it is not there yet.
func (s *settings) prepareDataDir() error { return os.MkdirAll(s.dataDir, 0o700) }

// installable is nil: here the service manager's own files say who may install what.
func (s *settings) installable() error { return nil }

// machineSocket is where the machine's agent is reached by all its people: its data folder
// is closed to them.
const machineSocket = "/run/cetrus-agent/control.sock"

// serveAt is where an agent with these settings is reached.
func (s *settings) serveAt() string {
	if s.controlSocket == "" && os.Geteuid() == 0 && s.dataDir == machineDataDir {
		return machineSocket
	}
	return s.controlSocket
}

// reachAt is where to look for the agent: where nothing else is said, the machine's is
// asked, if there is one.
func (s *settings) reachAt() string {
	if s.controlSocket == "" && s.dataDir == defaultDataDir() {
		if _, err := os.Stat(machineSocket); err == nil {
			return machineSocket
		}
	}
	return s.serveAt()
}
