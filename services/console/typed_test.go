package console

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// lateForm is what comes of a form that is sent after its session has ended: the address of the sign-in, and the
// key of what was typed.
func lateForm(t *testing.T, console http.Handler, path, from string, values url.Values, header ...string) (address *url.URL, key *http.Cookie) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(values.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Referer", "http://"+r.Host+from)
	r.AddCookie(&http.Cookie{Name: current.refresh, Value: "r1"})
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	console.ServeHTTP(w, r)
	to := w.Header().Get("Location") + w.Header().Get("Hx-Redirect")
	address, err := url.Parse(to)
	if err != nil || address.Path != "/sign-in" {
		t.Fatalf("%s is answered %d, and leads to %q", path, w.Code, to)
	}
	for _, c := range w.Result().Cookies() {
		if c.Name == typedCookie && c.MaxAge > 0 {
			key = c
		}
	}
	return address, key
}

// Who sends a form after their session has ended signs in again and finds it as it was, on the page where it was;
// nothing is done meanwhile, no secret is kept, and nobody else finds it.
func TestAFormThatWasSentTooLateIsKept(t *testing.T) {
	s := &groupServices{}
	s.refuse.Store(int64(codes.Unauthenticated))
	console := startGroups(t, s)
	me := contract.ID{2}.String()
	address, key := lateForm(t, console, "/groups", "/groups?page=two", url.Values{"form": {"f1"}, "by": {me}, "display_name": {"<Sales>"}, "password": {"hidden"}})
	if address.Query().Get("next") != "/groups?page=two" || !address.Query().Has(typedParameter) || key == nil || !key.HttpOnly {
		t.Fatalf("it leads to %v with %v", address, key)
	}
	r := httptest.NewRequest(http.MethodGet, address.String(), nil)
	w := httptest.NewRecorder()
	console.ServeHTTP(w, r)
	if !strings.Contains(w.Body.String(), "data-typed") {
		t.Errorf("the sign-in does not say that it is kept: %s", w.Body)
	}
	show := func(path string) string {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.AddCookie(&http.Cookie{Name: current.access, Value: "good"})
		r.AddCookie(key)
		w := httptest.NewRecorder()
		console.ServeHTTP(w, r)
		return w.Body.String()
	}
	if body := show("/people"); strings.Contains(body, "data-late") {
		t.Error("another page shows it")
	}
	body := show("/groups?page=two")
	if !strings.Contains(body, "data-late") || !strings.Contains(body, `value="&lt;Sales&gt;"`) || strings.Contains(body, "hidden\"><") || s.created.Load() != 0 {
		t.Errorf("after signing in, created %d: %s", s.created.Load(), body)
	}
	if body := show("/groups"); strings.Contains(body, "data-late") {
		t.Error("it is shown twice")
	}
	for name, values := range map[string]url.Values{"another's": {"by": {contract.ID{3}.String()}}, "nobody's": {}} {
		values.Set("display_name", "Sales")
		if _, key = lateForm(t, console, "/groups", "/groups", values); key != nil && strings.Contains(show("/groups"), "data-late") {
			t.Errorf("%s form is shown to me", name)
		}
	}
}

