package console

import (
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// The pages of a report lead from the whole down to one event, each state by an address of its own.
func TestReportsLeadDownToTheEvent(t *testing.T) {
	p, once := start(t)
	b := open(t, p.REST)
	b.visit("/timeline")
	b.signIn("operator", "admin", once)
	b.do(chromedp.WaitVisible("#new-password"), chromedp.SendKeys("#new-password", password), chromedp.Click("main button"))
	b.until("an empty timeline", "location.pathname === '/timeline' && document.querySelector('.empty')")
	work(t, p)

	// One of these days at least is a working day, whatever today is.
	days := "from=" + time.Now().UTC().AddDate(0, 0, -3).Format(time.DateOnly) + "&to=" + time.Now().UTC().Format(time.DateOnly)
	for _, page := range []struct {
		path, name, shows string
		pictures          bool
	}{
		{"/timeline?rows=person&" + days, "timeline-by-person", "document.querySelectorAll('.timeline-bars a').length > 2", true},
		{"/timeline?rows=run&files=on&" + days, "timeline-with-files", "document.querySelectorAll('.timeline-bars a').length > 2", true},
		{"/timeline?rows=run&view=table&" + days, "timeline-as-a-table", "document.querySelectorAll('tbody tr').length > 2", false},
		{"/sessions", "sessions", "document.querySelectorAll('tbody tr').length > 0", true},
		{"/sessions?by=application", "sessions-by-application", "document.querySelectorAll('tbody tr').length > 2", false},
		{"/quality?" + days, "quality", "document.querySelector('.trust')", true},
		{"/use?by=week", "use-by-week", "document.querySelectorAll('tbody tr').length > 0", false},
		{"/use?view=ranking", "use-ranking", "document.querySelectorAll('tbody tr').length > 2", true},
		{"/use?view=distribution", "use-distribution", "document.querySelectorAll('tbody tr').length === 7", true},
		{"/concurrent?holders=on", "concurrent-use-by-whom", "document.querySelectorAll('.heat tbody tr').length === 7 && document.querySelectorAll('.card-table tbody tr').length > 0", true},
		{"/sessions?from=2020-01-01&to=2020-01-02", "sessions-empty", "document.querySelector('.empty')", false},
	} {
		b.visit(page.path)
		b.until(page.name, page.shows)
		if page.pictures {
			b.shoot(page.name)
		} else {
			b.judge(page.name)
		}
		b.wellBehaved(page.name)
	}

	b.visit("/use")
	b.until("how far the figures can be trusted", "document.querySelector('[data-quality] .trust')")
	b.do(chromedp.Click("[data-quality]"))
	b.until("the whole of it", "location.pathname === '/quality' && location.search.includes('from=') && document.querySelector('.trust')")

	// Somebody elsewhere reads times by their own clock, days and hours of the day by the account's, and is told so.
	b.in("America/St_Johns")
	b.visit("/timeline?rows=person&" + days)
	b.until("the axis in the reader's zone", `(() => {
		const axis = document.querySelector('.timeline-axis'), first = axis.querySelector('text'), bar = document.querySelector('.timeline-bars a');
		const share = parseFloat(first.getAttribute('x')) / 100, begin = Date.parse(axis.dataset.axisBegin), at = new Date(begin + share * (Date.parse(axis.dataset.axisEnd) - begin));
		return at.getMinutes() % 30 === 0 && document.querySelector('[data-here]').textContent === 'your time zone, America/St_Johns' &&
			bar.getAttribute('aria-label').includes(new Intl.DateTimeFormat(document.documentElement.dataset.language, {dateStyle: 'medium', timeStyle: 'medium'}).format(new Date(bar.dataset.begin)));
	})()`)
	b.visit("/concurrent?application=")
	b.until("which zone is which", "document.querySelector('[data-here]').textContent === 'your time zone, America/St_Johns' && document.body.innerText.includes('Weekdays and hours are those of the account’s time zone, UTC.')")
	b.in("")

	// From people to one event, by zooming until bars are exact.
	b.visit("/timeline?rows=person&" + days)
	b.do(chromedp.Click(".timeline-title a"))
	b.until("that person's applications", "location.search.includes('person=') && location.search.includes('rows=application') && document.querySelector('.timeline-bars a')")
	b.do(chromedp.Click(".timeline-title a"))
	b.until("the runs of one", "location.search.includes('rows=run') && document.querySelector('.timeline-bars a')")
	// The first bar of the day, a few minutes of it: short enough for exact bars.
	const closer = `(() => {
		const at = document.querySelector('.timeline-bars a').getAttribute('href'), asked = new URLSearchParams(at);
		const middle = (Date.parse(asked.get('begin')) + Date.parse(asked.get('end'))) / 2;
		asked.set('begin', new Date(middle - 600_000).toISOString());
		asked.set('end', new Date(middle + 600_000).toISOString());
		location.search = asked.toString();
		return true;
	})()`
	if _, err := evaluate[bool](b, closer); err != nil {
		t.Fatal(err)
	}
	b.until("exact bars", "document.querySelector('.card-header').innerText.includes('exact') && document.querySelector('.timeline-bars a').getAttribute('href').includes('event=')")
	b.shoot("timeline-exact")
	exact, err := evaluate[string](b, "location.search")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := evaluate[bool](b, "document.body.focus(), document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft', bubbles: true})), true"); err != nil {
		t.Fatal(err)
	}
	b.until("an earlier time by keyboard", "location.search !== "+quoted(exact))
	b.visit("/timeline" + exact)
	b.until("the exact bars again", "document.querySelector('.timeline-bars a')")
	if _, err := evaluate[bool](b, "location.href = document.querySelector('.timeline-bars a').getAttribute('href'), true"); err != nil {
		t.Fatal(err)
	}
	b.until("the event", "location.pathname.startsWith('/instances/') && document.querySelector('#event code')?.textContent === new URLSearchParams(location.search).get('event')")
	b.shoot("run-at-an-event")
	b.do(chromedp.Click("dd a"))
	b.until("the whole session", "location.pathname.startsWith('/sessions/') && document.querySelectorAll('tbody tr').length > 0")
	b.shoot("session")
	b.wellBehaved("from the timeline down to the event")
}
