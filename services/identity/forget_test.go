package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/signin"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// stubborn keys are not destroyed before they are let go.
type stubborn struct {
	*keyring.Keyring
	asked, letGo atomic.Bool
}

func (s *stubborn) Forget(ctx context.Context, account, principal contract.ID) error {
	s.asked.Store(true)
	if !s.letGo.Load() {
		return errors.New("the keyring is away")
	}
	return s.Keyring.Forget(ctx, account, principal)
}

// forgetfulness is an account of two logins, of which everything is kept that can be.
type forgetfulness struct {
	t           *testing.T
	stores      *Stores
	keys        *stubborn
	cfg         Config
	deps        Deps
	service     *Service
	account     contract.ID
	gone, stays contract.ID
}

// personal stands in every text that is kept of a login.
const personal = "203.0.113.77 Unverwechselbar"

func newForgetfulness(t *testing.T) *forgetfulness {
	t.Helper()
	f := &forgetfulness{t: t, stores: openStores(t), keys: &stubborn{Keyring: newKeyring(t)}, account: resource.NewID(), gone: resource.NewID(), stays: resource.NewID()}
	f.cfg = Config{Operator: resource.NewID()}
	f.deps = Deps{NATS: platformtest.NATS(t), Stores: f.stores, Keys: f.keys, Logger: platformtest.Logger(t)}
	f.make()
	name, display, address := "unverwechselbar", "Grete Unverwechselbar", "unverwechselbar@example.org"
	_, err := f.service.commands.createAccount(t.Context(), "test", eventlog.Command{}, newAccount{
		id: f.account, administrator: f.stays, name: "Works", administratorWish: LoginWish{Name: ref("boss")},
	})
	if err == nil {
		_, err = f.service.commands.createLogin(t.Context(), "test", eventlog.Command{}, f.account, f.gone, LoginWish{Name: &name, DisplayName: &display, MailAddress: &address})
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, login := range []contract.ID{f.gone, f.stays} {
		f.fill(login)
	}
	return f
}

// make is another process on the same log and tables.
func (f *forgetfulness) make() {
	f.t.Helper()
	var err error
	if f.service, err = New(f.cfg, f.deps); err != nil {
		f.t.Fatal(err)
	}
	f.service.forgets, err = f.service.forget.reactor(f.deps.NATS, time.Millisecond)
	if err != nil {
		f.t.Fatal(err)
	}
}

// run runs what forgets until it is stopped.
func (f *forgetfulness) run() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.service.forgets.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			f.t.Error(err)
		}
	}
}

func (f *forgetfulness) pool() *pgxpool.Pool { return f.stores.Secrets.Projector }

