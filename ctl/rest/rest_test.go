package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

type seen struct{ line, body, bearer string }

// serve answers with a text, and tells what was asked.
func serve(t *testing.T, code int, answer string) (*Conn, *seen) {
	t.Helper()
	s := &seen{}
	return against(t, Key("secret"), func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		*s = seen{r.Method + " " + r.URL.RequestURI(), strings.ReplaceAll(string(body), " ", ""), r.Header.Get("Authorization")}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		fmt.Fprint(w, answer)
	}), s
}

func against(t *testing.T, who Credentials, handler http.HandlerFunc) *Conn {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	base, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return New(base, server.Client(), "test", who)
}

func TestAQuestionStandsInTheQuery(t *testing.T) {
	conn, s := serve(t, 200, `{"groups":[{"application_name":"X","unknown":1}],"totals":{"busy":"1.5s"}}`)
	answer, err := meteringv1.NewUsageServiceClient(conn).SummarizeUsage(t.Context(), &meteringv1.SummarizeUsageRequest{
		StartTime: timestamppb.New(time.Date(2026, 3, 1, 0, 0, 0, 5e8, time.UTC)), GroupBy: []meteringv1.GroupBy{meteringv1.GroupBy_GROUP_BY_DAY, meteringv1.GroupBy_GROUP_BY_SITE},
		Filter: &meteringv1.UsageFilter{ApplicationIds: []string{"a", "b c"}}, PageSize: 7, Reason: "ä&=",
	})
	if err != nil || answer.GetGroups()[0].GetApplicationName() != "X" || answer.GetTotals().GetBusy().AsDuration() != 1500*time.Millisecond {
		t.Fatalf("%v, %v", answer, err)
	}
	want := "GET /v1/usage:summarize?filter.application_ids=a&filter.application_ids=b+c&group_by=GROUP_BY_DAY&group_by=GROUP_BY_SITE&page_size=7&reason=%C3%A4%26%3D&start_time=2026-03-01T00%3A00%3A00.500Z"
	if s.line != want || s.body != "" || s.bearer != "Bearer secret" {
		t.Errorf("%+v", s)
	}
}

func TestOptionalZeroIsSaid(t *testing.T) {
	conn, s := serve(t, 200, `{}`)
	zero := int64(0)
	if _, err := meteringv1.NewReportServiceClient(conn).QueryLicencesNeeded(t.Context(), &meteringv1.QueryLicencesNeededRequest{Bought: &zero, GiveBackAfter: []*durationpb.Duration{durationpb.New(90 * time.Second)}}); err != nil {
		t.Fatal(err)
	}
	if s.line != "GET /v1/reports:licencesNeeded?bought=0&give_back_after=90s" {
		t.Error(s.line)
	}
}

func TestAMessageThatSaysNothingIsThere(t *testing.T) {
	conn, s := serve(t, 200, "x")
	stream, err := meteringv1.NewExportServiceClient(conn).ExportReport(t.Context(), &meteringv1.ExportReportRequest{
		Report: &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Live{Live: &meteringv1.StreamLiveUsageRequest{}}},
	})
	if err != nil || s.line != "GET /v1/reports:export?report.live.reason=" {
		t.Fatalf("%s, %v", s.line, err)
	}
	if part, err := stream.Recv(); err != nil || string(part.GetContent()) != "x" {
		t.Errorf("%v, %v", part, err)
	}
}

