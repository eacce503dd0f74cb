package signin

import (
	"context"
	"errors"

	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// Begin begins a session of a login whose person another has made sure of, as an account's
// identity provider does, which calls its person subject. Second factors are a matter of that
// other then.
func (s *Service) Begin(ctx context.Context, account, login contract.ID, issuer, subject string, from authn.Origin) (*identityv1.SignInResponse, error) {
	const op = "identity.Begin"
	l, found, err := s.directory.Login(ctx, account, login)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	if !found || l.Disabled {
		return nil, errs.New(errs.Unauthenticated, op, "", "your login is disabled, or was deleted: ask an administrator of the account").WithReason(ReasonRefused)
	}
	begun, _, err := s.carryOut(ctx, op, l, plan{voucher: Voucher{Issuer: issuer, Subject: subject}}, from)
	if err != nil {
		return nil, err
	}
	return &identityv1.SignInResponse{
		Outcome: identityv1.SignInOutcome_SIGN_IN_OUTCOME_SIGNED_IN, Tokens: begun.tokens, Session: begun.session,
	}, nil
}

// isVouched tells whether the caller's session began by the account's identity provider.
func (s *Service) isVouched(ctx context.Context, op string, by authn.Caller) (bool, error) {
	if by.Session.IsZero() {
		return false, nil
	}
	row, err := s.readSession(ctx, by.Account, by.Session)
	if errors.Is(err, errOver) {
		return false, nil
	}
	return row.voucher != Voucher{}, fail(op, err)
}

// AllowPasswords ends that an account lets people in by its identity provider only, for whoever
// runs the platform. actor names who asked.
func (s *Service) AllowPasswords(ctx context.Context, actor string, account contract.ID) error {
	_, err := s.policies.Execute(ctx, policySubject(account), eventlog.Command{Actor: actor}, func(p policy) ([]proto.Message, error) {
		want := p
		want.singleSignOnRequired = false
		return p.decide(want), nil
	})
	return errs.Wrap("identity.AllowPasswords", "", err)
}
