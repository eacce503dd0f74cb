package gateway_test

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/gateway"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/rpc"
)

const callback = "/v1/singleSignOn/" + someID + "/callback"

func (b *backend) StartSingleSignOn(_ context.Context, req *identityv1.StartSingleSignOnRequest) (*identityv1.StartSingleSignOnResponse, error) {
	base, known := map[string]string{"works": "https://cetrus.example.com", "plain": "http://127.0.0.1:8080"}[req.GetAccountName()]
	if !known {
		return nil, errs.New(errs.Precondition, "test", "", "no such account").WithReason("SINGLE_SIGN_ON_OFF")
	}
	return &identityv1.StartSingleSignOnResponse{
		AuthorizationUrl: "https://login.example.com/authorize?state=1", RedirectUrl: base + callback, BrowserKey: "kept-by-the-browser",
		ExpireTime: timestamppb.New(time.Now().Add(10 * time.Minute)),
	}, nil
}

func (b *backend) CompleteSingleSignOn(_ context.Context, req *identityv1.CompleteSingleSignOnRequest) (*identityv1.CompleteSingleSignOnResponse, error) {
	if req.GetBrowserKey() != "kept-by-the-browser" && req.GetBrowserKey() != "kept-in-plain" || req.GetPlainCookie() != (req.GetBrowserKey() == "kept-in-plain") || req.GetAccountId() != someID || req.GetState() != "s" || req.GetCode() != "c" || req.GetIssuer() != "i" {
		return nil, errs.New(errs.Unauthenticated, "test", "", "refused").WithReason("SINGLE_SIGN_ON_REFUSED")
	}
	return &identityv1.CompleteSingleSignOnResponse{SignIn: &identityv1.SignInResponse{
		Outcome: identityv1.SignInOutcome_SIGN_IN_OUTCOME_SIGNED_IN, Tokens: &identityv1.Tokens{AccessToken: "access"},
	}}, nil
}

// browse asks as a browser does that follows nothing.
func (f *fixture) browse(method, path string, cookies ...*http.Cookie) *http.Response {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.url+path, http.NoBody)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, c := range cookies {
		req.AddCookie(c)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func TestBrowsersGoToTheirProvider(t *testing.T) {
	f := start(t)
	for account, secure := range map[string]bool{"works": true, "plain": false} {
		resp := f.browse("GET", "/v1/singleSignOn:start?account_name="+account)
		if resp.StatusCode != http.StatusFound || resp.Header.Get("Location") != "https://login.example.com/authorize?state=1" || resp.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %s %v", account, resp.Status, resp.Header)
		}
		kept := resp.Cookies()
		if len(kept) != 1 || kept[0].Value != "kept-by-the-browser" || !kept[0].HttpOnly || kept[0].SameSite != http.SameSiteLaxMode || kept[0].Secure != secure ||
			strings.HasPrefix(kept[0].Name, "__Host-") != secure || kept[0].Path != "/" || kept[0].Domain != "" || kept[0].MaxAge < 1 || kept[0].MaxAge > 600 {
			t.Errorf("%s: the browser keeps %v", account, kept)
		}
	}
	// Nothing that a stranger writes into the address says where it goes.
	for _, more := range []string{"&return_to=https://evil.example", "&redirect_uri=https://evil.example", "&account_name=plain", ""} {
		query := "?account_name=works" + more
		if more == "" {
			query = ""
		}
		if resp := f.browse("GET", "/v1/singleSignOn:start"+query); resp.StatusCode != http.StatusBadRequest || resp.Header.Get("Location") != "" || len(resp.Cookies()) > 0 {
			t.Errorf("%q: %s %v", query, resp.Status, resp.Header)
		}
	}
	if resp := f.browse("GET", "/v1/singleSignOn:start?account_name=nobody"); resp.StatusCode != http.StatusBadRequest || len(resp.Cookies()) > 0 {
		t.Errorf("no such account: %s", resp.Status)
	}
}

func TestBrowsersComeBack(t *testing.T) {
	f := start(t)
	// The service is told of a cookie that other hosts can write.
	for name, value := range map[string]string{"__Host-cetrus-sign-in": "kept-by-the-browser", "cetrus-sign-in": "kept-in-plain"} {
		kept := &http.Cookie{Name: name, Value: value}
		for query, status := range map[string]int{
			"?state=s&code=c&iss=i": 200, "?state=s&code=c&iss=i&session_state=7": 200, "?state=s&code=c&iss=x": 401, "?state=s&state=t&code=c&iss=i": 400,
			"?code=%zz": 400, "": 401, "?error=" + strings.Repeat("x", 300): 400,
		} {
			resp := f.browse("GET", callback+query, kept)
			ended := 0
			for _, c := range resp.Cookies() {
				if c.MaxAge < 0 && c.Value == "" {
					ended++
				}
			}
			if resp.StatusCode != status || ended != 2 || resp.Header.Get("Cache-Control") != "no-store" || resp.Header.Get("Referrer-Policy") != "no-referrer" {
				t.Errorf("%s: %s %v", query, resp.Status, resp.Header)
			}
		}
	}
	if resp := f.browse("GET", callback+"?state=s&code=c&iss=i"); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("a browser that kept nothing: %s", resp.Status)
	}
	for _, method := range []string{"HEAD", "POST"} {
		if resp := f.browse(method, callback+"?state=s&code=c&iss=i", &http.Cookie{Name: "cetrus-sign-in", Value: "kept-by-the-browser"}); resp.StatusCode != http.StatusMethodNotAllowed || len(resp.Cookies()) > 0 {
			t.Errorf("%s: %s", method, resp.Status)
		}
	}
}

// An attempt that the console began comes back to the console, and one that was begun here stays here.
func TestAttemptsOfTheConsole(t *testing.T) {
	f := start(t, func(_ *gateway.Config, d *gateway.Deps) {
		d.Console = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	})
	for value, want := range map[string]int{"": http.StatusTeapot, rpc.ConsoleAttempt("kept-by-the-browser"): http.StatusTeapot, "kept-by-the-browser": http.StatusOK} {
		var cookies []*http.Cookie
		if value != "" {
			cookies = append(cookies, &http.Cookie{Name: rpc.AttemptCookie, Value: value})
		}
		if resp := f.browse("GET", callback+"?state=s&code=c&iss=i", cookies...); resp.StatusCode != want {
			t.Errorf("%q: %s", value, resp.Status)
		}
	}
	for _, path := range []string{"/reset-password", "/accept-invitation"} {
		if resp := f.browse("GET", path+"?token=x"); resp.StatusCode != http.StatusTeapot {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}
