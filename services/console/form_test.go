package console

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// groupServices keep one group.
type groupServices struct {
	services
	refuseWith error
	created    atomic.Int64
	requests   sync.Map // by request id
}

func (s *groupServices) Invoke(ctx context.Context, method string, args, reply any, options ...grpc.CallOption) error {
	switch answer := reply.(type) {
	case *identityv1.CreateGroupResponse:
		if s.hold != nil {
			<-s.hold
		}
		if s.refuseWith != nil {
			return s.refuseWith
		}
		s.created.Add(1)
		s.requests.Store(args.(*identityv1.CreateGroupRequest).GetRequestId(), true)
		answer.Group = &identityv1.Group{GroupId: "g1"}
	case *identityv1.UpdateGroupResponse:
		return s.refuseWith
	case *identityv1.GetGroupResponse:
		answer.Group = &identityv1.Group{GroupId: "g1", DisplayName: "Of the others", Etag: "2"}
	default:
		if strings.Contains(method, "/List") || strings.Contains(method, "/Get") || strings.HasSuffix(method, "/SummarizeUsage") {
			return nil
		}
		return s.services.Invoke(ctx, method, args, reply, options...)
	}
	return nil
}

func startGroups(t *testing.T, s *groupServices) *Service {
	t.Helper()
	s.privileges = authn.AllPrivileges()
	console, err := New(Deps{Metering: s, Identity: s, Authenticator: s, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return console
}

func post(console http.Handler, path string, values url.Values, cookies ...*http.Cookie) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(values.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.AddCookie(&http.Cookie{Name: current.access, Value: "good"})
	for _, c := range cookies {
		r.AddCookie(c)
	}
	w := httptest.NewRecorder()
	console.ServeHTTP(w, r)
	return w
}

// What is sent twice is done once, and both are answered the same; what is sent changed, or by
// another form, is something else.
func TestAFormIsDoneOnce(t *testing.T) {
	s := &groupServices{}
	s.hold = make(chan struct{})
	console := startGroups(t, s)
	var sending sync.WaitGroup
	for range 20 {
		sending.Go(func() {
			if w := post(console, "/groups", url.Values{"form": {"f1"}, "display_name": {"Sales"}}); w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/groups/g1" {
				t.Errorf("answered %d to %q", w.Code, w.Header().Get("Location"))
			}
		})
	}
	close(s.hold)
	sending.Wait()
	if got := s.created.Load(); got != 1 {
		t.Errorf("it was done %d times", got)
	}
	post(console, "/groups", url.Values{"form": {"f2"}, "display_name": {"Sales"}})
	post(console, "/groups", url.Values{"form": {"f2"}, "display_name": {"Purchasing"}})
	ids := 0
	s.requests.Range(func(any, any) bool { ids++; return true })
	if got := s.created.Load(); got != 3 || ids != 3 {
		t.Errorf("done %d times with %d request ids", got, ids)
	}
}

// What was not done may be tried again, with what was typed kept and the field that is wrong named.
func TestAFormIsShownAgain(t *testing.T) {
	invalid, err := status.New(codes.InvalidArgument, "x").WithDetails(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
		{Field: "group.display_name", Description: "must not be <so>"}, {Field: "group.other[3]", Description: "is odd"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	s := &groupServices{refuseWith: invalid.Err()}
	console := startGroups(t, s)
	typed := url.Values{"form": {"f1"}, "display_name": {`"><script>`}}
	w := post(console, "/groups", typed)
	for _, want := range []string{`value="&#34;&gt;&lt;script&gt;"`, "must not be &lt;so&gt;", "other is odd", " autofocus aria-invalid=\"true\""} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("the page has not %q: %s", want, w.Body)
		}
	}
	if w.Code != http.StatusUnprocessableEntity {
		t.Errorf("answered %d", w.Code)
	}
	s.refuseWith = status.Error(codes.AlreadyExists, "there is one of that name")
	if body := post(console, "/groups", typed).Body.String(); !strings.Contains(body, `display-name-error">there is one of that name`) {
		t.Errorf("it is not said beside the name: %s", body)
	}
	s.refuseWith = nil
	if w := post(console, "/groups", typed); w.Code != http.StatusSeeOther {
		t.Errorf("tried again it is answered %d", w.Code)
	}
}

// Who was slower is told what is there now, and may send theirs again.
func TestAConflictIsExplained(t *testing.T) {
	s := &groupServices{refuseWith: status.Error(codes.Aborted, "changed")}
	console := startGroups(t, s)
	w := post(console, "/groups/g1", url.Values{"form": {"f1"}, "etag": {"1"}, "display_name": {"Mine"}})
	for _, want := range []string{"Somebody changed it meanwhile", "There is now: Of the others", `value="Mine"`, `name="etag" value="2"`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("the page has not %q: %s", want, w.Body)
		}
	}
	if w.Code != http.StatusConflict {
		t.Errorf("answered %d", w.Code)
	}
}

