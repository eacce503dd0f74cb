package metering

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// contextName is this service's word in subjects of EVENTS.
const contextName = "metering"

// The words of what is decided about agents and people, of which agents are not told.
const (
	agentAggregate      = "agent"
	principalAggregate  = "principal"
	correctionAggregate = "correction"
	viewAggregate       = "view"
	retentionAggregate  = "retention"
	savedAggregate      = "savedreport"
)

func catalogSubject(account contract.ID) string {
	return contract.EventSubject(account, contextName, "catalog", account.String())
}

func settingsSubject(account contract.ID) string {
	return contract.EventSubject(account, contextName, "settings", account.String())
}

func expenseSubject(account contract.ID) string {
	return contract.EventSubject(account, contextName, "expense", account.String())
}

func agentSubject(account, agent contract.ID) string {
	return contract.EventSubject(account, contextName, agentAggregate, agent.String())
}

func principalSubject(account, principal contract.ID) string {
	return contract.EventSubject(account, contextName, principalAggregate, principal.String())
}

func correctionSubject(account, correction contract.ID) string {
	return contract.EventSubject(account, contextName, correctionAggregate, correction.String())
}

func viewSubject(account, viewer contract.ID) string {
	return contract.EventSubject(account, contextName, viewAggregate, viewer.String())
}

func retentionSubject(account contract.ID) string {
	return contract.EventSubject(account, contextName, retentionAggregate, account.String())
}

func savedReportSubject(account, report contract.ID) string {
	return contract.EventSubject(account, contextName, savedAggregate, report.String())
}

// newRegistry names the events of this service.
func newRegistry() *eventlog.Registry {
	return eventlog.NewRegistry(
		eventlog.Current[*meteringv1.ApplicationDefined]("cetrus.metering.application.defined.v1"),
		eventlog.Current[*meteringv1.ApplicationDeleted]("cetrus.metering.application.deleted.v1"),
		eventlog.Current[*meteringv1.MeteringSettingsChanged]("cetrus.metering.settings.changed.v1"),
		eventlog.Upcast("cetrus.metering.expense_to_project.changed.v1", "cetrus.metering.expense_to_project.changed.v2", liftExpense),
		eventlog.Current[*meteringv1.ExpenseToProjectDecided]("cetrus.metering.expense_to_project.changed.v2"),
		eventlog.Current[*meteringv1.AgentRemoved]("cetrus.metering.agent.removed.v1"),
		eventlog.Current[*meteringv1.LoginBound]("cetrus.metering.principal.login_bound.v1"),
		eventlog.Current[*meteringv1.LoginUnbound]("cetrus.metering.principal.login_unbound.v1"),
		eventlog.Current[*meteringv1.PrincipalMerged]("cetrus.metering.principal.merged.v1"),
		eventlog.Current[*meteringv1.PrincipalForgotten]("cetrus.metering.principal.forgotten.v1"),
		eventlog.Current[*meteringv1.CorrectionAsked]("cetrus.metering.correction.asked.v1"),
		eventlog.Current[*meteringv1.NamedUseViewed]("cetrus.metering.view.named_use.v1"),
		eventlog.Current[*meteringv1.RetentionMoved]("cetrus.metering.retention.moved.v1"),
		eventlog.Current[*meteringv1.SavedReportDefined]("cetrus.metering.saved_report.defined.v1"),
		eventlog.Current[*meteringv1.SavedReportScheduled]("cetrus.metering.saved_report.scheduled.v1"),
		eventlog.Current[*meteringv1.SavedReportDeleted]("cetrus.metering.saved_report.deleted.v1"),
		eventlog.Current[*meteringv1.SavedReportRunDecided]("cetrus.metering.saved_report.run_decided.v1"),
		eventlog.Current[*meteringv1.SavedReportRunEnded]("cetrus.metering.saved_report.run_ended.v1"),
	)
}

// commands load an aggregate, let it decide, and append.
type commands struct {
	log eventlog.Log

	catalogs eventlog.Repository[*Catalog]
	settings eventlog.Repository[Settings]
	expenses eventlog.Repository[Expense]
	agents   eventlog.Repository[removals]

	principals  eventlog.Repository[Principal]
	corrections eventlog.Repository[corrections]
	retentions  eventlog.Repository[horizons]
	saved       eventlog.Repository[SavedReport]

	people    people
	shortGaps bool
}

