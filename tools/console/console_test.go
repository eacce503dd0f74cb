package console

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/tools/desks"
	"github.com/cetrus/cetrus/tools/office"
	"github.com/cetrus/cetrus/tools/stack"
)

const password = "a horse reads 14 newspapers"

// start runs a platform and gives the one-time password of its first administrator.
func start(t *testing.T, args ...string) (*stack.Platform, string) {
	t.Helper()
	dir := t.TempDir()
	binary, err := stack.Build(t.Context(), dir, "services/cmd/cetrus")
	if err != nil {
		t.Fatal(err)
	}
	p, err := stack.StartPlatform(t.Context(), binary, filepath.Join(dir, "platform"), filepath.Join(t.ArtifactDir(), "cetrus.log"), slices.Concat(stack.Anywhere().Listen(), []string{stack.Plaintext}, args)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(30 * time.Second); err != nil {
			t.Error(err)
		}
	})
	once, err := os.ReadFile(filepath.Join(dir, "platform", "admin-password"))
	if err != nil {
		t.Fatal(err)
	}
	return p, strings.TrimSpace(string(once))
}

// named is where a platform is reached by a name: browsers have passkeys for no IP address.
func named(p *stack.Platform) string { return strings.Replace(p.REST, "127.0.0.1", "localhost", 1) }

// week is the past of the office that is loaded: it has working days, whatever today is.
const week = 7

