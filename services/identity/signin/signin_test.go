package signin

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/credential"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/eventlog/eventlogtest"
)

func reason(err error) string {
	if err == nil {
		return ""
	}
	return errs.PublicOf(err).Reason
}

func TestSignInGivesTokensThatAreGood(t *testing.T) {
	f := start(t)
	r := f.in()
	if err := f.checks(r.started.tokens.GetAccessToken()); err != nil {
		t.Error(err)
	}
	events := told[*identityv1.SessionStarted](f)
	if len(events) != 1 || contract.ID(events[0].GetLoginId()) != f.ada.ID {
		t.Errorf("the log has %v", events)
	}
	for _, e := range f.events.All() {
		if e.Type == "cetrus.identity.session.started.v1" && !strings.HasPrefix(e.Origin, f.ada.ID.String()+":") {
			t.Errorf("the session does not say where from: %+v", e)
		}
	}
	tokens, err := f.refresh(t.Context(), r.started.tokens.GetRefreshToken())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.checks(tokens.GetAccessToken()); err != nil {
		t.Error(err)
	}
	if life := tokens.GetAccessTokenExpireTime().AsTime().Sub(f.now()); life <= 0 || life > authn.TokenLife {
		t.Errorf("the access token is good for %s", life)
	}
	f.clock.advance(idleLife)
	if _, err := f.refresh(t.Context(), tokens.GetRefreshToken()); reason(err) != ReasonSession {
		t.Errorf("after it was idle: %v", err)
	}
}

func TestASessionEndsAtItsLast(t *testing.T) {
	f := start(t)
	tokens := f.in().started.tokens
	var err error
	for range 5 {
		f.clock.advance(idleLife - time.Second)
		if tokens, err = f.refresh(t.Context(), tokens.GetRefreshToken()); err != nil {
			break
		}
		if tokens.GetRefreshTokenExpireTime().AsTime().After(f.now().Add(sessionLife)) {
			t.Error("the token lives longer than its session")
		}
	}
	if reason(err) != ReasonSession {
		t.Errorf("after %s: %v", sessionLife, err)
	}
}

// An attacker who has copied a refresh token and its person cannot both go on: whoever is
// second ends the session for both.
func TestAStolenRefreshTokenEndsTheSession(t *testing.T) {
	f := start(t)
	first := f.in().started.tokens
	second, err := f.refresh(t.Context(), first.GetRefreshToken())
	if err != nil {
		t.Fatal(err)
	}
	f.clock.advance(sameAnswerFor)
	if _, err := f.refresh(t.Context(), first.GetRefreshToken()); reason(err) != ReasonSession {
		t.Errorf("a second use: %v", err)
	}
	if _, err := f.refresh(t.Context(), second.GetRefreshToken()); reason(err) != ReasonSession {
		t.Errorf("after it: %v", err)
	}
	ends := told[*identityv1.SessionEnded](f)
	if len(ends) != 1 || ends[0].GetReason() != identityv1.SessionEnd_SESSION_END_TOKEN_REUSED {
		t.Errorf("the log has %v", ends)
	}
}

