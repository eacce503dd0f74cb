package scim

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cetrus/cetrus/proto/contract"
)

func ada() User {
	return User{
		ID: contract.ID{1, 2, 3, 4, 5, 6, 0x47, 8, 0x89, 10, 11, 12, 13, 14, 15, 16}, Name: "Ada@works.example", Reference: "0A21-f0f2", DisplayName: "Ada of Works",
		GivenName: "Ada", FamilyName: "of Works", MailAddress: "ada@works.example", Active: true, Groups: []Group{{ID: contract.ID{7}, Name: "analysts"}},
		Created: time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC), Updated: time.Date(2026, 5, 5, 12, 0, 0, 0, time.UTC), Revision: 3,
	}
}

func analysts() Group {
	return Group{
		ID: contract.ID{7}, Name: "analysts", Reference: "g-1", Members: []Member{{ID: ada().ID, Name: "Ada@works.example"}},
		Created: time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC), Revision: 2,
	}
}

// refusedAs fails unless an error is one that a provider is answered with.
func refusedAs(t *testing.T, err error, kinds ...string) {
	t.Helper()
	var f *failure
	if !errors.As(err, &f) || f.status != 400 || f.text == "" || !slices.Contains(kinds, f.scimType) {
		t.Fatalf("refused by %v", err)
	}
}

// FuzzFilter: whatever comes is a filter or is refused as none, and whom it means is not lost where
// those are looked for alone whom it can mean.
func FuzzFilter(f *testing.F) {
	for _, text := range []string{
		`userName eq "ada@works.example"`, `externalId eq "0A21-f0f2" and active eq true`, `id eq "01020304-0506-4708-890a-0b0c0d0e0f10"`, `emails[type eq "work" and value co "works"].value`,
		`not (active eq false) or name.familyName sw "of"`, `meta.created gt "2020-01-01T00:00:00Z"`, `userName eq "x" and userName eq "Ada@works.example"`, `displayName eq null`,
		`urn:ietf:params:scim:schemas:core:2.0:User:userName pr`, `members.value eq "x" or displayName eq "\u0041"`, `emails eq "a"`, `active gt 1e400`, strings.Repeat("(", 100), `$ref pr`, `groups[$ref pr]`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, g := ada(), analysts()
		if _, c, err := groupKind().parseFilter(text); err == nil {
			c(g.shown("/"))
		} else {
			refusedAs(t, err, invalidFilter)
		}
		e, c, err := userKind().parseFilter(text)
		if err != nil {
			refusedAs(t, err, invalidFilter)
			return
		}
		if !c(u.shown("/")) {
			return
		}
		q := narrowed(e, Query{})
		if !q.ID.IsZero() && q.ID != u.ID || q.Reference != "" && q.Reference != u.Reference || q.Name != "" && !strings.EqualFold(q.Name, u.Name) {
			t.Fatalf("%q means %+v, and is looked for by %+v", text, u, q)
		}
	})
}

// FuzzBody: whatever body comes is refused with words, or changes what a provider may change, the same
// each time that it is tried.
func FuzzBody(f *testing.F) {
	operations := func(text string) string {
		return `{"schemas":["` + patchMessage + `"],"Operations":[` + text + `]}`
	}
	for _, body := range []string{
		operations(`{"op":"Replace","path":"emails[type eq \"work\"].value","value":"a@b.example"},{"op":"remove","path":"name.givenName"}`),
		operations(`{"op":"add","value":{"active":"False","name":{"formatted":"x","familyName":null},"urn:ietf:params:scim:schemas:core:2.0:User":{"userName":"x"}}}`),
		operations(`{"op":"add","path":"members","value":[{"value":"01020304-0506-4708-890a-0b0c0d0e0f10"}]},{"op":"remove","path":"members[value eq \"x\"]"}`),
		operations(`{"op":"replace","path":"id","value":"x"}`), operations(`{"op":"remove","path":"emails","value":[{"value":"ADA@works.example"}]}`),
		operations(`{"op":"replace","path":"urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:manager","value":1}`), operations(`{"op":"remove","path":"active"}`),
		`{"userName":"x","id":"y","emails":["a@b.example",{"value":"c@d.example","primary":"true"}],"groups":[{"value":"z"}],"meta":{"version":"1"}}`,
		`{"displayName":"readers","members":[{"value":"01020304-0506-4708-890a-0b0c0d0e0f10","type":"User"},{"value":"x","type":"Group"}]}`, `null`, `{} {}`, `{"a":1,"A":2}`,
	} {
		f.Add([]byte(body))
	}
	changes := []string{invalidSyntax, invalidPath, invalidValue, noTarget, mutability}
	f.Fuzz(func(t *testing.T, body []byte) {
		onUser := func(change func(User) (User, error)) {
			u, err := change(ada())
			if err != nil {
				refusedAs(t, err, changes...)
				return
			}
			if again, err := change(ada()); err != nil || !reflect.DeepEqual(u, again) {
				t.Fatalf("once %+v, then %+v, %v", u, again, err)
			}
			own := ada()
			own.Name, own.Reference, own.DisplayName, own.GivenName, own.FamilyName, own.MailAddress, own.Active = u.Name, u.Reference, u.DisplayName, u.GivenName, u.FamilyName, u.MailAddress, u.Active
			if !reflect.DeepEqual(u, own) {
				t.Fatalf("changed what is not the provider's: %+v", u)
			}
			clean(t, u.Name, u.Reference, u.GivenName, u.FamilyName, u.MailAddress)
		}
		onGroup := func(change func(Group) (Group, error)) {
			before := analysts()
			g, err := change(before)
			if !reflect.DeepEqual(before, analysts()) {
				t.Fatalf("what was there before is now %+v", before)
			}
			if err != nil {
				refusedAs(t, err, changes...)
				return
			}
			own := analysts()
			own.Name, own.Reference, own.Members = g.Name, g.Reference, g.Members
			if !reflect.DeepEqual(g, own) {
				t.Fatalf("changed what is not the provider's: %+v", g)
			}
			clean(t, g.Name, g.Reference)
			for i, m := range g.Members {
				if slices.ContainsFunc(g.Members[:i], func(other Member) bool { return other.ID == m.ID }) {
					t.Fatalf("%s is a member twice", m.ID)
				}
			}
		}
		onUser(func(u User) (User, error) { err := patch(&u, body); return u, err })
		onUser(func(u User) (User, error) { return userOf(u, body) })
		onGroup(func(g Group) (Group, error) { err := patch(&g, body); return g, err })
		onGroup(func(g Group) (Group, error) { return groupOf(g, body) })
	})
}

// clean fails where a text is not one that is kept.
func clean(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if len(text) > maxText || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == unicode.MaxASCII }) {
			t.Fatalf("kept %q", text)
		}
	}
}
