package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/audit"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/services/platform/postgres"
)

// auditPart is the audit log.
var auditPart = part{
	name: "audit",
	start: func(ctx context.Context, p *process) (_ runner, err error) {
		nc, database, open, err := p.stand(ctx, natsserver.Identity, "audit")
		if err != nil {
			return nil, err
		}
		defer func() {
			if err != nil {
				open.close()
			}
		}()
		cfg := audit.StoreConfig()
		cfg.URL, cfg.Logger = database, p.log
		if err := p.awaitTables(ctx, database, cfg); err != nil {
			return nil, err
		}
		store, err := postgres.Open(ctx, cfg)
		if err != nil {
			return nil, err
		}
		open = append(open, store.Close)
		service, err := audit.New(audit.Deps{Instance: p.settings.instance, NATS: nc, Store: store, Keys: p.names, Logger: p.log})
		if err != nil {
			return nil, err
		}
		p.services = append(p.services, service)
		return func(ctx context.Context) error {
			defer open.close()
			return service.Run(ctx)
		}, nil
	},
}

// auditCommand is what an operator asks of the audit log.
func auditCommand(stdout io.Writer) *cobra.Command {
	var s settings
	var accountID, known string
	verify := &cobra.Command{
		Use:   "verify",
		Short: "Compare an account's audit log with the event log; names the first entry that differs, and ends with an error then",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Load(cmd.Flags()); err != nil {
				return err
			}
			head, err := parseHead(known)
			if err != nil {
				return err
			}
			return s.logged(cmd.Context(), "audit", func(log *slog.Logger) error {
				return s.verifyAudit(cmd.Context(), stdout, log, accountID, head)
			})
		},
	}
	s.flags(verify.Flags())
	verify.Flags().StringVar(&accountID, "account-id", "", "account to look at; default: that of the data directory")
	verify.Flags().StringVar(&known, "known", "", "head of the chain that an earlier run printed, as position:link: the log must still hold it")
	return group("audit", "Look after the audit log", verify)
}

func parseHead(text string) (audit.Head, error) {
	if text == "" {
		return audit.Head{}, nil
	}
	position, link, found := strings.Cut(text, ":")
	n, err := strconv.ParseInt(position, 10, 64)
	if err != nil || !found || link == "" {
		return audit.Head{}, errs.As(errs.Invalid, "cetrus", "known "+text, "is no head of a chain: write it as `cetrus audit verify` has printed it, position:link", cmp.Or(err, errors.New("no link")))
	}
	return audit.Head{Position: n, Link: link}, nil
}

func (s *settings) verifyAudit(ctx context.Context, stdout io.Writer, log *slog.Logger, accountID string, known audit.Head) error {
	account, err := s.accountNamed(accountID)
	if err != nil {
		return err
	}
	nc, err := s.connectToRunning(ctx)
	if err != nil {
		return err
	}
	defer nc.Close()
	database, err := s.reachedDatabase(ctx, log)
	if err != nil {
		return err
	}
	v, err := verifyAudit(ctx, nc, database, account, known)
	if err != nil {
		return err
	}
	if v.Entries == 0 && v.Difference == "" {
		return errs.New(errs.Precondition, "cetrus", "account "+account.String(), "nothing is in the event log of it: is that its id?")
	}
	if v.Difference != "" {
		return errs.New(errs.Precondition, "cetrus", "audit log of account "+account.String(), "differs: "+v.Difference)
	}
	_, err = fmt.Fprintf(stdout, "The audit log of account %s is as the event log has it: %d entries.\nIts head is %d:%s\nKeep that elsewhere, and give it as --known later: it shows that the event log itself is the same.\n",
		account, v.Entries, v.Head.Position, v.Head.Link)
	return err
}

func verifyAudit(ctx context.Context, nc *nats.Conn, database string, account contract.ID, known audit.Head) (audit.Verified, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return audit.Verified{}, errs.Wrap("cetrus", "", err)
	}
	cfg := audit.StoreConfig()
	cfg.URL = database
	store, err := postgres.Open(ctx, cfg)
	if err != nil {
		return audit.Verified{}, err
	}
	defer store.Close()
	return audit.Verify(ctx, js, store, account, known)
}

func (s *settings) accountNamed(id string) (contract.ID, error) {
	if id == "" {
		keys, err := authn.Load(filepath.Join(s.credentials(), authn.AccountFile))
		if err != nil {
			return contract.ID{}, errs.As(errs.Precondition, "cetrus", "data directory "+s.dataDir, "names no account: give --account-id, or another --data-dir", err)
		}
		return keys.Account(), nil
	}
	account, err := contract.ParseID(id)
	return account, errs.As(errs.Invalid, "cetrus", "account-id "+id, "is no UUID", err)
}

// reachedDatabase is runningDatabase once the server answers, for which it waits a while.
func (s *settings) reachedDatabase(ctx context.Context, log *slog.Logger) (string, error) {
	database, err := s.runningDatabase()
	if err != nil {
		return "", err
	}
	if err := postgres.Reach(ctx, database, cmp.Or(s.postgresWithin, databaseWithin), log); err != nil {
		return "", errs.As(errs.Unavailable, "cetrus", "PostgreSQL", "start it, or correct --postgres-url or "+config.EnvName("postgres-url"), err)
	}
	return database, nil
}

// runningDatabase is the URL of the PostgreSQL server of a platform that runs.
func (s *settings) runningDatabase() (string, error) {
	url := s.postgresURL
	for _, target := range []string{"all", "postgres"} {
		if url != "" {
			break
		}
		running, err := addressesOf(s.dataDir, target)
		if err != nil {
			return "", err
		}
		url = running.PostgresURL
	}
	if url == "" {
		return "", errs.New(errs.Precondition, "cetrus", "data directory "+s.dataDir, "no PostgreSQL runs on it: start that, or name another with --data-dir or --postgres-url")
	}
	return url, nil
}
