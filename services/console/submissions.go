package console

import (
	"context"
	"crypto/sha256"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	// doneLife is how long it is remembered that a form was done, onceLife what was shown then.
	doneLife = time.Hour
	onceLife = 2 * time.Minute
	// doneLimit bounds how many are remembered: the oldest go first.
	doneLimit = 10_000
	// actLimit is how long an action may take that nobody waits for any more.
	actLimit = time.Minute
)

// submissionKey tells forms apart, by who sends what to where.
type submissionKey [sha256.Size]byte

// keyOf is the same for what one form sends twice, and another one for what it sends changed.
func keyOf(v *visit, f *sent) submissionKey {
	hash := sha256.New()
	hash.Write(v.caller.Account[:])
	hash.Write(v.caller.Login[:])
	hash.Write([]byte(v.r.URL.Path + "\n" + f.values.Encode()))
	var key submissionKey
	hash.Sum(key[:0])
	return key
}

// requestID is a UUID for the contract's request ids.
func (k submissionKey) requestID() string {
	id := uuid.UUID(k[:16])
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80 // version 8 of RFC 9562: of one's own making
	return id.String()
}

// submissions have each form done once, however often it is sent: a second click waits for the
// first, and is answered the same.
type submissions struct {
	now func() time.Time

	mu    sync.Mutex
	known map[submissionKey]*submission
	order []submissionKey // the oldest first
}

type submission struct {
	began time.Time
	done  chan struct{}
	// outcome and err may be read once done is closed.
	outcome outcome
	err     error
}

func newSubmissions(now func() time.Time) *submissions {
	return &submissions{now: now, known: map[submissionKey]*submission{}}
}

func (s *submissions) run(ctx context.Context, key submissionKey, do func(context.Context) (outcome, error)) (outcome, error) {
	now := s.now()
	s.mu.Lock()
	s.forget(now)
	running, again := s.known[key]
	if !again {
		running = &submission{began: now, done: make(chan struct{})}
		s.known[key] = running
		s.order = append(s.order, key)
	}
	s.mu.Unlock()
	if !again {
		s.begin(ctx, key, running, do)
	}
	select {
	case <-running.done:
	case <-ctx.Done():
		return outcome{}, errs.Wrap("console.form", "", ctx.Err())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return running.outcome, running.err
}

func (s *submissions) begin(ctx context.Context, key submissionKey, running *submission, do func(context.Context) (outcome, error)) {
	// A browser gives up what it asked first when it asks again.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), actLimit)
	defer cancel()
	running.err = errs.New(errs.Internal, "console.form", "", "it did not end")
	defer func() {
		if running.err != nil {
			s.mu.Lock()
			delete(s.known, key) // it may be tried again
			s.mu.Unlock()
		}
		close(running.done)
	}()
	running.outcome, running.err = do(ctx)
}

// forget drops what is too old, or too much, and what was shown once.
func (s *submissions) forget(now time.Time) {
	kept := s.order[:0]
	for i, key := range s.order {
		one, there := s.known[key]
		if !there {
			continue
		}
		age := now.Sub(one.began)
		if age > doneLife || len(s.order)-i > doneLimit {
			delete(s.known, key)
			continue
		}
		if age > onceLife && one.over() && one.outcome.once != nil {
			one.outcome = outcome{next: one.outcome.next, notice: "That was done already. What was shown then is not shown again."}
		}
		kept = append(kept, key)
	}
	s.order = kept
}

func (s *submission) over() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

const (
	noticeCookie = "cetrus-notice"
	noticeLife   = time.Minute
	maxNotice    = 300
)

// leaveNotice has the next page say something.
func leaveNotice(w http.ResponseWriter, r *http.Request, text string) {
	cookie := &http.Cookie{ //nolint:gosec // as those of the session
		Name: cookieName(r, noticeCookie), Value: url.QueryEscape(cut(text, maxNotice)), Path: "/", MaxAge: int(noticeLife / time.Second),
		Secure: secure(r), HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	if text == "" {
		cookie.MaxAge = -1
	}
	http.SetCookie(w, cookie)
}

// takeNotice is what the page before left to say; it is said once.
func takeNotice(w http.ResponseWriter, r *http.Request) string {
	text, err := url.QueryUnescape(cookieOf(r, noticeCookie))
	if err != nil || text == "" {
		return ""
	}
	leaveNotice(w, r, "")
	return cut(strings.ToValidUTF8(text, "\uFFFD"), maxNotice)
}

// cut leaves of a text at most so many characters.
func cut(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}
