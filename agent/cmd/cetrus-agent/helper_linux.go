package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/agent/desktop"
)

const (
	helperCommand = "session-helper"
	// helperLimit is what a helper's Go runtime is told to stay below, in bytes.
	helperLimit = 8 << 20
	// ownProgram is the program that runs, whatever its file is called now, and whether or
	// not others can reach the folder that it lies in.
	ownProgram = "/proc/self/exe"
)

// thisProgram is what starts this program again.
func thisProgram() (string, error) { return ownProgram, nil }

// helperOf has an agent of root look into each session of the machine by a helper: this
// program again, with a command that nobody else uses. Where a display is named, or nobody
// lists the sessions, one display is watched.
func (p *program) helperOf() (*desktop.Helper, error) {
	if os.Geteuid() != 0 || p.settings.display != "" || !sessionsAreListed(context.Background()) {
		return nil, nil
	}
	return &desktop.Helper{Executable: ownProgram, Args: []string{helperCommand}}, nil
}

// sessionsAreListed tells whether a login manager lists the sessions of this machine.
func sessionsAreListed(ctx context.Context) bool { return desktop.HasLogins(ctx) }

// systemCommands are commands of this system only.
func systemCommands() []*cobra.Command {
	return []*cobra.Command{{
		Use: helperCommand, Short: "Look at this session for the service, which starts this itself", Hidden: true, Args: cobra.NoArgs,
		// It has no settings: all that it does is to answer the service.
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		RunE: func(cmd *cobra.Command, _ []string) error {
			runtime.GOMAXPROCS(processors)
			debug.SetGCPercent(gcPercent)
			debug.SetMemoryLimit(helperLimit)
			defer keepSmall(cmd.Context())()
			return desktop.ServeSession(cmd.Context())
		},
	}}
}
