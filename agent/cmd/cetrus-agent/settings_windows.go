package main

import (
	"cmp"
	"os"
	"path/filepath"
)

// defaultDataDir is where services keep their state. Everybody's default is the
// same, so that status finds the service.
func defaultDataDir() string { return filepath.Join(programData(), "Cetrus", "Agent") }

func defaultConfigFile() string { return filepath.Join(programData(), "Cetrus", "agent.yaml") }

func programData() string { return cmp.Or(os.Getenv("ProgramData"), `C:\ProgramData`) }
