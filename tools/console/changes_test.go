package console

import (
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/tools/api"
	"github.com/cetrus/cetrus/tools/stack"
)

// What pages change is changed, as the API tells it.
func TestWhatTheConsoleChanges(t *testing.T) {
	p, once := start(t)
	b := open(t, strings.Replace(p.REST, "127.0.0.1", "localhost", 1)) // passkeys are for hosts with a name
	b.visit("/groups")
	b.signIn("operator", "admin", once)
	b.do(chromedp.WaitVisible("#new-password"), chromedp.SendKeys("#new-password", password), chromedp.Click("main button"))
	b.until("the groups", "location.pathname === '/groups' && document.querySelector('.empty')")
	for _, part := range []struct {
		name string
		try  func(*testing.T, *stack.Platform, *browser)
	}{{"guide", showsGuide}, {"groups", changesGroups}, {"logins", changesLogins}, {"keys", changesKeys}, {"managers", changesManagers}, {"settings", changesSettings}, {"own", changesOwn}} {
		t.Run(part.name, func(t *testing.T) {
			b.tb = t
			part.try(t, p, b)
			b.wellBehaved(part.name)
		})
	}
}

// fill types into a field in place of what stands there.
func (b *browser) fill(field, text string) {
	b.tb.Helper()
	selector := "main [name=" + field + "]"
	b.do(chromedp.WaitVisible(selector))
	if _, err := evaluate[bool](b, "document.querySelector("+quoted(selector)+").value = '', true"); err != nil {
		b.tb.Fatal(err)
	}
	if text != "" {
		b.do(chromedp.SendKeys(selector, text))
	}
}

// notice waits for what a page says that was just done.
func (b *browser) notice(text string) {
	b.tb.Helper()
	b.until("the notice "+text, "document.querySelector('[data-notice]')?.textContent.includes("+quoted(text)+")")
}

