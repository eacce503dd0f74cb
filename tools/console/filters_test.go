package console

import (
	"errors"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/tools/stack"
)

// A report is narrowed to a person by typing, with the keyboard alone, and by a plain form where no script runs;
// what it is narrowed to stands there by its name, goes away by a click, and is in the address.
func TestReportsAreNarrowedByName(t *testing.T) {
	p, once := start(t)
	b := open(t, p.REST)
	b.visit("/use")
	b.signIn("operator", "admin", once)
	b.do(chromedp.WaitVisible("#new-password"), chromedp.SendKeys("#new-password", password), chromedp.Click("main button"))
	b.until("the page", "location.pathname === '/use'")
	work(t, p)
	b.visit("/use?by=person")
	// What was loaded may still be on its way into the figures.
	b.until("three people", "document.readyState === 'complete' && document.querySelectorAll('.card-table tbody tr').length === 3 || (window.again ??= setTimeout(() => location.reload(), 500), false)")
	b.visit("/use?by=person")
	b.until("them", "document.readyState === 'complete' && document.querySelectorAll('.card-table tbody tr').length === 3")
	name, err := evaluate[string](b, "document.querySelector('.card-table tbody th').textContent")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(name, " ")

	// By keyboard: typed, found, chosen.
	b.do(chromedp.SendKeys("#who", strings.ToLower(first)))
	b.until("a list of who is called so", "document.querySelector('#who').getAttribute('aria-expanded') === 'true' && document.querySelector('#who-matches [data-kind=person]')")
	b.shoot("filter-matches")
	b.do(chromedp.SendKeys("#who", kb.ArrowDown))
	b.until("the first of them", "document.querySelector('#' + document.querySelector('#who').getAttribute('aria-activedescendant')).getAttribute('aria-selected') === 'true'")
	b.do(chromedp.SendKeys("#who", kb.Enter))
	b.until("the report of one person", "location.search.includes('person=') && document.querySelectorAll('.card-table tbody tr').length === 1 && document.querySelector('[data-chip=person]').textContent.includes("+quoted(name)+")")
	b.judge("filter-chip")
	address, err := evaluate[string](b, "location.pathname + location.search")
	if err != nil {
		t.Fatal(err)
	}

	// On a phone the form is folded away and its summary tells what was chosen; at a desk it is always open.
	shown := "document.querySelector('#from').checkVisibility({contentVisibilityAuto: true})"
	b.do(chromedp.EmulateViewport(390, 844))
	b.visit(address)
	b.until("the filters in a line", "document.querySelector('.filters summary').innerText.includes('last 7 days') && document.querySelector('.filters summary').innerText.includes("+quoted(name)+") && !"+shown)
	b.judge("folded filters")
	b.do(chromedp.Click(".filters summary"))
	b.until("the form", shown)
	b.visit(address)
	b.do(chromedp.EmulateViewport(1440, 900))
	b.until("the form, without a summary", shown+" && !document.querySelector('.filters summary').checkVisibility()")

	// The address is enough, a second one joins the first, and each goes away by itself.
	b.visit(address)
	b.until("the same again", "document.querySelectorAll('[data-chip]').length === 1")
	b.visit("/use?by=person&who=" + strings.ToLower(first))
	b.until("who was typed, to choose from", "document.querySelector('[data-matches] a')")
	b.visit("/use?by=application&compare=before&who=nobody+at+all")
	b.until("that nobody is called so", "document.querySelector('[data-matches]').textContent.includes('Nobody') && document.querySelector('[data-compared] time')")
	b.visit(address)
	if _, err := evaluate[bool](b, "document.querySelector('[data-chip]').click(), true"); err != nil {
		t.Fatal(err)
	}
	b.until("everybody again", "!location.search.includes('person=') && document.querySelectorAll('.card-table tbody tr').length === 3")

	for _, page := range []struct{ path, shows string }{
		{"/use?compare=before", "document.querySelectorAll('.change').length > 3"},
		{"/use?view=distribution&compare=year", "document.querySelectorAll('.change').length > 3"},
		{"/use?view=ranking", "document.querySelectorAll('.change').length > 3"},
		{"/concurrent?compare=before", "document.querySelectorAll('.change').length === 3"},
		{"/licences?compare=before", "document.querySelectorAll('.change').length > 3"},
		{"/unused?compare=before&less=1000", "document.querySelector('[data-compared]') && document.querySelectorAll('.change').length === 1"},
		{"/idle?compare=before&at-least=1", "document.querySelectorAll('.change').length > 2"},
		{"/sessions?compare=before&by=person", "document.querySelectorAll('.change').length > 3"},
	} {
		b.visit(page.path)
		b.until(page.path+" compared", page.shows)
		if strings.HasPrefix(page.path, "/use?compare") || strings.HasPrefix(page.path, "/licences") { // the others are of the same parts
			b.shoot("compared-" + strings.Trim(strings.NewReplacer("/", "", "?", "-", "&", "-", "=", "-").Replace(page.path), "-"))
		}
		b.wellBehaved(page.path)
	}
	b.visit("/now?person=" + strings.Split(strings.Split(address, "person=")[1], "&")[0])
	b.until("one person's programs", "document.querySelector('[data-chip=person]') && document.querySelector('[data-live-state]').textContent === 'Live'")
	b.judge("now-of-one")
	b.wellBehaved("narrowing")
	triesEveryFilter(t, p, b)
	showsChangesSoon(t, p, b)
}

