package console

import (
	"context"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/mail/inbox"
)

// A report is saved from its page, gets a schedule, is sent, and comes by mail with its file; the mail's
// link leads back to what it shows.
func TestSavedReportFromTheBrowserToTheInbox(t *testing.T) {
	mails := mailbox(t)
	p, once := start(t, "--smtp-url", mails.SMTPURL(), "--mail-from", "Cetrus <cetrus@example.com>")
	login := ask(t, p, "/v1/logins", &identityv1.ListLoginsResponse{}).GetLogins()[0]
	if err := p.API.Patch(t.Context(), "/v1/logins/"+login.GetLoginId(), url.Values{"updateMask": {"mail_address"}}, &identityv1.Login{MailAddress: "admin@example.org"}, &identityv1.Login{}); err != nil {
		t.Fatal(err)
	}
	b := open(t, p.REST)
	b.visit("/saved-reports")
	b.signIn("operator", "admin", once)
	b.do(chromedp.WaitVisible("#new-password"), chromedp.SendKeys("#new-password", password), chromedp.Click("main button"))
	b.until("no saved report", "location.pathname === '/saved-reports' && document.querySelector('.empty')")
	b.shoot("saved-reports-empty")

	b.visit("/use?by=person")
	if _, err := evaluate[bool](b, "document.querySelector('[data-save]').click(), true"); err != nil {
		t.Fatal(err)
	}
	b.until("the form that saves it", "location.pathname === '/saved-reports/new' && document.querySelector('[name=display_name]')")
	b.fill("display_name", "Who uses what")
	b.do(chromedp.SetValue("main [name=period]", "last-month"))
	b.check("shared", "yes")
	b.shoot("save-a-report")
	b.press("Save the report")
	b.notice("The report is saved")
	b.do(chromedp.SetValue("main [name=recurrence]", "3"), chromedp.SetValue("main [name=day_of_month]", "31"))
	b.fill("time_of_day", "")
	if _, err := evaluate[bool](b, "document.querySelector('[name=time_of_day]').value = '18:30', true"); err != nil {
		t.Fatal(err)
	}
	b.press("Save the schedule")
	b.notice("The schedule is changed")
	b.press("Send now")
	b.notice("It is made and sent now")

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	got, err := mails.Wait(ctx, func(m inbox.Mail) bool { return m.Subject == "Report: Who uses what" })
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Files) != 1 || got.Files[0].Name != "use.xlsx" || len(got.Files[0].Content) == 0 || got.Recipients[0] != "admin@example.org" {
		t.Errorf("the mail brings %v to %v", got.Files, got.Recipients)
	}
	saved := ask(t, p, "/v1/savedReports", &meteringv1.ListSavedReportsResponse{}).GetSavedReports()
	if len(saved) != 1 || saved[0].GetSchedule().GetDayOfMonth() != 31 || saved[0].GetSchedule().GetTimeOfDay() != "18:30" || !saved[0].GetShared() {
		t.Fatalf("there are %v", saved)
	}
	here := "/saved-reports/" + saved[0].GetSavedReportId()
	for deadline := time.Now().Add(patience); saved[0].GetLastRun().GetState() != meteringv1.ReportRun_STATE_SENT; {
		if saved = ask(t, p, "/v1/savedReports", &meteringv1.ListSavedReportsResponse{}).GetSavedReports(); time.Now().After(deadline) {
			t.Fatalf("the run has not ended: %v", saved)
		}
	}
	b.visit(here)
	b.until("the run", "document.querySelector('[data-run] .state-active')?.textContent === 'sent'")
	b.shoot("saved-report")
	b.wellBehaved("a saved report")
	b.visit("/saved-reports")
	b.until("the list", "document.querySelectorAll('tbody tr').length === 1")
	b.shoot("saved-reports")
	link := regexp.MustCompile(regexp.QuoteMeta(here) + `/open\?at=\S+`).FindString(got.Text)
	b.visit(link)
	b.until("the report of the mail", "location.pathname === '/use' && location.search.includes('by=person') && location.search.includes('from=')")
	b.wellBehaved("the mail's link")

	// The same report becomes a file while nobody waits, which is found again from the menu.
	b.visit("/files")
	b.until("no file", "document.querySelector('.empty')")
	b.visit("/use?by=person&from=" + time.Now().AddDate(-1, 0, 1).Format(time.DateOnly) + "&to=" + time.Now().Format(time.DateOnly))
	b.until("a long period is best made in the background", "document.querySelector('[data-background].btn-primary')")
	b.shoot("use-long-period")
	if _, err := evaluate[bool](b, "document.querySelector('[data-background]').click(), true"); err != nil {
		t.Fatal(err)
	}
	b.until("the form that makes it", "location.pathname === '/files/new' && document.querySelector('main [name=format]')")
	b.do(chromedp.SetValue("main [name=format]", "CSV"))
	b.shoot("make-a-file")
	b.press("Make the file")
	b.notice("The file is being made")
	b.until("it is ready, by itself", "document.querySelectorAll('[data-file]').length === 1 && document.querySelector('[data-ready]')")
	b.until("nothing is asked any more", "!document.querySelector('[data-under-way]')")
	b.until("times are the reader's", "!document.querySelector('main time[data-time]')?.textContent.match(/^\\d{4}-/)")
	b.shoot("files")
	kept := ask(t, p, "/v1/reportFiles", &meteringv1.ListReportFilesResponse{}).GetReportFiles()
	if len(kept) != 0 {
		t.Errorf("the platform's key, which is no login's, sees %v", kept)
	}
	var files [2]string
	if err := b.script(&files, nil, `return Promise.all([document.querySelector("[id^=download-]").href, document.querySelector("tbody th a").href.replace("/use", "/export/use") + "&format=csv"].map(async a => (await fetch(a)).text()))`); err != nil || !strings.Contains(files[0], "Person,") || files[0] != files[1] {
		t.Errorf("%v: the file is %q, not %q", err, files[0], files[1])
	}
	b.wellBehaved("files")
	b.press("Remove")
	b.notice("The file is removed")
	b.until("no file is left", "document.querySelector('.empty')")
}
