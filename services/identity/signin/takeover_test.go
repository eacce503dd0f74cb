package signin

import (
	"testing"
	"time"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/credential"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// planted is what somebody has put into Ada's login before she had it, and what they have of it.
type planted struct {
	device  *device
	another *device
	code    func() string
	codes   []string
	by      authn.Caller
	tokens  *identityv1.Tokens
	// begun is a registration that they have not finished, on a device of theirs.
	begun   *identityv1.PasskeyChallenge
	unready *device
}

// plant does what an administrator can who knows Ada's password.
func (f *fixture) plant() (p planted) {
	f.t.Helper()
	t := f.t.(*testing.T)
	p.by, p.tokens = f.signedInAs(f.ada)
	p.device, p.another, p.unready = newDevice(t), newDevice(t), newDevice(t)
	done, err := f.register(p.by, p.device)
	if err != nil {
		t.Fatal(err)
	}
	p.codes = done.GetRecoveryCodes()
	if _, err := f.register(p.by, p.another); err != nil {
		t.Fatal(err)
	}
	e, err := f.beginEnrolment(t.Context(), "test", f.ada)
	if err != nil {
		t.Fatal(err)
	}
	secret := secretOf(t, e.uri)
	p.code = func() string {
		f.clock.advance(30 * time.Second)
		return f.code(secret)
	}
	if p.codes, err = f.confirmEnrolment(t.Context(), "test", p.by, p.code()); err != nil {
		t.Fatal(err)
	}
	begun, err := f.passkeys().BeginPasskeyRegistration(f.as(p.by), &identityv1.BeginPasskeyRegistrationRequest{Password: f.password})
	if err != nil {
		t.Fatal(err)
	}
	p.begun = begun.GetChallenge()
	return p
}

const passwordOfHerOwn = "seventeen green bicycles"

// Whoever had a login in hand before its person comes in by nothing that they left in it: not by a passkey,
// a program, a code, a session, nor by a registration that they finish later; and never into
// what is linked with it.
func TestWhatWasPlantedEndsWithTheHandover(t *testing.T) {
	platform := start(t)
	for name, handOver := range map[string]func(*fixture) (password string){
		"a one-time password": func(f *fixture) string {
			once, err := f.SetOneTimePassword(f.t.Context(), "test", f.ada.Account, f.ada.ID)
			if err != nil {
				f.t.Fatal(err)
			}
			return once
		},
		"a mailed link": func(f *fixture) string {
			token, _, _, err := f.Link(f.t.Context(), f.ada.Account, f.ada.ID, f.ada.MailAddress)
			if err == nil {
				err = f.completeReset(f.t.Context(), token, passwordOfHerOwn, f.home)
			}
			if err != nil {
				f.t.Fatal(err)
			}
			return passwordOfHerOwn
		},
	} {
		// What they gave her with it, as else she could not sign in.
		for with, shown := range map[string]func(*fixture, planted, *identityv1.SignInRequest, *identityv1.PasskeyChallenge){
			"a recovery code": func(_ *fixture, p planted, req *identityv1.SignInRequest, _ *identityv1.PasskeyChallenge) {
				req.SecondFactor = p.codes[0]
			},
			"a program": func(_ *fixture, p planted, req *identityv1.SignInRequest, _ *identityv1.PasskeyChallenge) {
				req.SecondFactor = p.code()
			},
			"a key": func(f *fixture, p planted, req *identityv1.SignInRequest, asked *identityv1.PasskeyChallenge) {
				req.Passkey = p.another.get(f.t.(*testing.T), asked)
			},
		} {
			t.Run(name+" with "+with, func(t *testing.T) {
				f := platform.anew(t)
				p := f.plant()
				password := handOver(f)
				if _, err := f.by(p.device.get(t, f.askAny())); err != nil {
					t.Fatalf("before Ada came: %v", err) // no more than the password gives them
				}
				own := f.inSession(f.ada)
				_, bobs := f.signedInAs(f.bob)
				if _, err := f.linkLogin(t.Context(), own, linking{bobs.GetRefreshToken(), anew{passkey: f.passkeyOf(p.device)}, anew{password: f.password}}, f.home); reason(err) != ReasonPasswordOfOthers {
					t.Errorf("linked by a planted passkey: %v", err)
				}

				sign := func(req *identityv1.SignInRequest) (*identityv1.SignInResponse, error) {
					req.AccountName, req.LoginName, req.Password, req.NewPassword = f.ada.AccountName, f.ada.Name, password, passwordOfHerOwn
					return (&api{service: f.Service}).SignIn(authn.WithOrigin(t.Context(), f.home), req)
				}
				asked, err := sign(&identityv1.SignInRequest{})
				if err != nil || asked.GetOutcome() != identityv1.SignInOutcome_SIGN_IN_OUTCOME_SECOND_FACTOR_NEEDED {
					t.Fatalf("%v, %v", asked, err)
				}
				req := &identityv1.SignInRequest{}
				shown(f, p, req, asked.GetPasskeyChallenge())
				in, err := sign(req)
				if err != nil || in.GetTokens() == nil {
					t.Fatalf("%v, %v", in, err)
				}
				if stays := with != "a recovery code"; stays != (len(in.GetRecoveryCodes()) > 0) {
					t.Errorf("%d recovery codes are new", len(in.GetRecoveryCodes()))
				}

				if _, err := f.by(p.device.get(t, f.askAny())); reason(err) != ReasonRefused {
					t.Errorf("the passkey signs in: %v", err)
				}
				if f.refreshes(p.tokens) != ReasonSession {
					t.Error("the session goes on")
				}
				if err := f.finish(p.by, p.begun, p.unready); reason(err) != ReasonSession {
					t.Errorf("a registration that had begun is finished: %v", err)
				}
				password = passwordOfHerOwn
				again, err := sign(&identityv1.SignInRequest{})
				left := with == "a key" || with == "a program"
				if err != nil || (again.GetOutcome() == identityv1.SignInOutcome_SIGN_IN_OUTCOME_SECOND_FACTOR_NEEDED) != left ||
					again.GetTakesTotp() != (with == "a program") || (again.GetPasskeyChallenge() != nil) != (with == "a key") {
					t.Errorf("then %v, %v", again, err)
				}
				if left {
					if _, err := sign(&identityv1.SignInRequest{SecondFactor: p.codes[1]}); reason(err) != ReasonRefused {
						t.Errorf("their recovery code: %v", err)
					}
					if r, err := sign(&identityv1.SignInRequest{SecondFactor: in.GetRecoveryCodes()[0]}); err != nil || r.GetTokens() == nil || len(r.GetRecoveryCodes()) > 0 {
						t.Errorf("hers: %v, %v", r, err)
					}
				}
			})
		}
	}
	removed := map[contract.ID]int{}
	for _, e := range told[*identityv1.PasskeyRemoved](platform) {
		removed[contract.ID(e.GetLoginId())]++
	}
	if len(removed) != 6 {
		t.Errorf("passkeys of %d logins are told of", len(removed))
	}
}

// finish finishes a registration.
func (f *fixture) finish(by authn.Caller, c *identityv1.PasskeyChallenge, d *device) error {
	f.t.Helper()
	_, err := f.passkeys().FinishPasskeyRegistration(f.as(by), &identityv1.FinishPasskeyRegistrationRequest{
		ChallengeToken: c.GetChallengeToken(), Credential: d.create(f.t.(*testing.T), c), DisplayName: "Late",
	})
	return err
}

// A password of one's own that one changes by oneself takes nothing away.
func TestOnesOwnPasswordKeepsOnesOwnFactors(t *testing.T) {
	f := start(t)
	d, done := f.adasDevice()
	by := f.inSession(f.ada)
	if err := f.changePassword(t.Context(), by, f.password, passwordOfHerOwn, f.home); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r, err := f.try(proof{password: passwordOfHerOwn, secondFactor: done.GetRecoveryCodes()[0]}, f.home)
		if err != nil || len(r.recoveryCodes) > 0 {
			t.Fatalf("%v, %v", r, err)
		}
		done.RecoveryCodes = done.RecoveryCodes[1:]
	}
	if _, err := f.by(d.get(t, f.askAny())); err != nil {
		t.Error(err)
	}
}

