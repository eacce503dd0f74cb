package identity

import (
	"context"
	"sync"
	"testing"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/sso"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// hotel is an account with an administrator, on a log in memory.
type hotel struct {
	*commands
	t                      *testing.T
	account, administrator contract.ID
}

func newHotel(t *testing.T) *hotel {
	t.Helper()
	h := &hotel{t: t, account: resource.NewID(), administrator: resource.NewID()}
	h.commands = commandsOn(eventlog.NewMemory(), newSecrets(h.account, contract.ID{}))
	_, err := h.createAccount(t.Context(), "test", eventlog.Command{}, newAccount{id: h.account, administrator: h.administrator, name: "Works", administratorWish: LoginWish{Name: ref("root")}})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *hotel) comes(p sso.Person) (contract.ID, error) {
	id, _, err := h.admit(h.t.Context(), h.account, p, func(ctx context.Context, _ contract.ID) context.Context { return ctx })
	return id, err
}

func (h *hotel) login(id contract.ID) Login {
	h.t.Helper()
	l, _, err := h.logins.Load(h.t.Context(), loginSubject(h.account, id))
	if err != nil {
		h.t.Fatal(err)
	}
	return l
}

func (h *hotel) refused(what string, p sso.Person) {
	h.t.Helper()
	if id, err := h.comes(p); errs.PublicOf(err).Reason != ReasonNotAdmitted {
		h.t.Errorf("%s: %s, %v", what, id, err)
	}
}

func (h *hotel) must(id contract.ID, err error) contract.ID {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
	return id
}

// Nobody gets a login, or another's, unless an administrator has allowed it.
func TestGuestsAreLetInByPermissionOnly(t *testing.T) {
	h := newHotel(t)
	ada := sso.Person{Subject: "ada", Name: "Ada", DisplayName: "Ada Lovelace", MailAddress: "ada@example.com"}
	h.refused("no login, none made", ada)
	ada.Link = true
	h.refused("no login to link", ada)
	ada.Link, ada.Create = false, true
	id := h.must(h.comes(ada))
	if again := h.must(h.comes(ada)); again != id {
		t.Errorf("the same person is another: %s and %s", id, again)
	}
	ada.Create, ada.Name = false, ""
	if again := h.must(h.comes(ada)); again != id {
		t.Error("who has a login needs no permission to be made one")
	}

	for _, name := range []string{"ada", " ROOT ", "root"} {
		h.refused("another's name: "+name, sso.Person{Subject: "eve", Name: name, Create: true})
	}
	h.refused("no name", sso.Person{Subject: "eve", Create: true, Link: true})
	h.refused("an unseen name", sso.Person{Subject: "eve", Name: "ro\u200bot", Create: true, Link: true})
	if linked := h.must(h.comes(sso.Person{Subject: "chief", Name: "Root", Link: true})); linked != h.administrator {
		t.Errorf("linked to %s", linked)
	}
	if again := h.must(h.comes(sso.Person{Subject: "chief", Name: "somebody"})); again != h.administrator {
		t.Errorf("then it is %s", again)
	}

	if _, err := h.changeLogin(t.Context(), "test", eventlog.Command{}, h.account, id, LoginWish{Disabled: ref(true)}); err != nil {
		t.Fatal(err)
	}
	ada.Create, ada.Link, ada.Name = true, true, "Ada"
	h.refused("a disabled login", ada)
	if _, err := h.deleteLogin(t.Context(), "test", eventlog.Command{}, h.account, id); err != nil {
		t.Fatal(err)
	}
	ada.Create = false
	h.refused("a deleted login", ada)
	ada.Create = true
	if next := h.must(h.comes(ada)); next == id {
		t.Error("a deleted login came back")
	}
}

func TestGuestsGetWhatMappingsGive(t *testing.T) {
	h := newHotel(t)
	var groups []contract.ID
	for _, name := range []string{"one", "two", "three"} {
		id := resource.NewID()
		if _, err := h.defineGroup(t.Context(), "test", eventlog.Command{}, h.account, id, GroupWish{Create: true, DisplayName: &name}); err != nil {
			t.Fatal(err)
		}
		groups = append(groups, id)
	}
	user, report := authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_APPLICATION_USER), authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_REPORT)
	administrator, purchasing := authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR), authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_PURCHASING)
	ada := sso.Person{
		Subject: "ada", Name: "Ada", Create: true, Managed: user | report | administrator, Privileges: user | report,
		ManagedGroups: groups[:2], Groups: []contract.ID{groups[0], resource.NewID()},
	}
	id := h.must(h.comes(ada))
	if l := h.login(id); l.Privileges != user|report || len(l.Groups) != 1 || l.Groups[0] != groups[0] {
		t.Errorf("at first %+v", l)
	}
	// What an administrator gave beside stays; what the provider gives no more goes.
	if _, err := h.changeLogin(t.Context(), "test", eventlog.Command{}, h.account, id, LoginWish{Privileges: ref(user | report | purchasing), Groups: &[]contract.ID{groups[0], groups[2]}}); err != nil {
		t.Fatal(err)
	}
	ada.Privileges, ada.Groups = user, groups[1:2]
	h.must(h.comes(ada))
	if l := h.login(id); l.Privileges != user|purchasing || len(l.Groups) != 2 || !contains(l.Groups, groups[1]) || !contains(l.Groups, groups[2]) {
		t.Errorf("then %+v", l)
	}
	before := h.login(id).Revision
	h.must(h.comes(ada))
	if after := h.login(id).Revision; after != before {
		t.Errorf("nothing new, and %d events", after-before)
	}

	// The last administrator stays one, and can sign in.
	h.must(h.comes(sso.Person{Subject: "chief", Name: "root", Link: true, Managed: administrator}))
	if l := h.login(h.administrator); !l.Administers() {
		t.Error("the account has no administrator any more")
	}
	ada.Privileges = administrator
	h.must(h.comes(ada))
	h.must(h.comes(sso.Person{Subject: "chief", Managed: administrator}))
	if l := h.login(h.administrator); l.Administers() {
		t.Error("a privilege is kept that the provider gives no more")
	}
}

