package authn

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// deafFor is how long a directory may hear nothing and still be asked: what was ended
// meanwhile would not be known.
const deafFor = 20 * time.Second

// Directory is what identity has decided of logins, their API keys and sessions, in memory:
// what ends a key or a token before its own end. Somebody feeds it from the log and says how
// far that is; it is safe for concurrent use.
type Directory struct {
	tokens *Tokens
	now    func() time.Time

	mu     sync.RWMutex
	logins map[loginRef]standing
	keys   map[[sha256.Size]byte]loginKey
	hashes map[contract.ID][sha256.Size]byte // by key
	ended  map[contract.ID]time.Time         // sessions, by when
	// signing are the keys that tokens may be signed with.
	signing []ed25519.PublicKey
	// appeared is closed when a key is made known, and then another.
	appeared chan struct{}
	// level says that all was read that there was.
	level bool
	// deafSince is when the log was last heard; zero: it is being heard.
	deafSince time.Time

	waiting chan struct{}
}

type loginRef struct{ account, login contract.ID }

// standing is what a login may.
type standing struct {
	privileges        Privileges
	disabled, deleted bool
	// tokensFrom is the moment before which tokens were issued that are good no more.
	tokensFrom time.Time
}

// loginKey is an API key of a login.
type loginKey struct {
	ref        loginRef
	prefix     string
	privileges Privileges
	expires    time.Time
	revoked    bool
	id         contract.ID
	// used is when it was last good for a call, in seconds of UTC; 0: never.
	used *atomic.Int64
}

// NewDirectory makes a directory that knows nothing, and says so. It gives tokens the keys
// that they may be signed with.
func NewDirectory(tokens *Tokens, now func() time.Time) *Directory {
	d := &Directory{tokens: tokens, now: now, appeared: make(chan struct{}), waiting: make(chan struct{}, maxWaiting)}
	d.Reset()
	return d
}

// Reset forgets everything: the log is another one.
func (d *Directory) Reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.logins, d.keys = map[loginRef]standing{}, map[[sha256.Size]byte]loginKey{}
	d.hashes, d.ended = map[contract.ID][sha256.Size]byte{}, map[contract.ID]time.Time{}
	d.level = false
	d.sign(nil)
}

func (d *Directory) sign(keys []ed25519.PublicKey) {
	d.signing = keys
	d.tokens.SetKeys(NewKeySet(keys...))
}

// SigningKeyPublished makes tokens good that a key signs.
func (d *Directory) SigningKeyPublished(key ed25519.PublicKey) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sign(append(slices.Clone(d.signing), key))
}

// SigningKeyWithdrawn ends the tokens that a key has signed.
func (d *Directory) SigningKeyWithdrawn(keyID string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sign(slices.DeleteFunc(slices.Clone(d.signing), func(key ed25519.PublicKey) bool { return KeyID(key) == keyID }))
}

// Level says that everything was fed that the log held.
func (d *Directory) Level() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.level = true
}

// Hears says whether the log is heard now.
func (d *Directory) Hears(hears bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case hears:
		d.deafSince = time.Time{}
	case d.deafSince.IsZero():
		d.deafSince = d.now()
	}
}

// Ready tells why the directory cannot be asked; nil where it can.
func (d *Directory) Ready() error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.ready()
}

func (d *Directory) ready() error {
	if !d.level || !d.deafSince.IsZero() && d.now().Sub(d.deafSince) > deafFor {
		return errs.New(errs.Unavailable, "authn.Directory", "the directory of logins",
			"is not up to date, so nobody can be let in who was not let in by the platform's own key: repeat in a moment")
	}
	return nil
}

func (d *Directory) change(account, login contract.ID, change func(*standing)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ref := loginRef{account, login}
	s := d.logins[ref]
	change(&s)
	d.logins[ref] = s
}

// LoginPrivileges says all privileges that a login has from now on.
func (d *Directory) LoginPrivileges(account, login contract.ID, privileges Privileges) {
	d.change(account, login, func(s *standing) { s.privileges = privileges })
}

// LoginDisabled ends a login's tokens, and its keys until it is enabled.
func (d *Directory) LoginDisabled(account, login contract.ID, at time.Time) {
	d.change(account, login, func(s *standing) { s.disabled, s.tokensFrom = true, at })
}

// LoginEnabled lets a login sign in again.
func (d *Directory) LoginEnabled(account, login contract.ID) {
	d.change(account, login, func(s *standing) { s.disabled = false })
}

// LoginDeleted ends a login, its tokens and its keys.
func (d *Directory) LoginDeleted(account, login contract.ID) {
	d.change(account, login, func(s *standing) { s.deleted = true })
}

// KeyCreated makes an API key of a login known.
func (d *Directory) KeyCreated(account, login, key contract.ID, hash [sha256.Size]byte, prefix string, privileges Privileges, expires time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keys[hash] = loginKey{ref: loginRef{account, login}, prefix: prefix, privileges: privileges, expires: expires, id: key, used: new(atomic.Int64)}
	d.hashes[key] = hash
	close(d.appeared)
	d.appeared = make(chan struct{})
}

// KeyRevoked ends an API key.
func (d *Directory) KeyRevoked(key contract.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	hash := d.hashes[key]
	if k, ok := d.keys[hash]; ok {
		k.revoked = true
		d.keys[hash] = k
	}
}

