package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/signin"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// contextName is this service's word in subjects of EVENTS.
const contextName = "identity"

// passwordChangedType is the type of the event that a login has a password from.
const passwordChangedType = "cetrus.identity.credential.password_changed.v1" //nolint:gosec // the name of a type, and no credential

func accountSubject(account contract.ID) string {
	return contract.EventSubject(account, contextName, "account", account.String())
}

func loginSubject(account, login contract.ID) string {
	return contract.EventSubject(account, contextName, "login", login.String())
}

func groupSubject(account, group contract.ID) string {
	return contract.EventSubject(account, contextName, "group", group.String())
}

func apiKeySubject(account, key contract.ID) string {
	return contract.EventSubject(account, contextName, "apikey", key.String())
}

// nameSubject is that of a name's reservation; account is zero for names of accounts.
func nameSubject(account, name contract.ID) string {
	return contract.EventSubject(account, contextName, "name", name.String())
}

// newRegistry names the events of this service.
func newRegistry() *eventlog.Registry {
	return eventlog.NewRegistry(
		eventlog.Current[*identityv1.AccountCreated]("cetrus.identity.account.created.v1"),
		eventlog.Current[*identityv1.AccountRenamed]("cetrus.identity.account.renamed.v1"),
		eventlog.Current[*identityv1.AdministratorAdded]("cetrus.identity.account.administrator_added.v1"),
		eventlog.Current[*identityv1.AdministratorRemoved]("cetrus.identity.account.administrator_removed.v1"),
		eventlog.Current[*identityv1.NameReserved]("cetrus.identity.name.reserved.v1"),
		eventlog.Current[*identityv1.NameReleased]("cetrus.identity.name.released.v1"),
		eventlog.Current[*identityv1.LoginCreated]("cetrus.identity.login.created.v1"),
		eventlog.Current[*identityv1.LoginRenamed]("cetrus.identity.login.renamed.v1"),
		eventlog.Current[*identityv1.LoginDescribed]("cetrus.identity.login.described.v1"),
		eventlog.Current[*identityv1.LoginPrivilegesChanged]("cetrus.identity.login.privileges_changed.v1"),
		eventlog.Current[*identityv1.LoginDisabled]("cetrus.identity.login.disabled.v1"),
		eventlog.Current[*identityv1.LoginEnabled]("cetrus.identity.login.enabled.v1"),
		eventlog.Current[*identityv1.LoginGroupsChanged]("cetrus.identity.login.groups_changed.v1"),
		eventlog.Current[*identityv1.LoginApplicationsChanged]("cetrus.identity.login.applications_changed.v1"),
		eventlog.Current[*identityv1.LoginLinked]("cetrus.identity.login.linked.v1"),
		eventlog.Current[*identityv1.LoginUnlinked]("cetrus.identity.login.unlinked.v1"),
		eventlog.Current[*identityv1.LoginVouchedFor]("cetrus.identity.login.vouched_for.v1"),
		eventlog.Current[*identityv1.LoginProvisioned]("cetrus.identity.login.provisioned.v1"),
		eventlog.Current[*identityv1.LoginDeleted]("cetrus.identity.login.deleted.v1"),
		eventlog.Current[*identityv1.PasswordChanged](passwordChangedType),
		eventlog.Current[*identityv1.GroupDefined]("cetrus.identity.group.defined.v1"),
		eventlog.Current[*identityv1.GroupDeleted]("cetrus.identity.group.deleted.v1"),
		eventlog.Current[*identityv1.ApiKeyCreated]("cetrus.identity.apikey.created.v1"),
		eventlog.Current[*identityv1.ApiKeyRevoked]("cetrus.identity.apikey.revoked.v1"),
		eventlog.Current[*identityv1.ManagerCreated]("cetrus.identity.manager.created.v1"),
		eventlog.Current[*identityv1.ManagerTokenIssued]("cetrus.identity.manager.token_issued.v1"),
		eventlog.Current[*identityv1.ManagerEnrolled]("cetrus.identity.manager.enrolled.v1"),
		eventlog.Current[*identityv1.ManagerRevoked]("cetrus.identity.manager.revoked.v1"),
		eventlog.Current[*identityv1.ManagerReported]("cetrus.identity.manager.reported.v1"),
		eventlog.Current[*identityv1.EnrollmentTokenCreated]("cetrus.identity.enrollment_token.created.v1"),
		eventlog.Current[*identityv1.EnrollmentTokenRevoked]("cetrus.identity.enrollment_token.revoked.v1"),
		eventlog.Current[*identityv1.AgentRevoked]("cetrus.identity.agent.revoked.v1"),
		eventlog.Current[*identityv1.AgentReadmitted]("cetrus.identity.agent.readmitted.v1"),
		eventlog.Current[*identityv1.MaintenanceAnnounced]("cetrus.identity.maintenance.announced.v1"),
	)
}

