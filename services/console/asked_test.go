package console

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cetrus/cetrus/services/platform/authn"
)

// refusingServices refuse one method, and answer all others.
type refusingServices struct {
	fullServices
	method string
	err    error
}

func (s *refusingServices) Invoke(ctx context.Context, method string, args, reply any, options ...grpc.CallOption) error {
	if strings.HasSuffix(method, "/"+s.method) {
		return s.err
	}
	return s.fullServices.Invoke(ctx, method, args, reply, options...)
}

func askPage(t *testing.T, s *refusingServices, address string) *httptest.ResponseRecorder {
	t.Helper()
	s.privileges = authn.AllPrivileges()
	console, err := New(Deps{Metering: s, Identity: s, Authenticator: s, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, address, nil)
	r.AddCookie(&http.Cookie{Name: current.access, Value: "good"})
	w := httptest.NewRecorder()
	console.ServeHTTP(w, r)
	return w
}

func invalid(t *testing.T, message string, fields ...string) error {
	t.Helper()
	bad := &errdetails.BadRequest{}
	for i := 0; i+1 < len(fields); i += 2 {
		bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: fields[i], Description: fields[i+1]})
	}
	st, err := status.New(codes.InvalidArgument, message).WithDetails(bad)
	if err != nil {
		t.Fatal(err)
	}
	return st.Err()
}

// What is wrong with a report's form is told once, by the form's labels, above the form as it was filled, and
// nothing stands there that looks like an answer.
func TestWhatIsWrongIsToldByTheForm(t *testing.T) {
	for _, c := range []struct {
		address, method, field, description string
		says, kept                          string
	}{
		{"/use?from=2026-05-02&to=2026-05-01&by=person&compare=year", "", "", "", `<a class="alert-link" href="#to">To</a> is before the first day.`, `<option value="person" selected>`},
		{"/use?from=never&by=person", "", "", "", `<a class="alert-link" href="#from">From</a> is no date: write it as `, `<option value="person" selected>`},
		{"/unused?less=-3&by=machine", "", "", "", "Busy for fewer hours than</a>: write a whole number", `name="less" min="1" max="10000" value="-3"`},
		{"/idle?at-least=x", "", "", "", "Stretches of at least minutes</a>: write a whole number", `name="at-least"`},
		{"/licences?application=&bought=-1&metric=machine", "", "", "", "Bought</a>: write a number of licences", `<option value="machine" selected>`},
		{"/licences?application=&price=1.999&currency=EUR", "", "", "", "Price of one</a>: write an amount of EUR", `value="1.999"`},
		{"/forecast?application=&give-back=-5", "", "", "", "Given back after idle minutes</a>: write a whole number", `value="-5"`},
		{"/concurrent?application=&minutes=900&metric=machine", "", "", "", "Idle minutes</a>: choose from 1 to 60", `<option value="machine" selected>`},
		{"/use?person=nobody", "", "", "", "<strong>Person</strong>: the address names one that cannot be", "Show it without"},
		{"/sessions?page=x", "SummarizeSessions", "page_token", "is no page token", "The list cannot be continued from where this address says.", "Show it from its beginning"},
		{"/sessions?by=person&from=2026-05-01&to=2026-05-02", "SummarizeSessions", "end_time", "is not after start_time", `To</a> is not after “From”.`, `value="2026-05-02"`},
		{"/instances?from=2026-05-01&to=2026-05-02", "ListInstances", "reason", "is needed, since the account asks", "Why named people are looked at</a> is needed, since the account asks.", `value="2026-05-02"`},
		{"/timeline?rows=person&from=2026-05-01&to=2026-05-02", "QueryTimeline", "end_time", "the period is longer than 400 days", "To</a>: the period is longer than 400 days.", `<option value="person" selected>`},
		{"/quality?from=2026-05-01&to=2026-05-02", "GetDataQuality", "filter.group_ids", "is odd", "Group</a> is odd.", `value="2026-05-01"`},
		{"/account-use?first=2020-01&last=2026-01", "QueryAccountUse", "first_month", "is too long ago", "From month</a> is too long ago.", `<option value="2020-01" selected>`},
		{"/audit-log?from=2026-05-01&kind=cetrus.metering.&actor=login:me", "ListAuditEntries", "actor", "is no actor", "Who</a> is no actor.", `value="login:me"`},
	} {
		s := &refusingServices{method: cmp.Or(c.method, "none"), err: invalid(t, c.field+": "+c.description, c.field, c.description)}
		w := askPage(t, s, c.address)
		body := w.Body.String()
		if w.Code != http.StatusBadRequest || strings.Count(body, "data-wrong") != 1 || strings.Count(body, c.says) != 1 {
			t.Errorf("%s is answered %d without %q once: %s", c.address, w.Code, c.says, part(body))
		}
		if !strings.Contains(body, c.kept) || strings.Contains(body, "<table") || strings.Contains(body, "empty-title") {
			t.Errorf("%s loses %q, or shows an answer: %s", c.address, c.kept, part(body))
		}
		if c.field != "" && strings.Contains(body, c.field) && strings.Contains(c.field, "_") {
			t.Errorf("%s names %q", c.address, c.field)
		}
	}
}

