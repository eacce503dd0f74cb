package command

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"

	"github.com/cetrus/cetrus/ctl/contexts"
	"github.com/cetrus/cetrus/ctl/table"
)

func (s *session) contextCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "context", Aliases: []string{"contexts"}, Short: "Choose among the servers and accounts that you are signed in to",
		Example: "  cetrusctl context list\n  cetrusctl context use acme@cetrus.example.com\n  cetrusctl --context test get agents",
	}
	c.AddCommand(
		&cobra.Command{
			Use: "list", Aliases: []string{"ls"}, Short: "List contexts; * marks the current one", Args: cobra.NoArgs,
			RunE: func(*cobra.Command, []string) error { return s.listContexts() },
		},
		&cobra.Command{
			Use: "use NAME", Short: "Make a context the current one", Args: cobra.ExactArgs(1), ValidArgsFunction: s.completeContexts,
			RunE: func(c *cobra.Command, args []string) error {
				return s.changeContexts(c, func(state *contexts.State) error {
					if state.Context(args[0]) == nil {
						return usagef("there is no context %q: `cetrusctl context list` lists them", args[0])
					}
					state.Current = args[0]
					return nil
				})
			},
		},
		&cobra.Command{
			Use: "remove NAME", Aliases: []string{"rm"}, Short: "Forget a context; log out of it first", Args: cobra.ExactArgs(1), ValidArgsFunction: s.completeContexts,
			RunE: func(c *cobra.Command, args []string) error {
				return s.changeContexts(c, func(state *contexts.State) error {
					at := state.Context(args[0])
					if at == nil {
						return usagef("there is no context %q: `cetrusctl context list` lists them", args[0])
					}
					if at.Session != nil && at.Session.RefreshUntil.After(s.Now()) {
						return fmt.Errorf("its session goes on at the server: `cetrusctl logout --context %s` first", args[0])
					}
					state.Remove(args[0])
					if state.Current == args[0] {
						state.Current = ""
					}
					return nil
				})
			},
		},
	)
	return c
}

func (s *session) changeContexts(c *cobra.Command, change func(*contexts.State) error) error {
	file, err := s.open()
	if err != nil {
		return err
	}
	return file.Update(c.Context(), change)
}

func (s *session) listContexts() error {
	file, err := s.open()
	if err != nil {
		return err
	}
	state, err := file.Read()
	if err != nil {
		return err
	}
	if len(state.Contexts) == 0 {
		return errors.New("there are no contexts: `cetrusctl login https://cetrus.example.com` makes one in " + file.Path())
	}
	width, _ := terminal(s.Out)
	w := table.New(s.Out, width, true, []table.Column{{Title: ""}, {Title: "NAME", Flex: true}, {Title: "SERVER"}, {Title: "ACCOUNT", Flex: true}, {Title: "LOGIN", Flex: true}, {Title: "SESSION"}})
	var rows [][]string
	for _, c := range state.Contexts {
		mark, until := "", "none"
		if c.Name == state.Current {
			mark = "*"
		}
		if c.Session != nil {
			until = "until " + c.Session.RefreshUntil.Local().Format(minuteLayout)
			if !c.Session.RefreshUntil.After(s.Now()) {
				until = "over"
			}
		}
		rows = append(rows, []string{mark, c.Name, c.Server, c.Account, c.Login, until})
	}
	return w.Write(rows)
}

func (s *session) completeContexts(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
	file, err := s.open()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	state, err := file.Read()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, c := range state.Contexts {
		names = append(names, c.Name)
	}
	return narrowed(names, word), cobra.ShellCompDirectiveNoFileComp
}

func (s *session) whoamiCommand() *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Tell who you are at the server, and what you may do", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := s.api()
			if err != nil {
				return err
			}
			account, err := a.account.GetAccount(c.Context(), &identityv1.GetAccountRequest{})
			if err != nil {
				return err
			}
			login, err := a.logins.GetMyLogin(c.Context(), &identityv1.GetMyLoginRequest{})
			name := login.GetLogin().GetName()
			var may []string
			if status.Code(err) == codes.NotFound {
				// The key that the platform makes for itself at its first start.
				name, may, err = "none: this key belongs to the account itself, as who runs the platform has it", []string{"all"}, nil
			}
			if err != nil {
				return err
			}
			server := s.Env("CETRUS_SERVER")
			if s.at != nil {
				server = s.at.Server
			} else if s.flags.server != "" {
				server = s.flags.server
			}
			for _, p := range login.GetLogin().GetPrivileges() {
				may = append(may, enumWord(p))
			}
			_, err = fmt.Fprintf(s.Out, "server      %s\naccount     %s\nlogin       %s\nprivileges  %s\n", server,
				table.Clean(account.GetAccount().GetName()), table.Clean(name), strings.Join(may, ", "))
			return err
		},
	}
}
