package identity

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/scim"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// referenceNames are hashed to find persons by what their provider calls them.
const referenceNames = "provisioned"

// provided is what an identity provider says of a person beyond what a login has.
type provided struct {
	Reference  string `json:"reference,omitempty"`
	GivenName  string `json:"given_name,omitempty"`
	FamilyName string `json:"family_name,omitempty"`
	// hash finds it by Reference; zero where there is none.
	hash contract.ID
}

// referenceID hashes what a provider calls a person: exactly, as providers tell cases apart.
func (k NameKey) referenceID(reference string) contract.ID {
	if reference == "" {
		return contract.ID{}
	}
	sum := sha256.Sum256([]byte(reference))
	return k.ID(referenceNames, hex.EncodeToString(sum[:]))
}

// provision says that an identity provider keeps the login; no events where it says so already.
func (l Login) provision(words sealer, p provided) ([]proto.Message, error) {
	raw, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("identity: what a provider says of a person: %w", err)
	}
	before, err := words.open(whatPerson, l.SealedPerson)
	if err != nil || l.Provisioned && before == string(raw) {
		return nil, err
	}
	event := &identityv1.LoginProvisioned{SealedPerson: words.seal(whatPerson, string(raw))}
	if !p.hash.IsZero() {
		event.ReferenceHash = p.hash[:]
	}
	return []proto.Message{event}, nil
}

// keptFromProviders tells whether a login is out of reach of providers: their own key's, above all.
func keptFromProviders(p authn.Privileges) bool {
	return p.Has(authzv1.Privilege_PRIVILEGE_PROVISIONING)
}

// provider is identity as provisioning asks it.
type provider struct{ service *Service }

// Provider is the directory for provisioning.
func (s *Service) Provider() scim.Directory { return provider{s} }

// userRow is a login as a provider's list has it.
type userRow struct {
	loginRow
	groups []scim.Group
}

const userColumns = `l.login_id, l.sealed_name, l.sealed_display_name, l.sealed_mail_address, l.sealed_person, l.disabled, l.revision, l.created, l.updated,
	ARRAY(SELECT g.group_id FROM login_group AS g WHERE g.account_id = $1::uuid AND g.group_id = ANY (l.group_ids) AND g.provisioned AND NOT g.deleted ORDER BY g.created, g.group_id),
	ARRAY(SELECT g.display_name FROM login_group AS g WHERE g.account_id = $1::uuid AND g.group_id = ANY (l.group_ids) AND g.provisioned AND NOT g.deleted ORDER BY g.created, g.group_id)`

// usersSeen are the logins that a provider sees; $2 says whether also those of administrators.
const usersSeen = ` FROM login AS l WHERE l.account_id = $1::uuid AND NOT l.deleted AND (l.provisioned OR $2::boolean) AND l.privileges & $3::int = 0`

func scanUser(r pgx.CollectableRow) (u userRow, err error) {
	var ids [][16]byte
	var names []string
	err = r.Scan((*[16]byte)(&u.ID), &u.SealedName, &u.SealedDisplayName, &u.SealedMailAddress, &u.SealedPerson, &u.Disabled, &u.Revision, &u.created, &u.updated, &ids, &names)
	for i, id := range ids {
		u.groups = append(u.groups, scim.Group{ID: id, Name: names[i]})
	}
	return u, err
}

// seen are the arguments of usersSeen.
func seen(account contract.ID, settings scim.Settings) []any {
	return []any{account, settings.LinkLogins, int32(authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_PROVISIONING))}
}

// usersAtOnce bounds how many users' words are open at a time while one is looked for.
const usersAtOnce = 500