// named are the tables that have a column login_id.
func (f *forgetfulness) named() []string {
	f.t.Helper()
	rows, err := f.pool().Query(f.t.Context(), "SELECT table_name::text FROM information_schema.columns WHERE table_schema = current_schema() AND column_name = 'login_id' AND table_name <> 'forgotten_login' ORDER BY 1")
	if err != nil {
		f.t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(tables) < 6 {
		f.t.Fatalf("%d tables, %v", len(tables), err)
	}
	return tables
}

// fill puts a row of a login into each table that can have one, whichever there are.
func (f *forgetfulness) fill(login contract.ID) {
	f.t.Helper()
	for _, table := range f.named() {
		rows, err := f.pool().Query(f.t.Context(), `SELECT column_name::text, data_type::text FROM information_schema.columns
			WHERE table_schema = current_schema() AND table_name = $1 AND is_nullable = 'NO' AND column_default IS NULL AND is_identity = 'NO' ORDER BY ordinal_position`, table)
		if err != nil {
			f.t.Fatal(err)
		}
		var columns, places []string
		var values []any
		var column, kind string
		_, err = pgx.ForEachRow(rows, []any{&column, &kind}, func() error {
			var value any
			switch {
			case column == "account_id":
				value = [16]byte(f.account)
			case column == "login_id":
				value = [16]byte(login)
			case kind == "uuid":
				value = [16]byte(resource.NewID())
			case kind == "bytea":
				value = bytes.Repeat(login[:1], 32)
			case kind == "text":
				value = personal
			case kind == "text[]", kind == "ARRAY":
				value = []string{personal}
			case kind == "timestamp with time zone":
				value = time.Now().Add(time.Hour)
			case kind == "boolean":
				value = false
			default:
				value = 1
			}
			columns, values = append(columns, column), append(values, value)
			places = append(places, fmt.Sprintf("$%d", len(values)))
			return nil
		})
		if err == nil {
			_, err = f.pool().Exec(f.t.Context(), fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", table, strings.Join(columns, ", "), strings.Join(places, ", ")), values...)
		}
		if err != nil {
			f.t.Fatalf("table %s takes no row, so that its being forgotten is not proved: %v", table, err)
		}
	}
}

// kept are the tables that have something of a login.
func (f *forgetfulness) kept(login contract.ID) (tables []string) {
	f.t.Helper()
	for _, table := range f.named() {
		var n int
		if err := f.pool().QueryRow(f.t.Context(), "SELECT count(*) FROM "+table+" WHERE login_id = $1", [16]byte(login)).Scan(&n); err != nil {
			f.t.Fatal(err)
		}
		if n > 0 {
			tables = append(tables, table)
		}
	}
	return tables
}

// eventually asks until the answer is yes.
func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !yes(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// A login that is deleted is forgotten: every table beside the log loses its rows, whichever tables
// there are, and the log its key; also where the process ends in the middle. Others keep all.
func TestALoginIsForgotten(t *testing.T) {
	f := newForgetfulness(t)
	header, err := f.keys.SealOrigin(t.Context(), f.account, f.gone, authn.Origin{UserAgent: personal})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.service.commands.deleteLogin(t.Context(), "test", eventlog.Command{Actor: "login:" + f.stays.String()}, f.account, f.gone); err != nil {
		t.Fatal(err)
	}
	stop := f.run()
	eventually(t, "nobody follows the deletion", f.keys.asked.Load)
	stop()
	// A call that was under way writes of it all the same.
	if _, err := f.pool().Exec(t.Context(), "INSERT INTO known_origin (account_id, login_id, hash, at) VALUES ($1, $2, $3, now())", [16]byte(f.account), [16]byte(f.gone), make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	f.keys.letGo.Store(true)
	f.make()
	defer f.run()()
	eventually(t, "its key is there after a restart", func() bool {
		_, err := f.keys.KeyOf(t.Context(), f.account, f.gone)
		return errs.Is(errs.Precondition, err)
	})
	if err := f.service.forget.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if kept := f.kept(f.gone); !slices.Equal(kept, signin.KeptUntilTold()) {
		t.Errorf("there are rows of it in %v", kept)
	}
	var address, agent, actor string
	var over bool
	if err := f.pool().QueryRow(t.Context(), "SELECT address, user_agent, actor, ended IS NOT NULL FROM session WHERE login_id = $1", [16]byte(f.gone)).Scan(&address, &agent, &actor, &over); err != nil {
		t.Fatal(err)
	}
	if address+agent != "" || !over || actor != "login:"+f.stays.String() {
		t.Errorf("its session is %q %q %q, ended: %v", address, agent, actor, over)
	}
	if origins, err := f.keys.OpenOrigins(t.Context(), f.account, []string{header}); err != nil || origins[0] != (authn.Origin{}) {
		t.Errorf("from where it called is %v, %v", origins, err)
	}
	if kept, all := f.kept(f.stays), f.named(); len(kept) != len(all) {
		t.Errorf("of the other one there is only %v, and not all of %v", kept, all)
	}
	if _, err := f.keys.KeyOf(t.Context(), f.account, f.stays); err != nil {
		t.Error(err)
	}
	// What is told of it is that there is none.
	if _, err := f.service.commands.changeLogin(t.Context(), "test", eventlog.Command{}, f.account, f.gone, LoginWish{DisplayName: ref("again")}); !errs.Is(errs.NotFound, err) {
		t.Errorf("it is changed: %v", err)
	}
	if _, err := f.service.commands.deleteLogin(t.Context(), "test", eventlog.Command{}, f.account, f.gone); !errs.Is(errs.NotFound, err) {
		t.Errorf("it is deleted again: %v", err)
	}
}

// From where somebody has signed in is known for a while only, and deletions are remembered no
// longer than a call may take.
func TestWhatIsKnownForTooLongIsForgotten(t *testing.T) {
	f := newForgetfulness(t)
	now := time.Now()
	for i, age := range []time.Duration{originKept - time.Hour, originKept + time.Hour} {
		if _, err := f.pool().Exec(t.Context(), "INSERT INTO known_origin (account_id, login_id, hash, at) VALUES ($1, $2, $3, $4)",
			[16]byte(f.account), [16]byte(f.stays), bytes.Repeat([]byte{byte(i + 1)}, 32), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.pool().Exec(t.Context(), "INSERT INTO forgotten_login (account_id, login_id, at) VALUES ($1, $2, $3)", [16]byte(f.account), [16]byte(f.gone), now.Add(-strayWithin-time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := f.service.forget.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	var known, forgotten int
	if err := f.pool().QueryRow(t.Context(), "SELECT (SELECT count(*) FROM known_origin WHERE login_id = $1), (SELECT count(*) FROM forgotten_login)", [16]byte(f.stays)).Scan(&known, &forgotten); err != nil {
		t.Fatal(err)
	}
	if known != 2 || forgotten != 0 { // one of fill, and the younger one
		t.Errorf("%d origins and %d deletions are known", known, forgotten)
	}
}