// work lets a few people of the office work, after their past is loaded.
func work(t *testing.T, p *stack.Platform) {
	t.Helper()
	applications := office.Applications()
	for _, a := range applications {
		if _, err := p.API.CreateApplication(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	loaded := make(chan struct{})
	var once sync.Once
	company, err := desks.New(desks.Config{
		Dir: t.TempDir(), Sites: []desks.Site{{Manager: p.ManagerAgents}}, Desks: office.Desks(office.Staff()[:3], 1), Days: week, Seed: 1, Applications: len(applications),
		Progress: func(share float64) {
			if share >= 1 {
				once.Do(func() { close(loaded) })
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	running.Go(func() {
		if err := company.Run(ctx); err != nil && ctx.Err() == nil {
			t.Errorf("the office: %v", err)
		}
	})
	select {
	case <-loaded:
	case <-time.After(patience):
		t.Fatal("the office's past is not loaded")
	}
}

// signIn fills in the form, as far as it is shown at first.
func (b *browser) signIn(account, login, password string) {
	b.tb.Helper()
	b.do(chromedp.WaitVisible("#account"), chromedp.SendKeys("#account", account), chromedp.SendKeys("#login", login),
		chromedp.SendKeys("#password", password), chromedp.Click("main button"))
}

func TestEveryPageOfTheConsole(t *testing.T) {
	p, once := start(t)
	b := open(t, p.REST)

	b.visit("/use")
	b.until("the way to the sign-in", "location.pathname === '/sign-in'")
	b.signIn("operator", "admin", "not the password")
	b.until("the refusal", "document.querySelector('#more .alert-danger')")
	b.shoot("sign-in-refused")
	b.forgive()
	b.visit("/use")
	b.signIn("operator", "admin", once)
	b.do(chromedp.WaitVisible("#new-password"))
	b.shoot("sign-in-new-password")
	b.do(chromedp.SendKeys("#new-password", password), chromedp.Click("main button"))
	b.until("the page that was asked for first", "location.pathname === '/use'")

	for _, page := range []string{"now", "use", "applications", "agents"} {
		b.visit("/" + page)
		b.until("the words of an empty page", "[...document.querySelectorAll('.empty')].some(e => !e.hidden)")
		b.shoot(page + "-empty")
	}
	work(t, p)

	for _, page := range []struct{ path, name, shows string }{
		{"/now", "now", "document.querySelectorAll('[data-session] tr').length > 2 && document.querySelector('[data-live-state]').textContent === 'Live'"},
		{"/use", "use-by-application", "document.querySelectorAll('.card-table tbody tr').length > 3 && document.querySelectorAll('.trend a').length === 7"},
		{"/use?by=person", "use-by-person", "document.querySelectorAll('.card-table tbody tr').length === 3"},
		{"/use?by=machine&counting=person", "use-by-machine", "document.querySelectorAll('.card-table tbody tr').length === 3"},
		{"/use?by=document", "use-by-document", "document.querySelectorAll('.card-table tbody tr').length > 3"},
		{"/use?by=group", "use-by-group", "document.querySelectorAll('.card-table tbody tr').length === 1 && document.querySelector('.card-table tbody th').textContent === '(in none)'"},
		{"/use?by=site", "use-by-site", "document.querySelectorAll('.card-table tbody tr').length === 1"},
		{"/account-use", "account-use", "document.querySelector('.empty, tbody tr')"},
		{"/use?by=day", "use-by-day", "document.querySelectorAll('tbody tr').length >= 1"},
		{"/concurrent?give-back=5&minutes=7&zoom=10-60", "concurrent-use", "document.querySelector('[data-chart] svg') && document.querySelector('[data-slider-minutes]').textContent === '7' && document.querySelector('[data-slider-needed]').textContent !== ''"},
		{"/licences?bought=2&price=1200.50&currency=EUR&refused=10000", "licences-needed", "document.querySelectorAll('tbody tr').length === 6 && document.querySelector('[data-slider-needed]').textContent !== ''"},
		{"/forecast?days=30&price=100&currency=EUR", "forecast", "document.querySelector('.empty .btn')"},
		{"/unused?less=1000", "unused", "document.querySelectorAll('tbody tr').length > 0"},
		{"/idle?at-least=1", "idle", "document.querySelectorAll('.heat tbody tr').length === 7"},
		{"/instances", "runs", "document.querySelectorAll('tbody tr').length > 3"},
		{"/applications", "applications", fmt.Sprintf("document.querySelectorAll('tbody tr').length === %d", len(office.Applications()))},
		{"/agents", "agents", "document.querySelectorAll('tbody tr').length >= 3"},
		{"/managers", "managers", "document.querySelector('table, .empty')"},
		{"/start", "first-steps-done", "document.querySelectorAll('[data-step=done]').length === 5"},
		{"/people", "logins", "document.querySelectorAll('tbody tr').length === 1"},
	} {
		b.visit(page.path)
		b.until(page.name, page.shows)
		b.shoot(page.name)
		b.files(page.name)
		b.wellBehaved(page.name)
	}

	bindsAPerson(t, p, b)

	var group identityv1.Group
	if err := p.API.Post(t.Context(), "/v1/groups", &identityv1.Group{DisplayName: "Design"}, &group); err != nil {
		t.Fatal(err)
	}
	b.visit("/unused?less=1000")
	b.until("the group to choose", "document.querySelector(\"#group option[value='"+group.GetGroupId()+"']\") || (window.again ??= setTimeout(() => location.reload(), 500), false)")
	b.do(chromedp.SetValue("#group", group.GetGroupId()), chromedp.Click("form[action='/unused'] button"))
	b.until("nobody of the group", "location.search.includes('group="+group.GetGroupId()+"') && document.querySelector('.empty')")
	b.shoot("narrowed-to-a-group")
	b.wellBehaved("narrowed to a group")
	b.do(chromedp.Click("form[action='/unused'] a.btn-outline-primary"))
	b.until("everybody again", "!location.search.includes('group="+group.GetGroupId()+"') && document.querySelectorAll('tbody tr').length > 0")

	b.visit("/use")
	b.until("the arrow keys in a chart that came later than its page", "(bars => bars.length > 1 && (bars[0].focus(), bars[0].dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true})), document.activeElement === bars[1]))(document.querySelectorAll('.trend a'))")

	b.visit("/use?by=person")
	b.until("the chart above what is clicked", "document.querySelector('.trend a')")
	b.do(chromedp.Click(".card-table tbody th a"))
	b.until("that person's applications", "location.search.includes('person=') && location.search.includes('by=application') && document.querySelectorAll('.card-table tbody tr').length > 0")

	b.visit("/instances")
	b.do(chromedp.Click("tbody tr:has(td time) th a")) // one that was closed, of which all is decided
	b.until("that run, change by change", "location.pathname.startsWith('/instances/') && document.querySelector('.timeline rect') && document.querySelectorAll('tbody tr').length > 0")
	b.shoot("run")
	b.files("run")
	b.wellBehaved("run")

	b.visit("/now")
	b.until("rows", "document.querySelectorAll('[data-session] tr').length > 2")
	before, err := evaluate[string](b, "[...document.querySelectorAll('[data-session] .state')].map(e => e.textContent).join()")
	if err != nil {
		t.Fatal(err)
	}
	b.until("a change without a reload", "[...document.querySelectorAll('[data-session] .state')].map(e => e.textContent).join() !== "+quoted(before))
	b.wellBehaved("live")

	b.visit("/use?from=x&by=dog")
	b.until("what is wrong, by the form", "document.querySelector('[data-wrong] a[href=\"#from\"]') && document.querySelector('[data-note]') && !document.querySelector('.empty-title, table')")
	b.shoot("wrong-filter")
	b.visit("/nowhere")
	b.until("no such page", "document.querySelector('.empty-title')?.textContent === 'There is no such page'")
	b.shoot("no-such-page")
	b.forgive()

	b.do(chromedp.Click("[data-bs-toggle=dropdown]"), chromedp.WaitVisible("form[action='/sign-out'] button"), chromedp.Click("form[action='/sign-out'] button"))
	b.until("the sign-in", "location.pathname === '/sign-in'")
	b.visit("/now")
	b.until("the sign-in again", "location.pathname === '/sign-in'")
	b.wellBehaved("signing out")
	followsPrivileges(t, p)
}

// files has what a page shows as the files that it offers.
func (b *browser) files(where string) {
	b.tb.Helper()
	offered, err := evaluate[int](b, `(() => {
		const links = [...document.querySelectorAll("a[href^='/export/']")];
		window.files = null;
		Promise.all(links.map(async a => { const r = await fetch(a.href); return r.ok && r.headers.get("Content-Disposition").startsWith("attachment") && (await r.arrayBuffer()).byteLength > 20; })).then(all => { window.files = all; });
		return links.length; })()`)
	if err != nil {
		b.tb.Fatal(err)
	}
	if strings.HasPrefix(where, "run") || strings.HasPrefix(where, "use") || where == "idle" {
		if offered != 3 {
			b.tb.Errorf("%s: %d files", where, offered)
		}
	}
	b.until("the files of "+where, "window.files && window.files.every(ok => ok)")
}

// menuOf is what a page offers.
func menuOf(b *browser) string {
	b.tb.Helper()
	menu, err := evaluate[string](b, "[...document.querySelectorAll('#menu a')].map(a => a.getAttribute('href')).join(' ')")
	if err != nil {
		b.tb.Fatal(err)
	}
	return menu
}

// What a person may not see is not offered, and refused all the same.
func followsPrivileges(t *testing.T, p *stack.Platform) {
	for _, who := range []struct {
		name       string
		privileges []authzv1.Privilege
		menu       string
		refused    []string
	}{
		{"own", []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_APPLICATION_USER}, "/now /use /concurrent /unused /idle /timeline /sessions /instances /saved-reports /files /applications /me /my-data /api-keys /docs/", []string{"/licences", "/quality", "/agents", "/managers", "/people", "/people/new", "/principals", "/groups", "/start", "/sign-in-settings", "/account-settings", "/audit-log", "/corrections"}},
		{"reports", []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_REPORT}, "/now /use /concurrent /licences /forecast /account-use /unused /idle /timeline /sessions /instances /quality /saved-reports /files /applications /me /my-data /api-keys /docs/", []string{"/agents", "/managers", "/people", "/principals", "/groups", "/start", "/sign-in-settings", "/account-settings", "/audit-log", "/corrections"}},
		{"buys", []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_PURCHASING}, "/account-use /saved-reports /files /me /my-data /api-keys /docs/", []string{"/now", "/use", "/concurrent", "/licences", "/unused", "/idle", "/timeline", "/sessions", "/quality", "/instances", "/applications", "/agents", "/managers", "/people"}},
	} {
		t.Run(who.name, func(t *testing.T) {
			var login identityv1.Login
			var given identityv1.SetOneTimePasswordResponse
			if err := p.API.Post(t.Context(), "/v1/logins", &identityv1.Login{Name: who.name, Privileges: who.privileges}, &login); err != nil {
				t.Fatal(err)
			}
			if err := p.API.Post(t.Context(), "/v1/passwords:setOneTime", &identityv1.SetOneTimePasswordRequest{LoginId: login.GetLoginId()}, &given); err != nil {
				t.Fatal(err)
			}
			b := open(t, p.REST)
			b.visit("/sign-in?next=//elsewhere.invalid/")
			b.signIn("operator", who.name, given.GetPassword())
			b.do(chromedp.WaitVisible("#new-password"), chromedp.SendKeys("#new-password", password), chromedp.Click("main button"))
			b.until("a page of the console", "location.pathname !== '/sign-in' && location.host === '"+strings.TrimPrefix(p.REST, "http://")+"' && document.querySelector('#menu, .empty')")
			if menu := menuOf(b); menu != who.menu {
				t.Errorf("the menu offers %q, want %q", menu, who.menu)
			}
			for path, shows := range map[string]string{"/me": "[data-passkey]", "/my-data": "a[href*='format=csv']", "/api-keys": "form[action='/api-keys']"} {
				b.visit(path)
				b.until(path+" as one's own", "document.querySelector("+quoted(shows)+")")
			}
			for _, path := range []string{"/groups", "/people/new", "/managers", "/account-settings", "/sign-in-settings"} {
				answered, err := evaluateAwaited[int](b, "fetch("+quoted(path)+", {method: 'POST', body: new URLSearchParams({form: 'f', display_name: 'Mine', name: 'mine'})}).then(r => r.status)")
				if err != nil || answered != 403 {
					t.Errorf("a form to %s is answered %d, %v", path, answered, err)
				}
			}
			for _, path := range who.refused {
				b.visit(path)
				b.until("the refusal of "+path, "document.querySelector('.empty-title')?.textContent === 'You may not see this'")
			}
		})
	}
}

func quoted(text string) string { return "\"" + strings.ReplaceAll(text, "\"", "\\\"") + "\"" }
