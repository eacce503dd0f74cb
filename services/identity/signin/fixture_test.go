package signin

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/credential"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/postgres"
)

func TestMain(m *testing.M) { platformtest.Main(m) }

// people is a directory of a few logins, which counts what it is asked.
type people struct {
	mu     sync.Mutex
	logins map[contract.ID]Login
	finds  atomic.Int64
	// away: nothing can be asked.
	away atomic.Bool
	// vouched are whom identity providers of logins' accounts let in.
	vouched map[Ref]Voucher
	// linked counts what was linked.
	linked atomic.Int64
	// linking, where it is set, is done before something is linked.
	linking func()
}

func (p *people) Vouched(_ context.Context, login Ref, v Voucher) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.vouched[login] == v, nil
}

func (p *people) Link(_ context.Context, _ string, one, other LinkEnd) error {
	p.linked.Add(1)
	if p.linking != nil {
		p.linking()
	}
	for _, pair := range [][2]LinkEnd{{one, other}, {other, one}} {
		p.change(pair[0].Login, func(l *Login) {
			l.Links = append(slices.Clone(l.Links), pair[1].Ref)
			if pair[0].ByProvider {
				l.LinksByProvider = append(slices.Clone(l.LinksByProvider), pair[1].Ref)
			}
		})
	}
	return nil
}

func (p *people) Unlink(_ context.Context, _ string, one, other Ref) error {
	for _, pair := range [][2]Ref{{one, other}, {other, one}} {
		p.change(pair[0].Login, func(l *Login) {
			is := func(r Ref) bool { return r == pair[1] }
			l.Links, l.LinksByProvider = slices.DeleteFunc(slices.Clone(l.Links), is), slices.DeleteFunc(slices.Clone(l.LinksByProvider), is)
		})
	}
	return nil
}

func (p *people) FoldName(name string) string { return strings.ToLower(strings.TrimSpace(name)) }

func (p *people) FindLogin(_ context.Context, account, login string) (Login, bool, error) {
	p.finds.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.logins {
		if p.FoldName(l.AccountName) == p.FoldName(account) && p.FoldName(l.Name) == p.FoldName(login) {
			return l, true, nil
		}
	}
	return Login{}, false, nil
}

func (p *people) Login(_ context.Context, account, login contract.ID) (Login, bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away.Load() {
		return Login{}, false, errs.New(errs.Unavailable, "test", "", "the log is away")
	}
	l, ok := p.logins[login]
	return l, ok && l.Account == account, nil
}

func (p *people) SealOrigin(_ context.Context, _, login contract.ID, from authn.Origin) (string, error) {
	return login.String() + ":" + base64.StdEncoding.EncodeToString([]byte("sealed "+from.Address.String())), nil
}

func (p *people) change(id contract.ID, change func(*Login)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.logins[id]
	change(&l)
	p.logins[id] = l
}

// clock stands until it is moved.
type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

type fixture struct {
	*Service
	t        testing.TB
	people   *people
	events   *eventlog.Memory
	clock    *clock
	store    *postgres.Store
	cfg      Config
	ada, bob Login
	home     authn.Origin
	password string
}

func secretsConfig() postgres.Config {
	return postgres.Config{Service: "identitysecrets", Version: 1, Migrations: []postgres.Migrations{Migrations()}}
}