// A one-time password waits for its person for some days, and the first one of all is made anew then.
func TestAOneTimePasswordWaitsNotForEver(t *testing.T) {
	f := start(t)
	once, err := f.SetOneTimePassword(t.Context(), "test", f.ada.Account, f.ada.ID)
	if err != nil {
		t.Fatal(err)
	}
	f.clock.advance(oneTimeLife)
	if r, err := f.try(proof{password: once}, f.home); err != nil || r.outcome != identityv1.SignInOutcome_SIGN_IN_OUTCOME_NEW_PASSWORD_NEEDED {
		t.Fatalf("in time: %v, %v", r.outcome, err)
	}
	f.clock.advance(time.Second)
	if _, err := f.try(proof{password: once, newPassword: passwordOfHerOwn}, f.home); reason(err) != ReasonRefused {
		t.Errorf("too late: %v", err)
	}
	kept := ""
	if err := f.FirstPassword(t.Context(), f.ada.Account, f.ada.ID, func() (string, error) { kept = credential.NewOneTimePassword(); return kept, nil }); err != nil || kept == "" {
		t.Fatalf("%q, %v", kept, err)
	}
	if r, err := f.try(proof{password: kept, newPassword: passwordOfHerOwn}, f.home); err != nil || r.started.tokens == nil {
		t.Errorf("the next one: %v, %v", r, err)
	}
	f.clock.advance(2 * oneTimeLife)
	if r, err := f.try(proof{password: passwordOfHerOwn}, f.home); err != nil || r.started.tokens == nil {
		t.Errorf("her own: %v, %v", r, err)
	}
}

