package postgres

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
)

//go:embed sql/control.sql
var controlSQL string

//go:embed sql/breaches.sql
var breachesSQL string

const (
	ownerRole = "cetrus_owner"
	// ownGroup has what those may read who see only what is their own.
	ownGroup = "cetrus_own"
	// preparing is the advisory lock under which a schema is made.
	preparing = 0x63657472 // "cetr"
)

// Migrations is a set of goose migrations with a history of its own, so that a
// service's schema can hold the tables of the packages that it stands on.
type Migrations struct {
	// Name of the set: a lower-case word, unique in the schema.
	Name string
	// Files holds the migrations (00001_name.sql, …) at its root.
	Files fs.FS
}

// Config names a service's tables.
type Config struct {
	// URL of an administrator: a role that may create roles (BYPASSRLS among
	// them) and schemas. The passwords of the service's roles are derived from
	// its password.
	URL string
	// Service is the service's name, a lower-case word; its roles are
	// <service>_query and <service>_projector.
	Service string
	// Version of the schema, from 1: <service>_v<version>, or <service>_v<version>b<build>
	// where the version was built again (Store.Beside). The first version that is
	// ever opened is active; a later one becomes so by Activate.
	Version int
	// Migrations are applied in their order, each set in the order of its files,
	// with the schema as search_path. Each table is put behind a wall where it
	// is made: SELECT cetrus.wall('name').
	Migrations []Migrations
	// Own says that the tables tell of principals, and that some who ask see nothing but
	// what is their own. They read as a role of their own, <service>_own, which sees those
	// tables only that were given to it, and of them the rows: SELECT cetrus.own.
	Own bool
	// MaxQueries bounds the query role's connections; default 12.
	MaxQueries int32
	// Logger; default slog.Default().
	Logger *slog.Logger
}

// Store is a service's schema, made and open.
type Store struct {
	// Schema is the schema's name.
	Schema string
	// Projector is the pool of the role that writes many accounts. Its
	// search_path is the schema. Nothing that answers a request may touch it.
	Projector *pgxpool.Pool

	cfg     Config
	build   int
	query   *pgxpool.Pool
	own     *pgxpool.Pool // nil where Config.Own is not set
	service string
	admin   *pgx.ConnConfig
	log     *slog.Logger
}

var word = regexp.MustCompile(`^[a-z][a-z0-9]{0,30}$`)

