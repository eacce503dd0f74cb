package identity

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/enrollment"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// maxLiveTokens is how many tokens of one Manager may admit at a time: less than it keeps.
const maxLiveTokens = 500

func (p viewsProjection) applyEnrollmentToken(ctx context.Context, tx pgx.Tx, at place, message proto.Message) (bool, error) {
	var err error
	switch e := message.(type) {
	case *identityv1.EnrollmentTokenCreated:
		var of contract.ID
		if of, err = contract.IDFrom(e.GetManagerId()); err != nil {
			return true, fmt.Errorf("identity: enrolment token created: %w", err)
		}
		_, err = tx.Exec(ctx, `INSERT INTO enrollment_token (account_id, enrollment_token_id, manager_id, display_name, max_uses, created, expires, position, decided_ms)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
			at.account, at.id, of, e.GetDisplayName(), e.GetMaxUses(), at.at, e.GetExpireTime().AsTime(), int64(at.position), at.at.UnixMilli())
	case *identityv1.EnrollmentTokenRevoked:
		_, err = tx.Exec(ctx, "UPDATE enrollment_token SET revoked = $3, position = $4, decided_ms = $5 WHERE account_id = $1 AND enrollment_token_id = $2",
			at.account, at.id, at.at, int64(at.position), at.at.UnixMilli())
	default:
		return false, nil
	}
	return true, err
}

// tokenRow is a token as its table has it.
type tokenRow struct {
	id, manager      contract.ID
	name             string
	maxUses, used    int32
	created, expires time.Time
	revoked          *time.Time
	pending          bool
}

func (r tokenRow) mark() resource.Mark { return resource.Mark{At: r.created, ID: r.id} }

func (r tokenRow) message() *identityv1.EnrollmentToken {
	t := &identityv1.EnrollmentToken{
		EnrollmentTokenId: r.id.String(), ManagerId: r.manager.String(), DisplayName: r.name, MaxUses: r.maxUses, Used: r.used,
		CreateTime: timestamppb.New(r.created), ExpireTime: timestamppb.New(r.expires), Pending: r.pending,
	}
	if r.revoked != nil {
		t.RevokeTime = timestamppb.New(*r.revoked)
	}
	return t
}

// enrolmentSQL selects an account's ($1) tokens.
const enrolmentSQL = `SELECT t.enrollment_token_id, t.manager_id, t.display_name, t.max_uses, t.used, t.created, t.expires, t.revoked,
	m.admission_position < t.position OR m.admission_ms < t.decided_ms
	FROM enrollment_token AS t JOIN manager AS m USING (account_id, manager_id) WHERE t.account_id = $1::uuid`

func scanToken(r pgx.CollectableRow) (t tokenRow, err error) {
	return t, r.Scan((*[16]byte)(&t.id), (*[16]byte)(&t.manager), &t.name, &t.maxUses, &t.used, &t.created, &t.expires, &t.revoked, &t.pending)
}

// enrollmentTokenAPI serves cetrus.identity.v1.EnrollmentTokenService.
type enrollmentTokenAPI struct {
	identityv1.UnimplementedEnrollmentTokenServiceServer
	service *Service
}

// read tells a token as it is after a position.
func (a *enrollmentTokenAPI) read(ctx context.Context, op string, account, manager, id contract.ID, position eventlog.Position) (*identityv1.EnrollmentToken, error) {
	if err := a.service.wait(ctx, position); err != nil {
		return nil, err
	}
	r, there, err := one(ctx, a.service, account, enrolmentSQL+" AND t.enrollment_token_id = $2::uuid AND t.manager_id = $3::uuid", scanToken, id, manager)
	if err != nil {
		return nil, errs.Wrap(op, "enrolment token "+id.String(), err)
	}
	if !there {
		return nil, EnrollmentToken{}.There(op, id, manager)
	}
	return r.message(), nil
}

func (a *enrollmentTokenAPI) CreateEnrollmentToken(ctx context.Context, req *identityv1.CreateEnrollmentTokenRequest) (*identityv1.CreateEnrollmentTokenResponse, error) {
	const op = "identity.CreateEnrollmentToken"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	manager, err := resource.ParseID(op, "manager_id", req.GetManagerId())
	if err != nil {
		return nil, err
	}
	if err := a.service.roomForToken(ctx, op, caller.Account, manager); err != nil {
		return nil, err
	}
	var token enrollment.Token
	wish := TokenWish{ID: resource.NewID(), DisplayName: req.GetEnrollmentToken().GetDisplayName(), MaxUses: req.GetEnrollmentToken().GetMaxUses()}
	if at := req.GetEnrollmentToken().GetExpireTime(); at != nil {
		wish.Expires = at.AsTime()
	}
	copy(token.ID[:], wish.ID[:])
	_, _ = rand.Read(token.Secret[:])
	wish.SHA256 = sha256.Sum256(token.Credential())
	c := a.service.commands
	position, err := c.together.Execute(ctx, eventlog.Command{Actor: caller.Actor}, func(u *eventlog.Unit) error {
		of, err := eventlog.Read(u, &c.managers, managerSubject(caller.Account, manager))
		if err != nil {
			return err
		}
		if err := of.There(op, manager); err != nil {
			return err
		}
		if len(of.Report.Authorities) == 0 {
			return errs.New(errs.Precondition, op, "Manager "+manager.String(),
				"it has not told yet who is its site's authority, which the token has to name: let it connect, once and in this release, or make the token there (cetrus-manager token create)")
		}
		token.Authority = of.Report.Authorities[0]
		there, err := eventlog.Read(u, &c.tokens, tokenSubject(caller.Account, wish.ID))
		if err != nil {
			return err
		}
		events, err := there.DecideCreate(op, of, wish, time.Now())
		if err != nil {
			return err
		}
		return u.Append(tokenSubject(caller.Account, wish.ID), events...)
	})
	if err != nil {
		return nil, resource.CommandError(op, err)
	}
	made, err := a.read(ctx, op, caller.Account, manager, wish.ID, position)
	if err != nil {
		return nil, err
	}
	return &identityv1.CreateEnrollmentTokenResponse{EnrollmentToken: made, Token: token.Text()}, nil
}

// roomForToken refuses a token too many. Two at once may both find the last place: the bound is
// well below what Managers keep.
func (s *Service) roomForToken(ctx context.Context, op string, account, manager contract.ID) error {
	live, _, err := one(ctx, s, account, "SELECT count(*) FROM enrollment_token WHERE account_id = $1::uuid AND manager_id = $2::uuid AND revoked IS NULL AND expires > now() AND used < max_uses",
		pgx.RowTo[int], manager)
	if err != nil {
		return errs.Wrap(op, "Manager "+manager.String(), err)
	}
	if live >= maxLiveTokens {
		return errs.New(errs.Precondition, op, "Manager "+manager.String(), fmt.Sprintf("%d of its tokens admit agents: revoke some first", live))
	}
	return nil
}

func (a *enrollmentTokenAPI) GetEnrollmentToken(ctx context.Context, req *identityv1.GetEnrollmentTokenRequest) (*identityv1.GetEnrollmentTokenResponse, error) {
	const op = "identity.GetEnrollmentToken"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	manager, err := resource.ParseID(op, "manager_id", req.GetManagerId())
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "enrollment_token_id", req.GetEnrollmentTokenId())
	if err != nil {
		return nil, err
	}
	t, err := a.read(ctx, op, caller.Account, manager, id, 0)
	return &identityv1.GetEnrollmentTokenResponse{EnrollmentToken: t}, err
}

func (a *enrollmentTokenAPI) ListEnrollmentTokens(ctx context.Context, req *identityv1.ListEnrollmentTokensRequest) (*identityv1.ListEnrollmentTokensResponse, error) {
	const op = "identity.ListEnrollmentTokens"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	manager, err := resource.ParseID(op, "manager_id", req.GetManagerId())
	if err != nil {
		return nil, err
	}
	if _, err := a.service.manager(ctx, op, caller.Account, manager); err != nil {
		return nil, err
	}
	found, err := page(ctx, a.service, op, "enrollmentTokens"+manager.String(), caller.Account, req.GetPageSize(), req.GetPageToken(), enrolmentSQL+` AND t.manager_id = $5::uuid
		AND (t.created, t.enrollment_token_id) > ($2, $3::uuid) ORDER BY t.created, t.enrollment_token_id LIMIT $4`, scanToken, manager)
	if err != nil {
		return nil, err
	}
	answer := &identityv1.ListEnrollmentTokensResponse{NextPageToken: found.token}
	for _, r := range found.rows {
		answer.EnrollmentTokens = append(answer.EnrollmentTokens, r.message())
	}
	return answer, nil
}

func (a *enrollmentTokenAPI) RevokeEnrollmentToken(ctx context.Context, req *identityv1.RevokeEnrollmentTokenRequest) (*identityv1.RevokeEnrollmentTokenResponse, error) {
	const op = "identity.RevokeEnrollmentToken"
	caller, command, err := asked(ctx, op, req)
	if err != nil {
		return nil, err
	}
	manager, err := resource.ParseID(op, "manager_id", req.GetManagerId())
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "enrollment_token_id", req.GetEnrollmentTokenId())
	if err != nil {
		return nil, err
	}
	result, err := a.service.commands.tokens.Execute(ctx, tokenSubject(caller.Account, id), command, func(t EnrollmentToken) ([]proto.Message, error) {
		return t.DecideRevoke(op, id, manager)
	})
	if err != nil {
		return nil, resource.CommandError(op, err)
	}
	t, err := a.read(ctx, op, caller.Account, manager, id, result.Position)
	return &identityv1.RevokeEnrollmentTokenResponse{EnrollmentToken: t}, err
}