// Of forms in several tabs each is found on its page, and of one that was sent twice the last.
func TestFormsOfSeveralTabsAreKept(t *testing.T) {
	s := &fullServices{}
	s.privileges = authn.AllPrivileges()
	console, err := New(Deps{Metering: s, Identity: s, Authenticator: s, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	cookie := ""
	take := func(w *httptest.ResponseRecorder) {
		for _, c := range w.Result().Cookies() {
			if c.Name == typedCookie {
				cookie = c.Name + "=" + c.Value
			}
		}
	}
	send := func(path, name string) {
		r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(url.Values{"by": {contract.ID{2}.String()}, "display_name": {name}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Cookie", cookie)
		w := httptest.NewRecorder()
		console.toSignIn(w, r)
		take(w)
	}
	show := func(path string) string {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.Header.Set("Cookie", cookie+"; "+current.access+"=good")
		w := httptest.NewRecorder()
		console.ServeHTTP(w, r)
		take(w)
		return w.Body.String()
	}
	send("/groups", "at first")
	send("/groups/x", "one of them")
	send("/groups", "in the end")
	for _, c := range []struct{ path, want, not string }{
		{"/groups", `value="in the end"`, "at first"}, {"/groups", "", "data-late"}, {"/groups/x", `value="one of them"`, "in the end"}, {"/groups/x", "", "data-late"},
	} {
		if body := show(c.path); !strings.Contains(body, c.want) || strings.Contains(body, c.not) {
			t.Errorf("%s is shown without %q, or with %q", c.path, c.want, c.not)
		}
	}
	if cookie != typedCookie+"=" {
		t.Errorf("what is left is %q", cookie)
	}
}

// What stands on a page of its own comes back there, what was being tried in the editor as the editor's, and
// what renews itself takes nobody away.
func TestWhereALateFormComesBack(t *testing.T) {
	s := &fullServices{}
	s.privileges = authn.AllPrivileges()
	console, err := New(Deps{Metering: s, Identity: s, Authenticator: s, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	me := contract.ID{2}.String()
	for _, c := range []struct{ sent, from, next, shows string }{
		{"/groups/x", "/groups/x", "/groups/x", `value="typed here"`},
		{"/saved-reports/new", "/saved-reports/new?of=%2Fuse", "/saved-reports/new?of=%2Fuse", `value="typed here"`},
		{"/people/x/delete", "/elsewhere", "/people/x/delete", "data-late"},
		{"/applications/x/draft", "/applications/x", "/applications/x", `value="typed here"`},
	} {
		r := httptest.NewRequest(http.MethodPost, c.sent, strings.NewReader(url.Values{"by": {me}, "display_name": {"typed here"}, ofField: {"/use"}}.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Referer", "http://"+r.Host+c.from)
		w := httptest.NewRecorder()
		console.toSignIn(w, r)
		to, _ := url.Parse(w.Header().Get("Location"))
		if to.Query().Get("next") != c.next {
			t.Errorf("%s leads back to %q", c.sent, to.Query().Get("next"))
			continue
		}
		r = httptest.NewRequest(http.MethodGet, c.next, nil)
		r.AddCookie(&http.Cookie{Name: current.access, Value: "good"})
		for _, cookie := range w.Result().Cookies() {
			if cookie.Name == typedCookie {
				r.AddCookie(cookie)
			}
		}
		w = httptest.NewRecorder()
		console.ServeHTTP(w, r)
		if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), c.shows) {
			t.Errorf("%s shows no %q (%d)", c.next, c.shows, w.Code)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/applications/x/rollout", nil)
	r.Header.Set("Hx-Request", "true")
	r.Header.Set("Hx-Trigger", rolloutID)
	w := httptest.NewRecorder()
	console.ServeHTTP(w, r)
	if w.Code != http.StatusUnauthorized || w.Header().Get("Hx-Redirect") != "" {
		t.Errorf("what renews itself is answered %d and leads to %q", w.Code, w.Header().Get("Hx-Redirect"))
	}
}

// Every field for a secret is one that is not kept.
func TestSecretsAreNotKept(t *testing.T) {
	s := &fullServices{}
	s.privileges = authn.AllPrivileges()
	console, err := New(Deps{Metering: s, Identity: s, Authenticator: s, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	secret := regexp.MustCompile(`<input[^>]* type="password"[^>]* name="([^"]+)"`)
	found := 0
	for _, p := range slices.Concat(pathsOf(pages, func(p page) string { return p.path }), pathsOf(actions, func(a action) string { return a.path })) {
		if p == "/now" {
			continue
		}
		r := httptest.NewRequest(http.MethodGet, strings.NewReplacer("{id}", "x", "{token}", "y").Replace(p), nil)
		r.AddCookie(&http.Cookie{Name: current.access, Value: "good"})
		w := httptest.NewRecorder()
		console.ServeHTTP(w, r)
		for _, m := range secret.FindAllStringSubmatch(w.Body.String(), -1) {
			found++
			if !slices.Contains(secretFields, m[1]) {
				t.Errorf("%s has the secret %q, which is kept", p, m[1])
			}
		}
	}
	if found == 0 {
		t.Error("no page asks for a secret")
	}
}

func pathsOf[T any](all []T, path func(T) string) (paths []string) {
	for _, one := range all {
		paths = append(paths, path(one))
	}
	return paths
}

// What is kept ends with its time, and has its bounds.
func TestTypedIsBounded(t *testing.T) {
	now := time.Now()
	kept := newTyped(func() time.Time { return now })
	first := kept.keep(typedForm{values: url.Values{"a": {"b"}}})
	if now = now.Add(typedLife); kept.of(first) != nil {
		t.Error("it is kept for ever")
	}
	for range 2 * typedLimit {
		kept.keep(typedForm{values: url.Values{"a": {strings.Repeat("x", typedBytes/typedLimit*2)}}})
	}
	if sum := kept.bytes; sum > typedBytes || len(kept.known) != len(kept.order) || len(kept.known) == 0 {
		t.Errorf("%d are kept with %d bytes", len(kept.known), sum)
	}
}
