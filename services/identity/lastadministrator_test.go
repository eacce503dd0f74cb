package identity

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/sso"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// Whoever is taken the privilege: somebody administers the account afterwards, and somebody who can
// sign in, if anybody could before. Nobody is kept who may go.
func TestSomebodyWhoCanSignInAdministers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var account Account
		able := map[contract.ID]bool{}
		for i := range rapid.IntRange(1, 5).Draw(t, "administrators") {
			id := contract.ID{byte(i + 1)}
			able[id] = rapid.Bool().Draw(t, "can sign in")
			account.Administrators = append(account.Administrators, id)
		}
		canSignIn := func(id contract.ID) (bool, error) { return able[id], nil }
		count := func() (all, can int) {
			for _, id := range account.Administrators {
				if all++; able[id] {
					can++
				}
			}
			return all, can
		}
		for len(account.Administrators) > 0 {
			id := rapid.SampledFrom(account.Administrators).Draw(t, "goes")
			all, can := count()
			mayGo := all > 1 && (!able[id] || can > 1)
			events, err := account.DecideAdministrator("test", id, false, canSignIn)
			if (err == nil) != mayGo || err != nil && errs.PublicOf(err).Reason != "LAST_ADMINISTRATOR" {
				t.Fatalf("of %d administrators, %d of whom can sign in, one goes who can: %v; %v", all, can, able[id], err)
			}
			if err != nil {
				return
			}
			for _, e := range events {
				if account, err = account.Apply(e); err != nil {
					t.Fatal(err)
				}
			}
			if after, left := count(); after == 0 || can > 0 && left == 0 {
				t.Fatalf("%d administrators are left, %d of whom can sign in", after, left)
			}
		}
	})
}

// Who was invited and has not come yet is no administrator that another could leave the account
// to; who has a password is, and whom an identity provider vouches for.
func TestTheInvitedDoNotCount(t *testing.T) {
	h := newHotel(t)
	administrator := authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR)
	invite := func(name string) contract.ID {
		t.Helper()
		id := resource.NewID()
		if _, err := h.createLogin(t.Context(), "test", eventlog.Command{}, h.account, id, LoginWish{Name: &name, Privileges: &administrator}); err != nil {
			t.Fatal(err)
		}
		return id
	}
	setPassword := func(id contract.ID) {
		t.Helper()
		for _, kind := range []string{"cetrus.identity.credential.sign_in_refused.v1", passwordChangedType, "cetrus.identity.credential.of_a_later_release.v1"} {
			subject := contract.EventSubject(h.account, contextName, "credential", id.String())
			last, err := h.logins.Log.Last(t.Context(), subject)
			if err == nil {
				_, err = h.logins.Log.Append(t.Context(), subject, last, eventlog.Event{Type: kind, Data: []byte{}})
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	stays := func(what string, err error) {
		t.Helper()
		if !errs.Is(errs.Precondition, err) || errs.PublicOf(err).Reason != "LAST_ADMINISTRATOR" {
			t.Errorf("%s: %v", what, err)
		}
	}
	setPassword(h.administrator)
	invited := invite("invited")
	_, err := h.deleteLogin(t.Context(), "test", eventlog.Command{}, h.account, h.administrator)
	stays("deleted", err)
	_, err = h.changeLogin(t.Context(), "test", eventlog.Command{}, h.account, h.administrator, LoginWish{Disabled: ref(true)})
	stays("disabled", err)
	_, err = h.changeLogin(t.Context(), "test", eventlog.Command{}, h.account, h.administrator, LoginWish{Privileges: ref(authn.Privileges(0))})
	stays("without the privilege", err)
	// By single sign-on neither: the mapping gives way.
	h.must(h.comes(sso.Person{Subject: "chief", Name: "root", Link: true, Managed: administrator}))
	if !h.login(h.administrator).Administers() {
		t.Error("single sign-on has taken it from the last who can sign in")
	}
	// The invited one may go meanwhile.
	if _, err := h.deleteLogin(t.Context(), "test", eventlog.Command{}, h.account, invited); err != nil {
		t.Error(err)
	}
	vouched := h.must(h.comes(sso.Person{Subject: "ada", Name: "Ada", Create: true, Managed: administrator, Privileges: administrator}))
	if !h.login(vouched).VouchedFor {
		t.Fatal("nobody vouches for her")
	}
	if _, err := h.changeLogin(t.Context(), "test", eventlog.Command{}, h.account, h.administrator, LoginWish{Privileges: ref(authn.Privileges(0))}); err != nil {
		t.Errorf("beside one who comes by single sign-on: %v", err)
	}
	second := invite("second")
	_, err = h.deleteLogin(t.Context(), "test", eventlog.Command{}, h.account, vouched)
	stays("beside one who was invited", err)
	setPassword(second)
	if _, err := h.deleteLogin(t.Context(), "test", eventlog.Command{}, h.account, vouched); err != nil {
		t.Errorf("beside one who has chosen a password: %v", err)
	}
	account, _, err := h.accounts.Load(t.Context(), accountSubject(h.account))
	if err != nil || !slices.Equal(account.Administrators, []contract.ID{second}) {
		t.Errorf("the account is administered by %v, %v", account.Administrators, err)
	}
	h.must(h.comes(sso.Person{Subject: "bob", Name: "Bob", Create: true}))
	h.must(h.comes(sso.Person{Subject: "bob"}))
	vouches := 0
	for _, e := range h.logins.Log.(*eventlog.Memory).All() {
		if e.Type == "cetrus.identity.login.vouched_for.v1" {
			vouches++
		}
	}
	if vouches != 3 {
		t.Errorf("it is told %d times of three persons that they are vouched for", vouches)
	}
}
