package identity

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/projection"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// wait returns once a decision can be read.
func (s *Service) wait(ctx context.Context, position eventlog.Position) error {
	if err := s.views.WaitFor(ctx, projection.AllPartitions, uint64(position)); err != nil {
		return errs.As(errs.Unavailable, "identity.wait", "", "the change is recorded but cannot be read yet: read it again later", err)
	}
	return nil
}

// listed is a page of rows with the token of the next.
type listed[R any] struct {
	rows  []R
	token string
}

// row is what is listed by age.
type row interface{ mark() resource.Mark }

// page reads what sql selects behind a mark ($2, $3), at most $4, in an account ($1).
func page[R row](ctx context.Context, s *Service, op, question string, account contract.ID, size int32, token, sql string, scan pgx.RowToFunc[R], more ...any) (listed[R], error) {
	var out listed[R]
	question += account.String()
	after, err := resource.ReadToken(op, question, token)
	if err != nil {
		return out, err
	}
	most := resource.PageSize(size, 100)
	err = s.stores.Views.InAccount(ctx, account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sql, append([]any{account, after.At, after.ID, most + 1}, more...)...)
		if err != nil {
			return err
		}
		out.rows, err = pgx.CollectRows(rows, scan)
		return err
	})
	if err != nil {
		return out, errs.Wrap(op, "", err)
	}
	if len(out.rows) > most {
		out.rows = out.rows[:most]
		out.token = resource.Token(question, out.rows[most-1].mark())
	}
	return out, nil
}

// one reads one row; found is false where there is none.
func one[R any](ctx context.Context, s *Service, account contract.ID, sql string, scan pgx.RowToFunc[R], args ...any) (found R, there bool, err error) {
	err = s.stores.Views.InAccount(ctx, account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, sql, append([]any{account}, args...)...)
		if err != nil {
			return err
		}
		all, err := pgx.CollectRows(rows, scan)
		if err == nil && len(all) > 0 {
			found, there = all[0], true
		}
		return err
	})
	return found, there, err
}

// accountRow is an account as its table has it.
type accountRow struct {
	id               contract.ID
	sealedName       []byte
	revision         int
	created, updated time.Time
}

func scanAccount(r pgx.CollectableRow) (a accountRow, err error) {
	return a, r.Scan((*[16]byte)(&a.id), &a.sealedName, &a.revision, &a.created, &a.updated)
}

// account tells an account.
func (s *Service) account(ctx context.Context, op string, id contract.ID) (*identityv1.Account, error) {
	r, there, err := one(ctx, s, id, "SELECT account_id, sealed_name, revision, created, updated FROM account WHERE account_id = $1::uuid", scanAccount)
	if err != nil {
		return nil, errs.Wrap(op, "account "+id.String(), err)
	}
	if !there {
		return nil, Account{}.There(op, id)
	}
	names, err := s.keys.OpenTexts(ctx, id, []keyring.Text{{Principal: id, What: whatAccountName, Sealed: r.sealedName}})
	if err != nil {
		return nil, errs.Wrap(op, "account "+id.String(), err)
	}
	return &identityv1.Account{
		AccountId: id.String(), Name: names[0], Etag: Account{Revision: r.revision}.Etag(),
		CreateTime: timestamppb.New(r.created), UpdateTime: timestamppb.New(r.updated),
	}, nil
}

// entryRow is an account in the operator's list.
type entryRow struct {
	id      contract.ID
	created time.Time
}

func (r entryRow) mark() resource.Mark { return resource.Mark{At: r.created, ID: r.id} }

// listAccounts lists accounts: each is read behind its own wall, a page at a time.
func (s *Service) listAccounts(ctx context.Context, op string, size int32, token string) (*identityv1.ListAccountsResponse, error) {
	entries, err := page(ctx, s, op, "accounts", s.cfg.Operator, size, token, `SELECT listed_account_id, created FROM account_entry WHERE account_id = $1::uuid
		AND (created, listed_account_id) > ($2, $3::uuid) ORDER BY created, listed_account_id LIMIT $4`,
		func(r pgx.CollectableRow) (e entryRow, err error) { return e, r.Scan((*[16]byte)(&e.id), &e.created) })
	if err != nil {
		return nil, err
	}
	resp := &identityv1.ListAccountsResponse{NextPageToken: entries.token}
	for _, e := range entries.rows {
		account, err := s.account(ctx, op, e.id)
		if err != nil {
			return nil, err
		}
		resp.Accounts = append(resp.Accounts, account)
	}
	return resp, nil
}