// Whoever reads mail where it went before does not choose the password, nor does a link of before a login
// was disabled.
func TestALinkIsForTheAddressOfNow(t *testing.T) {
	platform := start(t)
	for name, c := range map[string]struct {
		good   bool
		change func(*Login)
	}{
		"another address":      {false, func(l *Login) { l.MailAddress = "right@example.com" }},
		"disabled and enabled": {false, func(l *Login) { l.Disablings++ }},
		"another name":         {true, func(l *Login) { l.DisplayName = "Ada Obi" }},
	} {
		f := platform.anew(t)
		token, _, _, err := f.Link(t.Context(), f.ada.Account, f.ada.ID, f.ada.MailAddress)
		if err != nil {
			t.Fatal(err)
		}
		f.people.change(f.ada.ID, c.change)
		if err := f.completeReset(t.Context(), token, passwordOfHerOwn, f.home); (err == nil) != c.good || err != nil && reason(err) != ReasonLink {
			t.Errorf("%s: %v", name, err)
		}
		if name == "another address" {
			if _, _, ok, err := f.Link(t.Context(), f.ada.Account, f.ada.ID, f.ada.MailAddress); ok || err != nil {
				t.Errorf("a mail to the former address that still waits gets a link, %v", err)
			}
		}
	}
}

// Who signed in without a second factor does not go on so once the account asks for one.
func TestSessionsOfBeforeNeedASecondFactorToo(t *testing.T) {
	f := start(t)
	_, without := f.signedInAs(f.ada)
	_, vouched := f.vouchedFor(f.ada, Voucher{"https://issuer.example", "ada"})
	code := f.enrolled(f.ada)
	_, with := f.signedInWith(f.ada, code())
	f.mustRule(f.ada.Account, &identityv1.SignInPolicy{SecondFactorRequired: true}, "second_factor_required")
	if got := f.refreshes(without); got != ReasonSession {
		t.Errorf("without one: %q", got)
	}
	if got := f.refreshes(with); got != "" {
		t.Errorf("with one: %q", got)
	}
	if got := f.refreshes(vouched); got != "" {
		t.Errorf("by an identity provider, whose matter it is: %q", got)
	}
}

// A key does not make itself its login's person.
func TestAKeySetsNoPasswordOfItsOwnLogin(t *testing.T) {
	f := start(t)
	key := authn.Caller{Account: f.ada.Account, Login: f.ada.ID, Actor: "key:x", Reach: authzv1.Reach_REACH_ACCOUNT}
	if _, err := (&api{service: f.Service}).SetOneTimePassword(f.as(key), &identityv1.SetOneTimePasswordRequest{LoginId: f.ada.ID.String()}); reason(err) != authn.ReasonSignInNeeded {
		t.Error(err)
	}
	key.Login = contract.ID{0xee} // another administrator's
	r, err := (&api{service: f.Service}).SetOneTimePassword(f.as(key), &identityv1.SetOneTimePasswordRequest{LoginId: f.ada.ID.String()})
	if err != nil || !r.GetExpireTime().AsTime().Equal(f.clock.now().Add(oneTimeLife)) {
		t.Errorf("%v, %v", r, err)
	}
}
