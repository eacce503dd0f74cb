package follow_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/authn/follow"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/platformtest"
)

const (
	issuer = "test"
	// within is how long a test waits for what takes milliseconds.
	within = 60 * time.Second
)

var (
	account = contract.ID{1}
	login   = contract.ID{2}
	session = contract.ID{3}
	keyID   = contract.ID{4}
)

// book writes what identity would, and judges as a process does.
type book struct {
	t         *testing.T
	nc        *nats.Conn
	keys      *authn.Keys
	signer    *authn.Signer
	public    ed25519.PublicKey
	key       string // of the login
	directory *authn.Directory
	auth      *authn.Authenticator
}

func newBook(t *testing.T, nc *nats.Conn) *book {
	t.Helper()
	b := &book{t: t, nc: nc}
	var private ed25519.PrivateKey
	var err error
	if b.public, private, err = ed25519.GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	if b.signer, err = authn.NewSigner(issuer, private); err != nil {
		t.Fatal(err)
	}
	if b.keys, _, err = authn.Bootstrap(t.TempDir(), time.Now()); err != nil {
		t.Fatal(err)
	}
	b.open()
	return b
}

// open begins with a directory that knows nothing.
func (b *book) open() {
	b.directory = authn.NewDirectory(authn.NewTokens(issuer, time.Now), time.Now)
	b.auth = &authn.Authenticator{Keys: b.keys, Directory: b.directory}
}

// follow feeds the directory until stop, which tells how it ended.
func (b *book) follow() (stop func() error) {
	b.t.Helper()
	js, err := jetstream.New(b.nc)
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	ended := make(chan error, 1)
	directory := b.directory
	go func() { ended <- follow.New(js, b.keys.Account(), directory, platformtest.Logger(b.t)).Run(ctx) }()
	stop = func() error { cancel(); err := <-ended; ended <- err; return err }
	b.t.Cleanup(func() { _ = stop() })
	return stop
}

// write records an event.
func (b *book) write(account contract.ID, aggregate, id, kind string, message proto.Message) {
	b.t.Helper()
	data, err := proto.Marshal(message)
	if err != nil {
		b.t.Fatal(err)
	}
	b.raw(account, aggregate, id, eventlog.Event{Type: "cetrus.identity." + aggregate + "." + kind + ".v1", Data: data})
}

func (b *book) raw(account contract.ID, aggregate, id string, event eventlog.Event) {
	b.t.Helper()
	log := eventlog.NewJetStream(b.nc, contract.EventStream)
	subject := contract.EventSubject(account, "identity", aggregate, id)
	last, err := log.Last(b.t.Context(), subject)
	if err == nil {
		_, err = log.Append(b.t.Context(), subject, last, event)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// fill writes a login with a key, and the key that signs its tokens.
func (b *book) fill() {
	b.t.Helper()
	b.write(b.keys.Account(), "signingkey", authn.KeyID(b.public), "published", &identityv1.SigningKeyPublished{PublicKey: b.public})
	b.write(account, "login", login.String(), "created", &identityv1.LoginCreated{LoginId: login[:]})
	b.privileges(authzv1.Privilege_PRIVILEGE_REPORT, authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR)
	var prefix string
	prefix, b.key = authn.NewKey()
	hash := sha256.Sum256([]byte(b.key))
	b.write(account, "apikey", keyID.String(), "created", &identityv1.ApiKeyCreated{
		ApiKeyId: keyID[:], LoginId: login[:], Sha256: hash[:], Prefix: prefix,
		Privileges: []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_REPORT}, ExpireTime: timestamppb.New(time.Now().Add(time.Hour)),
	})
}

func (b *book) privileges(all ...authzv1.Privilege) {
	b.t.Helper()
	b.write(account, "login", login.String(), "privileges_changed", &identityv1.LoginPrivilegesChanged{Privileges: all})
}

// token is a token that was signed in the second before this.
func (b *book) token() string {
	b.t.Helper()
	text, err := b.signer.Sign(authn.AccessToken{
		Account: account, Login: login, Session: session, Issued: time.Now().Truncate(time.Second), Privileges: authn.AllPrivileges(),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return text
}

// eventually waits until a credential is judged so, and tells how long that took.
func (b *book) eventually(what, credential string, ok func(authn.Caller, error) bool) time.Duration {
	b.t.Helper()
	began := time.Now()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		caller, err := b.auth.Authenticate(b.t.Context(), credential)
		if ok(caller, err) {
			return time.Since(began)
		}
		if time.Since(began) > within {
			b.t.Fatalf("%s: still %+v, %v", what, caller, err)
		}
	}
}

func isGood(_ authn.Caller, err error) bool { return err == nil }

func reason(want string) func(authn.Caller, error) bool {
	return func(_ authn.Caller, err error) bool { return err != nil && errs.PublicOf(err).Reason == want }
}

// What is taken away is out as soon as it is recorded; a process that starts later knows.
func TestWhatIsTakenAwayIsOut(t *testing.T) {
	for _, c := range []struct {
		name string
		take func(*book)
		// tokenOut and keyOut say which of them that ends.
		tokenOut, keyOut bool
	}{
		{"session", func(b *book) {
			b.write(account, "session", session.String(), "ended", &identityv1.SessionEnded{SessionId: session[:], LoginId: login[:]})
		}, true, false},
		{"key", func(b *book) { b.write(account, "apikey", keyID.String(), "revoked", &identityv1.ApiKeyRevoked{}) }, false, true},
		{"disabled", func(b *book) { b.write(account, "login", login.String(), "disabled", &identityv1.LoginDisabled{}) }, true, true},
		{"deleted", func(b *book) { b.write(account, "login", login.String(), "deleted", &identityv1.LoginDeleted{}) }, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBook(t, platformtest.NATS(t))
			stop := b.follow()
			b.fill()
			token := b.token()
			b.eventually("the token", token, isGood)
			b.eventually("the key", b.key, isGood)
			c.take(b)
			judge := func(when string) {
				t.Helper()
				for credential, out := range map[string]bool{token: c.tokenOut, b.key: c.keyOut} {
					if out {
						took := b.eventually("what was ended", credential, reason(authn.ReasonEnded))
						t.Logf("%s: out after %s", when, took)
					} else if caller, err := b.auth.Authenticate(t.Context(), credential); err != nil {
						t.Errorf("%s: %+v, %v", when, caller, err)
					}
				}
			}
			judge("where it was followed")
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			b.open()
			if _, err := b.auth.Authenticate(t.Context(), b.key); !errs.Is(errs.Unavailable, err) {
				t.Errorf("a process that has read nothing: %v", err)
			}
			b.follow()
			b.eventually("the directory", "x", func(authn.Caller, error) bool { return b.directory.Ready() == nil })
			judge("where it is read again")
		})
	}
}

func TestPrivilegesFollowTheLog(t *testing.T) {
	t.Parallel()
	b := newBook(t, platformtest.NATS(t))
	b.follow()
	b.fill()
	token := b.token()
	b.eventually("the token", token, isGood)
	b.privileges(authzv1.Privilege_PRIVILEGE_APPLICATION_USER)
	b.eventually("the token", token, func(c authn.Caller, err error) bool {
		return err == nil && c.Privileges == authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_APPLICATION_USER)
	})
	b.eventually("the key", b.key, func(c authn.Caller, err error) bool { return err == nil && c.Privileges == 0 })
}

