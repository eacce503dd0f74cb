package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/telemetry"
)

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
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	for _, t := range targets {
		root.AddCommand(targetCommand(t, stdout))
	}
	root.AddCommand(keyCommand(stdout), managerCommand(stdout), adminCommand(stdout), rebuildCommand(stdout), quarantineCommand(stdout), auditCommand(stdout), nameKeyCommand(stdout))
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
			if err := errors.Join(config.Load(cmd.Flags()), s.validate()); err != nil {
				return err
			}
			return s.runTarget(cmd.Context(), t, stdout)
		},
	}
	s.flags(cmd.Flags())
	return cmd
}

func (s *settings) runTarget(ctx context.Context, t target, stdout io.Writer) (err error) {
	tel, err := telemetry.Setup(ctx, telemetry.Config{
		Service: "cetrus-" + t.name, Version: version(), LogLevel: s.logLevel, LogFormat: s.logFormat,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tel.Shutdown(context.WithoutCancel(ctx))) }()
	p, err := newProcess(*s, t, tel.Logger, stdout)
	if err != nil {
		return err
	}
	return p.run(ctx, p.announce)
}

// version is the build's: a tag, or the revision that it was built from.
func version() string {
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
