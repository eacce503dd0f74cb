package signin

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// api serves cetrus.identity.v1.SignInService.
type api struct {
	identityv1.UnimplementedSignInServiceServer
	service *Service
}

func (a *api) SignIn(ctx context.Context, req *identityv1.SignInRequest) (*identityv1.SignInResponse, error) {
	const op = "identity.SignIn"
	p := proof{account: req.GetAccountName(), login: req.GetLoginName(), password: req.GetPassword(), secondFactor: req.GetSecondFactor(), newPassword: req.GetNewPassword()}
	if req.GetPasskey() != nil {
		if p.secondFactor != "" {
			return nil, errs.InvalidFields(op, "", errs.Field{Path: "passkey", Description: "is there beside second_factor: send one of them"})
		}
		var err error
		if p.passkey, err = answeredOf(op, "passkey.credential", req.GetPasskey().GetChallengeToken(), req.GetPasskey().GetCredential()); err != nil {
			return nil, err
		}
	}
	r, err := a.service.signIn(ctx, p, authn.OriginFrom(ctx))
	if err != nil {
		return nil, err
	}
	resp := &identityv1.SignInResponse{Outcome: r.outcome, Tokens: r.started.tokens, Session: r.started.session, RecoveryCodes: r.recoveryCodes, TakesTotp: r.takesTOTP}
	if r.passkey.token != "" {
		if resp.PasskeyChallenge, err = r.passkey.message(); err != nil {
			return nil, err
		}
	}
	if r.enrolment.uri != "" {
		resp.Enrolment = r.enrolment.message()
	}
	return resp, nil
}

func (e enrolment) message() *identityv1.TotpEnrolment {
	return &identityv1.TotpEnrolment{Uri: e.uri, ExpireTime: timestamppb.New(e.expires)}
}

func (a *api) RefreshSession(ctx context.Context, req *identityv1.RefreshSessionRequest) (*identityv1.RefreshSessionResponse, error) {
	tokens, err := a.service.refresh(ctx, req.GetRefreshToken())
	if err != nil {
		return nil, err
	}
	return &identityv1.RefreshSessionResponse{Tokens: tokens}, nil
}

func (a *api) SignOut(ctx context.Context, req *identityv1.SignOutRequest) (*identityv1.SignOutResponse, error) {
	return &identityv1.SignOutResponse{}, a.service.signOut(ctx, req.GetRefreshToken())
}

// of is the login that a request is about: the caller's own where it names none. Another's
// is for whoever sees the whole account; for others it is answered as one that is not there.
func (s *Service) of(ctx context.Context, op string, by authn.Caller, text string) (contract.ID, error) {
	login := by.Login
	if text != "" {
		var err error
		if login, err = resource.ParseID(op, "login_id", text); err != nil {
			return login, err
		}
	}
	if login.IsZero() {
		return login, errs.InvalidFields(op, "", errs.Field{Path: "login_id", Description: "is needed here: the key that was sent belongs to no login"})
	}
	if login == by.Login {
		return login, nil
	}
	found := false
	if by.Reach == authzv1.Reach_REACH_ACCOUNT {
		var err error
		if _, found, err = s.directory.Login(ctx, by.Account, login); err != nil {
			return login, errs.Wrap(op, "", err)
		}
	}
	if !found {
		return login, errs.New(errs.NotFound, op, "login "+login.String(), "there is no such login")
	}
	return login, nil
}

func (a *api) ListSessions(ctx context.Context, req *identityv1.ListSessionsRequest) (*identityv1.ListSessionsResponse, error) {
	const op = "identity.ListSessions"
	by, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	login, err := a.service.of(ctx, op, by, req.GetLoginId())
	if err != nil {
		return nil, err
	}
	question := "sessions " + login.String()
	mark, err := resource.ReadToken(op, question, req.GetPageToken())
	if err != nil {
		return nil, err
	}
	if req.GetPageToken() == "" {
		// The list goes backwards in time: its first page begins behind all that will be.
		mark.At, mark.ID = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), nobody()
	}
	size := resource.PageSize(req.GetPageSize(), 100)
	list, err := a.service.listSessions(ctx, op, by, login, mark.At, mark.ID, size+1)
	if err != nil {
		return nil, err
	}
	resp := &identityv1.ListSessionsResponse{}
	if len(list) > size {
		last, err := contract.ParseID(list[size-1].GetSessionId())
		if err != nil {
			return nil, errs.Wrap(op, "", err)
		}
		list = list[:size]
		resp.NextPageToken = resource.Token(question, resource.Mark{At: list[size-1].GetCreateTime().AsTime(), ID: last})
	}
	resp.Sessions = list
	return resp, nil
}