// part is the part of a page that is its own.
func part(body string) string {
	_, own, _ := strings.Cut(body, `<main id="content"`)
	return own
}

// What an address says that the page does not know is said once, with what was taken in its place; what it knows
// is not.
func TestWhatWasTakenInstead(t *testing.T) {
	for address, says := range map[string]string{
		"/forecast?application=&days=-5":       "Look ahead: “-5” is not one of the choices, so “90 days” is used.",
		"/licences?application=&metric=nobody": "A licence is for: “nobody” is not one of the choices, so “a person” is used.",
		"/concurrent?application=&metric=x":    "A licence is for: “x”",
		"/unused?by=dog":                       "By: “dog” is not one of the choices, so “person” is used.",
		"/use?by=dog":                          "By: “dog” is not one of the choices, so “Application” is used.",
		"/use?view=round":                      "The kind of view: “round”",
		"/use?view=ranking&rank=best":          "Most of: “best” is not one of the choices, so “busy time” is used.",
		"/use?counting=sheep":                  "Counting: “sheep”",
		"/use?compare=never":                   "Compare with: “never” is not one of the choices, so “nothing” is used.",
		"/sessions?by=dog":                     "By: “dog” is not one of the choices, so “session” is used.",
		"/timeline?rows=dog":                   "Rows: “dog” is not one of the choices, so “each run” is used.",
		"/agents?condition=odd":                "Problems: “odd” is not one of the choices, so “all agents” is used.",
		"/licences?application=&share=900":     "This page knows nothing of “share=900” in its address",
		"/use?by=day&from=2026-05-01&to=2026-05-02&view=&compare=year&reason=why": "",
		"/forecast?application=&days=365&metric=machine":                          "",
		"/concurrent?application=&zoom=1-2&minutes=5&holders=on":                  "",
	} {
		w := askPage(t, &refusingServices{method: "none"}, address)
		want := 1
		if says == "" {
			want = 0
		}
		if body := w.Body.String(); w.Code != http.StatusOK || strings.Count(body, "data-note>") != want || !strings.Contains(body, says) {
			t.Errorf("%s is answered %d, without %q: %s", address, w.Code, says, part(body))
		}
	}
	// A file would not say it.
	if w := askPage(t, &refusingServices{method: "none"}, "/export/unused?by=dog&format=csv"); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "By: “dog” is not one of the choices") {
		t.Errorf("a file is answered %d", w.Code)
	}
}

// A list of what is not used has columns for whom it is of, and no empty ones.
func TestUnusedHasTheColumnsOfItsLines(t *testing.T) {
	for by, want := range map[string][2]bool{"": {true, false}, "machine": {false, true}, "both": {true, true}} {
		body := part(askPage(t, &refusingServices{method: "none"}, "/unused?by="+by).Body.String())
		_, line, _ := strings.Cut(body, "<tbody>")
		line, _, _ = strings.Cut(line, "</tr>")
		head, _, _ := strings.Cut(body, "</thead>")
		if got := [2]bool{strings.Contains(head, ">Person</th>"), strings.Contains(head, ">Machine</th>")}; got != want || strings.Count(head, "<th ") != strings.Count(line, "<th ")+strings.Count(line, "<td") {
			t.Errorf("by %q people and machines have columns: %v; a line is %s", by, got, line)
		}
	}
}

func TestASentenceBeginsWithACapital(t *testing.T) {
	for text, want := range map[string]string{"": "", "it is odd": "It is odd", "“x” is odd": "“x” is odd", "über": "Über"} {
		if got := sentence(text); got != want {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}
