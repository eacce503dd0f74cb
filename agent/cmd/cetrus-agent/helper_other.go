//go:build !windows && !linux

package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/agent/desktop"
)

// systemCommands are commands of this system only.
func systemCommands() []*cobra.Command { return nil }

// helperOf says how the helpers of a service's sessions are started; nil: there are none.
func (p *program) helperOf() (*desktop.Helper, error) { return nil, nil }

// sessionsAreListed tells whether a login manager lists the sessions of this machine.
func sessionsAreListed(context.Context) bool { return false }

// thisProgram is what starts this program again.
func thisProgram() (string, error) { return os.Executable() }