// What was changed while somebody got their own wrong is not overwritten by them unseen.
func TestARefusedFormIsOfWhatItWasFilledFrom(t *testing.T) {
	s := &groupServices{refuseWith: status.Error(codes.InvalidArgument, "will not do")}
	w := post(startGroups(t, s), "/groups/g1", url.Values{"form": {"f1"}, "etag": {"1"}, "display_name": {"Mine"}})
	if body := w.Body.String(); w.Code != http.StatusUnprocessableEntity || !strings.Contains(body, `name="etag" value="1"`) {
		t.Errorf("answered %d: %s", w.Code, body)
	}
}

// Every action is refused to whoever has not the privilege, by the console already, and asks
// nothing of a service.
func TestActionsAreRefusedWithoutPrivilege(t *testing.T) {
	s := &groupServices{}
	console := startGroups(t, s)
	for _, a := range actions {
		s.privileges = 0
		if a.may(0) {
			continue
		}
		path := strings.NewReplacer("{id}", "x", "{key}", "y").Replace(a.path)
		if w := post(console, path, url.Values{"form": {"f"}}); w.Code != http.StatusForbidden {
			t.Errorf("%s is answered %d", path, w.Code)
		}
	}
}

// A notice is said once, and is text whatever a cookie holds.
func TestNotices(t *testing.T) {
	console := startGroups(t, &groupServices{})
	answer := post(console, "/groups", url.Values{"form": {"f1"}, "display_name": {"Sales"}}).Result()
	var notice *http.Cookie
	for _, c := range answer.Cookies() {
		if c.Name == noticeCookie {
			notice = c
		}
	}
	if notice == nil || !notice.HttpOnly {
		t.Fatalf("the notice is %v", notice)
	}
	show := func(c *http.Cookie) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, "/groups", nil)
		r.AddCookie(&http.Cookie{Name: current.access, Value: "good"})
		r.AddCookie(c)
		w := httptest.NewRecorder()
		console.ServeHTTP(w, r)
		return w
	}
	w := show(notice)
	if !strings.Contains(w.Body.String(), "The group is there.") || !strings.Contains(w.Header().Get("Set-Cookie"), "Max-Age=0") {
		t.Errorf("%v: %s", w.Header(), w.Body)
	}
	for _, bad := range []string{url.QueryEscape("<script>alert(1)</script>"), "%ff%fe", "%"} {
		if body := show(&http.Cookie{Name: noticeCookie, Value: bad}).Body.String(); strings.Contains(body, "<script>alert") {
			t.Errorf("%q was shown as it is", bad)
		}
	}
}

// What was shown once is shown again to who reloads at once, and not later; it is done no second time.
func TestWhatIsShownOnce(t *testing.T) {
	now := time.Now()
	s := newSubmissions(func() time.Time { return now })
	did := 0
	do := func(context.Context) (outcome, error) {
		did++
		return outcome{next: "/keys", once: &once{Title: "secret"}}, nil
	}
	for _, step := range []struct {
		after  time.Duration
		secret bool
		did    int
	}{{0, true, 1}, {onceLife, true, 1}, {time.Second, false, 1}, {doneLife, false, 2}} {
		now = now.Add(step.after)
		got, err := s.run(t.Context(), submissionKey{1}, do)
		if err != nil || got.next != "/keys" || did != step.did || step.after < doneLife && (got.once != nil) != step.secret {
			t.Errorf("after %v: %+v, %v, done %d times", step.after, got, err, did)
		}
	}
	for i := range doneLimit + 10 {
		if _, err := s.run(t.Context(), submissionKey{2, byte(i), byte(i >> 8)}, do); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.known) > doneLimit+1 || len(s.order) > doneLimit+1 {
		t.Errorf("%d are remembered, in an order of %d", len(s.known), len(s.order))
	}
}