// Open makes the service's roles and schema, brings its tables up to date,
// checks the walls, and opens the pools. It waits for a server that cannot be
// reached yet, or dies under it, until ctx ends.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if !word.MatchString(cfg.Service) {
		return nil, fmt.Errorf("postgres: the service's name %q is not a lower-case word", cfg.Service)
	}
	if cfg.Version < 1 {
		return nil, fmt.Errorf("postgres: %s: the schema's version is %d; versions begin at 1", cfg.Service, cfg.Version)
	}
	admin, err := pgx.ParseConfig(cfg.URL)
	if err != nil {
		return nil, fmt.Errorf("postgres: the URL of the database cannot be read: %w", err)
	}
	if cfg.MaxQueries == 0 {
		cfg.MaxQueries = 12
	}
	s := &Store{cfg: cfg, service: cfg.Service, admin: admin, log: cfg.Logger}
	if s.log == nil {
		s.log = slog.Default()
	}
	err = s.patiently(ctx, func() (err error) {
		s.build, err = s.activeBuild(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.open(ctx)
}

// Beside opens the next build of the same version, empty or as far as an earlier
// call has filled it: what is built anew from the streams while this one goes on
// answering. Its tables take this one's place by Activate.
func (s *Store) Beside(ctx context.Context) (*Store, error) {
	next := &Store{cfg: s.cfg, service: s.service, admin: s.admin, log: s.log, build: s.build + 1}
	return next.open(ctx)
}

// Successor opens the later build of the same version that answers queries now: what
// another process has put in this one's place. It is nil where there is none.
func (s *Store) Successor(ctx context.Context) (*Store, error) {
	var active string
	if err := s.Projector.QueryRow(ctx, "SELECT schema FROM cetrus.active WHERE service = $1", s.service).Scan(&active); err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	build, err := s.buildOf(active)
	if err != nil || build <= s.build {
		return nil, err
	}
	next := &Store{cfg: s.cfg, service: s.service, admin: s.admin, log: s.log, build: build}
	return next.open(ctx)
}

// HasBeside tells whether Beside was called before, and neither its store nor
// this one has been dropped since.
func (s *Store) HasBeside(ctx context.Context) (bool, error) {
	var there bool
	err := s.Projector.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", schemaName(s.cfg, s.build+1)).Scan(&there)
	if err != nil {
		return false, fmt.Errorf("postgres: %w", err)
	}
	return there, nil
}

func schemaName(cfg Config, build int) string {
	name := fmt.Sprintf("%s_v%d", cfg.Service, cfg.Version)
	if build > 0 {
		name += fmt.Sprintf("b%d", build)
	}
	return name
}

// activeBuild is the build of the store's version that answers queries, 0 where
// none does.
func (s *Store) activeBuild(ctx context.Context) (int, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var known bool
	if err := conn.QueryRow(ctx, "SELECT to_regclass('cetrus.active') IS NOT NULL").Scan(&known); err != nil {
		return 0, fmt.Errorf("postgres: %w", err)
	}
	if !known {
		return 0, nil
	}
	var active string
	err = conn.QueryRow(ctx, "SELECT schema FROM cetrus.active WHERE service = $1", s.service).Scan(&active)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("postgres: %w", err)
	}
	return s.buildOf(active)
}

// buildOf is the build that a schema is of the store's version; 0 where it is the
// first, or another version's.
func (s *Store) buildOf(active string) (int, error) {
	digits, isBuild := strings.CutPrefix(active, schemaName(s.cfg, 0)+"b")
	if !isBuild {
		return 0, nil
	}
	build, err := strconv.Atoi(digits)
	if err != nil {
		return 0, fmt.Errorf("postgres: the active schema of %s is %q, which no version makes", s.service, active)
	}
	return build, nil
}

// open makes and opens the schema of the store's build.
func (s *Store) open(ctx context.Context) (*Store, error) {
	cfg := s.cfg
	s.Schema = schemaName(cfg, s.build)
	// What was done of it before a server died is found done.
	err := s.patiently(ctx, func() error { return s.prepare(ctx, cfg.Migrations) })
	if err != nil {
		return nil, err
	}
	if s.query, err = s.pool(ctx, s.queryRole(), "", cfg.MaxQueries); err != nil {
		return nil, err
	}
	if s.Projector, err = s.pool(ctx, s.projectorRole(), s.Schema, 8); err != nil {
		s.query.Close()
		return nil, err
	}
	if cfg.Own {
		if s.own, err = s.pool(ctx, s.ownRole(), "", cfg.MaxQueries); err != nil {
			s.query.Close()
			s.Projector.Close()
			return nil, err
		}
	}
	return s, nil
}

func (s *Store) queryRole() string     { return s.service + "_query" }
func (s *Store) projectorRole() string { return s.service + "_projector" }

// ownRole is empty where nobody reads as it.
func (s *Store) ownRole() string {
	if !s.cfg.Own {
		return ""
	}
	return s.service + "_own"
}

// Close closes the pools, waiting for what is under way.
func (s *Store) Close() {
	s.query.Close()
	s.Projector.Close()
	if s.own != nil {
		s.own.Close()
	}
}

// connect waits for the server.
func (s *Store) connect(ctx context.Context) (conn *pgx.Conn, err error) {
	err = s.patiently(ctx, func() error {
		cfg, err := s.asAdmin(ctx)
		if err != nil {
			return err
		}
		if conn, err = pgx.ConnectConfig(ctx, cfg); err != nil {
			return fmt.Errorf("postgres: %w", err)
		}
		return nil
	})
	return conn, err
}

// asAdmin is how to connect as the administrator now.
func (s *Store) asAdmin(ctx context.Context) (*pgx.ConnConfig, error) {
	cfg := s.admin.Copy()
	return cfg, s.knowAgain(ctx, cfg)
}

// knowAgain reads anew by which authority the server is known, and with which certificate one comes: who runs the database
// replaces them in their files.
func (s *Store) knowAgain(_ context.Context, cfg *pgx.ConnConfig) error {
	now, err := pgx.ParseConfig(s.admin.ConnString())
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	cfg.TLSConfig, cfg.Fallbacks = now.TLSConfig, now.Fallbacks
	return nil
}

// patiently takes a step again for as long as the server is away.
func (s *Store) patiently(ctx context.Context, step func() error) error {
	said, began := false, time.Now()
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		err := step()
		if err == nil || !IsTransient(err) {
			return err
		}
		if !said && time.Since(began) > time.Second {
			s.log.Warn("waiting for PostgreSQL", "error", err)
			said = true
		}
		if ctxErr := pause(ctx, wait); ctxErr != nil {
			return fmt.Errorf("postgres: %w: %w", ctxErr, err)
		}
	}
}