func newCommands(log eventlog.Log, registry *eventlog.Registry, people people, shortGaps bool) *commands {
	return &commands{
		log: log,
		catalogs: eventlog.Repository[*Catalog]{
			Log: log, Registry: registry, New: NewCatalog,
			Apply: func(c *Catalog, m proto.Message) (*Catalog, error) { return c.Apply(m) },
		},
		settings: eventlog.Repository[Settings]{
			Log: log, Registry: registry, New: DefaultSettings,
			Apply: func(s Settings, m proto.Message) (Settings, error) { return s.Apply(m) },
		},
		expenses: eventlog.Repository[Expense]{
			Log: log, Registry: registry, New: func() Expense { return Expense{} },
			Apply: func(e Expense, m proto.Message) (Expense, error) { return e.Apply(m) },
		},
		agents: eventlog.Repository[removals]{
			Log: log, Registry: registry, New: func() removals { return 0 },
			Apply: func(n removals, m proto.Message) (removals, error) { return n.Apply(m) },
		},
		principals: eventlog.Repository[Principal]{
			Log: log, Registry: registry, New: func() Principal { return Principal{} },
			Apply: func(p Principal, m proto.Message) (Principal, error) { return p.Apply(m) },
		},
		retentions: eventlog.Repository[horizons]{
			Log: log, Registry: registry, New: func() horizons { return horizons{} },
			Apply: func(h horizons, m proto.Message) (horizons, error) { return h.Apply(m) },
		},
		saved: eventlog.Repository[SavedReport]{
			Log: log, Registry: registry, New: func() SavedReport { return SavedReport{} },
			Apply: func(r SavedReport, m proto.Message) (SavedReport, error) { return r.Apply(m) },
		},
		corrections: eventlog.Repository[corrections]{
			Log: log, Registry: registry, New: func() corrections { return 0 },
			Apply: func(n corrections, m proto.Message) (corrections, error) { return n.Apply(m) },
		},
		people:    people,
		shortGaps: shortGaps,
	}
}

// create defines a new application. Its id comes from the request's, so that a
// repeated request answers with the same application.
func (c *commands) create(ctx context.Context, by authn.Caller, op string, req resource.Request, want Application) (contract.ID, eventlog.Position, error) {
	command, err := resource.CommandOf(by.Actor, op, req)
	if err != nil {
		return want.ID, 0, err
	}
	if command.ID == "" {
		command.ID = resource.NewID().String()
	}
	want.ID = resource.DerivedID(by.Account, "application", command.ID)
	want.Rules = identified(want.Rules, nil)
	result, err := c.catalogs.Execute(ctx, catalogSubject(by.Account), command,
		func(catalog *Catalog) ([]proto.Message, error) {
			return catalog.DecideDefine(Define{Want: want, Create: true, ShortGaps: c.shortGaps})
		})
	return want.ID, result.Position, resource.CommandError(op, err)
}

// update changes an application. change turns what is there into what shall be.
func (c *commands) update(ctx context.Context, by authn.Caller, req *meteringv1.UpdateApplicationRequest, id contract.ID, change func(*Application)) (eventlog.Position, error) {
	const op = "metering.UpdateApplication"
	command, err := resource.CommandOf(by.Actor, op, req)
	if err != nil {
		return 0, err
	}
	etag := req.GetApplication().GetEtag()
	result, err := c.catalogs.Execute(ctx, catalogSubject(by.Account), command,
		func(catalog *Catalog) ([]proto.Message, error) {
			want := Application{ID: id}
			var before []*policyv1.Rule
			if there := catalog.Application(id); there != nil {
				want, before = *there, there.Rules
			}
			change(&want)
			want.Rules = identified(want.Rules, before)
			return catalog.DecideDefine(Define{Want: want, Etag: etag, ShortGaps: c.shortGaps})
		})
	return result.Position, resource.CommandError(op, err)
}

func (c *commands) delete(ctx context.Context, by authn.Caller, req *meteringv1.DeleteApplicationRequest, id contract.ID) (eventlog.Position, error) {
	const op = "metering.DeleteApplication"
	command, err := resource.CommandOf(by.Actor, op, req)
	if err != nil {
		return 0, err
	}
	result, err := c.catalogs.Execute(ctx, catalogSubject(by.Account), command,
		func(catalog *Catalog) ([]proto.Message, error) { return catalog.DecideDelete(id) })
	return result.Position, resource.CommandError(op, err)
}

func (c *commands) updateSettings(ctx context.Context, by authn.Caller, req *meteringv1.UpdateSettingsRequest, change func(*Settings)) (eventlog.Position, error) {
	const op = "metering.UpdateSettings"
	command, err := resource.CommandOf(by.Actor, op, req)
	if err != nil {
		return 0, err
	}
	result, err := c.settings.Execute(ctx, settingsSubject(by.Account), command,
		func(s Settings) ([]proto.Message, error) {
			want := s
			change(&want)
			return s.Decide(want)
		})
	return result.Position, resource.CommandError(op, err)
}

