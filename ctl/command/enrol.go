package command

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/enrollment"

	"github.com/cetrus/cetrus/ctl/manifest"
	"github.com/cetrus/cetrus/ctl/table"
)

// asking is the question of a command that has no flags of lists.
func (s *session) asking(c *cobra.Command) (*question, error) {
	a, err := s.api()
	return &question{ctx: c.Context(), s: s, a: a}, err
}

// sure asks whether something is to be done, unless --yes says so.
func (s *session) sure(c *cobra.Command, yes bool, text string) error {
	if yes {
		return nil
	}
	if _, is := terminal(s.In); !is {
		return usagef("there is no terminal to ask at: give --yes")
	}
	answer, err := s.asker(false).line(c.Context(), text+" [y/N]")
	if err != nil {
		return err
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}

// paste writes how to install something, and the token by itself last.
func (s *session) paste(installs []enrollment.Install, token string, only bool) error {
	if only {
		_, err := fmt.Fprintln(s.Out, token)
		return err
	}
	for _, i := range installs {
		if _, err := fmt.Fprintf(s.Out, "# %s. %s\n%s\n\n", i.System, i.How, i.Text); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(s.Out, "# The token alone. Keep it now, it is not shown again.\n%s\n", token)
	return err
}

func (s *session) enrolCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "enrol", Aliases: []string{"enroll"}, Short: "Let agents in: tokens, and commands to paste",
		Example: "  cetrusctl enrol create --manager Prague --uses 50 --expires 30d\n  cetrusctl enrol list\n  cetrusctl enrol revoke 'Room 12'",
	}
	c.AddCommand(s.enrolCreateCommand(), tokenList(s), s.enrolRevokeCommand())
	return c
}

// tokenList is the list of tokens, where people look for it.
func tokenList(s *session) *cobra.Command {
	r := tokensResource()
	r.name, r.aliases = "list", []string{"ls"}
	return r.command(s)
}

func (s *session) enrolCreateCommand() *cobra.Command {
	var manager, name, expires, address string
	var uses int32
	var only bool
	c := &cobra.Command{
		Use: "create", Short: "Make an enrolment token, and write commands that install agents with it",
		Long: `Makes a token that lets agents in at a Manager's site, and writes ready commands for Windows and Linux.
Whoever has the token can add agents to the site until it is used up, expires or is revoked, and can read
nothing. It is shown this once.`,
		Example: "  cetrusctl enrol create --manager Prague --uses 50 --expires 30d --name 'Room 12'\n  cetrusctl enrol create --uses 1 --token-only > token",
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			q, err := s.asking(c)
			if err != nil {
				return err
			}
			var at *identityv1.Manager
			known := 0
			if err := eachManager(q, manager, func(m *identityv1.Manager) error {
				known, at = known+1, m
				return nil
			}); err != nil {
				return err
			}
			switch {
			case known == 0:
				return errors.New("there is no Manager yet: cetrusctl managers create NAME")
			case known > 1:
				return usagef("there are %d Managers: say which with --manager", known)
			}
			token := &identityv1.EnrollmentToken{DisplayName: name, MaxUses: uses}
			if expires != "" {
				d, err := manifest.ParseDuration(expires)
				if err != nil {
					return usagef("--expires: %w", err)
				}
				token.ExpireTime = stamp(s.Now().Add(d))
			}
			if address == "" && !only {
				got, err := q.a.settings.GetSettings(q.ctx, &meteringv1.GetSettingsRequest{})
				if err != nil {
					return err
				}
				if all := got.GetSettings().GetManagers(); len(all) > 0 {
					address = all[0]
				}
			}
			to, ok := enrollment.ManagerAddress(address)
			if !ok && !only {
				return usagef("say with --address where agents reach the Manager, as manager.example.com:10041 (the account's settings name none), or take --token-only")
			}
			answer, err := q.a.enrolments.CreateEnrollmentToken(q.ctx, &identityv1.CreateEnrollmentTokenRequest{ManagerId: at.GetManagerId(), EnrollmentToken: token})
			if err != nil {
				return err
			}
			made := answer.GetEnrollmentToken()
			fmt.Fprintf(s.Err, "A token of %s for %s, until %s.\n", table.Clean(cmp.Or(at.GetDisplayName(), at.GetManagerId())),
				plural(int(made.GetMaxUses()), "agent", "agents"), cell(made.GetExpireTime(), s.zone(q.ctx), false))
			return s.paste(enrollment.InstallAgent(to, answer.GetToken()), answer.GetToken(), only)
		},
	}
	c.Flags().StringVar(&manager, "manager", "", "whose site it is for; may be left out where there is one")
	c.Flags().StringVar(&name, "name", "", "what the token is for; it should name nobody")
	c.Flags().Int32Var(&uses, "uses", 1, "how many agents it admits")
	c.Flags().StringVar(&expires, "expires", "", "in how long it expires, as 30d; a week where not given")
	c.Flags().StringVar(&address, "address", "", "where agents reach the Manager, as manager.example.com:10041")
	c.Flags().BoolVar(&only, "token-only", false, "write the token alone")
	must(c.RegisterFlagCompletionFunc("manager", completeNames(s, managersResource)))
	return c
}