func (s *Store) prepare(ctx context.Context, sets []Migrations) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", preparing); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	roles := []struct{ name, rights string }{
		{ownerRole, "NOLOGIN BYPASSRLS"},
		{s.queryRole(), "LOGIN NOBYPASSRLS"},
		{s.projectorRole(), "LOGIN BYPASSRLS"},
		{ownGroup, "NOLOGIN NOBYPASSRLS"},
	}
	if s.cfg.Own {
		roles = append(roles, struct{ name, rights string }{s.ownRole(), "LOGIN NOBYPASSRLS"})
	}
	for _, r := range roles {
		if err := s.role(ctx, conn, r.name, r.rights); err != nil {
			return err
		}
	}
	// Who is no superuser makes what is the owner's as a member of it. PostgreSQL makes the one who
	// creates a role, since its version 16, a member who may only pass the membership on.
	if _, err := conn.Exec(ctx, "DO $$ BEGIN IF NOT pg_has_role('"+ownerRole+"', 'USAGE') THEN GRANT "+ownerRole+" TO CURRENT_USER; END IF; END $$"); err != nil {
		return fmt.Errorf("postgres: joining the role %s: %w", ownerRole, err)
	}
	if _, err := conn.Exec(ctx, controlSQL); err != nil {
		return fmt.Errorf("postgres: making the schema cetrus: %w", err)
	}
	schema, query, projector := quote(s.Schema), quote(s.queryRole()), quote(s.projectorRole())
	if _, err := conn.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+schema+" AUTHORIZATION "+ownerRole); err != nil {
		return fmt.Errorf("postgres: making the schema %s: %w", s.Schema, err)
	}
	for _, set := range sets {
		if err := s.migrate(ctx, set); err != nil {
			return err
		}
	}
	for _, set := range sets {
		if _, err := conn.Exec(ctx, "SELECT cetrus.hide($1::text::regclass)", schema+"."+quote("goose_"+set.Name)); err != nil {
			return fmt.Errorf("postgres: %w", err)
		}
	}
	grants := []string{
		"GRANT USAGE ON SCHEMA " + schema + " TO " + query + ", " + projector,
		"GRANT SELECT ON ALL TABLES IN SCHEMA " + schema + " TO " + query,
		"GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA " + schema + " TO " + projector,
		"GRANT USAGE ON ALL SEQUENCES IN SCHEMA " + schema + " TO " + projector,
	}
	if s.cfg.Own {
		grants = append(grants, "GRANT "+ownGroup+" TO "+quote(s.ownRole()), "GRANT USAGE ON SCHEMA "+schema+" TO "+quote(s.ownRole()))
	}
	if _, err := conn.Exec(ctx, strings.Join(grants, ";")); err != nil {
		return fmt.Errorf("postgres: granting rights on %s: %w", s.Schema, err)
	}
	for _, checked := range []string{"cetrus", s.Schema} {
		breaches, err := breaches(ctx, conn, checked, s.queryRole(), s.ownRole())
		if err != nil {
			return err
		}
		if len(breaches) > 0 {
			return fmt.Errorf("postgres: %s is not walled off by account: %s", checked, strings.Join(breaches, "; "))
		}
	}
	if _, err := conn.Exec(ctx, "INSERT INTO cetrus.active (service, schema) VALUES ($1, $2) ON CONFLICT DO NOTHING", s.service, s.Schema); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return nil
}

// role makes a role, or corrects its password where that has changed. Roles
// belong to the whole server, so another database's preparation may be at it.
func (s *Store) role(ctx context.Context, conn *pgx.Conn, name, rights string) error {
	password := ""
	if strings.HasPrefix(rights, "LOGIN") && s.admin.Password != "" {
		password = " PASSWORD '" + s.password(name) + "'"
	}
	var there bool
	if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name).Scan(&there); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	if !there {
		_, err := conn.Exec(ctx, "CREATE ROLE "+quote(name)+" "+rights+password)
		var pgErr *pgconn.PgError
		exists := errors.As(err, &pgErr) && (pgErr.Code == "42710" || pgErr.Code == "23505")
		if err != nil && !exists {
			if pgErr != nil && pgErr.Code == "42501" {
				err = fmt.Errorf("%w: %s needs CREATEROLE and BYPASSRLS, and before PostgreSQL 16 has to be a superuser", err, s.admin.User)
			}
			return fmt.Errorf("postgres: making the role %s: %w", name, err)
		}
	}
	if password == "" {
		return nil
	}
	try, err := s.asAdmin(ctx)
	if err != nil {
		return err
	}
	try.User, try.Password = name, s.password(name)
	probe, err := pgx.ConnectConfig(ctx, try)
	if err == nil {
		return probe.Close(ctx)
	}
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || pgErr.Code != "28P01" {
		return fmt.Errorf("postgres: as the role %s: %w", name, err)
	}
	if _, err := conn.Exec(ctx, "ALTER ROLE "+quote(name)+" "+rights+password); err != nil {
		return fmt.Errorf("postgres: setting the password of the role %s: %w", name, err)
	}
	return nil
}