// Users implements scim.Directory.
func (p provider) Users(ctx context.Context, account contract.ID, settings scim.Settings, q scim.Query) ([]scim.User, int, error) {
	where, args := "", seen(account, settings)
	only := func(column string, id contract.ID) {
		args = append(args, [16]byte(id))
		where += fmt.Sprintf(" AND l.%s = $%d", column, len(args))
	}
	if !q.ID.IsZero() {
		only("login_id", q.ID)
	}
	if q.Name != "" {
		id, found, err := p.service.commands.named(ctx, account, loginNames, q.Name)
		if err != nil || !found {
			return nil, 0, errs.Wrap("identity.Users", "", err)
		}
		only("login_id", id)
	}
	if q.Reference != "" {
		key, err := p.service.commands.nameKeys.of(ctx, account)
		if err != nil {
			return nil, 0, errs.Wrap("identity.Users", "", err)
		}
		only("reference_hash", key.referenceID(q.Reference))
	}
	var rows []userRow
	err := p.service.stores.Views.InAccount(ctx, account, func(tx pgx.Tx) error {
		found, err := tx.Query(ctx, "SELECT "+userColumns+usersSeen+where+" ORDER BY l.created, l.login_id", args...)
		if err != nil {
			return err
		}
		rows, err = pgx.CollectRows(found, scanUser)
		return err
	})
	if err != nil {
		return nil, 0, errs.Wrap("identity.Users", "", err)
	}
	if q.Match == nil {
		total := len(rows)
		rows = rows[min(q.Skip, total):]
		users, err := p.openUsers(ctx, account, rows[:min(q.Most, len(rows))])
		return users, total, err
	}
	var page []scim.User
	total := 0
	for part := range slices.Chunk(rows, usersAtOnce) {
		users, err := p.openUsers(ctx, account, part)
		if err != nil {
			return nil, 0, err
		}
		for _, u := range users {
			if !q.Match(u) {
				continue
			}
			if total++; total > q.Skip && len(page) < q.Most {
				page = append(page, u)
			}
		}
	}
	return page, total, nil
}

// openUsers opens the words of users.
func (p provider) openUsers(ctx context.Context, account contract.ID, rows []userRow) ([]scim.User, error) {
	var texts []keyring.Text
	for _, r := range rows {
		texts = append(texts, loginTexts(r.Login)...)
	}
	opened, err := p.service.keys.OpenTexts(ctx, account, texts)
	if err != nil {
		return nil, errs.Wrap("identity.Users", "", err)
	}
	var users []scim.User
	for i, r := range rows {
		u, err := userOf(r.Login, opened[4*i:4*i+4])
		if err != nil {
			return nil, err
		}
		u.Groups, u.Created, u.Updated = r.groups, r.created, r.updated
		users = append(users, u)
	}
	return users, nil
}

// loginTexts are what userOf needs, opened.
func loginTexts(l Login) []keyring.Text {
	return []keyring.Text{
		{Principal: l.ID, What: whatName, Sealed: l.SealedName},
		{Principal: l.ID, What: whatDisplayName, Sealed: l.SealedDisplayName},
		{Principal: l.ID, What: whatMailAddress, Sealed: l.SealedMailAddress},
		{Principal: l.ID, What: whatPerson, Sealed: l.SealedPerson},
	}
}

func userOf(l Login, opened []string) (scim.User, error) {
	var said provided
	if opened[3] != "" {
		if err := json.Unmarshal([]byte(opened[3]), &said); err != nil {
			return scim.User{}, fmt.Errorf("identity: what a provider says of %s: %w", l.ID, err)
		}
	}
	return scim.User{
		ID: l.ID, Name: opened[0], DisplayName: opened[1], MailAddress: opened[2], Reference: said.Reference, GivenName: said.GivenName, FamilyName: said.FamilyName,
		Active: !l.Disabled, Revision: l.Revision,
	}, nil
}

// user tells one user as it is after a position.
func (p provider) user(ctx context.Context, account contract.ID, settings scim.Settings, id contract.ID, position eventlog.Position) (scim.User, error) {
	if err := p.service.wait(ctx, position); err != nil {
		return scim.User{}, err
	}
	found, _, err := p.Users(ctx, account, settings, scim.Query{ID: id, Most: 1})
	if err == nil && len(found) == 0 {
		err = errs.New(errs.Conflict, "identity.provider", "login "+id.String(), "it was changed by somebody else at the same time: read it again")
	}
	if err != nil {
		return scim.User{}, err
	}
	return found[0], nil
}

// person is what of a user is said by LoginProvisioned.
func personOf(key NameKey, u scim.User) *provided {
	return &provided{Reference: u.Reference, GivenName: u.GivenName, FamilyName: u.FamilyName, hash: key.referenceID(u.Reference)}
}

// CreateUser implements scim.Directory.
func (p provider) CreateUser(ctx context.Context, by authn.Caller, settings scim.Settings, want scim.User) (scim.User, error) {
	const op = "identity.CreateUser"
	c := p.service.commands
	key, err := c.nameKeys.of(ctx, by.Account)
	if err != nil {
		return scim.User{}, errs.Wrap(op, "", err)
	}
	id, disabled, privileges := resource.NewID(), !want.Active, settings.Privileges(nil)
	position, err := c.createLogin(ctx, op, eventlog.Command{ID: resource.NewID().String(), Actor: by.Actor}, by.Account, id, LoginWish{
		Name: &want.Name, DisplayName: &want.DisplayName, MailAddress: &want.MailAddress, Privileges: &privileges,
		Disabled: &disabled, ByProvider: true, Person: personOf(key, want),
	})
	if err != nil {
		return scim.User{}, err
	}
	return p.user(ctx, by.Account, settings, id, position)
}

