package console

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// reporting answers reports with nothing, remembers what they were asked, and exports in two parts.
type reporting struct {
	services
	asked  []proto.Message
	export *meteringv1.ExportReportRequest
	breaks bool
	// groups is what use is summed up to.
	groups []*meteringv1.UsageGroup
}

func (r *reporting) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	switch reply.(type) {
	case *identityv1.ListGroupsResponse, *identityv1.ListManagersResponse:
		return nil // there are none to narrow the page to
	}
	if !strings.HasPrefix(method, "/cetrus.metering.") {
		return r.services.Invoke(ctx, method, args, reply, opts...)
	}
	r.asked = append(r.asked, args.(proto.Message))
	switch answer := reply.(type) {
	case *meteringv1.SummarizeUsageResponse:
		answer.TimeZone, answer.Groups, answer.Totals = "UTC", r.groups, &meteringv1.UsageTotals{}
	case *meteringv1.QueryConcurrencyResponse:
		answer.Open, answer.Busy, answer.NotTimedOut, answer.GivenBack = &meteringv1.Demand{}, &meteringv1.Demand{}, &meteringv1.Demand{}, &meteringv1.Demand{}
	case *meteringv1.ForecastDemandResponse:
		answer.Peak, answer.LookBack = &meteringv1.ForecastRange{}, &meteringv1.LookBack{}
	case *meteringv1.QueryLicencesNeededResponse:
		answer.Kept, answer.People, answer.Machines = &meteringv1.LicencePolicy{}, &meteringv1.NamedLicences{}, &meteringv1.NamedLicences{}
	}
	return nil
}

// exporting is the stream of an export.
type exporting struct {
	grpc.ClientStream
	r     *reporting
	parts []string
}

func (r *reporting) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return &exporting{r: r, parts: []string{"a,b\r\n", "1,2\r\n"}}, nil
}

func (e *exporting) SendMsg(m any) error {
	e.r.export = m.(*meteringv1.ExportReportRequest)
	return nil
}
func (e *exporting) CloseSend() error { return nil }

func (e *exporting) RecvMsg(m any) error {
	if len(e.parts) == 0 && e.r.breaks {
		return status.Error(codes.Unavailable, "gone")
	}
	if len(e.parts) == 0 {
		return io.EOF
	}
	part := m.(*meteringv1.ExportReportResponse)
	part.FileName, part.ContentType, part.Content = "use.csv", "text/csv; charset=utf-8", []byte(e.parts[0])
	e.parts = e.parts[1:]
	return nil
}