// password of a role: nobody types it, so it is computed from the
// administrator's.
func (s *Store) password(role string) string {
	mac := hmac.New(sha256.New, []byte(s.admin.Password))
	mac.Write([]byte("cetrus role " + role))
	return hex.EncodeToString(mac.Sum(nil)[:20])
}

func (s *Store) migrate(ctx context.Context, set Migrations) error {
	if !word.MatchString(set.Name) {
		return fmt.Errorf("postgres: %s: the name %q of a set of migrations is not a lower-case word", s.Schema, set.Name)
	}
	cfg, err := s.asAdmin(ctx)
	if err != nil {
		return err
	}
	cfg.RuntimeParams["search_path"] = s.Schema
	db := stdlib.OpenDB(*cfg, stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, "SET ROLE "+ownerRole)
		return err
	}))
	defer db.Close()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, set.Files, goose.WithTableName("goose_"+set.Name))
	if err != nil {
		return fmt.Errorf("postgres: migrations %s of %s: %w", set.Name, s.Schema, err)
	}
	done, err := provider.Up(ctx)
	if err != nil {
		return fmt.Errorf("postgres: migrations %s of %s: %w", set.Name, s.Schema, err)
	}
	for _, m := range done {
		s.log.Debug("migrated", "schema", s.Schema, "set", set.Name, "file", m.Source.Path, "took", m.Duration)
	}
	return nil
}

func (s *Store) pool(ctx context.Context, role, searchPath string, size int32) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig(s.admin.ConnString())
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	cfg.ConnConfig.User = role
	if s.admin.Password != "" {
		cfg.ConnConfig.Password = s.password(role)
	}
	// Unique, so that another process can end the connections of one that is not heard of.
	cfg.ConnConfig.RuntimeParams["application_name"] = role + " " + rand.Text()[:12]
	if searchPath != "" {
		cfg.ConnConfig.RuntimeParams["search_path"] = searchPath
	}
	cfg.ConnConfig.ConnectTimeout = 5 * time.Second
	cfg.ConnConfig.Tracer = otelpgx.NewTracer(otelpgx.WithDisableAcquireTracer())
	cfg.BeforeConnect = s.knowAgain
	cfg.MaxConns = size
	cfg.MaxConnIdleTime = 5 * time.Minute
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	if err := otelpgx.RecordStats(pool); err != nil {
		pool.Close()
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return pool, nil
}

// InAccount runs fn in a transaction that reads one account's rows in the
// service's active schema, all as of one moment. Nothing can be written in it. Where whoever
// asks (authn.OwnOnly) sees only what is their own, so does the transaction: ctx says it, and
// fn need not know.
// A connection that died while it was idle is replaced unseen; an error of fn
// comes back as it is.
func (s *Store) InAccount(ctx context.Context, account contract.ID, fn func(tx pgx.Tx) error) error {
	return s.inAccount(ctx, account, "ISOLATION LEVEL REPEATABLE READ READ ONLY", fn)
}

// ChangeInAccount runs fn in a transaction that reads and writes one account's rows,
// behind the same wall: for tables that are no projection, and that a migration let the
// query role write. What is read and then written is to be locked (FOR UPDATE).
func (s *Store) ChangeInAccount(ctx context.Context, account contract.ID, fn func(tx pgx.Tx) error) error {
	return s.inAccount(ctx, account, "ISOLATION LEVEL READ COMMITTED READ WRITE", fn)
}

