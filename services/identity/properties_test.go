package identity

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/eventlog/eventlogtest"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// TestEventsOfEveryVersion: what was once written can be read for ever.
func TestEventsOfEveryVersion(t *testing.T) {
	eventlogtest.Golden(t, newRegistry(), "testdata/events")
}

// memoryKeys are keys that no database holds.
type memoryKeys struct {
	mu   sync.Mutex
	keys map[contract.ID]keyring.Key
}

func (m *memoryKeys) KeyOf(_ context.Context, _, principal contract.ID) (keyring.Key, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key, ok := m.keys[principal]
	if !ok {
		key = keyring.NewKey()
		m.keys[principal] = key
	}
	return key, nil
}

func (m *memoryKeys) OpenTexts(ctx context.Context, account contract.ID, texts []keyring.Text) ([]string, error) {
	opened := make([]string, len(texts))
	for i, t := range texts {
		key, err := m.KeyOf(ctx, account, t.Principal)
		if err != nil {
			return nil, err
		}
		if opened[i], err = keyring.OpenText(key, t.Principal, t.What, t.Sealed); err != nil {
			return nil, err
		}
	}
	return opened, nil
}

// Forget implements Keys; nothing in memory is ever forgotten.
func (m *memoryKeys) Forget(context.Context, contract.ID, contract.ID) error { return nil }

// commandsOn are commands on a log that stand on no database. All of one test share secrets.
func commandsOn(log eventlog.Log, secrets *secretsInMemory) *commands {
	c := newCommands(log, newRegistry(), secrets.keys, nil)
	c.nameKeys.known = secrets.names
	return c
}

type secretsInMemory struct {
	keys  *memoryKeys
	names map[contract.ID]NameKey
}

func newSecrets(accounts ...contract.ID) *secretsInMemory {
	s := &secretsInMemory{&memoryKeys{keys: make(map[contract.ID]keyring.Key)}, make(map[contract.ID]NameKey)}
	for _, account := range append(accounts, contract.ID{}) {
		s.names[account] = newNameKey()
	}
	return s
}

// firm is an account in a log in memory, and what it must be.
type firm struct {
	log      *eventlog.Memory
	commands *commands
	account  contract.ID
	logins   map[contract.ID]*expected
}

type expected struct {
	name       string
	privileges authn.Privileges
	disabled   bool
}

func (e *expected) administers() bool {
	return !e.disabled && e.privileges.Has(authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR)
}

func (f *firm) administrators() (n int) {
	for _, e := range f.logins {
		if e.administers() {
			n++
		}
	}
	return n
}

// owner is who has a name, by the model.
func (f *firm) owner(name string) contract.ID {
	for id, e := range f.logins {
		if foldName(e.name) == foldName(name) {
			return id
		}
	}
	return contract.ID{}
}

func newFirm(t *rapid.T) *firm {
	f := &firm{log: eventlog.NewMemory(), account: resource.NewID(), logins: make(map[contract.ID]*expected)}
	f.commands = commandsOn(f.log, newSecrets(f.account))
	admin := resource.NewID()
	_, err := f.commands.createAccount(t.Context(), "test", eventlog.Command{}, newAccount{id: f.account, administrator: admin, name: "Firm", administratorWish: LoginWish{Name: ref("admin")}})
	if err != nil {
		t.Fatal(err)
	}
	f.logins[admin] = &expected{name: "admin", privileges: authn.PeoplesPrivileges()}
	return f
}

func drawPrivileges(t *rapid.T) authn.Privileges {
	return authn.Privileges(rapid.Uint32Range(0, uint32(authn.AllPrivileges())).Draw(t, "privileges")) & authn.AllPrivileges()
}

func (f *firm) drawLogin(t *rapid.T) contract.ID {
	var ids []contract.ID
	for id := range f.logins {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b contract.ID) int {
		return compareIDs(contract.ID(fmt.Appendf(make([]byte, 0, 32), "%-16.16s", f.logins[a].name)[:16]), contract.ID(fmt.Appendf(nil, "%-16.16s", f.logins[b].name)[:16]))
	})
	return ids[rapid.IntRange(0, len(ids)-1).Draw(t, "login")]
}

var someNames = [...]string{"ada", "ADA", " Ada ", "admin", "bob", "ｂｏｂ", "Straße", "STRASSE", "zoë"}

func drawName(t *rapid.T) string { return rapid.SampledFrom(someNames[:]).Draw(t, "name") }