const loginColumns = `login_id, sealed_name, sealed_display_name, sealed_mail_address, privileges, disabled, must_change_password,
	ARRAY(SELECT g.group_id FROM login_group AS g WHERE g.account_id = $1::uuid AND g.group_id = ANY (login.group_ids) AND NOT g.deleted ORDER BY g.group_id),
	denied_application_ids, revision, created, updated,
	ARRAY(SELECT unnest(denied_application_ids) UNION SELECT unnest(g.denied_application_ids) FROM login_group AS g
		WHERE g.account_id = $1::uuid AND g.group_id = ANY (login.group_ids) AND NOT g.deleted ORDER BY 1)`

// loginRow is a login as its table has it.
type loginRow struct {
	Login
	mustChangePassword bool
	// refused are all applications that it may not use.
	refused          []contract.ID
	created, updated time.Time
}

func (r loginRow) mark() resource.Mark { return resource.Mark{At: r.created, ID: r.ID} }

func scanLogin(r pgx.CollectableRow) (l loginRow, err error) {
	var privileges int32
	var groups, denied, refused [][16]byte
	err = r.Scan((*[16]byte)(&l.ID), &l.SealedName, &l.SealedDisplayName, &l.SealedMailAddress, &privileges, &l.Disabled, &l.mustChangePassword,
		&groups, &denied, &l.Revision, &l.created, &l.updated, &refused)
	l.Privileges = authn.Privileges(privileges)
	l.Groups, l.Denied, l.refused = idsOfRaw(groups), idsOfRaw(denied), idsOfRaw(refused)
	return l, err
}

func idsOfRaw(list [][16]byte) []contract.ID {
	var ids []contract.ID
	for _, id := range list {
		ids = append(ids, id)
	}
	return ids
}

// rawIDs is the other way round, and never nil.
func rawIDs(list []contract.ID) [][16]byte {
	out := make([][16]byte, len(list))
	for i, id := range list {
		out[i] = id
	}
	return out
}

// loginMessages opens the words of logins.
func (s *Service) loginMessages(ctx context.Context, account contract.ID, rows []loginRow) ([]*identityv1.Login, error) {
	var texts []keyring.Text
	for _, r := range rows {
		texts = append(texts, keyring.Text{Principal: r.ID, What: whatName, Sealed: r.SealedName},
			keyring.Text{Principal: r.ID, What: whatDisplayName, Sealed: r.SealedDisplayName},
			keyring.Text{Principal: r.ID, What: whatMailAddress, Sealed: r.SealedMailAddress})
	}
	opened, err := s.keys.OpenTexts(ctx, account, texts)
	if err != nil {
		return nil, err
	}
	var messages []*identityv1.Login
	for i, r := range rows {
		messages = append(messages, &identityv1.Login{
			LoginId: r.ID.String(), Name: opened[3*i], DisplayName: opened[3*i+1], MailAddress: opened[3*i+2],
			Privileges: r.Privileges.List(), Disabled: r.Disabled, GroupIds: idTexts(r.Groups), DeniedApplicationIds: idTexts(r.Denied),
			RefusedApplicationIds: idTexts(r.refused), MustChangePassword: r.mustChangePassword, CreateTime: timestamppb.New(r.created), UpdateTime: timestamppb.New(r.updated), Etag: r.Etag(),
		})
	}
	return messages, nil
}

func idTexts(ids []contract.ID) []string {
	var texts []string
	for _, id := range ids {
		texts = append(texts, id.String())
	}
	return texts
}

// login tells one login.
func (s *Service) login(ctx context.Context, op string, account, id contract.ID) (*identityv1.Login, error) {
	r, there, err := one(ctx, s, account, "SELECT "+loginColumns+" FROM login WHERE account_id = $1::uuid AND login_id = $2::uuid AND NOT deleted", scanLogin, id)
	if err != nil {
		return nil, errs.Wrap(op, "login "+id.String(), err)
	}
	if !there {
		return nil, Login{}.There(op, id)
	}
	messages, err := s.loginMessages(ctx, account, []loginRow{r})
	if err != nil {
		return nil, errs.Wrap(op, "login "+id.String(), err)
	}
	return messages[0], nil
}

