package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/manager"
	"github.com/cetrus/cetrus/manager/enroll"
)

// tokenCommand gives orders about enrolment tokens to a running Manager.
func tokenCommand() *cobra.Command {
	root := &cobra.Command{Use: "token", Short: "Make and revoke tokens by which agents enrol at this Manager"}
	var wanted manager.TokenOrder
	var valid time.Duration
	create := command("create", "Make a token and print it: it is told once, and whoever has it may enrol agents", func(c *cobra.Command, s settings) error {
		wanted.ValidSeconds = int64(valid / time.Second)
		body, err := json.Marshal(wanted)
		if err != nil {
			return err
		}
		answer, err := order(c.Context(), s, orderPatience, "/api/v1/tokens", bytes.NewReader(body))
		if err != nil {
			return err
		}
		var made manager.NewToken
		if err := json.Unmarshal(answer, &made); err != nil {
			return fmt.Errorf("the answer cannot be read: %w", err)
		}
		_, _ = fmt.Fprintf(c.ErrOrStderr(), "token %s is for %s, until %s\n", made.ID, agents(made.Uses), made.Expires.Format(time.RFC3339))
		_, err = fmt.Fprintln(c.OutOrStdout(), made.Text)
		return err
	})
	create.Flags().IntVar(&wanted.Uses, "uses", 1, fmt.Sprintf("how many agents it admits; at most %d", enroll.MaxUses))
	create.Flags().DurationVar(&valid, "valid", 7*24*time.Hour, "for how long")
	create.Flags().StringVar(&wanted.Label, "label", "", "what it is for, as a note to yourself")
	root.AddCommand(create,
		command("list", "Tell which tokens there are; the tokens themselves nobody knows any more", listTokens),
		&cobra.Command{
			Use: "revoke ID", Short: "Have a token admit nobody any more; agents that it admitted go on", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				s, err := load(c.Flags())
				if err != nil {
					return err
				}
				if _, err = order(c.Context(), s, orderPatience, "/api/v1/tokens/"+url.PathEscape(args[0])+"/revoke", nil); err == nil {
					_, _ = fmt.Fprintln(c.OutOrStdout(), "revoked: token", args[0])
				}
				return err
			},
		},
	)
	return root
}

func agents(n int) string {
	if n == 1 {
		return "1 agent"
	}
	return fmt.Sprintf("%d agents", n)
}

func listTokens(c *cobra.Command, s settings) error {
	answer, err := ask(c.Context(), s, "/api/v1/tokens")
	if err != nil {
		return err
	}
	var list []enroll.Token
	if err := json.Unmarshal(answer, &list); err != nil {
		return fmt.Errorf("the answer cannot be read: %w", err)
	}
	table := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "TOKEN\tUSED\tEXPIRES\tREVOKED\tMADE\tLABEL")
	for _, t := range list {
		made := "here"
		if t.Platform != "" {
			made = "at the platform, as " + t.Platform
		}
		_, _ = fmt.Fprintf(table, "%s\t%d of %d\t%s\t%s\t%s\t%s\n", t.ID, t.Used, t.Uses, day(t.Expires), day(t.Revoked), made, t.Label)
	}
	return table.Flush()
}

func day(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339)
}

// authorityCommand gives orders about the site's authority to a running Manager.
func authorityCommand() *cobra.Command {
	root := &cobra.Command{Use: "authority", Short: "Prepare for the end of the site's authority"}
	root.AddCommand(command("succeed", "Make the successor of the site's authority now, where there is none; agents hear of it as they connect", func(c *cobra.Command, s settings) error {
		answer, err := order(c.Context(), s, orderPatience, "/api/v1/authority/succeed", nil)
		if err != nil {
			return err
		}
		var made manager.Successor
		if err := json.Unmarshal(answer, &made); err != nil {
			return fmt.Errorf("the answer cannot be read: %w", err)
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), "the successor is good until", day(made.Until))
		return err
	}))
	return root
}

