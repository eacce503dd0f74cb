package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/agent/enroll"
)

// maxTokenText is more than a token has.
const maxTokenText = 1024

// enrollCommand lays a token ready in the data folder, which others cannot read.
func enrollCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "enroll [TOKEN]",
		Short: "Lay a Manager's enrolment token ready for the agent, which removes it once it is used; without TOKEN it is read from standard input",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text := strings.Join(args, "")
			if len(args) == 0 {
				read, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxTokenText+1))
				if err != nil {
					return fmt.Errorf("enroll: read the token: %w", err)
				}
				text = string(read)
			}
			if len(text) > maxTokenText {
				return errors.New("enroll: that is no enrolment token: it is too long")
			}
			if err := s.layToken(strings.TrimSpace(text)); err != nil {
				return fmt.Errorf("enroll: %w", err)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "the agent enrols by it when it next connects; `cetrus-agent status` tells")
			return nil
		},
	}
}

// layToken lays a token ready for the agent of the data folder.
func (s *settings) layToken(text string) error {
	if err := s.prepareDataDir(); err != nil {
		return err
	}
	return enroll.PutToken(s.dataDir, text)
}
