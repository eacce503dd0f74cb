package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/agent"
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
		return s.load(cmd.Root().PersistentFlags())
	}
	asJSON := false
	status := &cobra.Command{
		Use: "status", Short: "Show what is recorded, and how the agent is doing", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return ask(cmd, s, (*agent.Control).Status, asJSON)
		},
	}
	status.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	root.AddCommand(
		&cobra.Command{
			Use: "run", Short: "Run in the foreground, or as the service manager asks", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return serve(cmd.Context(), s, cmd.ErrOrStderr())
			},
		},
		status,
		&cobra.Command{
			Use: "pause", Short: "Stop recording until resume, where the account allows it", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return ask(cmd, s, (*agent.Control).Pause, false) },
		},
		&cobra.Command{
			Use: "resume", Short: "Record again", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return ask(cmd, s, (*agent.Control).Resume, false) },
		},
	)
	root.AddCommand(promptCommand(), generalizeCommand(s))
	root.AddCommand(systemCommands()...)
	for _, verb := range serviceVerbs {
		root.AddCommand(&cobra.Command{
			Use: verb.name, Short: verb.short, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return verb.do(cmd, s) },
		})
	}
	return root
}

// ask puts a question to the running agent and prints its answer.
func ask(cmd *cobra.Command, s *settings, question func(*agent.Control, context.Context) (agent.Status, error), asJSON bool) error {
	status, err := question(agent.NewControl(s.dataDir, s.controlSocket), cmd.Context())
	if err != nil {
		return err
	}
	if asJSON {
		encoder := json.NewEncoder(cmd.OutOrStdout())
		encoder.SetIndent("", "  ")
		return encoder.Encode(status)
	}
	return printStatus(cmd.OutOrStdout(), status)
}

func printStatus(w io.Writer, s agent.Status) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	line("Agent", "%s, version %s", s.AgentID, s.Version)
	switch {
	case s.Recording:
		line("Recording", "yes")
	case s.Paused:
		line("Recording", "no: paused; `cetrus-agent resume` goes on")
	case s.Problem != "":
		line("Recording", "no: %s", s.Problem)
	default:
		line("Recording", "no: the account has paused recording")
	}
	if s.Manager.Connected {
		line("Manager", "%s, connected since %s", s.Manager.Address, s.Manager.Since.Local().Format(time.DateTime)) //nolint:gosmopolitan // For the person at this machine.
	} else {
		line("Manager", "%s, not connected: %s", s.Manager.Address, s.Manager.Problem)
	}
	if s.Manager.Connected && s.Manager.Problem != "" {
		line("", "%s", s.Manager.Problem)
	}
	if s.Manager.Preferred != "" {
		line("Not its first Manager", "%s", s.Manager.Preferred)
	}
	line("Waiting to be sent", "%d records; the journal takes %d KiB", s.Journal.Unacknowledged, s.Journal.Bytes>>10)
	line("Monitored", "%s (policy revision %d)", strings.Join(s.Applications, ", "), s.PolicyRevision)
	for _, missing := range s.Unsupported {
		line("Not told by this desktop", "%s", missing)
	}
	for _, p := range s.Plugins {
		said := p.State
		if p.Message != "" {
			said += ": " + p.Message
		}
		line("Plug-in", "%s %s, %s", p.Name, p.Version, said)
	}
	for _, file := range s.SetAside {
		line("Was damaged", "%s; the agent went on without it; remove it once somebody has looked", file)
	}
	for _, open := range s.Open {
		line("Open", "%s: %s (%s) since %s", open.Application, open.State, open.Attention, open.Since.Local().Format(time.TimeOnly)) //nolint:gosmopolitan // For the person at this machine.
	}
	return table.Flush()
}
