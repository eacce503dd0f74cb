package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/tools/cluster"
	"github.com/cetrus/cetrus/tools/cluster/node"
	"github.com/cetrus/cetrus/tools/cluster/parts"
)

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := command()
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "cetrus-cluster: %v\n", err)
		return 1
	}
	return 0
}

func command() *cobra.Command {
	c := cluster.Config{Parts: []string{parts.Postgres, parts.S3}, Progress: os.Stdout}
	var network string
	root := &cobra.Command{
		Use: "cetrus-cluster [flags] [IMAGE.tar ...]", Short: "Run a Kubernetes of one node on this machine until interrupted",
		Args:         cobra.ArbitraryArgs,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, images []string) error {
			if network != "" {
				var err error
				if c.Network, err = netip.ParsePrefix(network); err != nil {
					return fmt.Errorf("--network: %w", err)
				}
			}
			c.Images = images
			return serve(cmd.Context(), c)
		},
	}
	root.Flags().StringVar(&c.Dir, "dir", ".cluster", "where it keeps everything; removed at the end")
	root.Flags().StringVar(&c.Bin, "bin", "bin", "where the programs are")
	root.Flags().StringVar(&network, "network", "", "a private network of 16 bits (default: the first free from 10.97.0.0/16)")
	root.AddCommand(nodeCommand())
	return root
}

func serve(ctx context.Context, config cluster.Config) error {
	c, err := cluster.Start(ctx, config)
	if err != nil {
		return err
	}
	_, _ = fmt.Fprintf(config.Progress, "\n  export KUBECONFIG=%s PATH=%s:$PATH\n\nCtrl-C ends it and removes everything.\n", c.Kubeconfig, config.Bin)
	select {
	case <-ctx.Done():
		_, _ = fmt.Fprintln(config.Progress, "==> stopping")
	case <-c.Done():
		err = fmt.Errorf("the cluster ended by itself: %w; its logs were in %s", c.Err(), c.Logs)
	}
	return errors.Join(err, c.Stop())
}

// nodeCommand is process 1 of a node, and the one that starts the others there.
func nodeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "node DIR", Short: "Be a node (started by cetrus-cluster in its own namespaces)", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error { return node.First(args[0]) },
	}
	cmd.AddCommand(&cobra.Command{
		Use: "parts", Short: "Start what a node consists of", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return node.Run(cmd.Context(), os.Stdout) },
	})
	return cmd
}
