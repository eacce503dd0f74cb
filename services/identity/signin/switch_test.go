package signin

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/credential"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// signedInAs signs somebody in by password, and tells who calls with that session.
func (f *fixture) signedInAs(l Login) (authn.Caller, *identityv1.Tokens) {
	f.t.Helper()
	return f.signedInWith(l, "")
}

func (f *fixture) signedInWith(l Login, secondFactor string) (authn.Caller, *identityv1.Tokens) {
	f.t.Helper()
	r, err := f.try(proof{account: l.AccountName, login: l.Name, password: f.password, secondFactor: secondFactor}, f.home)
	if err != nil || r.outcome != identityv1.SignInOutcome_SIGN_IN_OUTCOME_SIGNED_IN {
		f.t.Fatalf("%v, %v", r.outcome, err)
	}
	return f.callerOf(l, r.started.session), r.started.tokens
}

func (f *fixture) callerOf(l Login, session *identityv1.Session) authn.Caller {
	f.t.Helper()
	id, err := contract.ParseID(session.GetSessionId())
	if err != nil {
		f.t.Fatal(err)
	}
	return authn.Caller{Account: l.Account, Login: l.ID, Session: id, Actor: l.actor(), Reach: authzv1.Reach_REACH_SELF}
}

// vouchedFor signs somebody in by their account's identity provider.
func (f *fixture) vouchedFor(l Login, v Voucher) (authn.Caller, *identityv1.Tokens) {
	f.t.Helper()
	in, err := f.Begin(f.t.Context(), l.Account, l.ID, v.Issuer, v.Subject, f.home)
	if err != nil {
		f.t.Fatal(err)
	}
	return f.callerOf(l, in.GetSession()), in.GetTokens()
}

// linkAs links by both logins' passwords.
func (f *fixture) linkAs(by authn.Caller, refreshToken string) (Login, error) {
	return f.linkLogin(f.t.Context(), by, linking{refreshToken: refreshToken, own: anew{password: f.password}, other: anew{password: f.password}}, f.home)
}

// linkBoth links Ada's login with Bob's: they are one person here.
func (f *fixture) linkBoth() {
	f.t.Helper()
	by, _ := f.signedInAs(f.ada)
	_, tokens := f.signedInAs(f.bob)
	if _, err := f.linkAs(by, tokens.GetRefreshToken()); err != nil {
		f.t.Fatal(err)
	}
}

// anew is the same platform with other accounts: to begin one anew costs more than all that
// is tried on it.
func (f *fixture) anew(t *testing.T) *fixture {
	t.Helper()
	n := *f
	n.t = t
	for _, l := range []*Login{&n.ada, &n.bob} {
		l.Account, l.ID, l.Links = resource.NewID(), resource.NewID(), nil
		l.AccountName += l.Account.String()
		f.people.mu.Lock()
		f.people.logins[l.ID] = *l
		f.people.mu.Unlock()
		if err := n.replacePassword(t.Context(), "test", "test", l.Account, l.ID, contract.ID{}, n.password, identityv1.PasswordSource_PASSWORD_SOURCE_LOGIN); err != nil {
			t.Fatal(err)
		}
	}
	return &n
}

// another adds a login of a third account.
func (f *fixture) another() Login {
	f.t.Helper()
	l := Login{Account: contract.ID{3}, ID: contract.ID{0xc}, AccountName: "Third", Name: "Cleo"}
	f.people.mu.Lock()
	f.people.logins[l.ID] = l
	f.people.mu.Unlock()
	if err := f.replacePassword(f.t.Context(), "test", "test", l.Account, l.ID, contract.ID{}, f.password, identityv1.PasswordSource_PASSWORD_SOURCE_LOGIN); err != nil {
		f.t.Fatal(err)
	}
	return l
}