// TestAnAccountIsWhatItsCommandsSay gives an account random commands and compares it with a
// model: names belong to one login at a time, privileges are what was said last, and there is
// always an administrator.
func TestAnAccountIsWhatItsCommandsSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newFirm(t)
		t.Repeat(map[string]func(*rapid.T){
			"create": f.create, "change": f.change, "delete": f.remove, "": f.compare,
		})
	})
}

func (f *firm) create(t *rapid.T) {
	id, name, privileges := resource.NewID(), drawName(t), drawPrivileges(t)
	_, err := f.commands.createLogin(t.Context(), "test", eventlog.Command{}, f.account, id, LoginWish{Name: &name, Privileges: &privileges})
	if owner := f.owner(name); !owner.IsZero() {
		if !errs.Is(errs.AlreadyExists, err) {
			t.Fatalf("the name %q belongs to %s, and a second login has it: %v", name, owner, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	f.logins[id] = &expected{name: name, privileges: privileges}
}

func (f *firm) change(t *rapid.T) {
	id := f.drawLogin(t)
	want, wish := *f.logins[id], LoginWish{}
	if rapid.Bool().Draw(t, "rename") {
		want.name = drawName(t)
		wish.Name = ref(want.name)
	}
	if rapid.Bool().Draw(t, "privileges") {
		want.privileges = drawPrivileges(t)
		wish.Privileges = ref(want.privileges)
	}
	if rapid.Bool().Draw(t, "disable") {
		want.disabled = rapid.Bool().Draw(t, "disabled")
		wish.Disabled = ref(want.disabled)
	}
	_, err := f.commands.changeLogin(t.Context(), "test", eventlog.Command{}, f.account, id, wish)
	taken := f.owner(want.name)
	last := f.logins[id].administers() && !want.administers() && f.administrators() == 1
	switch {
	case !taken.IsZero() && taken != id || last:
		if !errs.Is(errs.AlreadyExists, err) && !errs.Is(errs.Precondition, err) {
			t.Fatalf("name taken %v, last administrator %v: %v", taken != id, last, err)
		}
	case err != nil:
		t.Fatal(err)
	default:
		f.logins[id] = &want
	}
}

func (f *firm) remove(t *rapid.T) {
	id := f.drawLogin(t)
	_, err := f.commands.deleteLogin(t.Context(), "test", eventlog.Command{}, f.account, id)
	if f.logins[id].administers() && f.administrators() == 1 {
		if !errs.Is(errs.Precondition, err) || errs.PublicOf(err).Reason != "LAST_ADMINISTRATOR" {
			t.Fatalf("the last administrator was removed: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	delete(f.logins, id)
}

func (f *firm) compare(t *rapid.T) {
	account, _, err := f.commands.accounts.Load(t.Context(), accountSubject(f.account))
	if err != nil {
		t.Fatal(err)
	}
	var administrators []contract.ID
	for id, want := range f.logins {
		login, _, err := f.commands.logins.Load(t.Context(), loginSubject(f.account, id))
		if err != nil {
			t.Fatal(err)
		}
		words, _ := wordsOf(t.Context(), f.commands.keys, f.account, id)
		name, err := words.open(whatName, login.SealedName)
		if err != nil || name != tidyName(want.name) || login.Privileges != want.privileges || login.Disabled != want.disabled {
			t.Fatalf("login %s is %q %v %v, want %+v; %v", id, name, login.Privileges, login.Disabled, want, err)
		}
		if owner, found, err := f.commands.named(t.Context(), f.account, loginNames, want.name); err != nil || !found || owner != id {
			t.Fatalf("the name %q leads to %s, %v, %v", want.name, owner, found, err)
		}
		if want.administers() {
			administrators = append(administrators, id)
		}
	}
	slices.SortFunc(administrators, compareIDs)
	if len(administrators) == 0 || !slices.Equal(administrators, account.Administrators) {
		t.Fatalf("administrators are %v, and the account says %v", administrators, account.Administrators)
	}
	for _, name := range someNames {
		if f.owner(name).IsZero() {
			if owner, found, _ := f.commands.named(t.Context(), f.account, loginNames, name); found {
				t.Fatalf("the free name %q belongs to %s", name, owner)
			}
		}
	}
}

// TestWhatIsDecidedIsWhatFollows: the events of a wish, applied, make the login what it wished for;
// and a wish that is fulfilled decides nothing.
func TestWhatIsDecidedIsWhatFollows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		key, id := newNameKey(), resource.NewID()
		ids := func(what string) *[]contract.ID {
			list := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) contract.ID {
				return contract.ID{1, byte(rapid.IntRange(0, 5).Draw(t, "id"))}
			}), 0, 5).Draw(t, what)
			return &list
		}
		draw := func(name bool) LoginWish {
			w := LoginWish{}
			if name || rapid.Bool().Draw(t, "has name") {
				w.Name = ref(drawName(t))
			}
			if rapid.Bool().Draw(t, "has words") {
				w.DisplayName, w.MailAddress = ref(rapid.SampledFrom([]string{"", "Ada Obi"}).Draw(t, "display")), ref(rapid.SampledFrom([]string{"", "ada@example.org"}).Draw(t, "mail"))
			}
			if rapid.Bool().Draw(t, "has rest") {
				w.Privileges, w.Disabled, w.Groups, w.Denied = ref(drawPrivileges(t)), ref(rapid.Bool().Draw(t, "off")), ids("groups"), ids("denied")
			}
			return w
		}
		first := draw(true)
		login := Login{}
		events, err := login.DecideCreate("test", id, key, openWords{}, first)
		wishes := []LoginWish{first}
		for i := 0; ; i++ {
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				if login, err = login.Apply(e); err != nil {
					t.Fatal(err)
				}
			}
			w := wishes[i]
			if w.Name != nil && (string(login.SealedName) != tidyName(*w.Name) || login.NameID != key.ID(loginNames, *w.Name)) ||
				w.DisplayName != nil && string(login.SealedDisplayName) != *w.DisplayName || w.MailAddress != nil && string(login.SealedMailAddress) != *w.MailAddress ||
				w.Privileges != nil && login.Privileges != *w.Privileges || w.Disabled != nil && login.Disabled != *w.Disabled ||
				w.Groups != nil && !slices.Equal(login.Groups, *sorted(*w.Groups)) || w.Denied != nil && !slices.Equal(login.Denied, *sorted(*w.Denied)) {
				t.Fatalf("%+v is not what was wished for: %+v", login, w)
			}
			if again, err := login.DecideChange("test", id, key, openWords{}, w); err != nil || len(again) != 0 {
				t.Fatalf("a wish that is fulfilled decides %v, %v", again, err)
			}
			if i == 3 {
				return
			}
			wishes = append(wishes, draw(false))
			events, err = login.DecideChange("test", id, key, openWords{}, wishes[i+1])
		}
	})
}

