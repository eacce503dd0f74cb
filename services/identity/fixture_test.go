package identity

import (
	"context"
	"crypto/rand"
	"path/filepath"
	"testing"

	"github.com/nats-io/nats.go"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/resource"
)

func TestMain(m *testing.M) { platformtest.Main(m) }

// openStores opens the service's tables in a database of the test's own.
func openStores(t testing.TB) *Stores {
	t.Helper()
	stores, err := OpenStores(t.Context(), platformtest.Database(t), platformtest.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stores.Close)
	return stores
}

// newKeyring is a keyring that seals and opens.
func newKeyring(t testing.TB) *keyring.Keyring {
	t.Helper()
	keys, err := keyring.New(t.Context(), keyring.Config{KeyFile: filepath.Join(t.TempDir(), "name-key")},
		keyring.Deps{Store: platformtest.Store(t, keyring.StoreConfig()), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// newService makes a service that is not running, on a log.
func newService(t testing.TB, nc *nats.Conn) *Service {
	t.Helper()
	s, err := New(Config{Operator: resource.NewID()}, Deps{NATS: nc, Stores: openStores(t), Keys: newKeyring(t), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// running is a service that runs, with the operator's account made.
func running(t *testing.T) *Service {
	t.Helper()
	s := newService(t, platformtest.NATS(t))
	start(t, s)
	return s
}

// start makes the operator's account and runs the service for the test.
func start(t *testing.T, s *Service) {
	t.Helper()
	if err := s.FirstStart(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	_, position, err := s.commands.accounts.Load(t.Context(), accountSubject(s.cfg.Operator))
	if err == nil {
		err = s.wait(t.Context(), position)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// as is a context in which an administrator of an account asks.
func as(ctx context.Context, account contract.ID) context.Context {
	return authn.WithCaller(ctx, authn.Caller{Account: account, Actor: "test", Privileges: authn.AllPrivileges(), Reach: authzv1.Reach_REACH_ACCOUNT})
}

// asLogin is one in which a login asks that has signed in, and sees only what is its own.
func asLogin(ctx context.Context, account, login contract.ID, privileges ...authzv1.Privilege) context.Context {
	return authn.WithCaller(ctx, authn.Caller{
		Account: account, Login: login, Session: resource.NewID(), Actor: "login:" + login.String(), Privileges: authn.PrivilegesOf(privileges...), Reach: authzv1.Reach_REACH_SELF,
	})
}

// openWords seal nothing: for tests of what decides alone.
type openWords struct{}

func (openWords) seal(_, text string) []byte {
	if text == "" {
		return nil
	}
	return []byte(text)
}

func (openWords) open(_ string, sealed []byte) (string, error) { return string(sealed), nil }

func newNameKey() (key NameKey) {
	_, _ = rand.Read(key[:])
	return key
}
