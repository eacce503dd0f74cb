package identity

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/mail"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/reactor"
)

// Mails sends mails; mail.ErrRefused says that another attempt is of no use.
type Mails interface {
	Send(ctx context.Context, m mail.Mail) error
}

// Links draws the secret of a link to a new password and keeps its hash, so that the secret
// stands in the mail alone and in no event; to is the address that it goes to. ok is false where no
// link may be made any more.
type Links func(ctx context.Context, account, login contract.ID, to string) (secret string, expires time.Time, ok bool, err error)

// Origins opens from where somebody called.
type Origins interface {
	OpenOrigins(ctx context.Context, account contract.ID, headers []string) ([]authn.Origin, error)
}

const (
	// mailWithin is how old an event may be that is still told by mail, and linkWithin one
	// that asks for a link: who asked hours ago has asked again, or does not expect it now.
	mailWithin = 72 * time.Hour
	linkWithin = time.Hour
	// mailKept is how long it is kept that a mail was sent; longer than any is still sent.
	mailKept = 30 * 24 * time.Hour
	// mailsAtOnce bounds the connections to the mail server.
	mailsAtOnce = 4
	// mailsWaiting bounds the events in hand: those that wait for a server to come back hold
	// up no others.
	mailsWaiting = 64
	// mailFirstPause and mailPause are the shortest and the longest pause between attempts.
	mailFirstPause = time.Second
	mailPause      = time.Minute
)

// What became of a mail.
const (
	mailSent      = "sent"
	mailNoAddress = "no address"
	mailNoLogin   = "no login"
	mailNoLink    = "no link"
	mailTooLate   = "too late"
	mailNoNews    = "no news"
)

// mailer tells people by mail what happened to their logins: one mail an event, once the event
// is in the log.
//
// That a mail was sent is recorded after the mail server has taken it. A record that came first
// would lose the mail where the process dies in between, and nobody would know; this way such a
// mail is sent twice, and both have the Message-ID that follows from the event's id, so that mail
// programs show one.
type mailer struct {
	mails    Mails
	links    Links
	commands *commands
	keys     Keys
	origins  Origins
	secrets  *postgres.Store
	registry *eventlog.Registry
	slots    chan struct{}
	log      *slog.Logger
	now      func() time.Time
}

// mailEvents are those that are told by mail.
func mailEvents() *eventlog.Registry {
	return eventlog.NewRegistry(
		eventlog.Current[*identityv1.LoginCreated]("cetrus.identity.login.created.v1"),
		eventlog.Current[*identityv1.LoginPrivilegesChanged]("cetrus.identity.login.privileges_changed.v1"),
		eventlog.Current[*identityv1.LoginDescribed]("cetrus.identity.login.described.v1"),
		eventlog.Current[*identityv1.LoginLinked]("cetrus.identity.login.linked.v1"),
		eventlog.Current[*identityv1.LoginUnlinked]("cetrus.identity.login.unlinked.v1"),
		eventlog.Current[*identityv1.ApiKeyCreated]("cetrus.identity.apikey.created.v1"),
		eventlog.Current[*identityv1.PasswordChanged](passwordChangedType),
		eventlog.Current[*identityv1.SecondFactorAdded]("cetrus.identity.credential.second_factor_added.v1"),
		eventlog.Current[*identityv1.SecondFactorRemoved]("cetrus.identity.credential.second_factor_removed.v1"),
		eventlog.Current[*identityv1.PasskeyAdded]("cetrus.identity.credential.passkey_added.v1"),
		eventlog.Current[*identityv1.PasskeyRemoved]("cetrus.identity.credential.passkey_removed.v1"),
		eventlog.Current[*identityv1.PasskeySuspended]("cetrus.identity.credential.passkey_suspended.v1"),
		eventlog.Current[*identityv1.PasswordResetRequested]("cetrus.identity.credential.password_reset_requested.v1"),
		eventlog.Current[*identityv1.SessionStarted]("cetrus.identity.session.started.v1"),
		eventlog.Current[*identityv1.MaintenanceAnnounced]("cetrus.identity.maintenance.announced.v1"),
	)
}

