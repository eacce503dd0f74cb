package signin

import (
	"context"
	"strings"
	"unicode"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// passkeyAPI serves cetrus.identity.v1.PasskeyService.
type passkeyAPI struct {
	identityv1.UnimplementedPasskeyServiceServer
	service *Service
}

// inPerson is who calls, where it is a person.
func inPerson(ctx context.Context, op string) (authn.Caller, error) {
	by, err := authn.CallerFrom(ctx)
	if err != nil {
		return by, err
	}
	return by, authn.InPerson(op, by)
}

func checkPasskeyName(op, path, name string) error {
	if strings.ContainsFunc(name, unicode.IsControl) {
		return errs.InvalidFields(op, "", errs.Field{Path: path, Description: "must be without line breaks and other control characters"})
	}
	return nil
}

func (a *passkeyAPI) BeginPasskeyRegistration(ctx context.Context, req *identityv1.BeginPasskeyRegistrationRequest) (*identityv1.BeginPasskeyRegistrationResponse, error) {
	const op = "identity.BeginPasskeyRegistration"
	by, err := inPerson(ctx, op)
	if err != nil {
		return nil, err
	}
	l, err := a.service.own(ctx, op, by, req.GetPassword(), authn.OriginFrom(ctx))
	if err != nil {
		return nil, err
	}
	list, err := a.service.listPasskeys(ctx, op, l.Account, l.ID)
	if err != nil {
		return nil, err
	}
	challenge, err := a.service.askRegistration(op, l, list, by.Session)
	if err != nil {
		return nil, err
	}
	m, err := challenge.message()
	return &identityv1.BeginPasskeyRegistrationResponse{Challenge: m}, err
}

func (a *passkeyAPI) FinishPasskeyRegistration(ctx context.Context, req *identityv1.FinishPasskeyRegistrationRequest) (*identityv1.FinishPasskeyRegistrationResponse, error) {
	const op = "identity.FinishPasskeyRegistration"
	by, err := inPerson(ctx, op)
	if err != nil {
		return nil, err
	}
	if err := checkPasskeyName(op, "display_name", req.GetDisplayName()); err != nil {
		return nil, err
	}
	answer, err := answeredOf(op, "credential", req.GetChallengeToken(), req.GetCredential())
	if err != nil {
		return nil, err
	}
	k, codes, err := a.service.finishRegistration(ctx, by, answer, req.GetDisplayName())
	if err != nil {
		return nil, err
	}
	return &identityv1.FinishPasskeyRegistrationResponse{Passkey: k.message(), RecoveryCodes: codes}, nil
}

func (a *passkeyAPI) ListPasskeys(ctx context.Context, req *identityv1.ListPasskeysRequest) (*identityv1.ListPasskeysResponse, error) {
	const op = "identity.ListPasskeys"
	by, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	login, err := a.service.of(ctx, op, by, req.GetLoginId())
	if err != nil {
		return nil, err
	}
	list, err := a.service.listPasskeys(ctx, op, by.Account, login)
	if err != nil {
		return nil, err
	}
	resp := &identityv1.ListPasskeysResponse{}
	for _, k := range list {
		resp.Passkeys = append(resp.Passkeys, k.message())
	}
	return resp, nil
}

func (a *passkeyAPI) UpdatePasskey(ctx context.Context, req *identityv1.UpdatePasskeyRequest) (*identityv1.UpdatePasskeyResponse, error) {
	const op = "identity.UpdatePasskey"
	by, err := inPerson(ctx, op)
	if err != nil {
		return nil, err
	}
	paths, err := resource.MaskPaths(op, req.GetUpdateMask(), &identityv1.Passkey{}, "passkey_id", "login_id", "create_time", "last_use_time", "synced", "relying_party", "suspend_time")
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "passkey.passkey_id", req.GetPasskey().GetPasskeyId())
	if err != nil {
		return nil, err
	}
	if len(paths) == 0 {
		return nil, errs.InvalidFields(op, "", errs.Field{Path: "update_mask", Description: "names nothing that can be changed"})
	}
	if err := checkPasskeyName(op, "passkey.display_name", req.GetPasskey().GetDisplayName()); err != nil {
		return nil, err
	}
	k, err := a.service.renamePasskey(ctx, by, id, req.GetPasskey().GetDisplayName())
	if err != nil {
		return nil, err
	}
	return &identityv1.UpdatePasskeyResponse{Passkey: k.message()}, nil
}

func (a *passkeyAPI) RemovePasskey(ctx context.Context, req *identityv1.RemovePasskeyRequest) (*identityv1.RemovePasskeyResponse, error) {
	const op = "identity.RemovePasskey"
	by, err := inPerson(ctx, op)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "passkey_id", req.GetPasskeyId())
	if err != nil {
		return nil, err
	}
	login, err := a.service.ownerOf(ctx, op, by.Account, id)
	if err != nil {
		return nil, err
	}
	if _, err := a.service.of(ctx, op, by, login.String()); err != nil {
		return nil, noPasskey(op, id)
	}
	var keep contract.ID
	if login == by.Login {
		if _, err := a.service.own(ctx, op, by, req.GetPassword(), authn.OriginFrom(ctx)); err != nil {
			return nil, err
		}
		keep = by.Session
	}
	return &identityv1.RemovePasskeyResponse{}, a.service.removePasskey(ctx, by, login, id, keep)
}

func (a *passkeyAPI) BeginPasskeySignIn(context.Context, *identityv1.BeginPasskeySignInRequest) (*identityv1.BeginPasskeySignInResponse, error) {
	challenge, err := a.service.askAnybody()
	if err != nil {
		return nil, err
	}
	m, err := challenge.message()
	return &identityv1.BeginPasskeySignInResponse{Challenge: m}, err
}

func (a *passkeyAPI) SignInWithPasskey(ctx context.Context, req *identityv1.SignInWithPasskeyRequest) (*identityv1.SignInWithPasskeyResponse, error) {
	const op = "identity.SignInWithPasskey"
	answer, err := answeredOf(op, "passkey.credential", req.GetPasskey().GetChallengeToken(), req.GetPasskey().GetCredential())
	if err != nil {
		return nil, err
	}
	st, err := a.service.signInWithPasskey(ctx, answer, authn.OriginFrom(ctx))
	if err != nil {
		return nil, err
	}
	return &identityv1.SignInWithPasskeyResponse{SignIn: &identityv1.SignInResponse{
		Outcome: identityv1.SignInOutcome_SIGN_IN_OUTCOME_SIGNED_IN, Tokens: st.tokens, Session: st.session,
	}}, nil
}
