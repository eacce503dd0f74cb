//go:build unix

package main

import (
	"os"
	"path/filepath"
)

// defaultDataDir is the system's place for a service's state, or the user's own.
func defaultDataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/cetrus-agent"
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

func defaultConfigFile() string {
	if os.Geteuid() == 0 {
		return "/etc/cetrus/agent.yaml"
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "cetrus", "agent.yaml")
}