// KeyUse is when a key was last used here.
type KeyUse struct {
	Account, Login, Key contract.ID
	At                  time.Time
}

// KeysUsed are the keys that were used here at a moment or later, to the second.
func (d *Directory) KeysUsed(since time.Time) []KeyUse {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var uses []KeyUse
	for _, k := range d.keys {
		if at := k.used.Load(); at != 0 && at >= since.Unix() {
			uses = append(uses, KeyUse{Account: k.ref.account, Login: k.ref.login, Key: k.id, At: time.Unix(at, 0)})
		}
	}
	return uses
}

// SessionEnded ends the tokens of a session. It is remembered for as long as one can be
// good that was issued before.
func (d *Directory) SessionEnded(session contract.ID, at time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	oldest := d.now().Add(-SessionsMatterFor)
	if at.Before(oldest) {
		return
	}
	if len(d.ended)%1024 == 1023 {
		for other, then := range d.ended {
			if then.Before(oldest) {
				delete(d.ended, other)
			}
		}
	}
	d.ended[session] = at
}

// SessionsMatterFor is how long ago a session may have ended whose tokens could still be
// good by themselves.
const SessionsMatterFor = TokenLife + 2*clockSkew

const messageEnded = " has ended: sign in again, or use another key"

func ended(what string) error {
	return errs.New(errs.Unauthenticated, "authn.Directory", "", what+messageEnded).WithReason(ReasonEnded)
}

const (
	// newsWithin is how long a key may be unknown here that was made a moment ago.
	newsWithin = 250 * time.Millisecond
	// maxWaiting bounds the calls that wait for that: strangers' keys are never known.
	maxWaiting = 64
)

// awaitKey waits for news of a key that is not known, for as long as they may be on their
// way: whoever made it may use it at once, wherever they like.
func (d *Directory) awaitKey(ctx context.Context, key string) {
	select {
	case d.waiting <- struct{}{}:
		defer func() { <-d.waiting }()
	default:
		return
	}
	hash := hashKey(key)
	timeout := time.NewTimer(newsWithin)
	defer timeout.Stop()
	for {
		d.mu.RLock()
		_, known := d.keys[hash]
		appeared, level := d.appeared, d.level
		d.mu.RUnlock()
		if known || !level {
			return
		}
		select {
		case <-appeared:
		case <-timeout.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// judgeKey finds the caller behind an API key of a login.
func (d *Directory) judgeKey(key string) (Caller, error) {
	hash := hashKey(key)
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.ready(); err != nil {
		return Caller{}, err
	}
	k, ok := d.keys[hash] // found by what nobody can find who has not the key
	if !ok {
		return Caller{}, errs.New(errs.Unauthenticated, "authn.Directory", "", messageInvalidKey).WithReason(ReasonInvalidKey)
	}
	s, known := d.logins[k.ref]
	if !known || k.revoked || s.disabled || s.deleted || !d.now().Before(k.expires) {
		return Caller{}, ended("this API key, or its login,")
	}
	k.used.Store(d.now().Unix())
	// What a login has lost, its keys have lost too.
	return Caller{Account: k.ref.account, Login: k.ref.login, Actor: "key:" + k.prefix, Privileges: k.privileges & s.privileges}, nil
}

// ErrDisabled is of a login that is there, and may not sign in.
var ErrDisabled = errs.New(errs.Precondition, "authn.Directory", "", "this login is disabled")

// CallerOf is a login as it would call now, for what the platform does in its name: with all that it
// may. It is ErrDisabled, or NotFound where there is no such login; each is as the log had it a moment ago.
func (d *Directory) CallerOf(account, login contract.ID) (Caller, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.ready(); err != nil {
		return Caller{}, err
	}
	s, known := d.logins[loginRef{account, login}]
	switch {
	case !known || s.deleted:
		return Caller{}, errs.New(errs.NotFound, "authn.Directory", "login "+login.String(), "there is no such login in this account")
	case s.disabled:
		return Caller{}, ErrDisabled
	}
	return Caller{Account: account, Login: login, Actor: "login:" + login.String(), Privileges: s.privileges}, nil
}

// judgeToken finds the caller behind an access token that is good by itself.
func (d *Directory) judgeToken(t AccessToken) (Caller, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if err := d.ready(); err != nil {
		return Caller{}, err
	}
	c := Caller{Account: t.Account, Login: t.Login, Session: t.Session, Actor: "login:" + t.Login.String(), Privileges: t.Privileges}
	// A login that is not known was made a moment ago: identity has signed that it is there.
	if s, known := d.logins[loginRef{t.Account, t.Login}]; known {
		if s.disabled || s.deleted || t.Issued.Before(s.tokensFrom) {
			return Caller{}, ended("this login, or its session,")
		}
		c.Privileges &= s.privileges
	}
	if _, over := d.ended[t.Session]; over {
		return Caller{}, ended("this session")
	}
	if t.Origin != (TokenOrigin{}) {
		s := d.logins[loginRef{t.Origin.Account, t.Origin.Login}]
		_, over := d.ended[t.Origin.Session]
		if over || s.disabled || s.deleted || t.Issued.Before(s.tokensFrom) {
			return Caller{}, ended("the session that this one was switched from, or its login,")
		}
	}
	return c, nil
}
