package console

import (
	"context"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/tools/stack"
)

// reaches is how soon what is changed in the browser is with the agent, and the page says so. The
// quickest of several changes is judged by it, and on a machine that is busy with something else by
// what it makes of a page: loading one takes less than reaches/manyPages where it is not.
const (
	reaches   = 5 * time.Second
	manyPages = 25
)

// desk runs an agent at whose desktop somebody works in a program that nobody meters.
func desk(t *testing.T, p *stack.Platform) {
	t.Helper()
	d := scripted.New(scripted.Config{
		Host: desktop.Host{Name: "ws-17", OperatingSystem: "Linux"}, Begin: time.Now(), Booted: time.Hour,
		Pace: scripted.Real(), Endless: true, Period: time.Second,
		Script: scripted.Steps(
			scripted.Step{Do: scripted.LogOn{User: activity.User{Name: "ada"}}},
			scripted.Step{Do: scripted.Start{PID: 10, Path: "/opt/draft/bin/draft"}},
			scripted.Step{Do: scripted.Show{ID: 1, PID: 10, Class: "Draft", Title: "Pier 3.dft - Draft"}},
			scripted.Step{Do: scripted.Start{PID: 11, Path: "/usr/bin/gimp-2.10"}},
			scripted.Step{Do: scripted.Show{ID: 2, PID: 11, Class: "Gimp", Title: "*[logo] (imported)-1.0 (RGB color 8-bit gamma integer, GIMP built-in sRGB, 1 layer) 64x64 – GIMP"}},
			scripted.Step{Do: scripted.Focus{ID: 1}},
			scripted.Step{Do: scripted.Inputs{For: time.Hour, Every: time.Second}},
		),
	})
	t.Cleanup(d.Close)
	a, err := agent.New(agent.Config{DataDir: t.TempDir(), Managers: []string{p.ManagerAgents}, Version: "test", ControlSocket: agent.NoControl}, agent.Deps{Desktop: d})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the agent: %v", err)
		}
	})
}

// applicationsThere are those that the API tells.
func applicationsThere(t *testing.T, p *stack.Platform) []*meteringv1.Application {
	t.Helper()
	return ask(t, p, "/v1/applications", &meteringv1.ListApplicationsResponse{}).GetApplications()
}

// setField writes into a field, as somebody does at once.
func (b *browser) setField(name, text string) {
	b.tb.Helper()
	script := fmt.Sprintf("(() => { const f = document.querySelector('main [name=%s]'); f.value = %s; f.dispatchEvent(new Event('input', {bubbles: true})); return true; })()", name, quoted(text))
	if _, err := evaluate[bool](b, script); err != nil {
		b.tb.Fatal(err)
	}
}