// commands load aggregates, let them decide, and append.
type commands struct {
	together   eventlog.Together
	accounts   eventlog.Repository[Account]
	logins     eventlog.Repository[Login]
	groups     eventlog.Repository[Group]
	apiKeys    eventlog.Repository[APIKey]
	managers   eventlog.Repository[Manager]
	tokens     eventlog.Repository[EnrollmentToken]
	admissions eventlog.Repository[AgentAdmission]
	names      eventlog.Repository[Reservation]
	// announcements are of maintenance, of each login that is told.
	announcements eventlog.Repository[Announcements]
	keys          Keys
	nameKeys      *nameKeys
}

func newCommands(log eventlog.Log, registry *eventlog.Registry, keys Keys, secrets *pgxpool.Pool) *commands {
	return &commands{
		together:      eventlog.Together{Log: log, Registry: registry},
		accounts:      repository(log, registry, Account.Apply),
		logins:        repository(log, registry, Login.Apply),
		groups:        repository(log, registry, Group.Apply),
		apiKeys:       repository(log, registry, APIKey.Apply),
		managers:      repository(log, registry, Manager.Apply),
		tokens:        repository(log, registry, EnrollmentToken.Apply),
		admissions:    repository(log, registry, AgentAdmission.Apply),
		names:         repository(log, registry, Reservation.Apply),
		announcements: repository(log, registry, Announcements.Apply),
		keys:          keys,
		nameKeys:      &nameKeys{secrets: secrets, known: make(map[contract.ID]NameKey)},
	}
}

// repository is that of an aggregate whose state is a value, empty at first.
func repository[S any](log eventlog.Log, registry *eventlog.Registry, apply func(S, proto.Message) (S, error)) eventlog.Repository[S] {
	return eventlog.Repository[S]{Log: log, Registry: registry, New: func() S { var empty S; return empty }, Apply: apply}
}

// nameKeys are the keys under which names are hashed, of each account.
type nameKeys struct {
	secrets *pgxpool.Pool
	mu      sync.Mutex
	known   map[contract.ID]NameKey
}

// of is an account's key, drawn when it is first asked for; zero has that of accounts' names.
func (n *nameKeys) of(ctx context.Context, account contract.ID) (NameKey, error) {
	n.mu.Lock()
	key, ok := n.known[account]
	n.mu.Unlock()
	if ok {
		return key, nil
	}
	fresh := make([]byte, len(key))
	_, _ = rand.Read(fresh) // never fails, says its documentation
	if _, err := n.secrets.Exec(ctx, "INSERT INTO name_key (account_id, key) VALUES ($1, $2) ON CONFLICT DO NOTHING", [16]byte(account), fresh); err != nil {
		return key, fmt.Errorf("identity: key of names of %s: %w", account, err)
	}
	var stored []byte
	if err := n.secrets.QueryRow(ctx, "SELECT key FROM name_key WHERE account_id = $1", [16]byte(account)).Scan(&stored); err != nil {
		return key, fmt.Errorf("identity: key of names of %s: %w", account, err)
	}
	copy(key[:], stored)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.known[account] = key
	return key, nil
}

// reserve takes a name for its owner within a command; account is that of the subject.
func (c *commands) reserve(u *eventlog.Unit, op string, in, name, account, owner contract.ID) error {
	subject := nameSubject(in, name)
	reservation, err := eventlog.Read(u, &c.names, subject)
	if err != nil {
		return err
	}
	events, err := reservation.DecideReserve(op, account, owner)
	if err != nil {
		return err
	}
	return u.Append(subject, events...)
}

// release gives a name back.
func (c *commands) release(u *eventlog.Unit, in, name, account, owner contract.ID) error {
	subject := nameSubject(in, name)
	reservation, err := eventlog.Read(u, &c.names, subject)
	if err != nil {
		return err
	}
	return u.Append(subject, reservation.DecideRelease(account, owner)...)
}

// rename moves a reservation from one name to another, which may be another spelling of it.
func (c *commands) rename(u *eventlog.Unit, op string, in, from, to, account, owner contract.ID) error {
	if from == to {
		return nil
	}
	if err := c.reserve(u, op, in, to, account, owner); err != nil {
		return err
	}
	return c.release(u, in, from, account, owner)
}