func (a *api) EndSession(ctx context.Context, req *identityv1.EndSessionRequest) (*identityv1.EndSessionResponse, error) {
	by, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	if err := authn.InPerson("identity.EndSession", by); err != nil {
		return nil, err
	}
	id, err := resource.ParseID("identity.EndSession", "session_id", req.GetSessionId())
	if err != nil {
		return nil, err
	}
	var only contract.ID
	if by.Reach != authzv1.Reach_REACH_ACCOUNT {
		if only = by.Login; only.IsZero() {
			only = nobody()
		}
	}
	return &identityv1.EndSessionResponse{}, a.service.endSession(ctx, by, id, only)
}

func (a *api) RequestPasswordReset(ctx context.Context, req *identityv1.RequestPasswordResetRequest) (*identityv1.RequestPasswordResetResponse, error) {
	return &identityv1.RequestPasswordResetResponse{}, a.service.requestReset(ctx, req.GetAccountName(), req.GetLoginName(), authn.OriginFrom(ctx))
}

func (a *api) CompletePasswordReset(ctx context.Context, req *identityv1.CompletePasswordResetRequest) (*identityv1.CompletePasswordResetResponse, error) {
	return &identityv1.CompletePasswordResetResponse{}, a.service.completeReset(ctx, req.GetToken(), req.GetNewPassword(), authn.OriginFrom(ctx))
}

func (a *api) ChangePassword(ctx context.Context, req *identityv1.ChangePasswordRequest) (*identityv1.ChangePasswordResponse, error) {
	by, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	if err := authn.InPerson("identity.ChangePassword", by); err != nil {
		return nil, err
	}
	return &identityv1.ChangePasswordResponse{}, a.service.changePassword(ctx, by, req.GetPassword(), req.GetNewPassword(), authn.OriginFrom(ctx))
}

func (a *api) SetOneTimePassword(ctx context.Context, req *identityv1.SetOneTimePasswordRequest) (*identityv1.SetOneTimePasswordResponse, error) {
	const op = "identity.SetOneTimePassword"
	by, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	login, err := resource.ParseID(op, "login_id", req.GetLoginId())
	if err != nil {
		return nil, err
	}
	// A key that signs in as its login would be more than it was made to be.
	if login == by.Login && by.Session.IsZero() {
		return nil, errs.New(errs.Denied, op, "", "a key does not set the password of its own login: sign in, and send the access token").WithReason(authn.ReasonSignInNeeded)
	}
	password, err := a.service.SetOneTimePassword(ctx, by.Actor, by.Account, login)
	if err != nil {
		return nil, err
	}
	return &identityv1.SetOneTimePasswordResponse{Password: password, ExpireTime: timestamppb.New(a.service.now().Add(oneTimeLife))}, nil
}

func (a *api) GetSecondFactor(ctx context.Context, req *identityv1.GetSecondFactorRequest) (*identityv1.GetSecondFactorResponse, error) {
	const op = "identity.GetSecondFactor"
	by, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	login, err := a.service.of(ctx, op, by, req.GetLoginId())
	if err != nil {
		return nil, err
	}
	f, err := a.service.factor(ctx, op, by.Account, login)
	if err != nil {
		return nil, err
	}
	m := &identityv1.SecondFactor{Totp: f.confirmed(), RecoveryCodes: int32(f.recoveryCodes), Passkeys: int32(len(f.passkeys))}
	if f.confirmed() {
		m.TotpCreateTime = timestamppb.New(f.confirmedAt)
	}
	return &identityv1.GetSecondFactorResponse{SecondFactor: m}, nil
}

func (a *api) EnrolTotp(ctx context.Context, req *identityv1.EnrolTotpRequest) (*identityv1.EnrolTotpResponse, error) {
	const op = "identity.EnrolTotp"
	by, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	if err := authn.InPerson(op, by); err != nil {
		return nil, err
	}
	l, err := a.service.own(ctx, op, by, req.GetPassword(), authn.OriginFrom(ctx))
	if err != nil {
		return nil, err
	}
	e, err := a.service.beginEnrolment(ctx, op, l)
	if err != nil {
		return nil, err
	}
	return &identityv1.EnrolTotpResponse{Enrolment: e.message()}, nil
}

func (a *api) ConfirmTotp(ctx context.Context, req *identityv1.ConfirmTotpRequest) (*identityv1.ConfirmTotpResponse, error) {
	by, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	if err := authn.InPerson("identity.ConfirmTotp", by); err != nil {
		return nil, err
	}
	codes, err := a.service.confirmEnrolment(ctx, "identity.ConfirmTotp", by, req.GetCode())
	if err != nil {
		return nil, err
	}
	return &identityv1.ConfirmTotpResponse{RecoveryCodes: codes}, nil
}

func (a *api) RemoveSecondFactor(ctx context.Context, req *identityv1.RemoveSecondFactorRequest) (*identityv1.RemoveSecondFactorResponse, error) {
	const op = "identity.RemoveSecondFactor"
	by, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	if err := authn.InPerson(op, by); err != nil {
		return nil, err
	}
	login, err := a.service.of(ctx, op, by, req.GetLoginId())
	if err != nil {
		return nil, err
	}
	var keep contract.ID
	if login == by.Login {
		if _, err := a.service.own(ctx, op, by, req.GetPassword(), authn.OriginFrom(ctx)); err != nil {
			return nil, err
		}
		keep = by.Session
	}
	return &identityv1.RemoveSecondFactorResponse{}, a.service.removeFactor(ctx, op, by, login, keep, req.GetKeepPasskeys())
}

