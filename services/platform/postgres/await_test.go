package postgres_test

import (
	"errors"
	"testing"
	"testing/fstest"
	"time"

	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/postgres"
)

// growing are tables as a release has them that knows so many migrations.
func growing(migrations int) postgres.Config {
	files := fstest.MapFS{}
	for _, m := range []struct{ name, sql string }{
		{"00001_one.sql", "CREATE TABLE one (account_id uuid NOT NULL); SELECT cetrus.wall('one');"},
		{"00002_two.sql", "CREATE TABLE two (account_id uuid NOT NULL); SELECT cetrus.wall('two');"},
	}[:migrations] {
		files[m.name] = &fstest.MapFile{Data: []byte("-- +goose Up\n" + m.sql + "\n")}
	}
	return postgres.Config{
		Service: "growing", Version: 1, Migrations: []postgres.Migrations{{Name: "growing", Files: files}}, Logger: platformtest.Logger(nil),
	}
}

// Who waits for tables goes on when another has made them, as far as it knows them; it refuses those that a
// later release has made.
func TestAwait(t *testing.T) {
	url := platformtest.Database(t)
	with := func(cfg postgres.Config) postgres.Config { cfg.URL = url; return cfg }
	done := make(chan error, 1)
	await := func(cfg postgres.Config) { go func() { done <- postgres.Await(t.Context(), with(cfg)) }() }
	migrate := func(cfg postgres.Config) {
		t.Helper()
		s, err := postgres.Open(t.Context(), with(cfg))
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	}
	waits := func() {
		t.Helper()
		select {
		case err := <-done:
			t.Fatalf("it does not wait: %v", err)
		case <-time.After(100 * time.Millisecond): // it looks at once; what it then waits for is what comes next
		}
	}
	goesOn := func() {
		t.Helper()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}

	await(growing(1))
	waits()
	migrate(growing(1))
	goesOn()
	await(growing(1)) // all is there
	goesOn()
	await(growing(2))
	waits()
	migrate(growing(2))
	goesOn()

	var newer *postgres.NewerError
	if err := postgres.Await(t.Context(), with(growing(1))); !errors.As(err, &newer) || newer.There != 2 || newer.Known != 1 {
		t.Errorf("tables of a later release: %v", err)
	}
	next := growing(2)
	next.Version = 2
	await(next)
	waits()
	s, err := postgres.Open(t.Context(), with(next))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	goesOn()
	if err := postgres.Await(t.Context(), with(growing(2))); err != nil {
		t.Errorf("while the version of before answers: %v", err)
	}
	if err := s.Activate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := postgres.Await(t.Context(), with(growing(2))); !errors.As(err, &newer) || newer.There != 2 || newer.Known != 1 {
		t.Errorf("once a later version answers: %v", err)
	}
}