// triesEveryFilter sets each field of each report's form that chooses, one at a time, and sends the form: the page that
// comes says so, holds it still, and finds nothing wrong with it.
func triesEveryFilter(t *testing.T, p *stack.Platform, b *browser) {
	t.Helper()
	if err := errors.Join(
		p.API.Post(t.Context(), "/v1/groups", &identityv1.Group{DisplayName: "Nobody at all"}, &identityv1.Group{}),
		p.API.Post(t.Context(), "/v1/managers", &identityv1.Manager{DisplayName: "Graz"}, &identityv1.CreateManagerResponse{}),
	); err != nil {
		t.Fatal(err)
	}
	b.visit("/use")
	b.until("the group and the site to be known", "document.querySelector('#group') && document.querySelector('#site') || (window.again ??= setTimeout(() => location.reload(), 500), false)")
	tried := map[string]int{}
	for _, page := range []string{"/use", "/use?view=ranking", "/use?view=distribution", "/concurrent", "/licences", "/forecast", "/unused", "/idle", "/timeline", "/sessions", "/instances", "/quality"} {
		b.visit(page)
		const fields = `[...document.querySelectorAll('main form[method=get] select[name], main form[method=get] input[type=date]')].map(e => e.name)`
		names, err := evaluate[[]string](b, fields)
		if err != nil || len(names) < 3 {
			t.Fatalf("%s has the fields %v: %v", page, names, err)
		}
		for _, name := range names {
			b.visit(page)
			field := "document.querySelector('main form[method=get] [name=" + name + "]')"
			chosen, err := evaluate[string](b, `(() => {
				const field = `+field+`;
				if (field.options) field.selectedIndex = field.options.length - 1;
				else field.value = document.querySelector(field.name === 'from' ? '[name=to]' : '[name=from]').value;
				field.form.requestSubmit();
				return field.value;
			})()`)
			if err != nil {
				t.Fatal(err)
			}
			b.until(page+" with "+name+" "+chosen, "document.readyState === 'complete' && new URLSearchParams(location.search).get('"+name+"') === "+quoted(chosen)+
				" && "+field+".value === "+quoted(chosen)+" && !document.querySelector('[data-wrong], [data-note]')")
			switch name {
			case "application", "group", "site":
				b.until(page+" to say what it is narrowed to", "document.querySelector('[data-chip="+name+"]')")
			}
			if page == "/use" && (name == "group" || name == "site") {
				b.until("that nobody there did anything", "!document.querySelector('.card-table tbody tr')")
			}
			if page == "/use" && name == "application" {
				b.until("one application", "document.querySelectorAll('.card-table tbody tr').length <= 1")
			}
			tried[name]++
		}
		b.wellBehaved(page + " with each filter")
	}
	for _, name := range []string{"from", "to", "application", "group", "site", "compare", "metric", "by", "rows"} {
		if tried[name] == 0 {
			t.Errorf("no page has a field %s; there are %v", name, tried)
		}
	}
	t.Logf("fields and on how many pages: %v", tried)
}