// noUser is an error as if it were not there.
func noUser(op string, id contract.ID) error {
	return errs.New(errs.NotFound, op, "", "there is no such user, or the identity provider does not keep it: "+id.String())
}

// prepareUser gathers what is needed to change a login, which must be there: no key is drawn for an
// id that was made up, and none is left of one that is gone.
func (c *commands) prepareUser(ctx context.Context, op string, account, id contract.ID) (NameKey, words, error) {
	login, _, err := c.logins.Load(ctx, loginSubject(account, id))
	if err != nil {
		return NameKey{}, words{}, resource.CommandError(op, err)
	}
	if !login.there() {
		return NameKey{}, words{}, noUser(op, id)
	}
	key, w, err := c.prepareLogin(ctx, account, id)
	return key, w, errs.Wrap(op, "", err)
}

// isInReach tells whether a provider may see and change the login.
func (l Login) isInReach(settings scim.Settings) bool {
	return l.there() && (l.Provisioned || settings.LinkLogins) && !keptFromProviders(l.Privileges)
}

// inReach is a login, within a command, that a provider may change.
func (c *commands) inReach(u *eventlog.Unit, op string, account, id contract.ID, settings scim.Settings) (Login, error) {
	login, err := eventlog.Read(u, &c.logins, loginSubject(account, id))
	if err != nil {
		return login, err
	}
	if !login.isInReach(settings) {
		return login, noUser(op, id)
	}
	return login, nil
}

// ChangeUser implements scim.Directory.
func (p provider) ChangeUser(ctx context.Context, by authn.Caller, settings scim.Settings, id contract.ID, change func(scim.User) (scim.User, error)) (scim.User, error) {
	const op = "identity.ChangeUser"
	c := p.service.commands
	key, words, err := c.prepareUser(ctx, op, by.Account, id)
	if err != nil {
		return scim.User{}, err
	}
	names, err := p.groupNames(ctx, by.Account)
	if err != nil {
		return scim.User{}, errs.Wrap(op, "", err)
	}
	position, err := c.together.Execute(ctx, eventlog.Command{Actor: by.Actor}, func(u *eventlog.Unit) error {
		in, err := c.readAccount(u, op, by.Account)
		if err != nil {
			return err
		}
		login, err := c.inReach(u, op, by.Account, id, settings)
		if err != nil {
			return err
		}
		before, err := userIn(login, words)
		if err != nil {
			return err
		}
		want, err := change(before)
		if err != nil {
			return err
		}
		wish, err := login.userWish(op, settings, before, want)
		if err != nil {
			return err
		}
		wish.Person = personOf(key, want)
		if err := c.refit(u, in, by.Account, login, &wish, settings, names, login.Groups); err != nil {
			return err
		}
		events, err := login.DecideChange(op, id, key, words, wish)
		if err != nil {
			return err
		}
		after, err := c.appendLogin(u, op, in, by.Account, id, login, events)
		if err != nil {
			return err
		}
		return c.rename(u, op, by.Account, login.NameID, after.NameID, by.Account, id)
	})
	if err != nil {
		return scim.User{}, resource.CommandError(op, err)
	}
	return p.user(ctx, by.Account, settings, id, position)
}

func userIn(l Login, words words) (scim.User, error) {
	var opened []string
	for _, t := range loginTexts(l) {
		text, err := words.open(t.What, t.Sealed)
		if err != nil {
			return scim.User{}, err
		}
		opened = append(opened, text)
	}
	return userOf(l, opened)
}