// agentCommand gives orders about enrolled agents to a running Manager.
func agentCommand() *cobra.Command {
	root := &cobra.Command{Use: "agent", Short: "Tell and revoke agents that are enrolled at this Manager"}
	copies := false
	revoke := &cobra.Command{
		Use: "revoke ID", Short: "End an agent: its connection is cut within seconds, and its certificate takes it nowhere any more", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := load(c.Flags())
			if err != nil {
				return err
			}
			answer, err := order(c.Context(), s, orderPatience, fmt.Sprintf("/api/v1/enrolled/%s/revoke?copies=%v", url.PathEscape(args[0]), copies), nil)
			if err != nil {
				return err
			}
			var ended []enroll.Agent
			if err := json.Unmarshal(answer, &ended); err != nil {
				return fmt.Errorf("the answer cannot be read: %w", err)
			}
			for _, a := range ended {
				_, _ = fmt.Fprintln(c.OutOrStdout(), "revoked:", a.Text, a.HostName)
			}
			return nil
		},
	}
	revoke.Flags().BoolVar(&copies, "copies", false, "and all that enrolled by its certificate, as copies of its disk do, and by theirs")
	root.AddCommand(revoke,
		command("list", "Tell which agents are enrolled, by what, and which were revoked", listAgents),
		&cobra.Command{
			Use: "readmit ID", Short: "Let an agent enrol again under its id, as one that was revoked or has lost its key; what it had signed before stays worthless", Args: cobra.ExactArgs(1),
			RunE: func(c *cobra.Command, args []string) error {
				s, err := load(c.Flags())
				if err != nil {
					return err
				}
				if _, err = order(c.Context(), s, orderPatience, "/api/v1/enrolled/"+url.PathEscape(args[0])+"/readmit", nil); err == nil {
					_, _ = fmt.Fprintf(c.OutOrStdout(), "readmitted: %s; give it a token, with which it enrols again\n", args[0])
				}
				return err
			},
		},
	)
	return root
}

func listAgents(c *cobra.Command, s settings) error {
	answer, err := ask(c.Context(), s, "/api/v1/enrolled")
	if err != nil {
		return err
	}
	var list []enroll.Agent
	if err := json.Unmarshal(answer, &list); err != nil {
		return fmt.Errorf("the answer cannot be read: %w", err)
	}
	table := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "AGENT\tHOST\tENROLLED\tBY\tVALID UNTIL\tREVOKED")
	for _, a := range list {
		by := "another Manager"
		switch {
		case a.Token != "":
			by = "token " + a.Token
		case a.CopyOf != "":
			by = "copy of " + a.CopyOf
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", a.Text, a.HostName, day(a.Enrolled), by, day(a.Until), revokedBy(a))
	}
	return table.Flush()
}

func revokedBy(a enroll.Agent) string {
	if a.Barred {
		return day(a.Revoked) + " at the platform"
	}
	return day(a.Revoked)
}

// maxTokenText is more than a token has.
const maxTokenText = 1024

// enrollCommand makes the platform know this Manager.
func enrollCommand() *cobra.Command {
	api, tokenFile, once := "", "", false
	c := &cobra.Command{
		Use: "enroll [TOKEN]", Short: "Enrol this Manager at the platform with the token that it was created with; without TOKEN it is read from standard input", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			s, err := load(c.Flags())
			if err != nil {
				return err
			}
			if once {
				account, enrolled, err := manager.Joined(s.DataDir)
				if err != nil {
					return err
				}
				if enrolled {
					_, err = fmt.Fprintf(c.OutOrStdout(), "The Manager of %s is enrolled already, for account %s\n", s.DataDir, account)
					return err
				}
			}
			token, err := enrolToken(c.InOrStdin(), args, tokenFile)
			if err != nil {
				return err
			}
			id, account, err := manager.Join(c.Context(), manager.JoinConfig{DataDir: s.DataDir, API: api, Token: token, Proxy: s.Proxy, CAFile: s.PlatformCAFile})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "Manager %s is enrolled, for account %s\n", id, account)
			return err
		},
	}
	c.Flags().StringVar(&api, "api", "", "the platform's REST address, as https://platform.example.com")
	c.Flags().StringVar(&tokenFile, "token-file", "", "file of the token")
	c.Flags().BoolVar(&once, "once", false, "do nothing where this Manager is enrolled already: for what runs before each start")
	return c
}

// enrolToken is the token as given, in the file, or on standard input.
func enrolToken(in io.Reader, args []string, file string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	if file != "" {
		opened, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("the token: %w", err)
		}
		defer opened.Close()
		in = opened
	}
	text, err := io.ReadAll(io.LimitReader(in, maxTokenText))
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	return string(text), nil
}
