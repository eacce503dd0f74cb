package signin

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/platformtest"
)

// errDead is what a process dies with.
var errDead = errors.New("the process is dead")

// dying is a log whose process dies at an append to a login's credentials: before it reached the
// log, or after.
type dying struct {
	*eventlog.Memory
	after bool
}

func (d dying) Append(ctx context.Context, subject string, expected eventlog.Position, events ...eventlog.Event) (eventlog.Position, error) {
	if !strings.Contains(subject, ".credential.") {
		return d.Memory.Append(ctx, subject, expected, events...)
	}
	if d.after {
		if _, err := d.Memory.Append(ctx, subject, expected, events...); err != nil {
			return 0, err
		}
	}
	panic(errDead)
}

// dies makes a change in a process that dies on the way to the log.
func (f *fixture) dies(after bool, change func() error) {
	f.t.Helper()
	s, err := New(f.t.Context(), f.cfg, Deps{Log: dying{f.events, after}, Secrets: f.store, Directory: f.people, Origins: f.people, Logger: platformtest.Logger(nil)})
	if err != nil {
		f.t.Fatal(err)
	}
	f.Service = s
	defer func() {
		if dead := recover(); dead != errDead { //nolint:errorlint // what was thrown is compared, not an error
			f.t.Fatalf("it did not die, but ended with %v", dead)
		}
		f.restart()
	}()
	err = change()
	f.t.Fatalf("the change ended before its process: %v", err)
}

func (f *fixture) credentialEvents() (list []eventlog.Event) {
	for _, e := range f.events.All() {
		if strings.HasPrefix(e.Type, "cetrus.identity.credential.") && e.Subject == credentialSubject(f.ada.Account, f.ada.ID) {
			list = append(list, e)
		}
	}
	return list
}

// untoldRows is what the log has still to be told.
func (f *fixture) untoldRows() (n int) {
	f.t.Helper()
	if err := f.store.Projector.QueryRow(f.t.Context(), "SELECT count(*) FROM untold").Scan(&n); err != nil {
		f.t.Fatal(err)
	}
	return n
}

// Whatever changes what a login proves itself with is told to the log, once, by whom, from where
// and when, though the process died between the change and its event, or between that and its own note of it.
func TestAChangeOutlivesItsProcess(t *testing.T) {
	f := start(t)
	const password = "another good password"
	var codes []string
	for _, c := range []struct {
		kind   string
		actor  string
		change func() error
	}{
		{"password_changed", "operator", func() error {
			_, err := f.SetOneTimePassword(t.Context(), "operator", f.ada.Account, f.ada.ID)
			return err
		}},
		{"password_changed", f.ada.actor(), func() error {
			return f.completeReset(t.Context(), f.link(), password, f.home)
		}},
		{"second_factor_added", f.ada.actor(), func() error {
			e, err := f.beginEnrolment(t.Context(), "test", f.ada)
			if err != nil {
				return err
			}
			_, err = f.confirmEnrolment(f.withOrigin(t.Context(), f.ada, f.home), "test", f.inSession(f.ada), f.code(secretOf(t, e.uri)))
			return err
		}},
		{"recovery_codes_renewed", f.ada.actor(), func() (err error) {
			_, err = f.renewCodes(f.withOrigin(t.Context(), f.ada, f.home), "test", f.ada)
			return err
		}},
		{"second_factor_removed", "login:boss", func() error {
			return f.removeFactor(f.withOrigin(t.Context(), f.ada, f.home), "test", authn.Caller{Account: f.ada.Account, Actor: "login:boss"}, f.ada.ID, contract.ID{}, false)
		}},
		{"recovery_code_used", f.ada.actor(), func() error {
			_, err := f.try(proof{password: password, secondFactor: codes[0]}, f.home)
			return err
		}},
	} {
		for _, after := range []bool{false, true} {
			if c.kind == "second_factor_removed" && after || c.kind == "recovery_code_used" {
				_, codes = f.enrol()
			}
			if c.kind == "recovery_code_used" { // by a password that she has taken over before
				if _, err := f.store.Projector.Exec(t.Context(), "UPDATE password SET by_link = false"); err != nil {
					t.Fatal(err)
				}
			}
			f.clock.advance(time.Hour)
			before, at := 0, f.now()
			f.dies(after, func() error {
				before = len(f.credentialEvents())
				return c.change()
			})
			if n := f.untoldRows(); n != 1 {
				t.Fatalf("%s: %d rows are kept", c.kind, n)
			}
			f.clock.advance(time.Hour)
			for range 2 {
				if err := f.tellAll(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			events := f.credentialEvents()
			if len(events) != before+1 {
				t.Fatalf("%s: the log has %d events, not %d", c.kind, len(events), before+1)
			}
			last := events[before]
			if last.Type != "cetrus.identity.credential."+c.kind+".v1" || last.Actor != c.actor || !last.Time.Equal(at) {
				t.Errorf("%s: the log has %s by %s at %v, not %v", c.kind, last.Type, last.Actor, last.Time, at)
			}
			if sealed, _ := f.people.SealOrigin(t.Context(), f.ada.Account, f.ada.ID, f.home); c.actor != "operator" && last.Origin != sealed {
				t.Errorf("%s: it came from %q", c.kind, last.Origin)
			}
			if n := f.untoldRows(); n != 0 {
				t.Errorf("%s: %d rows are kept for ever", c.kind, n)
			}
		}
	}
}

// A log that is away holds up no change, and is told in the order of the changes when it is back;
// what one login's cannot be told holds up no other's.
func TestALogThatIsAwayIsToldLater(t *testing.T) {
	f := start(t)
	before := len(f.credentialEvents())
	s, err := New(t.Context(), f.cfg, Deps{Log: away{f.events}, Secrets: f.store, Directory: f.people, Origins: f.people, Logger: platformtest.Logger(nil)})
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range []identityv1.PasswordSource{identityv1.PasswordSource_PASSWORD_SOURCE_LOGIN, identityv1.PasswordSource_PASSWORD_SOURCE_LINK} {
		if err := s.replacePassword(t.Context(), "test", f.ada.actor(), f.ada.Account, f.ada.ID, contract.ID{}, f.password, source); err != nil {
			t.Fatal(err)
		}
		f.clock.advance(time.Second)
	}
	if len(f.credentialEvents()) != before {
		t.Fatal("the log was not away")
	}
	if _, err := f.store.Projector.Exec(t.Context(), "INSERT INTO untold SELECT account_id, gen_random_uuid(), $1, at - interval '1 day', 'unknown', '', '', '' FROM untold LIMIT 1", [16]byte(f.bob.ID)); err != nil {
		t.Fatal(err)
	}
	if err := f.tellAll(t.Context()); err == nil {
		t.Error("an event of no known type was told")
	}
	events := f.credentialEvents()
	if len(events) != before+2 || f.untoldRows() != 1 {
		t.Fatalf("the log has %d events, not %d", len(events), before+2)
	}
	changes := told[*identityv1.PasswordChanged](f)
	if changes[len(changes)-1].GetSource() != identityv1.PasswordSource_PASSWORD_SOURCE_LINK {
		t.Errorf("the last change is %v", changes[len(changes)-1])
	}
	r := f.in()
	if f.caller(r, authzv1.Reach_REACH_SELF).Login != f.ada.ID {
		t.Error("the password does not count")
	}
}

// away is a log that takes nothing.
type away struct{ *eventlog.Memory }

func (away) Append(context.Context, string, eventlog.Position, ...eventlog.Event) (eventlog.Position, error) {
	return 0, eventlog.ErrUnavailable
}