// Requests of one browser that come to several gateways at once, and one whose answer was lost, are given one
// successor, until that was used: then somebody has stolen the first.
func TestOneRefreshTokenGivesOneSuccessor(t *testing.T) {
	f := start(t)
	token := f.in().started.tokens.GetRefreshToken()
	var group sync.WaitGroup
	answers := make(chan string, 8)
	for range cap(answers) {
		group.Go(func() {
			tokens, err := f.refresh(t.Context(), token)
			if err != nil {
				t.Error(err)
			}
			answers <- tokens.GetRefreshToken()
		})
	}
	group.Wait()
	close(answers)
	next := <-answers
	for other := range answers {
		if other != next {
			t.Error("one token has two successors")
		}
	}
	f.clock.advance(sameAnswerFor - time.Second)
	if tokens, err := f.refresh(t.Context(), token); err != nil || tokens.GetRefreshToken() != next {
		t.Errorf("a moment later: %v", err)
	}
	if _, err := f.refresh(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if _, err := f.refresh(t.Context(), token); reason(err) != ReasonSession {
		t.Errorf("after its successor was used: %v", err)
	}
	if ends := told[*identityv1.SessionEnded](f); len(ends) != 1 || ends[0].GetReason() != identityv1.SessionEnd_SESSION_END_TOKEN_REUSED {
		t.Errorf("the log has %v", ends)
	}
}

// Knowing a session's id, which is no secret, ends nothing.
func TestAForgedRefreshTokenEndsNothing(t *testing.T) {
	f := start(t)
	r := f.in()
	session := f.caller(r, authzv1.Reach_REACH_SELF).Session
	for _, forged := range []string{
		refreshPrefix + place(f.ada.Account, session, credential.NewSecret()),
		refreshPrefix + place(f.bob.Account, session, credential.NewSecret()),
		refreshPrefix + place(nobody(), session, credential.NewSecret()),
		r.started.tokens.GetRefreshToken() + "A", "", refreshPrefix, r.started.tokens.GetAccessToken(),
	} {
		if _, err := f.refresh(t.Context(), forged); reason(err) != ReasonSession {
			t.Errorf("%q: %v", forged, err)
		}
		if err := f.signOut(t.Context(), forged); err != nil {
			t.Errorf("signing out with %q: %v", forged, err)
		}
	}
	if _, err := f.refresh(t.Context(), r.started.tokens.GetRefreshToken()); err != nil {
		t.Errorf("the session's own token afterwards: %v", err)
	}
}

// Whatever a session was before, what a sign-in gives is new, and no call takes a session's
// id or token from outside into one.
func TestEachSignInIsANewSession(t *testing.T) {
	f := start(t)
	one, two := f.in().started, f.in().started
	if one.session.GetSessionId() == two.session.GetSessionId() || one.tokens.GetRefreshToken() == two.tokens.GetRefreshToken() {
		t.Error("two sign-ins share something")
	}
	if err := f.signOut(t.Context(), one.tokens.GetRefreshToken()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.refresh(t.Context(), one.tokens.GetRefreshToken()); reason(err) != ReasonSession {
		t.Errorf("signed out: %v", err)
	}
	if _, err := f.refresh(t.Context(), two.tokens.GetRefreshToken()); err != nil {
		t.Errorf("the other one: %v", err)
	}
}

func TestADisabledLoginGetsNothingMore(t *testing.T) {
	f := start(t)
	tokens := f.in().started.tokens
	f.people.change(f.ada.ID, func(l *Login) { l.Disabled = true })
	if _, err := f.try(proof{password: f.password}, f.home); reason(err) != ReasonRefused {
		t.Errorf("signing in: %v", err)
	}
	if _, err := f.refresh(t.Context(), tokens.GetRefreshToken()); reason(err) != ReasonSession {
		t.Errorf("refreshing: %v", err)
	}
}

// What was switched off stays so: a session from before does not come back with its login.
func TestASessionIsOverOnceItsLoginWasDisabled(t *testing.T) {
	f := start(t)
	before := f.in()
	f.people.change(f.ada.ID, func(l *Login) { l.Disablings++ }) // and enabled again
	if _, err := f.refresh(t.Context(), before.started.tokens.GetRefreshToken()); reason(err) != ReasonSession {
		t.Errorf("a session from before: %v", err)
	}
	if ends := told[*identityv1.SessionEnded](f); len(ends) != 1 || contract.ID(ends[0].GetSessionId()).String() != before.started.session.GetSessionId() {
		t.Errorf("told: %v", ends)
	}
	if _, err := f.refresh(t.Context(), f.in().started.tokens.GetRefreshToken()); err != nil {
		t.Errorf("a session from afterwards: %v", err)
	}
}

// Where nobody can say whether a login may still come in, its token is not used up.
func TestARefreshThatCannotBeJudgedCanBeRepeated(t *testing.T) {
	f := start(t)
	token := f.in().started.tokens.GetRefreshToken()
	f.people.away.Store(true)
	if _, err := f.refresh(t.Context(), token); !errs.Is(errs.Unavailable, err) {
		t.Errorf("nobody to ask: %v", err)
	}
	f.people.away.Store(false)
	if _, err := f.refresh(t.Context(), token); err != nil {
		t.Errorf("repeated: %v", err)
	}
}

// Who has proved a password that is replaced before their session begins gets none, and does
// not set the old password again.
func TestASignInDoesNotOutlastThePassword(t *testing.T) {
	f := start(t)
	proved, err := f.checkPassword(t.Context(), "test", f.ada, f.password)
	if err != nil || !proved.right {
		t.Fatal(proved, err)
	}
	const another = "staple of another battery"
	if err := f.replacePassword(t.Context(), "test", "admin", f.ada.Account, f.ada.ID, contract.ID{}, another, identityv1.PasswordSource_PASSWORD_SOURCE_LOGIN); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.carryOut(t.Context(), "test", f.ada, plan{proved: proved.hash, setPassword: f.password}, f.home); !errors.Is(err, errOldPassword) {
		t.Errorf("a session by the old password: %v", err)
	}
	if _, err := f.try(proof{password: another}, f.home); err != nil {
		t.Errorf("the new password: %v", err)
	}
}

// A wrong password, a login that is not there, an account that is not there, one that is
// disabled, and a wrong second factor get one and the same answer, after the same work.
func TestRefusalsAreOfOneKind(t *testing.T) {
	f := start(t)
	f.enrol()
	f.people.change(f.bob.ID, func(l *Login) { l.Disabled = true })
	var answers []string
	for name, p := range map[string]proof{
		"wrong password": {account: "works", login: "ada", password: "wrong"},
		"no login":       {account: "works", login: "eve", password: f.password},
		"no account":     {account: "nowhere", login: "ada", password: f.password},
		"disabled":       {account: "other", login: "bob", password: f.password},
		"wrong factor":   {account: "works", login: "ada", password: f.password, secondFactor: "000000"},
		"no such code":   {account: "works", login: "ada", password: f.password, secondFactor: credential.NewRecoveryCodes()[0]},
	} {
		finds := f.people.finds.Load()
		_, err := f.try(p, at("198.51.100.7"))
		if err == nil {
			t.Fatalf("%s: signed in", name)
		}
		if f.people.finds.Load() != finds+1 {
			t.Errorf("%s: names were looked up %d times", name, f.people.finds.Load()-finds)
		}
		public := errs.PublicOf(err)
		answers = append(answers, public.Reason+public.Message+public.Subject+errs.KindOf(err).String())
	}
	for _, a := range answers {
		if a != answers[0] {
			t.Errorf("%q differs from %q", a, answers[0])
		}
	}
}

// The answer's time: refusals leave at full steps. With steps longer than all else that a
// call does, both kinds take the same number of them; the same password work is asserted
// by the hasher's own tests.
func TestRefusalsTakeTheSameTime(t *testing.T) {
	f := start(t)
	f.Service.cfg.AnswerStep = 400 * time.Millisecond
	var waiting sync.WaitGroup
	var short atomic.Int32
	for i, login := range []string{"ada", "eve", "ada", "eve"} {
		waiting.Go(func() {
			began := time.Now()
			if _, err := f.try(proof{account: "works", login: login, password: "wrong"}, at("198.51.100."+string(rune('1'+i)))); reason(err) != ReasonRefused {
				t.Error(err)
			}
			if time.Since(began) < f.Service.cfg.AnswerStep {
				short.Add(1)
			}
		})
	}
	waiting.Wait()
	if short.Load() > 0 {
		t.Errorf("%d refusals left before the step was full", short.Load())
	}
}

func TestWhoFailsWaitsLongerEachTime(t *testing.T) {
	f := start(t)
	fails := func(from authn.Origin) error { _, err := f.try(proof{password: "wrong"}, from); return err }
	for i := range freeOfLogin {
		if err := fails(at("198.51.100.1")); reason(err) != ReasonRefused {
			t.Fatalf("failure %d: %v", i, err)
		}
	}
	var waits []time.Duration
	for range 14 {
		var waited time.Duration
		for reason(fails(at("198.51.100.1"))) == ReasonThrottled {
			f.clock.advance(time.Second)
			waited += time.Second
		}
		waits = append(waits, waited)
	}
	for i := 1; i < len(waits); i++ {
		if waits[i] < waits[i-1] || waits[i] > longestWait {
			t.Errorf("waits are %v", waits)
		}
	}
	if waits[0] < time.Second || waits[len(waits)-1] != longestWait {
		t.Errorf("waits are %v", waits)
	}
	f.restart()
	if err := fails(at("198.51.100.1")); reason(err) != ReasonThrottled {
		t.Errorf("after a restart: %v", err)
	}
	// Names that are no login's wait alike, so that waiting tells nothing.
	for range freeOfLogin {
		_, _ = f.try(proof{account: "works", login: "eve", password: "x"}, at("203.0.113.77"))
	}
	if _, err := f.try(proof{account: "works", login: "eve", password: "x"}, at("203.0.113.77")); reason(err) != ReasonThrottled {
		t.Errorf("of a login that is not there: %v", err)
	}
	if _, err := f.try(proof{account: "works", login: "eve", password: "x"}, at("203.0.113.78")); reason(err) != ReasonThrottled {
		t.Errorf("of the same from elsewhere: %v", err)
	}
}

func TestNobodyShutsAnotherOut(t *testing.T) {
	f := start(t)
	f.in()
	for i := range 40 {
		_, _ = f.try(proof{password: "wrong"}, at("198.51.100."+string(rune('1'+i%9))))
	}
	if _, err := f.try(proof{password: f.password}, at("198.51.100.1")); reason(err) != ReasonThrottled {
		t.Fatalf("the attack was not slowed: %v", err)
	}
	f.in() // from where she has signed in before
	// From elsewhere she has to wait, but never for good.
	f.clock.advance(longestWait)
	if _, err := f.try(proof{password: f.password}, at("203.0.113.9")); err != nil {
		t.Errorf("after the longest wait: %v", err)
	}
}

func TestASprayFromOneAddressIsSlowed(t *testing.T) {
	f := start(t)
	tried := 0
	for i := range 3 * freeOfAddress {
		if _, err := f.try(proof{account: "works", login: "person " + string(rune('a'+i)), password: "Summer2026!!"}, at("198.51.100.1")); reason(err) == ReasonRefused {
			tried++
		}
	}
	if tried != freeOfAddress {
		t.Errorf("%d logins were tried at once", tried)
	}
	// The neighbours of an IPv6 address are the same subscriber.
	for i := range 3 * freeOfAddress {
		_, err := f.try(proof{account: "works", login: "other " + string(rune('a'+i)), password: "x"}, at("2001:db8::"+string("123456789abcdef"[i%15])))
		if i >= freeOfAddress && reason(err) != ReasonThrottled {
			t.Fatalf("attempt %d: %v", i, err)
		}
	}
	// An own login between the attempts buys nothing.
	f.clock.advance(longestWait)
	for range 3 {
		if _, err := f.try(proof{account: "other", login: "bob", password: f.password}, at("198.51.100.1")); err != nil && reason(err) != ReasonThrottled {
			t.Error(err)
		}
	}
	refused := 0
	for i := range 5 {
		if _, err := f.try(proof{account: "works", login: "third " + string(rune('a'+i)), password: "x"}, at("198.51.100.1")); reason(err) == ReasonRefused {
			refused++
		}
	}
	if refused > 1 {
		t.Errorf("after signing in oneself %d more were tried at once", refused)
	}
}

// A hundred at once are a hundred, not one.
func TestAttemptsAtOnceAreCountedEach(t *testing.T) {
	f := start(t)
	var group sync.WaitGroup
	var judged atomic.Int32
	for range 40 {
		group.Go(func() {
			_, err := f.try(proof{password: "wrong"}, at("198.51.100.1"))
			switch reason(err) {
			case ReasonRefused:
				judged.Add(1)
			case ReasonThrottled:
			default:
				t.Error(err)
			}
		})
	}
	group.Wait()
	if judged.Load() != freeOfLogin {
		t.Errorf("%d of 40 passwords were tried", judged.Load())
	}
}

func TestRefusalsAreInTheLogAndDoNotFillIt(t *testing.T) {
	f := start(t)
	for range 40 {
		_, _ = f.try(proof{password: "wrong"}, f.home)
		_, _ = f.try(proof{account: "works", login: "eve", password: "wrong"}, f.home)
		f.clock.advance(longestWait)
	}
	f.doAllLater()
	events := told[*identityv1.SignInRefused](f)
	if len(events) == 0 || len(events) > 6 {
		t.Errorf("%d events of refusals", len(events))
	}
	for _, e := range events {
		if contract.ID(e.GetLoginId()) != f.ada.ID {
			t.Errorf("of nobody: %v", e)
		}
	}
}

// enrol gives Ada an authenticator program, and answers with its secret and her codes.
func (f *fixture) enrol() (secret []byte, codes []string) {
	f.t.Helper()
	e, err := f.beginEnrolment(f.t.Context(), "test", f.ada)
	if err != nil {
		f.t.Fatal(err)
	}
	secret = secretOf(f.t, e.uri)
	codes, err = f.confirmEnrolment(f.t.Context(), "test", f.inSession(f.ada), f.code(secret))
	if err != nil || len(codes) != credential.RecoveryCodes {
		f.t.Fatal(len(codes), err)
	}
	f.clock.advance(30 * time.Second)
	return secret, codes
}

func secretOf(t testing.TB, uri string) []byte {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := credential.ParseTOTPSecret(u.Query().Get("secret"))
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

func (f *fixture) code(secret []byte) string {
	f.t.Helper()
	code, err := credential.TOTPCode(secret, f.now())
	if err != nil {
		f.t.Fatal(err)
	}
	return code
}

func TestSecondFactor(t *testing.T) {
	f := start(t)
	secret, codes := f.enrol()
	if r, err := f.try(proof{password: f.password}, f.home); err != nil || r.outcome != identityv1.SignInOutcome_SIGN_IN_OUTCOME_SECOND_FACTOR_NEEDED || r.started.tokens != nil {
		t.Fatalf("%v, %v", r.outcome, err)
	}
	code := f.code(secret)
	r, err := f.try(proof{password: f.password, secondFactor: code}, f.home)
	if err != nil || !r.started.session.GetSecondFactor() {
		t.Fatal(r.started, err)
	}
	if _, err := f.try(proof{password: f.password, secondFactor: code}, f.home); reason(err) != ReasonRefused {
		t.Errorf("a code that was seen: %v", err)
	}
	for _, typed := range []string{codes[3], strings.ToUpper(codes[4])} {
		if _, err := f.try(proof{password: f.password, secondFactor: typed}, f.home); err != nil {
			t.Errorf("recovery code: %v", err)
		}
		if _, err := f.try(proof{password: f.password, secondFactor: typed}, f.home); reason(err) != ReasonRefused {
			t.Errorf("the same recovery code again: %v", err)
		}
	}
	if used := told[*identityv1.RecoveryCodeUsed](f); len(used) != 2 {
		t.Errorf("%d recovery codes were told of", len(used))
	}
	if err := f.removeFactor(t.Context(), "test", authn.Caller{Account: f.ada.Account, Actor: "admin"}, f.ada.ID, contract.ID{}, false); err != nil {
		t.Fatal(err)
	}
	if ends := told[*identityv1.SessionEnded](f); len(ends) != 3 {
		t.Errorf("%d sessions ended with the second factor", len(ends))
	}
	f.in()
}

func TestAnAccountCanAskForASecondFactor(t *testing.T) {
	f := start(t)
	by := authn.WithCaller(t.Context(), authn.Caller{Account: f.ada.Account, Login: f.ada.ID, Actor: "admin", Reach: authzv1.Reach_REACH_ACCOUNT})
	a := &api{service: f.Service}
	if _, err := a.UpdateSignInPolicy(by, &identityv1.UpdateSignInPolicyRequest{Policy: &identityv1.SignInPolicy{SecondFactorRequired: true}}); err != nil {
		t.Fatal(err)
	}
	r, err := f.try(proof{password: f.password}, f.home)
	if err != nil || r.outcome != identityv1.SignInOutcome_SIGN_IN_OUTCOME_ENROLMENT_NEEDED || r.started.tokens != nil {
		t.Fatalf("%v, %v", r.outcome, err)
	}
	if _, err := f.try(proof{password: f.password, secondFactor: "000000"}, f.home); reason(err) != ReasonRefused {
		t.Errorf("a wrong first code: %v", err)
	}
	r, err = f.try(proof{password: f.password, secondFactor: f.code(secretOf(t, r.enrolment.uri))}, f.home)
	if err != nil || r.started.tokens == nil || len(r.recoveryCodes) != credential.RecoveryCodes {
		t.Fatalf("%+v, %v", r, err)
	}
	if r, err := f.try(proof{account: "other", login: "bob", password: f.password}, f.home); err != nil || r.started.tokens == nil {
		t.Errorf("another account is asked too: %v, %v", r.outcome, err)
	}
}

func TestAOneTimePasswordHasToBeChanged(t *testing.T) {
	f := start(t)
	session := f.in()
	password, err := f.SetOneTimePassword(t.Context(), "admin", f.ada.Account, f.ada.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.refresh(t.Context(), session.started.tokens.GetRefreshToken()); reason(err) != ReasonSession {
		t.Errorf("a session from before: %v", err)
	}
	if _, err := f.try(proof{password: f.password}, f.home); reason(err) != ReasonRefused {
		t.Errorf("the password from before: %v", err)
	}
	if r, err := f.try(proof{password: password}, f.home); err != nil || r.outcome != identityv1.SignInOutcome_SIGN_IN_OUTCOME_NEW_PASSWORD_NEEDED || r.started.tokens != nil {
		t.Fatalf("%v, %v", r.outcome, err)
	}
	for _, weak := range []string{password, "short", "passwordpassword", "Ada@example.com"} {
		if _, err := f.try(proof{password: password, newPassword: weak}, f.home); !errs.Is(errs.Invalid, err) {
			t.Errorf("%q: %v", weak, err)
		}
	}
	if r, err := f.try(proof{password: password, newPassword: "zwölf Boxkämpfer jagen"}, f.home); err != nil || r.started.tokens == nil {
		t.Fatal(err)
	}
	if _, err := f.try(proof{password: password}, f.home); reason(err) != ReasonRefused {
		t.Errorf("the one-time password again: %v", err)
	}
	sources := told[*identityv1.PasswordChanged](f)
	if last := sources[len(sources)-1]; last.GetSource() != identityv1.PasswordSource_PASSWORD_SOURCE_LOGIN {
		t.Errorf("got %v", sources)
	}
}

func TestAResetLinkIsGoodOnce(t *testing.T) {
	f := start(t)
	session := f.in()
	if err := f.requestReset(t.Context(), "WORKS", "ada ", f.home); err != nil {
		t.Fatal(err)
	}
	if n := f.people.finds.Load(); n != 1 { // that of in
		t.Errorf("the request looked the login up while its answer waited: %d", n)
	}
	f.doAllLater()
	if asked := told[*identityv1.PasswordResetRequested](f); len(asked) != 1 {
		t.Fatalf("the log has %v", asked)
	}
	link := f.link()
	other := f.link()
	if err := f.completeReset(t.Context(), link, "short", f.home); !errs.Is(errs.Invalid, err) {
		t.Errorf("a weak password: %v", err)
	}
	var group sync.WaitGroup
	var good atomic.Int32
	for range 6 {
		group.Go(func() {
			switch err := f.completeReset(t.Context(), link, "a password by link", f.home); {
			case err == nil:
				good.Add(1)
			case reason(err) != ReasonLink:
				t.Error(err)
			}
		})
	}
	group.Wait()
	if good.Load() != 1 {
		t.Errorf("the link was good %d times", good.Load())
	}
	if err := f.completeReset(t.Context(), other, "a password by link 2", f.home); reason(err) != ReasonLink {
		t.Errorf("another link from before: %v", err)
	}
	if _, err := f.refresh(t.Context(), session.started.tokens.GetRefreshToken()); reason(err) != ReasonSession {
		t.Errorf("a session from before: %v", err)
	}
	if _, err := f.try(proof{password: "a password by link"}, f.home); err != nil {
		t.Error(err)
	}
	late := f.link()
	f.clock.advance(linkLife)
	if err := f.completeReset(t.Context(), late, "a password by link 3", f.home); reason(err) != ReasonLink {
		t.Errorf("an old link: %v", err)
	}
	for _, forged := range []string{"", "x", place(f.ada.Account, f.ada.ID, credential.NewSecret()), place(f.bob.Account, f.bob.ID, credential.NewSecret()), place(nobody(), f.ada.ID, credential.NewSecret())} {
		if err := f.completeReset(t.Context(), forged, "a password by link 4", f.home); reason(err) != ReasonLink {
			t.Errorf("%q: %v", forged, err)
		}
	}
}

func (f *fixture) link() string {
	f.t.Helper()
	link, _, ok, err := f.Link(f.t.Context(), f.ada.Account, f.ada.ID, f.ada.MailAddress)
	if err != nil || !ok {
		f.t.Fatal(ok, err)
	}
	return link
}

// The mail of whoever others keep failing at lets them in at once.
func TestAResetEndsTheWait(t *testing.T) {
	f := start(t)
	for range 40 {
		_, _ = f.try(proof{password: "wrong"}, at("198.51.100.1"))
	}
	if _, err := f.try(proof{password: f.password}, at("203.0.113.1")); reason(err) != ReasonThrottled {
		t.Fatal(err)
	}
	if err := f.completeReset(t.Context(), f.link(), "a password by link", at("203.0.113.1")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.try(proof{password: "a password by link"}, at("203.0.113.1")); err != nil {
		t.Error(err)
	}
}

// The same answer for everybody, and nothing that could take longer for somebody.
func TestAskingForALinkTellsNothing(t *testing.T) {
	f := start(t)
	for _, login := range []string{"ada", "eve"} {
		if err := f.requestReset(t.Context(), "works", login, f.home); err != nil {
			t.Errorf("%s: %v", login, err)
		}
	}
	if f.people.finds.Load() != 0 || len(f.later) != 2 {
		t.Errorf("%d look-ups before the answer, %d after", f.people.finds.Load(), len(f.later))
	}
	f.doAllLater()
	if asked := told[*identityv1.PasswordResetRequested](f); len(asked) != 1 {
		t.Errorf("the log has %v", asked)
	}
	// Nobody's mailbox is filled.
	throttled := 0
	for range 20 {
		if reason(f.requestReset(t.Context(), "works", "ada", f.home)) == ReasonThrottled {
			throttled++
		}
	}
	if throttled < 20-freeOfLogin {
		t.Errorf("%d of 20 had to wait", throttled)
	}
}

func TestChangingThePassword(t *testing.T) {
	f := start(t)
	here, elsewhere := f.in(), f.in()
	by := f.caller(here, authzv1.Reach_REACH_SELF)
	if err := f.changePassword(t.Context(), by, "wrong", "zwölf Boxkämpfer jagen", f.home); !errs.Is(errs.Invalid, err) {
		t.Errorf("without the one before: %v", err)
	}
	if err := f.changePassword(t.Context(), by, f.password, f.password, f.home); !errs.Is(errs.Invalid, err) {
		t.Errorf("to the same: %v", err)
	}
	if err := f.changePassword(t.Context(), by, f.password, "zwölf Boxkämpfer jagen", f.home); err != nil {
		t.Fatal(err)
	}
	if _, err := f.refresh(t.Context(), here.started.tokens.GetRefreshToken()); err != nil {
		t.Errorf("one's own session: %v", err)
	}
	if _, err := f.refresh(t.Context(), elsewhere.started.tokens.GetRefreshToken()); reason(err) != ReasonSession {
		t.Errorf("another session: %v", err)
	}
	for range 40 {
		_ = f.changePassword(t.Context(), by, "guess", "zwölf Boxkämpfer jagen 2", f.home)
	}
	if err := f.changePassword(t.Context(), by, "guess", "zwölf Boxkämpfer jagen 2", f.home); reason(err) != ReasonThrottled {
		t.Errorf("guessing at an open session: %v", err)
	}
}

func TestSessionsAreListedAndEnded(t *testing.T) {
	f := start(t)
	one, two := f.in(), f.in()
	a := &api{service: f.Service}
	own := f.caller(one, authzv1.Reach_REACH_SELF)
	as := func(c authn.Caller) context.Context { return authn.WithCaller(t.Context(), c) }
	first, err := a.ListSessions(as(own), &identityv1.ListSessionsRequest{PageSize: 1})
	if err != nil || len(first.GetSessions()) != 1 || first.GetNextPageToken() == "" {
		t.Fatal(first, err)
	}
	second, err := a.ListSessions(as(own), &identityv1.ListSessionsRequest{PageSize: 1, PageToken: first.GetNextPageToken()})
	if err != nil || len(second.GetSessions()) != 1 || second.GetNextPageToken() != "" || first.GetSessions()[0].GetCurrent() == second.GetSessions()[0].GetCurrent() {
		t.Fatal(second, err)
	}
	stranger := authn.Caller{Account: f.bob.Account, Login: f.bob.ID, Actor: "bob", Reach: authzv1.Reach_REACH_ACCOUNT}
	neighbour := authn.Caller{Account: f.ada.Account, Login: contract.ID{0xc}, Session: contract.ID{0xc}, Actor: "carl", Reach: authzv1.Reach_REACH_SELF}
	bareKey := authn.Caller{Account: f.ada.Account, Actor: "key", Reach: authzv1.Reach_REACH_SELF}
	for name, c := range map[string]authn.Caller{"another account": stranger, "another login": neighbour, "a bare key": bareKey} {
		if _, err := a.EndSession(as(c), &identityv1.EndSessionRequest{SessionId: two.started.session.GetSessionId()}); !errs.Is(errs.NotFound, err) {
			t.Errorf("%s ends it: %v", name, err)
		}
		if got, err := a.ListSessions(as(c), &identityv1.ListSessionsRequest{LoginId: f.ada.ID.String()}); err == nil && len(got.GetSessions()) > 0 {
			t.Errorf("%s sees %v", name, got)
		}
	}
	ownKey := own
	ownKey.Session = contract.ID{}
	if _, err := a.EndSession(as(ownKey), &identityv1.EndSessionRequest{SessionId: two.started.session.GetSessionId()}); !errs.Is(errs.Denied, err) {
		t.Errorf("a key of the login ends it: %v", err)
	}
	admin := authn.Caller{Account: f.ada.Account, Login: contract.ID{0xd}, Actor: "admin", Reach: authzv1.Reach_REACH_ACCOUNT}
	if got, err := a.ListSessions(as(admin), &identityv1.ListSessionsRequest{LoginId: f.ada.ID.String()}); err != nil || len(got.GetSessions()) != 2 {
		t.Errorf("an administrator sees %v, %v", got, err)
	}
	if _, err := a.EndSession(as(admin), &identityv1.EndSessionRequest{SessionId: two.started.session.GetSessionId()}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.EndSession(as(own), &identityv1.EndSessionRequest{SessionId: one.started.session.GetSessionId()}); err != nil {
		t.Fatal(err)
	}
	var reasons []identityv1.SessionEnd
	for _, e := range told[*identityv1.SessionEnded](f) {
		reasons = append(reasons, e.GetReason())
	}
	if len(reasons) != 2 || reasons[0] != identityv1.SessionEnd_SESSION_END_BY_ADMINISTRATOR || reasons[1] != identityv1.SessionEnd_SESSION_END_BY_LOGIN {
		t.Errorf("got %v", reasons)
	}
}

func TestAnOperatorEndsAllSessionsOfALogin(t *testing.T) {
	f := start(t)
	tokens := []*identityv1.Tokens{f.in().started.tokens, f.in().started.tokens}
	if err := f.EndSessions(t.Context(), "operator", f.ada.Account, f.bob.ID); err != nil || len(told[*identityv1.SessionEnded](f)) != 0 {
		t.Errorf("of another login: %v", err)
	}
	if err := f.EndSessions(t.Context(), "operator", f.ada.Account, f.ada.ID); err != nil {
		t.Fatal(err)
	}
	for _, token := range tokens {
		if _, err := f.refresh(t.Context(), token.GetRefreshToken()); reason(err) != ReasonSession {
			t.Errorf("afterwards: %v", err)
		}
	}
	if ends := told[*identityv1.SessionEnded](f); len(ends) != 2 {
		t.Errorf("the log has %v", ends)
	}
}

// The log was away when a session ended: it is told as soon as it is there.
func TestAnEndThatTheLogMissedIsToldLater(t *testing.T) {
	f := start(t)
	r := f.in()
	id := f.caller(r, authzv1.Reach_REACH_SELF).Session
	err := f.secrets.ChangeInAccount(t.Context(), f.ada.Account, func(tx pgx.Tx) error {
		return endOne(t.Context(), tx, id, f.now(), identityv1.SessionEnd_SESSION_END_SIGNED_OUT, "")
	})
	if err != nil || len(told[*identityv1.SessionEnded](f)) != 0 {
		t.Fatal(err)
	}
	f.tellEndsNow(t.Context(), f.bob.ID)
	if ends := told[*identityv1.SessionEnded](f); len(ends) != 0 {
		t.Errorf("another's call tells it: %v", ends)
	}
	for range 2 {
		if err := f.tellEnds(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if ends := told[*identityv1.SessionEnded](f); len(ends) != 1 {
		t.Errorf("told %d times", len(ends))
	}
}

// One end that the log does not take keeps no other from being told.
func TestAnEndThatCannotBeToldHoldsUpNoOther(t *testing.T) {
	f := start(t)
	var ids []contract.ID
	for range 2 {
		id := f.caller(f.in(), authzv1.Reach_REACH_SELF).Session
		ids = append(ids, id)
		if err := f.secrets.ChangeInAccount(t.Context(), f.ada.Account, func(tx pgx.Tx) error {
			return endOne(t.Context(), tx, id, f.now(), identityv1.SessionEnd_SESSION_END_SIGNED_OUT, "")
		}); err != nil {
			t.Fatal(err)
		}
		f.clock.advance(time.Second)
	}
	other, events, damaged := eventlog.NewMemory(), f.events.All(), sessionSubject(f.ada.Account, ids[0])
	for _, e := range events {
		if e.Subject == damaged {
			e.Type = "cetrus.identity.session.of_a_later_release.v1"
		}
		last, err := other.Last(t.Context(), e.Subject)
		if err == nil {
			_, err = other.Append(t.Context(), e.Subject, last, e)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	f.sessions.Log = other
	if err := f.tellEnds(t.Context()); err == nil || !strings.Contains(err.Error(), ids[0].String()) {
		t.Errorf("it is not said which: %v", err)
	}
	told, _, err := other.Load(t.Context(), sessionSubject(f.ada.Account, ids[1]))
	if err != nil || len(told) != 2 {
		t.Errorf("the other one: %d events, %v", len(told), err)
	}
}

func TestKeysRotateWithOverlap(t *testing.T) {
	f := start(t)
	before := f.in().started.tokens.GetAccessToken()
	seen := map[string]bool{}
	for range 100 {
		f.clock.advance(24 * time.Hour)
		if err := f.keys.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		token, err := f.keys.sign(authn.AccessToken{Account: f.ada.Account, Login: f.ada.ID, Session: contract.ID{7}, Issued: f.now(), Expires: f.now().Add(accessLife)})
		if err != nil {
			t.Fatal(err)
		}
		if err := f.checks(token); err != nil {
			t.Fatalf("a token of now: %v", err)
		}
		for _, k := range f.keys.jwks() {
			seen[k.GetKid()] = true
		}
		if n := len(f.keys.jwks()); n < 1 || n > 2 {
			t.Fatalf("%d keys at once", n)
		}
	}
	out, back := told[*identityv1.SigningKeyPublished](f), told[*identityv1.SigningKeyWithdrawn](f)
	if len(seen) != len(out) || len(out) < 3 || len(back) != len(out)-len(f.keys.jwks()) {
		t.Errorf("%d keys, %d published, %d withdrawn", len(seen), len(out), len(back))
	}
	if err := f.checks(before); err == nil {
		t.Error("a token of months ago is good")
	}
	// A key that is about to sign is known an hour before; a restart changes nothing.
	keys := len(f.keys.jwks())
	f.restart()
	if len(f.keys.jwks()) != keys {
		t.Error("a restart made another key")
	}
}

func TestAKeyIsKnownBeforeItSigns(t *testing.T) {
	f := start(t)
	f.clock.advance(keyLife - publishedAhead)
	if err := f.keys.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	kid := func() string { return f.signsWith(t) }
	old := kid()
	if len(f.keys.jwks()) != 2 || len(told[*identityv1.SigningKeyPublished](f)) != 2 {
		t.Fatalf("%d keys", len(f.keys.jwks()))
	}
	f.clock.advance(publishedAhead - time.Second)
	if kid() != old {
		t.Error("it signs before its time")
	}
	f.clock.advance(time.Second)
	if kid() == old {
		t.Error("it does not sign at its time")
	}
	f.clock.advance(authn.TokenLife)
	if err := f.keys.refresh(t.Context()); err != nil || len(told[*identityv1.SigningKeyWithdrawn](f)) != 0 {
		t.Errorf("the former was withdrawn while a token of it may live: %v", err)
	}
	f.clock.advance(time.Minute)
	if err := f.keys.refresh(t.Context()); err != nil || len(told[*identityv1.SigningKeyWithdrawn](f)) != 1 {
		t.Errorf("the former was not withdrawn: %v", err)
	}
}

// signsWith is the header of a token that is signed now, which names the key.
func (f *fixture) signsWith(t *testing.T) string {
	t.Helper()
	token, err := f.keys.sign(authn.AccessToken{Account: f.ada.Account, Login: f.ada.ID, Session: contract.ID{7}, Issued: f.now(), Expires: f.now().Add(accessLife)})
	if err != nil {
		t.Fatal(err)
	}
	header, _, _ := strings.Cut(token, ".")
	return header
}

func TestNothingThatIsSecretIsInTheLog(t *testing.T) {
	f := start(t)
	secret, codes := f.enrol()
	r, err := f.try(proof{password: f.password, secondFactor: f.code(secret)}, f.home)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.try(proof{password: "a wrong password"}, f.home)
	if err := f.completeReset(t.Context(), f.link(), "a password by link", f.home); err != nil {
		t.Fatal(err)
	}
	f.doAllLater()
	for _, e := range f.events.All() {
		for _, word := range []string{f.password, "a wrong password", "a password by link", string(secret), codes[0], r.started.tokens.GetRefreshToken(), r.started.tokens.GetAccessToken()} {
			if strings.Contains(string(e.Data)+e.Actor+e.Subject, word) {
				t.Errorf("%s holds a secret", e.Type)
			}
		}
	}
}

func TestWallsStand(t *testing.T) {
	f := start(t)
	f.in()
	if err := f.store.CheckWalls(t.Context()); err != nil {
		t.Error(err)
	}
	for _, table := range []string{"password", "totp", "recovery_code", "reset_link", "session", "refresh_token", "attempt", "signing_key"} {
		err := f.store.InAccount(t.Context(), f.bob.Account, func(tx pgx.Tx) error {
			var n int
			err := tx.QueryRow(t.Context(), "SELECT count(*) FROM "+table+" WHERE account_id <> $1", [16]byte(f.bob.Account)).Scan(&n)
			if n > 0 {
				t.Errorf("%s shows %d rows of others", table, n)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	errRollback := errors.New("no")
	err := f.store.ChangeInAccount(t.Context(), f.bob.Account, func(tx pgx.Tx) error {
		if err := setPassword(t.Context(), tx, f.ada.Account, f.ada.ID, "x", identityv1.PasswordSource_PASSWORD_SOURCE_LOGIN, f.now()); err == nil {
			t.Error("another account's password was written")
		}
		return errRollback
	})
	if !errors.Is(err, errRollback) {
		t.Error(err)
	}
}

func TestDamagedKeyFileIsNotReplaced(t *testing.T) {
	f := start(t)
	f.enrol()
	f.cfg.KeyFile = t.TempDir() + "/other"
	if _, err := New(t.Context(), f.cfg, Deps{Log: f.events, Secrets: f.store, Directory: f.people}); !errors.Is(err, errBox) {
		t.Errorf("another key file: %v", err)
	}
}

// Whatever is typed: an answer, never a fault of ours, and nobody is let in.
func FuzzSignIn(f *testing.F) {
	f.Add("works", "ada", "' OR 1=1 --", "000000", "x", "Mozilla\r\nX-Injected: 1")
	f.Add("works'; DROP TABLE password; --", "\x00", "\xff", "\u202e", "$1", "")
	f.Add("ev.1.*.>", "ada.*", "correct horse", "cetrus_refresh_AAAA", "\r\n", "\x00")
	fx := start(f)
	f.Fuzz(func(t *testing.T, account, login, password, factor, token, agent string) {
		if password == fx.password {
			t.Skip()
		}
		from := fx.home
		from.UserAgent = agent
		fx.clock.advance(longestWait)
		_, err := fx.signIn(t.Context(), proof{account: account, login: login, password: password, secondFactor: factor, newPassword: token}, from)
		if reason(err) != ReasonRefused && reason(err) != ReasonThrottled {
			t.Errorf("sign-in: %v", err)
		}
		if _, err := fx.refresh(t.Context(), token); reason(err) != ReasonSession {
			t.Errorf("refresh: %v", err)
		}
		if err := fx.signOut(t.Context(), token); err != nil {
			t.Errorf("sign-out: %v", err)
		}
		if err := fx.completeReset(t.Context(), token, password, from); reason(err) != ReasonLink {
			t.Errorf("reset: %v", err)
		}
		if err := fx.requestReset(t.Context(), account, login, from); err != nil && reason(err) != ReasonThrottled && !errs.Is(errs.Exhausted, err) {
			t.Errorf("request: %v", err)
		}
		a := &api{service: fx.Service}
		by := authn.WithCaller(t.Context(), authn.Caller{Account: fx.ada.Account, Login: fx.ada.ID, Actor: "x", Reach: authzv1.Reach_REACH_SELF})
		if _, err := a.ListSessions(by, &identityv1.ListSessionsRequest{LoginId: login, PageToken: token}); err != nil && !errs.Is(errs.Invalid, err) && !errs.Is(errs.NotFound, err) {
			t.Errorf("list: %v", err)
		}
		if _, err := a.ConfirmTotp(by, &identityv1.ConfirmTotpRequest{Code: factor}); err == nil || errs.Is(errs.Internal, err) {
			t.Errorf("confirm: %v", err)
		}
		for len(fx.later) > 0 {
			(<-fx.later)(t.Context())
		}
		for _, r := range userAgentOf(from) {
			if r < ' ' {
				t.Errorf("%q holds a control character", userAgentOf(from))
			}
		}
	})
}

// What was once written can be read for ever.
func TestEventsOfEveryVersion(t *testing.T) {
	eventlogtest.Golden(t, newRegistry(), "testdata/events")
}
