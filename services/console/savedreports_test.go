package console

import (
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// TestASavedReportOpensThePageThatAsksTheSame: the page of a question asks that question, of every page
// whose report can be saved.
func TestASavedReportOpensThePageThatAsksTheSame(t *testing.T) {
	r := &reporting{services: services{privileges: authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_REPORT)}}
	now := time.Date(2026, 3, 29, 12, 0, 0, 0, time.UTC)
	console, err := New(Deps{Metering: r, Identity: r, Authenticator: r, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	good := &http.Cookie{Name: current.access, Value: "good"}
	const some = "0198f2aa-0000-4000-8000-000000000001"
	all := "&from=2026-02-01&to=2026-02-28&reason=why&application=" + some + "&person=" + some + "&machine=" + some + "&group=" + some + "&site=" + some
	seen := map[string]bool{}
	for _, address := range []string{
		"/use?by=person&counting=person" + all, "/use?by=week" + all, "/use?view=ranking&by=group&rank=people" + all, "/use?view=distribution&by=machine&measure=open" + all,
		"/use?compare=year" + all, "/use?view=ranking&compare=year" + all, "/use?view=distribution&compare=before" + all, "/concurrent?compare=before&give-back=5" + all,
		"/licences?compare=year&refused=12345" + all, "/unused?compare=before" + all, "/idle?compare=year" + all, "/sessions?compare=before" + all, "/now?group=" + some + "&reason=why",
		"/concurrent?application=", "/forecast?application=", "/concurrent?metric=machine" + all, "/licences?metric=session&refused=10000&bought=12&price=1.50&currency=EUR" + all, "/licences?price=120&currency=JPY" + all,
		"/forecast?metric=machine&days=365" + all, "/unused?by=both&not-for=30&less=2" + all, "/idle?at-least=45" + all, "/timeline?rows=machine" + all, "/sessions?by=application" + all,
		"/instances?x=y" + all, "/quality?x=y" + all, "/account-use?first=2025-11&last=2026-01", "/now?x=y",
	} {
		question := func(address string) *meteringv1.ReportQuestion {
			t.Helper()
			r.export = nil
			answer := get(console, exportPath+address, good)
			if answer.StatusCode != http.StatusOK || r.export.GetReport().GetQuestion() == nil {
				text, _ := io.ReadAll(answer.Body)
				t.Fatalf("%s: %d %s", address, answer.StatusCode, text)
			}
			return r.export.GetReport()
		}
		first := question(address)
		title, back := addressOf(first, time.UTC)
		if diff := cmp.Diff(first, question(back), protocmp.Transform()); diff != "" || title == "" {
			t.Errorf("%s became %s, which asks:\n%s", address, back, diff)
		}
		seen[strings.SplitN(address, "?", 2)[0]] = true
		if strings.HasPrefix(address, "/now") {
			continue // its page is a stream, which nothing answers here
		}
		if page, err := io.ReadAll(get(console, address, good).Body); err != nil || !strings.Contains(string(page), "data-save") {
			t.Errorf("%s cannot be saved", address)
		}
	}
	for path := range console.savable {
		if !seen[path] {
			t.Errorf("%s was not looked at", path)
		}
	}
}

// TestAPeriodMovesOn: what is saved about a preset is about that, whenever it is opened, and what it was compared
// with does not stand still.
func TestAPeriodMovesOn(t *testing.T) {
	for _, c := range periodChoices() {
		value, title := periodWord(c.period)
		if value != c.value || title != c.title {
			t.Errorf("%q became %q", c.value, value)
		}
	}
	saved := &meteringv1.SavedReport{
		Report: &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Idle{Idle: &meteringv1.QueryIdleRequest{CompareStartTime: nil}}}, Period: periodChoices()[1].period,
	}
	saved.Report.GetIdle().CompareStartTime, saved.Report.GetIdle().AsOfPosition = saved.GetReport().GetIdle().GetStartTime(), "7"
	moveOn(saved)
	if idle := saved.GetReport().GetIdle(); idle.GetCompareStartTime() != nil || idle.GetAsOfPosition() != "" {
		t.Errorf("%v stands still", idle)
	}
	// The same days of the year before cannot move on, and nothing else is put in their place.
	console, err := New(Deps{Metering: &reporting{}, Identity: &reporting{}, Authenticator: &reporting{}, Logger: slog.New(slog.DiscardHandler), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	start, end, before := time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), time.Date(2025, 2, 1, 0, 0, 0, 0, time.UTC)
	use := &meteringv1.SummarizeUsageRequest{StartTime: timestamppb.New(start), EndTime: timestamppb.New(end), CompareStartTime: timestamppb.New(before)}
	saved = &meteringv1.SavedReport{Report: &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Usage{Usage: use}}}
	stands := func() error { return console.standsStill(&visit{ctx: t.Context()}, saved) }
	if err := stands(); err != nil {
		t.Errorf("these very days: %v", err)
	}
	saved.Period = periodChoices()[1].period
	if err := stands(); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a period that moves on, and the year before: %v", err)
	}
	use.CompareStartTime = timestamppb.New(start.AddDate(0, -1, 0))
	if err := stands(); err != nil {
		t.Errorf("the time before: %v", err)
	}
	of := &meteringv1.SavedReport{Report: &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Live{Live: &meteringv1.StreamLiveUsageRequest{}}}, Period: periodChoices()[1].period}
	if moveOn(of); of.GetPeriod() != nil {
		t.Error("what is open now is about no period")
	}
}