// TestNamesThatAreTheSame: what a person takes for the same name is one.
func TestNamesThatAreTheSame(t *testing.T) {
	key, other := newNameKey(), newNameKey()
	for _, same := range [][]string{{"ada", "ADA", " Ada "}, {"bob", "ｂｏｂ"}, {"Straße", "STRASSE"}, {"Zoe\u0308", "zoë"}, {"Load  Cases", "load cases"}} {
		for _, name := range same[1:] {
			if key.ID(loginNames, name) != key.ID(loginNames, same[0]) {
				t.Errorf("%q and %q are two names", same[0], name)
			}
		}
	}
	if key.ID(loginNames, "ada") == key.ID(groupNames, "ada") || key.ID(loginNames, "ada") == other.ID(loginNames, "ada") || key.ID(loginNames, "ada") == key.ID(loginNames, "eda") {
		t.Error("different names have one id")
	}
	for _, bad := range []string{"", "  ", "a\x00b", "a\u200bb", "a\u202eb", "\u3000"} {
		if checkName(tidyName(bad), MaxLoginName) == "" {
			t.Errorf("%q is taken for a name", bad)
		}
	}
}

// TestAKeyGivesNoMoreThanItsLogin draws logins and keys of them.
func TestAKeyGivesNoMoreThanItsLogin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		has, wants := drawPrivileges(t), drawPrivileges(t)
		owner := Login{ID: resource.NewID(), Privileges: has}
		events, err := APIKey{}.DecideCreate("test", owner, openWords{}, KeyWish{ID: resource.NewID(), Privileges: wants}, someTime)
		if wants&^has != 0 {
			if !errs.Is(errs.Invalid, err) {
				t.Fatalf("a login with %b has a key with %b: %v", has, wants, err)
			}
			return
		}
		key := APIKey{}
		for _, e := range events {
			if key, err = key.Apply(e); err != nil {
				t.Fatal(err)
			}
		}
		want := wants
		if wants == 0 {
			want = has
		}
		if key.Privileges != want || !key.Expires.Equal(someTime.Add(standardKeyLife)) {
			t.Fatalf("the key is %+v", key)
		}
	})
}