// newAccount is an account and its first login.
type newAccount struct {
	id, administrator contract.ID
	name              string
	administratorWish LoginWish
}

// createAccount makes an account with its administrator.
func (c *commands) createAccount(ctx context.Context, op string, command eventlog.Command, want newAccount) (eventlog.Position, error) {
	want.name = tidyName(want.name)
	if problem := checkName(want.name, MaxAccountName); problem != "" {
		return 0, errs.InvalidFields(op, "", errs.Field{Path: "account.name", Description: problem})
	}
	accountNameKey, err := c.nameKeys.of(ctx, contract.ID{})
	if err != nil {
		return 0, err
	}
	loginNameKey, err := c.nameKeys.of(ctx, want.id)
	if err != nil {
		return 0, err
	}
	accountWords, err := wordsOf(ctx, c.keys, want.id, want.id)
	if err != nil {
		return 0, err
	}
	loginWords, err := wordsOf(ctx, c.keys, want.id, want.administrator)
	if err != nil {
		return 0, err
	}
	nameID := accountNameKey.ID(accountNames, want.name)
	everything := authn.PeoplesPrivileges()
	want.administratorWish.Privileges = &everything
	position, err := c.together.Execute(ctx, command, func(u *eventlog.Unit) error {
		account, err := eventlog.Read(u, &c.accounts, accountSubject(want.id))
		if err != nil {
			return err
		}
		events, err := account.DecideCreate(op, want.id, nameID, accountWords.seal(whatAccountName, want.name))
		if err != nil {
			return err
		}
		if err := u.Append(accountSubject(want.id), events...); err != nil {
			return err
		}
		if err := c.reserve(u, op, contract.ID{}, nameID, want.id, want.id); err != nil {
			return err
		}
		return c.addLogin(u, op, account, want.id, want.administrator, loginNameKey, loginWords, want.administratorWish)
	})
	return position, resource.CommandError(op, err)
}

// addLogin creates a login within a command that has read its account.
func (c *commands) addLogin(u *eventlog.Unit, op string, in Account, account, id contract.ID, key NameKey, words words, wish LoginWish) error {
	login, err := eventlog.Read(u, &c.logins, loginSubject(account, id))
	if err != nil {
		return err
	}
	events, err := login.DecideCreate(op, id, key, words, wish)
	if err != nil {
		return err
	}
	after, err := c.appendLogin(u, op, in, account, id, login, events)
	if err != nil {
		return err
	}
	return c.reserve(u, op, account, after.NameID, account, id)
}

// appendLogin appends to a login, and to its account where it becomes or ceases to be an
// administrator.
func (c *commands) appendLogin(u *eventlog.Unit, op string, in Account, account, id contract.ID, before Login, events []proto.Message) (Login, error) {
	after := before
	for _, e := range events {
		var err error
		if after, err = after.Apply(e); err != nil {
			return after, err
		}
	}
	if err := u.Append(loginSubject(account, id), events...); err != nil {
		return after, err
	}
	if before.Administers() == after.Administers() {
		return after, nil
	}
	about, err := in.DecideAdministrator(op, id, after.Administers(), c.canSignIn(u, account))
	if err != nil {
		return after, err
	}
	return after, u.Append(accountSubject(account), about...)
}

// canSignIn tells of logins whether they can sign in: whether they have a password, or an identity
// provider vouches for them. Who could once can for ever, so that nothing is expected of it.
func (c *commands) canSignIn(u *eventlog.Unit, account contract.ID) func(contract.ID) (bool, error) {
	return func(id contract.ID) (bool, error) {
		login, _, err := c.logins.Load(u.Context(), loginSubject(account, id))
		if err != nil || login.VouchedFor {
			return login.VouchedFor, err
		}
		has := false
		_, err = c.logins.Log.Each(u.Context(), contract.EventSubject(account, contextName, "credential", id.String()), func(e eventlog.Event) error {
			has = has || e.Type == passwordChangedType
			return nil
		})
		return has, err
	}
}

