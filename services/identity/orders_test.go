package identity

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// desk stands in for sign-in and notes what is asked of it.
type desk struct {
	mu       sync.Mutex
	password map[contract.ID]bool
	ended    map[contract.ID]bool
	bare     map[contract.ID]bool
	allowed  contract.ID
}

func (d *desk) AllowPasswords(_ context.Context, _ string, account contract.ID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.allowed = account
	return nil
}

func (d *desk) SetOneTimePassword(_ context.Context, _ string, _, login contract.ID) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.password[login] = true
	return "once-" + login.String(), nil
}

func (d *desk) RemoveSecondFactor(_ context.Context, _ string, _, login contract.ID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bare[login] = true
	return nil
}

func (d *desk) EndSessions(_ context.Context, _ string, _, login contract.ID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended[login] = true
	return nil
}

// TestOrders: an operator does by name what the console would.
func TestOrders(t *testing.T) {
	nc := platformtest.NATS(t)
	s := newService(t, nc)
	start(t, s)
	people := &desk{password: make(map[contract.ID]bool), ended: make(map[contract.ID]bool), bare: make(map[contract.ID]bool)}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.TakeOrders(ctx, people) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	give := func(order Order, ask Ask) (Report, error) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			r, err := Give(ctx, nc, order, ask)
			cancel()
			if err == nil || !strings.Contains(err.Error(), "no identity service runs here") || time.Now().After(deadline) {
				return r, err
			}
		}
	}
	must := func(order Order, ask Ask) Report {
		t.Helper()
		r, err := give(order, ask)
		if err != nil {
			t.Fatalf("%s: %v", order, err)
		}
		return r
	}
	made := must(OrderCreateAccount, Ask{Account: "Acme", Login: "boss", MailAddress: "boss@example.org"})
	if len(made.Accounts) != 1 || !strings.HasPrefix(made.Password, "once-") {
		t.Fatalf("made %+v", made)
	}
	if all := must(OrderAccounts, Ask{}).Accounts; len(all) != 2 || all[1].Name != "Acme" || all[1].ID != made.Accounts[0].ID {
		t.Errorf("accounts: %+v", all)
	}
	ada := must(OrderCreateLogin, Ask{Account: "acme", Login: "ada", Privileges: []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_REPORT}}).Logins[0]
	id, err := contract.ParseID(ada.ID)
	if err != nil || !people.password[id] {
		t.Errorf("she has no password; %v", err)
	}
	if all := must(OrderLogins, Ask{Account: made.Accounts[0].ID}).Logins; len(all) != 2 || all[0].Name != "boss" || all[1].Name != "ada" {
		t.Errorf("logins: %+v", all)
	}
	if key := must(OrderCreateKey, Ask{Account: "Acme", Login: "ADA"}).Key; !strings.HasPrefix(key, authn.KeyPrefix) {
		t.Errorf("the key is %q", key)
	}
	must(OrderDisableLogin, Ask{Account: "Acme", Login: ada.ID})
	if all := must(OrderLogins, Ask{Account: "Acme"}).Logins; !all[1].Disabled {
		t.Error("she is not disabled")
	}
	must(OrderEnableLogin, Ask{Account: "Acme", Login: "ada"})
	must(OrderEndSessions, Ask{Account: "Acme", Login: "ada"})
	if !people.ended[id] || must(OrderResetPassword, Ask{Account: "Acme", Login: "ada"}).Password != "once-"+ada.ID {
		t.Error("neither sessions nor password")
	}
	must(OrderAllowPasswords, Ask{Account: "Acme"})
	if people.allowed.String() != made.Accounts[0].ID {
		t.Errorf("passwords are allowed in %s", people.allowed)
	}
	must(OrderSetPrivileges, Ask{Account: "Acme", Login: "ada", Privileges: []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_FINANCIAL}})
	if all := must(OrderLogins, Ask{Account: "Acme"}).Logins; !slices.Equal(all[1].Privileges, []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_FINANCIAL}) {
		t.Errorf("she may %v", all[1].Privileges)
	}
	if must(OrderRemoveSecondFactor, Ask{Account: "Acme", Login: "ada"}); !people.bare[id] {
		t.Error("her second factor is there")
	}
	keys := must(OrderKeys, Ask{Account: "Acme"}).Keys
	if len(keys) != 1 || keys[0].LoginID != ada.ID || keys[0].Revoked {
		t.Fatalf("keys: %+v", keys)
	}
	must(OrderRevokeKey, Ask{Account: "Acme", ID: keys[0].ID})
	if keys := must(OrderKeys, Ask{Account: "Acme"}).Keys; !keys[0].Revoked {
		t.Errorf("keys: %+v", keys)
	}
	acme, err := contract.ParseID(made.Accounts[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&managerAPI{service: s}).CreateManager(as(t.Context(), acme), &identityv1.CreateManagerRequest{Manager: &identityv1.Manager{DisplayName: "Brno"}}); err != nil {
		t.Fatal(err)
	}
	managers := must(OrderManagers, Ask{Account: "Acme"}).Managers
	if len(managers) != 1 || managers[0].DisplayName != "Brno" || managers[0].Revoked {
		t.Fatalf("Managers: %+v", managers)
	}
	must(OrderRevokeManager, Ask{Account: "Acme", ID: managers[0].ID})
	if managers := must(OrderManagers, Ask{Account: "Acme"}).Managers; !managers[0].Revoked {
		t.Errorf("Managers: %+v", managers)
	}
	agent := resource.NewID().String()
	for _, order := range []Order{OrderRevokeAgent, OrderReadmitAgent} {
		must(order, Ask{Account: "Acme", ID: agent})
		all, err := (&agentAdmissionAPI{service: s}).ListAgentAdmissions(as(t.Context(), acme), &identityv1.ListAgentAdmissionsRequest{})
		if err != nil || len(all.GetAgentAdmissions()) != 1 || all.GetAgentAdmissions()[0].GetRevoked() != (order == OrderRevokeAgent) {
			t.Errorf("%s: %v, %v", order, all, err)
		}
	}
	leaver := must(OrderCreateLogin, Ask{Account: "Acme", Login: "leaver"}).Logins[0]
	must(OrderDeleteLogin, Ask{Account: "Acme", Login: leaver.ID})
	for _, wrong := range []struct {
		order Order
		ask   Ask
		says  string
	}{
		{OrderLogins, Ask{Account: "nobody"}, `no account "nobody"`},
		{OrderResetPassword, Ask{Account: "Acme", Login: "nobody"}, `no login "nobody"`},
		{OrderDisableLogin, Ask{Account: "Acme", Login: "boss"}, "last administrator"},
		{OrderCreateAccount, Ask{Account: "ACME", Login: "x"}, "belongs to another"},
		{OrderDeleteLogin, Ask{Account: "Acme", Login: "boss"}, "last administrator"},
		{OrderDeleteLogin, Ask{Account: "Acme", Login: "leaver"}, `no login "leaver"`},
		{OrderRevokeKey, Ask{Account: "Acme", ID: agent}, "no such key"},
		{OrderRevokeManager, Ask{Account: "Acme"}, "manager_id"},
		{"dance", Ask{Account: "Acme", Login: "ada"}, `"dance" is no order`},
	} {
		if _, err := give(wrong.order, wrong.ask); err == nil || !strings.Contains(err.Error(), wrong.says) {
			t.Errorf("%s %+v: %v", wrong.order, wrong.ask, err)
		}
	}
	if m, err := nc.RequestWithContext(t.Context(), orderSubject+string(OrderAccounts), []byte("{")); err != nil || !strings.Contains(string(m.Data), "cannot be read") {
		t.Errorf("bytes that are no order: %v", errors.Join(err))
	}
	// What an operator made is what the account's own administrator sees.
	account, _ := contract.ParseID(made.Accounts[0].ID)
	if own, err := (&loginAPI{service: s}).ListLogins(as(t.Context(), account), &identityv1.ListLoginsRequest{}); err != nil || len(own.GetLogins()) != 2 {
		t.Errorf("%v, %v", own, err)
	}
}
