package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/tools/faults"
	"github.com/cetrus/cetrus/tools/faults/network"
	"github.com/cetrus/cetrus/tools/figure"
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
	var out string
	var only []string
	root := &cobra.Command{
		Use: "cetrus-faults", Short: "Kill, cut and fill everything under load; count what is lost or doubled",
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, kind := range only {
				c.Kinds = append(c.Kinds, faults.Kind(kind))
			}
			return inject(cmd.Context(), c, out)
		},
	}
	root.Flags().IntVar(&c.Agents, "agents", 50, "how many agents work")
	root.Flags().IntVar(&c.Faults, "faults", 200, "how many faults are injected")
	root.Flags().StringSliceVar(&only, "kinds", nil, "which strike; default: all that can here")
	root.Flags().IntVar(&c.AtOnce, "at-once", 4, "how many strike at once")
	root.Flags().IntVar(&c.Machines, "nats", 3, "how many NATS servers there are, each part on a machine of its own; 0: all parts share this machine")
	root.Flags().StringVar(&c.Bin, "bin", "", "folder of cetrus and cetrus-manager; default: they are built")
	root.Flags().StringVar(&out, "out", filepath.Join("..", "out"), "folder of the history and the figures")
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

func inject(ctx context.Context, c faults.Config, out string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if err := network.Available(); err != nil && c.Machines > 0 {
		fmt.Fprintf(c.Out, "faults: %v: all parts share this one, and the kinds of faults that need more are left out\n", err)
		c.Machines, c.AtOnce = 0, 1
	}
	c.Host = []string{self, "agents"}
	if c.Dir, err = os.MkdirTemp("", "cetrus-faults-"); err != nil {
		return err
	}
	if err := os.Chmod(c.Dir, 0o755); err != nil {
		return err
	}
	if c.Bin == "" {
		if c.Bin, err = faults.Build(ctx, c.Dir); err != nil {
			return err
		}
	}
	began := time.Now()
	c.History = filepath.Join(out, fmt.Sprintf("faults-history-%d-%d.jsonl", c.Seed, began.Unix()))
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
	v := result.Verdict
	fmt.Printf("%d events journalled, %d acknowledged, %d messages published, %d (instance, attention) compared one by one, %d observations; seed %d, %s\n",
		v.Journalled, v.Acknowledged, v.Published, v.Keys, v.Observed, c.Seed, time.Since(began).Round(time.Second))
	if c.Machines > 0 {
		fmt.Printf("network: %+v\ndisks: %+v\nended and started again: %v\n", result.Network, result.Disks, result.Revived)
	}
	fmt.Printf("history: %s\n", c.History)
	if err := note(filepath.Join(out, "faults.jsonl"), c, result, time.Since(began)); err != nil {
		return err
	}
	fmt.Printf("faults injected %d, lost %d ms, doubled %d ms, reordered %d, resurrected %d\n",
		result.Total(), v.LostMillis, v.DoubledMillis, v.Reordered, v.Resurrected)
	if err := result.Err(); err != nil {
		return fmt.Errorf("%w (seed %d, files kept in %s)", err, c.Seed, c.Dir)
	}
	return os.RemoveAll(filepath.Clean(c.Dir))
}

// note adds the figures of a run to a file.
func note(path string, c faults.Config, r faults.Result, took time.Duration) error {
	v := r.Verdict
	run := map[string]any{"utc": time.Now().UTC().Format(time.RFC3339), "seed": c.Seed, "history": filepath.Base(c.History)}
	of := map[string]any{
		"agents": c.Agents, "nats_servers": c.Machines, "at_once": c.AtOnce, "run_seconds": int(took.Seconds()),
		"faults": r.Total(), "injected": r.Injected, "met_data_under_way": r.InFlight, "started_again": r.Revived, "network": r.Network, "disks": r.Disks,
		"journalled": v.Journalled, "acknowledged": v.Acknowledged, "published": v.Published, "observed": v.Observed, "keys": v.Keys,
		"lost_events": v.Lost, "doubled_events": v.Doubled, "cores": runtime.NumCPU(),
	}
	maps.Copy(of, run)
	return figure.Append(path,
		figure.Line{Name: "faults_lost", Value: float64(v.LostMillis), Unit: "ms", More: of},
		figure.Line{Name: "faults_doubled", Value: float64(v.DoubledMillis), Unit: "ms", More: run},
		figure.Line{Name: "faults_reordered", Value: float64(v.Reordered), Unit: "events", More: run},
		figure.Line{Name: "faults_resurrected", Value: float64(v.Resurrected), Unit: "events", More: run},
		figure.Line{Name: "faults_quarantined", Value: float64(r.Quarantined), Unit: "records", More: run},
	)
}