func TestSigningKeysComeAndGo(t *testing.T) {
	t.Parallel()
	b := newBook(t, platformtest.NATS(t))
	b.follow()
	// Another account's word of keys counts for nothing.
	b.write(account, "signingkey", authn.KeyID(b.public), "published", &identityv1.SigningKeyPublished{PublicKey: b.public})
	b.eventually("the directory", "x", func(authn.Caller, error) bool { return b.directory.Ready() == nil })
	if _, err := b.auth.Authenticate(t.Context(), b.token()); err == nil {
		t.Error("a key that another account has published")
	}
	b.fill()
	b.eventually("a token", b.token(), isGood)
	b.write(b.keys.Account(), "signingkey", authn.KeyID(b.public), "withdrawn", &identityv1.SigningKeyWithdrawn{})
	b.eventually("a token", b.token(), reason(authn.ReasonInvalidToken))
}

// What cannot be understood is not passed over: it might have ended something.
func TestABadEventStopsIt(t *testing.T) {
	for name, event := range map[string]eventlog.Event{
		"no message": {Type: "cetrus.identity.apikey.created.v1", Data: []byte{0xff}},
		"no login":   {Type: "cetrus.identity.apikey.created.v1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBook(t, platformtest.NATS(t))
			js, err := jetstream.New(b.nc)
			if err != nil {
				t.Fatal(err)
			}
			b.raw(account, "apikey", keyID.String(), event)
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			err = follow.New(js, b.keys.Account(), b.directory, platformtest.Logger(t)).Run(ctx)
			if err == nil || !strings.Contains(err.Error(), "event") || ctx.Err() != nil || b.directory.Ready() == nil {
				t.Errorf("it ended with %v; ready: %v", err, b.directory.Ready())
			}
		})
	}
}

// A log that is away is noticed, and one that comes back is read on; what was ended while
// nobody heard is out then.
func TestItOutlivesItsServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	nc, kill := platformtest.NATSServer(t, dir)
	b := newBook(t, nc)
	stop := b.follow()
	b.fill()
	token := b.token()
	b.eventually("the token", token, isGood)
	kill()
	nc2, _ := platformtest.NATSServer(t, dir)
	b.nc = nc2
	b.write(account, "login", login.String(), "deleted", &identityv1.LoginDeleted{})
	// The connection of the first follower leads to a server that is gone for good.
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	b.follow()
	b.eventually("the token", token, reason(authn.ReasonEnded))
}
