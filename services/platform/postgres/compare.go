package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// mostDifferences bounds how many rows of a table are told that differ.
const mostDifferences = 3

// Compared is a table beside another that it should equal.
type Compared struct {
	Name string `json:"name"`
	// Rows and Sum are those that it should have: a count, and the sum of the rows' checksums.
	Rows int64  `json:"rows"`
	Sum  string `json:"sum"`
	// HasRows and HasSum are those that it has.
	HasRows int64  `json:"has_rows"`
	HasSum  string `json:"has_sum"`
	// TooMany and Missing are some rows that it has and should not, and the other way round.
	TooMany []string `json:"too_many,omitempty"`
	Missing []string `json:"missing,omitempty"`
}

// Same tells whether both are equal.
func (c Compared) Same() bool { return c.Rows == c.HasRows && c.Sum == c.HasSum }

// Compare compares a table of a schema with that of the same name and columns in another, which it should equal.
func Compare(ctx context.Context, tx pgx.Tx, name, has, should string) (Compared, error) {
	c := Compared{Name: name}
	sum := func(schema string, rows *int64, sum *string) error {
		return tx.QueryRow(ctx, "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM "+pgx.Identifier{schema, name}.Sanitize()+" t").Scan(rows, sum)
	}
	err := errors.Join(sum(has, &c.HasRows, &c.HasSum), sum(should, &c.Rows, &c.Sum))
	without := func(a, b string) ([]string, error) {
		rows, err := tx.Query(ctx, fmt.Sprintf("(SELECT left(t::text, 300) FROM %s t EXCEPT ALL SELECT left(t::text, 300) FROM %s t) ORDER BY 1 LIMIT %d",
			pgx.Identifier{a, name}.Sanitize(), pgx.Identifier{b, name}.Sanitize(), mostDifferences))
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowTo[string])
	}
	if err == nil && !c.Same() {
		if c.TooMany, err = without(has, should); err == nil {
			c.Missing, err = without(should, has)
		}
	}
	if err != nil {
		return c, fmt.Errorf("postgres: compare table %s: %w", name, err)
	}
	return c, nil
}