// ask reads something of the API, without the browser.
func ask[M proto.Message](t *testing.T, p *stack.Platform, path string, answer M) M {
	t.Helper()
	if err := p.API.Get(t.Context(), path, nil, answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

func changesGroups(t *testing.T, p *stack.Platform, b *browser) {
	b.visit("/groups")
	b.shoot("groups-empty")
	b.fill("display_name", "Drawing office")
	// Two clicks before anything is answered do one thing.
	if _, err := evaluate[bool](b, "(() => { const f = document.querySelector('main form'); f.requestSubmit(); f.requestSubmit(); return true; })()"); err != nil {
		t.Fatal(err)
	}
	b.notice("The group is there")
	b.shoot("group")
	groups := ask(t, p, "/v1/groups", &identityv1.ListGroupsResponse{}).GetGroups()
	if len(groups) != 1 || groups[0].GetDisplayName() != "Drawing office" {
		t.Fatalf("there are %v", groups)
	}
	here := "/groups/" + groups[0].GetGroupId()

	b.visit("/groups")
	b.fill("display_name", "drawing OFFICE")
	b.do(chromedp.Click("main button"))
	b.until("the error beside the name, what was typed, and the focus", "document.querySelector('.invalid-feedback') && document.activeElement.name === 'display_name' && document.activeElement.value === 'drawing OFFICE'")
	b.shoot("group-name-taken")
	b.forgive()

	b.visit(here)
	b.fill("display_name", "Drawing room")
	var changed identityv1.Group
	if err := p.API.Patch(t.Context(), "/v1"+here, url.Values{"updateMask": {"display_name"}}, &identityv1.Group{DisplayName: "Drawing hall"}, &changed); err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.Click("main button"))
	b.until("what is there now", "document.querySelector('[data-changed]') && document.querySelector('.field-now').textContent.includes('Drawing hall')")
	b.shoot("group-changed-meanwhile")
	b.forgive()
	b.do(chromedp.Click("main button"))
	b.notice("The group is changed")
	if got := ask(t, p, "/v1"+here, &identityv1.Group{}); got.GetDisplayName() != "Drawing room" {
		t.Errorf("the group is called %q", got.GetDisplayName())
	}

	b.do(chromedp.Click("main a[href$=delete]"))
	b.until("the question", "document.querySelector('main .btn-danger')")
	b.shoot("group-delete")
	b.do(chromedp.Click("main .btn-danger"))
	b.notice("The group is deleted")
	if left := ask(t, p, "/v1/groups", &identityv1.ListGroupsResponse{}).GetGroups(); len(left) > 0 {
		t.Errorf("there are still %v", left)
	}
}

// press clicks a button or a link of the page by its words.
func (b *browser) press(words string) {
	b.tb.Helper()
	b.until("the button "+words, "(window.pressed = [...document.querySelectorAll('main button, main a')].find(e => e.textContent.trim() === "+quoted(words)+"))")
	if _, err := evaluate[bool](b, "window.pressed.click(), true"); err != nil {
		b.tb.Fatal(err)
	}
}

// check checks a box.
func (b *browser) check(name, value string) {
	b.tb.Helper()
	b.do(chromedp.Click("main input[name=" + name + "][value=" + value + "]"))
}

// shownOnce is the text of the first thing that a page shows once.
func (b *browser) shownOnce() string {
	b.tb.Helper()
	b.until("what is shown once", "document.querySelector('#once-0')")
	text, err := evaluate[string](b, "document.querySelector('#once-0').textContent")
	if err != nil {
		b.tb.Fatal(err)
	}
	return text
}

func changesLogins(t *testing.T, p *stack.Platform, b *browser) {
	b.visit("/people")
	b.press("New login")
	b.fill("name", "ada")
	b.fill("mail_address", "ada@example.com")
	b.check("privileges", "PRIVILEGE_REPORT")
	b.shoot("login-new")
	b.press("Create the login")
	given := b.shownOnce()
	b.shoot("login-password")
	b.press("I have kept it: go on")
	b.until("the login", "document.querySelector('main [name=display_name]')")
	b.fill("display_name", "Ada L.")
	b.press("Save")
	b.notice("The login is changed")
	b.shoot("login")
	var ada *identityv1.Login
	for _, login := range ask(t, p, "/v1/logins", &identityv1.ListLoginsResponse{}).GetLogins() {
		if login.GetName() == "ada" {
			ada = login
		}
	}
	if ada.GetDisplayName() != "Ada L." || len(ada.GetPrivileges()) != 2 || !ada.GetMustChangePassword() || given == "" {
		t.Fatalf("the API knows %v", ada)
	}
	here := "/people/" + ada.GetLoginId()

	b.press("Disable")
	b.until("the question", "document.querySelector('main .btn-danger')")
	b.press("Disable the login")
	b.notice("The login is disabled")
	b.press("Enable")
	b.notice("The login is enabled")
	b.visit("/people?find=ADA")
	b.until("who was looked for, alone", "document.querySelectorAll('tbody tr').length === 1")
	b.shoot("logins-found")

	b.visit(here + "/delete")
	b.until("the question", "document.querySelector('main .btn-danger')")
	b.shoot("login-delete")
	b.press("Delete and forget it")
	b.notice("The login is deleted")
	if left := ask(t, p, "/v1/logins", &identityv1.ListLoginsResponse{}).GetLogins(); len(left) != 1 {
		t.Errorf("there are still %v", left)
	}
}

func changesKeys(t *testing.T, p *stack.Platform, b *browser) {
	b.visit("/api-keys")
	b.fill("display_name", "Nightly export")
	b.check("privileges", "PRIVILEGE_REPORT")
	b.press("Create the key")
	key := b.shownOnce()
	b.shoot("api-key-once")
	if err := api.New(p.REST, key).Get(t.Context(), "/v1/account", nil, &identityv1.GetAccountResponse{}); err != nil {
		t.Errorf("the key is of no use: %v", err)
	}
	b.press("I have kept it: go on")
	b.until("the keys", "document.querySelector('a[href$=revoke]')")
	b.shoot("api-keys")
	var made *identityv1.ApiKey
	for _, k := range ask(t, p, "/v1/apiKeys", &identityv1.ListApiKeysResponse{}).GetApiKeys() {
		if k.GetDisplayName() == "Nightly export" {
			made = k
		}
	}
	if len(made.GetPrivileges()) != 1 {
		t.Fatalf("the API knows %v", made)
	}
	b.visit("/api-keys/" + made.GetApiKeyId() + "/revoke")
	b.press("Revoke the key")
	b.notice("The key is revoked")
	if got := ask(t, p, "/v1/apiKeys/"+made.GetApiKeyId(), &identityv1.ApiKey{}); got.GetRevokeTime() == nil {
		t.Errorf("it is %v", got)
	}
}

func changesManagers(t *testing.T, p *stack.Platform, b *browser) {
	b.visit("/managers")
	b.fill("display_name", "Berlin")
	b.press("Create the Manager")
	if text := b.shownOnce(); !strings.Contains(text, "cetrus-manager enroll --api "+b.base) {
		t.Errorf("what to paste is %s", text)
	}
	b.shoot("manager-once")
	b.press("I have kept it: go on")
	b.until("the Manager", "document.querySelector('a[href$=renew-token]')")
	b.shoot("manager")
	b.press("Another token")
	b.press("Make another token")
	b.shownOnce()
	b.press("I have kept it: go on")
	b.press("Revoke")
	b.until("the question", "document.querySelector('main .btn-danger')")
	b.shoot("manager-revoke")
	b.press("Revoke the Manager")
	b.notice("The Manager is cut off")
	managers := ask(t, p, "/v1/managers", &identityv1.ListManagersResponse{}).GetManagers()
	if last := managers[len(managers)-1]; last.GetDisplayName() != "Berlin" || last.GetRevokeTime() == nil {
		t.Errorf("the API knows %v", managers)
	}
	b.visit("/principals")
	b.until("nobody yet", "document.querySelector('.empty')")
	b.shoot("principals-empty")
}