func start(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{
		t: t, people: &people{logins: map[contract.ID]Login{}, vouched: map[Ref]Voucher{}}, events: eventlog.NewMemory(), clock: &clock{}, store: platformtest.Emptied(t, secretsConfig()),
		home: at("192.0.2.1"), password: "correct horse battery",
	}
	f.clock.at.Store(time.Date(2026, 5, 4, 12, 0, 10, 0, time.UTC).UnixNano())
	f.cfg = Config{
		Operator: contract.ID{9}, KeyFile: filepath.Join(t.TempDir(), "sign-in-key"),
		PasswordCost: credential.Cost{MemoryKiB: 8, Passes: 1, Lanes: 1}, AnswerStep: time.Millisecond, Now: f.clock.now,
		PublicURL: func() (string, error) { return "http://127.0.0.1:8080", nil },
	}
	f.ada = Login{Account: contract.ID{1}, ID: contract.ID{0xa}, AccountName: "Works", Name: "Ada", MailAddress: "ada@example.com", Privileges: authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_REPORT)}
	f.bob = Login{Account: contract.ID{2}, ID: contract.ID{0xb}, AccountName: "Other", Name: "Bob"}
	for _, l := range []Login{f.ada, f.bob} {
		f.people.logins[l.ID] = l
	}
	f.restart()
	for _, l := range []Login{f.ada, f.bob} {
		if err := f.replacePassword(t.Context(), "test", "test", l.Account, l.ID, contract.ID{}, f.password, identityv1.PasswordSource_PASSWORD_SOURCE_LOGIN); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// restart is another process on the same tables, log and key file.
func (f *fixture) restart() {
	f.t.Helper()
	s, err := New(f.t.Context(), f.cfg, Deps{Log: f.events, Secrets: f.store, Directory: f.people, Origins: f.people, Logger: platformtest.Logger(nil)})
	if err != nil {
		f.t.Fatal(err)
	}
	f.Service = s
}

func at(address string) authn.Origin { return authn.Origin{Address: netip.MustParseAddr(address)} }

// doAllLater does what no answer waited for.
func (f *fixture) doAllLater() {
	for {
		select {
		case work := <-f.later:
			work(f.t.Context())
		default:
			return
		}
	}
}

func (f *fixture) try(p proof, from authn.Origin) (result, error) {
	if p.account == "" {
		p.account, p.login = "works", "ADA"
	}
	return f.signIn(f.t.Context(), p, from)
}

// in signs Ada in.
func (f *fixture) in() result {
	f.t.Helper()
	r, err := f.try(proof{password: f.password}, f.home)
	if err != nil || r.outcome != identityv1.SignInOutcome_SIGN_IN_OUTCOME_SIGNED_IN {
		f.t.Fatalf("%v, %v", r.outcome, err)
	}
	return r
}

// caller is who calls with a session's access token.
func (f *fixture) caller(r result, reach authzv1.Reach) authn.Caller {
	f.t.Helper()
	id, err := contract.ParseID(r.started.session.GetSessionId())
	if err != nil {
		f.t.Fatal(err)
	}
	return authn.Caller{Account: f.ada.Account, Login: f.ada.ID, Session: id, Actor: f.ada.actor(), Reach: reach}
}

// inSession is who calls with a session of a login that nobody had to sign in to.
func (f *fixture) inSession(l Login) authn.Caller {
	f.t.Helper()
	st := newSession(l, f.clock.now(), false, f.home)
	if err := f.secrets.ChangeInAccount(f.t.Context(), l.Account, func(tx pgx.Tx) error { return st.insert(f.t.Context(), tx) }); err != nil {
		f.t.Fatal(err)
	}
	return authn.Caller{Account: l.Account, Login: l.ID, Session: st.session, Actor: l.actor(), Reach: authzv1.Reach_REACH_SELF}
}

// told are the events of a kind in the log.
func told[M proto.Message](f *fixture) []M {
	f.t.Helper()
	var list []M
	registry := newRegistry()
	for _, e := range f.events.All() {
		m, err := registry.Decode(e)
		if err != nil {
			f.t.Fatal(err)
		}
		if m, ok := m.(M); ok {
			list = append(list, m)
		}
	}
	return list
}

// checks tells whether an access token is good by the keys that are published in the log.
func (f *fixture) checks(token string) error {
	f.t.Helper()
	var keys []ed25519.PublicKey
	for _, e := range told[*identityv1.SigningKeyPublished](f) {
		keys = append(keys, ed25519.PublicKey(e.GetPublicKey()))
	}
	tokens := authn.NewTokens(authn.Issuer(f.cfg.Operator), f.clock.now)
	tokens.SetKeys(authn.NewKeySet(keys...))
	_, err := tokens.Check(token)
	return err
}
