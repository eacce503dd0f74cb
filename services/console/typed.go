package console

import (
	"crypto/rand"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// typedCookie holds the keys of what somebody typed, the last first, and typedAtOnce is how many: a browser may
	// have had forms open in several tabs.
	typedCookie = "cetrus-typed"
	typedAtOnce = 5
	// typedLife is how long it is kept for them to sign in again.
	typedLife = 30 * time.Minute
	// typedLimit and typedBytes bound how much is kept for all: the oldest goes first.
	typedLimit = 1000
	typedBytes = 16 << 20
	// byField is the login that a form was filled for.
	byField = "by"
)

// secretFields are what is never kept, and typed again.
var secretFields = []string{"password", "new_password", "client_secret", "code", "credential", "challenge_token"}

// typed keeps forms that were sent after their session had ended, so that who signs in again finds them as they
// were, and sends them anew: nothing is done by signing in. It is memory of this process alone; what is lost with
// it is typed again.
type typed struct {
	now func() time.Time

	mu    sync.Mutex
	known map[string]*typedForm
	order []string // the oldest first
	bytes int
}

// typedForm is one of them.
type typedForm struct {
	until time.Time
	// action is where it was sent, path the page that it stood on.
	action, path string
	values       url.Values
	bytes        int
}

func newTyped(now func() time.Time) *typed { return &typed{now: now, known: map[string]*typedForm{}} }

// keep keeps a form, and answers the key that leads to it.
func (t *typed) keep(f typedForm) string {
	f.until, f.bytes = t.now().Add(typedLife), len(f.values.Encode())
	key := rand.Text()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known[key], t.order, t.bytes = &f, append(t.order, key), t.bytes+f.bytes
	for len(t.order) > 0 && (len(t.known) > typedLimit || t.bytes > typedBytes || !t.now().Before(t.known[t.order[0]].until)) {
		t.drop(t.order[0])
	}
	return key
}

func (t *typed) drop(key string) {
	if f := t.known[key]; f != nil {
		delete(t.known, key)
		t.bytes -= f.bytes
		t.order = slices.DeleteFunc(t.order, func(other string) bool { return other == key })
	}
}

// of is what is kept under a key; nil where that is nothing any more.
func (t *typed) of(key string) *typedForm {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.known[key]; f != nil && t.now().Before(f.until) {
		return f
	}
	return nil
}

func (t *typed) forget(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop(key)
}

// keepTyped keeps what a form sends whose person is not signed in any more, but for secrets, and tells whether
// there was something. Other sites' forms do not come so far (routes).
func (s *Service) keepTyped(w http.ResponseWriter, r *http.Request, next string) bool {
	r.Body = http.MaxBytesReader(w, r.Body, maxFormBytes)
	if r.ParseForm() != nil || r.PostForm.Get(byField) == "" {
		return false
	}
	values := url.Values{}
	for name, all := range texts(r.PostForm) {
		if !slices.Contains(secretFields, name) {
			values[name] = all
		}
	}
	path, _, _ := strings.Cut(next, "?")
	// A draft is of the form that it tries.
	action := strings.TrimSuffix(r.URL.Path, "/draft")
	keys := []string{s.typed.keep(typedForm{action: action, path: path, values: values})}
	for _, key := range typedKeys(r) {
		if f := s.typed.of(key); f == nil || f.action == action || len(keys) == typedAtOnce {
			s.typed.forget(key)
			continue
		}
		keys = append(keys, key)
	}
	setTyped(w, r, keys)
	return true
}

func typedKeys(r *http.Request) []string {
	keys := strings.FieldsFunc(cookieOf(r, typedCookie), func(c rune) bool { return c == '.' })
	return keys[:min(len(keys), typedAtOnce)]
}

func setTyped(w http.ResponseWriter, r *http.Request, keys []string) {
	cookie := &http.Cookie{ //nolint:gosec // as those of the session
		Name: cookieName(r, typedCookie), Value: strings.Join(keys, "."), Path: "/", MaxAge: int(typedLife / time.Second), Secure: secure(r), HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	if len(keys) == 0 {
		cookie.MaxAge = -1
	}
	http.SetCookie(w, cookie)
}

// showTyped has the page of a form that could not be sent show it as it was, to whom it is of; what it answers is
// called when the page is made.
func (s *Service) showTyped(v *visit) (made func()) {
	keys := typedKeys(v.r)
	for i, key := range keys {
		f := s.typed.of(key)
		if f == nil || f.path != v.r.URL.Path || f.values.Get(byField) != v.caller.Login.String() || v.r.Header.Get("Hx-Request") != "" {
			continue
		}
		v.refused = &refusal{action: f.action, values: f.values, st: status.New(codes.OK, ""), late: true}
		return func() {
			if v.refused.shown {
				s.typed.forget(key)
				setTyped(v.w, v.r, slices.Delete(keys, i, i+1))
			}
		}
	}
	return func() {}
}