// Somebody who has nothing metered yet goes from what agents see by one click to what is metered,
// makes its rules better beside their dry run, and sees each change arrive at the agent, which then
// measures by it.
func TestApplicationsFromTheBrowserToTheAgent(t *testing.T) {
	p, once := start(t)
	b := open(t, p.REST)
	b.visit("/applications")
	b.signIn("operator", "admin", once)
	b.do(chromedp.WaitVisible("#new-password"), chromedp.SendKeys("#new-password", password), chromedp.Click("main button"))
	b.until("what to do next", "document.querySelector('.empty-action a[href*=templates]')")
	b.shoot("applications-none")
	b.visit("/applications?show=seen")
	b.until("the switch", "document.querySelector('form[action$=sightings]')")
	desk(t, p)
	b.do(chromedp.Click("form[action$=sightings] button"))
	b.notice("tell the names of other programs")
	b.until("an agent that has it", "document.querySelector('#rollout[data-everywhere] .state-active')")
	for deadline := time.Now().Add(patience); ; <-time.After(200 * time.Millisecond) { // an agent tells some seconds later
		b.visit("/applications?show=seen")
		if n, err := evaluate[int](b, "document.querySelectorAll('form[action$=seen]').length"); err == nil && n == 2 {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("%d programs are seen (%v)", n, err)
		}
	}
	b.until("each on one machine, the one known by its template", "document.body.textContent.includes('draft') && document.querySelector('button[aria-label=\"Meter it: GIMP\"]')")
	b.shoot("applications-seen")
	b.wellBehaved("what is seen")

	b.do(chromedp.Click("button[aria-label=\"Meter it: draft\"]"))
	b.notice("draft is metered from now on")
	quickest := arrives(t, b, "one click")
	b.shoot("application")
	there := applicationsThere(t, p)
	if len(there) != 1 || there[0].GetDisplayName() != "draft" || there[0].GetRules()[0].GetExecutable() != "draft" {
		t.Fatalf("there are %v", there)
	}
	here := "/applications/" + there[0].GetApplicationId()
	measured(t, p, "draft")

	// The dry run follows what is typed, and says beside the field what is wrong.
	for deadline := time.Now().Add(patience); ; <-time.After(200 * time.Millisecond) { // an agent tells some seconds later who claims what
		b.visit(here)
		if own, err := evaluate[bool](b, "Boolean(document.querySelector('#trial tbody')?.textContent.includes('its own already'))"); err == nil && own {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("the dry run does not tell what there is (%v)", err)
		}
	}
	b.setField("rules_1_executable", "nothing-like-it")
	b.until("no match", "document.querySelector('#trial .empty-title')?.textContent.includes('match nothing')")
	b.setField("rules_1_executable", "dr?ft")
	b.setField("rules_1_title", "Pier (")
	b.until("the bad pattern, beside its field", "document.querySelector('[name=rules_1_title]').parentElement.querySelector('[data-problem]')?.textContent.includes('missing closing')")
	b.shoot("application-bad-pattern")
	b.setField("rules_1_title", "Pier")
	b.until("what only the desktop knows", "document.querySelector('#trial tbody')?.textContent.includes('only the desktop knows') && !document.querySelector('[data-problem]')")
	b.do(chromedp.Click("button[name=add]"))
	b.until("another rule, what was typed, and the hints", "document.querySelectorAll('.rule .form-hint').length === 14 && document.querySelector('[name=rules_2_executable]') && document.querySelector('[name=rules_1_executable]').value === 'dr?ft'")
	b.setField("rules_2_window_class", "gimp")
	b.until("both", "document.querySelectorAll('#trial tbody tr').length >= 2 && document.querySelector('#trial tbody').textContent.includes('nobody')")
	b.shoot("application-dry-run")
	b.do(chromedp.Click("button[name=remove][value='2']"))
	b.until("one rule", "!document.querySelector('[name=rules_2_executable]')")

	// Without a name it is refused, and what was typed stays; without the field's own check too.
	b.setField("display_name", " ")
	b.setField("rules_1_title", "[")
	b.do(chromedp.Click(".sticky-actions .btn-primary"))
	b.until("both errors beside their fields", "document.querySelector('[name=display_name].is-invalid') && document.querySelector('[name=rules_1_title].is-invalid').value === '['")
	b.forgive()

	// Somebody else is faster.
	var changed meteringv1.Application
	if err := p.API.Patch(t.Context(), "/v1"+here, url.Values{"updateMask": {"display_name"}}, &meteringv1.Application{DisplayName: "Drafts"}, &changed); err != nil {
		t.Fatal(err)
	}
	b.setField("display_name", "Draft")
	b.setField("rules_1_title", "")
	b.do(chromedp.Click(".sticky-actions .btn-primary"))
	b.until("what is there now", "document.querySelector('[data-changed]') && document.querySelector('.field-now')?.textContent.includes('Drafts')")
	b.shoot("application-changed-meanwhile")
	b.forgive()
	if now := applicationsThere(t, p)[0].GetDisplayName(); now != "Drafts" {
		t.Errorf("it is called %q before anybody has decided", now)
	}
	b.setField("activity_gap", "1m0s")
	b.do(chromedp.Click(".sticky-actions .btn-primary"))
	b.notice("The application is changed")
	quickest = min(quickest, arrives(t, b, "an edit"))
	got := ask(t, p, "/v1"+here, &meteringv1.Application{})
	if got.GetDisplayName() != "Draft" || got.GetRules()[0].GetExecutable() != "dr?ft" || got.GetActivityGap().AsDuration() != time.Minute {
		t.Errorf("what was edited is %v", got)
	}
	measured(t, p, "Draft")

	b.visit("/applications?show=templates")
	b.until("common programs", "document.querySelectorAll('input[name=template]').length > 40")
	b.shoot("applications-ready")
	b.do(chromedp.Click(".sticky-actions button"))
	b.until("that none is chosen", "document.querySelector('[data-refused]')")
	b.forgive()
	// Not by where they are: the bar with the button may stand over one.
	b.until("two to be chosen", "['gimp', 'libreoffice-calc'].every(id => { const box = document.querySelector('input[value=' + id + ']'); if (box && !box.checked) box.click(); return box?.checked })")
	b.do(chromedp.Click(".sticky-actions button"))
	b.notice("These 2 are metered")
	quickest = min(quickest, arrives(t, b, "templates"))
	b.shoot("applications")
	measured(t, p, "GIMP")

	b.visit(here)
	b.do(chromedp.Click("main a[href$=delete]"))
	b.until("the question", "document.querySelector('main .btn-danger')")
	b.do(chromedp.Click("main .btn-danger"))
	b.notice("metered no more")
	quickest = min(quickest, arrives(t, b, "a deletion"))
	began := time.Now()
	b.visit("/applications")
	b.until("the page", "document.readyState === 'complete' && document.querySelector('#rollout')")
	if allowed := max(reaches, manyPages*time.Since(began)); quickest > allowed {
		t.Errorf("the quickest change takes %v to arrive; %v is allowed, %v promised", quickest, allowed, reaches)
	}
}

// arrives waits until the page says that the agent has the change, and tells how long that took.
func arrives(t *testing.T, b *browser, what string) time.Duration {
	t.Helper()
	began := time.Now()
	b.until(what+" to arrive", "document.querySelector('#rollout[data-everywhere] .state-active')")
	took := time.Since(began)
	t.Logf("%s is with the agent, and the page says so, after %v", what, took)
	return took
}

// measured waits until the live view shows an application in which the agent's person works.
func measured(t *testing.T, p *stack.Platform, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	found := false
	err := p.API.Live(ctx, nil, func(m *meteringv1.StreamLiveUsageResponse) {
		for _, session := range m.GetSessions() {
			for _, open := range session.GetInstances() {
				found = found || open.GetApplicationName() == name
			}
		}
		if found {
			cancel()
		}
	})
	if !found {
		t.Fatalf("%s is not measured: %v", name, err)
	}
}