// newMailer makes the mailer and the reactor that drives it.
func newMailer(m *mailer, nc *nats.Conn, firstPause time.Duration) (*reactor.Reactor, error) {
	m.registry, m.slots = mailEvents(), make(chan struct{}, mailsAtOnce)
	return reactor.New(reactor.Config{
		Name: "identity-mail", Stream: contract.EventStream,
		Subjects: []string{
			"ev.*.*." + contextName + ".login.*", "ev.*.*." + contextName + ".apikey.*",
			"ev.*.*." + contextName + ".credential.*", "ev.*.*." + contextName + ".session.*",
			"ev.*.*." + contextName + "." + maintenanceAggregate + ".*",
		},
		InFlight: mailsWaiting, Timeout: 2 * time.Minute, FirstPause: firstPause, MaxPause: mailPause,
		// Age ends the attempts, not their number.
		Attempts: int(2 * mailWithin / mailPause), MaxDeliveries: 1000,
	}, reactor.Deps{NATS: nc, Handler: m.handle, Logger: m.log})
}

// handle sends the mail that an event asks for, if it asks for one.
func (m *mailer) handle(ctx context.Context, event eventlog.Event) error {
	if !m.registry.Knows(event.Type) {
		return nil
	}
	at, err := placeOf(event.Subject)
	if err != nil {
		return reactor.Permanent(err)
	}
	done, err := m.done(ctx, at.account, event.ID)
	if err != nil || done {
		return err
	}
	n, err := m.notice(ctx, at, event)
	if err != nil {
		return err
	}
	if n.content != nil {
		if err := m.send(ctx, event, at.account, &n); err != nil {
			return err
		}
	}
	return m.record(ctx, at.account, event.ID, n)
}

