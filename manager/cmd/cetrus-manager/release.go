package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/manager/releases"
)

// releaseCommand gives orders about the releases of a running Manager.
func releaseCommand() *cobra.Command {
	root := &cobra.Command{Use: "release", Short: "Say which releases of the agent and of plug-ins this Manager's agents are offered"}
	list := command("list", "Tell which releases there are, and how many agents are offered each", listReleases)
	add := &cobra.Command{
		Use: "add FILE", Short: "Take a signed release in, and offer it to the first wave of agents", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := load(c.Flags())
			if err != nil {
				return err
			}
			return addRelease(c, s, args[0])
		},
	}
	root.AddCommand(list, add)
	for verb, short := range map[string]string{
		"withdraw": "Stop offering a release, and remove it; agents that run it go on with it",
		"hold":     "Offer a release to nobody else for now",
		"go-on":    "Offer a release again that was held, whatever failed until now",
	} {
		root.AddCommand(&cobra.Command{
			Use: verb + " FILE", Short: short, Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				s, err := load(c.Flags())
				if err != nil {
					return err
				}
				_, err = order(c.Context(), s, 0, "/api/v1/releases/"+url.PathEscape(args[0])+"/"+verb, nil)
				return err
			},
		})
	}
	return root
}

func listReleases(c *cobra.Command, s settings) error {
	answer, err := ask(c.Context(), s, "/api/v1/releases")
	if err != nil {
		return err
	}
	var list []releases.Release
	if err := json.Unmarshal(answer, &list); err != nil {
		return fmt.Errorf("the answer cannot be read: %w", err)
	}
	table := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "FILE\tVERSION\tOFFERED TO\tWELL\tFAILED\t")
	for _, r := range list {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%d %%\t%d\t%d\t%s\n", r.File, r.Version, r.Percent, r.Healthy, r.Failed, r.Held)
	}
	return table.Flush()
}

func addRelease(c *cobra.Command, s settings, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	answer, err := order(c.Context(), s, 0, "/api/v1/releases", f)
	if err != nil {
		return err
	}
	var added releases.Release
	if err := json.Unmarshal(answer, &added); err != nil {
		return fmt.Errorf("the answer cannot be read: %w", err)
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "%s: %v is offered to %d %% of its agents\n", added.File, added.Manifest, added.Percent)
	return err
}