func (s *session) enrolRevokeCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "revoke TOKEN", Short: "Have a token admit nobody any more, by its name or id; who is enrolled goes on",
		Example: "  cetrusctl enrol revoke 'Room 12'",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: firstArgument(completeNames(s, tokensResource())),
		RunE: func(c *cobra.Command, args []string) error {
			q, err := s.asking(c)
			if err != nil {
				return err
			}
			found, err := tokensResource().find(q, args)
			if err != nil {
				return err
			}
			if len(found) > 1 {
				return usagef("%d tokens are called %q: name one by its id (enrol list -o wide)", len(found), args[0])
			}
			answer, err := q.a.enrolments.RevokeEnrollmentToken(q.ctx, &identityv1.RevokeEnrollmentTokenRequest{
				ManagerId: found[0].GetManagerId(), EnrollmentTokenId: found[0].GetEnrollmentTokenId(), RequestId: uuid.NewString(),
			})
			if err != nil {
				return err
			}
			said := "The token admits nobody any more."
			if answer.GetEnrollmentToken().GetPending() {
				said = "The token admits nobody any more, as soon as its Manager hears of it."
			}
			_, err = fmt.Fprintln(s.Err, said)
			return err
		},
	}
	return c
}

// firstArgument completes one argument and no more.
func firstArgument(complete func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective)) func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(c, args, word)
	}
}

func (s *session) agentsCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "agents", Short: "Keep agents out, let them in again, or leave them out of lists",
		Long:    "Keeps agents out, lets them in again, or leaves them out of lists. cetrusctl get agents lists them.",
		Example: "  cetrusctl agents revoke ws-07\n  cetrusctl agents readmit ws-07",
	}
	agent := func(use, short, question, done string, flags func(*cobra.Command), do func(q *question, id string) (pending int, err error)) *cobra.Command {
		var yes bool
		c := &cobra.Command{
			Use: use + " AGENT", Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: firstArgument(completeNames(s, agentsResource())),
			Long: short + ".\n\nAGENT is its id, or the name of its machine where one agent alone has that.",
			RunE: func(c *cobra.Command, args []string) error {
				q, err := s.asking(c)
				if err != nil {
					return err
				}
				id, err := one(q, agentsResource(), args[0], (*meteringv1.Agent).GetAgentId)
				if err != nil {
					return err
				}
				if err := s.sure(c, yes, fmt.Sprintf(question, table.Clean(args[0]))); err != nil {
					return err
				}
				pending, err := do(q, id)
				if err != nil {
					return err
				}
				if pending > 0 {
					done += fmt.Sprintf(" %s have not told yet that they go by it.", plural(pending, "Manager", "Managers"))
				}
				_, err = fmt.Fprintln(s.Err, done)
				return err
			},
		}
		c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
		if flags != nil {
			flags(c)
		}
		return c
	}
	var copies bool
	c.AddCommand(
		agent("revoke", "Keep an agent out, whichever Manager it comes to", "Keep %s out, whichever Manager it comes to?", "It is kept out.",
			func(c *cobra.Command) {
				c.Flags().BoolVar(&copies, "copies", false, "also agents that enrolled by its certificate, as copied machines do")
			},
			func(q *question, id string) (int, error) {
				answer, err := q.a.admissions.RevokeAgent(q.ctx, &identityv1.RevokeAgentRequest{AgentId: id, Copies: copies, RequestId: uuid.NewString()})
				return len(answer.GetAgentAdmission().GetPendingManagerIds()), err
			}),
		agent("readmit", "Let an agent enrol again under its id, with a new token", "Let %s enrol again?", "It may enrol again, with a new token (cetrusctl enrol create).", nil,
			func(q *question, id string) (int, error) {
				answer, err := q.a.admissions.ReadmitAgent(q.ctx, &identityv1.ReadmitAgentRequest{AgentId: id, RequestId: uuid.NewString()})
				return len(answer.GetAgentAdmission().GetPendingManagerIds()), err
			}),
		agent("remove", "Leave an agent out of lists until it is heard of again, as where its machine is gone", "Leave %s out of lists until it is heard of again?", "It is left out until it is heard of again; what was measured stays.", nil,
			func(q *question, id string) (int, error) {
				_, err := q.a.agents.RemoveAgent(q.ctx, &meteringv1.RemoveAgentRequest{AgentId: id, RequestId: uuid.NewString()})
				return 0, err
			}),
	)
	return c
}

