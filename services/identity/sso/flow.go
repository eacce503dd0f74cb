package sso

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	// ReasonOff is the reason where an account has no single sign-on.
	ReasonOff = "SINGLE_SIGN_ON_OFF"
	// ReasonRefused is the reason of every attempt that is refused.
	ReasonRefused = "SINGLE_SIGN_ON_REFUSED"
	// ReasonProvider is the reason where the provider does not answer as it should.
	ReasonProvider = "IDENTITY_PROVIDER_FAILED"
)

func refused(op, message string, err error) error {
	return &errs.Error{Op: op, Kind: errs.Unauthenticated, Reason: ReasonRefused, Message: message, Err: err}
}

// again is said of whatever a stranger could have made.
const again = "this sign-in was not begun by this browser, has come to its end already, or took too long: begin it again"

// providerFailed tells whoever asks that the provider is at fault; why, only the log and administrators.
func providerFailed(op string, err error) error {
	return &errs.Error{Op: op, Kind: errs.Unavailable, Reason: ReasonProvider, Message: "the account's identity provider does not answer as it should: repeat in a moment, or ask an administrator of the account", Err: err}
}

// redirectURL is where a provider sends browsers back to: another one for each account, so
// that what one account's provider answers never comes to another's.
func (s *Service) redirectURL(account contract.ID) (string, error) {
	base, err := s.cfg.PublicURL()
	if err != nil {
		return "", err
	}
	return strings.TrimRight(base, "/") + "/v1/singleSignOn/" + account.String() + "/callback", nil
}

// start begins an attempt.
func (s *Service) start(ctx context.Context, accountName string) (*identityv1.StartSingleSignOnResponse, error) {
	const op = "identity.StartSingleSignOn"
	account, found, err := s.deps.Directory.FindAccount(ctx, accountName)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	var p Provider
	if found {
		if p, _, err = s.providers.Load(ctx, subject(account)); err != nil {
			return nil, errs.Wrap(op, "", err)
		}
	}
	if !p.Enabled { // one answer, whether the account is there or not
		return nil, errs.New(errs.Precondition, op, "", "there is no account of this name with single sign-on: sign in with a password, or ask an administrator of the account").WithReason(ReasonOff)
	}
	redirect, err := s.redirectURL(account)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	key, err := s.deps.Keys.KeyOf(ctx, account, account)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	published, err := s.known.of(ctx, account, p.Issuer, false)
	if err != nil {
		s.log.WarnContext(ctx, "an identity provider does not answer as it should", "account", account, "error", err)
		return nil, providerFailed(op, err)
	}
	a := attempt{State: rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier(), Expires: s.now().Add(attemptLife), Revision: p.Revision}
	browserKey, err := a.seal(key, account)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	return &identityv1.StartSingleSignOnResponse{
		AuthorizationUrl: published.config(p, "", redirect).AuthCodeURL(a.State, oidc.Nonce(a.Nonce), oauth2.S256ChallengeOption(a.Verifier)),
		RedirectUrl:      redirect, BrowserKey: browserKey, ExpireTime: timestamp(a.Expires),
	}, nil
}

// answer is what a browser came back with.
type answer struct {
	account                                contract.ID
	browserKey, state, code, issuer, error string
	// plainCookie: another host could have put the browser key where it was found.
	plainCookie bool
}

// complete ends an attempt: with a session, or refused.
func (s *Service) complete(ctx context.Context, in answer, from authn.Origin) (*identityv1.SignInResponse, error) {
	const op = "identity.CompleteSingleSignOn"
	p, _, err := s.providers.Load(ctx, subject(in.account))
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	if !p.Enabled { // before a key is drawn for an account that a stranger made up
		return nil, refused(op, again, nil)
	}
	redirect, err := s.redirectURL(in.account)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	if in.plainCookie && strings.HasPrefix(redirect, "https://") {
		return nil, refused(op, again, nil)
	}
	key, err := s.deps.Keys.KeyOf(ctx, in.account, in.account)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	a, err := openAttempt(key, in.account, in.browserKey)
	if err != nil {
		return nil, refused(op, again, err)
	}
	if subtle.ConstantTimeCompare([]byte(a.State), []byte(in.state)) != 1 || !s.now().Before(a.Expires) || a.Revision != p.Revision {
		return nil, refused(op, again, nil)
	}
	published, err := s.known.of(ctx, in.account, p.Issuer, false)
	if err != nil {
		return nil, providerFailed(op, err)
	}
	if in.issuer != p.Issuer && (in.issuer != "" || published.saysIssuer) {
		return nil, refused(op, "this answer is another identity provider's: begin the sign-in again", nil)
	}
	if in.error != "" {
		return nil, refused(op, "the identity provider refused: "+word(in.error), nil)
	}
	person, err := s.ask(ctx, in, p, published, a, redirect)
	if err != nil {
		return nil, s.askFailed(ctx, op, in.account, err)
	}
	if err := s.use(ctx, in.account, a); err != nil {
		if errors.Is(err, errUsed) {
			return nil, refused(op, again, err)
		}
		return nil, errs.Wrap(op, "", err)
	}
	login, err := s.deps.Directory.Admit(ctx, in.account, person, from)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	signedIn, err := s.deps.Sessions.Begin(ctx, in.account, login, p.Issuer, person.Subject, from)
	return signedIn, errs.Wrap(op, "", err)
}

