package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/tools/bench"
)

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := command()
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "cetrus-bench: %v\n", err)
		return 1
	}
	return 0
}

func command() *cobra.Command {
	c := bench.Config{Progress: os.Stderr}
	var only []string
	var scale, out string
	root := &cobra.Command{
		Use: "cetrus-bench [name...]", Short: "Measure speed and cost, each against a limit measured in the same run",
		Long:         "Measures, in this order: " + strings.Join(bench.Names(), ", ") + ".\nPrints one JSON object a line, and writes them to a file. Take nothing else to the machine meanwhile.",
		SilenceUsage: true, SilenceErrors: true, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, names []string) error {
			c.Only, c.Scale = append(only, names...), bench.Scale(scale)
			return measure(cmd.Context(), c, out)
		},
	}
	root.Flags().StringSliceVar(&only, "only", nil, "names of the benches to run; default all")
	root.Flags().StringVar(&scale, "scale", string(bench.Full), "how much is measured: small proves only that the benches work; middle, full, of which the console has 300 people × 120 days and 1,000 × 365")
	root.Flags().IntVar(&c.Rounds, "rounds", 0, "how often what is compared is measured in turns; 0: as many as each bench thinks right")
	root.Flags().StringVar(&out, "out", filepath.Join("..", "out", "bench.jsonl"), "file that the results are written to")
	root.Flags().StringVar(&c.Profiles, "profiles", "", "directory for CPU profiles of what is measured in this process")
	root.AddCommand(order("serve", func(ctx context.Context, text string) error {
		var p bench.PassThrough
		if err := json.Unmarshal([]byte(text), &p); err != nil {
			return err
		}
		return p.Serve(ctx)
	}), order("generate", func(ctx context.Context, text string) error {
		var l bench.Load
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			return err
		}
		return l.Generate(ctx)
	}), order("crowd", func(ctx context.Context, text string) error {
		var c bench.Crowd
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			return err
		}
		return c.Be(ctx)
	}), order("rows", func(_ context.Context, text string) error {
		var o bench.Rows
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			return err
		}
		return o.Write()
	}))
	return root
}

// order is a command for a process of the bench's own, which takes its order as JSON.
func order(name string, carryOut func(ctx context.Context, text string) error) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: "A process that a bench starts", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return carryOut(cmd.Context(), args[0]) },
	}
}

func measure(ctx context.Context, c bench.Config, out string) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	c.Self = []string{self}
	for _, dir := range []string{filepath.Dir(out), c.Profiles} {
		if dir != "" {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
	}
	mode := os.O_TRUNC
	if len(c.Only) > 0 {
		mode = os.O_APPEND // what the other benches gave stays
	}
	file, err := os.OpenFile(out, os.O_CREATE|os.O_WRONLY|mode, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	c.Lines = io.MultiWriter(os.Stdout, file)
	return bench.Run(ctx, c)
}
