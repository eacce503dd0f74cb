package metering

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/metering/templates"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/projection"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// applicationAPI serves cetrus.metering.v1.ApplicationService.
type applicationAPI struct {
	meteringv1.UnimplementedApplicationServiceServer
	service *Service
}

func (a *applicationAPI) CreateApplication(ctx context.Context, req *meteringv1.CreateApplicationRequest) (*meteringv1.CreateApplicationResponse, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	want := Application{}
	setApplication(&want, req.GetApplication(), nil)
	id, position, err := a.service.commands.create(ctx, caller, "metering.CreateApplication", req, want)
	if err != nil {
		return nil, err
	}
	application, err := a.service.application(ctx, caller, id, position)
	if err != nil {
		return nil, err
	}
	return &meteringv1.CreateApplicationResponse{Application: application}, nil
}

func (a *applicationAPI) CreateApplicationFromTemplate(ctx context.Context, req *meteringv1.CreateApplicationFromTemplateRequest) (*meteringv1.CreateApplicationFromTemplateResponse, error) {
	const op = "metering.CreateApplicationFromTemplate"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	t, err := a.template(op, req.GetTemplateId())
	if err != nil {
		return nil, err
	}
	want := Application{DisplayName: cmp.Or(strings.TrimSpace(req.GetDisplayName()), t.Name), Rules: t.PolicyRules(), TitleRules: t.PolicyTitleRules(), Documents: t.Documents, Reduction: req.GetDocumentReduction(), RemoteClient: t.RemoteClient}
	if req.Documents != nil {
		want.Documents = req.GetDocuments()
	}
	id, position, err := a.service.commands.create(ctx, caller, op, req, want)
	if err != nil {
		return nil, err
	}
	application, err := a.service.application(ctx, caller, id, position)
	if err != nil {
		return nil, err
	}
	return &meteringv1.CreateApplicationFromTemplateResponse{Application: application}, nil
}

