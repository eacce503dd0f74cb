package signin

import (
	"context"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// Begin begins a session of a login whose person another has made sure of, as an account's
// identity provider does. Second factors are a matter of that other then.
func (s *Service) Begin(ctx context.Context, account, login contract.ID, from authn.Origin) (*identityv1.SignInResponse, error) {
	const op = "identity.Begin"
	l, found, err := s.directory.Login(ctx, account, login)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	if !found || l.Disabled {
		return nil, errs.New(errs.Unauthenticated, op, "", "your login is disabled, or was deleted: ask an administrator of the account").WithReason(ReasonRefused)
	}
	begun, _, err := s.carryOut(ctx, op, l, plan{}, from)
	if err != nil {
		return nil, err
	}
	return &identityv1.SignInResponse{
		Outcome: identityv1.SignInOutcome_SIGN_IN_OUTCOME_SIGNED_IN, Tokens: begun.tokens, Session: begun.session,
	}, nil
}
