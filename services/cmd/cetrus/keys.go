package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// loadAccount opens the account of a data directory that has one.
func loadAccount(dir string) (*authn.Keys, error) {
	keys, err := authn.Load(filepath.Join(dir, authn.AccountFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.As(errs.Precondition, "cetrus", "data directory "+dir, "has no account yet: name another with --data-dir, or start Cetrus on it first", err)
	}
	return keys, err
}

// keyCommand makes and lists API keys. What runs on the data directory knows a new
// key, and no revoked one, within a second.
func keyCommand(stdout io.Writer) *cobra.Command {
	var s settings
	var revokeOthers bool
	issue := &cobra.Command{
		Use:   "new",
		Short: "Make a new API key for the account of a data directory, put it into the file " + authn.KeyFile + " there, and print it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Load(cmd.Flags()); err != nil {
				return err
			}
			if _, err := loadAccount(s.dataDir); err != nil { // before a lock is left where nothing is
				return err
			}
			unlock, err := lockFile(filepath.Join(s.dataDir, "lock.account"), lockWait)
			if err != nil {
				return err
			}
			defer unlock()
			key, revoked, err := authn.Issue(s.dataDir, revokeOthers, time.Now())
			if err != nil {
				return err
			}
			keys, err := loadAccount(s.dataDir)
			if err != nil {
				return err
			}
			return json.NewEncoder(stdout).Encode(map[string]any{
				"account_id": keys.Account().String(), "key": key, "valid": len(keys.List()), "revoked": revoked,
			})
		},
	}
	issue.Flags().BoolVar(&revokeOthers, "revoke-others", false, "all keys made before are no longer valid")
	list := &cobra.Command{
		Use:   "list",
		Short: "List the valid API keys of a data directory by their ids; the keys themselves are not kept",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := config.Load(cmd.Flags()); err != nil {
				return err
			}
			keys, err := loadAccount(s.dataDir)
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
			_, _ = fmt.Fprintln(table, "ID\tMADE")
			for _, k := range keys.List() {
				_, _ = fmt.Fprintf(table, "%s\t%s\n", k.ID, k.Created.Format(time.RFC3339))
			}
			return table.Flush()
		},
	}
	s.flags(issue.Flags())
	s.flags(list.Flags())
	return group("key", "Manage the API keys of a data directory", issue, list)
}
