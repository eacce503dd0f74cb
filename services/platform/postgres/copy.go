package postgres

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"
)

//go:embed sql/shape.sql
var shapeSQL string

// Table is what a copy has of a table.
type Table struct {
	Name    string   `json:"name"`
	Columns []string `json:"columns"`
}

// Copied says of what schema a copy is.
type Copied struct {
	Service string `json:"service"`
	// Versions are the last migrations of each set: a copy is put back into the same ones only.
	Versions map[string]int64 `json:"versions"`
	Tables   []Table          `json:"tables"`
}

// CopyOut copies all rows of the store's schema, as of one moment. write is given each table's
// rows as PostgreSQL's COPY writes them. It is for what cannot be built anew.
func (s *Store) CopyOut(ctx context.Context, write func(Table, func(io.Writer) error) error) (copied Copied, err error) {
	err = pgx.BeginTxFunc(ctx, s.Projector, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if copied, err = s.shape(ctx, tx); err != nil {
			return err
		}
		for _, t := range copied.Tables {
			err := write(t, func(w io.Writer) error {
				_, err := tx.Conn().PgConn().CopyTo(ctx, w, "COPY "+t.columns()+" TO STDOUT")
				return err
			})
			if err != nil {
				return fmt.Errorf("table %s: %w", t.Name, err)
			}
		}
		return nil
	})
	if err != nil {
		return copied, fmt.Errorf("postgres: copy %s: %w", s.Schema, err)
	}
	return copied, nil
}

func (t Table) columns() string {
	quoted := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		quoted[i] = quote(c)
	}
	return quote(t.Name) + " (" + strings.Join(quoted, ", ") + ")"
}

// shape reads which tables and migrations the schema has.
func (s *Store) shape(ctx context.Context, tx pgx.Tx) (Copied, error) {
	c := Copied{Service: s.service, Versions: make(map[string]int64)}
	for _, set := range s.cfg.Migrations {
		var version int64
		if err := tx.QueryRow(ctx, "SELECT coalesce(max(version_id), 0) FROM "+quote("goose_"+set.Name)).Scan(&version); err != nil {
			return c, err
		}
		c.Versions[set.Name] = version
	}
	rows, err := tx.Query(ctx, shapeSQL, s.Schema)
	if err != nil {
		return c, err
	}
	c.Tables, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (t Table, err error) {
		err = row.Scan(&t.Name, &t.Columns)
		return t, err
	})
	return c, err
}

// CopyIn puts a copy into the store's schema, whose tables must be empty, in one transaction. write
// is asked to write each table's rows, which the database takes meanwhile.
func (s *Store) CopyIn(ctx context.Context, copied Copied, write func(Table, io.Writer) error) error {
	err := pgx.BeginFunc(ctx, s.Projector, func(tx pgx.Tx) error {
		here, err := s.shape(ctx, tx)
		if err != nil {
			return err
		}
		for set, version := range here.Versions {
			if copied.Versions[set] != version {
				return fmt.Errorf("the copy is of migration %d of %s, this release has %d: restore it with the release that it was made with, then upgrade", copied.Versions[set], set, version)
			}
		}
		for _, t := range copied.Tables {
			var there bool
			if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+quote(t.Name)+")").Scan(&there); err != nil {
				return err
			}
			if there {
				return fmt.Errorf("table %s is not empty: restore into a new database", t.Name)
			}
			if err := copyRows(ctx, tx, t, write); err != nil {
				return fmt.Errorf("table %s: %w", t.Name, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("postgres: put %s back: %w", s.Schema, err)
	}
	return nil
}

// copyRows puts back what write writes of a table.
func copyRows(ctx context.Context, tx pgx.Tx, t Table, write func(Table, io.Writer) error) error {
	rows, into := io.Pipe()
	wrote := make(chan error, 1)
	go func() {
		err := write(t, into)
		_ = into.CloseWithError(err)
		wrote <- err
	}()
	_, err := tx.Conn().PgConn().CopyFrom(ctx, rows, "COPY "+t.columns()+" FROM STDIN")
	_ = rows.CloseWithError(errCopyEnded)
	if failed := <-wrote; failed != nil && !errors.Is(failed, errCopyEnded) {
		return failed
	}
	return err
}

// errCopyEnded is for who writes rows that the database takes no more.
var errCopyEnded = errors.New("the database takes no more rows")
