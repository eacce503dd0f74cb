package identity

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/signin"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/mail"
	"github.com/cetrus/cetrus/services/platform/mail/inbox"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/reactor"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// mailPatience is how long a test waits for a mail that comes at once on an idle machine.
const mailPatience = 2 * time.Minute

// mailbox is a service that sends mail to an inbox.
type mailbox struct {
	t       *testing.T
	nc      *nats.Conn
	stores  *Stores
	keys    *keyring.Keyring
	box     *inbox.Inbox
	sender  Mails
	service *Service
	mails   *reactor.Reactor
	account contract.ID
	// take answers the mail server's question whether it takes a mail.
	take atomic.Pointer[func(recipient string) error]

	mu    sync.Mutex
	links []string
}

func newMailbox(t *testing.T) *mailbox {
	t.Helper()
	m := &mailbox{t: t, nc: platformtest.NATS(t), stores: openStores(t), keys: newKeyring(t), account: resource.NewID()}
	box, err := inbox.New(t.Context(), inbox.Config{Take: func(_ context.Context, to string) error {
		if take := m.take.Load(); take != nil {
			return (*take)(to)
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	m.box = box
	m.background(box.Run)
	m.sender, err = mail.New(mail.Config{
		URL: box.SMTPURL(), From: "Cetrus <cetrus@example.com>", Timeout: mailPatience,
		PublicURL: func() (string, error) { return "https://cetrus.example.com", nil },
	}, mail.Deps{Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// background runs until the test, or stop, ends it.
func (m *mailbox) background(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			m.t.Error(err)
		}
	})
	m.t.Cleanup(stop)
	return stop
}

// start runs what sends mail, and that alone; with is what it sends by.
func (m *mailbox) start(with Mails) (stop func()) {
	m.t.Helper()
	var err error
	m.service, err = New(Config{Operator: resource.NewID()}, Deps{
		NATS: m.nc, Stores: m.stores, Keys: m.keys, Logger: platformtest.Logger(m.t),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.mails, err = newMailer(&mailer{
		mails: with, links: m.link, commands: m.service.commands, keys: m.keys, origins: m.keys, secrets: m.stores.Secrets, log: platformtest.Logger(m.t), now: time.Now,
	}, m.nc, time.Millisecond)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.background(m.mails.Run)
}

func (m *mailbox) link(_ context.Context, account, login contract.ID, _ string) (string, time.Time, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.links = append(m.links, "secret-"+login.String()+"-"+account.String())
	return m.links[len(m.links)-1], time.Now().Add(time.Hour), true, nil
}

// person makes the account with its administrator.
func (m *mailbox) person(address string) contract.ID {
	m.t.Helper()
	login := resource.NewID()
	name, display := "ada", "Ada Obi"
	_, err := m.service.commands.createAccount(m.t.Context(), "test", eventlog.Command{ID: resource.NewID().String()}, newAccount{
		id: m.account, administrator: login, name: "Brücken & Söhne", administratorWish: LoginWish{Name: &name, DisplayName: &display, MailAddress: &address},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return login
}

// append records an event of signing in, and returns its id.
func (m *mailbox) append(aggregate string, of contract.ID, message proto.Message, e eventlog.Event) string {
	m.t.Helper()
	encoded, err := mailEvents().Encode(message)
	if err != nil {
		m.t.Fatal(err)
	}
	encoded.ID, encoded.Time, encoded.Origin = resource.NewID().String(), e.Time, e.Origin
	log := eventlog.NewJetStream(m.nc, contract.EventStream)
	subject := contract.EventSubject(m.account, contextName, aggregate, of.String())
	last, err := log.Last(m.t.Context(), subject)
	if err != nil {
		m.t.Fatal(err)
	}
	if _, err := log.Append(m.t.Context(), subject, last, encoded); err != nil {
		m.t.Fatal(err)
	}
	return encoded.ID
}

// wait waits for the first mail whose subject holds a text.
func (m *mailbox) wait(subject string) inbox.Mail {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), mailPatience)
	defer cancel()
	got, err := m.box.Wait(ctx, func(got inbox.Mail) bool { return strings.Contains(got.Subject, subject) })
	if err != nil {
		m.t.Fatalf("%q: %v", subject, err)
	}
	return got
}

// eventually asks until the answer is yes.
func (m *mailbox) eventually(what string, yes func() bool) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), mailPatience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !yes() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			m.t.Fatal(what)
		}
	}
}

// became waits until it is recorded what became of an event's mail.
func (m *mailbox) became(event string) string {
	m.t.Helper()
	var became []string
	m.eventually("nothing became of event "+event, func() bool {
		if err := m.stores.Secrets.Projector.QueryRow(m.t.Context(), "SELECT coalesce(array_agg(became), '{}') FROM mail WHERE event_id = $1", event).Scan(&became); err != nil {
			m.t.Fatal(err)
		}
		return len(became) == 1
	})
	return became[0]
}

// settled waits until all events were taken: in no order.
func (m *mailbox) settled(js jetstream.JetStream) {
	m.t.Helper()
	consumer, err := js.Consumer(m.t.Context(), contract.EventStream, "identity-mail")
	if err != nil {
		m.t.Fatal(err)
	}
	m.eventually("events are still in hand", func() bool {
		info, err := consumer.Info(m.t.Context())
		if err != nil {
			m.t.Fatal(err)
		}
		return info.NumPending+uint64(info.NumAckPending) == 0
	})
}

// What happens to a login is told to its person, each event once, with the id of the event, also
// where all events come again.
func TestWhatHappensIsTold(t *testing.T) {
	m := newMailbox(t)
	stop := m.start(m.sender)
	login := m.person("ada@example.com")
	invitation := m.wait("Your login in Brücken & Söhne")
	if !strings.Contains(invitation.Text, "token=secret-"+login.String()) || invitation.Recipients[0] != "ada@example.com" || !strings.Contains(invitation.Text, "Hello Ada Obi") {
		t.Errorf("%v %s", invitation.Recipients, invitation.Text)
	}

	privileges := authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR, authzv1.Privilege_PRIVILEGE_REPORT)
	if _, err := m.service.commands.changeLogin(t.Context(), "test", eventlog.Command{ID: resource.NewID().String()}, m.account, login, LoginWish{Privileges: &privileges}); err != nil {
		t.Fatal(err)
	}
	if got := m.wait("What you may do"); !strings.Contains(got.Text, "Taken away: Application User, Purchasing and Financial") || strings.Contains(got.Text, "Given") {
		t.Error(got.Text)
	}
	if _, _, err := m.service.commands.createAPIKey(t.Context(), "test", "", m.account, login, KeyWish{ID: resource.NewID(), DisplayName: "nightly export"}); err != nil {
		t.Fatal(err)
	}
	if got := m.wait("An API key"); !strings.Contains(got.Text, `"nightly export"`) || !strings.Contains(got.Text, "Account Administrator and Report") {
		t.Error(got.Text)
	}

	origin := func(address string) eventlog.Event {
		sealed, err := m.keys.SealOrigin(t.Context(), m.account, login, authn.Origin{Address: netip.MustParseAddr(address), UserAgent: "Firefox/1 Windows"})
		if err != nil {
			t.Fatal(err)
		}
		return eventlog.Event{Origin: sealed}
	}
	asked := m.append("credential", login, &identityv1.PasswordResetRequested{LoginId: login[:]}, origin("198.51.100.1"))
	got := m.wait("Choose a new password")
	if !strings.Contains(got.Text, "token=secret-"+login.String()) || !strings.Contains(got.Text, "from the address 198.51.100.1") || strings.Contains(got.Text, "Firefox") {
		t.Error(got.Text)
	}
	if id := got.Header.Get("Message-Id"); id != "<"+asked+"@example.com>" {
		t.Errorf("Message-ID %s of event %s", id, asked)
	}
	m.append("credential", login, &identityv1.PasswordChanged{LoginId: login[:], Source: identityv1.PasswordSource_PASSWORD_SOURCE_LINK}, origin("198.51.100.1"))
	if got := m.wait("Your password"); !strings.Contains(got.Text, "198.51.100.1 with Firefox on Windows") {
		t.Error(got.Text)
	}
	passkey := resource.NewID()
	m.append("credential", login, &identityv1.PasskeyAdded{LoginId: login[:], PasskeyId: passkey[:]}, origin("198.51.100.1"))
	if got := m.wait("was added"); !strings.Contains(got.Text, "a passkey too") || !strings.Contains(got.Text, "198.51.100.1") {
		t.Error(got.Text)
	}
	m.append("credential", login, &identityv1.SecondFactorRemoved{LoginId: login[:]}, origin("192.0.2.99"))
	if got := m.wait("was removed"); !strings.Contains(got.Text, "An administrator has taken an authenticator program") || strings.Contains(got.Text, "192.0.2.99") {
		t.Error(got.Text)
	}

	for _, c := range []struct{ address, became string }{
		{"198.51.100.1", mailNoNews}, // the first of all
		{"198.51.100.1", mailNoNews},
		{"2001:db8::1", mailSent},
		{"2001:db8::2", mailNoNews}, // the same network
	} {
		session := resource.NewID()
		if became := m.became(m.append("session", session, &identityv1.SessionStarted{SessionId: session[:], LoginId: login[:]}, origin(c.address))); became != c.became {
			t.Errorf("a session from %s: %s, want %s", c.address, became, c.became)
		}
	}
	if got := m.wait("from a new device"); !strings.Contains(got.Text, "2001:db8::1") {
		t.Error(got.Text)
	}
	js, err := jetstream.New(m.nc)
	if err != nil {
		t.Fatal(err)
	}
	m.settled(js) // else one that was sent may not be noted yet
	sent := len(m.box.Mails())
	if sent != 8 {
		t.Errorf("%d mails, want 8", sent)
	}

	stop()
	if err := js.DeleteConsumer(t.Context(), contract.EventStream, "identity-mail"); err != nil {
		t.Fatal(err)
	}
	m.start(m.sender)
	again := m.append("credential", login, &identityv1.PasswordResetRequested{LoginId: login[:]}, eventlog.Event{})
	if became := m.became(again); became != mailSent {
		t.Error(became)
	}
	m.settled(js)
	if now := len(m.box.Mails()); now != sent+1 {
		t.Errorf("all events came again, and %d mails were sent again", now-sent-1)
	}
}

// A mail server that cannot take a mail now gets it later; one that refuses the recipient for
// good has the event set aside where it can be seen, and replayed.
// Both people are told of a link and of its end, with the names of the other end: who has bound a
// login to a stranger's is named to the stranger.
func TestBothEndsOfALinkAreTold(t *testing.T) {
	m := newMailbox(t)
	m.start(m.sender)
	ends := [2]signin.LinkEnd{{Ref: signin.Ref{Account: m.account, Login: m.person("ada@example.com")}}, {Ref: signin.Ref{Account: resource.NewID(), Login: resource.NewID()}}}
	name, address := "a.obi", "obi@example.com"
	if _, err := m.service.commands.createAccount(t.Context(), "test", eventlog.Command{}, newAccount{
		id: ends[1].Account, administrator: ends[1].Login, name: "Umbrella", administratorWish: LoginWish{Name: &name, MailAddress: &address},
	}); err != nil {
		t.Fatal(err)
	}
	told := func(subject, to, account string, words ...string) {
		t.Helper()
		var text string
		m.eventually("no mail to "+to+" of "+subject, func() bool {
			for _, got := range m.box.Mails() {
				if slices.Contains(got.Recipients, to) && strings.Contains(got.Subject, subject) && strings.Contains(got.Subject, account) {
					text = got.Text
				}
			}
			return text != ""
		})
		for _, w := range words {
			if !strings.Contains(text, w) {
				t.Errorf("%q is not in\n%s", w, text)
			}
		}
	}
	if _, err := m.service.commands.linkLogins(t.Context(), "test", eventlog.Command{Actor: actorOf(ends[0].Login)}, ends[0], ends[1]); err != nil {
		t.Fatal(err)
	}
	told("was linked", "ada@example.com", "Brücken", "the login a.obi in the account Umbrella")
	told("was linked", "obi@example.com", "Umbrella", "the login ada in the account Brücken & Söhne")
	if _, err := m.service.commands.unlinkLogins(t.Context(), "test", eventlog.Command{Actor: "operator"}, Link(ends[1].Ref), Link(ends[0].Ref)); err != nil {
		t.Fatal(err)
	}
	told("has ended", "ada@example.com", "Brücken", "somebody else")
	told("has ended", "obi@example.com", "Umbrella", "somebody else")
}

// Where mails went before, it is told that they go elsewhere: once, and not where they go to.
func TestTheFormerAddressIsTold(t *testing.T) {
	m := newMailbox(t)
	m.start(m.sender)
	login := m.person("ada@example.com")
	for _, wish := range []LoginWish{{DisplayName: ref("Ada")}, {MailAddress: ref("thief@example.net")}} {
		if _, err := m.service.commands.changeLogin(t.Context(), "test", eventlog.Command{}, m.account, login, wish); err != nil {
			t.Fatal(err)
		}
	}
	got := m.wait("go to another address")
	if !slices.Equal(got.Recipients, []string{"ada@example.com"}) || strings.Contains(got.Text+got.HTML, "thief") {
		t.Errorf("%v %s", got.Recipients, got.Text)
	}
	js, err := jetstream.New(m.nc)
	if err != nil {
		t.Fatal(err)
	}
	m.settled(js)
	if n := len(m.box.Mails()); n != 2 { // the invitation, and this one
		t.Errorf("%d mails", n)
	}
}

func TestMailServerRefuses(t *testing.T) {
	m := newMailbox(t)
	m.start(m.sender)
	var tries atomic.Int32
	busy := func(string) error {
		if tries.Add(1) < 3 {
			return &smtp.SMTPError{Code: 451, Message: "not now"}
		}
		return nil
	}
	m.take.Store(&busy)
	login := m.person("ada@example.com")
	m.wait("Your login")
	gone := func(to string) error { return &smtp.SMTPError{Code: 550, Message: to + " is gone"} }
	m.take.Store(&gone)
	event := m.append("credential", login, &identityv1.PasswordResetRequested{LoginId: login[:]}, eventlog.Event{})
	m.eventually("it is not set aside", func() bool {
		aside, err := m.mails.Poisoned(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(aside) != 1 || aside[0].Event.ID != event {
			return false
		}
		if strings.Contains(aside[0].Reason, "ada@example.com") || !strings.Contains(aside[0].Reason, "550") {
			t.Errorf("the reason is %q", aside[0].Reason)
		}
		return true
	})
	m.take.Store(nil)
	if n, err := m.mails.Replay(t.Context()); n != 1 || err != nil {
		t.Errorf("replayed %d: %v", n, err)
	}
	m.wait("Choose a new password")
}

// cutOff sends, and then is gone before anybody can note it.
type cutOff struct {
	Mails
	sent chan struct{}
}

func (c *cutOff) Send(ctx context.Context, m mail.Mail) error {
	if err := c.Mails.Send(ctx, m); err != nil {
		return err
	}
	select {
	case c.sent <- struct{}{}:
	default:
	}
	<-ctx.Done()
	return ctx.Err()
}

// A process that ends between sending and noting it sends again, and it is the same mail.
func TestDiesBetweenSendingAndNoting(t *testing.T) {
	m := newMailbox(t)
	cut := &cutOff{Mails: m.sender, sent: make(chan struct{}, 1)}
	stop := m.start(cut)
	m.person("ada@example.com")
	select {
	case <-cut.sent:
	case <-time.After(mailPatience):
		t.Fatal("nothing was sent")
	}
	stop()
	m.start(m.sender)
	ids := func() (ids []string) {
		for _, got := range m.box.Mails() {
			ids = append(ids, got.Header.Get("Message-Id"))
		}
		return ids
	}
	m.eventually("it was not sent again", func() bool { return len(ids()) == 2 })
	if got := ids(); len(slices.Compact(got)) != 1 {
		t.Errorf("two mails: %v", got)
	}
}

// Nobody is mailed what they asked for long ago, or without an address, or as a login that is no
// more; each of these ends, and is recorded.
func TestMailsThatAreNotSent(t *testing.T) {
	m := newMailbox(t)
	m.start(refusing{t})
	old := m.append("credential", resource.NewID(), &identityv1.PasswordResetRequested{}, eventlog.Event{Time: time.Now().Add(-2 * time.Hour)})
	if became := m.became(old); became != mailTooLate {
		t.Errorf("asked two hours ago: %s", became)
	}
	if became := m.became(m.append("credential", resource.NewID(), &identityv1.PasswordResetRequested{}, eventlog.Event{})); became != mailNoLogin {
		t.Errorf("of nobody: %s", became)
	}
	login := m.person("")
	if became := m.became(m.append("credential", login, &identityv1.PasswordResetRequested{}, eventlog.Event{})); became != mailNoAddress {
		t.Errorf("without an address: %s", became)
	}
}

type refusing struct{ t *testing.T }

func (r refusing) Send(_ context.Context, m mail.Mail) error {
	r.t.Errorf("a mail was sent: %v", m)
	return fmt.Errorf("%w: %w", errors.New("test"), mail.ErrRefused)
}
