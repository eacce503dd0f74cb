package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	"github.com/cetrus/cetrus/services/identity"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/config"
)

// adminWithin is how long an order about accounts may take: a password is hashed on purpose slowly.
const adminWithin = 30 * time.Second

// adminCommand does what an operator must be able to do when the console cannot be reached. It asks
// the platform that runs; nothing is changed behind its back.
func adminCommand(stdout io.Writer) *cobra.Command {
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(stdout, format, args...) }
	password := func(r identity.Report) {
		say("One-time password, to be changed at the first sign-in: %s\n", r.Password)
	}
	return group("admin", "Manage accounts, logins, API keys, Managers and agents of the platform that runs, when the console cannot be reached",
		adminOrder(adminUse{use: "accounts", short: "List all accounts", order: identity.OrderAccounts}, func(r identity.Report) error {
			table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(table, "ACCOUNT\tID\tMADE")
			for _, a := range r.Accounts {
				_, _ = fmt.Fprintf(table, "%s\t%s\t%s\n", a.Name, a.ID, a.Created.Format(time.RFC3339))
			}
			return table.Flush()
		}),
		adminOrder(adminUse{use: "create-account NAME", short: "Make an account and its first administrator, and print that one's one-time password", order: identity.OrderCreateAccount, named: true, login: "admin", person: true}, func(r identity.Report) error {
			for _, a := range r.Accounts {
				say("Account %s: %s\n", a.Name, a.ID)
			}
			password(r)
			return nil
		}),
		adminOrder(adminUse{use: "logins", short: "List the logins of an account", order: identity.OrderLogins, account: true}, func(r identity.Report) error {
			table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(table, "LOGIN\tNAME\tPRIVILEGES\tSTATE\tID")
			for _, l := range r.Logins {
				state := "enabled"
				if l.Disabled {
					state = "disabled"
				}
				_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", l.Name, l.DisplayName, strings.Join(privilegeWords(l.Privileges), ","), state, l.ID)
			}
			return table.Flush()
		}),
		adminOrder(adminUse{use: "create-login NAME", short: "Make a login, and print its one-time password", order: identity.OrderCreateLogin, account: true, named: true, person: true, privileges: true}, func(r identity.Report) error {
			for _, l := range r.Logins {
				say("Login %s: %s\n", l.Name, l.ID)
			}
			password(r)
			return nil
		}),
		adminOrder(adminUse{use: "disable-login NAME", short: "Switch a login off: it cannot sign in, its sessions have ended, and its keys do nothing until it is enabled", order: identity.OrderDisableLogin, account: true, named: true}, func(identity.Report) error {
			say("The login is disabled.\n")
			return nil
		}),
		adminOrder(adminUse{use: "enable-login NAME", short: "Switch a login on again, and with it the API keys that it had", order: identity.OrderEnableLogin, account: true, named: true}, func(identity.Report) error {
			say("The login is enabled, and its API keys that were not revoked and have not expired work again.\n")
			return nil
		}),
		adminOrder(adminUse{use: "reset-password NAME", short: "Give a login a one-time password, end its sessions, and print the password", order: identity.OrderResetPassword, account: true, named: true}, func(r identity.Report) error {
			password(r)
			return nil
		}),
		adminOrder(adminUse{use: "remove-second-factor NAME", short: "Take all second factors of a login away, for somebody who has lost theirs, and end its sessions", order: identity.OrderRemoveSecondFactor, account: true, named: true}, func(identity.Report) error {
			say("It has no second factor any more, and its sessions have ended.\n")
			return nil
		}),
		adminOrder(adminUse{use: "set-privileges NAME", short: "Give a login the privileges that are named, and take all others", order: identity.OrderSetPrivileges, account: true, named: true, privileges: true}, func(identity.Report) error {
			say("It has these privileges from now on.\n")
			return nil
		}),
		adminOrder(adminUse{use: "delete-login NAME", short: "Delete a login, its sessions and API keys, and forget it; this cannot be undone", order: identity.OrderDeleteLogin, account: true, named: true, forGood: true}, func(identity.Report) error {
			say("The login is deleted, and will be forgotten in a moment.\n")
			return nil
		}),
		adminOrder(adminUse{use: "end-sessions NAME", short: "End all sessions of a login", order: identity.OrderEndSessions, account: true, named: true}, func(identity.Report) error {
			say("Its sessions have ended.\n")
			return nil
		}),
		adminOrder(adminUse{use: "allow-passwords", short: "Let people of an account in by password again, where its identity provider only may let them in and does not", order: identity.OrderAllowPasswords, account: true}, func(identity.Report) error {
			say("Its people can sign in by password.\n")
			return nil
		}),
		adminOrder(adminUse{use: "create-key NAME", short: "Make an API key of a login, and print it; it is kept nowhere", order: identity.OrderCreateKey, account: true, named: true, privileges: true}, func(r identity.Report) error {
			say("%s\n", r.Key)
			return nil
		}),
		adminOrder(adminUse{use: "keys", short: "List the API keys of an account", order: identity.OrderKeys, account: true}, func(r identity.Report) error {
			table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(table, "KEY\tNAME\tEXPIRES\tSTATE\tLOGIN\tID")
			for _, k := range r.Keys {
				_, _ = fmt.Fprintf(table, "%s…\t%s\t%s\t%s\t%s\t%s\n", k.Prefix, k.DisplayName, k.Expires.Format(time.RFC3339), stateOf(k.Revoked, "good"), k.LoginID, k.ID)
			}
			return table.Flush()
		}),
		adminOrder(adminUse{use: "revoke-key ID", short: "End an API key for good", order: identity.OrderRevokeKey, account: true, byID: true}, func(identity.Report) error {
			say("The key is revoked.\n")
			return nil
		}),
		adminOrder(adminUse{use: "managers", short: "List the Managers of an account", order: identity.OrderManagers, account: true}, func(r identity.Report) error {
			table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(table, "MANAGER\tMADE\tSTATE\tID")
			for _, m := range r.Managers {
				state := "not enrolled"
				if m.Enrolled {
					state = "enrolled"
				}
				_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", m.DisplayName, m.Created.Format(time.RFC3339), stateOf(m.Revoked, state), m.ID)
			}
			return table.Flush()
		}),
		adminOrder(adminUse{use: "revoke-manager ID", short: "Shut a Manager out for good", order: identity.OrderRevokeManager, account: true, byID: true}, func(identity.Report) error {
			say("The Manager is revoked.\n")
			return nil
		}),
		adminOrder(adminUse{use: "revoke-agent ID", short: "Shut an agent, and copies of it, out at all Managers of an account", order: identity.OrderRevokeAgent, account: true, byID: true}, func(identity.Report) error {
			say("The agent is revoked: each Manager carries it out as soon as it hears of it.\n")
			return nil
		}),
		adminOrder(adminUse{use: "readmit-agent ID", short: "Let an agent that was shut out enrol again", order: identity.OrderReadmitAgent, account: true, byID: true}, func(identity.Report) error {
			say("The agent may enrol again.\n")
			return nil
		}),
		adminOrder(adminUse{use: "announce-maintenance", short: "Tell the administrators of all accounts, or of one, by mail when Cetrus cannot be used; given again, it tells those whom it had not reached", order: identity.OrderAnnounceMaintenance, maintenance: true}, func(r identity.Report) error {
			say("%d administrators are told; %d had been told before.\n", r.Told, r.ToldBefore)
			if len(r.NoAddress) > 0 {
				say("%d have no mail address and are not told: %s.\n", len(r.NoAddress), strings.Join(r.NoAddress, ", "))
			}
			return nil
		}),
	)
}

