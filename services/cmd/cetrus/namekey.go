package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/postgres"
)

// nameKeySettings say where the key is that wraps the keys of people's names, and what protects it.
type nameKeySettings struct {
	file                   string
	kms, tokenFile, caFile string
}

func (s *nameKeySettings) flags(fs *pflag.FlagSet) {
	fs.StringVar(&s.file, "name-key-file", "", "file of the key that wraps the keys of people's names; default: name-key in the data directory")
	fs.StringVar(&s.kms, "name-key-kms", "", "transit engine of HashiCorp Vault or OpenBao that protects that key, as https://HOST:PORT/MOUNT/KEY; without it the file alone does")
	fs.StringVar(&s.tokenFile, "name-key-kms-token-file", "", "file of the token for it, read each time that it is asked")
	fs.StringVar(&s.caFile, "name-key-kms-ca-file", "", "certificates by which it is known; default: the system's")
}

func (s *nameKeySettings) validate() error {
	if _, err := s.wrapper(); err != nil {
		return config.Problem("name-key-kms", "", errs.PublicOf(err).Message)
	}
	return nil
}

func (s *nameKeySettings) wrapper() (keyring.Wrapper, error) {
	if s.kms == "" {
		return keyring.InClear{}, nil
	}
	return keyring.NewTransit(keyring.TransitConfig{URL: s.kms, TokenFile: s.tokenFile, CAFile: s.caFile})
}

// nameKeyFile is the name of the file of the key, where it is not set.
const nameKeyFile = "name-key"

func (s *settings) nameKeyConfig() (keyring.Config, error) {
	file := cmp.Or(s.nameKey.file, filepath.Join(s.credentials(), nameKeyFile))
	if s.credentialsDir != "" {
		if _, err := os.Stat(file); err != nil {
			return keyring.Config{}, missingCredential(file, err)
		}
	}
	by, err := s.nameKey.wrapper()
	return keyring.Config{KeyFile: file, Given: s.credentialsDir != "", Wrapper: by}, err
}

// nameKeyCommand looks after the key that wraps the keys of people's names.
func nameKeyCommand(stdout io.Writer) *cobra.Command {
	order := func(use, short string, do func(context.Context, *keyring.Keyring) (keyring.Rotated, error)) *cobra.Command {
		var s settings
		cmd := &cobra.Command{
			Use: use, Short: short, Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				if err := config.Load(cmd.Flags()); err != nil {
					return err
				}
				return s.logged(cmd.Context(), "name-key", func(log *slog.Logger) error {
					done, err := s.withNameKey(cmd.Context(), log, do)
					if err != nil {
						return err
					}
					_, err = fmt.Fprintf(stdout, "%d keys of names were wrapped anew; %d former keys stand in the file.\n", done.Rewrapped, done.Former)
					return err
				})
			},
		}
		s.flags(cmd.Flags())
		return cmd
	}
	return group("name-key", "Look after the key that wraps the keys of people's names",
		order("rotate", "Make a new one, protected as name-key-kms says, and wrap all keys of names by it; the former stays in the file for a while", func(ctx context.Context, k *keyring.Keyring) (keyring.Rotated, error) {
			return k.Rotate(ctx)
		}),
		order("rewrap", "Go on with a rotation that was interrupted, and forget former keys that are no longer needed after an hour", func(ctx context.Context, k *keyring.Keyring) (keyring.Rotated, error) {
			return k.Rewrap(ctx)
		}),
	)
}

func (s *settings) withNameKey(ctx context.Context, log *slog.Logger, do func(context.Context, *keyring.Keyring) (keyring.Rotated, error)) (keyring.Rotated, error) {
	cfg, err := s.nameKeyConfig()
	if err != nil {
		return keyring.Rotated{}, err
	}
	stored := keyring.StoreConfig()
	stored.Logger = log
	if stored.URL, err = s.reachedDatabase(ctx, log); err != nil {
		return keyring.Rotated{}, err
	}
	store, err := postgres.Open(ctx, stored)
	if err != nil {
		return keyring.Rotated{}, err
	}
	defer store.Close()
	keys, err := keyring.New(ctx, cfg, keyring.Deps{Store: store, Logger: stored.Logger})
	if err != nil {
		return keyring.Rotated{}, err
	}
	return do(ctx, keys)
}
