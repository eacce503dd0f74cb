package signin

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

const contextName = "identity"

func sessionSubject(account, session contract.ID) string {
	return contract.EventSubject(account, contextName, "session", session.String())
}

func credentialSubject(account, login contract.ID) string {
	return contract.EventSubject(account, contextName, "credential", login.String())
}

func policySubject(account contract.ID) string {
	return contract.EventSubject(account, contextName, "signin", account.String())
}

// signingKeySubject stands under the operator's account.
func signingKeySubject(operator contract.ID, keyID string) string {
	return contract.EventSubject(operator, contextName, "signingkey", keyID)
}

// newRegistry names the events of this package.
func newRegistry() *eventlog.Registry {
	return eventlog.NewRegistry(
		eventlog.Current[*identityv1.SessionStarted]("cetrus.identity.session.started.v1"),
		eventlog.Current[*identityv1.SessionEnded]("cetrus.identity.session.ended.v1"),
		eventlog.Current[*identityv1.SessionSwitched]("cetrus.identity.session.switched.v1"),
		eventlog.Current[*identityv1.PasswordChanged]("cetrus.identity.credential.password_changed.v1"),
		eventlog.Current[*identityv1.PasswordResetRequested]("cetrus.identity.credential.password_reset_requested.v1"),
		eventlog.Current[*identityv1.SecondFactorAdded]("cetrus.identity.credential.second_factor_added.v1"),
		eventlog.Current[*identityv1.SecondFactorRemoved]("cetrus.identity.credential.second_factor_removed.v1"),
		eventlog.Current[*identityv1.RecoveryCodesRenewed]("cetrus.identity.credential.recovery_codes_renewed.v1"),
		eventlog.Current[*identityv1.RecoveryCodeUsed]("cetrus.identity.credential.recovery_code_used.v1"),
		eventlog.Current[*identityv1.SignInRefused]("cetrus.identity.credential.sign_in_refused.v1"),
		eventlog.Current[*identityv1.LinkRefused]("cetrus.identity.credential.link_refused.v1"),
		eventlog.Current[*identityv1.SwitchRefused]("cetrus.identity.credential.switch_refused.v1"),
		eventlog.Current[*identityv1.PasskeyAdded]("cetrus.identity.credential.passkey_added.v1"),
		eventlog.Current[*identityv1.PasskeyRenamed]("cetrus.identity.credential.passkey_renamed.v1"),
		eventlog.Current[*identityv1.PasskeyRemoved]("cetrus.identity.credential.passkey_removed.v1"),
		eventlog.Current[*identityv1.PasskeySuspended]("cetrus.identity.credential.passkey_suspended.v1"),
		eventlog.Current[*identityv1.SignInPolicyChanged]("cetrus.identity.signin.policy_changed.v1"),
		eventlog.Current[*identityv1.SigningKeyPublished]("cetrus.identity.signingkey.published.v1"),
		eventlog.Current[*identityv1.SigningKeyWithdrawn]("cetrus.identity.signingkey.withdrawn.v1"),
	)
}

// session is the aggregate of a session: it starts once and ends once.
type session struct{ started, ended bool }

// decideEnd ends what has started and not ended.
func (s session) decideEnd(end *identityv1.SessionEnded) []proto.Message {
	if !s.started || s.ended {
		return nil
	}
	return []proto.Message{end}
}

func (s session) apply(event proto.Message) (session, error) {
	switch event.(type) {
	case *identityv1.SessionStarted:
		return session{started: true}, nil
	case *identityv1.SessionEnded:
		s.ended = true
		return s, nil
	case *identityv1.SessionSwitched:
		return s, nil
	}
	return s, fmt.Errorf("signin: %T is no event of a session", event)
}

// credentials is the aggregate of what a login proves itself with. It decides nothing by
// what was before: the tables do.
type credentials struct{}

// policy is the aggregate of what an account asks of those who sign in.
type policy struct {
	secondFactorRequired, singleSignOnRequired, linksForbidden bool
	// maxSwitchAge bounds how old a sign-in may be that is switched from; zero does not.
	maxSwitchAge time.Duration
}

func (p policy) decide(want policy) []proto.Message {
	if p == want {
		return nil
	}
	event := &identityv1.SignInPolicyChanged{
		SecondFactorRequired: want.secondFactorRequired, SingleSignOnRequired: want.singleSignOnRequired, LinksForbidden: want.linksForbidden,
	}
	if want.maxSwitchAge > 0 {
		event.MaxSwitchAge = durationpb.New(want.maxSwitchAge)
	}
	return []proto.Message{event}
}

func (p policy) apply(event proto.Message) (policy, error) {
	e, ok := event.(*identityv1.SignInPolicyChanged)
	if !ok {
		return p, fmt.Errorf("signin: %T is no event of a policy", event)
	}
	return policy{
		secondFactorRequired: e.GetSecondFactorRequired(), singleSignOnRequired: e.GetSingleSignOnRequired(), linksForbidden: e.GetLinksForbidden(),
		maxSwitchAge: e.GetMaxSwitchAge().AsDuration(),
	}, nil
}

// record appends what happened to a login's credentials, whatever else is appended at the
// same time.
func (s *Service) record(ctx context.Context, op, actor string, account, login contract.ID, event proto.Message) error {
	_, err := s.credentials.Execute(ctx, credentialSubject(account, login), eventlog.Command{Actor: actor},
		func(credentials) ([]proto.Message, error) { return []proto.Message{event}, nil })
	return errs.Wrap(op, "", err)
}
