package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/tools/faults"
)

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := command()
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "cetrus-faults: %v\n", err)
		return 1
	}
	return 0
}

func command() *cobra.Command {
	c := faults.Config{Out: os.Stdout}
	root := &cobra.Command{
		Use: "cetrus-faults", Short: "Kill, cut and fill everything under load; count what is lost or doubled",
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error { return inject(cmd.Context(), c) },
	}
	root.Flags().IntVar(&c.Agents, "agents", 50, "how many agents work")
	root.Flags().IntVar(&c.Faults, "faults", 200, "how many faults are injected")
	root.Flags().Uint64Var(&c.Seed, "seed", rand.Uint64(), "what decides which faults strike when")
	root.AddCommand(agentsCommand())
	return root
}

// agentsCommand is what the harness runs as a process that it can kill.
func agentsCommand() *cobra.Command {
	var h faults.Hosted
	cmd := &cobra.Command{
		Use: "agents", Short: "Run agents over scripted desktops", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return faults.RunAgents(cmd.Context(), h, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		},
	}
	h.Flags(cmd.Flags())
	return cmd
}

func inject(ctx context.Context, c faults.Config) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c.Host = []string{self, "agents"}
	if c.Dir, err = os.MkdirTemp("", "cetrus-faults-"); err != nil {
		return err
	}
	if err := os.Chmod(c.Dir, 0o755); err != nil {
		return err
	}
	if c.Bin, err = faults.Build(ctx, c.Dir); err != nil {
		return err
	}
	result, err := faults.Run(ctx, c)
	if err != nil {
		return fmt.Errorf("%w (seed %d, files kept in %s)", err, c.Seed, c.Dir)
	}
	kinds := make([]faults.Kind, 0, len(result.Injected))
	for kind := range result.Injected {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	for _, kind := range kinds {
		fmt.Printf("  %-24s %3d injected, %3d met data under way\n", kind, result.Injected[kind], result.InFlight[kind])
	}
	fmt.Printf("%d events, %d (instance, attention) compared one by one, seed %d\n", result.Events, result.Keys, c.Seed)
	fmt.Printf("faults injected %d, lost %d ms, doubled %d ms\n", result.Total(), result.Comparison.LostMillis, result.Comparison.DoubledMillis)
	if err := result.Err(); err != nil {
		return fmt.Errorf("%w (seed %d, files kept in %s)", err, c.Seed, c.Dir)
	}
	return os.RemoveAll(filepath.Clean(c.Dir))
}
