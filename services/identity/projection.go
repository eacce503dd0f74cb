package identity

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/projection"
)

// viewsProjection keeps accounts, logins, groups and API keys as they are.
type viewsProjection struct {
	registry *eventlog.Registry
	operator contract.ID
}

// Apply implements projection.Handler. People's decisions are few: a row at a
// time will do.
func (p viewsProjection) Apply(ctx context.Context, tx pgx.Tx, batch []projection.Message) error {
	for _, m := range batch {
		if err := p.apply(ctx, tx, m); err != nil {
			return err
		}
	}
	return nil
}

// isOfCredential tells whether an event is of what a login proves itself with.
func isOfCredential(eventType string) bool {
	return strings.HasPrefix(eventType, "cetrus.identity.credential.")
}

// viewSubjects are those of the aggregates that the tables show: sessions and signing keys
// have no table.
func viewSubjects() []string {
	var subjects []string
	for _, aggregate := range []string{"account", "login", "group", "apikey", "manager", "name", "credential", tokenAggregate, admissionAggregate} {
		subjects = append(subjects, "ev.*.*."+contextName+"."+aggregate+".>")
	}
	return subjects
}

// place is where an event stands.
type place struct {
	account, id contract.ID
	at          time.Time
	position    eventlog.Position
}

func (p viewsProjection) apply(ctx context.Context, tx pgx.Tx, m projection.Message) error {
	event, err := eventlog.FromMessage(m.Subject, m.Header, m.Data, eventlog.Position(m.Position))
	if err != nil {
		return err
	}
	at, err := placeOf(m.Subject)
	if err != nil {
		return err
	}
	at.at, at.position = event.Time, event.Position
	if isOfCredential(event.Type) && !p.registry.Knows(event.Type) {
		return nil // of what a login proves itself with, a table tells one thing
	}
	message, err := p.registry.Decode(event)
	if err != nil {
		return err
	}
	for _, apply := range []func(context.Context, pgx.Tx, place, proto.Message) (bool, error){p.applyAccount, p.applyLogin, p.applyGroup, p.applyAPIKey, p.applyManager, p.applyEnrollmentToken, p.applyAdmission} {
		if known, err := apply(ctx, tx, at, message); known || err != nil {
			return err
		}
	}
	return fmt.Errorf("identity: %T at %d is not known to the projection", message, m.Position)
}

func (p viewsProjection) applyAccount(ctx context.Context, tx pgx.Tx, at place, message proto.Message) (bool, error) {
	var err error
	switch e := message.(type) {
	case *identityv1.AccountCreated:
		_, err = tx.Exec(ctx, "INSERT INTO account (account_id, sealed_name, revision, created, updated) VALUES ($1, $2, 1, $3, $3)",
			at.account, e.GetSealedName(), at.at)
		if err == nil {
			_, err = tx.Exec(ctx, "INSERT INTO account_entry (account_id, listed_account_id, created) VALUES ($1, $2, $3)", p.operator, at.account, at.at)
		}
	case *identityv1.AccountRenamed:
		_, err = tx.Exec(ctx, "UPDATE account SET sealed_name = $2, revision = revision + 1, updated = $3 WHERE account_id = $1",
			at.account, e.GetSealedName(), at.at)
	case *identityv1.AdministratorAdded, *identityv1.AdministratorRemoved, *identityv1.NameReserved, *identityv1.NameReleased:
		// They guard decisions; tables have the same from the login itself.
	default:
		return false, nil
	}
	return true, err
}

