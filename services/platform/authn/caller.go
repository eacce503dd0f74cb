package authn

import (
	"context"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// Caller is who asks, on behalf of an account, and how far they see.
type Caller struct {
	// Account whose data the caller may see and change.
	Account contract.ID
	// Login is the person's login; zero for a bare key.
	Login contract.ID
	// Session is the session that the login signed in for; zero for a key.
	Session contract.ID
	// Actor names the login or key, for audit and for events' headers:
	// "key:3f9a12c4". It is no secret.
	Actor string
	// Privileges are what the login, or the key, was given.
	Privileges Privileges
	// Operator says that the account is that of whoever runs this platform.
	Operator bool
	// Reach is how far the call under way sees. Authorization sets it, for one method;
	// before that it is unspecified.
	Reach authzv1.Reach
}

type callerKey struct{}

// WithCaller puts the caller into a context.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom takes the caller out of a context. Where there is none, or nobody has
// judged what it may, it answers with an error, so that forgetting a step opens nothing.
func CallerFrom(ctx context.Context) (Caller, error) {
	const op = "authn.CallerFrom"
	c, ok := ctx.Value(callerKey{}).(Caller)
	if !ok || c.Account.IsZero() {
		return Caller{}, errs.New(errs.Unauthenticated, op, "", messageNoKey).WithReason(ReasonNoKey)
	}
	if c.Reach == authzv1.Reach_REACH_UNSPECIFIED {
		return Caller{}, errs.New(errs.Internal, op, c.Actor, "its call was not authorized, so it has no reach")
	}
	return c, nil
}

type ownKey struct{}

// WithOwn says which principals the caller of a context is.
func WithOwn(ctx context.Context, principals []contract.ID) context.Context {
	return context.WithValue(ctx, ownKey{}, principals)
}

// OwnOnly tells whether whoever asks sees nothing but what is their own, and which
// principals they are. Where there is no caller, nobody asks: it is the platform itself.
func OwnOnly(ctx context.Context) (principals []contract.ID, only bool) {
	c, asked := ctx.Value(callerKey{}).(Caller)
	if !asked || c.Reach == authzv1.Reach_REACH_ACCOUNT || c.Reach == authzv1.Reach_REACH_PLATFORM {
		return nil, false
	}
	principals, _ = ctx.Value(ownKey{}).([]contract.ID)
	return principals, true
}

// Reasons of errors about who calls.
const (
	ReasonNoKey        = "API_KEY_MISSING"
	ReasonInvalidKey   = "API_KEY_INVALID"
	ReasonInvalidToken = "ACCESS_TOKEN_INVALID"
	// ReasonExpiredToken is of a token that a session's refresh token renews.
	ReasonExpiredToken = "ACCESS_TOKEN_EXPIRED"
	// ReasonEnded is of a key or token whose login, session or key was ended.
	ReasonEnded = "CREDENTIAL_ENDED"
	// ReasonSignInNeeded is of a key that asks for what its person alone may.
	ReasonSignInNeeded = "SIGN_IN_NEEDED"
)

const (
	messageNoKey        = `send an API key: header "Authorization: Bearer cetrus_…" or "X-API-Key: cetrus_…"; or an access token: "Authorization: Bearer …"`
	messageInvalidKey   = "this API key is not known here: it is mistyped, or was replaced"
	messageInvalidToken = "this is no access token of this platform: sign in, or send an API key, which begins with " + KeyPrefix
	messageExpiredToken = "this access token has expired: renew it with the session's refresh token, or sign in again"
)

// InPerson is an error where a key calls that sees only what is its login's own: whoever finds
// such a key must not be able to make another that outlives it, or to take from its person what
// they sign in with.
func InPerson(op string, c Caller) error {
	if c.Reach == authzv1.Reach_REACH_SELF && c.Session.IsZero() && !c.Login.IsZero() {
		return errs.New(errs.Denied, op, "", "a key does not do this for its login: sign in, and send the access token").WithReason(ReasonSignInNeeded)
	}
	return nil
}
