package console

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// scheduling services keep one saved report, which is sent each day.
type scheduling struct {
	fullServices
	refuseWith error
	asked      *meteringv1.SavedReport
}

var ada, bob = contract.ID{2}.String(), contract.ID{3}.String()

func (s *scheduling) Invoke(ctx context.Context, method string, args, reply any, options ...grpc.CallOption) error {
	switch answer := reply.(type) {
	case *meteringv1.GetSavedReportResponse:
		answer.SavedReport = &meteringv1.SavedReport{
			SavedReportId: "x", OwnerLoginId: ada, DisplayName: "Weekly", Shared: true, Changeable: true, Etag: "1",
			Report:   &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Idle{Idle: &meteringv1.QueryIdleRequest{AtLeast: durationpb.New(time.Hour)}}},
			Schedule: &meteringv1.ReportSchedule{Recurrence: meteringv1.ReportSchedule_RECURRENCE_DAILY, TimeOfDay: "07:00", Delivery: &meteringv1.ReportDelivery{RecipientLoginIds: []string{ada}}},
		}
	case *meteringv1.UpdateSavedReportResponse:
		s.asked = args.(*meteringv1.UpdateSavedReportRequest).GetSavedReport()
		return s.refuseWith
	case *identityv1.ListLoginsResponse:
		answer.Logins = []*identityv1.Login{
			{LoginId: ada, Name: "ada", MailAddress: "ada@example.com", Privileges: []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_REPORT}},
			{LoginId: bob, Name: "bob", DisplayName: "Bob Hale", Disabled: true, Privileges: []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_REPORT}},
		}
	case *identityv1.GetMyLoginResponse:
		answer.Login = &identityv1.Login{LoginId: ada, Name: "ada"}
	default:
		return s.fullServices.Invoke(ctx, method, args, reply, options...)
	}
	return nil
}

// A schedule is taken as browsers send it, has a weekday for who makes it a weekly one, and says by name whom it
// cannot go to, and where a mail address is entered.
func TestSchedules(t *testing.T) {
	s := &scheduling{}
	s.privileges = authn.AllPrivileges()
	console, err := New(Deps{Metering: s, Identity: s, Authenticator: s, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	show := func() string {
		r := httptest.NewRequest(http.MethodGet, "/saved-reports/x", nil)
		r.AddCookie(&http.Cookie{Name: current.access, Value: "good"})
		w := httptest.NewRecorder()
		console.ServeHTTP(w, r)
		return part(w.Body.String())
	}
	body := show()
	for _, want := range []string{`<a href="/people/` + bob + `">Bob Hale</a>`, "Bob Hale (disabled) (no mail address)", `name="weekdays" value="1" checked`, "Idle, these very days, stretches of at least 60 minutes."} {
		if !strings.Contains(body, want) {
			t.Errorf("the page has not %q: %s", want, body)
		}
	}
	s.privileges = 0
	for _, p := range []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_REPORT} {
		s.privileges |= authn.PrivilegesOf(p)
	}
	if body := show(); !strings.Contains(body, `<a href="/me">your login</a> has no mail address`) {
		t.Errorf("who has no mail address is not told: %s", body)
	}
	s.privileges = authn.AllPrivileges()
	form := url.Values{"form": {"f"}, "etag": {"1"}, "recurrence": {"2"}, "weekdays": {"1"}, "time_of_day": {"07:30:00"}, "file": {"XLSX"}, "recipient_login_ids": {ada, bob}}
	if w := post(console, "/saved-reports/x/schedule", form); w.Code != http.StatusSeeOther || s.asked.GetSchedule().GetTimeOfDay() != "07:30" {
		t.Errorf("answered %d, for %v", w.Code, s.asked)
	}
	s.refuseWith = invalid(t, "x", "saved_report.schedule.delivery.recipient_login_ids[1]", "is a login that is disabled")
	form.Set("form", "g")
	if w := post(console, "/saved-reports/x/schedule", form); w.Code != http.StatusUnprocessableEntity || !strings.Contains(w.Body.String(), "Bob Hale is a login that is disabled") {
		t.Errorf("answered %d: %s", w.Code, part(w.Body.String()))
	}
}

// What a saved report asks is told in words, never in those of an address.
func TestFactsAreWords(t *testing.T) {
	for address, want := range map[string]string{
		"by=person&counting=person&compare=before": "by person, compared with the time before, counting each person once",
		"view=ranking&by=machine&rank=people":      "by machine, most of people",
		"metric=user-machine&give-back=15&days=90": "a licence is for a person at a machine, given back after 15 idle minutes, 90 days ahead",
		"price=120&currency=EUR&bought=7":          "120 EUR each, 7 bought",
		"by=both&not-for=30&less=2":                "by person and machine, not busy for 30 days, busy for fewer hours than 2",
		"rows=run":                                 "each run",
	} {
		query, err := url.ParseQuery(address)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for name := range query {
			if fact := factOf(name, query); fact != "" {
				got = append(got, fact)
			}
		}
		wanted := strings.Split(want, ", ")
		slices.Sort(got)
		slices.Sort(wanted)
		if !slices.Equal(got, wanted) {
			t.Errorf("%s is told as %q", address, got)
		}
	}
}