// links tells the logins of the same person in other accounts.
func (s *Service) links(ctx context.Context, account, id contract.ID) ([]*identityv1.LinkedLogin, error) {
	var links []*identityv1.LinkedLogin
	err := s.stores.Views.InAccount(ctx, account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT other_account_id, other_login_id FROM login_link WHERE account_id = $1::uuid AND login_id = $2::uuid
			ORDER BY other_account_id, other_login_id`, account, id)
		if err != nil {
			return err
		}
		links, err = pgx.CollectRows(rows, func(r pgx.CollectableRow) (*identityv1.LinkedLogin, error) {
			var link Link
			err := r.Scan((*[16]byte)(&link.Account), (*[16]byte)(&link.Login))
			return &identityv1.LinkedLogin{AccountId: link.Account.String(), LoginId: link.Login.String()}, err
		})
		return err
	})
	return links, err
}

// listLogins lists the logins of an account, or of one group; zero: all; or of these, unless there are none.
func (s *Service) listLogins(ctx context.Context, op string, account, group contract.ID, only []contract.ID, size int32, token string) (*identityv1.ListLoginsResponse, error) {
	found, err := page(ctx, s, op, "logins"+group.String()+fmt.Sprint(only), account, size, token, "SELECT "+loginColumns+` FROM login WHERE account_id = $1::uuid AND NOT deleted
		AND (created, login_id) > ($2, $3::uuid) AND ($5::uuid = '00000000-0000-0000-0000-000000000000' OR $5::uuid = ANY (group_ids))
		AND (cardinality($6::uuid[]) = 0 OR login_id = ANY ($6::uuid[])) ORDER BY created, login_id LIMIT $4`, scanLogin, group, rawIDs(only))
	if err != nil {
		return nil, err
	}
	messages, err := s.loginMessages(ctx, account, found.rows)
	return &identityv1.ListLoginsResponse{Logins: messages, NextPageToken: found.token}, errs.Wrap(op, "", err)
}

// groupRow is a group as its table has it.
type groupRow struct {
	Group
	created, updated time.Time
}

func (r groupRow) mark() resource.Mark { return resource.Mark{At: r.created, ID: r.ID} }

const groupColumns = "group_id, display_name, denied_application_ids, revision, created, updated"

func scanGroup(r pgx.CollectableRow) (g groupRow, err error) {
	var denied [][16]byte
	err = r.Scan((*[16]byte)(&g.ID), &g.DisplayName, &denied, &g.Revision, &g.created, &g.updated)
	g.Denied = idsOfRaw(denied)
	return g, err
}

func (r groupRow) message() *identityv1.Group {
	return &identityv1.Group{
		GroupId: r.ID.String(), DisplayName: r.DisplayName, DeniedApplicationIds: idTexts(r.Denied),
		CreateTime: timestamppb.New(r.created), UpdateTime: timestamppb.New(r.updated), Etag: r.Etag(),
	}
}

// group tells one group.
func (s *Service) group(ctx context.Context, op string, account, id contract.ID) (*identityv1.Group, error) {
	r, there, err := one(ctx, s, account, "SELECT "+groupColumns+" FROM login_group WHERE account_id = $1::uuid AND group_id = $2::uuid AND NOT deleted", scanGroup, id)
	if err != nil {
		return nil, errs.Wrap(op, "group "+id.String(), err)
	}
	if !there {
		return nil, Group{}.There(op, id)
	}
	return r.message(), nil
}

func (s *Service) listGroups(ctx context.Context, op string, account contract.ID, size int32, token string) (*identityv1.ListGroupsResponse, error) {
	found, err := page(ctx, s, op, "groups", account, size, token, "SELECT "+groupColumns+` FROM login_group WHERE account_id = $1::uuid AND NOT deleted
		AND (created, group_id) > ($2, $3::uuid) ORDER BY created, group_id LIMIT $4`, scanGroup)
	if err != nil {
		return nil, err
	}
	resp := &identityv1.ListGroupsResponse{NextPageToken: found.token}
	for _, r := range found.rows {
		resp.Groups = append(resp.Groups, r.message())
	}
	return resp, nil
}

// apiKeyRow is a key as its table has it.
type apiKeyRow struct {
	APIKey
	created time.Time
	revoked *time.Time
}

func (r apiKeyRow) mark() resource.Mark { return resource.Mark{At: r.created, ID: r.ID} }

const apiKeyColumns = "api_key_id, login_id, prefix, sealed_display_name, privileges, expires, created, revoked" //nolint:gosec // columns, no key

func scanAPIKey(r pgx.CollectableRow) (k apiKeyRow, err error) {
	var privileges int32
	err = r.Scan((*[16]byte)(&k.ID), (*[16]byte)(&k.Login), &k.Prefix, &k.SealedDisplayName, &privileges, &k.Expires, &k.created, &k.revoked)
	k.Privileges = authn.Privileges(privileges)
	return k, err
}

func (s *Service) apiKeyMessages(ctx context.Context, account contract.ID, rows []apiKeyRow) ([]*identityv1.ApiKey, error) {
	texts := make([]keyring.Text, len(rows))
	for i, r := range rows {
		texts[i] = keyring.Text{Principal: r.Login, What: whatAPIKey, Sealed: r.SealedDisplayName}
	}
	opened, err := s.keys.OpenTexts(ctx, account, texts)
	if err != nil {
		return nil, err
	}
	uses, err := s.keyUses(ctx, account, rows)
	if err != nil {
		return nil, err
	}
	var messages []*identityv1.ApiKey
	for i, r := range rows {
		m := &identityv1.ApiKey{
			ApiKeyId: r.ID.String(), DisplayName: opened[i], LoginId: r.Login.String(), Privileges: r.Privileges.List(),
			ExpireTime: timestamppb.New(r.Expires), Prefix: r.Prefix, CreateTime: timestamppb.New(r.created),
		}
		if r.revoked != nil {
			m.RevokeTime = timestamppb.New(*r.revoked)
		}
		if at, used := uses[r.ID]; used {
			m.LastUseTime = timestamppb.New(at)
		}
		messages = append(messages, m)
	}
	return messages, nil
}

// apiKey tells one key; of, where it is not zero, is the login that it must be of.
func (s *Service) apiKey(ctx context.Context, op string, account, id, of contract.ID) (*identityv1.ApiKey, error) {
	r, there, err := one(ctx, s, account, "SELECT "+apiKeyColumns+" FROM api_key WHERE account_id = $1::uuid AND api_key_id = $2::uuid", scanAPIKey, id)
	if err != nil {
		return nil, errs.Wrap(op, "API key "+id.String(), err)
	}
	if !there || !of.IsZero() && r.Login != of {
		return nil, APIKey{}.There(op, id)
	}
	messages, err := s.apiKeyMessages(ctx, account, []apiKeyRow{r})
	if err != nil {
		return nil, errs.Wrap(op, "API key "+id.String(), err)
	}
	return messages[0], nil
}

// keysWanted are which keys are listed: of one login, of some ids, that begin in some way; what is zero or empty
// leaves none out.
type keysWanted struct {
	login    contract.ID
	ids      []contract.ID
	prefixes []string
}

// listAPIKeys lists keys of an account.
func (s *Service) listAPIKeys(ctx context.Context, op string, account contract.ID, want keysWanted, size int32, token string) (*identityv1.ListApiKeysResponse, error) {
	found, err := page(ctx, s, op, "apiKeys"+fmt.Sprint(want), account, size, token, "SELECT "+apiKeyColumns+` FROM api_key WHERE account_id = $1::uuid
		AND (created, api_key_id) > ($2, $3::uuid) AND ($5::uuid = '00000000-0000-0000-0000-000000000000' OR login_id = $5::uuid)
		AND (cardinality($6::uuid[]) = 0 OR api_key_id = ANY ($6::uuid[])) AND (cardinality($7::text[]) = 0 OR prefix = ANY ($7::text[]))
		ORDER BY created, api_key_id LIMIT $4`, scanAPIKey, want.login, rawIDs(want.ids), append([]string{}, want.prefixes...))
	if err != nil {
		return nil, err
	}
	messages, err := s.apiKeyMessages(ctx, account, found.rows)
	return &identityv1.ListApiKeysResponse{ApiKeys: messages, NextPageToken: found.token}, errs.Wrap(op, "", err)
}

// findLogin is the login that two names name, as at sign-in: from the log itself, so that a name
// is known as soon as it is taken. found is false where there is none.
func (s *Service) findLogin(ctx context.Context, accountName, loginName string) (link Link, found bool, err error) {
	account, found, err := s.commands.named(ctx, contract.ID{}, accountNames, accountName)
	if err != nil || !found {
		return link, false, err
	}
	login, found, err := s.commands.named(ctx, account, loginNames, loginName)
	return Link{account, login}, found, err
}
