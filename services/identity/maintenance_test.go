package identity

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// Administrators who can sign in are told when maintenance is, each once, however often the order is
// given; nobody else is.
func TestMaintenanceIsAnnouncedOnce(t *testing.T) {
	m := newMailbox(t)
	m.start(m.sender)
	m.background(m.service.Run)
	ada := m.person("ada@example.com")
	login := func(name string, privileges ...authzv1.Privilege) contract.ID {
		t.Helper()
		id, address := resource.NewID(), name+"@example.com"
		if _, err := m.service.commands.createLogin(t.Context(), "test", eventlog.Command{}, m.account, id, LoginWish{Name: &name, MailAddress: &address, Privileges: ref(authn.PrivilegesOf(privileges...))}); err != nil {
			t.Fatal(err)
		}
		return id
	}
	login("report", authzv1.Privilege_PRIVILEGE_REPORT)
	silent := "silent"
	if _, err := m.service.commands.createLogin(t.Context(), "test", eventlog.Command{}, m.account, resource.NewID(), LoginWish{Name: &silent, Privileges: ref(authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR))}); err != nil {
		t.Fatal(err)
	}
	gone := login("gone", authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR)
	position, err := m.service.commands.changeLogin(t.Context(), "test", eventlog.Command{}, m.account, gone, LoginWish{Disabled: ref(true)})
	if err != nil {
		t.Fatal(err)
	}
	waiting, cancel := context.WithTimeout(t.Context(), mailPatience)
	defer cancel()
	if err := m.service.wait(waiting, position); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	ask := Ask{Account: m.account.String(), Starts: now.Add(24 * time.Hour).Truncate(time.Minute), Ends: now.Add(26 * time.Hour).Truncate(time.Minute), What: "new disks"}
	for again := range 3 {
		before := min(again, 1)
		if r, err := m.service.announce(t.Context(), "test", ask, now); err != nil || r.Told != 1-before || r.ToldBefore != before || !slices.Equal(r.NoAddress, []string{"silent of Brücken & Söhne"}) {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	got := m.wait("Maintenance of Cetrus")
	if len(got.Recipients) != 1 || !strings.Contains(got.Recipients[0], "ada@example.com") || !strings.Contains(got.Text, ask.What) {
		t.Errorf("%+v", got)
	}
	// What comes after it was handled after it, or beside it: then it is counted again.
	var events int
	if _, err := m.service.commands.announcements.Log.Each(t.Context(), maintenanceSubject(m.account, ada), func(e eventlog.Event) error {
		events++
		if became := m.became(e.ID); became != mailSent {
			t.Errorf("the mail was %s", became)
		}
		return nil
	}); err != nil || events != 1 {
		t.Fatalf("%d events, %v", events, err)
	}
	other := ask
	other.What = ""
	if r, err := m.service.announce(t.Context(), "test", other, now); err != nil || r.Told != 1 {
		t.Fatalf("another one: %+v, %v", r, err)
	}
	for what, wrong := range map[string]Ask{
		"no time": {Account: ask.Account}, "backwards": {Starts: ask.Ends, Ends: ask.Starts}, "over": {Starts: now.Add(-2 * time.Hour), Ends: now.Add(-time.Hour)},
		"a year": {Starts: ask.Starts, Ends: ask.Starts.AddDate(1, 0, 0)}, "a novel": {Starts: ask.Starts, Ends: ask.Ends, What: strings.Repeat("x", longestWhat+1)},
	} {
		if _, err := m.service.announce(t.Context(), "test", wrong, now); !errs.Is(errs.Invalid, err) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
