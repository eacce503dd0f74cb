package signin

import (
	"slices"
	"testing"
	"time"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// passkeyOf is the answer of a device to a challenge that anybody gets.
func (f *fixture) passkeyOf(d *device) answered {
	f.t.Helper()
	p := d.get(f.t.(*testing.T), f.askAny())
	a, err := answeredOf("test", "", p.GetChallengeToken(), p.GetCredential())
	if err != nil {
		f.t.Fatal(err)
	}
	return a
}

// withDevice gives a login a passkey.
func (f *fixture) withDevice(l Login) *device {
	f.t.Helper()
	d := newDevice(f.t.(*testing.T))
	by, _ := f.signedInAs(l)
	if _, err := f.register(by, d); err != nil {
		f.t.Fatal(err)
	}
	return d
}

// Whoever has come by all the tokens of one session, of either login, links nothing with them.
func TestAStolenSessionLinksNothing(t *testing.T) {
	platform := start(t)
	password := func(f *fixture) anew { return anew{password: f.password} }
	incomplete := errs.Invalid.Reason()
	for name, c := range map[string]struct {
		reason string
		// own and other are what the thief has to show beside the sessions.
		own, other func(*fixture, authn.Caller) anew
	}{
		"nothing of either":                        {incomplete, nil, nil},
		"nothing of the login that it starts from": {incomplete, nil, func(f *fixture, _ authn.Caller) anew { return password(f) }},
		"nothing of the login that was shown":      {incomplete, func(f *fixture, _ authn.Caller) anew { return password(f) }, nil},
		"a guess at the one": {ReasonProof, func(*fixture, authn.Caller) anew { return anew{password: "a guess of a thief"} }, func(f *fixture, _ authn.Caller) anew {
			return password(f)
		}},
		"a guess at the other": {ReasonProof, func(f *fixture, _ authn.Caller) anew { return password(f) }, func(*fixture, authn.Caller) anew {
			return anew{password: "a guess of a thief"}
		}},
		"a password without the second factor": {incomplete, func(f *fixture, _ authn.Caller) anew {
			f.enrolled(f.ada)
			return password(f)
		}, func(f *fixture, _ authn.Caller) anew { return password(f) }},
		"a password and a guess at the second factor": {ReasonProof, func(f *fixture, _ authn.Caller) anew {
			f.enrolled(f.ada)
			return anew{password: f.password, secondFactor: "000000"}
		}, func(f *fixture, _ authn.Caller) anew { return password(f) }},
		"another's passkey": {ReasonProof, func(f *fixture, _ authn.Caller) anew {
			return anew{passkey: f.passkeyOf(f.withDevice(f.another()))}
		}, func(f *fixture, _ authn.Caller) anew { return password(f) }},
		"a passkey that did not make sure of its person": {ReasonProof, func(f *fixture, _ authn.Caller) anew {
			d := f.withDevice(f.ada)
			d.authenticator.Options.UserNotVerified = true
			return anew{passkey: f.passkeyOf(d)}
		}, func(f *fixture, _ authn.Caller) anew { return password(f) }},
		"a session that nobody vouched for": {ReasonProof, func(f *fixture, _ authn.Caller) anew {
			_, tokens := f.signedInAs(f.ada)
			return anew{refreshToken: tokens.GetRefreshToken()}
		}, func(f *fixture, _ authn.Caller) anew { return password(f) }},
		"another's session": {ReasonProof, func(f *fixture, _ authn.Caller) anew {
			_, tokens := f.vouchedFor(f.bob, Voucher{"https://issuer.example", "bob"})
			return anew{refreshToken: tokens.GetRefreshToken()}
		}, func(f *fixture, _ authn.Caller) anew { return password(f) }},
		"a session of before": {ReasonLinkProof, func(f *fixture, _ authn.Caller) anew {
			_, tokens := f.vouchedFor(f.ada, Voucher{"https://issuer.example", "ada"})
			f.clock.advance(linkWithin + time.Second)
			return anew{refreshToken: tokens.GetRefreshToken()}
		}, func(f *fixture, _ authn.Caller) anew { return password(f) }},
		"all at once": {incomplete, func(f *fixture, _ authn.Caller) anew {
			_, tokens := f.vouchedFor(f.ada, Voucher{"https://issuer.example", "ada"})
			return anew{password: f.password, refreshToken: tokens.GetRefreshToken()}
		}, func(f *fixture, _ authn.Caller) anew { return password(f) }},
	} {
		t.Run(name, func(t *testing.T) {
			f := platform.anew(t)
			by, _ := f.signedInAs(f.ada)
			want := linking{}
			if c.own != nil {
				want.own = c.own(f, by)
			}
			if c.other != nil {
				want.other = c.other(f, by)
			}
			if c.reason != ReasonLinkProof {
				_, tokens := f.signedInAs(f.bob)
				want.refreshToken = tokens.GetRefreshToken()
			}
			if _, err := f.linkLogin(t.Context(), by, want, f.home); reason(err) != c.reason {
				t.Errorf("%v, not %q", err, c.reason)
			}
			if l, _, err := f.people.Login(t.Context(), f.ada.Account, f.ada.ID); err != nil || len(l.Links) > 0 {
				t.Errorf("linked with %v, %v", l.Links, err)
			}
		})
	}
	t.Run("the session itself", func(t *testing.T) {
		f := platform.anew(t)
		by, own := f.vouchedFor(f.ada, Voucher{"https://issuer.example", "ada"})
		_, other := f.vouchedFor(f.bob, Voucher{"https://issuer.example", "bob"})
		want := linking{refreshToken: other.GetRefreshToken(), own: anew{refreshToken: own.GetRefreshToken()}, other: anew{password: f.password}}
		if _, err := f.linkLogin(t.Context(), by, want, f.home); reason(err) != ReasonProof {
			t.Errorf("a session proves itself: %v", err)
		}
		want.own, want.other = anew{password: f.password}, anew{refreshToken: other.GetRefreshToken()}
		if _, err := f.linkLogin(t.Context(), by, want, f.home); reason(err) != ReasonProof {
			t.Errorf("the session that is shown proves itself: %v", err)
		}
	})
}

// What a person has links, and nothing that was shown for it is good once more.
func TestWhatProvesALoginAnew(t *testing.T) {
	platform := start(t)
	for name, own := range map[string]func(*fixture) anew{
		"a password": func(f *fixture) anew { return anew{password: f.password} },
		"a password with a code": func(f *fixture) anew {
			code := f.enrolled(f.ada)
			return anew{password: f.password, secondFactor: code()}
		},
		"a passkey": func(f *fixture) anew { return anew{passkey: f.passkeyOf(f.withDevice(f.ada))} },
		"one more sign-in at the identity provider": func(f *fixture) anew {
			_, tokens := f.vouchedFor(f.ada, Voucher{"https://issuer.example", "ada"})
			return anew{refreshToken: tokens.GetRefreshToken()}
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := platform.anew(t)
			by, _ := f.vouchedFor(f.ada, Voucher{"https://issuer.example", "ada"})
			f.clock.advance(linkWithin + time.Hour) // how old the caller's session is says nothing
			shown := own(f)
			_, tokens := f.signedInAs(f.bob)
			if _, err := f.linkLogin(t.Context(), by, linking{tokens.GetRefreshToken(), shown, anew{password: f.password}}, f.home); err != nil {
				t.Fatal(err)
			}
			if shown.password != "" && shown.secondFactor == "" {
				return // a password is not used up
			}
			_, again := f.signedInAs(f.bob)
			if _, err := f.linkLogin(t.Context(), by, linking{again.GetRefreshToken(), shown, anew{password: f.password}}, f.home); reason(err) != ReasonProof {
				t.Errorf("shown again: %v", err)
			}
		})
	}
}

