package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows/registry"

	"github.com/cetrus/cetrus/agent/owned"
)

// defaultDataDir is where services keep their state. Everybody's default is the
// same, so that status finds the service.
func defaultDataDir() string {
	return filepath.Join(cmp.Or(os.Getenv("ProgramData"), `C:\ProgramData`), "Cetrus", "Agent")
}

// defaultConfigFile is where programs are, which only administrators may write: in
// %ProgramData% anybody may make what is not there yet, and what the file names is run.
func defaultConfigFile() string {
	return filepath.Join(programFiles(), "Cetrus", "Agent", "agent.yaml")
}

// programFiles asks the machine; the environment is the person's.
func programFiles() string {
	const elsewhere = `C:\Program Files`
	key, err := registry.OpenKey(registry.LOCAL_MACHINE, `SOFTWARE\Microsoft\Windows\CurrentVersion`, registry.QUERY_VALUE|registry.WOW64_64KEY)
	if err != nil {
		return elsewhere
	}
	defer key.Close()
	dir, _, err := key.GetStringValue("ProgramFilesDir")
	if err != nil || !filepath.IsAbs(dir) {
		return elsewhere
	}
	return dir
}

// believed tells whether a service may believe its settings: nobody but administrators
// may have written them, or what they name. It makes the data folder, and shuts it.
func (s *settings) believed() error {
	for _, named := range []struct{ setting, path string }{
		{configFlag, s.configFile}, {"plugin-dir", s.pluginDir}, {"plugin-keys", s.pluginKeys}, {"release-keys", s.releaseKeys},
	} {
		if named.path == "" {
			continue
		}
		if err := owned.Check(named.path); err != nil {
			return fmt.Errorf("%s: %w", named.setting, err)
		}
	}
	if err := owned.Folder(s.dataDir); err != nil {
		return fmt.Errorf("data-dir: %w", err)
	}
	return nil
}

// prepareDataDir makes the data folder where it is not there yet, and shuts it to all but
// administrators.
func (s *settings) prepareDataDir() error {
	if err := owned.Folder(s.dataDir); err != nil {
		return fmt.Errorf("data-dir: %w", err)
	}
	return nil
}

// installable tells whether a service may run this program with these settings.
func (s *settings) installable() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program's own file: %w", err)
	}
	if err := owned.Check(self); err != nil {
		return fmt.Errorf("this program, which the service would run: %w", err)
	}
	return s.believed()
}

// serveAt is where an agent with these settings is reached.
func (s *settings) serveAt() string { return s.controlSocket }

// reachAt is where to look for the agent.
func (s *settings) reachAt() string { return s.controlSocket }