func (s *session) managersCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "managers", Short: "Make room for Managers, give them new tokens, cut them off",
		Long:    "Makes room for Managers, gives them new tokens, and cuts them off. cetrusctl get managers lists them.",
		Example: "  cetrusctl managers create Prague\n  cetrusctl managers renew-token Prague\n  cetrusctl managers revoke Prague",
	}
	var only, yes bool
	// shown writes how the Manager is set up that a token is for.
	shown := func(token string) error {
		server := cmp.Or(s.flags.server, s.Env("CETRUS_SERVER"))
		if s.at != nil {
			server = s.at.Server
		}
		fmt.Fprintln(s.Err, "The token admits one Manager, once, within a week.")
		return s.paste(enrollment.InstallManager(strings.TrimSuffix(server, "/"), token), token, only)
	}
	create := &cobra.Command{
		Use: "create NAME", Short: "Make room for a site's Manager, and write commands that install it", Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(c *cobra.Command, args []string) error {
			q, err := s.asking(c)
			if err != nil {
				return err
			}
			answer, err := q.a.managers.CreateManager(q.ctx, &identityv1.CreateManagerRequest{Manager: &identityv1.Manager{DisplayName: args[0]}})
			if err != nil {
				return err
			}
			return shown(answer.GetToken())
		},
	}
	renew := &cobra.Command{
		Use: "renew-token MANAGER", Short: "Make another token for a Manager that has lost its key, or never came", Args: cobra.ExactArgs(1), ValidArgsFunction: firstArgument(completeNames(s, managersResource)),
		RunE: func(c *cobra.Command, args []string) error {
			q, err := s.asking(c)
			if err != nil {
				return err
			}
			id, err := one(q, managersResource, args[0], (*identityv1.Manager).GetManagerId)
			if err != nil {
				return err
			}
			answer, err := q.a.managers.RenewManagerToken(q.ctx, &identityv1.RenewManagerTokenRequest{ManagerId: id})
			if err != nil {
				return err
			}
			return shown(answer.GetToken())
		},
	}
	for _, c := range []*cobra.Command{create, renew} {
		c.Flags().BoolVar(&only, "token-only", false, "write the token alone")
	}
	revoke := &cobra.Command{
		Use: "revoke MANAGER", Short: "Cut a Manager off, within moments and for ever", Args: cobra.ExactArgs(1), ValidArgsFunction: firstArgument(completeNames(s, managersResource)),
		Long: "Cuts a Manager off, within moments and for ever. What it has not forwarded stays in its buffer, and with\nits agents, which send nothing until they have another Manager.",
		RunE: func(c *cobra.Command, args []string) error {
			q, err := s.asking(c)
			if err != nil {
				return err
			}
			id, err := one(q, managersResource, args[0], (*identityv1.Manager).GetManagerId)
			if err != nil {
				return err
			}
			if err := s.sure(c, yes, fmt.Sprintf("Cut %s off, for ever?", table.Clean(args[0]))); err != nil {
				return err
			}
			if _, err := q.a.managers.RevokeManager(q.ctx, &identityv1.RevokeManagerRequest{ManagerId: id, RequestId: uuid.NewString()}); err != nil {
				return err
			}
			_, err = fmt.Fprintln(s.Err, "The Manager is cut off.")
			return err
		},
	}
	revoke.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.AddCommand(create, renew, revoke)
	return c
}
