package console

import (
	"context"
	"crypto/sha256"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/rpc"
)

// securePrefix has browsers refuse cookies of these names from any other host and over plain HTTP; it
// needs HTTPS itself.
const securePrefix = "__Host-"

// cookieNames are those of the cookies that hold the tokens of a session.
type cookieNames struct{ access, refresh string }

var (
	// current is the session that pages are asked for in.
	current = cookieNames{"cetrus-access", "cetrus-refresh"}
	// home is the session that somebody signed in to, while they have switched to another account.
	home = cookieNames{"cetrus-home-access", "cetrus-home-refresh"}
)

// visit is one request of somebody who is signed in.
type visit struct {
	// ctx carries their token to the services.
	ctx    context.Context
	w      http.ResponseWriter
	r      *http.Request
	caller authn.Caller
	// tokens are those of the session; when they expire is known only where they were just renewed.
	tokens *identityv1.Tokens
	page   *page
	// overheard says that nothing is shown: a page's question alone is wanted.
	overheard bool
	// asked is what the page says of how it was asked; nil until it is wanted (asks).
	asked *asked
	// refused is the form that is just not done; nil on every other visit.
	refused *refusal
}

// locale is how whoever asks reads numbers.
func (v *visit) locale() locale {
	l, _ := localeOf(v.r)
	return l
}

// secure tells whether the browser came by HTTPS, to this process or to the proxy before it.
func secure(r *http.Request) bool {
	return r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

func cookieName(r *http.Request, name string) string {
	if secure(r) {
		return securePrefix + name
	}
	return name
}

// keep has the browser hold the tokens, or with nil lose them.
func keep(w http.ResponseWriter, r *http.Request, names cookieNames, tokens *identityv1.Tokens) {
	set := func(name, value string, expires time.Time) {
		cookie := &http.Cookie{ //nolint:gosec // not Secure only where the whole platform is reached in plain, on one machine
			Name: cookieName(r, name), Value: value, Path: "/", Secure: secure(r), HttpOnly: true, SameSite: http.SameSiteLaxMode,
		}
		if value == "" {
			cookie.MaxAge = -1
		} else {
			cookie.Expires = expires
		}
		http.SetCookie(w, cookie)
	}
	set(names.access, tokens.GetAccessToken(), tokens.GetAccessTokenExpireTime().AsTime())
	set(names.refresh, tokens.GetRefreshToken(), tokens.GetRefreshTokenExpireTime().AsTime())
}

func cookieOf(r *http.Request, name string) string {
	if cookie, err := r.Cookie(cookieName(r, name)); err == nil {
		return cookie.Value
	}
	return ""
}

// admitted lets those in who have a session, renewing its access token where it has expired;
// others are sent to sign in, and come back from there.
func (s *Service) admitted(next func(*visit)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		caller, tokens, err := s.enterBy(w, r, current)
		if err != nil {
			if rpc.Status(err).Code() == codes.Unauthenticated {
				s.toSignIn(w, r)
			} else {
				s.fail(&visit{ctx: r.Context(), w: w, r: r}, err)
			}
			return
		}
		next(&visit{ctx: asking(r, tokens.GetAccessToken()), w: w, r: r, caller: caller, tokens: tokens})
	}
}

// enter finds out whose session the request is of.
func (s *Service) enter(w http.ResponseWriter, r *http.Request) (caller authn.Caller, token string, err error) {
	caller, tokens, err := s.enterBy(w, r, current)
	return caller, tokens.GetAccessToken(), err
}

// enterBy finds out whose session some cookies are of. Where it was not renewed, nothing is known of
// when its tokens expire.
func (s *Service) enterBy(w http.ResponseWriter, r *http.Request, names cookieNames) (caller authn.Caller, tokens *identityv1.Tokens, err error) {
	err = errs.New(errs.Unauthenticated, "console.enter", "", "nobody is signed in")
	access, refresh := cookieOf(r, names.access), cookieOf(r, names.refresh)
	if access != "" {
		if caller, err = s.deps.Authenticator.Authenticate(r.Context(), access); err == nil {
			return caller, &identityv1.Tokens{AccessToken: access, RefreshToken: refresh}, nil
		}
	}
	if refresh == "" {
		return authn.Caller{}, nil, err
	}
	if tokens, err = s.renewals.renew(asking(r, ""), refresh); err != nil {
		return authn.Caller{}, nil, err
	}
	keep(w, r, names, tokens)
	if names == current && cookieOf(r, home.refresh) != "" {
		// The session that this one was switched from must not be taken for an idle one. If it is over,
		// so is this one, as its next renewal tells.
		if _, _, err := s.enterBy(w, r, home); err != nil {
			s.deps.Logger.DebugContext(r.Context(), "a session that was switched from could not be renewed", "error", err)
		}
	}
	caller, err = s.deps.Authenticator.Authenticate(r.Context(), tokens.GetAccessToken())
	return caller, tokens, err
}

