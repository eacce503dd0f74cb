package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/resolver/dns"

	"github.com/cetrus/cetrus/services/platform/config"
)

// resolveAgainAfter is how soon gRPC asks for a service's addresses again. By default it waits half a minute, in which
// an upgrade has replaced every pod that it knows.
const resolveAgainAfter = time.Second

// start is run, with what is set for all of a process: tests run several commands in one.
func start(args []string, stdout, stderr io.Writer) int {
	dns.SetMinResolutionInterval(resolveAgainAfter)
	return run(args, stdout, stderr)
}

// run is the command line; it returns the exit status.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// A second signal ends the process at once.
	context.AfterFunc(ctx, stop)
	root := rootCommand(stdout)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			return 0 // asked to stop before everything had started
		}
		_, _ = fmt.Fprintf(stderr, "cetrus: %s\n", strings.TrimPrefix(err.Error(), "cetrus: "))
		return 1
	}
	return 0
}

func rootCommand(stdout io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:           "cetrus",
		Short:         "Measures who uses which application, and whether they really work with it",
		Version:       release(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	for _, t := range targets {
		command := targetCommand(t, stdout)
		if t.name == archiveTarget {
			command.AddCommand(forkCommand(stdout))
		}
		root.AddCommand(command)
	}
	root.AddCommand(keyCommand(stdout), managerCommand(stdout), adminCommand(stdout), rebuildCommand(stdout), quarantineCommand(stdout), auditCommand(stdout), nameKeyCommand(stdout), migrateCommand(stdout), secretsCommand(stdout), checkCommand(stdout))
	root.AddCommand(backupCommand(stdout), restoreCommand(stdout), verifyCommand(stdout))
	return root
}

// group is a command that only holds others; a name that is none of theirs is told
// together with those that there are.
func group(use, short string, commands ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{
		Use: use, Short: short,
		// The unknown name is what is wrong, not its flags.
		FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			var known []string
			for _, c := range commands {
				known = append(known, c.Name())
			}
			return fmt.Errorf("%s does not know %q; it knows: %s", cmd.CommandPath(), args[0], strings.Join(known, ", "))
		},
	}
	g.AddCommand(commands...)
	return g
}

// targetCommand runs one target until it is told to stop.
func targetCommand(t target, stdout io.Writer) *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   t.name,
		Short: t.short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(config.Load(cmd.Flags()), s.validateFor(t)); err != nil {
				return err
			}
			return s.runTarget(cmd.Context(), t, stdout)
		},
	}
	s.flags(cmd.Flags())
	return cmd
}

// validateFor tells all that is wrong for a target.
func (s *settings) validateFor(t target) error {
	err := s.validate()
	if err == nil && s.natsURL == "" && slices.ContainsFunc(t.parts, func(p part) bool { return p.name == natsPart.name }) {
		err = s.validateNATS()
	}
	return err
}

func (s *settings) runTarget(ctx context.Context, t target, stdout io.Writer) error {
	return s.logged(ctx, t.name, func(log *slog.Logger) error {
		p, err := newProcess(*s, t, log, stdout)
		if err != nil {
			return err
		}
		return p.run(ctx, p.announce)
	})
}

// version is set by the linker in what is released.
var version string

// release is the build's version: a tag, or the revision that it was built from.
func release() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" && info.Main.Version == "(devel)" {
			return setting.Value
		}
	}
	return info.Main.Version
}