// rule changes what an account asks for.
func (f *fixture) rule(account contract.ID, p *identityv1.SignInPolicy, paths ...string) error {
	f.t.Helper()
	ctx := authn.WithCaller(f.t.Context(), authn.Caller{Account: account, Login: f.ada.ID, Actor: "test", Reach: authzv1.Reach_REACH_ACCOUNT})
	_, err := (&api{service: f.Service}).UpdateSignInPolicy(ctx, &identityv1.UpdateSignInPolicyRequest{Policy: p, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
	return err
}

func (f *fixture) mustRule(account contract.ID, p *identityv1.SignInPolicy, paths ...string) {
	f.t.Helper()
	if err := f.rule(account, p, paths...); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) switchAs(by authn.Caller, to Login) (started, error) {
	return f.switchTo(f.t.Context(), by, to.ref(), f.home)
}

// refreshes is the reason why a session cannot be refreshed; "" where it can.
func (f *fixture) refreshes(tokens *identityv1.Tokens) string {
	f.t.Helper()
	_, err := f.refresh(f.t.Context(), tokens.GetRefreshToken())
	return reason(err)
}

func TestAPersonSwitchesToTheirOtherLogin(t *testing.T) {
	f := start(t)
	ada, _ := f.signedInAs(f.ada)
	_, proof := f.signedInAs(f.bob)
	if other, err := f.linkAs(ada, proof.GetRefreshToken()); err != nil || other.ID != f.bob.ID {
		t.Fatalf("%+v, %v", other, err)
	}
	if f.refreshes(proof) != ReasonSession {
		t.Error("the session that proved the link goes on")
	}
	list, err := f.linked(t.Context(), ada)
	if err != nil || len(list) != 1 || list[0].GetAccountName() != "Other" || list[0].GetLoginName() != "Bob" || list[0].GetRefusal() != "" {
		t.Fatalf("%v, %v", list, err)
	}
	f.clock.advance(29 * 24 * time.Hour / 5) // days later, the session is still used
	begun, err := f.switchAs(ada, f.bob)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.checks(begun.tokens.GetAccessToken()); err != nil {
		t.Error(err)
	}
	bob := f.callerOf(f.bob, begun.session)
	own, err := f.readSession(t.Context(), ada.Account, ada.Session)
	if err != nil {
		t.Fatal(err)
	}
	if !begun.session.GetExpireTime().AsTime().Equal(own.expires) || !begun.session.GetSwitched() {
		t.Errorf("%v; its origin lasts until %s", begun.session, own.expires)
	}
	sessions, err := f.listSessions(t.Context(), "test", bob, f.bob.ID, f.clock.now().Add(time.Hour), nobody(), 10)
	if err != nil || len(sessions) != 1 || !sessions[0].GetSwitched() || !sessions[0].GetCurrent() {
		t.Errorf("%v, %v", sessions, err)
	}
	// It is told at both ends, and by whom.
	switched := told[*identityv1.SessionSwitched](f)
	if len(switched) != 1 || contract.ID(switched[0].GetSessionId()) != bob.Session || contract.ID(switched[0].GetAccountId()) != f.bob.Account {
		t.Errorf("told %v", switched)
	}
	all := told[*identityv1.SessionStarted](f)
	if last := all[len(all)-1]; contract.ID(last.GetLoginId()) != f.bob.ID || contract.ID(last.GetOriginSessionId()) != ada.Session || contract.ID(last.GetOriginLoginId()) != f.ada.ID {
		t.Errorf("told %v", last)
	}
	if f.refreshes(begun.tokens) != "" {
		t.Error("it is not refreshed")
	}
	// From there it goes no farther, not even back.
	if _, err := f.switchAs(bob, f.ada); reason(err) != ReasonSwitchedSession {
		t.Errorf("switched on: %v", err)
	}
}

// What proves no other login links none, whoever sends it.
func TestWhatLinksNothing(t *testing.T) {
	platform := start(t)
	for name, c := range map[string]struct {
		reason string
		do     func(*fixture, authn.Caller, *identityv1.Tokens) (authn.Caller, string)
	}{
		"nothing that anybody was given": {ReasonLinkProof, func(f *fixture, by authn.Caller, _ *identityv1.Tokens) (authn.Caller, string) {
			return by, refreshPrefix + place(f.bob.Account, contract.ID{5}, credential.NewSecret())
		}},
		"another's session without its secret": {ReasonLinkProof, func(f *fixture, by authn.Caller, proof *identityv1.Tokens) (authn.Caller, string) {
			account, id, _, _ := readPlace(proof.GetRefreshToken()[len(refreshPrefix):])
			return by, refreshPrefix + place(account, id, credential.NewSecret())
		}},
		"no token": {ReasonLinkProof, func(_ *fixture, by authn.Caller, proof *identityv1.Tokens) (authn.Caller, string) {
			return by, proof.GetAccessToken()
		}},
		"the caller's own": {ReasonLinkProof, func(f *fixture, by authn.Caller, _ *identityv1.Tokens) (authn.Caller, string) {
			_, own := f.signedInAs(f.ada)
			return by, own.GetRefreshToken()
		}},
		"one that was used": {ReasonLinkProof, func(f *fixture, by authn.Caller, proof *identityv1.Tokens) (authn.Caller, string) {
			f.refreshes(proof)
			return by, proof.GetRefreshToken()
		}},
		"one of a session that ended": {ReasonLinkProof, func(f *fixture, by authn.Caller, proof *identityv1.Tokens) (authn.Caller, string) {
			if err := f.signOut(f.t.Context(), proof.GetRefreshToken()); err != nil {
				f.t.Fatal(err)
			}
			return by, proof.GetRefreshToken()
		}},
		"one of a login that is disabled": {ReasonLinkProof, func(f *fixture, by authn.Caller, proof *identityv1.Tokens) (authn.Caller, string) {
			f.people.change(f.bob.ID, func(l *Login) { l.Disabled = true })
			return by, proof.GetRefreshToken()
		}},
		"one of a login that was disabled since": {ReasonLinkProof, func(f *fixture, by authn.Caller, proof *identityv1.Tokens) (authn.Caller, string) {
			f.people.change(f.bob.ID, func(l *Login) { l.Disablings++ })
			return by, proof.GetRefreshToken()
		}},
		"a sign-in of before": {ReasonLinkProof, func(f *fixture, _ authn.Caller, proof *identityv1.Tokens) (authn.Caller, string) {
			f.clock.advance(linkWithin + time.Second)
			by, _ := f.signedInAs(f.ada)
			return by, proof.GetRefreshToken()
		}},
		"a caller whose session ended": {ReasonSession, func(f *fixture, by authn.Caller, proof *identityv1.Tokens) (authn.Caller, string) {
			if err := f.EndSessions(f.t.Context(), "test", f.ada.Account, f.ada.ID); err != nil {
				f.t.Fatal(err)
			}
			return by, proof.GetRefreshToken()
		}},
		"a key": {authn.ReasonSignInNeeded, func(_ *fixture, by authn.Caller, proof *identityv1.Tokens) (authn.Caller, string) {
			by.Session = contract.ID{}
			return by, proof.GetRefreshToken()
		}},
		"here it is forbidden": {ReasonLinksForbidden, func(f *fixture, by authn.Caller, proof *identityv1.Tokens) (authn.Caller, string) {
			f.mustRule(f.ada.Account, &identityv1.SignInPolicy{LinksForbidden: true}, "links_forbidden")
			return by, proof.GetRefreshToken()
		}},
		"there it is forbidden": {ReasonLinksForbidden, func(f *fixture, by authn.Caller, proof *identityv1.Tokens) (authn.Caller, string) {
			f.mustRule(f.bob.Account, &identityv1.SignInPolicy{LinksForbidden: true}, "links_forbidden")
			return by, proof.GetRefreshToken()
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := platform.anew(t)
			by, _ := f.signedInAs(f.ada)
			_, proof := f.signedInAs(f.bob)
			by, token := c.do(f, by, proof)
			if _, err := f.linkAs(by, token); reason(err) != c.reason {
				t.Errorf("%v, not %s", err, c.reason)
			}
			if l, _, err := f.people.Login(t.Context(), f.ada.Account, f.ada.ID); err != nil || len(l.Links) > 0 {
				t.Errorf("linked with %v, %v", l.Links, err)
			}
		})
	}
}

// Of many who show one proof at once, one links; later nobody does.
func TestAProofLinksOnce(t *testing.T) {
	f := start(t)
	by, _ := f.signedInAs(f.ada)
	_, proof := f.signedInAs(f.bob)
	var done sync.WaitGroup
	var linked atomic.Int64
	for range freeOfLogin { // more would have to wait
		done.Go(func() {
			if _, err := f.linkAs(by, proof.GetRefreshToken()); err == nil {
				linked.Add(1)
			} else if reason(err) != ReasonLinkProof {
				t.Error(err)
			}
		})
	}
	done.Wait()
	if linked.Load() != 1 || f.people.linked.Load() != 1 {
		t.Errorf("%d say so, %d links", linked.Load(), f.people.linked.Load())
	}
	cleo := f.another()
	later, _ := f.signedInAs(cleo)
	if _, err := f.linkAs(later, proof.GetRefreshToken()); reason(err) != ReasonLinkProof {
		t.Errorf("replayed: %v", err)
	}
}

// A switched session proves nothing and links nothing: who finds one must not bind a login of
// their own to it. And what is linked with what is linked is not linked.
func TestLinksMakeNoChain(t *testing.T) {
	f := start(t)
	cleo := f.another()
	f.linkBoth() // A – B
	bob, _ := f.signedInAs(f.bob)
	_, proof := f.signedInAs(cleo)
	if _, err := f.linkAs(bob, proof.GetRefreshToken()); err != nil { // B – C
		t.Fatal(err)
	}
	ada, _ := f.signedInAs(f.ada)
	if _, err := f.switchAs(ada, cleo); reason(err) != ReasonNotLinked || !errs.Is(errs.NotFound, err) {
		t.Errorf("over two links: %v", err)
	}
	begun, err := f.switchAs(ada, f.bob)
	if err != nil {
		t.Fatal(err)
	}
	switched := f.callerOf(f.bob, begun.session)
	if _, err := f.switchAs(switched, cleo); reason(err) != ReasonSwitchedSession {
		t.Errorf("one after the other: %v", err)
	}
	_, fresh := f.signedInAs(cleo)
	if _, err := f.linkAs(switched, fresh.GetRefreshToken()); reason(err) != ReasonSwitchedSession {
		t.Errorf("a switched session links: %v", err)
	}
	third, _ := f.signedInAs(cleo)
	if _, err := f.linkAs(third, begun.tokens.GetRefreshToken()); reason(err) != ReasonLinkProof {
		t.Errorf("a switched session proves: %v", err)
	}
}

// The other account's own rules hold for who comes by a link.
func TestWhatIsAskedOfWhoSwitches(t *testing.T) {
	platform := start(t)
	const issuer = "https://issuer.example"
	for name, c := range map[string]struct {
		reason string
		by     func(*fixture) authn.Caller
	}{
		"a second factor is asked for": {ReasonFactorNeeded, func(f *fixture) authn.Caller {
			f.mustRule(f.bob.Account, &identityv1.SignInPolicy{SecondFactorRequired: true}, "second_factor_required")
			by, _ := f.signedInAs(f.ada)
			return by
		}},
		"a second factor is there, though nobody asks for it": {ReasonFactorNeeded, func(f *fixture) authn.Caller {
			f.enrolled(f.bob)
			by, _ := f.signedInAs(f.ada)
			return by
		}},
		"a second factor was shown": {"", func(f *fixture) authn.Caller {
			f.mustRule(f.bob.Account, &identityv1.SignInPolicy{SecondFactorRequired: true}, "second_factor_required")
			code := f.enrolled(f.ada)
			by, _ := f.signedInWith(f.ada, code())
			return by
		}},
		"single sign-on only": {ReasonSingleSignOn, func(f *fixture) authn.Caller {
			f.onlySingleSignOn(f.bob)
			by, _ := f.signedInAs(f.ada)
			return by
		}},
		"single sign-on only, and the same provider": {"", func(f *fixture) authn.Caller {
			f.onlySingleSignOn(f.bob)
			f.people.vouched[f.bob.ref()] = Voucher{issuer, "bob"}
			by, _ := f.vouchedFor(f.ada, Voucher{issuer, "bob"})
			return by
		}},
		"the same provider, and another person": {ReasonProviderUnknown, func(f *fixture) authn.Caller {
			f.people.vouched[f.bob.ref()] = Voucher{issuer, "bob"}
			by, _ := f.vouchedFor(f.ada, Voucher{issuer, "eve"})
			return by
		}},
		"another provider": {ReasonProviderUnknown, func(f *fixture) authn.Caller {
			by, _ := f.vouchedFor(f.ada, Voucher{"https://mine.example", "bob"})
			return by
		}},
		"signed in too long ago": {ReasonTooOld, func(f *fixture) authn.Caller {
			f.mustRule(f.bob.Account, &identityv1.SignInPolicy{MaxSwitchAge: durationpb.New(time.Hour)}, "max_switch_age")
			by, _ := f.signedInAs(f.ada)
			f.clock.advance(time.Hour + time.Second)
			return by
		}},
		"signed in in time": {"", func(f *fixture) authn.Caller {
			f.mustRule(f.bob.Account, &identityv1.SignInPolicy{MaxSwitchAge: durationpb.New(time.Hour)}, "max_switch_age")
			by, _ := f.signedInAs(f.ada)
			f.clock.advance(time.Hour)
			return by
		}},
		"disabled there": {ReasonLoginGone, func(f *fixture) authn.Caller {
			by, _ := f.signedInAs(f.ada)
			f.people.change(f.bob.ID, func(l *Login) { l.Disabled = true })
			return by
		}},
		"not there any more": {ReasonLoginGone, func(f *fixture) authn.Caller {
			by, _ := f.signedInAs(f.ada)
			f.people.change(f.bob.ID, func(l *Login) { l.Account = contract.ID{7} })
			return by
		}},
		"the other end knows of no link": {ReasonLoginGone, func(f *fixture) authn.Caller {
			by, _ := f.signedInAs(f.ada)
			f.people.change(f.bob.ID, func(l *Login) { l.Links = nil })
			return by
		}},
		"disabled here": {ReasonSession, func(f *fixture) authn.Caller {
			by, _ := f.signedInAs(f.ada)
			f.people.change(f.ada.ID, func(l *Login) { l.Disabled = true })
			return by
		}},
		"disabled and enabled here": {ReasonSession, func(f *fixture) authn.Caller {
			by, _ := f.signedInAs(f.ada)
			f.people.change(f.ada.ID, func(l *Login) { l.Disablings++ })
			return by
		}},
		"signed out here": {ReasonSession, func(f *fixture) authn.Caller {
			by, tokens := f.signedInAs(f.ada)
			if err := f.signOut(f.t.Context(), tokens.GetRefreshToken()); err != nil {
				f.t.Fatal(err)
			}
			return by
		}},
		"another's session": {ReasonSession, func(f *fixture) authn.Caller {
			by, _ := f.signedInAs(f.bob)
			by.Account, by.Login = f.ada.Account, f.ada.ID
			return by
		}},
		"forbidden here": {ReasonLinksForbidden, func(f *fixture) authn.Caller {
			f.mustRule(f.ada.Account, &identityv1.SignInPolicy{LinksForbidden: true}, "links_forbidden")
			by, _ := f.signedInAs(f.ada)
			return by
		}},
		"forbidden there": {ReasonLinksForbidden, func(f *fixture) authn.Caller {
			f.mustRule(f.bob.Account, &identityv1.SignInPolicy{LinksForbidden: true}, "links_forbidden")
			by, _ := f.signedInAs(f.ada)
			return by
		}},
		"a key": {authn.ReasonSignInNeeded, func(f *fixture) authn.Caller {
			by, _ := f.signedInAs(f.ada)
			by.Session = contract.ID{}
			return by
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := platform.anew(t)
			f.linkBoth()
			by := c.by(f)
			if !by.Session.IsZero() && c.reason != ReasonSession {
				list, err := f.linked(t.Context(), by)
				if err != nil || len(list) != 1 || list[0].GetRefusal() != c.reason {
					t.Errorf("listed as %v, %v", list, err)
				}
			}
			begun, err := f.switchAs(by, f.bob)
			if c.reason == "" {
				if err != nil {
					t.Fatal(err)
				}
				if got := f.refreshes(begun.tokens); got != "" {
					t.Errorf("then %s", got)
				}
				return
			}
			if reason(err) != c.reason {
				t.Errorf("%v, not %s", err, c.reason)
			}
			for _, e := range told[*identityv1.SessionSwitched](f) {
				if contract.ID(e.GetLoginId()) == f.bob.ID {
					t.Errorf("told %v", e)
				}
			}
		})
	}
}

// enrolled gives a login an authenticator program, whose next code it answers with.
func (f *fixture) enrolled(l Login) func() string {
	f.t.Helper()
	e, err := f.beginEnrolment(f.t.Context(), "test", l)
	if err != nil {
		f.t.Fatal(err)
	}
	secret := secretOf(f.t, e.uri)
	code := func() string {
		f.clock.advance(30 * time.Second)
		return f.code(secret)
	}
	if _, err := f.confirmEnrolment(f.t.Context(), "test", f.inSession(l), code()); err != nil {
		f.t.Fatal(err)
	}
	return code
}

// onlySingleSignOn has a login's account let people in by its provider only.
func (f *fixture) onlySingleSignOn(l Login) {
	f.t.Helper()
	by, _ := f.vouchedFor(l, Voucher{"https://issuer.example", "chief"})
	by.Reach = authzv1.Reach_REACH_ACCOUNT
	_, err := (&api{service: f.Service}).UpdateSignInPolicy(authn.WithCaller(f.t.Context(), by), &identityv1.UpdateSignInPolicyRequest{
		Policy: &identityv1.SignInPolicy{SingleSignOnRequired: true}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"single_sign_on_required"}},
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

func TestAnAccountLetsPeopleInByItsProviderOnly(t *testing.T) {
	f := start(t)
	if err := f.rule(f.ada.Account, &identityv1.SignInPolicy{SingleSignOnRequired: true}, "single_sign_on_required"); reason(err) != ReasonSingleSignOn {
		t.Errorf("somebody who came by none switches it on: %v", err)
	}
	f.onlySingleSignOn(f.ada)
	if _, err := f.try(proof{password: f.password}, f.home); reason(err) != ReasonSingleSignOn {
		t.Errorf("by password: %v", err)
	}
	if _, err := f.try(proof{password: "another one, a wrong one"}, f.home); reason(err) != ReasonRefused {
		t.Errorf("a wrong password tells more: %v", err)
	}
	f.vouchedFor(f.ada, Voucher{"https://issuer.example", "ada"})
	f.mustRule(f.ada.Account, &identityv1.SignInPolicy{SecondFactorRequired: false}, "second_factor_required")
	if _, err := f.try(proof{password: f.password}, f.home); reason(err) != ReasonSingleSignOn {
		t.Errorf("another field's change has changed this one: %v", err)
	}
	if err := f.AllowPasswords(t.Context(), "operator", f.ada.Account); err != nil {
		t.Fatal(err)
	}
	f.in()
}

// What it was switched from ends a session: by refresh at the latest, in the log, and for its
// access tokens at once.
func TestASwitchedSessionEndsWithItsOrigin(t *testing.T) {
	platform := start(t)
	for name, end := range map[string]func(*fixture, authn.Caller, *identityv1.Tokens) error{
		"signed out": func(f *fixture, _ authn.Caller, tokens *identityv1.Tokens) error {
			return f.signOut(f.t.Context(), tokens.GetRefreshToken())
		},
		"ended by an administrator": func(f *fixture, by authn.Caller, _ *identityv1.Tokens) error {
			return f.endSession(f.t.Context(), authn.Caller{Account: by.Account, Actor: "test"}, by.Session, contract.ID{})
		},
		"unlinked": func(f *fixture, by authn.Caller, _ *identityv1.Tokens) error {
			return f.unlink(f.t.Context(), by.Actor, f.ada.ref(), f.bob.ref())
		},
		"unlinked from the other end": func(f *fixture, _ authn.Caller, _ *identityv1.Tokens) error {
			return f.unlink(f.t.Context(), "test", f.bob.ref(), f.ada.ref())
		},
		"the password was set by an administrator": func(f *fixture, _ authn.Caller, _ *identityv1.Tokens) error {
			_, err := f.SetOneTimePassword(f.t.Context(), "test", f.ada.Account, f.ada.ID)
			return err
		},
		"its token was stolen": func(f *fixture, _ authn.Caller, tokens *identityv1.Tokens) error {
			f.refreshes(tokens)
			f.clock.advance(sameAnswerFor)
			f.refreshes(tokens)
			return nil
		},
		"disabled": func(f *fixture, _ authn.Caller, _ *identityv1.Tokens) error {
			f.people.change(f.ada.ID, func(l *Login) { l.Disabled, l.Disablings = true, l.Disablings+1 })
			return nil
		},
		"deleted": func(f *fixture, _ authn.Caller, _ *identityv1.Tokens) error {
			f.people.mu.Lock()
			defer f.people.mu.Unlock()
			delete(f.people.logins, f.ada.ID)
			return nil
		},
		"not used for a week": func(f *fixture, _ authn.Caller, _ *identityv1.Tokens) error {
			f.clock.advance(idleLife + time.Second)
			return nil
		},
		"links were forbidden": func(f *fixture, _ authn.Caller, _ *identityv1.Tokens) error {
			return f.rule(f.ada.Account, &identityv1.SignInPolicy{LinksForbidden: true}, "links_forbidden")
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := platform.anew(t)
			f.linkBoth()
			by, tokens := f.signedInAs(f.ada)
			begun, err := f.switchAs(by, f.bob)
			if err != nil {
				t.Fatal(err)
			}
			if err := end(f, by, tokens); err != nil {
				t.Fatal(err)
			}
			if got := f.refreshes(begun.tokens); got != ReasonSession {
				t.Errorf("refreshed: %q", got)
			}
			if name == "not used for a week" {
				return // neither was the one that was switched to, which nobody has ended
			}
			for range 2 { // what ends by the end of another is told the next time
				if err := f.tellEnds(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			id := f.callerOf(f.bob, begun.session).Session
			var ends []identityv1.SessionEnd
			for _, e := range told[*identityv1.SessionEnded](f) {
				if contract.ID(e.GetSessionId()) == id {
					ends = append(ends, e.GetReason())
				}
			}
			if len(ends) != 1 || ends[0] != identityv1.SessionEnd_SESSION_END_ORIGIN_ENDED {
				t.Errorf("its end was told as %v", ends)
			}
		})
	}
}

// Where a link ends while somebody switches by it, no session is left of it.
func TestSwitchingMeetsUnlinking(t *testing.T) {
	f := start(t)
	f.linkBoth()
	for range 10 {
		f.clock.advance(longestWait) // who was refused waits
		by, _ := f.signedInAs(f.ada)
		var both sync.WaitGroup
		var got started
		both.Go(func() {
			var err error
			if got, err = f.switchAs(by, f.bob); err != nil && reason(err) != ReasonNotLinked && reason(err) != ReasonLoginGone {
				t.Error(err)
			}
		})
		both.Go(func() {
			if err := f.unlink(t.Context(), by.Actor, f.ada.ref(), f.bob.ref()); err != nil {
				t.Error(err)
			}
		})
		both.Wait()
		if got.tokens != nil && f.refreshes(got.tokens) != ReasonSession {
			t.Fatal("a session outlived its link")
		}
		if err := f.people.Link(context.Background(), "", LinkEnd{Ref: f.ada.ref()}, LinkEnd{Ref: f.bob.ref()}); err != nil {
			t.Fatal(err)
		}
	}
}

// Who sets another's credentials does not inherit their links.
func TestLinksEndWithCredentialsThatOthersSet(t *testing.T) {
	platform := start(t)
	for name, c := range map[string]struct {
		ends bool
		do   func(*fixture) error
	}{
		"a one-time password": {true, func(f *fixture) error {
			_, err := f.SetOneTimePassword(f.t.Context(), "test", f.bob.Account, f.bob.ID)
			return err
		}},
		"a mailed link": {true, func(f *fixture) error {
			token, _, _, err := f.Link(f.t.Context(), f.bob.Account, f.bob.ID, f.bob.MailAddress)
			if err != nil {
				return err
			}
			return f.completeReset(f.t.Context(), token, "quite another long password", f.home)
		}},
		"a second factor that was taken away": {true, func(f *fixture) error {
			return f.removeFactor(f.t.Context(), "test", authn.Caller{Account: f.bob.Account, Actor: "test"}, f.bob.ID, contract.ID{}, false)
		}},
		"a password of one's own": {false, func(f *fixture) error {
			by, _ := f.signedInAs(f.bob)
			return f.changePassword(f.t.Context(), by, f.password, "quite another long password", f.home)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := platform.anew(t)
			f.linkBoth()
			if err := c.do(f); err != nil {
				t.Fatal(err)
			}
			for _, id := range []contract.ID{f.ada.ID, f.bob.ID} {
				f.people.mu.Lock()
				links := f.people.logins[id].Links
				f.people.mu.Unlock()
				if (len(links) == 0) != c.ends {
					t.Errorf("%s has %v", id, links)
				}
			}
		})
	}
}

// Sessions and factors of a login that is not there, of another account's, and of another's for
// whoever sees only their own, are answered alike.
func TestLoginsThatAreNotTheCallersAreNotThere(t *testing.T) {
	f := start(t)
	by := authn.Caller{Account: f.ada.Account, Login: f.ada.ID, Session: contract.ID{1}, Actor: f.ada.actor()}
	a := &api{service: f.Service}
	for name, c := range map[string]struct {
		reach authzv1.Reach
		login contract.ID
	}{
		"nobody's, for an administrator": {authzv1.Reach_REACH_ACCOUNT, resource.NewID()},
		"another account's":              {authzv1.Reach_REACH_ACCOUNT, f.bob.ID},
		"another's":                      {authzv1.Reach_REACH_SELF, f.bob.ID},
		"nobody's":                       {authzv1.Reach_REACH_SELF, resource.NewID()},
	} {
		by.Reach = c.reach
		ctx := authn.WithCaller(t.Context(), by)
		_, sessions := a.ListSessions(ctx, &identityv1.ListSessionsRequest{LoginId: c.login.String()})
		_, factor := a.GetSecondFactor(ctx, &identityv1.GetSecondFactorRequest{LoginId: c.login.String()})
		_, removed := a.RemoveSecondFactor(ctx, &identityv1.RemoveSecondFactorRequest{LoginId: c.login.String()})
		for what, err := range map[string]error{"sessions": sessions, "second factor": factor, "removal": removed} {
			if !errs.Is(errs.NotFound, err) || errs.PublicOf(err).Message != "there is no such login" {
				t.Errorf("%s of %s: %v", what, name, err)
			}
		}
	}
	by.Reach = authzv1.Reach_REACH_ACCOUNT
	if _, err := a.GetSecondFactor(authn.WithCaller(t.Context(), by), &identityv1.GetSecondFactorRequest{LoginId: f.ada.ID.String()}); err != nil {
		t.Error(err)
	}
}
