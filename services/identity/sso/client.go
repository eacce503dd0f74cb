package sso

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/cetrus/cetrus/proto/contract"
)

const (
	// askWithin bounds each question to a provider.
	askWithin = 10 * time.Second
	// maxAnswerBytes is more than any provider has to say.
	maxAnswerBytes = 1 << 20
	// knownFor is how long what a provider publishes is not asked for again; its keys are,
	// when a token names one that is not known.
	knownFor = time.Hour
	// failedFor is how long a provider that did not answer is not asked again: strangers
	// can have it asked.
	failedFor = 10 * time.Second
)

// errPrivate means that a provider is where providers of strangers must not be.
var errPrivate = errors.New("its address is of a private network, where the operator of this platform allows no identity providers (setting single-sign-on-private-addresses)")

// errPlain means that what is said to a provider could be read on the way.
var errPlain = errors.New("it is not reached by https")

// special are ranges beside those that netip knows, that belong to no host of the internet.
var special = []netip.Prefix{ //nolint:gochecknoglobals // constant
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("64:ff9b::/96"),
	netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("fec0::/10"),
}

// isPublic tells whether an address is of the internet.
func isPublic(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return a.IsGlobalUnicast() && !a.IsPrivate() && !slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(a) })
}

// newHTTPClient makes the client for all that goes to providers.
func newHTTPClient(private bool) *http.Client {
	dialer := &net.Dialer{Timeout: 5 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		// Here the name is resolved: what is judged is what is dialled.
		at, err := netip.ParseAddrPort(address)
		if err != nil || !private && !isPublic(at.Addr()) {
			return errPrivate
		}
		return nil
	}}
	return &http.Client{
		Timeout: askWithin,
		Transport: guarded{private, &http.Transport{
			DialContext: dialer.DialContext, ForceAttemptHTTP2: true, TLSHandshakeTimeout: 5 * time.Second,
			MaxIdleConns: 20, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// guarded refuses plain HTTP, and cuts answers.
type guarded struct {
	private bool
	next    http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (g guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := checkScheme(r.URL, g.private); err != nil {
		return nil, err
	}
	resp, err := g.next.RoundTrip(r)
	if err == nil {
		resp.Body = cut{io.LimitReader(resp.Body, maxAnswerBytes), resp.Body}
	}
	return resp, err
}

// checkScheme lets plain HTTP through to this machine alone, for those who try things out.
func checkScheme(u *url.URL, private bool) error {
	if u.Scheme == "https" {
		return nil
	}
	if a, err := netip.ParseAddr(u.Hostname()); private && u.Scheme == "http" && (u.Hostname() == "localhost" || err == nil && a.IsLoopback()) {
		return nil
	}
	return errPlain
}

type cut struct {
	io.Reader
	io.Closer
}

// algorithms of signatures on tokens: none that a client secret could forge.
func algorithms() []string {
	return []string{oidc.RS256, oidc.RS384, oidc.RS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.EdDSA}
}

// published is what a provider says of itself.
type published struct {
	provider *oidc.Provider
	endpoint oauth2.Endpoint
	// saysIssuer: answers name their issuer (RFC 9207).
	saysIssuer  bool
	hasUserInfo bool
}

// known remembers what providers publish, one an account.
type known struct {
	client  *http.Client
	private bool
	now     func() time.Time

	mu       sync.Mutex
	accounts map[contract.ID]*remembered
}

type remembered struct {
	// mu is held while the provider is asked: others who want to know wait.
	mu     sync.Mutex
	issuer string
	until  time.Time
	found  published
	err    error
}

// of tells what the provider of an account publishes; fresh asks it anew.
func (k *known) of(ctx context.Context, account contract.ID, issuer string, fresh bool) (published, error) {
	k.mu.Lock()
	r := k.accounts[account]
	if r == nil {
		r = &remembered{}
		k.accounts[account] = r
	}
	k.mu.Unlock()

	r.mu.Lock()
	defer r.mu.Unlock()
	if !fresh && r.issuer == issuer && k.now().Before(r.until) {
		return r.found, r.err
	}
	found, err := k.ask(ctx, issuer)
	if ctx.Err() != nil {
		return published{}, ctx.Err()
	}
	r.issuer, r.found, r.err, r.until = issuer, found, err, k.now().Add(knownFor)
	if err != nil {
		r.until = k.now().Add(failedFor)
	}
	return found, err
}

func (k *known) ask(ctx context.Context, issuer string) (published, error) {
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, k.client), issuer)
	if err != nil {
		return published{}, fmt.Errorf("sso: %s: %w", issuer, err)
	}
	var more struct {
		Says        bool     `json:"authorization_response_iss_parameter_supported"`
		AuthMethods []string `json:"token_endpoint_auth_methods_supported"`
		UserInfo    string   `json:"userinfo_endpoint"`
	}
	if err := provider.Claims(&more); err != nil {
		return published{}, fmt.Errorf("sso: %s: %w", issuer, err)
	}
	p := published{provider: provider, endpoint: provider.Endpoint(), saysIssuer: more.Says, hasUserInfo: more.UserInfo != ""}
	u, err := url.Parse(p.endpoint.AuthURL)
	if err == nil {
		err = checkScheme(u, k.private)
	}
	if err != nil || u.Host == "" {
		return published{}, fmt.Errorf("sso: %s: authorization_endpoint: %w", issuer, errors.Join(errPlain, err))
	}
	// Not found out by trying: a refused try would show the code once more.
	p.endpoint.AuthStyle = oauth2.AuthStyleInHeader
	if slices.Contains(more.AuthMethods, "client_secret_post") && !slices.Contains(more.AuthMethods, "client_secret_basic") {
		p.endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	return p, nil
}

// config is how Cetrus speaks to the provider.
func (p published) config(of Provider, secret, redirect string) *oauth2.Config {
	endpoint := p.endpoint
	if secret == "" {
		endpoint.AuthStyle = oauth2.AuthStyleInParams
	}
	return &oauth2.Config{
		ClientID: of.ClientID, ClientSecret: secret, Endpoint: endpoint, RedirectURL: redirect,
		Scopes: append([]string{oidc.ScopeOpenID}, slices.DeleteFunc(slices.Clone(of.scopes()), func(s string) bool { return s == oidc.ScopeOpenID })...),
	}
}