func (a *api) RenewRecoveryCodes(ctx context.Context, req *identityv1.RenewRecoveryCodesRequest) (*identityv1.RenewRecoveryCodesResponse, error) {
	const op = "identity.RenewRecoveryCodes"
	by, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	if err := authn.InPerson(op, by); err != nil {
		return nil, err
	}
	l, err := a.service.own(ctx, op, by, req.GetPassword(), authn.OriginFrom(ctx))
	if err != nil {
		return nil, err
	}
	codes, err := a.service.renewCodes(ctx, op, l)
	if err != nil {
		return nil, err
	}
	return &identityv1.RenewRecoveryCodesResponse{RecoveryCodes: codes}, nil
}

// renewCodes takes the place of all recovery codes of a login that has a second factor.
func (s *Service) renewCodes(ctx context.Context, op string, l Login) (codes []string, err error) {
	f, err := s.factor(ctx, op, l.Account, l.ID)
	if err != nil {
		return nil, err
	}
	if !f.any() {
		return nil, errs.New(errs.Precondition, op, "", "your login has no second factor that a recovery code could stand in for: enrol one first")
	}
	news, err := s.news(ctx, op, l.actor(), l.Account, l.ID, &identityv1.RecoveryCodesRenewed{LoginId: l.ID[:]})
	if err != nil {
		return nil, err
	}
	err = s.secrets.ChangeInAccount(ctx, l.Account, func(tx pgx.Tx) (err error) {
		if codes, err = renewRecoveryCodes(ctx, tx, l.Account, l.ID); err != nil {
			return err
		}
		return news.keep(ctx, tx)
	})
	if err != nil {
		return nil, fail(op, err)
	}
	s.tellNow(ctx, l.ID)
	return codes, nil
}

func (a *api) GetJwks(context.Context, *identityv1.GetJwksRequest) (*identityv1.GetJwksResponse, error) {
	return &identityv1.GetJwksResponse{Keys: a.service.keys.jwks()}, nil
}

func (p policy) message() *identityv1.SignInPolicy {
	m := &identityv1.SignInPolicy{SecondFactorRequired: p.secondFactorRequired, SingleSignOnRequired: p.singleSignOnRequired, LinksForbidden: p.linksForbidden}
	if p.maxSwitchAge > 0 {
		m.MaxSwitchAge = durationpb.New(p.maxSwitchAge)
	}
	return m
}

// with is the policy with the fields of a message that paths name.
func (p policy) with(m *identityv1.SignInPolicy, paths []string) policy {
	for _, path := range paths {
		switch path {
		case "second_factor_required":
			p.secondFactorRequired = m.GetSecondFactorRequired()
		case "single_sign_on_required":
			p.singleSignOnRequired = m.GetSingleSignOnRequired()
		case "links_forbidden":
			p.linksForbidden = m.GetLinksForbidden()
		case "max_switch_age":
			p.maxSwitchAge = m.GetMaxSwitchAge().AsDuration()
		}
	}
	return p
}

func (a *api) GetSignInPolicy(ctx context.Context, _ *identityv1.GetSignInPolicyRequest) (*identityv1.GetSignInPolicyResponse, error) {
	by, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	p, _, err := a.service.policies.Load(ctx, policySubject(by.Account))
	if err != nil {
		return nil, errs.Wrap("identity.GetSignInPolicy", "", err)
	}
	return &identityv1.GetSignInPolicyResponse{Policy: p.message()}, nil
}

func (a *api) UpdateSignInPolicy(ctx context.Context, req *identityv1.UpdateSignInPolicyRequest) (*identityv1.UpdateSignInPolicyResponse, error) {
	const op = "identity.UpdateSignInPolicy"
	by, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	paths, err := resource.MaskPaths(op, req.GetUpdateMask(), &identityv1.SignInPolicy{})
	if err != nil {
		return nil, err
	}
	command, err := resource.CommandOf(by.Actor, op, req)
	if err != nil {
		return nil, err
	}
	vouched, err := a.service.isVouched(ctx, op, by)
	if err != nil {
		return nil, err
	}
	result, err := a.service.policies.Execute(ctx, policySubject(by.Account), command, func(p policy) ([]proto.Message, error) {
		want := p.with(req.GetPolicy(), paths)
		if want.singleSignOnRequired && !p.singleSignOnRequired && !vouched {
			return nil, errs.New(errs.Precondition, op, "", "sign in by the account's identity provider first, and switch it on from there: else nobody could be let in any more").WithReason(ReasonSingleSignOn)
		}
		return p.decide(want), nil
	})
	if err != nil {
		return nil, resource.CommandError(op, err)
	}
	return &identityv1.UpdateSignInPolicyResponse{Policy: result.State.message()}, nil
}