// renameAccount gives an account another name; etag, where not empty, must be the present one.
func (c *commands) renameAccount(ctx context.Context, op string, command eventlog.Command, id contract.ID, name, etag string) (eventlog.Position, error) {
	name = tidyName(name)
	if problem := checkName(name, MaxAccountName); problem != "" {
		return 0, errs.InvalidFields(op, "", errs.Field{Path: "account.name", Description: problem})
	}
	key, err := c.nameKeys.of(ctx, contract.ID{})
	if err != nil {
		return 0, err
	}
	words, err := wordsOf(ctx, c.keys, id, id)
	if err != nil {
		return 0, err
	}
	nameID := key.ID(accountNames, name)
	position, err := c.together.Execute(ctx, command, func(u *eventlog.Unit) error {
		account, err := eventlog.Read(u, &c.accounts, accountSubject(id))
		if err != nil {
			return err
		}
		if err := account.There(op, id); err != nil {
			return err
		}
		if etag != "" && etag != account.Etag() {
			return errs.New(errs.Conflict, op, "account "+id.String(), "it was changed since you read it: read it again, then repeat your change").WithReason("ETAG_MISMATCH")
		}
		if old, err := words.open(whatAccountName, account.SealedName); err != nil || old == name {
			return err
		}
		if err := u.Append(accountSubject(id), account.DecideRename(nameID, words.seal(whatAccountName, name))...); err != nil {
			return err
		}
		return c.rename(u, op, contract.ID{}, account.NameID, nameID, id, id)
	})
	return position, resource.CommandError(op, err)
}

// createLogin makes a login.
func (c *commands) createLogin(ctx context.Context, op string, command eventlog.Command, account, id contract.ID, wish LoginWish) (eventlog.Position, error) {
	key, words, err := c.prepareLogin(ctx, account, id)
	if err != nil {
		return 0, err
	}
	position, err := c.together.Execute(ctx, command, func(u *eventlog.Unit) error {
		in, err := c.readAccount(u, op, account)
		if err != nil {
			return err
		}
		if err := c.checkGroups(u, op, account, wish.Groups); err != nil {
			return err
		}
		return c.addLogin(u, op, in, account, id, key, words, wish)
	})
	return position, resource.CommandError(op, err)
}

func (c *commands) prepareLogin(ctx context.Context, account, id contract.ID) (NameKey, words, error) {
	key, err := c.nameKeys.of(ctx, account)
	if err != nil {
		return key, words{}, err
	}
	w, err := wordsOf(ctx, c.keys, account, id)
	return key, w, err
}

func (c *commands) readAccount(u *eventlog.Unit, op string, id contract.ID) (Account, error) {
	account, err := eventlog.Read(u, &c.accounts, accountSubject(id))
	if err != nil {
		return account, err
	}
	return account, account.There(op, id)
}

// checkGroups refuses groups that are not there.
func (c *commands) checkGroups(u *eventlog.Unit, op string, account contract.ID, groups *[]contract.ID) error {
	if groups == nil {
		return nil
	}
	for _, id := range *sorted(*groups) {
		group, err := eventlog.Read(u, &c.groups, groupSubject(account, id))
		if err != nil {
			return err
		}
		if !group.there() {
			return errs.InvalidFields(op, "", errs.Field{Path: "login.group_ids", Description: "there is no group " + id.String()})
		}
	}
	return nil
}

// changeLogin makes a login what the wish says.
func (c *commands) changeLogin(ctx context.Context, op string, command eventlog.Command, account, id contract.ID, wish LoginWish) (eventlog.Position, error) {
	key, err := c.nameKeys.of(ctx, account)
	if err != nil {
		return 0, err
	}
	// Before a key is drawn for an id that a stranger made up.
	if err := c.loginThere(ctx, op, account, id); err != nil {
		return 0, err
	}
	words, err := wordsOf(ctx, c.keys, account, id)
	if err != nil {
		return 0, err
	}
	position, err := c.together.Execute(ctx, command, func(u *eventlog.Unit) error {
		in, err := c.readAccount(u, op, account)
		if err != nil {
			return err
		}
		login, err := eventlog.Read(u, &c.logins, loginSubject(account, id))
		if err != nil {
			return err
		}
		events, err := login.DecideChange(op, id, key, words, wish)
		if err != nil {
			return err
		}
		if err := c.checkGroups(u, op, account, wish.Groups); err != nil {
			return err
		}
		after, err := c.appendLogin(u, op, in, account, id, login, events)
		if err != nil {
			return err
		}
		return c.rename(u, op, account, login.NameID, after.NameID, account, id)
	})
	return position, resource.CommandError(op, err)
}