func TestAChangeStandsInPathQueryAndBody(t *testing.T) {
	conn, s := serve(t, 200, `{"application_id":"i/1","display_name":"Y"}`)
	answer, err := meteringv1.NewApplicationServiceClient(conn).UpdateApplication(t.Context(), &meteringv1.UpdateApplicationRequest{
		Application: &meteringv1.Application{ApplicationId: "i/1", DisplayName: "Y"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name", "rules"}}, RequestId: "r",
	})
	if err != nil || answer.GetApplication().GetDisplayName() != "Y" {
		t.Fatalf("%v, %v", answer, err)
	}
	if s.line != "PATCH /v1/applications/i%2F1?request_id=r&update_mask=display_name%2Crules" || s.body != `{"display_name":"Y"}` {
		t.Errorf("%+v", s)
	}
	if _, err := identityv1.NewAgentAdmissionServiceClient(conn).RevokeAgent(t.Context(), &identityv1.RevokeAgentRequest{AgentId: "a", Copies: true}); err != nil {
		t.Fatal(err)
	}
	if s.line != "POST /v1/agents/a:revoke" || s.body != `{"copies":true}` {
		t.Errorf("%+v", s)
	}
	if _, err := meteringv1.NewUsageServiceClient(conn).GetInstance(t.Context(), &meteringv1.GetInstanceRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a path without its id: %v", err)
	}
}

func TestErrorsComeWithTheirDetails(t *testing.T) {
	conn, _ := serve(t, 400, `{"code":3,"message":"wrong","details":[{"@type":"type.googleapis.com/google.rpc.BadRequest","field_violations":[{"field":"x","description":"y"}]}]}`)
	_, err := identityv1.NewAccountServiceClient(conn).GetAccount(t.Context(), &identityv1.GetAccountRequest{})
	st := status.Convert(err)
	if st.Code() != codes.InvalidArgument || len(st.Details()) != 1 || st.Details()[0].(*errdetails.BadRequest).GetFieldViolations()[0].GetField() != "x" {
		t.Errorf("%v", err)
	}
}

func TestWhatIsNotCetrusIsSaid(t *testing.T) {
	for _, answer := range []string{"<html>", ""} {
		for _, code := range []int{200, 407, 502} {
			conn, _ := serve(t, code, answer)
			var foreign *ForeignError
			if _, err := identityv1.NewAccountServiceClient(conn).GetAccount(t.Context(), &identityv1.GetAccountRequest{}); !errors.As(err, &foreign) || foreign.HTTPStatus != code {
				t.Errorf("%d %q: %v", code, answer, err)
			}
		}
	}
	conn, _ := serve(t, 200, "")
	conn.base.Host = "127.0.0.1:1"
	var gone *UnreachableError
	if _, err := identityv1.NewAccountServiceClient(conn).GetAccount(t.Context(), &identityv1.GetAccountRequest{}); !errors.As(err, &gone) {
		t.Errorf("%v", err)
	}
}

// renewing has one token after another.
type renewing struct{ tokens []string }

func (r *renewing) Bearer(context.Context) (string, error) { return r.tokens[0], nil }
func (r *renewing) Renew(_ context.Context, refused string) (bool, error) {
	if refused != r.tokens[0] || len(r.tokens) == 1 {
		return false, nil
	}
	r.tokens = r.tokens[1:]
	return true, nil
}

func TestARefusedTokenIsRenewedAndAQuestionRepeated(t *testing.T) {
	asked := 0
	conn := against(t, &renewing{[]string{"old", "new"}}, func(w http.ResponseWriter, r *http.Request) {
		asked++
		switch {
		case r.Header.Get("Authorization") == "Bearer old":
			w.WriteHeader(401)
			fmt.Fprint(w, `{"code":16,"message":"ended"}`)
		case asked == 2 || r.Method == http.MethodPost:
			w.WriteHeader(503)
			fmt.Fprint(w, `{"code":14,"message":"later"}`)
		default:
			fmt.Fprint(w, `{"name":"x"}`)
		}
	})
	answer, err := identityv1.NewAccountServiceClient(conn).GetAccount(t.Context(), &identityv1.GetAccountRequest{})
	if err != nil || answer.GetAccount().GetName() != "x" || asked != 3 {
		t.Errorf("%v, %v after %d", answer, err, asked)
	}
	asked = 10
	if _, err := identityv1.NewManagerServiceClient(conn).CreateManager(t.Context(), &identityv1.CreateManagerRequest{}); status.Code(err) != codes.Unavailable || asked != 11 {
		t.Errorf("a change is not repeated by itself: %v after %d", err, asked-10)
	}
}

func TestStreams(t *testing.T) {
	for name, test := range map[string]struct {
		body string
		want int
		end  func(error) bool
	}{
		"good":   {"{\"result\":{\"complete\":true}}\n\n{\"result\":{}}\n", 2, func(err error) bool { return errors.Is(err, io.EOF) }},
		"error":  {"{\"result\":{}}\n{\"error\":{\"code\":14,\"message\":\"stopping\"}}\n", 1, func(err error) bool { return status.Code(err) == codes.Unavailable }},
		"broken": {"{\"result\":\n", 0, func(err error) bool { var gone *UnreachableError; return errors.As(err, &gone) }},
	} {
		t.Run(name, func(t *testing.T) {
			conn, _ := serve(t, 200, test.body)
			stream, err := meteringv1.NewUsageServiceClient(conn).StreamLiveUsage(t.Context(), &meteringv1.StreamLiveUsageRequest{})
			if err != nil {
				t.Fatal(err)
			}
			got := 0
			for ; ; got++ {
				if _, err = stream.Recv(); err != nil {
					break
				}
			}
			if got != test.want || !test.end(err) {
				t.Errorf("%d answers, then %v", got, err)
			}
		})
	}
}

// TestHalfAFileDoesNotEndWell: a document is told in parts to its end, and one that was cut off is an
// error, wherever it was cut.
func TestHalfAFileDoesNotEndWell(t *testing.T) {
	for _, size := range []int{0, 1, partBytes - 1, partBytes, partBytes + 1, 3 * partBytes} {
		for _, whole := range []bool{true, false} {
			conn := against(t, Anonymous{}, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/csv")
				w.Header().Set("Content-Disposition", `attachment; filename="use.csv"`)
				w.WriteHeader(200)
				_, _ = w.Write(make([]byte, size))
				_ = http.NewResponseController(w).Flush()
				if !whole {
					panic(http.ErrAbortHandler)
				}
			})
			stream, err := meteringv1.NewExportServiceClient(conn).ExportReport(t.Context(), &meteringv1.ExportReportRequest{})
			if err != nil {
				t.Fatal(err)
			}
			got, name := 0, ""
			for {
				var part *meteringv1.ExportReportResponse
				if part, err = stream.Recv(); err != nil {
					break
				}
				got += len(part.GetContent())
				name += part.GetFileName()
			}
			if whole && (got != size || !errors.Is(err, io.EOF) || name != "use.csv") || !whole && errors.Is(err, io.EOF) {
				t.Errorf("%d bytes, whole: %v: %d of %q, then %v", size, whole, got, name, err)
			}
		}
	}
}

// FuzzFailure: whatever a server says, it is an error.
func FuzzFailure(f *testing.F) {
	f.Add(400, `{"code":3,"message":"x","details":[]}`)
	f.Add(500, `{"code":`)
	f.Fuzz(func(t *testing.T, code int, text string) {
		c := &Conn{base: &url.URL{Scheme: "https", Host: "x"}}
		if err := c.failure(&http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text))}); err == nil {
			t.Error("an answer other than success is an error")
		}
	})
}
