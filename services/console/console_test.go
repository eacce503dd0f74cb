package console

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// services answer as identity would, as far as tests ask; whatever else is asked is not there.
type services struct {
	refreshed atomic.Int64
	refuse    atomic.Int64 // a code of gRPC that refreshing ends with
	hold      chan struct{}
	// privileges are those of whoever comes with a good token.
	privileges authn.Privileges
}

func (s *services) Invoke(_ context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	if !strings.HasSuffix(method, "/RefreshSession") {
		return status.Error(codes.Unimplemented, method)
	}
	s.refreshed.Add(1)
	if s.hold != nil {
		<-s.hold
	}
	if code := codes.Code(s.refuse.Load()); code != codes.OK {
		return status.Error(code, "refused")
	}
	token := args.(*identityv1.RefreshSessionRequest).GetRefreshToken()
	reply.(*identityv1.RefreshSessionResponse).Tokens = &identityv1.Tokens{
		AccessToken: "good", AccessTokenExpireTime: timestamppb.New(time.Now().Add(time.Minute)),
		RefreshToken: token + "'", RefreshTokenExpireTime: timestamppb.New(time.Now().Add(time.Hour)),
	}
	return nil
}

func (s *services) NewStream(_ context.Context, _ *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, method)
}

func (s *services) Authenticate(_ context.Context, key string) (authn.Caller, error) {
	if key != "good" {
		return authn.Caller{}, errs.New(errs.Unauthenticated, "test", "", "expired")
	}
	return authn.Caller{Account: contract.ID{1}, Login: contract.ID{2}, Privileges: s.privileges}, nil
}

func start(t *testing.T, s *services) *Service {
	t.Helper()
	console, err := New(Deps{Metering: s, Identity: s, Authenticator: s, Logger: nil})
	if err != nil {
		t.Fatal(err)
	}
	return console
}

func get(console http.Handler, path string, cookies ...*http.Cookie) *http.Response {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for _, c := range cookies {
		r.AddCookie(c)
	}
	w := httptest.NewRecorder()
	console.ServeHTTP(w, r)
	return w.Result()
}

// A refresh token is used once, however many parts of a page come with it at the same time, and
// all of them get in.
func TestRefreshTokensAreUsedOnce(t *testing.T) {
	s := &services{hold: make(chan struct{})}
	console := start(t, s)
	const visitors = 20
	var visiting sync.WaitGroup
	var let atomic.Int64
	for range visitors {
		visiting.Go(func() {
			answer := get(console, "/nowhere", &http.Cookie{Name: current.access, Value: "old"}, &http.Cookie{Name: current.refresh, Value: "r1"})
			for _, c := range answer.Cookies() {
				if c.Name == current.refresh && c.Value == "r1'" {
					let.Add(1)
				}
			}
		})
	}
	close(s.hold)
	visiting.Wait()
	if got := s.refreshed.Load(); got != 1 {
		t.Errorf("the token was used %d times", got)
	}
	if got := let.Load(); got != visitors {
		t.Errorf("%d of %d have the new token", got, visitors)
	}
}

// What fails for a moment takes nobody's session away; what has ended sends them to sign in.
func TestWhatEndsASession(t *testing.T) {
	s := &services{}
	console := start(t, s)
	cookies := []*http.Cookie{{Name: current.access, Value: "old"}, {Name: current.refresh, Value: "r1"}}
	lost := func(answer *http.Response) bool {
		for _, c := range answer.Cookies() {
			if c.Name == current.refresh && c.MaxAge < 0 {
				return true
			}
		}
		return false
	}
	s.refuse.Store(int64(codes.Unavailable))
	if answer := get(console, "/now", cookies...); answer.StatusCode != http.StatusServiceUnavailable || lost(answer) {
		t.Errorf("identity away: answered %d, session lost: %v", answer.StatusCode, lost(answer))
	}
	s.refuse.Store(int64(codes.Unauthenticated))
	answer := get(console, "/now?x=1", cookies...)
	if answer.StatusCode != http.StatusSeeOther || answer.Header.Get("Location") != "/sign-in?next="+url.QueryEscape("/now?x=1") || !lost(answer) {
		t.Errorf("session ended: answered %d to %q, session lost: %v", answer.StatusCode, answer.Header.Get("Location"), lost(answer))
	}
}

