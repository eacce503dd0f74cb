package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/tools/images"
)

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := command(os.Stdout, os.Stderr)
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "cetrus-images: %v\n", err)
		return 1
	}
	return 0
}

func command(out, progress io.Writer) *cobra.Command {
	c := images.Config{Progress: progress}
	var created int64
	root := &cobra.Command{
		Use: "cetrus-images [image...]", Short: "Make the container images that are released, without a daemon or a registry",
		Long: "Makes the images named, or all of them, each for all processors, and prints the digest, the file and the name of each.",
		Args: cobra.ArbitraryArgs, SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, names []string) error {
			c.Created = time.Unix(created, 0).UTC()
			return build(cmd.Context(), c, names, out)
		},
	}
	flags := root.Flags()
	flags.StringVar(&c.Root, "root", ".", "folder of the sources")
	flags.StringVar(&c.Out, "out", "out/images", "folder that takes the images")
	flags.StringVar(&c.Version, "version", "", "version of what is built")
	flags.StringVar(&c.Revision, "revision", "", "commit that it is built from")
	flags.Int64Var(&created, "created", 0, "time of all that is in an image, in seconds since 1970: that of the commit")
	flags.StringSliceVar(&c.Architectures, "architectures", images.Architectures(), "processors to build for")
	flags.StringVar(&c.BillOfMaterials, "bill-of-materials", "", "the program cyclonedx-gomod")
	for _, name := range []string{"version", "revision", "created", "bill-of-materials"} {
		if err := root.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined above
		}
	}
	return root
}

func build(ctx context.Context, c images.Config, names []string, out io.Writer) error {
	var failures []error
	for _, path := range []*string{&c.Root, &c.Out, &c.BillOfMaterials} {
		absolute, err := filepath.Abs(*path)
		failures = append(failures, err)
		*path = absolute
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	all := images.Released()
	for _, name := range names {
		if !slices.ContainsFunc(all, func(i images.Image) bool { return i.Name == name }) {
			var known []string
			for _, i := range all {
				known = append(known, i.Name)
			}
			return fmt.Errorf("there is no image %q; there are %s", name, strings.Join(known, ", "))
		}
	}
	for _, image := range all {
		if len(names) > 0 && !slices.Contains(names, image.Name) {
			continue
		}
		built, err := images.Build(ctx, c, image)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "%s  %s  %s\n", built.Digest, built.File, built.Name); err != nil {
			return err
		}
	}
	return nil
}
