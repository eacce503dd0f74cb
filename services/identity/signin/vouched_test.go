package signin

import (
	"testing"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Whoever another has vouched for gets a session like everybody's, and only of a login that may
// sign in.
func TestASessionOfAVouchedLogin(t *testing.T) {
	f := start(t)
	in, err := f.Begin(t.Context(), f.ada.Account, f.ada.ID, "https://issuer.example", "ada", f.home)
	if err != nil || in.GetOutcome() != identityv1.SignInOutcome_SIGN_IN_OUTCOME_SIGNED_IN {
		t.Fatalf("%v, %v", in, err)
	}
	if err := f.checks(in.GetTokens().GetAccessToken()); err != nil {
		t.Error(err)
	}
	if _, err := f.refresh(t.Context(), in.GetTokens().GetRefreshToken()); err != nil {
		t.Error(err)
	}
	if started := told[*identityv1.SessionStarted](f); len(started) != 1 || contract.ID(started[0].GetLoginId()) != f.ada.ID || started[0].GetSecondFactor() {
		t.Errorf("the log has %v", started)
	}
	f.people.change(f.ada.ID, func(l *Login) { l.Disabled = true })
	for _, l := range []Login{f.ada, {Account: f.ada.Account, ID: f.bob.ID}, {Account: f.ada.Account, ID: contract.ID{7}}} {
		if in, err := f.Begin(t.Context(), l.Account, l.ID, "https://issuer.example", "ada", f.home); reason(err) != ReasonRefused {
			t.Errorf("%s: %v, %v", l.ID, in, err)
		}
	}
}