func (a *applicationAPI) ListApplicationTemplates(ctx context.Context, req *meteringv1.ListApplicationTemplatesRequest) (*meteringv1.ListApplicationTemplatesResponse, error) {
	const op, question = "metering.ListApplicationTemplates", "templates"
	if _, err := authn.CallerFrom(ctx); err != nil {
		return nil, err
	}
	all := a.service.templates.All()
	if c := req.GetCategory(); c != "" {
		if !slices.Contains(a.service.templates.Categories(), c) {
			return nil, errs.InvalidFields(op, "", errs.Field{Path: "category", Description: strconv.Quote(c) + " is none of " + strings.Join(a.service.templates.Categories(), ", ")})
		}
		all = slices.DeleteFunc(all, func(t *templates.Template) bool { return t.Category != c })
	}
	after, err := readTextToken(op, question+req.GetCategory(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	if req.GetPageToken() != "" {
		all = slices.DeleteFunc(all, func(t *templates.Template) bool { return t.Place() <= after.text })
	}
	resp := &meteringv1.ListApplicationTemplatesResponse{}
	if size := resource.PageSize(req.GetPageSize(), 1000); len(all) > size {
		all = all[:size]
		resp.NextPageToken = textToken(question+req.GetCategory(), textMark{text: all[size-1].Place()})
	}
	for _, t := range all {
		resp.Templates = append(resp.Templates, templateMessage(t))
	}
	return resp, nil
}

func (a *applicationAPI) GetApplicationTemplate(ctx context.Context, req *meteringv1.GetApplicationTemplateRequest) (*meteringv1.GetApplicationTemplateResponse, error) {
	if _, err := authn.CallerFrom(ctx); err != nil {
		return nil, err
	}
	t, err := a.template("metering.GetApplicationTemplate", req.GetTemplateId())
	if err != nil {
		return nil, err
	}
	return &meteringv1.GetApplicationTemplateResponse{Template: templateMessage(t)}, nil
}

func (a *applicationAPI) template(op, id string) (*templates.Template, error) {
	t, ok := a.service.templates.Find(id)
	if !ok {
		return nil, errs.New(errs.NotFound, op, "template "+strconv.Quote(id), "there is no such template: GET /v1/applicationTemplates lists them")
	}
	return t, nil
}

func templateMessage(t *templates.Template) *meteringv1.ApplicationTemplate {
	m := &meteringv1.ApplicationTemplate{
		TemplateId: t.ID, DisplayName: t.Name, Category: t.Category, Documents: t.Documents, Caution: t.Caution, Source: t.Source,
		TitleRules: titleRuleMessages(t.PolicyTitleRules()), RemoteClient: t.RemoteClient,
	}
	for _, r := range t.PolicyRules() {
		m.Rules = append(m.Rules, ruleMessage(r))
	}
	for _, e := range t.Examples {
		name := cmp.Or(e.Unsaved, e.File, e.Document)
		m.Examples = append(m.Examples, &meteringv1.TitleExample{
			Title: e.Title, Document: name, Folder: e.Folder, Project: e.Project, Modified: e.Modified, Unsaved: e.Unsaved != "", Private: e.Private,
		})
	}
	return m
}

func titleRuleMessages(titles []*policyv1.TitleRule) []*meteringv1.TitleRule {
	var messages []*meteringv1.TitleRule
	for _, t := range titles {
		messages = append(messages, &meteringv1.TitleRule{Pattern: t.GetPattern()})
	}
	return messages
}

func (a *applicationAPI) UpdateApplication(ctx context.Context, req *meteringv1.UpdateApplicationRequest) (*meteringv1.UpdateApplicationResponse, error) {
	const op = "metering.UpdateApplication"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "application.application_id", req.GetApplication().GetApplicationId())
	if err != nil {
		return nil, err
	}
	paths, err := resource.MaskPaths(op, req.GetUpdateMask(), &meteringv1.Application{}, "application_id", "create_time", "update_time", "etag", "policy_revision")
	if err != nil {
		return nil, err
	}
	position, err := a.service.commands.update(ctx, caller, req, id, func(want *Application) {
		setApplication(want, req.GetApplication(), paths)
	})
	if err != nil {
		return nil, err
	}
	application, err := a.service.application(ctx, caller, id, position)
	if err != nil {
		return nil, err
	}
	return &meteringv1.UpdateApplicationResponse{Application: application}, nil
}

func (a *applicationAPI) DeleteApplication(ctx context.Context, req *meteringv1.DeleteApplicationRequest) (*meteringv1.DeleteApplicationResponse, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID("metering.DeleteApplication", "application_id", req.GetApplicationId())
	if err != nil {
		return nil, err
	}
	position, err := a.service.commands.delete(ctx, caller, req, id)
	if err != nil {
		return nil, err
	}
	if err := a.service.waitForCatalog(ctx, caller.Account, position); err != nil {
		return nil, err
	}
	return &meteringv1.DeleteApplicationResponse{PolicyRevision: int64(position)}, nil
}

func (a *applicationAPI) GetApplication(ctx context.Context, req *meteringv1.GetApplicationRequest) (*meteringv1.GetApplicationResponse, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID("metering.GetApplication", "application_id", req.GetApplicationId())
	if err != nil {
		return nil, err
	}
	application, err := a.service.application(ctx, caller, id, 0)
	if err != nil {
		return nil, err
	}
	return &meteringv1.GetApplicationResponse{Application: application}, nil
}

func (a *applicationAPI) ListApplications(ctx context.Context, req *meteringv1.ListApplicationsRequest) (*meteringv1.ListApplicationsResponse, error) {
	const op, question = "metering.ListApplications", "applications"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	after, err := readTextToken(op, question+caller.Account.String(), req.GetPageToken())
	if err != nil {
		return nil, err
	}
	size := resource.PageSize(req.GetPageSize(), 100)
	resp := &meteringv1.ListApplicationsResponse{}
	err = a.service.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT "+applicationColumns+` FROM application WHERE account_id = $1::uuid AND NOT deleted
			AND ($2 OR (left(lower(display_name), 64), application_id) > ($3, $4::uuid)) ORDER BY left(lower(display_name), 64), application_id LIMIT $5`,
			caller.Account, req.GetPageToken() == "", after.text, after.id, size+1)
		if err != nil {
			return err
		}
		listed, err := pgx.CollectRows(rows, scanApplication)
		if err != nil || len(listed) <= size {
			resp.Applications = listed
			return err
		}
		resp.Applications = listed[:size]
		last := listed[size-1]
		resp.NextPageToken, err = nameToken(ctx, tx, question+caller.Account.String(), last.GetDisplayName(), last.GetApplicationId())
		return err
	})
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	return resp, nil
}

// settingsAPI serves cetrus.metering.v1.SettingsService.
type settingsAPI struct {
	meteringv1.UnimplementedSettingsServiceServer
	service *Service
}

func (a *settingsAPI) GetSettings(ctx context.Context, _ *meteringv1.GetSettingsRequest) (*meteringv1.GetSettingsResponse, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	settings, err := a.service.settingsMessage(ctx, caller.Account)
	if err != nil {
		return nil, err
	}
	return &meteringv1.GetSettingsResponse{Settings: settings}, nil
}

func (a *settingsAPI) UpdateSettings(ctx context.Context, req *meteringv1.UpdateSettingsRequest) (*meteringv1.UpdateSettingsResponse, error) {
	const op = "metering.UpdateSettings"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	paths, err := resource.MaskPaths(op, req.GetUpdateMask(), &meteringv1.Settings{}, "retained_since")
	if err != nil {
		return nil, err
	}
	asked := req.GetSettings()
	position, err := a.service.commands.updateSettings(ctx, caller, req, func(want *Settings) {
		for _, path := range paths {
			switch path {
			case "time_zone":
				want.TimeZone = asked.GetTimeZone()
			case "pause_allowed":
				want.PauseAllowed = asked.GetPauseAllowed()
			case "sightings_wanted":
				want.SightingsWanted = asked.GetSightingsWanted()
			case "paused":
				want.Paused = asked.GetPaused()
			case "person":
				want.Person = asked.GetPerson()
			case "managers":
				want.Managers = asked.GetManagers()
			case "view_reason_required":
				want.ViewReasonRequired = asked.GetViewReasonRequired()
			case "smallest_group":
				want.SmallestGroup = asked.GetSmallestGroup()
			case "retention":
				want.Keep = Keep{Instances: asked.GetRetention().GetInstanceDays(), Persons: asked.GetRetention().GetPersonDays(), Totals: asked.GetRetention().GetTotalDays()}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	if err := a.service.waitForCatalog(ctx, caller.Account, position); err != nil {
		return nil, err
	}
	settings, err := a.service.settingsMessage(ctx, caller.Account)
	if err != nil {
		return nil, err
	}
	return &meteringv1.UpdateSettingsResponse{Settings: settings}, nil
}

func (s Settings) message() *meteringv1.Settings {
	return &meteringv1.Settings{
		TimeZone: s.TimeZone, PauseAllowed: s.PauseAllowed, SightingsWanted: s.SightingsWanted, Paused: s.Paused, Person: s.Person, Managers: s.Managers, ViewReasonRequired: s.ViewReasonRequired,
		SmallestGroup: s.SmallestGroup,
		Retention:     &meteringv1.Retention{InstanceDays: s.Keep.Instances, PersonDays: s.Keep.Persons, TotalDays: s.Keep.Totals},
	}
}

// waitForCatalog returns once a decision of an account can be read, whichever process keeps the tables.
func (s *Service) waitForCatalog(ctx context.Context, account contract.ID, position eventlog.Position) error {
	if err := s.waitFor(ctx, contract.Partition(account), uint64(position), func(v *views) *projection.Runner { return v.catalog }); err != nil {
		return errs.As(errs.Unavailable, "metering.waitForCatalog", "", "the change is recorded but cannot be read yet: read it again later", err)
	}
	return nil
}

func (s *Service) settingsOf(ctx context.Context, account contract.ID) (Settings, error) {
	var settings Settings
	err := s.inAccount(ctx, account, func(tx pgx.Tx) error {
		var err error
		settings, err = readSettings(ctx, tx, account)
		return err
	})
	return settings, errs.Wrap("metering.GetSettings", "", err)
}

// settingsMessage tells the settings, and what has followed from those of retention.
func (s *Service) settingsMessage(ctx context.Context, account contract.ID) (*meteringv1.Settings, error) {
	var message *meteringv1.Settings
	err := s.inAccount(ctx, account, func(tx pgx.Tx) error {
		settings, err := readSettings(ctx, tx, account)
		if err != nil {
			return err
		}
		kept, err := readHorizons(ctx, tx, account)
		message = settings.message()
		message.RetainedSince = kept.message()
		return err
	})
	return message, errs.Wrap("metering.GetSettings", "", err)
}

func readSettings(ctx context.Context, tx pgx.Tx, account contract.ID) (Settings, error) {
	settings := DefaultSettings()
	rows, err := tx.Query(ctx, "SELECT time_zone, pause_allowed, sightings_wanted, paused, person, managers, view_reason_required, instance_days, person_days, total_days, smallest_group FROM settings WHERE account_id = $1::uuid", account)
	if err != nil {
		return settings, err
	}
	var person []byte
	_, err = pgx.ForEachRow(rows, []any{&settings.TimeZone, &settings.PauseAllowed, &settings.SightingsWanted, &settings.Paused, &person, &settings.Managers, &settings.ViewReasonRequired, &settings.Keep.Instances, &settings.Keep.Persons, &settings.Keep.Totals, &settings.SmallestGroup}, func() error {
		if person == nil {
			return nil
		}
		settings.Person = new(policyv1.PersonPolicy)
		return proto.Unmarshal(person, settings.Person)
	})
	return settings, err
}

const applicationColumns = "application_id, definition, revision, created, updated, position"

func scanApplication(row pgx.CollectableRow) (*meteringv1.Application, error) {
	var id contract.ID
	var definition []byte
	var revision int
	var position int64
	var created, updated time.Time
	if err := row.Scan((*[16]byte)(&id), &definition, &revision, &created, &updated, &position); err != nil {
		return nil, err
	}
	e := new(meteringv1.ApplicationDefined)
	if err := proto.Unmarshal(definition, e); err != nil {
		return nil, fmt.Errorf("definition of application %s: %w", id, err)
	}
	a := applicationOf(id, e)
	a.Revision = revision
	m := &meteringv1.Application{
		ApplicationId: id.String(), DisplayName: a.DisplayName,
		ActivityGap: durationpb.New(a.ActivityGap), Timeout: durationpb.New(a.Timeout),
		InstanceScope: a.Scope, Documents: a.Documents, DocumentReduction: a.Reduction,
		CreateTime: timestamppb.New(created), UpdateTime: timestamppb.New(updated), Etag: a.Etag(), ProjectPrompt: a.Prompt,
		RemoteClient: a.RemoteClient, PolicyRevision: position,
	}
	for _, r := range a.Rules {
		ruleID, err := contract.IDFrom(r.GetRuleId())
		if err != nil {
			return nil, fmt.Errorf("a rule of application %s: %w", id, err)
		}
		message := ruleMessage(r)
		message.RuleId = ruleID.String()
		m.Rules = append(m.Rules, message)
	}
	m.TitleRules = titleRuleMessages(a.TitleRules)
	return m, nil
}

// ruleMessage tells a rule without its id.
func ruleMessage(r *policyv1.Rule) *meteringv1.Rule {
	return &meteringv1.Rule{
		Priority: r.GetPriority(), Executable: r.GetExecutable(), Path: r.GetPath(),
		WindowClass: r.GetWindowClass(), Title: r.GetTitle(), Package: r.GetPackage(), DocumentTitle: r.GetDocumentTitle(),
	}
}

// application reads an application once the position can be read.
func (s *Service) application(ctx context.Context, caller authn.Caller, id contract.ID, position eventlog.Position) (*meteringv1.Application, error) {
	const op = "metering.GetApplication"
	if err := s.waitForCatalog(ctx, caller.Account, position); err != nil {
		return nil, err
	}
	var found []*meteringv1.Application
	err := s.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT "+applicationColumns+" FROM application WHERE account_id = $1::uuid AND application_id = $2::uuid AND NOT deleted", caller.Account, id)
		if err != nil {
			return err
		}
		found, err = pgx.CollectRows(rows, scanApplication)
		return err
	})
	if err != nil {
		return nil, errs.Wrap(op, "application "+id.String(), err)
	}
	if len(found) == 0 {
		return nil, errs.New(errs.NotFound, op, "application "+id.String(), "there is no such application")
	}
	return found[0], nil
}

// setApplication takes over the fields that paths name; nil names all.
func setApplication(want *Application, m *meteringv1.Application, paths []string) {
	if paths == nil {
		paths = []string{"display_name", "rules", "activity_gap", "timeout", "instance_scope", "documents", "document_reduction", "title_rules", "project_prompt", "remote_client"}
	}
	for _, path := range paths {
		switch path {
		case "display_name":
			want.DisplayName = m.GetDisplayName()
		case "rules":
			want.Rules = nil
			for _, r := range m.GetRules() {
				want.Rules = append(want.Rules, ruleOf(r))
			}
		case "activity_gap":
			want.ActivityGap = m.GetActivityGap().AsDuration()
		case "timeout":
			want.Timeout = m.GetTimeout().AsDuration()
		case "instance_scope":
			want.Scope = m.GetInstanceScope()
		case "documents":
			want.Documents = m.GetDocuments()
		case "document_reduction":
			want.Reduction = m.GetDocumentReduction()
		case "remote_client":
			want.RemoteClient = m.GetRemoteClient()
		case "title_rules":
			want.TitleRules = nil
			for _, t := range m.GetTitleRules() {
				want.TitleRules = append(want.TitleRules, &policyv1.TitleRule{Pattern: t.GetPattern()})
			}
		case "project_prompt":
			want.Prompt = m.GetProjectPrompt()
		}
	}
}

func ruleOf(r *meteringv1.Rule) *policyv1.Rule {
	out := &policyv1.Rule{
		Priority: r.GetPriority(), Executable: r.GetExecutable(), Path: r.GetPath(),
		WindowClass: r.GetWindowClass(), Title: r.GetTitle(), Package: r.GetPackage(), DocumentTitle: r.GetDocumentTitle(),
	}
	if id, err := contract.ParseID(r.GetRuleId()); err == nil {
		out.RuleId = id[:]
	}
	return out
}
