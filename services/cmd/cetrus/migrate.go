package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/services/identity"
	"github.com/cetrus/cetrus/services/identity/audit"
	"github.com/cetrus/cetrus/services/metering"
	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/postgres"
)

// tables are those of all services.
func tables() []postgres.Config {
	return []postgres.Config{
		keyring.StoreConfig(),
		identity.ViewsConfig(), identity.SecretsConfig(), audit.StoreConfig(),
		metering.ViewsConfig(), metering.SecretsConfig(), metering.FilesConfig(),
	}
}

// migrateCommand brings all tables up to date, for services that run with migrate off.
func migrateCommand(stdout io.Writer) *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use: "migrate", Short: "Bring the tables of all services up to date, and end", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Load(cmd.Flags()); err != nil {
				return err
			}
			url, err := s.runningDatabase()
			if err != nil {
				return err
			}
			return s.logged(cmd.Context(), "migrate", func(log *slog.Logger) error { return migrateAll(cmd.Context(), url, log, stdout) })
		},
	}
	s.flags(cmd.Flags())
	return cmd
}

func migrateAll(ctx context.Context, url string, log *slog.Logger, stdout io.Writer) error {
	for _, cfg := range tables() {
		cfg.URL, cfg.Logger = url, log
		if err := postgres.RefuseNewer(ctx, cfg); err != nil {
			return err
		}
	}
	for _, cfg := range tables() {
		cfg.URL, cfg.Logger = url, log
		store, err := postgres.Open(ctx, cfg)
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintln(stdout, store.Schema+" is up to date.")
		store.Close()
	}
	return nil
}

// awaitTables waits until others have brought tables up to date, where this process is not to.
func (p *process) awaitTables(ctx context.Context, url string, configs ...postgres.Config) error {
	if p.settings.migrate {
		return nil
	}
	for _, cfg := range configs {
		cfg.URL, cfg.Logger = url, p.log
		if err := postgres.Await(ctx, cfg); err != nil {
			return err
		}
	}
	return nil
}
