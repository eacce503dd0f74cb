package identity

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/resource"
)

func (p viewsProjection) applyAdmission(ctx context.Context, tx pgx.Tx, at place, message proto.Message) (bool, error) {
	var now AgentAdmission
	switch message.(type) {
	case *identityv1.AgentRevoked, *identityv1.AgentReadmitted:
		var err error
		if now, err = now.Apply(message); err != nil {
			return true, err
		}
	default:
		return false, nil
	}
	_, err := tx.Exec(ctx, `INSERT INTO agent_admission (account_id, agent_id, revoked, copies, created, updated, position, decided_ms) VALUES ($1, $2, $3, $4, $5, $5, $6, $7)
		ON CONFLICT (account_id, agent_id) DO UPDATE SET revoked = excluded.revoked, copies = excluded.copies, updated = excluded.updated,
			position = excluded.position, decided_ms = excluded.decided_ms`,
		at.account, at.id, now.Revoked, now.Copies, at.at, int64(at.position), at.at.UnixMilli())
	return true, err
}

// admissionRow is what was decided on an agent as its table has it.
type admissionRow struct {
	id               contract.ID
	revoked, copies  bool
	created, updated time.Time
	pending          [][16]byte
}

func (r admissionRow) mark() resource.Mark { return resource.Mark{At: r.created, ID: r.id} }

func (r admissionRow) message() *identityv1.AgentAdmission {
	return &identityv1.AgentAdmission{
		AgentId: r.id.String(), Revoked: r.revoked, Copies: r.copies, UpdateTime: timestamppb.New(r.updated), PendingManagerIds: idTexts(idsOfRaw(r.pending)),
	}
}

// admissionSQL selects what was decided on an account's ($1) agents.
const admissionSQL = `SELECT a.agent_id, a.revoked, a.copies, a.created, a.updated, ARRAY(SELECT m.manager_id FROM manager AS m
	WHERE m.account_id = $1::uuid AND m.revoked IS NULL AND m.enrolled IS NOT NULL AND (m.admission_position < a.position OR m.admission_ms < a.decided_ms) ORDER BY m.manager_id)
	FROM agent_admission AS a WHERE a.account_id = $1::uuid`

func scanAdmission(r pgx.CollectableRow) (a admissionRow, err error) {
	return a, r.Scan((*[16]byte)(&a.id), &a.revoked, &a.copies, &a.created, &a.updated, &a.pending)
}

// agentAdmissionAPI serves cetrus.identity.v1.AgentAdmissionService.
type agentAdmissionAPI struct {
	identityv1.UnimplementedAgentAdmissionServiceServer
	service *Service
}

// read tells what is decided on an agent after a position.
func (a *agentAdmissionAPI) read(ctx context.Context, op string, account, id contract.ID, position eventlog.Position) (*identityv1.AgentAdmission, error) {
	if err := a.service.wait(ctx, position); err != nil {
		return nil, err
	}
	r, there, err := one(ctx, a.service, account, admissionSQL+" AND a.agent_id = $2::uuid", scanAdmission, id)
	if err != nil {
		return nil, errs.Wrap(op, "agent "+id.String(), err)
	}
	if !there {
		return nil, AgentAdmission{}.There(op, id)
	}
	return r.message(), nil
}

// decide carries a command on an agent out.
func (a *agentAdmissionAPI) decide(ctx context.Context, op string, req resource.Request, agent string, decide func(AgentAdmission, contract.ID) ([]proto.Message, error)) (*identityv1.AgentAdmission, error) {
	caller, command, err := asked(ctx, op, req)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "agent_id", agent)
	if err != nil {
		return nil, err
	}
	result, err := a.service.commands.admissions.Execute(ctx, admissionSubject(caller.Account, id), command, func(now AgentAdmission) ([]proto.Message, error) {
		return decide(now, id)
	})
	if err != nil {
		return nil, resource.CommandError(op, err)
	}
	return a.read(ctx, op, caller.Account, id, result.Position)
}

func (a *agentAdmissionAPI) RevokeAgent(ctx context.Context, req *identityv1.RevokeAgentRequest) (*identityv1.RevokeAgentResponse, error) {
	const op = "identity.RevokeAgent"
	m, err := a.decide(ctx, op, req, req.GetAgentId(), func(now AgentAdmission, id contract.ID) ([]proto.Message, error) {
		return now.DecideRevoke(op, id, req.GetCopies())
	})
	return &identityv1.RevokeAgentResponse{AgentAdmission: m}, err
}

func (a *agentAdmissionAPI) ReadmitAgent(ctx context.Context, req *identityv1.ReadmitAgentRequest) (*identityv1.ReadmitAgentResponse, error) {
	const op = "identity.ReadmitAgent"
	m, err := a.decide(ctx, op, req, req.GetAgentId(), func(now AgentAdmission, id contract.ID) ([]proto.Message, error) {
		return now.DecideReadmit(op, id)
	})
	return &identityv1.ReadmitAgentResponse{AgentAdmission: m}, err
}

func (a *agentAdmissionAPI) GetAgentAdmission(ctx context.Context, req *identityv1.GetAgentAdmissionRequest) (*identityv1.GetAgentAdmissionResponse, error) {
	const op = "identity.GetAgentAdmission"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "agent_id", req.GetAgentId())
	if err != nil {
		return nil, err
	}
	m, err := a.read(ctx, op, caller.Account, id, 0)
	return &identityv1.GetAgentAdmissionResponse{AgentAdmission: m}, err
}

func (a *agentAdmissionAPI) ListAgentAdmissions(ctx context.Context, req *identityv1.ListAgentAdmissionsRequest) (*identityv1.ListAgentAdmissionsResponse, error) {
	const op = "identity.ListAgentAdmissions"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	found, err := page(ctx, a.service, op, "agentAdmissions", caller.Account, req.GetPageSize(), req.GetPageToken(), admissionSQL+`
		AND (a.created, a.agent_id) > ($2, $3::uuid) ORDER BY a.created, a.agent_id LIMIT $4`, scanAdmission)
	if err != nil {
		return nil, err
	}
	answer := &identityv1.ListAgentAdmissionsResponse{NextPageToken: found.token}
	for _, r := range found.rows {
		answer.AgentAdmissions = append(answer.AgentAdmissions, r.message())
	}
	return answer, nil
}