// Cookies are bound to HTTPS where the browser came by it, and no script reads them.
func TestCookies(t *testing.T) {
	for _, secure := range []bool{true, false} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if secure {
			r.Header.Set("X-Forwarded-Proto", "https")
		}
		w := httptest.NewRecorder()
		keep(w, r, current, &identityv1.Tokens{AccessToken: "a", RefreshToken: "r", AccessTokenExpireTime: timestamppb.Now(), RefreshTokenExpireTime: timestamppb.Now()})
		cookies := w.Result().Cookies()
		if len(cookies) != 2 {
			t.Fatalf("%d cookies", len(cookies))
		}
		for _, c := range cookies {
			if c.Secure != secure || strings.HasPrefix(c.Name, securePrefix) != secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
				t.Errorf("secure %v: %+v", secure, c)
			}
		}
	}
}

// Another site's forms change nothing, whatever cookies come with them.
func TestOtherSitesChangeNothing(t *testing.T) {
	s := &services{}
	console := start(t, s)
	paths := []string{"/sign-in", "/sign-in/challenge", "/sign-in/single-sign-on", "/forgotten-password", resetPath, invitePath, "/switch", "/sign-out"}
	for _, a := range actions {
		paths = append(paths, a.path)
	}
	for _, path := range paths {
		for name, value := range map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://elsewhere.invalid"} {
			r := httptest.NewRequest(http.MethodPost, path, strings.NewReader("account=a&login=b&password=c"))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set(name, value)
			r.AddCookie(&http.Cookie{Name: current.access, Value: "good"})
			w := httptest.NewRecorder()
			console.ServeHTTP(w, r)
			if w.Code != http.StatusForbidden || len(w.Result().Cookies()) > 0 {
				t.Errorf("%s with %s: %s was answered %d", path, name, value, w.Code)
			}
		}
	}
}

// A text that is cut is still one, and what is none is refused in words.
func TestWhatIsNoText(t *testing.T) {
	for _, reason := range []string{strings.Repeat("ä", maxReason+1), "\xff\xfe"} {
		v := &visit{r: httptest.NewRequest(http.MethodGet, "/use?"+url.Values{reasonParameter: {reason}}.Encode(), nil)}
		if got := v.reason(); !utf8.ValidString(got) || utf8.RuneCountInString(got) != utf8.RuneCountInString(reason[:min(len(reason), 2*maxReason)]) {
			t.Errorf("%q became %q", reason, got)
		}
	}
	console := start(t, &services{privileges: authn.AllPrivileges()})
	if answer := get(console, "/use?application=%ff", &http.Cookie{Name: current.access, Value: "good"}); answer.StatusCode != http.StatusBadRequest {
		t.Errorf("answered %d", answer.StatusCode)
	}
}

// Where a reason is asked for, the page that says so takes one, and asks for the same again.
func TestAReasonCanBeGiven(t *testing.T) {
	console := start(t, &services{})
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/use?by=person&reason=", nil)
	console.fail(&visit{ctx: t.Context(), w: w, r: r}, errs.InvalidFields("test", "", errs.Field{Path: reasonParameter, Description: "is needed"}))
	body := w.Body.String()
	if !strings.Contains(body, `<input type="hidden" name="by" value="person">`) || strings.Count(body, `name="reason"`) != 1 || !strings.Contains(body, "Why named people are looked at</a> is needed") {
		t.Errorf("answered %d: %s", w.Code, body)
	}
}

// A service that cannot be reached is not told by its address.
func TestNoAddressesInside(t *testing.T) {
	for _, err := range []error{status.Error(codes.Unavailable, "dial tcp 10.1.2.3:7000"), fmt.Errorf("outer: %w", status.Error(codes.Unavailable, "dial tcp 10.1.2.3:7000"))} {
		st := statusOf(err)
		if st.Code() != codes.Unavailable || strings.Contains(st.Message(), "10.1.2.3") {
			t.Errorf("%v is told as %v", err, st)
		}
	}
}