// Where an identity provider made sure of the person, it says nothing of whose the login's password
// is: an administrator who has set it, and kept it, does not come into the person's other accounts.
func TestALinkByAProviderIsNotUsedByPassword(t *testing.T) {
	f := start(t)
	ada := Voucher{"https://issuer.example", "ada"}
	f.people.vouched[f.bob.ref()] = ada // the same person, there too
	by, _ := f.vouchedFor(f.ada, ada)
	_, second := f.vouchedFor(f.ada, ada)
	_, tokens := f.signedInAs(f.bob)
	if _, err := f.linkLogin(t.Context(), by, linking{tokens.GetRefreshToken(), anew{refreshToken: second.GetRefreshToken()}, anew{password: f.password}}, f.home); err != nil {
		t.Fatal(err)
	}
	thief, _ := f.signedInAs(f.ada)
	if _, err := f.switchAs(thief, f.bob); reason(err) != ReasonByProvider {
		t.Errorf("by password: %v", err)
	}
	if list, err := f.linked(t.Context(), thief); err != nil || len(list) != 1 || list[0].GetRefusal() != ReasonByProvider {
		t.Errorf("listed as %v, %v", list, err)
	}
	if _, err := f.switchAs(by, f.bob); err != nil {
		t.Errorf("by the provider: %v", err)
	}
	bob, _ := f.signedInAs(f.bob) // which was proved by its password
	if _, err := f.switchAs(bob, f.ada); err != nil {
		t.Errorf("from the other end: %v", err)
	}
}