func (m *mailer) send(ctx context.Context, event eventlog.Event, account contract.ID, n *notice) error {
	select {
	case m.slots <- struct{}{}:
		defer func() { <-m.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if n.link {
		secret, expires, ok, err := m.links(ctx, account, n.login, n.to.Address)
		if err != nil {
			return err
		}
		if !ok {
			n.became = mailNoLink
			return nil
		}
		n.content = withLink(n.content, secret, expires)
	}
	err := m.mails.Send(ctx, mail.Mail{ID: event.ID, To: n.to, Content: n.content})
	if errors.Is(err, mail.ErrRefused) {
		return reactor.Permanent(err)
	}
	return err
}

func withLink(c mail.Content, secret string, expires time.Time) mail.Content {
	switch c := c.(type) {
	case mail.PasswordReset:
		c.Secret, c.Expires = secret, expires
		return c
	case mail.Invitation:
		c.Secret, c.Expires = secret, expires
		return c
	}
	return c
}

// notice is the mail that an event asks for.
type notice struct {
	login contract.ID
	to    mail.Recipient
	// content is nil where none is to be sent, for what became says.
	content mail.Content
	became  string
	// link asks for a secret, drawn at the last moment.
	link bool
	// origin is what becomes known with the record; nil: nothing.
	origin []byte
}

// person is what of a login its mails need.
type person struct {
	login, before Login
	to            mail.Recipient
	// name is what it signs in with.
	name string
	// created is its first event.
	created eventlog.Event
}

// notice finds out whether an event asks for a mail, and which.
func (m *mailer) notice(ctx context.Context, at place, event eventlog.Event) (notice, error) {
	message, err := m.registry.Decode(event)
	if err != nil {
		return notice{}, reactor.Permanent(err)
	}
	n := notice{login: at.id, became: mailSent}
	within := mailWithin
	switch e := message.(type) {
	case *identityv1.ApiKeyCreated:
		n.login, err = contract.IDFrom(e.GetLoginId())
	case *identityv1.SessionStarted:
		n.login, err = contract.IDFrom(e.GetLoginId())
	case *identityv1.PasswordResetRequested:
		n.link, within = true, linkWithin
	case *identityv1.LoginCreated:
		n.link = true
	}
	if err != nil {
		return n, reactor.Permanent(err)
	}
	if m.now().Sub(event.Time) > within {
		n.became = mailTooLate
		m.log.WarnContext(ctx, "a mail is not sent any more: what it tells is too long ago", "event", event.ID, "type", event.Type, "at", event.Time)
		return n, nil
	}
	p, err := m.person(ctx, at.account, n.login, event)
	if err != nil {
		return n, err
	}
	if !p.login.there() {
		n.became = mailNoLogin
		return n, nil
	}
	n.to = p.to
	from, err := m.from(ctx, at.account, event)
	if err != nil {
		return n, err
	}
	content, err := m.content(ctx, at.account, p, event, message, from, &n)
	switch {
	case err != nil:
		return n, err
	case content == nil:
		n.became = mailNoNews
	case n.to.Address == "":
		n.became = mailNoAddress
	case n.link && m.links == nil:
		n.became = mailNoLink
	default:
		n.content = content
	}
	return n, nil
}

// content puts an event into a mail's words; nil where there is nothing to tell.
func (m *mailer) content(ctx context.Context, account contract.ID, p person, event eventlog.Event, message any, from authn.Origin, n *notice) (mail.Content, error) {
	where := mail.Origin{Address: from.Address, Device: mail.Device(from.UserAgent)}
	switch e := message.(type) {
	case *identityv1.PasswordResetRequested:
		where.Device = "" // whoever asked may not be the person, and tells nothing by it
		return mail.PasswordReset{Login: p.name, At: event.Time, From: where}, nil
	case *identityv1.LoginCreated:
		if event.Actor == actorOf(n.login) || p.login.Provisioned {
			return nil, nil // who comes by their company's identity provider needs no password
		}
		return mail.Invitation{Login: p.name}, nil
	case *identityv1.PasswordChanged:
		byOther := e.GetSource() == identityv1.PasswordSource_PASSWORD_SOURCE_ONE_TIME
		if byOther {
			where = mail.Origin{}
		}
		return mail.PasswordChanged{Login: p.name, At: event.Time, From: where, ByAdministrator: byOther}, nil
	case *identityv1.SecondFactorAdded:
		return factorChanged(p, event, where, whatProgram, false), nil
	case *identityv1.SecondFactorRemoved:
		return factorChanged(p, event, where, whatProgram, true), nil
	case *identityv1.PasskeyAdded:
		return factorChanged(p, event, where, whatPasskey, false), nil
	case *identityv1.PasskeyRemoved:
		return factorChanged(p, event, where, whatPasskey, true), nil
	case *identityv1.PasskeySuspended:
		return mail.PasskeySuspended{Login: p.name, At: event.Time, From: where}, nil
	case *identityv1.LoginDescribed:
		return m.moved(ctx, account, p, event, e, n)
	case *identityv1.LoginLinked:
		return m.linked(ctx, p, event, e.GetAccountId(), e.GetLoginId(), where, false)
	case *identityv1.LoginUnlinked:
		return m.linked(ctx, p, event, e.GetAccountId(), e.GetLoginId(), where, true)
	case *identityv1.LoginPrivilegesChanged:
		if madeWith(p.created, event) {
			return nil, nil // it had none before: its person is invited, and told nothing of the start
		}
		now := authn.PrivilegesOf(e.GetPrivileges()...)
		c := mail.PrivilegesChanged{
			Login: p.name, At: event.Time,
			Given: privilegeNames(now.List(), p.before.Privileges), Taken: privilegeNames(p.before.Privileges.List(), now),
		}
		if len(c.Given)+len(c.Taken) == 0 {
			return nil, nil
		}
		return c, nil
	case *identityv1.ApiKeyCreated:
		opened, err := m.keys.OpenTexts(ctx, account, []keyring.Text{{Principal: p.login.ID, What: whatAPIKey, Sealed: e.GetSealedDisplayName()}})
		if err != nil {
			return nil, err
		}
		name := opened[0]
		if name == "" {
			name = e.GetPrefix() + "…"
		}
		return mail.APIKeyMade{
			Login: p.name, Key: name, Privileges: privilegeNames(e.GetPrivileges(), 0), Expires: e.GetExpireTime().AsTime(), At: event.Time, From: where,
		}, nil
	case *identityv1.MaintenanceAnnounced:
		return mail.Maintenance{Starts: e.GetStartTime().AsTime(), Ends: e.GetEndTime().AsTime(), What: e.GetWhat()}, nil
	case *identityv1.SessionStarted:
		return m.newDevice(ctx, account, p, event, where, n)
	}
	return nil, nil
}

// Second factors, in a mail's words.
const (
	whatProgram = "an authenticator program"
	whatPasskey = "a passkey"
)

func factorChanged(p person, event eventlog.Event, where mail.Origin, what string, removed bool) mail.Content {
	c := mail.SecondFactorChanged{Login: p.name, What: what, Removed: removed, At: event.Time, From: where}
	if removed && event.Actor != actorOf(p.login.ID) {
		c.ByAdministrator, c.From = true, mail.Origin{} // from where an administrator works is not the person's matter
	}
	return c
}

// moved tells the former address that mails go elsewhere from now on: whoever can read the new one can
// choose a new password.
func (m *mailer) moved(ctx context.Context, account contract.ID, p person, event eventlog.Event, e *identityv1.LoginDescribed, n *notice) (mail.Content, error) {
	opened, err := m.keys.OpenTexts(ctx, account, []keyring.Text{
		{Principal: p.login.ID, What: whatMailAddress, Sealed: p.before.SealedMailAddress},
		{Principal: p.login.ID, What: whatMailAddress, Sealed: e.GetSealedMailAddress()},
	})
	if err != nil {
		return nil, fmt.Errorf("identity: mail: %w", err)
	}
	former, now := opened[0], opened[1]
	if former == "" || former == now {
		return nil, nil
	}
	n.to.Address = former
	return mail.AddressChanged{Login: p.name, At: event.Time}, nil
}

// linked tells of a link, and names the other end: whoever has made one that is not theirs has their
// own login there.
func (m *mailer) linked(ctx context.Context, p person, event eventlog.Event, otherAccount, otherLogin []byte, where mail.Origin, ended bool) (mail.Content, error) {
	other, err := linkOf(otherAccount, otherLogin)
	if err != nil {
		return nil, reactor.Permanent(err)
	}
	login, _, err := m.commands.logins.Load(ctx, loginSubject(other.Account, other.Login))
	if err != nil {
		return nil, fmt.Errorf("identity: mail: login %s: %w", other.Login, err)
	}
	account, _, err := m.commands.accounts.Load(ctx, accountSubject(other.Account))
	if err != nil {
		return nil, fmt.Errorf("identity: mail: account %s: %w", other.Account, err)
	}
	opened, err := m.keys.OpenTexts(ctx, other.Account, []keyring.Text{
		{Principal: other.Login, What: whatName, Sealed: login.SealedName},
		{Principal: other.Account, What: whatAccountName, Sealed: account.SealedName},
	})
	if err != nil {
		return nil, fmt.Errorf("identity: mail: %w", err)
	}
	c := mail.LoginsLinked{Login: p.name, OtherLogin: opened[0], OtherAccount: opened[1], Ended: ended, At: event.Time, From: where}
	if ended && event.Actor != actorOf(p.login.ID) && event.Actor != actorOf(other.Login) {
		c.ByOther, c.From = true, mail.Origin{}
	}
	return c, nil
}

// newDevice tells of a sign-in from where the login has not signed in before; the first of
// all is no news to anybody.
func (m *mailer) newDevice(ctx context.Context, account contract.ID, p person, event eventlog.Event, where mail.Origin, n *notice) (mail.Content, error) {
	if !where.Address.IsValid() {
		return nil, nil
	}
	key, err := m.commands.nameKeys.of(ctx, account)
	if err != nil {
		return nil, err
	}
	network := where.Address.String()
	if prefix, err := where.Address.Prefix(64); err == nil && where.Address.Is6() {
		network = prefix.String() // machines choose the rest anew each day
	}
	mac := hmac.New(sha256.New, key[:])
	mac.Write([]byte("origin\x00" + p.login.ID.String() + "\x00" + network + "\x00" + where.Device))
	n.origin = mac.Sum(nil)
	var known, some bool
	err = m.secrets.Projector.QueryRow(ctx, "SELECT count(*) FILTER (WHERE hash = $3) > 0, count(*) > 0 FROM known_origin WHERE account_id = $1 AND login_id = $2",
		[16]byte(account), [16]byte(p.login.ID), n.origin).Scan(&known, &some)
	if err != nil {
		return nil, fmt.Errorf("identity: mail: %w", err)
	}
	if known || !some {
		return nil, nil
	}
	return mail.NewDevice{Login: p.name, At: event.Time, From: where}, nil
}

// madeWith tells whether an event belongs to the making of its login.
func madeWith(created, event eventlog.Event) bool {
	return created.Command == event.Command && event.Time.Sub(created.Time) < time.Second
}

// privilegeNames names those of a list that a set does not have.
func privilegeNames(list []authzv1.Privilege, without authn.Privileges) []string {
	var names []string
	for _, p := range list {
		if !without.Has(p) {
			names = append(names, authn.PrivilegeName(p))
		}
	}
	return names
}

// person reads a login from the log, as it is now and as it was before the event, and opens its
// words: only here, where they go into a mail.
func (m *mailer) person(ctx context.Context, account, id contract.ID, event eventlog.Event) (p person, err error) {
	logins := m.commands.logins
	_, err = logins.Log.Each(ctx, loginSubject(account, id), func(e eventlog.Event) error {
		if p.created.ID == "" {
			p.created = e
		}
		if e.ID == event.ID {
			p.before = p.login
		}
		message, err := logins.Registry.Decode(e)
		if err != nil {
			return err
		}
		p.login, err = logins.Apply(p.login, message)
		return err
	})
	if err != nil {
		return p, fmt.Errorf("identity: mail: login %s: %w", id, err)
	}
	owner, _, err := m.commands.accounts.Load(ctx, accountSubject(account))
	if err != nil {
		return p, fmt.Errorf("identity: mail: account %s: %w", account, err)
	}
	opened, err := m.keys.OpenTexts(ctx, account, []keyring.Text{
		{Principal: id, What: whatName, Sealed: p.login.SealedName},
		{Principal: id, What: whatDisplayName, Sealed: p.login.SealedDisplayName},
		{Principal: id, What: whatMailAddress, Sealed: p.login.SealedMailAddress},
		{Principal: account, What: whatAccountName, Sealed: owner.SealedName},
	})
	if err != nil {
		return p, fmt.Errorf("identity: mail: %w", err)
	}
	p.name = opened[0]
	p.to = mail.Recipient{Name: opened[1], Address: opened[2], Account: opened[3]}
	if p.to.Name == "" {
		p.to.Name = p.name
	}
	return p, nil
}

// from is from where the event was asked for.
func (m *mailer) from(ctx context.Context, account contract.ID, event eventlog.Event) (authn.Origin, error) {
	var from authn.Origin
	if event.Origin != "" && m.origins != nil {
		opened, err := m.origins.OpenOrigins(ctx, account, []string{event.Origin})
		if err != nil {
			return from, err
		}
		from = opened[0]
	}
	return from, nil
}

func (m *mailer) done(ctx context.Context, account contract.ID, event string) (done bool, err error) {
	err = m.secrets.Projector.QueryRow(ctx, "SELECT EXISTS (SELECT FROM mail WHERE account_id = $1 AND event_id = $2)", [16]byte(account), event).Scan(&done)
	return done, m.fail(err)
}

// record notes what became of a mail, together with what it made known.
func (m *mailer) record(ctx context.Context, account contract.ID, event string, n notice) error {
	return m.fail(pgx.BeginFunc(ctx, m.secrets.Projector, func(tx pgx.Tx) error {
		now := m.now()
		if _, err := tx.Exec(ctx, "INSERT INTO mail (account_id, event_id, became, at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING", [16]byte(account), event, n.became, now); err != nil {
			return err
		}
		if n.origin != nil {
			if _, err := tx.Exec(ctx, "INSERT INTO known_origin (account_id, login_id, hash, at) VALUES ($1, $2, $3, $4) ON CONFLICT (account_id, login_id, hash) DO UPDATE SET at = excluded.at",
				[16]byte(account), [16]byte(n.login), n.origin, now); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, "DELETE FROM mail WHERE at < $1", now.Add(-mailKept))
		return err
	}))
}

func (m *mailer) fail(err error) error {
	if postgres.IsTransient(err) {
		return errs.As(errs.Unavailable, "identity.mail", "", "the database does not answer", err)
	}
	return errs.Wrap("identity.mail", "", err)
}