// The file of a page is of the very question that the page asks, and its links lead there.
func TestAFileIsOfWhatThePageAsks(t *testing.T) {
	r := &reporting{services: services{privileges: authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_REPORT)}}
	now := time.Date(2026, 3, 29, 12, 0, 0, 0, time.UTC)
	console, err := New(Deps{Metering: r, Identity: r, Authenticator: r, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	good := &http.Cookie{Name: current.access, Value: "good"}
	body := func(answer *http.Response) string {
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for path, query := range map[string]string{
		"/use": "by=person&from=2026-03-01&to=2026-03-02&reason=why", "/concurrent": "give-back=5", "/licences": "price=1.50&currency=EUR", "/unused": "less=2&by=both",
		"/idle": "at-least=3", "/instances": "person=0198f2aa-0000-4000-8000-000000000001",
		"/timeline": "rows=person", "/sessions": "by=person", "/sessions/0198f2aa-0000-4000-8000-000000000001": "reason=why", "/forecast": "days=30",
		"/quality": "application=0198f2aa-0000-4000-8000-000000000001", "/account-use": "first=2026-01&last=2026-02",
	} {
		r.asked = nil
		page := body(get(console, path+"?"+query, good))
		if !strings.Contains(page, `href="/export`+path+"?") || !strings.Contains(page, "format=xlsx") {
			t.Errorf("%s offers no files", path)
		}
		shown := r.asked
		answer := get(console, exportPath+path+"?"+query+"&format=xlsx", good)
		if text := body(answer); answer.StatusCode != http.StatusOK || text != "a,b\r\n1,2\r\n" || answer.Header.Get("Content-Disposition") != "attachment; filename=use.csv" {
			t.Fatalf("%s: %d %v %q", path, answer.StatusCode, answer.Header, text)
		}
		if r.export.GetFormat() != meteringv1.ExportFormat_EXPORT_FORMAT_XLSX {
			t.Errorf("%s as %v", path, r.export.GetFormat())
		}
		same := false
		for _, asked := range shown {
			same = same || cmp.Equal(r.export.GetReport(), questionOf(asked), protocmp.Transform()) && r.export.GetReport().GetQuestion() != nil
		}
		if !same {
			t.Errorf("%s exports %v", path, r.export.GetReport())
		}
	}
	if answer := get(console, exportPath+"/use?from=x", good); answer.StatusCode != http.StatusBadRequest {
		t.Errorf("what the page refuses: %d", answer.StatusCode)
	}
	if answer := get(console, exportPath+"/use?format=pdf", good); answer.StatusCode != http.StatusBadRequest || !strings.Contains(body(answer), "none of csv, xlsx and json") {
		t.Errorf("a format that there is not: %d", answer.StatusCode)
	}
	if answer := get(console, exportPath+"/use?view=ranking", good); answer.StatusCode != http.StatusOK || r.export.GetReport().GetRanking() == nil {
		t.Errorf("the file of a ranking: %d, %v", answer.StatusCode, r.export.GetReport())
	}
	if answer := get(console, exportPath+"/use?view=distribution", good); answer.StatusCode != http.StatusOK || r.export.GetReport().GetDistribution() == nil {
		t.Errorf("the file of a distribution: %d, %v", answer.StatusCode, r.export.GetReport())
	}
	if answer := get(console, exportPath+"/now?reason=why", good); answer.StatusCode != http.StatusOK || r.export.GetReport().GetLive().GetReason() != "why" {
		t.Errorf("the file of what is open: %d, %v", answer.StatusCode, r.export.GetReport())
	}
	if answer := get(console, exportPath+"/use?reason=%ff", good); answer.StatusCode != http.StatusBadRequest {
		t.Errorf("what is no text: %d", answer.StatusCode)
	}
	r.breaks = true
	defer func() {
		if why, _ := recover().(error); !errors.Is(why, http.ErrAbortHandler) {
			t.Error("half a file looks whole")
		}
	}()
	request := httptest.NewRequest(http.MethodGet, exportPath+"/use", nil)
	request.AddCookie(good)
	console.ServeHTTP(httptest.NewRecorder(), request)
}

// TestTheBusiestComesFirst: lines stand by busy time, and pages that count licences are about the busiest
// application until another is chosen, or all of them; their files are too.
func TestTheBusiestComesFirst(t *testing.T) {
	const little, much = "0198f2aa-0000-4000-8000-000000000001", "0198f2aa-0000-4000-8000-000000000002"
	group := func(id, name string, busy time.Duration) *meteringv1.UsageGroup {
		return &meteringv1.UsageGroup{ApplicationId: id, ApplicationName: name, Totals: &meteringv1.UsageTotals{Busy: durationpb.New(busy), Open: durationpb.New(24 * time.Hour)}}
	}
	r := &reporting{services: services{privileges: authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_REPORT)}, groups: []*meteringv1.UsageGroup{group(little, "Little", time.Minute), group(much, "Much", time.Hour)}}
	now := time.Date(2026, 3, 29, 12, 0, 0, 0, time.UTC)
	console, err := New(Deps{Metering: r, Identity: r, Authenticator: r, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	page := func(path string) string {
		t.Helper()
		answer := get(console, path, &http.Cookie{Name: current.access, Value: "good"})
		text, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d, %v", path, answer.StatusCode, err)
		}
		return string(text)
	}
	if use := page("/use"); strings.Index(use, ">Much<") > strings.Index(use, ">Little<") || !strings.Contains(use, ">Little<") {
		t.Error("the busiest line is not the first")
	}
	for _, path := range []string{"/concurrent", "/licences", "/forecast"} {
		for query, want := range map[string]string{"": much, "?application=": "", "?application=" + little: little, "?person=" + little: ""} {
			r.asked = nil
			text := page(path + query)
			last, ok := r.asked[len(r.asked)-1].(interface {
				GetFilter() *meteringv1.UsageFilter
			})
			if !ok || strings.Join(last.GetFilter().GetApplicationIds(), ",") != want {
				t.Errorf("%s%s is about %v", path, query, r.asked[len(r.asked)-1])
			}
			if said := strings.Contains(text, "data-most-used"); said != (query == "") {
				t.Errorf("%s%s says that it chose: %v", path, query, said)
			}
			page(exportPath + path + "?format=csv&" + strings.TrimPrefix(query, "?"))
			if _, address := addressOf(r.export.GetReport(), time.UTC); (want == "") != strings.Contains(address, "application=&") || !strings.Contains(address, want) {
				t.Errorf("the file of %s%s is that of %s", path, query, address)
			}
		}
	}
}