func contains(ids []contract.ID, id contract.ID) bool {
	for _, other := range ids {
		if other == id {
			return true
		}
	}
	return false
}

// A person who comes by many doors at once is one.
func TestGuestsWhoComeAtOnce(t *testing.T) {
	h := newHotel(t)
	ids := make([]contract.ID, 8)
	var group sync.WaitGroup
	for i := range ids {
		group.Go(func() {
			err := patiently(func() (err error) {
				ids[i], err = h.comes(sso.Person{Subject: "ada", Name: "Ada", Create: true})
				return err
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("%s and %s are one person", id, ids[0])
		}
	}
}

// Of two whom one provider calls by one name, the second does not take over what is the first
// one's, whatever the account allows, and the log tells of it. With another provider people come anew.
func TestALoginIsOnePersonsAtAProvider(t *testing.T) {
	h := newHotel(t)
	const issuer = "https://issuer.example"
	ada := sso.Person{Subject: "ada", Issuer: issuer, Name: "Ada", Create: true, Link: true}
	id := h.must(h.comes(ada))
	chief := sso.Person{Subject: "chief", Issuer: issuer, Name: "Root", Link: true}
	if linked := h.must(h.comes(chief)); linked != h.administrator {
		t.Fatalf("linked to %s", linked)
	}
	refused := func() (n int) {
		for _, e := range h.together.Log.(*eventlog.Memory).All() {
			if e.Type == "cetrus.identity.takeover.refused.v1" {
				n++
			}
		}
		return n
	}
	h.refused("another Ada", sso.Person{Subject: "eve", Issuer: issuer, Name: "ada", Create: true, Link: true})
	h.refused("another chief", sso.Person{Subject: "eve", Issuer: issuer, Name: "root", Link: true})
	if n := refused(); n != 2 {
		t.Errorf("the log tells of %d", n)
	}
	if again := h.must(h.comes(ada)); again != id {
		t.Error("she is another")
	}
	if moved := h.must(h.comes(sso.Person{Subject: "ada elsewhere", Issuer: "https://new.example", Name: "Ada", Link: true})); moved != id {
		t.Error("with another provider she is another")
	}
}
