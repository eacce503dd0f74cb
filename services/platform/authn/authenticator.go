package authn

import (
	"context"
	"strings"

	"github.com/cetrus/cetrus/services/platform/errs"
)

// Authenticator judges whatever a request carries: the keys of the data directory, API keys
// of logins, access tokens. It asks nobody.
type Authenticator struct {
	// Keys are those of the data directory. They are judged even where the directory cannot
	// be asked: an operator must get in then.
	Keys *Keys
	// Directory knows API keys of logins, and what has ended.
	Directory *Directory
}

// Authenticate finds the caller behind a credential.
func (a *Authenticator) Authenticate(ctx context.Context, credential string) (Caller, error) {
	const op = "authn.Authenticate"
	caller, err := a.judge(ctx, credential)
	if err != nil {
		return Caller{}, errs.Wrap(op, "", err)
	}
	caller.Operator = caller.Account == a.Keys.Account()
	return caller, nil
}

func (a *Authenticator) judge(ctx context.Context, credential string) (Caller, error) {
	if !strings.HasPrefix(credential, KeyPrefix) {
		token, err := a.Directory.tokens.Check(credential)
		if err != nil {
			return Caller{}, err
		}
		return a.Directory.judgeToken(token)
	}
	if caller, err := a.Keys.Authenticate(ctx, credential); err == nil {
		return caller, nil
	}
	if _, wellFormed := keyID(credential); !wellFormed {
		return Caller{}, errs.New(errs.Unauthenticated, "authn.Authenticator", "", messageInvalidKey).WithReason(ReasonInvalidKey)
	}
	a.Directory.awaitKey(ctx, credential)
	return a.Directory.judgeKey(credential)
}
