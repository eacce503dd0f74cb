package identity

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nkeys"
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

func managerSubject(account, manager contract.ID) string {
	return contract.EventSubject(account, contextName, "manager", manager.String())
}

func (p viewsProjection) applyManager(ctx context.Context, tx pgx.Tx, at place, message proto.Message) (bool, error) {
	var err error
	switch e := message.(type) {
	case *identityv1.ManagerCreated:
		_, err = tx.Exec(ctx, "INSERT INTO manager (account_id, manager_id, display_name, created) VALUES ($1, $2, $3, $4)", at.account, at.id, e.GetDisplayName(), at.at)
	case *identityv1.ManagerTokenIssued:
		// It guards enrolment; nobody lists it.
	case *identityv1.ManagerEnrolled:
		_, err = tx.Exec(ctx, "UPDATE manager SET enrolled = $3 WHERE account_id = $1 AND manager_id = $2", at.account, at.id, at.at)
	case *identityv1.ManagerRevoked:
		_, err = tx.Exec(ctx, "UPDATE manager SET revoked = $3 WHERE account_id = $1 AND manager_id = $2", at.account, at.id, at.at)
	case *identityv1.ManagerReported:
		return true, p.applyReport(ctx, tx, at, e)
	default:
		return false, nil
	}
	return true, err
}

func (p viewsProjection) applyReport(ctx context.Context, tx pgx.Tx, at place, e *identityv1.ManagerReported) error {
	told, err := reported(e)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "UPDATE manager SET admission_position = $3, admission_ms = $4 WHERE account_id = $1 AND manager_id = $2",
		at.account, at.id, int64(told.Position), told.Time.UnixMilli())
	for id, used := range told.Uses {
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE enrollment_token SET used = $4 WHERE account_id = $1 AND manager_id = $2 AND enrollment_token_id = $3", at.account, at.id, id, used)
	}
	return err
}

// managerRow is a Manager as its table has it.
type managerRow struct {
	id                contract.ID
	name              string
	created           time.Time
	enrolled, revoked *time.Time
}

func (r managerRow) mark() resource.Mark { return resource.Mark{At: r.created, ID: r.id} }

func (r managerRow) message() *identityv1.Manager {
	m := &identityv1.Manager{ManagerId: r.id.String(), DisplayName: r.name, CreateTime: timestamppb.New(r.created)}
	if r.enrolled != nil {
		m.EnrollTime = timestamppb.New(*r.enrolled)
	}
	if r.revoked != nil {
		m.RevokeTime = timestamppb.New(*r.revoked)
	}
	return m
}

const managerColumns = "manager_id, display_name, created, enrolled, revoked"

func scanManager(r pgx.CollectableRow) (m managerRow, err error) {
	var id [16]byte
	err = r.Scan(&id, &m.name, &m.created, &m.enrolled, &m.revoked)
	m.id = id
	return m, err
}

func (s *Service) manager(ctx context.Context, op string, account, id contract.ID) (*identityv1.Manager, error) {
	r, there, err := one(ctx, s, account, "SELECT "+managerColumns+" FROM manager WHERE account_id = $1::uuid AND manager_id = $2::uuid", scanManager, id)
	if err != nil {
		return nil, errs.Wrap(op, "Manager "+id.String(), err)
	}
	if !there {
		return nil, Manager{}.There(op, id)
	}
	return r.message(), nil
}

// managerAPI serves cetrus.identity.v1.ManagerService.
type managerAPI struct {
	identityv1.UnimplementedManagerServiceServer
	service *Service
}

func (a *managerAPI) CreateManager(ctx context.Context, req *identityv1.CreateManagerRequest) (*identityv1.CreateManagerResponse, error) {
	const op = "identity.CreateManager"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id := resource.NewID()
	if text := req.GetManager().GetManagerId(); text != "" {
		if id, err = resource.ParseID(op, "manager.manager_id", text); err != nil {
			return nil, err
		}
	}
	token := enrollment.NewManagerToken(caller.Account, id)
	position, err := a.service.commands.createManager(ctx, op, eventlog.Command{Actor: caller.Actor}, caller.Account, id, req.GetManager().GetDisplayName(), token.Hash())
	if err != nil {
		return nil, err
	}
	made, err := a.read(ctx, op, caller.Account, id, position)
	if err != nil {
		return nil, err
	}
	return &identityv1.CreateManagerResponse{Manager: made, Token: token.Text()}, nil
}