func (s *Store) inAccount(ctx context.Context, account contract.ID, mode string, fn func(tx pgx.Tx) error) error {
	if account.IsZero() {
		return errors.New("postgres: a query names no account")
	}
	// One round trip: both values are made of letters and digits that need no
	// escape.
	begin := "BEGIN " + mode + "; SELECT cetrus.enter('" + s.service + "', '" + account.String() + "')"
	pool := s.query
	if principals, only := authn.OwnOnly(ctx); only && s.own != nil {
		pool = s.own
		texts := make([]string, len(principals))
		for i, principal := range principals {
			texts[i] = principal.String()
		}
		begin += ", set_config('cetrus.principals', '" + strings.Join(texts, ",") + "', true)"
		if caller, err := authn.CallerFrom(ctx); err == nil && !caller.Login.IsZero() {
			begin += ", set_config('cetrus.login', '" + caller.Login.String() + "', true)"
		}
	}
	var tx pgx.Tx
	for attempt := 0; ; attempt++ {
		var err error
		if tx, err = pool.BeginTx(ctx, pgx.TxOptions{BeginQuery: begin}); err == nil {
			break
		}
		if attempt == 3 || !IsTransient(err) {
			return fmt.Errorf("postgres: %w", err)
		}
		if err := pause(ctx, time.Duration(attempt)*20*time.Millisecond); err != nil {
			return err
		}
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return nil
}

// Active tells whether queries are answered from this schema.
func (s *Store) Active(ctx context.Context) (bool, error) {
	var active string
	err := s.Projector.QueryRow(ctx, "SELECT schema FROM cetrus.active WHERE service = $1", s.service).Scan(&active)
	if err != nil {
		return false, fmt.Errorf("postgres: %w", err)
	}
	return active == s.Schema, nil
}

// Activate has queries answered from this schema from their next transaction
// on. It is called when the schema is level with the one that it replaces.
func (s *Store) Activate(ctx context.Context) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	tag, err := conn.Exec(ctx, "UPDATE cetrus.active SET schema = $2, since = now() WHERE service = $1 AND schema <> $2", s.service, s.Schema)
	if err != nil {
		return fmt.Errorf("postgres: activating %s: %w", s.Schema, err)
	}
	if tag.RowsAffected() > 0 {
		s.log.Info("queries are answered from a new version", "service", s.service, "schema", s.Schema)
	}
	return nil
}

// DropOthers drops the service's schemas of other versions, once this one is
// active.
func (s *Store) DropOthers(ctx context.Context) error {
	active, err := s.Active(ctx)
	if err != nil {
		return err
	}
	if !active {
		return fmt.Errorf("postgres: %s is not active: the other versions stay", s.Schema)
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, `SELECT nspname::text FROM pg_namespace WHERE nspname ~ ('^' || $1 || '_v[0-9]+(b[0-9]+)?$') AND nspname <> $2`, s.service, s.Schema)
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	others, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	for _, other := range others {
		if _, err := conn.Exec(ctx, "DROP SCHEMA "+quote(other)+" CASCADE"); err != nil {
			return fmt.Errorf("postgres: dropping %s: %w", other, err)
		}
		s.log.Info("dropped an earlier version", "schema", other)
	}
	return nil
}

// CheckWalls fails, naming each table and what is wrong with it, where
// something in the store's schema is not behind forced row-level security by
// account.
func (s *Store) CheckWalls(ctx context.Context) error {
	found, err := breaches(ctx, s.Projector, s.Schema, s.queryRole(), s.ownRole())
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return fmt.Errorf("postgres: %s is not walled off by account: %s", s.Schema, strings.Join(found, "; "))
	}
	return nil
}

type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func breaches(ctx context.Context, q querier, schema, role, own string) ([]string, error) {
	rows, err := q.Query(ctx, breachesSQL, schema, role, own)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		var relation, reason string
		err := row.Scan(&relation, &reason)
		return relation + ": " + reason, err
	})
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return found, nil
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// IsTransient tells whether an operation that failed with err may succeed when
// it is tried again as it is: the server was away, started, stopped, was full or
// chose this transaction to give way. Where it was a commit, whether it took
// place is not known.
func IsTransient(err error) bool {
	if err == nil {
		return false
	}
	if errors.Is(err, context.Canceled) {
		return false
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		// Classes: connection exception, insufficient resources, operator
		// intervention (starting up, shutting down), rollback (deadlock,
		// serialization), system error.
		if slices.Contains([]string{"08", "53", "57", "40", "58"}, pgErr.Code[:min(2, len(pgErr.Code))]) {
			return true
		}
		return pgErr.Code == "55P03" // lock not available
	}
	var connectErr *pgconn.ConnectError
	if errors.As(err, &connectErr) || pgconn.SafeToRetry(err) || pgconn.Timeout(err) {
		return true
	}
	return isNetwork(err)
}
