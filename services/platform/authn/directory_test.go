package authn_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"testing"
	"time"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	report = authzv1.Privilege_PRIVILEGE_REPORT
	admin  = authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR
	user   = authzv1.Privilege_PRIVILEGE_APPLICATION_USER
)

// desk judges credentials of one login by a directory that is up to date.
type desk struct {
	*mint
	*authn.Authenticator
	own string // the data directory's key
	key string // of the login
}

var (
	account = contract.ID{1}
	login   = contract.ID{2}
	keyID   = contract.ID{4}
)

func newDesk(t testing.TB) *desk {
	t.Helper()
	d := &desk{mint: newMint(t)}
	keys, own, err := authn.Bootstrap(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	d.own = own
	directory := authn.NewDirectory(d.tokens, func() time.Time { return d.now })
	d.Authenticator = &authn.Authenticator{Keys: keys, Directory: directory}
	directory.SigningKeyPublished(d.public)
	prefix, key := authn.NewKey()
	d.key = key
	directory.LoginPrivileges(account, login, authn.PrivilegesOf(report, admin))
	directory.KeyCreated(account, login, keyID, sha256.Sum256([]byte(key)), prefix, authn.PrivilegesOf(report, user), d.now.Add(time.Hour))
	directory.Level()
	directory.Hears(true)
	return d
}

// judge judges the login's token and its key; an empty reason means that it is let in.
func (d *desk) judge(t *testing.T, what, token, tokenReason, keyReason string) {
	t.Helper()
	for credential, reason := range map[string]string{token: tokenReason, d.key: keyReason} {
		caller, err := d.Authenticate(t.Context(), credential)
		switch {
		case reason == "" && (err != nil || caller.Account != account || caller.Login != login || caller.Operator):
			t.Errorf("%s: %.8s…: %+v, %v", what, credential, caller, err)
		case reason != "" && (err == nil || errs.PublicOf(err).Reason != reason || caller != authn.Caller{}):
			t.Errorf("%s: %.8s…: %+v, %v, not %s", what, credential, caller, err, reason)
		}
	}
	if caller, err := d.Authenticate(t.Context(), d.own); err != nil || !caller.Operator || !caller.Login.IsZero() {
		t.Errorf("%s: the data directory's own key: %+v, %v", what, caller, err)
	}
}

func TestWhatEndsCredentials(t *testing.T) {
	const ended, unavailable = authn.ReasonEnded, "UNAVAILABLE"
	other := contract.ID{9}
	for _, c := range []struct {
		name       string
		do         func(*desk)
		token, key string
	}{
		{"nothing", func(*desk) {}, "", ""},
		{"the session's end", func(d *desk) { d.Directory.SessionEnded(contract.ID{3}, d.now) }, ended, ""},
		{"another session's end", func(d *desk) { d.Directory.SessionEnded(other, d.now) }, "", ""},
		{"the key's revocation", func(d *desk) { d.Directory.KeyRevoked(keyID) }, "", ended},
		{"another key's revocation", func(d *desk) { d.Directory.KeyRevoked(other) }, "", ""},
		{"deletion", func(d *desk) { d.Directory.LoginDeleted(account, login) }, ended, ended},
		{"deletion of the same id elsewhere", func(d *desk) { d.Directory.LoginDeleted(other, login) }, "", ""},
		{"being disabled", func(d *desk) { d.Directory.LoginDisabled(account, login, d.now.Add(time.Second)) }, ended, ended},
		{"being enabled again", func(d *desk) {
			d.Directory.LoginDisabled(account, login, d.now.Add(time.Second))
			d.Directory.LoginEnabled(account, login)
		}, ended, ""},
		{"having been disabled before", func(d *desk) {
			d.Directory.LoginDisabled(account, login, d.now.Add(-time.Second))
			d.Directory.LoginEnabled(account, login)
		}, "", ""},
		{"the signing key's withdrawal", func(d *desk) { d.Directory.SigningKeyWithdrawn(authn.KeyID(d.public)) }, authn.ReasonInvalidToken, ""},
		{"an hour", func(d *desk) { d.now = d.now.Add(time.Hour) }, authn.ReasonExpiredToken, ended},
		{"a log that is silent", func(d *desk) { d.Directory.Hears(false); d.now = d.now.Add(19 * time.Second) }, "", ""},
		{"a log that is silent for long", func(d *desk) { d.Directory.Hears(false); d.now = d.now.Add(21 * time.Second) }, unavailable, unavailable},
		{"a log that is heard again", func(d *desk) {
			d.Directory.Hears(false)
			d.now = d.now.Add(time.Minute)
			d.Directory.Hears(true)
		}, "", ""},
		{"another log", func(d *desk) { d.Directory.Reset(); d.Directory.SigningKeyPublished(d.public) }, unavailable, unavailable},
	} {
		d := newDesk(t)
		token := d.sign(t, d.token())
		d.judge(t, "before "+c.name, token, "", "")
		c.do(d)
		d.judge(t, "after "+c.name, token, c.token, c.key)
	}
}

// A session that was switched to ends with the one it came from, in every process, and with that
// one's login.
func TestWhatEndsASwitchedSession(t *testing.T) {
	origin := authn.TokenOrigin{Account: contract.ID{5}, Login: contract.ID{6}, Session: contract.ID{7}}
	for name, c := range map[string]struct {
		do   func(*desk)
		ends bool
	}{
		"nothing":                           {func(*desk) {}, false},
		"the end of its origin":             {func(d *desk) { d.Directory.SessionEnded(origin.Session, d.now) }, true},
		"another login's end":               {func(d *desk) { d.Directory.LoginDeleted(contract.ID{9}, origin.Login) }, false},
		"deletion of the origin's login":    {func(d *desk) { d.Directory.LoginDeleted(origin.Account, origin.Login) }, true},
		"the origin's login being disabled": {func(d *desk) { d.Directory.LoginDisabled(origin.Account, origin.Login, d.now.Add(time.Second)) }, true},
		"having been disabled long before":  {func(d *desk) { disabled(d, origin, -time.Second) }, false},
		"being disabled, and enabled again": {func(d *desk) { disabled(d, origin, time.Second) }, true},
	} {
		d := newDesk(t)
		token := d.token()
		token.Origin = origin
		text := d.sign(t, token)
		c.do(d)
		if _, err := d.Authenticate(t.Context(), text); (err != nil) != c.ends || err != nil && errs.PublicOf(err).Reason != authn.ReasonEnded {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := d.Authenticate(t.Context(), d.sign(t, d.token())); err != nil {
			t.Errorf("%s ended a session that was signed in to: %v", name, err)
		}
	}
}

func disabled(d *desk, origin authn.TokenOrigin, when time.Duration) {
	d.Directory.LoginDisabled(origin.Account, origin.Login, d.now.Add(when))
	d.Directory.LoginEnabled(origin.Account, origin.Login)
}

func TestWhatALoginLosesItsCredentialsLose(t *testing.T) {
	d := newDesk(t)
	token := d.sign(t, d.token())
	has := func(credential string, want ...authzv1.Privilege) {
		t.Helper()
		if caller, err := d.Authenticate(t.Context(), credential); err != nil || caller.Privileges != authn.PrivilegesOf(want...) {
			t.Errorf("%.8s… has %v (%v), not %v", credential, caller.Privileges.List(), err, want)
		}
	}
	has(token, report, admin)
	has(d.key, report)
	d.Directory.LoginPrivileges(account, login, authn.PrivilegesOf(admin, user))
	has(token, admin)
	has(d.key, user)
	d.Directory.LoginPrivileges(account, login, 0)
	has(token)
	has(d.key)
}

// A login that was made a moment ago is not kept out until its events are read.
func TestTokensOfLoginsThatAreNotReadYetAreGood(t *testing.T) {
	d := newDesk(t)
	token := d.token()
	token.Login = contract.ID{7}
	caller, err := d.Authenticate(t.Context(), d.sign(t, token))
	if err != nil || caller.Login != token.Login || caller.Privileges != token.Privileges {
		t.Errorf("%+v, %v", caller, err)
	}
	d.Directory.LoginDeleted(account, token.Login)
	if _, err := d.Authenticate(t.Context(), d.sign(t, token)); err == nil {
		t.Error("a login that was deleted before anything else was read of it")
	}
}

// A key is good wherever it comes, from the moment that it was shown; strangers' keys are
// refused, however many wait.
func TestAKeyMayComeBeforeItsNews(t *testing.T) {
	d := newDesk(t)
	prefix, key := authn.NewKey()
	began, came := make(chan struct{}), make(chan error, 1)
	go func() {
		close(began)
		for { // a wait may end before the news come where this machine is busy
			_, err := d.Authenticate(t.Context(), key)
			if err == nil || t.Context().Err() != nil || !errs.Is(errs.Unauthenticated, err) {
				came <- err
				return
			}
		}
	}()
	<-began
	d.Directory.KeyCreated(account, login, contract.ID{5}, sha256.Sum256([]byte(key)), prefix, authn.PrivilegesOf(report), d.now.Add(time.Hour))
	if err := <-came; err != nil {
		t.Error(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, stranger := authn.NewKey()
	if _, err := d.Authenticate(gone, stranger); err == nil || errs.PublicOf(err).Reason != authn.ReasonInvalidKey {
		t.Errorf("a stranger's key: %v", err)
	}
}

func TestTheOperatorIsKnownByTheAccount(t *testing.T) {
	d := newDesk(t)
	token := d.token()
	token.Account = d.Keys.Account()
	if caller, err := d.Authenticate(t.Context(), d.sign(t, token)); err != nil || !caller.Operator {
		t.Errorf("%+v, %v", caller, err)
	}
}

func BenchmarkCheck(b *testing.B) {
	d := newDesk(b)
	token := d.sign(b, d.token())
	ctx := b.Context()
	check := func(b *testing.B, credential string) {
		for b.Loop() {
			if _, err := d.Authenticate(ctx, credential); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("token", func(b *testing.B) { check(b, token) })
	b.Run("api_key", func(b *testing.B) { check(b, d.key) })
	b.Run("token_at_first_sight", func(b *testing.B) {
		keys := authn.NewKeySet(d.public)
		for b.Loop() {
			d.tokens.SetKeys(keys)
			if _, err := d.Authenticate(ctx, token); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("signature", func(b *testing.B) { // what the last one cannot do without
		public, key, _ := ed25519.GenerateKey(rand.Reader)
		text := make([]byte, len(token))
		signature := ed25519.Sign(key, text)
		for b.Loop() {
			if !ed25519.Verify(public, text, signature) {
				b.Fatal("not verified")
			}
		}
	})
}
