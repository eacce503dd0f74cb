package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/tools/trial"
)

// noCluster is the exit code where the machine runs no cluster, so that nothing was tried.
const noCluster = 3

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := command()
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "cetrus-trial: %v\n", err)
		if errors.Is(err, trial.ErrNoCluster) {
			return noCluster
		}
		return 1
	}
	return 0
}

func command() *cobra.Command {
	c := trial.Config{Progress: os.Stdout}
	var minutes int
	var out string
	root := &cobra.Command{
		Use: "cetrus-trial", Short: "Install, use, upgrade, break and remove the platform on a real Kubernetes; count what is lost or doubled",
		Long: "Runs, in this order: " + strings.Join(trial.Names(), ", ") + ".\nTakes root. Figures are written to a file, one JSON object a line.",
		Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Random = time.Duration(minutes) * time.Minute
			return try(cmd.Context(), c, out)
		},
	}
	flags := root.Flags()
	flags.StringVar(&c.Root, "root", ".", "folder of the sources")
	flags.StringVar(&c.Bin, "bin", "bin", "where the programs are")
	flags.Uint64Var(&c.Seed, "seed", rand.Uint64(), "what decides all that is random")
	flags.IntVar(&minutes, "minutes", 15, "for how many minutes pods are deleted at random")
	flags.StringSliceVar(&c.Only, "only", nil, "names of the scenarios to run; what they need runs all the same")
	flags.IntVar(&c.Agents, "agents", 20, "how many light agents record")
	flags.StringVar(&c.From, "from", "", "commit or tag whose charts and images are installed first (default the newest tag before this commit)")
	flags.StringVar(&out, "out", filepath.Join("out", "cluster.jsonl"), "file that the figures are written to")
	return root
}

func try(ctx context.Context, c trial.Config, out string) (err error) {
	for _, path := range []*string{&c.Root, &c.Bin} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	c.Lines = io.MultiWriter(c.Progress, file)
	// Beside the sources, not in /tmp: the node has a /tmp of its own, and overlayfs has to be able to write there.
	if c.Dir, err = os.MkdirTemp(c.Root, ".trial-"); err != nil {
		return err
	}
	if err := os.Chmod(c.Dir, 0o755); err != nil {
		return err
	}
	result, err := trial.Run(ctx, c)
	again := fmt.Sprintf("seed %d", c.Seed)
	_, _ = fmt.Fprintf(c.Progress, "%d events, %d (instance, attention) compared one by one, %s\n", result.Events, result.Keys, again)
	found := fmt.Sprintf("lost %d ms, doubled %d ms", result.LostMillis, result.DoubledMillis)
	if wrong := len(result.Failed); wrong > 0 {
		found += fmt.Sprintf(", and %d scenarios went wrong", wrong)
	}
	_, _ = fmt.Fprintln(c.Progress, found)
	if err := errors.Join(err, result.Err()); err != nil {
		return fmt.Errorf("%w (%s; files kept in %s)", err, again, c.Dir)
	}
	return os.RemoveAll(c.Dir)
}