func (p viewsProjection) applyLogin(ctx context.Context, tx pgx.Tx, at place, message proto.Message) (bool, error) {
	set := func(columns string, values ...any) error {
		_, err := tx.Exec(ctx, "UPDATE login SET "+columns+", revision = revision + 1, updated = $3 WHERE account_id = $1 AND login_id = $2",
			append([]any{at.account, at.id, at.at}, values...)...)
		return err
	}
	var err error
	switch e := message.(type) {
	case *identityv1.LoginCreated:
		_, err = tx.Exec(ctx, "INSERT INTO login (account_id, login_id, sealed_name, revision, created, updated) VALUES ($1, $2, $3, 1, $4, $4)",
			at.account, at.id, e.GetSealedName(), at.at)
	case *identityv1.LoginRenamed:
		err = set("sealed_name = $4", e.GetSealedName())
	case *identityv1.LoginDescribed:
		err = set("sealed_display_name = $4, sealed_mail_address = $5", e.GetSealedDisplayName(), e.GetSealedMailAddress())
	case *identityv1.LoginPrivilegesChanged:
		err = set("privileges = $4", int32(authn.PrivilegesOf(e.GetPrivileges()...)))
	case *identityv1.LoginDisabled:
		err = set("disabled = true")
	case *identityv1.LoginEnabled:
		err = set("disabled = false")
	case *identityv1.LoginGroupsChanged:
		err = set("group_ids = $4", uuids(e.GetGroupIds()))
	case *identityv1.LoginApplicationsChanged:
		err = set("denied_application_ids = $4", uuids(e.GetDeniedApplicationIds()))
	case *identityv1.PasswordChanged:
		_, err = tx.Exec(ctx, "UPDATE login SET must_change_password = $3 WHERE account_id = $1 AND login_id = $2",
			at.account, at.id, e.GetSource() == identityv1.PasswordSource_PASSWORD_SOURCE_ONE_TIME)
	case *identityv1.LoginLinked:
		if err = set("deleted = deleted"); err == nil {
			_, err = tx.Exec(ctx, "INSERT INTO login_link (account_id, login_id, other_account_id, other_login_id) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
				at.account, at.id, [16]byte(e.GetAccountId()), [16]byte(e.GetLoginId()))
		}
	case *identityv1.LoginUnlinked:
		if err = set("deleted = deleted"); err == nil {
			_, err = tx.Exec(ctx, "DELETE FROM login_link WHERE account_id = $1 AND login_id = $2 AND other_account_id = $3 AND other_login_id = $4",
				at.account, at.id, [16]byte(e.GetAccountId()), [16]byte(e.GetLoginId()))
		}
	case *identityv1.LoginVouchedFor:
		err = set("deleted = deleted")
	case *identityv1.LoginProvisioned:
		var reference *[16]byte
		if hash := e.GetReferenceHash(); len(hash) == 16 {
			reference = (*[16]byte)(hash)
		}
		err = set("provisioned = true, sealed_person = $4, reference_hash = $5", e.GetSealedPerson(), reference)
	case *identityv1.LoginDeleted:
		if err = set("deleted = true"); err == nil {
			_, err = tx.Exec(ctx, "DELETE FROM login_link WHERE account_id = $1 AND login_id = $2", at.account, at.id)
		}
	default:
		return false, nil
	}
	return true, err
}

func (p viewsProjection) applyGroup(ctx context.Context, tx pgx.Tx, at place, message proto.Message) (bool, error) {
	var err error
	switch e := message.(type) {
	case *identityv1.GroupDefined:
		_, err = tx.Exec(ctx, `INSERT INTO login_group AS g (account_id, group_id, display_name, denied_application_ids, provisioned, provider_reference, revision, created, updated)
			VALUES ($1, $2, $3, $4, $6, $7, 1, $5, $5)
			ON CONFLICT (account_id, group_id) DO UPDATE SET display_name = excluded.display_name,
				denied_application_ids = excluded.denied_application_ids, provisioned = excluded.provisioned,
				provider_reference = excluded.provider_reference, revision = g.revision + 1, updated = excluded.updated`,
			at.account, at.id, e.GetDisplayName(), uuids(e.GetDeniedApplicationIds()), at.at, e.GetProvisioned(), e.GetProviderReference())
	case *identityv1.GroupDeleted:
		_, err = tx.Exec(ctx, "UPDATE login_group SET deleted = true, updated = $3 WHERE account_id = $1 AND group_id = $2", at.account, at.id, at.at)
	default:
		return false, nil
	}
	return true, err
}

func (p viewsProjection) applyAPIKey(ctx context.Context, tx pgx.Tx, at place, message proto.Message) (bool, error) {
	var err error
	switch e := message.(type) {
	case *identityv1.ApiKeyCreated:
		_, err = tx.Exec(ctx, `INSERT INTO api_key (account_id, api_key_id, login_id, prefix, sealed_display_name, privileges, expires, created)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			at.account, at.id, [16]byte(e.GetLoginId()), e.GetPrefix(), e.GetSealedDisplayName(), int32(authn.PrivilegesOf(e.GetPrivileges()...)), e.GetExpireTime().AsTime(), at.at)
	case *identityv1.ApiKeyRevoked:
		_, err = tx.Exec(ctx, "UPDATE api_key SET revoked = $3 WHERE account_id = $1 AND api_key_id = $2 AND revoked IS NULL", at.account, at.id, at.at)
	default:
		return false, nil
	}
	return true, err
}

func uuids(list [][]byte) [][16]byte {
	out := make([][16]byte, len(list))
	for i, b := range list {
		copy(out[i][:], b)
	}
	return out
}

// placeOf reads ev.<p>.<account>.identity.<aggregate>.<id>.
func placeOf(subject string) (place, error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) != 6 || tokens[0] != "ev" || tokens[3] != contextName {
		return place{}, errors.New("identity: " + subject + " is no subject of this service")
	}
	account, err := contract.ParseID(tokens[2])
	if err != nil {
		return place{}, fmt.Errorf("identity: %s: %w", subject, err)
	}
	id, err := contract.ParseID(tokens[5])
	if err != nil {
		return place{}, fmt.Errorf("identity: %s: %w", subject, err)
	}
	return place{account: account, id: id}, nil
}