// adminUse says which arguments an order takes.
type adminUse struct {
	use, short string
	order      identity.Order
	// named: it takes one name; account: it asks which account that is in.
	named, account bool
	// byID: it takes one id instead of a name.
	byID bool
	// forGood: it cannot be undone, and asks for --yes.
	forGood bool
	// login, where not empty, is the standard name of the login that is made too.
	login string
	// person: it makes a login, of a person who has a name and a mail address.
	person, privileges bool
	// maintenance: it takes a time, and an account only if it is for one.
	maintenance bool
}

func adminOrder(u adminUse, told func(identity.Report) error) *cobra.Command {
	var s settings
	var ask identity.Ask
	var privileges []string
	var starts, ends string
	var yes bool
	cmd := &cobra.Command{
		Use: u.use, Short: u.short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := config.Load(cmd.Flags()); err != nil {
				return err
			}
			switch {
			case u.byID:
				ask.ID = args[0]
			case u.named && u.account:
				ask.Login = args[0]
			case u.named:
				ask.Account = args[0]
			}
			if u.account && ask.Account == "" {
				return config.Problem("account", "", "name the account, or its id: `cetrus admin accounts` lists all")
			}
			if u.order == identity.OrderSetPrivileges && !cmd.Flags().Changed("privileges") {
				return config.Problem("privileges", "", `name all that it is to have; --privileges "" takes all`)
			}
			if u.forGood && !yes {
				return config.Problem("yes", "", "this cannot be undone: give the order again with --yes if it is meant")
			}
			var err error
			if u.maintenance {
				if ask.Starts, err = timeOf("from", starts); err != nil {
					return err
				}
				if ask.Ends, err = timeOf("until", ends); err != nil {
					return err
				}
			}
			if ask.Privileges, err = privilegesOf(privileges); err != nil {
				return err
			}
			nc, err := s.connectToRunning(cmd.Context())
			if err != nil {
				return err
			}
			defer nc.Close()
			report, err := giveAdmin(cmd.Context(), nc, u.order, ask)
			if err != nil {
				return err
			}
			return told(report)
		},
	}
	if u.named || u.byID {
		cmd.Args = cobra.ExactArgs(1)
	}
	if u.forGood {
		cmd.Flags().BoolVar(&yes, "yes", false, "it is meant")
	}
	s.operatorFlags(cmd.Flags())
	if u.account {
		cmd.Flags().StringVar(&ask.Account, "account", "", "the account's name or id")
	}
	if u.maintenance {
		cmd.Flags().StringVar(&ask.Account, "account", "", "the account's name or id; default: all")
		cmd.Flags().StringVar(&starts, "from", "", "when it begins, as 2026-12-01T20:00:00Z")
		cmd.Flags().StringVar(&ends, "until", "", "when it ends")
		cmd.Flags().StringVar(&ask.What, "what", "", "what is done, in a few words")
	}
	if u.login != "" {
		cmd.Flags().StringVar(&ask.Login, "administrator", u.login, "name of the account's first administrator")
	}
	if u.person {
		cmd.Flags().StringVar(&ask.MailAddress, "mail-address", "", "where mail to the login goes")
		cmd.Flags().StringVar(&ask.DisplayName, "display-name", "", "what the login's person is called")
	}
	if u.privileges {
		cmd.Flags().StringSliceVar(&privileges, "privileges", nil, "one or more of "+strings.Join(privilegeWords(authn.AllPrivileges().List()), ", "))
	}
	return cmd
}