// Refusals are in the log of whoever was refused, and of the account that refused a linked login; not
// each of them, and who goes on waits.
func TestRefusedLinksAndSwitchesAreTold(t *testing.T) {
	f := start(t)
	by, _ := f.signedInAs(f.ada)
	for range 4 {
		if _, err := f.linkAs(by, "cetrus_refresh_x"); reason(err) != ReasonLinkProof {
			t.Fatal(err)
		}
	}
	f.doAllLater()
	var counts []int32
	for _, e := range told[*identityv1.LinkRefused](f) {
		if contract.ID(e.GetLoginId()) != f.ada.ID || e.GetReason() != ReasonLinkProof {
			t.Errorf("told %v", e)
		}
		counts = append(counts, e.GetFailures())
	}
	if !slices.Equal(counts, []int32{1, 2, 4}) {
		t.Errorf("told of %v", counts)
	}
	f.clock.advance(time.Second)
	f.linkBoth()
	f.mustRule(f.bob.Account, &identityv1.SignInPolicy{SecondFactorRequired: true}, "second_factor_required")
	if _, err := f.switchAs(by, f.bob); reason(err) != ReasonFactorNeeded {
		t.Fatal(err)
	}
	stranger := f.bob
	stranger.ID = resource.NewID()
	if _, err := f.switchAs(by, stranger); reason(err) != ReasonNotLinked {
		t.Fatal(err)
	}
	f.doAllLater()
	var of []contract.ID
	for _, e := range told[*identityv1.SwitchRefused](f) {
		of = append(of, contract.ID(e.GetLoginId()))
		if named := len(e.GetLinkedLoginId()) > 0; named != (e.GetReason() == ReasonFactorNeeded) {
			t.Errorf("told %v", e)
		}
	}
	slices.SortFunc(of, func(a, b contract.ID) int { return slices.Compare(a[:], b[:]) })
	if !slices.Equal(of, []contract.ID{f.ada.ID, f.ada.ID, f.bob.ID}) {
		t.Errorf("told of %v", of)
	}
	for range 10 {
		if _, err := f.switchAs(by, f.bob); reason(err) == ReasonThrottled {
			return
		}
	}
	t.Error("who is refused need not wait")
}

// A password is set by an administrator while a link is made by the one of before: all links that
// there are have ended by then, and this one does.
func TestALinkThatIsMadeMeanwhileEnds(t *testing.T) {
	f := start(t)
	by, _ := f.signedInAs(f.ada)
	_, tokens := f.signedInAs(f.bob)
	f.people.linking = func() {
		if _, err := f.SetOneTimePassword(t.Context(), "login:admin", f.ada.Account, f.ada.ID); err != nil {
			t.Error(err)
		}
	}
	want := linking{refreshToken: tokens.GetRefreshToken(), own: anew{password: f.password}, other: anew{password: f.password}}
	if _, err := f.linkLogin(t.Context(), by, want, f.home); !errs.Is(errs.Unauthenticated, err) {
		t.Errorf("linked: %v", err)
	}
	for _, l := range []Login{f.ada, f.bob} {
		if is, _, err := f.people.Login(t.Context(), l.Account, l.ID); err != nil || len(is.Links) > 0 {
			t.Errorf("%s is linked with %v, %v", l.Name, is.Links, err)
		}
	}
	if f.people.linked.Load() != 1 {
		t.Error("nothing was being linked")
	}
}