// loginThere is an error where the log knows of no such login, or not any more: of one that was
// deleted nothing can be sealed.
func (c *commands) loginThere(ctx context.Context, op string, account, id contract.ID) error {
	login, _, err := c.logins.Load(ctx, loginSubject(account, id))
	if err != nil {
		return resource.CommandError(op, err)
	}
	return login.There(op, id)
}

// deleteLogin ends a login and frees its name. Of other accounts' logins of the same person the
// link ends too.
func (c *commands) deleteLogin(ctx context.Context, op string, command eventlog.Command, account, id contract.ID) (eventlog.Position, error) {
	return c.deleteLoginIf(ctx, op, command, account, id, func(Login) error { return nil })
}

// deleteLoginIf does so unless check refuses.
func (c *commands) deleteLoginIf(ctx context.Context, op string, command eventlog.Command, account, id contract.ID, check func(Login) error) (eventlog.Position, error) {
	position, err := c.together.Execute(ctx, command, func(u *eventlog.Unit) error {
		in, err := c.readAccount(u, op, account)
		if err != nil {
			return err
		}
		login, err := eventlog.Read(u, &c.logins, loginSubject(account, id))
		if err != nil {
			return err
		}
		if err := check(login); err != nil {
			return err
		}
		events, err := login.DecideDelete(op, id)
		if err != nil {
			return err
		}
		if _, err := c.appendLogin(u, op, in, account, id, login, events); err != nil {
			return err
		}
		for _, link := range login.Links {
			subject := loginSubject(link.Account, link.Login)
			other, err := eventlog.Read(u, &c.logins, subject)
			if err != nil {
				return err
			}
			if err := u.Append(subject, other.DecideUnlink(Link{account, id})...); err != nil {
				return err
			}
		}
		return c.release(u, account, login.NameID, account, id)
	})
	return position, resource.CommandError(op, err)
}

// linkLogins says that two logins of two accounts are one person's; whoever calls it has made
// sure of that.
func (c *commands) linkLogins(ctx context.Context, op string, command eventlog.Command, one, other signin.LinkEnd) (eventlog.Position, error) {
	if one.Account == other.Account {
		return 0, errs.New(errs.Invalid, op, "", "logins of one account are not linked: each is another person's")
	}
	position, err := c.together.Execute(ctx, command, func(u *eventlog.Unit) error {
		for _, pair := range [][2]signin.LinkEnd{{one, other}, {other, one}} {
			subject := loginSubject(pair[0].Account, pair[0].Login)
			login, err := eventlog.Read(u, &c.logins, subject)
			if err != nil {
				return err
			}
			events, err := login.DecideLink(op, pair[0].Login, Link(pair[1].Ref), pair[0].ByProvider)
			if err != nil {
				return err
			}
			if err := u.Append(subject, events...); err != nil {
				return err
			}
		}
		return nil
	})
	return position, resource.CommandError(op, err)
}

// unlinkLogins says that they are not, from either end, even where the other login is gone.
func (c *commands) unlinkLogins(ctx context.Context, op string, command eventlog.Command, one, other Link) (eventlog.Position, error) {
	position, err := c.together.Execute(ctx, command, func(u *eventlog.Unit) error {
		own, err := eventlog.Read(u, &c.logins, loginSubject(one.Account, one.Login))
		if err != nil {
			return err
		}
		if !slices.Contains(own.Links, other) {
			return errs.New(errs.NotFound, op, "login "+other.Login.String(), "it is no linked login of yours").WithReason(signin.ReasonNotLinked)
		}
		if err := u.Append(loginSubject(one.Account, one.Login), own.DecideUnlink(other)...); err != nil {
			return err
		}
		theirs, err := eventlog.Read(u, &c.logins, loginSubject(other.Account, other.Login))
		if err != nil {
			return err
		}
		return u.Append(loginSubject(other.Account, other.Login), theirs.DecideUnlink(one)...)
	})
	return position, resource.CommandError(op, err)
}

// defineGroup makes a group what the wish says.
func (c *commands) defineGroup(ctx context.Context, op string, command eventlog.Command, account, id contract.ID, wish GroupWish) (eventlog.Position, error) {
	key, err := c.nameKeys.of(ctx, account)
	if err != nil {
		return 0, err
	}
	position, err := c.together.Execute(ctx, command, func(u *eventlog.Unit) error {
		if _, err := c.readAccount(u, op, account); err != nil {
			return err
		}
		subject := groupSubject(account, id)
		group, err := eventlog.Read(u, &c.groups, subject)
		if err != nil {
			return err
		}
		events, err := group.DecideDefine(op, id, key, wish)
		if err != nil || len(events) == 0 {
			return err
		}
		after, err := group.Apply(events[0])
		if err != nil {
			return err
		}
		if err := u.Append(subject, events...); err != nil {
			return err
		}
		if wish.Create {
			return c.reserve(u, op, account, after.NameID, account, id)
		}
		return c.rename(u, op, account, group.NameID, after.NameID, account, id)
	})
	return position, resource.CommandError(op, err)
}

