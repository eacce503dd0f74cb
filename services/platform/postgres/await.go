package postgres

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"
)

// awaitEvery is how often it is looked whether tables are there.
const awaitEvery = time.Second

// NewerError tells of tables that a later release has made, of which this one knows nothing.
type NewerError struct {
	// What is newer, and what this release knows.
	What         string
	There, Known int64
}

func (e *NewerError) Error() string {
	return fmt.Sprintf("postgres: %s are of version %d, and this release knows %d at most: a later release has made them; run that one, or restore a backup of before", e.What, e.There, e.Known)
}

// Await waits until a service's tables are as Open would make them, which another does (`cetrus migrate`). It
// fails with a NewerError where they are newer than this release knows.
func Await(ctx context.Context, cfg Config) error {
	s, err := unopened(cfg)
	if err != nil {
		return err
	}
	said := false
	for {
		missing := ""
		err := s.patiently(ctx, func() (err error) {
			missing, err = s.missing(ctx)
			return err
		})
		if err != nil || missing == "" {
			return err
		}
		if !said {
			s.log.InfoContext(ctx, "waiting for `cetrus migrate`", "until there are", missing)
			said = true
		}
		if err := pause(ctx, awaitEvery); err != nil {
			return fmt.Errorf("postgres: %s are not there: run `cetrus migrate`, or leave migrate on: %w", missing, err)
		}
	}
}

// RefuseNewer fails with a NewerError where a service's tables are newer than this release knows: it is for who
// is about to migrate.
func RefuseNewer(ctx context.Context, cfg Config) error {
	s, err := unopened(cfg)
	if err != nil {
		return err
	}
	return s.patiently(ctx, func() error {
		_, err := s.missing(ctx)
		return err
	})
}

// attemptWithin is how long a server may take to answer, where its URL does not say.
const attemptWithin = 5 * time.Second

// Reach waits for a server that cannot be reached yet, for a while. Its errors name the database without a password.
func Reach(ctx context.Context, url string, within time.Duration, log *slog.Logger) error {
	s, err := unopened(Config{URL: url, Logger: log})
	if err != nil {
		return err
	}
	if s.admin.ConnectTimeout == 0 {
		s.admin.ConnectTimeout = attemptWithin
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	conn, err := s.connect(ctx)
	if err != nil {
		return fmt.Errorf("the database %s of %s cannot be reached, after %s: %w", s.admin.Database, net.JoinHostPort(s.admin.Host, strconv.Itoa(int(s.admin.Port))), time.Since(began).Round(time.Millisecond), err)
	}
	return conn.Close(ctx)
}

func unopened(cfg Config) (*Store, error) {
	admin, err := pgx.ParseConfig(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("postgres: the URL of the database cannot be read: %w", err)
	}
	return &Store{cfg: cfg, service: cfg.Service, admin: admin, log: cfg.Logger}, nil
}

// missing names what is not there of the service's tables; it is empty where all is.
func (s *Store) missing(ctx context.Context) (string, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return "", err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var known bool
	if err := conn.QueryRow(ctx, "SELECT to_regclass('cetrus.active') IS NOT NULL").Scan(&known); err != nil {
		return "", fmt.Errorf("postgres: %w", err)
	}
	if !known {
		return "tables of " + s.service, nil
	}
	if err := s.refuseNewer(ctx, conn); err != nil {
		return "", err
	}
	if s.build, err = s.activeBuild(ctx); err != nil {
		return "", err
	}
	schema := schemaName(s.cfg, s.build)
	for _, set := range s.cfg.Migrations {
		want, err := lastOf(set)
		if err != nil {
			return "", err
		}
		there, err := s.applied(ctx, conn, schema, set.Name)
		if err != nil {
			return "", err
		}
		what := "tables " + set.Name + " of " + schema
		if there > want {
			return "", &NewerError{What: what, There: there, Known: want}
		}
		if there < want {
			return fmt.Sprintf("%s of version %d", what, want), nil
		}
	}
	return "", nil
}

var versioned = regexp.MustCompile(`_v([0-9]+)(b[0-9]+)?$`)

// refuseNewer fails where queries are answered from a later version of the schema than the store's.
func (s *Store) refuseNewer(ctx context.Context, conn *pgx.Conn) error {
	rows, err := conn.Query(ctx, "SELECT schema FROM cetrus.active WHERE service = $1", s.service)
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	active, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	for _, schema := range active {
		match := versioned.FindStringSubmatch(schema)
		if match == nil {
			continue
		}
		if version, err := strconv.Atoi(match[1]); err == nil && version > s.cfg.Version {
			return &NewerError{What: "the tables " + schema + ", from which " + s.service + " answers,", There: int64(version), Known: int64(s.cfg.Version)}
		}
	}
	return nil
}

// applied is the version of the last migration of a set that was done; 0 where none was.
func (s *Store) applied(ctx context.Context, conn *pgx.Conn, schema, set string) (version int64, err error) {
	table := quote(schema) + "." + quote("goose_"+set)
	var there bool
	if err := conn.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", table).Scan(&there); err != nil || !there {
		return 0, wrapped(err)
	}
	err = conn.QueryRow(ctx, "SELECT coalesce(max(version_id), 0) FROM "+table).Scan(&version)
	return version, wrapped(err)
}

func wrapped(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("postgres: %w", err)
}

// lastOf is the version of the last migration of a set.
func lastOf(set Migrations) (last int64, err error) {
	names, err := fs.Glob(set.Files, "*.sql")
	if err != nil {
		return 0, fmt.Errorf("postgres: migrations %s: %w", set.Name, err)
	}
	for _, name := range names {
		version, err := goose.NumericComponent(name)
		if err != nil {
			return 0, fmt.Errorf("postgres: migrations %s: %w", set.Name, err)
		}
		last = max(last, version)
	}
	return last, nil
}