// toSignIn asks for a sign-in. A part of a page that htmx fetches, or a stream, is told so in a
// way that takes the whole page there.
func (s *Service) toSignIn(w http.ResponseWriter, r *http.Request) {
	begin(w, r, nil)
	part := r.Header.Get("Hx-Request") != ""
	if part && r.Header.Get("Hx-Trigger") == rolloutID {
		// What renews itself takes nobody away from what they are typing.
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	query := url.Values{}
	if next := placeOf(r); next != "/" {
		query.Set("next", next)
	}
	if r.Method == http.MethodPost && s.keepTyped(w, r, placeOf(r)) {
		query.Set(typedParameter, "")
	}
	address := "/sign-in"
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	if part {
		w.Header().Set("Hx-Redirect", address)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	http.Redirect(w, r, address, http.StatusSeeOther)
}

// placeOf is the page that a request came from, or asks for, to come back to.
func placeOf(r *http.Request) string {
	if r.Method == http.MethodGet && r.Header.Get("Hx-Request") == "" {
		return nextAfter(r.URL.RequestURI())
	}
	from := r.Referer()
	if from == "" {
		from = r.Header.Get("Hx-Current-Url")
	}
	if u, err := url.Parse(from); err == nil && u.Host == r.Host {
		if next := nextAfter(u.RequestURI()); next != "/" {
			return next
		}
	}
	return nextAfter(r.URL.Path) // every action's own address shows its form
}

// asking passes on who asks, and for whom, as the gateway does.
func asking(r *http.Request, token string) context.Context {
	md := rpc.ForwardedOrigin(r)
	if token != "" {
		md.Set("authorization", "Bearer "+token)
	}
	return metadata.NewOutgoingContext(r.Context(), md)
}

// Of what one page asks for at once, several parts may come with the same expired token.
const (
	// renewalLife is how long the answer to a refresh token is remembered for them.
	renewalLife  = 30 * time.Second
	renewalLimit = 10 * time.Second
)

// renewals uses each refresh token once, however many requests bring it: a second use would end
// the session.
type renewals struct {
	client identityv1.SignInServiceClient
	now    func() time.Time

	mu    sync.Mutex
	known map[[sha256.Size]byte]*renewal
}

type renewal struct {
	began  time.Time
	done   chan struct{}
	tokens *identityv1.Tokens
	err    error
}

func newRenewals(client identityv1.SignInServiceClient, now func() time.Time) *renewals {
	return &renewals{client: client, now: now, known: map[[sha256.Size]byte]*renewal{}}
}

func (r *renewals) renew(ctx context.Context, refresh string) (*identityv1.Tokens, error) {
	key := sha256.Sum256([]byte(refresh))
	now := r.now()
	r.mu.Lock()
	for other, of := range r.known {
		if now.Sub(of.began) > renewalLife {
			delete(r.known, other)
		}
	}
	running, ok := r.known[key]
	if !ok {
		running = &renewal{began: now, done: make(chan struct{})}
		r.known[key] = running
	}
	r.mu.Unlock()
	if !ok {
		// Whoever came first may go away; the others still need the answer.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewalLimit)
		defer cancel()
		answer, err := r.client.RefreshSession(ctx, &identityv1.RefreshSessionRequest{RefreshToken: refresh})
		running.tokens, running.err = answer.GetTokens(), err
		close(running.done)
		if err != nil && status.Code(err) != codes.Unauthenticated {
			r.forget(key)
		}
	}
	select {
	case <-running.done:
		return running.tokens, running.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// forget lets the next request ask again.
func (r *renewals) forget(key [sha256.Size]byte) {
	r.mu.Lock()
	delete(r.known, key)
	r.mu.Unlock()
}