// deleteGroup ends a group and frees its name.
func (c *commands) deleteGroup(ctx context.Context, op string, command eventlog.Command, account, id contract.ID) (eventlog.Position, error) {
	position, err := c.together.Execute(ctx, command, func(u *eventlog.Unit) error {
		subject := groupSubject(account, id)
		group, err := eventlog.Read(u, &c.groups, subject)
		if err != nil {
			return err
		}
		events, err := group.DecideDelete(op, id)
		if err != nil {
			return err
		}
		if err := u.Append(subject, events...); err != nil {
			return err
		}
		return c.release(u, account, group.NameID, account, id)
	})
	return position, resource.CommandError(op, err)
}

// createAPIKey makes a key of a login and returns it; it is kept nowhere.
func (c *commands) createAPIKey(ctx context.Context, op, actor string, account, login contract.ID, wish KeyWish) (key string, position eventlog.Position, err error) {
	if err := c.loginThere(ctx, op, account, login); err != nil {
		return "", 0, err
	}
	words, err := wordsOf(ctx, c.keys, account, login)
	if err != nil {
		return "", 0, err
	}
	wish.Prefix, key = authn.NewKey()
	wish.SHA256 = sha256.Sum256([]byte(key))
	position, err = c.together.Execute(ctx, eventlog.Command{Actor: actor}, func(u *eventlog.Unit) error {
		owner, err := eventlog.Read(u, &c.logins, loginSubject(account, login))
		if err != nil {
			return err
		}
		if err := owner.There(op, login); err != nil {
			return err
		}
		subject := apiKeySubject(account, wish.ID)
		there, err := eventlog.Read(u, &c.apiKeys, subject)
		if err != nil {
			return err
		}
		events, err := there.DecideCreate(op, owner, words, wish, time.Now())
		if err != nil {
			return err
		}
		return u.Append(subject, events...)
	})
	return key, position, resource.CommandError(op, err)
}

// revokeAPIKey ends a key; of, where it is not zero, is the login that it must be of.
func (c *commands) revokeAPIKey(ctx context.Context, op string, command eventlog.Command, account, id, of contract.ID) (eventlog.Position, error) {
	result, err := c.apiKeys.Execute(ctx, apiKeySubject(account, id), command, func(k APIKey) ([]proto.Message, error) {
		if !of.IsZero() && k.Login != of {
			k = APIKey{} // another's is none
		}
		return k.DecideRevoke(op, id)
	})
	return result.Position, resource.CommandError(op, err)
}

// createManager makes room for a Manager. Its id is its inbox in NATS, where all accounts'
// Managers are together: so no two accounts have one of the same id.
func (c *commands) createManager(ctx context.Context, op string, command eventlog.Command, account, id contract.ID, name string, token [sha256.Size]byte) (eventlog.Position, error) {
	position, err := c.together.Execute(ctx, command, func(u *eventlog.Unit) error {
		subject := managerSubject(account, id)
		manager, err := eventlog.Read(u, &c.managers, subject)
		if err != nil {
			return err
		}
		events, err := manager.DecideCreate(op, id, name, token, time.Now())
		if err != nil {
			return err
		}
		if err := u.Append(subject, events...); err != nil {
			return err
		}
		err = c.reserve(u, op, contract.ID{}, resource.DerivedID(contract.ID{}, "manager", id.String()), account, id)
		if errs.Is(errs.AlreadyExists, err) {
			return errs.New(errs.AlreadyExists, op, "Manager "+id.String(), "this id is in use already: name none, then the platform chooses one")
		}
		return err
	})
	return position, resource.CommandError(op, err)
}

// named is whose a name is.
func (c *commands) named(ctx context.Context, in contract.ID, kind, name string) (owner contract.ID, found bool, err error) {
	key, err := c.nameKeys.of(ctx, in)
	if err != nil {
		return owner, false, err
	}
	reservation, _, err := c.names.Load(ctx, nameSubject(in, key.ID(kind, tidyName(name))))
	return reservation.Owner, !reservation.Owner.IsZero(), err
}