// A day begins at the first moment that bears its date, also where there is no midnight.
func TestDaysBegin(t *testing.T) {
	for date, want := range map[string]string{
		"America/Santiago 2026-09-06": "2026-09-06T04:00:00Z", // the clock goes from 00:00 to 01:00
		"America/Santiago 2026-09-07": "2026-09-07T03:00:00Z",
		"Europe/Vienna 2026-03-29":    "2026-03-28T23:00:00Z",
		"Asia/Beirut 2026-03-29":      "2026-03-28T22:00:00Z", // and here
	} {
		name, date, _ := strings.Cut(date, " ")
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		on, err := time.Parse(day, date)
		if err != nil {
			t.Fatal(err)
		}
		if got := begins(on, zone).UTC().Format(time.RFC3339); got != want {
			t.Errorf("%s in %s begins at %s, not %s", date, name, got, want)
		}
	}
}

// Every answer forbids what is not of this origin, and scripts within pages.
func TestEveryAnswerHasItsPolicy(t *testing.T) {
	console := start(t, &services{})
	for _, path := range []string{"/", "/sign-in", "/now", "/nowhere", console.assets.addresses["console.js"], assetsPath + "x"} {
		if got := get(console, path).Header.Get("Content-Security-Policy"); got != policy {
			t.Errorf("%s is answered with the policy %q", path, got)
		}
	}
	for _, unsafe := range []string{"unsafe-inline", "unsafe-eval", "*", "http:"} {
		if strings.Contains(policy, unsafe) {
			t.Errorf("the policy holds %q", unsafe)
		}
	}
}

// Whatever a link says, a sign-in leads to a page of the console.
func FuzzNextAfter(f *testing.F) {
	for _, next := range []string{"/now", "/use?by=day", "//elsewhere.invalid", "https://elsewhere.invalid/now", `/\elsewhere.invalid`, "/now/../../x", "javascript:alert(1)", "/\t/elsewhere.invalid", ""} {
		f.Add(next)
	}
	f.Fuzz(func(t *testing.T, next string) {
		got := nextAfter(next)
		u, err := url.Parse(got)
		if err != nil || u.IsAbs() || u.Host != "" {
			t.Fatalf("%q leads to %q", next, got)
		}
		if u.Path == "/" {
			return
		}
		for i := range pages {
			if list, _, _ := strings.Cut(pages[i].path, "{"); u.Path == pages[i].path || list != pages[i].path && strings.HasPrefix(u.Path, list) {
				return
			}
		}
		for i := range actions {
			if ok, err := path.Match(wild.Replace(actions[i].path), u.Path); ok && err == nil {
				return
			}
		}
		t.Fatalf("%q leads to %q, which is no page", next, got)
	})
}

// What a browser kept of an attempt comes back as it was, and whatever else it brings leads to a page of
// the console.
func FuzzAttempts(f *testing.F) {
	f.Add("console.L25vdw.key", "/now")
	f.Add("console.", "/use?by=day")
	f.Add("console.Ly9lbHNld2hlcmUuaW52YWxpZA.x.y", "/"+strings.Repeat("x", maxKeptNext))
	f.Add("of the gateway", "//elsewhere.invalid")
	f.Fuzz(func(t *testing.T, cookie, next string) {
		if got, _, _ := readAttempt(cookie); got != nextAfter(got) {
			t.Fatalf("%q leads to %q", cookie, got)
		}
		kept := attemptOf(nextAfter(next), "a.key")
		got, key, ok := readAttempt(kept)
		if want := nextAfter(next); !ok || key != "a.key" || got != want && len(want) <= maxKeptNext {
			t.Fatalf("%q was kept, and %q, %q, %v read", want, got, key, ok)
		}
	})
}

// What a browser sends of a passkey is one, or refused in words.
func FuzzProofs(f *testing.F) {
	for _, text := range []string{"", "{}", `{"challenge_token":"x","credential":{"id":"y","response":{}}}`, `{"credential":1}`, "null", "[", `{"challenge_token":"\xff"}`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		proof, err := proofOf(text)
		if err != nil && !errs.Is(errs.Invalid, err) || err == nil && (proof == nil) != (text == "") {
			t.Fatalf("%q is read as %v, %v", text, proof, err)
		}
	})
}