// userWish is what a login shall be, as far as a provider may say it.
func (l Login) userWish(op string, settings scim.Settings, before, want scim.User) (LoginWish, error) {
	wish := LoginWish{ByProvider: true}
	if want.DisplayName != before.DisplayName {
		wish.DisplayName = &want.DisplayName
	}
	if want.Name != before.Name || want.MailAddress != before.MailAddress {
		// Who can have a new password sent to themselves has what the login may.
		if l.Privileges&^settings.Managed() != 0 {
			return wish, errs.New(errs.Denied, op, "login "+l.ID.String(),
				"userName, emails: the login has privileges that no mapping gives, so an administrator alone changes its name and its mail address").WithReason(scim.ReasonMutability)
		}
		wish.Name, wish.MailAddress = &want.Name, &want.MailAddress
	}
	if want.Active != before.Active {
		if want.Active && !l.DisabledByProvider {
			return wish, errs.New(errs.Denied, op, "login "+l.ID.String(), "active: an administrator has disabled the login, and enables it").WithReason(scim.ReasonMutability)
		}
		disabled := !want.Active
		wish.Disabled = &disabled
	}
	return wish, nil
}

// refit completes a wish with what groups give: groups are those that the login shall be in, names
// those of the groups that the provider keeps. What no mapping gives is left as it is, and so is
// the account's last administrator.
func (c *commands) refit(u *eventlog.Unit, in Account, account contract.ID, l Login, wish *LoginWish, settings scim.Settings, names map[contract.ID]string, groups []contract.ID) error {
	var of []string
	for _, id := range groups {
		if name, ok := names[id]; ok {
			of = append(of, name)
		}
	}
	privileges := l.Privileges&^settings.Managed() | settings.Privileges(of)
	last, err := in.IsLast(l.ID, c.canSignIn(u, account))
	if err != nil {
		return err
	}
	if last {
		privileges |= authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR)
	}
	wish.Privileges, wish.Groups = &privileges, &groups
	return nil
}

// DeleteUser implements scim.Directory.
func (p provider) DeleteUser(ctx context.Context, by authn.Caller, settings scim.Settings, id contract.ID, check func(scim.User) error) error {
	const op = "identity.DeleteUser"
	_, words, err := p.service.commands.prepareUser(ctx, op, by.Account, id)
	if err != nil {
		return err
	}
	position, err := p.service.commands.deleteLoginIf(ctx, op, eventlog.Command{Actor: by.Actor}, by.Account, id, func(l Login) error {
		if !l.isInReach(settings) {
			return noUser(op, id)
		}
		before, err := userIn(l, words)
		if err != nil {
			return err
		}
		return check(before)
	})
	if err != nil {
		return err
	}
	return p.service.wait(ctx, position)
}

// groupNames are those of the groups that the provider keeps.
func (p provider) groupNames(ctx context.Context, account contract.ID) (map[contract.ID]string, error) {
	groups, err := p.groupRows(ctx, account, contract.ID{})
	names := map[contract.ID]string{}
	for _, g := range groups {
		names[g.ID] = g.Name
	}
	return names, err
}