// askFailed says what went wrong between Cetrus and a provider: to the log all of it, to
// whoever asks what they can do about it.
func (s *Service) askFailed(ctx context.Context, op string, account contract.ID, err error) error {
	var no refusal
	if errors.As(err, &no) {
		return refused(op, string(no), err)
	}
	s.log.WarnContext(ctx, "a single sign-on failed", "account", account, "error", err)
	var answered *oauth2.RetrieveError
	if errors.As(err, &answered) && answered.Response != nil && answered.Response.StatusCode < 500 {
		return refused(op, "the identity provider refused: "+word(answered.ErrorCode), err)
	}
	if errors.Is(err, errToken) {
		return refused(op, "what the identity provider says of you does not hold: begin the sign-in again, or ask an administrator of the account", err)
	}
	return providerFailed(op, err)
}

// word is an error code as OAuth has them; another's text goes no farther.
func word(code string) string {
	if code == "" || len(code) > 64 || strings.ContainsFunc(code, func(r rune) bool { return (r < 'a' || r > 'z') && r != '_' }) {
		return "it does not say why"
	}
	return code
}

// errToken means that a token is not what it must be.
var errToken = errors.New("sso: the ID token does not hold")

// ask exchanges the code, and takes from the token, and where it lacks something from the
// provider itself, who the person is.
func (s *Service) ask(ctx context.Context, in answer, p Provider, published published, a attempt, redirect string) (Person, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*askWithin)
	defer cancel()
	ctx = oidc.ClientContext(ctx, s.known.client)
	secret, err := s.secret(ctx, in.account, p.SecretID)
	if err != nil {
		return Person{}, err
	}
	token, err := published.config(p, secret, redirect).Exchange(ctx, in.code, oauth2.VerifierOption(a.Verifier))
	if err != nil {
		return Person{}, fmt.Errorf("sso: exchange of the code: %w", err)
	}
	c, err := s.check(ctx, p, published, token, a)
	if err != nil {
		return Person{}, err
	}
	if published.hasUserInfo && p.lacks(c) {
		if err := moreClaims(ctx, published, token, c); err != nil {
			return Person{}, err
		}
	}
	return p.person(c)
}

// check reads the ID token: who has issued it, for whom, when, signed by which key, and that
// it answers this attempt.
func (s *Service) check(ctx context.Context, p Provider, published published, token *oauth2.Token, a attempt) (claims, error) {
	raw, _ := token.Extra("id_token").(string)
	if raw == "" {
		return nil, fmt.Errorf("%w: there is none", errToken)
	}
	verifier := published.provider.Verifier(&oidc.Config{ClientID: p.ClientID, SupportedSigningAlgs: algorithms(), Now: s.now})
	id, err := verifier.Verify(ctx, raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errToken, err)
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(a.Nonce)) != 1 {
		return nil, fmt.Errorf("%w: its nonce is of another attempt", errToken)
	}
	var c claims
	if err := id.Claims(&c); err != nil {
		return nil, fmt.Errorf("%w: %w", errToken, err)
	}
	if by := c.text("azp"); len(id.Audience) > 1 && by == "" || by != "" && by != p.ClientID {
		return nil, fmt.Errorf("%w: it is for another client (azp)", errToken)
	}
	if id.IssuedAt.After(s.now().Add(5 * time.Minute)) {
		return nil, fmt.Errorf("%w: it is of the future", errToken)
	}
	if id.AccessTokenHash != "" {
		if err := id.VerifyAccessToken(token.AccessToken); err != nil {
			return nil, fmt.Errorf("%w: %w", errToken, err)
		}
	}
	return c, nil
}

// lacks tells whether an ID token says less than the account's settings ask for.
func (p Provider) lacks(c claims) bool {
	wanted := []string{p.nameClaim(), "name", "email"}
	if len(p.Mappings) > 0 {
		wanted = append(wanted, p.groupsClaim())
	}
	return slices.ContainsFunc(wanted, func(name string) bool { _, there := c[name]; return !there })
}

// moreClaims asks the provider for what the ID token did not say of its person.
func moreClaims(ctx context.Context, published published, token *oauth2.Token, c claims) error {
	info, err := published.provider.UserInfo(ctx, oauth2.StaticTokenSource(token))
	if err != nil {
		return fmt.Errorf("sso: userinfo: %w", err)
	}
	if info.Subject != c.text("sub") {
		return fmt.Errorf("%w: userinfo speaks of another person", errToken)
	}
	var more map[string]json.RawMessage
	if err := info.Claims(&more); err != nil {
		return fmt.Errorf("sso: userinfo: %w", err)
	}
	// Whether an address is confirmed is said where the address is.
	if _, there := c["email"]; there {
		delete(more, claimMailConfirmed)
	} else {
		delete(c, claimMailConfirmed)
	}
	c.fill(more)
	return nil
}

// try asks a provider for what it publishes, for an administrator who wants to know what is
// wrong with it.
func (s *Service) try(ctx context.Context, op string, account contract.ID, p Provider) error {
	if _, err := s.known.of(ctx, account, p.Issuer, true); err != nil {
		return errs.InvalidFields(op, "", errs.Field{Path: "identity_provider.issuer", Description: "does not answer as an identity provider: " + plain(err)})
	}
	return nil
}

// plain is what may be told of why a provider does not answer.
func plain(err error) string {
	switch {
	case errors.Is(err, errPrivate):
		return errPrivate.Error()
	case errors.Is(err, errPlain):
		return errPlain.Error()
	case strings.Contains(err.Error(), "did not match"):
		return "it calls itself otherwise; write the issuer as its /.well-known/openid-configuration does"
	}
	var asked *url.Error
	if errors.As(err, &asked) {
		return "its /.well-known/openid-configuration cannot be reached"
	}
	return "its /.well-known/openid-configuration does not hold what it must"
}