func stateOf(revoked bool, otherwise string) string {
	if revoked {
		return "revoked"
	}
	return otherwise
}

func timeOf(setting, text string) (time.Time, error) {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, config.Problem(setting, text, "must be a time with its zone, as 2026-12-01T20:00:00Z or 2026-12-01T21:00:00+01:00")
	}
	return at, nil
}

func giveAdmin(ctx context.Context, nc *nats.Conn, order identity.Order, ask identity.Ask) (identity.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, adminWithin)
	defer cancel()
	return identity.Give(ctx, nc, order, ask)
}

// privilegeWord is a privilege as it is typed: account-administrator.
func privilegeWord(p authzv1.Privilege) string {
	return strings.ReplaceAll(strings.ToLower(authn.PrivilegeName(p)), " ", "-")
}

func privilegeWords(list []authzv1.Privilege) []string {
	var words []string
	for _, p := range list {
		words = append(words, privilegeWord(p))
	}
	return words
}

func privilegesOf(words []string) ([]authzv1.Privilege, error) {
	known := authn.AllPrivileges().List()
	var list []authzv1.Privilege
	for _, word := range words {
		at := slices.IndexFunc(known, func(p authzv1.Privilege) bool { return privilegeWord(p) == strings.ToLower(strings.TrimSpace(word)) })
		if at < 0 {
			return nil, config.Problem("privileges", word, "must be one or more of "+strings.Join(privilegeWords(known), ", "))
		}
		list = append(list, known[at])
	}
	return list, nil
}