func (p provider) groupRows(ctx context.Context, account, id contract.ID) (groups []scim.Group, err error) {
	err = p.service.stores.Views.InAccount(ctx, account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT group_id, display_name, provider_reference, revision, created, updated FROM login_group
			WHERE account_id = $1::uuid AND provisioned AND NOT deleted AND ($2::uuid = '00000000-0000-0000-0000-000000000000' OR group_id = $2::uuid)
			ORDER BY created, group_id`, account, [16]byte(id))
		if err != nil {
			return err
		}
		groups, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (g scim.Group, err error) {
			return g, r.Scan((*[16]byte)(&g.ID), &g.Name, &g.Reference, &g.Revision, &g.Created, &g.Updated)
		})
		return err
	})
	return groups, err
}

// Groups implements scim.Directory.
func (p provider) Groups(ctx context.Context, account contract.ID, settings scim.Settings, id contract.ID) ([]scim.Group, error) {
	const op = "identity.Groups"
	groups, err := p.groupRows(ctx, account, id)
	if err != nil || len(groups) == 0 {
		return nil, errs.Wrap(op, "", err)
	}
	type row struct {
		group, login contract.ID
		sealed       []byte
	}
	var rows []row
	var ids [][16]byte
	for _, g := range groups {
		ids = append(ids, g.ID)
	}
	err = p.service.stores.Views.InAccount(ctx, account, func(tx pgx.Tx) error {
		found, err := tx.Query(ctx, `SELECT g, l.login_id, l.sealed_name FROM (SELECT unnest(l.group_ids) AS g, l.*`+usersSeen+`) AS l WHERE g = ANY ($4::uuid[])
			ORDER BY l.created, l.login_id`, append(seen(account, settings), ids)...)
		if err != nil {
			return err
		}
		rows, err = pgx.CollectRows(found, func(r pgx.CollectableRow) (m row, err error) {
			return m, r.Scan((*[16]byte)(&m.group), (*[16]byte)(&m.login), &m.sealed)
		})
		return err
	})
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	var texts []keyring.Text
	for _, r := range rows {
		texts = append(texts, keyring.Text{Principal: r.login, What: whatName, Sealed: r.sealed})
	}
	names, err := p.service.keys.OpenTexts(ctx, account, texts)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	members := map[contract.ID][]scim.Member{}
	for i, r := range rows {
		members[r.group] = append(members[r.group], scim.Member{ID: r.login, Name: names[i]})
	}
	for i := range groups {
		groups[i].Members = members[groups[i].ID]
	}
	return groups, nil
}

// CreateGroup implements scim.Directory.
func (p provider) CreateGroup(ctx context.Context, by authn.Caller, settings scim.Settings, want scim.Group) (scim.Group, error) {
	const op = "identity.CreateGroup"
	want.ID = resource.NewID()
	if err := p.membersThere(ctx, by.Account, settings, want.Members); err != nil {
		return scim.Group{}, err
	}
	position, err := p.service.commands.defineGroup(ctx, op, eventlog.Command{Actor: by.Actor}, by.Account, want.ID,
		GroupWish{Create: true, DisplayName: &want.Name, Reference: &want.Reference, Provisioned: true})
	if err != nil {
		return scim.Group{}, err
	}
	return p.setMembers(ctx, op, by, settings, scim.Group{ID: want.ID}, want, position)
}

// membersThere refuses members that a provider may not have in a group, before anything is decided.
func (p provider) membersThere(ctx context.Context, account contract.ID, settings scim.Settings, members []scim.Member) error {
	if len(members) == 0 {
		return nil
	}
	var ids [][16]byte
	for _, m := range members {
		ids = append(ids, m.ID)
	}
	var there [][16]byte
	err := p.service.stores.Views.InAccount(ctx, account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT l.login_id"+usersSeen+" AND l.login_id = ANY ($4::uuid[])", append(seen(account, settings), ids)...)
		if err != nil {
			return err
		}
		there, err = pgx.CollectRows(rows, pgx.RowTo[[16]byte])
		return err
	})
	if err != nil {
		return errs.Wrap("identity.provider", "", err)
	}
	known := map[contract.ID]bool{}
	for _, id := range there {
		known[id] = true
	}
	for _, m := range members {
		if !known[m.ID] {
			return errs.InvalidFields("identity.provider", "", errs.Field{Path: "members", Description: "there is no user " + m.ID.String() + " that the identity provider keeps"})
		}
	}
	return nil
}

// ChangeGroup implements scim.Directory.
func (p provider) ChangeGroup(ctx context.Context, by authn.Caller, settings scim.Settings, id contract.ID, change func(scim.Group) (scim.Group, error)) (scim.Group, error) {
	const op = "identity.ChangeGroup"
	before, err := p.oneGroup(ctx, op, by.Account, settings, id)
	if err != nil {
		return scim.Group{}, err
	}
	want, err := change(before)
	if err != nil {
		return scim.Group{}, err
	}
	if err := p.membersThere(ctx, by.Account, settings, without(want.Members, before.Members)); err != nil {
		return scim.Group{}, err
	}
	position, err := p.service.commands.defineGroup(ctx, op, eventlog.Command{Actor: by.Actor}, by.Account, id, GroupWish{DisplayName: &want.Name, Reference: &want.Reference})
	if err != nil {
		return scim.Group{}, err
	}
	return p.setMembers(ctx, op, by, settings, before, want, position)
}

func (p provider) oneGroup(ctx context.Context, op string, account contract.ID, settings scim.Settings, id contract.ID) (scim.Group, error) {
	found, err := p.Groups(ctx, account, settings, id)
	if err != nil {
		return scim.Group{}, err
	}
	if len(found) == 0 {
		return scim.Group{}, errs.New(errs.NotFound, op, "", "there is no such group, or the identity provider does not keep it: "+id.String())
	}
	return found[0], nil
}

// without are the members of a that are not in b.
func without(a, b []scim.Member) []scim.Member {
	in := map[contract.ID]bool{}
	for _, m := range b {
		in[m.ID] = true
	}
	return slices.DeleteFunc(slices.Clone(a), func(m scim.Member) bool { return in[m.ID] })
}

// setMembers puts those into a group that shall be in it, and takes the others out. Where it got
// another name, the mappings of all of them may be others.
func (p provider) setMembers(ctx context.Context, op string, by authn.Caller, settings scim.Settings, before, want scim.Group, position eventlog.Position) (scim.Group, error) {
	if err := p.service.wait(ctx, position); err != nil {
		return scim.Group{}, err
	}
	names, err := p.groupNames(ctx, by.Account)
	if err != nil {
		return scim.Group{}, errs.Wrap(op, "", err)
	}
	gone, come := without(before.Members, want.Members), without(want.Members, before.Members)
	if before.Name != want.Name {
		come = want.Members
	}
	out := func(groups []contract.ID) []contract.ID {
		return slices.DeleteFunc(slices.Clone(groups), func(id contract.ID) bool { return id == want.ID })
	}
	into := func(groups []contract.ID) []contract.ID { return append(out(groups), want.ID) }
	last, err := p.regroup(ctx, op, by, settings, names, gone, out)
	if err != nil {
		return scim.Group{}, err
	}
	position = max(position, last)
	if last, err = p.regroup(ctx, op, by, settings, names, come, into); err != nil {
		return scim.Group{}, err
	}
	if err := p.service.wait(ctx, max(position, last)); err != nil {
		return scim.Group{}, err
	}
	return p.oneGroup(ctx, op, by.Account, settings, want.ID)
}

// regroup changes the groups of logins, one after another, and gives them what they so get. One
// that is gone meanwhile is passed over.
func (p provider) regroup(ctx context.Context, op string, by authn.Caller, settings scim.Settings, names map[contract.ID]string, of []scim.Member, change func([]contract.ID) []contract.ID) (last eventlog.Position, err error) {
	c := p.service.commands
	for _, m := range of {
		key, words, err := c.prepareUser(ctx, op, by.Account, m.ID)
		if errs.Is(errs.NotFound, err) {
			continue
		}
		if err != nil {
			return last, err
		}
		position, err := c.together.Execute(ctx, eventlog.Command{Actor: by.Actor}, func(u *eventlog.Unit) error {
			in, err := c.readAccount(u, op, by.Account)
			if err != nil {
				return err
			}
			login, err := c.inReach(u, op, by.Account, m.ID, settings)
			if err != nil {
				return err
			}
			wish := LoginWish{}
			if !login.Provisioned {
				wish.Person = &provided{} // who is put into a provider's group is kept by it
			}
			if err := c.refit(u, in, by.Account, login, &wish, settings, names, change(login.Groups)); err != nil {
				return err
			}
			events, err := login.DecideChange(op, m.ID, key, words, wish)
			if err != nil {
				return err
			}
			_, err = c.appendLogin(u, op, in, by.Account, m.ID, login, events)
			return err
		})
		if err != nil && !errs.Is(errs.NotFound, err) {
			return last, resource.CommandError(op, err)
		}
		last = max(last, position)
	}
	return last, nil
}

// DeleteGroup implements scim.Directory.
func (p provider) DeleteGroup(ctx context.Context, by authn.Caller, settings scim.Settings, id contract.ID, check func(scim.Group) error) error {
	const op = "identity.DeleteGroup"
	before, err := p.oneGroup(ctx, op, by.Account, settings, id)
	if err != nil {
		return err
	}
	if err := check(before); err != nil {
		return err
	}
	after := before
	after.Members = nil
	if _, err := p.setMembers(ctx, op, by, settings, before, after, 0); err != nil {
		return err
	}
	position, err := p.service.commands.deleteGroup(ctx, op, eventlog.Command{Actor: by.Actor}, by.Account, id)
	if err != nil {
		return err
	}
	return p.service.wait(ctx, position)
}

// Refit implements scim.Directory.
func (p provider) Refit(ctx context.Context, by authn.Caller, settings scim.Settings) error {
	const op = "identity.Refit"
	names, err := p.groupNames(ctx, by.Account)
	if err != nil {
		return errs.Wrap(op, "", err)
	}
	settings.LinkLogins = false // those of administrators are not the provider's yet
	var members []scim.Member
	err = p.service.stores.Views.InAccount(ctx, by.Account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT l.login_id"+usersSeen, seen(by.Account, settings)...)
		if err != nil {
			return err
		}
		members, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (m scim.Member, err error) { return m, r.Scan((*[16]byte)(&m.ID)) })
		return err
	})
	if err != nil {
		return errs.Wrap(op, "", err)
	}
	last, err := p.regroup(ctx, op, by, settings, names, members, slices.Clone[[]contract.ID])
	if err != nil {
		return err
	}
	return p.service.wait(ctx, last)
}
