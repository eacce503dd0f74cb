package authn

import (
	"context"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// Caller is who asks: an actor, on behalf of an account.
type Caller struct {
	// Account whose data the caller may see and change.
	Account contract.ID
	// Actor names the login or key, for audit and for events' headers:
	// "key:3f9a12c4". It is no secret.
	Actor string
}

type callerKey struct{}

// WithCaller puts the caller into a context.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerFrom takes the caller out of a context. Where there is none it answers
// with an Unauthenticated error, so that forgetting the interceptor opens
// nothing.
func CallerFrom(ctx context.Context) (Caller, error) {
	c, ok := ctx.Value(callerKey{}).(Caller)
	if !ok || c.Account.IsZero() {
		return Caller{}, errs.New(errs.Unauthenticated, "authn.CallerFrom", "", messageNoKey).WithReason(ReasonNoKey)
	}
	return c, nil
}

// Reasons of Unauthenticated errors.
const (
	ReasonNoKey      = "API_KEY_MISSING"
	ReasonInvalidKey = "API_KEY_INVALID"
)

const (
	messageNoKey      = `send an API key: header "Authorization: Bearer cetrus_…" or "X-API-Key: cetrus_…"`
	messageInvalidKey = "this API key is not known here: it is mistyped, or was replaced"
)
