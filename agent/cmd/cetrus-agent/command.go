package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

// run is the whole program.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := command()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(stderr, "cetrus-agent: %v\n", err)
		return 1
	}
	return 0
}

// runVerb is the order that service managers give.
const runVerb = "run"

func command() *cobra.Command {
	root := &cobra.Command{
		Use:           "cetrus-agent",
		Short:         "Watches this desktop and tells a Manager who uses which monitored application",
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	s := new(settings)
	s.flags(root.PersistentFlags())
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := s.load(cmd.Root().PersistentFlags()); err != nil {
			return err
		}
		// An agent records without a token that can be used, and people may ask and pause it; as it
		// runs, its log tells.
		if err := s.checkToken(); err != nil && cmd.Name() != runVerb {
			fmt.Fprintf(cmd.ErrOrStderr(), "cetrus-agent: %v\n", err)
		}
		return nil
	}
	root.AddCommand(
		&cobra.Command{
			Use: runVerb, Short: "Run in the foreground, or as the service manager asks", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return serve(cmd.Context(), s, cmd.ErrOrStderr())
			},
		},
	)
	root.AddCommand(promptCommand(), generalizeCommand(s), enrollCommand(s))
	root.AddCommand(personCommands(s)...)
	root.AddCommand(systemCommands()...)
	for _, verb := range serviceVerbs {
		root.AddCommand(&cobra.Command{
			Use: verb.name, Short: verb.short, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return verb.do(cmd, s) },
		})
	}
	return root
}
