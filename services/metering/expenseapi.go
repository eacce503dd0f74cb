package metering

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// expenseAPI serves cetrus.metering.v1.ExpenseToProjectService.
type expenseAPI struct {
	meteringv1.UnimplementedExpenseToProjectServiceServer
	service *Service
}

func (a *expenseAPI) GetExpenseToProject(ctx context.Context, _ *meteringv1.GetExpenseToProjectRequest) (*meteringv1.GetExpenseToProjectResponse, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	settings, err := a.service.expenseOf(ctx, caller.Account)
	if err != nil {
		return nil, err
	}
	return &meteringv1.GetExpenseToProjectResponse{ExpenseToProject: settings}, nil
}

func (a *expenseAPI) UpdateExpenseToProject(ctx context.Context, req *meteringv1.UpdateExpenseToProjectRequest) (*meteringv1.UpdateExpenseToProjectResponse, error) {
	const op = "metering.UpdateExpenseToProject"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	paths, err := resource.MaskPaths(op, req.GetUpdateMask(), &meteringv1.ExpenseToProject{}, "etag")
	if err != nil {
		return nil, err
	}
	asked := expenseFrom(req.GetExpenseToProject())
	position, err := a.service.commands.updateExpense(ctx, caller, req, func(want *policyv1.ExpenseToProject) {
		for _, path := range paths {
			switch path {
			case "fields":
				want.Fields = asked.GetFields()
			case "projects":
				want.Projects = asked.GetProjects()
			case "rules":
				want.Rules = asked.GetRules()
			case "propose_allowed":
				want.ProposeAllowed = asked.GetProposeAllowed()
			case "shared_logins":
				want.SharedLogins = asked.GetSharedLogins()
			case "workers":
				want.Workers = asked.GetWorkers()
			}
		}
	})
	if err != nil {
		return nil, err
	}
	if err := a.service.waitForCatalog(ctx, caller.Account, position); err != nil {
		return nil, err
	}
	settings, err := a.service.expenseOf(ctx, caller.Account)
	if err != nil {
		return nil, err
	}
	return &meteringv1.UpdateExpenseToProjectResponse{ExpenseToProject: settings}, nil
}

func (s *Service) expenseOf(ctx context.Context, account contract.ID) (*meteringv1.ExpenseToProject, error) {
	const op = "metering.GetExpenseToProject"
	var e Expense
	err := s.inAccount(ctx, account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT settings, changes FROM expense_to_project WHERE account_id = $1::uuid", account)
		if err != nil {
			return err
		}
		var stored []byte
		_, err = pgx.ForEachRow(rows, []any{&stored, &e.Changes}, func() error {
			e.Decided = new(meteringv1.ExpenseToProjectDecided)
			return proto.Unmarshal(stored, e.Decided)
		})
		return err
	})
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	now, err := s.commands.people.open(ctx, account, e.Decided)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	message, err := expenseMessage(now.settings())
	message.Etag = e.Etag()
	return message, errs.Wrap(op, "", err)
}

// expenseFrom gives what is new an id. The request's ids are UUIDs: that was checked.
func expenseFrom(m *meteringv1.ExpenseToProject) *policyv1.ExpenseToProject {
	s := &policyv1.ExpenseToProject{Fields: m.GetFields(), ProposeAllowed: m.GetProposeAllowed(), SharedLogins: m.GetSharedLogins()}
	for _, p := range m.GetProjects() {
		s.Projects = append(s.Projects, &policyv1.PromptProject{ProjectId: idOrNew(p.GetProjectId()), Label: p.GetLabel()})
	}
	for _, w := range m.GetWorkers() {
		s.Workers = append(s.Workers, &policyv1.PromptWorker{WorkerId: idOrNew(w.GetWorkerId()), Label: w.GetLabel()})
	}
	for _, r := range m.GetRules() {
		rule := &policyv1.AssignmentRule{AssignmentRuleId: idOrNew(r.GetAssignmentRuleId()), User: r.GetUser(), Folder: r.GetFolder(), FileName: r.GetFileName()}
		if r.GetApplicationId() != "" {
			rule.ApplicationId = idOrNew(r.GetApplicationId())
		}
		switch assigned := r.GetAssigned().(type) {
		case *meteringv1.AssignmentRule_ProjectId:
			rule.Assigned = &policyv1.AssignmentRule_ProjectId{ProjectId: idOrNew(assigned.ProjectId)}
		case *meteringv1.AssignmentRule_NotChargeable:
			rule.Assigned = &policyv1.AssignmentRule_NotChargeable{NotChargeable: assigned.NotChargeable}
		}
		s.Rules = append(s.Rules, rule)
	}
	return s
}

func idOrNew(text string) []byte {
	id, err := contract.ParseID(text)
	if err != nil {
		id = resource.NewID()
	}
	return id[:]
}

func expenseMessage(s *policyv1.ExpenseToProject) (*meteringv1.ExpenseToProject, error) {
	m := &meteringv1.ExpenseToProject{Fields: s.GetFields(), ProposeAllowed: s.GetProposeAllowed(), SharedLogins: s.GetSharedLogins()}
	var wrong error
	text := func(what string, bytes []byte) string {
		id, err := contract.IDFrom(bytes)
		if err != nil {
			wrong = fmt.Errorf("the id of %s: %w", what, err)
		}
		return id.String()
	}
	for _, p := range s.GetProjects() {
		m.Projects = append(m.Projects, &meteringv1.Project{ProjectId: text("a project", p.GetProjectId()), Label: p.GetLabel()})
	}
	for _, w := range s.GetWorkers() {
		m.Workers = append(m.Workers, &meteringv1.Worker{WorkerId: text("a worker", w.GetWorkerId()), Label: w.GetLabel()})
	}
	for _, r := range s.GetRules() {
		rule := &meteringv1.AssignmentRule{AssignmentRuleId: text("a rule", r.GetAssignmentRuleId()), User: r.GetUser(), Folder: r.GetFolder(), FileName: r.GetFileName()}
		if len(r.GetApplicationId()) > 0 {
			rule.ApplicationId = text("a rule's application", r.GetApplicationId())
		}
		switch assigned := r.GetAssigned().(type) {
		case *policyv1.AssignmentRule_ProjectId:
			rule.Assigned = &meteringv1.AssignmentRule_ProjectId{ProjectId: text("a rule's project", assigned.ProjectId)}
		case *policyv1.AssignmentRule_NotChargeable:
			rule.Assigned = &meteringv1.AssignmentRule_NotChargeable{NotChargeable: assigned.NotChargeable}
		}
		m.Rules = append(m.Rules, rule)
	}
	return m, wrong
}
