package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/rpc"
)

// Where browsers begin and end a single sign-on.
const (
	singleSignOnStart    = "/v1/singleSignOn:start"
	singleSignOnCallback = "/v1/singleSignOn/{account_id}/callback"
)

// forBrowsers answers GET alone: whoever only looks whether an address is there must not use up
// what it stands for.
func forBrowsers(next http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", "GET")
			writeError(w, http.StatusMethodNotAllowed, errs.New(errs.Unimplemented, "gateway", r.Method+" "+r.URL.Path, "this path is for browsers, which GET it"))
			return
		}
		next(w, r)
	})
}

// startSingleSignOn sends a browser to its account's identity provider. Nothing in the request
// says where it goes from there: it comes back to the callback, and to nowhere else.
func (s *Service) startSingleSignOn(w http.ResponseWriter, r *http.Request) {
	query, err := onlyQuery(r, "account_name")
	if err != nil {
		writeError(w, 0, err)
		return
	}
	client := identityv1.NewSingleSignOnServiceClient(s.deps.Identity)
	started, err := client.StartSingleSignOn(withCredentials(r.Context(), r), &identityv1.StartSingleSignOnRequest{AccountName: query.Get("account_name")})
	if err != nil {
		writeError(w, 0, err)
		return
	}
	life := time.Until(started.GetExpireTime().AsTime())
	setBrowserCookie(w, strings.HasPrefix(started.GetRedirectUrl(), "https://"), started.GetBrowserKey(), max(int(life/time.Second), 1))
	w.Header().Set("Location", started.GetAuthorizationUrl())
	w.WriteHeader(http.StatusFound)
}

// completeSingleSignOn takes a browser that comes back, and answers as SignIn does. An attempt that
// the console began is the console's to end: whoever is at it sees pages.
func (s *Service) completeSingleSignOn(w http.ResponseWriter, r *http.Request) {
	if s.deps.Console != nil && !begunHere(r) {
		s.deps.Console.ServeHTTP(w, r)
		return
	}
	// An attempt has one end, however it goes.
	setBrowserCookie(w, true, "", -1)
	setBrowserCookie(w, false, "", -1)
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		writeError(w, 0, errs.As(errs.Invalid, "gateway.completeSingleSignOn", "", "the query part of the address is malformed", err))
		return
	}
	for name, values := range query { // two of one could mean two things to two readers
		if len(values) > 1 {
			writeError(w, 0, errs.InvalidFields("gateway.completeSingleSignOn", "", errs.Field{Path: name, Description: "is there more than once"}))
			return
		}
	}
	in := &identityv1.CompleteSingleSignOnRequest{
		AccountId: r.PathValue("account_id"), State: query.Get("state"), Code: query.Get("code"), Issuer: query.Get("iss"), Error: query.Get("error"),
	}
	for _, name := range []string{rpc.AttemptCookie, rpc.AttemptCookiePlain} {
		if cookie, err := r.Cookie(name); err == nil && in.GetBrowserKey() == "" {
			in.BrowserKey, in.PlainCookie = cookie.Value, name == rpc.AttemptCookiePlain
		}
	}
	client := identityv1.NewSingleSignOnServiceClient(s.deps.Identity)
	done, err := client.CompleteSingleSignOn(withCredentials(r.Context(), r), in)
	if err != nil {
		writeError(w, 0, err)
		return
	}
	writeMessage(w, done.GetSignIn())
}

// begunHere tells whether this gateway began the browser's attempt, and not the console.
func begunHere(r *http.Request) bool {
	for _, name := range []string{rpc.AttemptCookie, rpc.AttemptCookiePlain} {
		if cookie, err := r.Cookie(name); err == nil {
			_, console := rpc.OfConsoleAttempt(cookie.Value)
			return !console
		}
	}
	return false
}

// setBrowserCookie keeps a value in the browser, or with a negative age takes it back. Lax,
// since the browser comes back from another site.
func setBrowserCookie(w http.ResponseWriter, secure bool, value string, maxAgeSeconds int) {
	name := rpc.AttemptCookiePlain
	if secure {
		name = rpc.AttemptCookie
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // not Secure only where the whole platform is reached in plain, on one machine
		Name: name, Value: value, Path: "/", MaxAge: maxAgeSeconds, Secure: secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

// onlyQuery reads a query that has each of these parameters once, and no others.
func onlyQuery(r *http.Request, names ...string) (url.Values, error) {
	const op = "gateway.onlyQuery"
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, errs.As(errs.Invalid, op, "", "the query part of the address is malformed", err)
	}
	var wrong []errs.Field
	for name := range query {
		if !slices.Contains(names, name) {
			wrong = append(wrong, errs.Field{Path: name, Description: "is not a query parameter of this address; it takes " + strings.Join(names, ", ")})
		}
	}
	for _, name := range names {
		if len(query[name]) != 1 {
			wrong = append(wrong, errs.Field{Path: name, Description: "is needed once"})
		}
	}
	if len(wrong) > 0 {
		return nil, errs.InvalidFields(op, "", wrong...)
	}
	return query, nil
}

func writeMessage(w http.ResponseWriter, m proto.Message) {
	body, err := marshaling.Marshal(m)
	if err != nil {
		writeError(w, 0, err)
		return
	}
	static("application/json", append(body, '\n')).ServeHTTP(w, nil)
}
