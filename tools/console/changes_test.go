package console

import (
	"net/url"
	"testing"

	"github.com/chromedp/chromedp"
	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/tools/stack"
)

// What pages change is changed, as the API tells it.
func TestWhatTheConsoleChanges(t *testing.T) {
	p, once := start(t)
	b := open(t, p.REST)
	b.visit("/groups")
	b.signIn("operator", "admin", once)
	b.do(chromedp.WaitVisible("#new-password"), chromedp.SendKeys("#new-password", password), chromedp.Click("main button"))
	b.until("the groups", "location.pathname === '/groups' && document.querySelector('.empty')")
	for _, part := range []struct {
		name string
		try  func(*testing.T, *stack.Platform, *browser)
	}{{"groups", changesGroups}} {
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