// read tells a Manager as it is after a position.
func (a *managerAPI) read(ctx context.Context, op string, account, id contract.ID, position eventlog.Position) (*identityv1.Manager, error) {
	if err := a.service.wait(ctx, position); err != nil {
		return nil, err
	}
	return a.service.manager(ctx, op, account, id)
}

func (a *managerAPI) GetManager(ctx context.Context, req *identityv1.GetManagerRequest) (*identityv1.GetManagerResponse, error) {
	const op = "identity.GetManager"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "manager_id", req.GetManagerId())
	if err != nil {
		return nil, err
	}
	m, err := a.service.manager(ctx, op, caller.Account, id)
	return &identityv1.GetManagerResponse{Manager: m}, err
}

func (a *managerAPI) ListManagers(ctx context.Context, req *identityv1.ListManagersRequest) (*identityv1.ListManagersResponse, error) {
	const op = "identity.ListManagers"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	found, err := page(ctx, a.service, op, "managers", caller.Account, req.GetPageSize(), req.GetPageToken(), "SELECT "+managerColumns+` FROM manager WHERE account_id = $1::uuid
		AND (created, manager_id) > ($2, $3::uuid) ORDER BY created, manager_id LIMIT $4`, scanManager)
	if err != nil {
		return nil, err
	}
	answer := &identityv1.ListManagersResponse{NextPageToken: found.token}
	for _, r := range found.rows {
		answer.Managers = append(answer.Managers, r.message())
	}
	return answer, nil
}

func (a *managerAPI) RenewManagerToken(ctx context.Context, req *identityv1.RenewManagerTokenRequest) (*identityv1.RenewManagerTokenResponse, error) {
	const op = "identity.RenewManagerToken"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "manager_id", req.GetManagerId())
	if err != nil {
		return nil, err
	}
	token := enrollment.NewManagerToken(caller.Account, id)
	_, err = a.service.commands.managers.Execute(ctx, managerSubject(caller.Account, id), eventlog.Command{Actor: caller.Actor}, func(m Manager) ([]proto.Message, error) {
		return m.DecideRenewToken(op, id, token.Hash(), time.Now())
	})
	if err != nil {
		return nil, resource.CommandError(op, err)
	}
	return &identityv1.RenewManagerTokenResponse{Token: token.Text()}, nil
}

func (a *managerAPI) RevokeManager(ctx context.Context, req *identityv1.RevokeManagerRequest) (*identityv1.RevokeManagerResponse, error) {
	const op = "identity.RevokeManager"
	caller, command, err := asked(ctx, op, req)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "manager_id", req.GetManagerId())
	if err != nil {
		return nil, err
	}
	result, err := a.service.commands.managers.Execute(ctx, managerSubject(caller.Account, id), command, func(m Manager) ([]proto.Message, error) {
		return m.DecideRevoke(op, id)
	})
	if err != nil {
		return nil, resource.CommandError(op, err)
	}
	m, err := a.read(ctx, op, caller.Account, id, result.Position)
	return &identityv1.RevokeManagerResponse{Manager: m}, err
}

func (a *managerAPI) EnrollManager(ctx context.Context, req *identityv1.EnrollManagerRequest) (*identityv1.EnrollManagerResponse, error) {
	const op = "identity.EnrollManager"
	token, err := enrollment.ParseManagerToken(req.GetToken())
	if err != nil {
		return nil, errs.InvalidFields(op, "", errs.Field{Path: "token", Description: err.Error()})
	}
	if !nkeys.IsValidPublicUserKey(req.GetPublicKey()) {
		return nil, errs.InvalidFields(op, "", errs.Field{Path: "public_key", Description: "is no public NKey of a user"})
	}
	actor := eventlog.Command{Actor: "manager/" + token.Manager.String()}
	_, err = a.service.commands.managers.Execute(ctx, managerSubject(token.Account, token.Manager), actor, func(m Manager) ([]proto.Message, error) {
		return m.DecideEnroll(op, token.Hash(), req.GetPublicKey(), time.Now())
	})
	if err != nil {
		return nil, resource.CommandError(op, err)
	}
	return &identityv1.EnrollManagerResponse{ManagerId: token.Manager.String(), AccountId: token.Account.String()}, nil
}
