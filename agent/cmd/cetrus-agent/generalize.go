package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/agent"
)

// generalizeCommand makes an image clean before it is copied.
func generalizeCommand(s *settings) *cobra.Command {
	discard := false
	command := &cobra.Command{
		Use: "generalize", Short: "Make this machine fit to be copied: forget who the agent is, as the last step before an image is sealed", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			removed, err := agent.Generalize(s.dataDir, discard)
			if err != nil {
				return fmt.Errorf("generalize: %w", err)
			}
			if removed {
				fmt.Fprintln(cmd.OutOrStdout(), "forgotten:", s.dataDir)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "this machine can be copied; the agent must not start here before that, as it would begin anew")
			return nil
		},
	}
	command.Flags().BoolVar(&discard, "discard", false, "also where records wait that no Manager has")
	return command
}
