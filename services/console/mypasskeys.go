package console

import (
	"encoding/json"
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// beginPasskey answers console.js with what the browser makes a passkey of; what it makes comes by
// the form around it.
func (s *Service) beginPasskey(v *visit) {
	f, err := readForm(v)
	if err != nil {
		s.fail(v, err)
		return
	}
	answer, err := s.passkeys.BeginPasskeyRegistration(v.ctx, &identityv1.BeginPasskeyRegistrationRequest{Password: f.secret("password")})
	var body []byte
	if err == nil {
		body, err = protojson.MarshalOptions{UseProtoNames: true}.Marshal(answer.GetChallenge())
	}
	v.w.Header().Set("Content-Type", "application/json")
	if err != nil {
		st := statusOf(err)
		httpStatus, message := http.StatusUnprocessableEntity, st.Message()
		if st.Code() == codes.Internal || st.Code() == codes.Unknown {
			s.deps.Logger.ErrorContext(v.ctx, "a passkey could not be begun", "error", err)
			httpStatus, message = http.StatusInternalServerError, insideWrong+". "+seeLog
		}
		v.w.WriteHeader(httpStatus)
		body, err = json.Marshal(map[string]string{"message": message})
		if err != nil {
			return
		}
	}
	_, _ = v.w.Write(body) // the browser is gone where this fails
}

func (s *Service) registerPasskey(v *visit, f *sent) (outcome, error) {
	credential := &structpb.Struct{}
	if err := protojson.Unmarshal([]byte(f.secret("credential")), credential); err != nil {
		return outcome{}, errs.As(errs.Precondition, "console.passkey", "", "a passkey is made by the browser: it needs JavaScript, and an address with HTTPS", err)
	}
	answer, err := s.passkeys.FinishPasskeyRegistration(v.ctx, &identityv1.FinishPasskeyRegistrationRequest{
		ChallengeToken: f.secret("challenge_token"), Credential: credential, DisplayName: f.text("display_name"),
	})
	done := outcome{next: "/me", notice: "The passkey is registered."}
	if codes := answer.GetRecoveryCodes(); len(codes) > 0 {
		done.once = recovery(codes)
	}
	return done, err
}

func (s *Service) renamePasskey(v *visit, f *sent) (outcome, error) {
	_, err := s.passkeys.UpdatePasskey(v.ctx, &identityv1.UpdatePasskeyRequest{
		Passkey: &identityv1.Passkey{PasskeyId: v.r.PathValue("id"), DisplayName: f.text("display_name")}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name"}},
	})
	return outcome{next: "/me", notice: "The passkey has another name."}, err
}

func (s *Service) confirmRemovePasskey(v *visit) (confirmation, error) {
	f := v.form(of("/me/passkeys", v.r.PathValue("id"), "remove"), nil, "")
	return confirmation{
		Title: "Remove a passkey", Text: "The passkey is to let you in no more. It cannot be undone: to use its authenticator again, register it again.",
		Consequences: []string{"Your other sessions end.", "Where your account asks for a second factor, the last one stays."},
		Button:       "Remove the passkey", Back: "/me", Form: f, Fields: []field{f.Field("password", "Your password", "required", "type=password", "autocomplete=current-password")},
	}, nil
}

func (s *Service) removePasskey(v *visit, f *sent) (outcome, error) {
	_, err := s.passkeys.RemovePasskey(v.ctx, &identityv1.RemovePasskeyRequest{PasskeyId: v.r.PathValue("id"), Password: f.secret("password")})
	return outcome{next: "/me", notice: "The passkey is removed."}, err
}