// lastChange is the position of the last decision that agents are told of: the revision of the
// policy that holds it.
func (c *commands) lastChange(ctx context.Context, account contract.ID) (eventlog.Position, error) {
	_, catalogAt, err := c.catalogs.Load(ctx, catalogSubject(account))
	if err != nil {
		return 0, err
	}
	_, settingsAt, err := c.settings.Load(ctx, settingsSubject(account))
	if err != nil {
		return 0, err
	}
	_, expenseAt, err := c.expenses.Load(ctx, expenseSubject(account))
	return max(catalogAt, settingsAt, expenseAt), err
}

func (c *commands) updateExpense(ctx context.Context, by authn.Caller, req *meteringv1.UpdateExpenseToProjectRequest, change func(*policyv1.ExpenseToProject)) (eventlog.Position, error) {
	const op = "metering.UpdateExpenseToProject"
	command, err := resource.CommandOf(by.Actor, op, req)
	if err != nil {
		return 0, err
	}
	etag := req.GetExpenseToProject().GetEtag()
	var dropped []contract.ID
	result, err := c.expenses.Execute(ctx, expenseSubject(by.Account), command,
		func(e Expense) ([]proto.Message, error) {
			// That keys may be drawn for a change that is then decided anew harms nobody.
			now, err := c.people.open(ctx, by.Account, e.Decided)
			if err != nil {
				return nil, err
			}
			want := now.settings()
			change(want)
			if changes, err := e.Decide(now.settings(), want, etag); err != nil || !changes {
				return nil, err
			}
			var decided *meteringv1.ExpenseToProjectDecided
			if decided, dropped, err = c.people.seal(ctx, by.Account, now, want); err != nil {
				return nil, err
			}
			return []proto.Message{decided}, nil
		})
	if err == nil && !result.Repeated {
		err = c.people.forget(ctx, by.Account, dropped)
	}
	return result.Position, resource.CommandError(op, err)
}

// removeAgent takes an agent out of the lists.
func (c *commands) removeAgent(ctx context.Context, by authn.Caller, req *meteringv1.RemoveAgentRequest, id contract.ID, listed func() error) (eventlog.Position, error) {
	const op = "metering.RemoveAgent"
	command, err := resource.CommandOf(by.Actor, op, req)
	if err != nil {
		return 0, err
	}
	result, err := c.agents.Execute(ctx, agentSubject(by.Account, id), command,
		func(removals) ([]proto.Message, error) {
			// A repeated command does not come so far.
			if err := listed(); err != nil {
				return nil, err
			}
			return []proto.Message{&meteringv1.AgentRemoved{AgentId: id[:]}}, nil
		})
	return result.Position, resource.CommandError(op, err)
}

// removals is how often an agent was removed: it may come back each time.
type removals int

// Apply returns the state after an event.
func (n removals) Apply(event proto.Message) (removals, error) {
	if _, ok := event.(*meteringv1.AgentRemoved); !ok {
		return n, fmt.Errorf("metering: %T is no event of an agent", event)
	}
	return n + 1, nil
}

// identified gives rules their ids: a rule that names one of the application's own
// keeps it, any other gets a new one, since an id belongs to one rule in all
// policies.
func identified(wanted, before []*policyv1.Rule) []*policyv1.Rule {
	own := make(map[contract.ID]bool, len(before))
	for _, r := range before {
		if id, err := contract.IDFrom(r.GetRuleId()); err == nil {
			own[id] = true
		}
	}
	out := make([]*policyv1.Rule, len(wanted))
	for i, r := range wanted {
		out[i] = proto.CloneOf(r)
		id, err := contract.IDFrom(r.GetRuleId())
		if err != nil || !own[id] {
			id = resource.NewID()
		}
		own[id] = false // once only
		out[i].RuleId = id[:]
	}
	return out
}

// loginDeleted is the type of the event with which a login ends.
const loginDeleted = "cetrus.identity.login.deleted.v1"

// loginThere refuses a login that an account has not: identity has decided nothing about it, or
// that it is deleted.
func (c *commands) loginThere(ctx context.Context, op string, account, login contract.ID) error {
	there := false
	_, err := c.log.Each(ctx, contract.EventSubject(account, "identity", "login", login.String()), func(e eventlog.Event) error {
		there = e.Type != loginDeleted
		return nil
	})
	if err == nil && !there {
		err = errs.New(errs.NotFound, op, "login "+login.String(), "there is no such login in this account")
	}
	return errs.Wrap(op, "", err)
}
