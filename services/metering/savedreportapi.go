package metering

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"

	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/resource"
	"github.com/cetrus/cetrus/services/platform/rpc"
)

const (
	// maxSaved bounds the saved reports of one login.
	maxSaved = 500
	// whatSavedReport is the field that the name of a saved report is sealed as.
	whatSavedReport = "saved_report"
)

// savedReportAPI serves cetrus.metering.v1.SavedReportService.
type savedReportAPI struct {
	meteringv1.UnimplementedSavedReportServiceServer
	service *Service
}

// asked is the message of the report's own method in a question; nil where there is none.
func asked(question *meteringv1.ReportQuestion) protoreflect.Message {
	m := question.ProtoReflect()
	one := m.WhichOneof(m.Descriptor().Oneofs().ByName("question"))
	if one == nil {
		return nil
	}
	return m.Mutable(one).Message()
}

// fieldNamed is a field of a report's message; nil where it has none of that name.
func fieldNamed(m protoreflect.Message, name protoreflect.Name) protoreflect.FieldDescriptor {
	return m.Descriptor().Fields().ByName(name)
}

// admitted is how a login may ask a report, or why it may not.
func (s *Service) admitted(question *meteringv1.ReportQuestion, caller authn.Caller) (authn.Caller, error) {
	rule, ok := s.askedBy[asked(question).Descriptor().FullName()]
	if !ok {
		return authn.Caller{}, errs.New(errs.Invalid, "metering.SavedReport", "", "this is no report that can be saved")
	}
	return rule.Admit(caller)
}

// withTimes is a question about a period, reckoned from a moment.
func withTimes(question *meteringv1.ReportQuestion, period *meteringv1.ReportPeriod, zone *time.Location, at time.Time) *meteringv1.ReportQuestion {
	question = proto.CloneOf(question)
	m := asked(question)
	if period == nil || m == nil {
		return question
	}
	start, end := timesOf(period, zone, at)
	set := func(name protoreflect.Name, value protoreflect.Value) {
		if field := fieldNamed(m, name); field != nil {
			m.Set(field, value)
		}
	}
	set("start_time", protoreflect.ValueOfMessage(timestamppb.New(start).ProtoReflect()))
	set("end_time", protoreflect.ValueOfMessage(timestamppb.New(end).ProtoReflect()))
	const month = "2006-01"
	set("first_month", protoreflect.ValueOfString(start.In(zone).Format(month)))
	set("last_month", protoreflect.ValueOfString(end.Add(-time.Second).In(zone).Format(month)))
	return question
}

// hasPeriod tells whether a report is about a period.
func hasPeriod(m protoreflect.Message) bool {
	return fieldNamed(m, "end_time") != nil || fieldNamed(m, "last_month") != nil
}

// textOfField is what a field of a report's message says; "" where it has none.
func textOfField(m protoreflect.Message, name protoreflect.Name) string {
	if field := fieldNamed(m, name); field != nil {
		return m.Get(field).String()
	}
	return ""
}

// questionZone is where the days of a report's period begin.
func (s *Service) questionZone(ctx context.Context, account contract.ID, question *meteringv1.ReportQuestion) (*time.Location, error) {
	name := textOfField(asked(question), "time_zone")
	if name == "" {
		settings, err := s.settingsOf(ctx, account)
		if err != nil {
			return nil, err
		}
		name = settings.TimeZone
	}
	zone, err := loadZone(name)
	if err != nil {
		return nil, errs.InvalidFields("metering.SavedReport", "", errs.Field{Path: "saved_report.report.time_zone", Description: err.Error()})
	}
	return zone, nil
}

// savedWords are what of a saved report is sealed, in the clear.
type savedWords struct{ name, reason string }

func (s *Service) openSaved(ctx context.Context, account contract.ID, definitions ...*meteringv1.SavedReportDefined) ([]savedWords, error) {
	words := make([]savedWords, len(definitions))
	if s.commands.people.keys == nil {
		return words, nil
	}
	var texts []keyring.Text
	for _, d := range definitions {
		owner := contract.ID(d.GetOwnerLoginId())
		texts = append(texts, keyring.Text{Principal: owner, What: whatSavedReport, Sealed: d.GetSealedDisplayName()}, keyring.Text{Principal: owner, What: keyring.WhatReason, Sealed: d.GetSealedReason()})
	}
	opened, err := s.commands.people.keys.OpenTexts(ctx, account, texts)
	if err != nil {
		return nil, err
	}
	for i := range words {
		words[i] = savedWords{opened[2*i], opened[2*i+1]}
	}
	return words, nil
}

// define makes the definition of a saved report: its question without the reason, and what is
// sealed.
func (s *Service) define(ctx context.Context, account, id, owner contract.ID, want *meteringv1.SavedReport) (*meteringv1.SavedReportDefined, error) {
	if s.commands.people.keys == nil {
		return nil, errs.New(errs.Precondition, "metering.SavedReport", "", "a report cannot be saved, since this process has no keyring: start it with one")
	}
	key, err := s.commands.people.keys.KeyOf(ctx, account, owner)
	if err != nil {
		return nil, err
	}
	question := proto.CloneOf(want.GetReport())
	reason := textOfField(asked(question), "reason")
	for _, name := range []protoreflect.Name{"reason", "page_size"} {
		if field := fieldNamed(asked(question), name); field != nil {
			asked(question).Clear(field)
		}
	}
	return &meteringv1.SavedReportDefined{
		SavedReportId: id[:], OwnerLoginId: owner[:], SealedDisplayName: keyring.SealText(key, owner, whatSavedReport, want.GetDisplayName()),
		Report: question, Period: want.GetPeriod(), Shared: want.GetShared(),
		SealedReason: keyring.SealText(key, owner, keyring.WhatReason, strings.TrimSpace(reason)), KeyId: owner[:],
	}, nil
}

// checkSaved tells what is wrong with a saved report that a caller wants to be so.
// Whom it goes to is looked at where that is chosen: who may not have it later is missed, and told of.
func (s *Service) checkSaved(ctx context.Context, op string, caller authn.Caller, owner contract.ID, want *meteringv1.SavedReport, recipients bool) error {
	var wrong []errs.Field
	say := func(path, description string) {
		wrong = append(wrong, errs.Field{Path: "saved_report." + path, Description: description})
	}
	if want.DisplayName = strings.TrimSpace(want.GetDisplayName()); want.GetDisplayName() == "" {
		say("display_name", "is needed")
	} else if strings.ContainsFunc(want.GetDisplayName(), unseen) {
		say("display_name", "has a character that cannot be seen")
	}
	m := asked(want.GetReport())
	if m == nil {
		say("report", "is needed: what is asked")
		return errs.InvalidFields(op, "", wrong...)
	}
	if textOfField(m, "as_of_position") != "" {
		say("report", "names as_of_position, and a saved report is always of what is there when it is asked: leave it out")
	}
	if want.GetPeriod() != nil {
		if !hasPeriod(m) {
			say("period", "is of a report that is about none: leave it out")
		}
		for _, name := range []protoreflect.Name{"compare_start_time", "compare_end_time"} {
			if field := fieldNamed(m, name); field != nil && m.Has(field) {
				say("report."+string(name), "stands still while the period moves on: leave it out, and the period before is the one that ends where this one begins")
			}
		}
		counts := want.GetPeriod().GetKind() == meteringv1.ReportPeriod_KIND_LAST_DAYS || want.GetPeriod().GetKind() == meteringv1.ReportPeriod_KIND_DAYS_TO_NOW
		if counts != (want.GetPeriod().GetDays() > 0) {
			say("period.days", "is how many days, of a period that counts them, and of no other")
		}
	}
	wrong = append(wrong, checkSchedule(want.GetSchedule())...)
	if len(wrong) == 0 {
		zone, err := s.questionZone(ctx, caller.Account, want.GetReport())
		if err != nil {
			return err
		}
		question := withTimes(want.GetReport(), want.GetPeriod(), zone, s.now())
		if err := s.validator.Validate(question); err != nil {
			fields, ok := rpc.Violations(question.ProtoReflect().Descriptor(), err)
			if !ok {
				return errs.Wrap(op, "", err)
			}
			for _, f := range fields {
				say("report."+f.Path, f.Description)
			}
		} else if _, err := s.tableOf(question); err != nil {
			return err
		}
	}
	if len(wrong) > 0 {
		return errs.InvalidFields(op, "", wrong...)
	}
	if want.GetShared() && caller.Reach != authzv1.Reach_REACH_ACCOUNT {
		say("shared", "is for those who see more than what is their own: keep it for yourself")
		return errs.InvalidFields(op, "", wrong...)
	}
	if _, err := s.admitted(want.GetReport(), s.standing(caller, owner)); err != nil {
		return errs.Wrap(op, "", err)
	}
	if !recipients {
		return nil
	}
	return s.checkDelivery(ctx, op, "saved_report.schedule.delivery.", caller, owner, want.GetShared(), want.GetReport(), want.GetSchedule().GetDelivery())
}

// standing is the login of an owner as it is now; the caller, where it is theirs and nobody knows more.
func (s *Service) standing(caller authn.Caller, owner contract.ID) authn.Caller {
	if s.logins != nil {
		if known, err := s.logins.CallerOf(caller.Account, owner); err == nil {
			return known
		}
	}
	if owner == caller.Login {
		return caller
	}
	return authn.Caller{Account: caller.Account, Login: owner}
}

// checkDelivery tells what is wrong with those whom a report is to be sent to.
func (s *Service) checkDelivery(ctx context.Context, op, path string, caller authn.Caller, owner contract.ID, shared bool, question *meteringv1.ReportQuestion, delivery *meteringv1.ReportDelivery) error {
	var wrong []errs.Field
	for i, text := range delivery.GetRecipientLoginIds() {
		say := func(description string) {
			wrong = append(wrong, errs.Field{Path: fmt.Sprintf("%srecipient_login_ids[%d]", path, i), Description: description})
		}
		login, err := contract.ParseID(text)
		switch {
		case err != nil:
			say("is not a UUID")
		case login == owner:
		case caller.Reach != authzv1.Reach_REACH_ACCOUNT:
			say("is another login: who sees only what is their own sends it to themselves")
		case !shared:
			say("is another login, and the report is not shared: share it, or send it to its owner only")
		default:
			if reach, err := s.settledProblem(ctx, caller.Account, owner, login, func() authzv1.Reach { return s.reachOf(question, s.standing(caller, owner)) }); err != nil {
				return errs.Wrap(op, "", err)
			} else if reach != meteringv1.RecipientProblem_RECIPIENT_PROBLEM_UNSPECIFIED {
				say(recipientProblems[reach])
			}
		}
	}
	if len(wrong) > 0 {
		return errs.InvalidFields(op, "", wrong...)
	}
	return nil
}

// reachOf is how far a login sees in a report; unspecified: not at all.
func (s *Service) reachOf(question *meteringv1.ReportQuestion, login authn.Caller) authzv1.Reach {
	if admitted, err := s.admitted(question, login); err == nil {
		return admitted.Reach
	}
	return authzv1.Reach_REACH_UNSPECIFIED
}

// recipientProblems are why somebody gets no mail, in words.
var recipientProblems = map[meteringv1.RecipientProblem]string{
	meteringv1.RecipientProblem_RECIPIENT_PROBLEM_GONE:           "is no login of this account",
	meteringv1.RecipientProblem_RECIPIENT_PROBLEM_DISABLED:       "is a login that is disabled",
	meteringv1.RecipientProblem_RECIPIENT_PROBLEM_NO_ADDRESS:     "has no mail address",
	meteringv1.RecipientProblem_RECIPIENT_PROBLEM_NOT_PRIVILEGED: "may not see what this report shows: it takes the privilege Report or Account Administrator, and an owner who has one of them too",
	meteringv1.RecipientProblem_RECIPIENT_PROBLEM_REFUSED:        "is refused by the mail server",
	meteringv1.RecipientProblem_RECIPIENT_PROBLEM_UNREACHABLE:    "could not be reached: the mail server did not answer",
}

// recipientProblem tells why a login may not have a report that its owner sees so far; unspecified
// where it may.
func (s *Service) recipientProblem(account, owner, login contract.ID, ownerReach authzv1.Reach) (meteringv1.RecipientProblem, error) {
	if login == owner || s.logins == nil {
		return meteringv1.RecipientProblem_RECIPIENT_PROBLEM_UNSPECIFIED, nil
	}
	known, err := s.logins.CallerOf(account, login)
	switch {
	case errors.Is(err, authn.ErrDisabled):
		return meteringv1.RecipientProblem_RECIPIENT_PROBLEM_DISABLED, nil
	case errs.Is(errs.NotFound, err):
		return meteringv1.RecipientProblem_RECIPIENT_PROBLEM_GONE, nil
	case err != nil:
		return 0, err
	}
	sees := known.Privileges.Has(authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR) || known.Privileges.Has(authzv1.Privilege_PRIVILEGE_REPORT)
	if !sees || ownerReach != authzv1.Reach_REACH_ACCOUNT {
		return meteringv1.RecipientProblem_RECIPIENT_PROBLEM_NOT_PRIVILEGED, nil
	}
	return meteringv1.RecipientProblem_RECIPIENT_PROBLEM_UNSPECIFIED, nil
}

const (
	// toldWithin is how long it may take until a login that was just made, or given a privilege, is known here, and
	// askedAgain how often it is asked for meanwhile.
	toldWithin = 2 * time.Second
	askedAgain = 50 * time.Millisecond
)

// settledProblem is recipientProblem once what was just decided on the login has come here: whoever makes a login
// and sends it a report at once must not be told that there is none.
func (s *Service) settledProblem(ctx context.Context, account, owner, login contract.ID, ownerReach func() authzv1.Reach) (meteringv1.RecipientProblem, error) {
	ctx, cancel := context.WithTimeout(ctx, toldWithin)
	defer cancel()
	for {
		problem, err := s.recipientProblem(account, owner, login, ownerReach())
		if err != nil || problem == meteringv1.RecipientProblem_RECIPIENT_PROBLEM_UNSPECIFIED {
			return problem, err
		}
		select {
		case <-ctx.Done():
			return problem, nil
		case <-time.After(askedAgain):
		}
	}
}

// administers tells whether a caller sees and changes what is others'.
func administers(caller authn.Caller) bool {
	return caller.Reach == authzv1.Reach_REACH_ACCOUNT && caller.Privileges.Has(authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR)
}

// mayChange tells whether a caller may change somebody's saved report.
func mayChange(caller authn.Caller, owner contract.ID) bool {
	return administers(caller) || !caller.Login.IsZero() && caller.Login == owner
}

func (a *savedReportAPI) CreateSavedReport(ctx context.Context, req *meteringv1.CreateSavedReportRequest) (*meteringv1.CreateSavedReportResponse, error) {
	const op = "metering.CreateSavedReport"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	if caller.Login.IsZero() {
		return nil, errs.New(errs.Precondition, op, "", "a saved report is a login's, and this key is of none: sign in, or use a key of a login")
	}
	s := a.service
	want := proto.CloneOf(req.GetSavedReport())
	if err := s.checkSaved(ctx, op, caller, caller.Login, want, true); err != nil {
		return nil, err
	}
	command, err := resource.CommandOf(caller.Actor, op, req)
	if err != nil {
		return nil, err
	}
	command.ID = cmp.Or(command.ID, resource.NewID().String())
	id := resource.DerivedID(caller.Account, savedAggregate, caller.Login.String()+command.ID)
	if err := s.roomForSaved(ctx, op, caller); err != nil {
		return nil, err
	}
	defined, err := s.define(ctx, caller.Account, id, caller.Login, want)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	result, err := s.commands.saved.Execute(ctx, savedReportSubject(caller.Account, id), command, func(r SavedReport) ([]proto.Message, error) {
		if r.Definition != nil {
			return nil, errs.New(errs.AlreadyExists, op, "saved report "+id.String(), "there is, or was, a saved report of this id")
		}
		return append([]proto.Message{defined}, r.DecideSchedule(want.GetSchedule(), s.now())...), nil
	})
	if err != nil {
		return nil, resource.CommandError(op, err)
	}
	s.sends.soon()
	saved, err := s.savedReport(ctx, op, caller, id, result.Position)
	return &meteringv1.CreateSavedReportResponse{SavedReport: saved}, err
}

// roomForSaved refuses another saved report of a login that has very many.
func (s *Service) roomForSaved(ctx context.Context, op string, caller authn.Caller) error {
	count := 0
	err := s.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT count(*) FROM saved_report WHERE account_id = $1::uuid AND owner_login_id = $2::uuid", caller.Account, caller.Login).Scan(&count)
	})
	if err == nil && count >= maxSaved {
		err = errs.New(errs.Exhausted, op, "", fmt.Sprintf("a login has at most %d saved reports: delete one that is not needed any more", maxSaved))
	}
	return errs.Wrap(op, "", err)
}

func (a *savedReportAPI) GetSavedReport(ctx context.Context, req *meteringv1.GetSavedReportRequest) (*meteringv1.GetSavedReportResponse, error) {
	const op = "metering.GetSavedReport"
	caller, id, err := savedCall(ctx, op, req)
	if err != nil {
		return nil, err
	}
	saved, err := a.service.savedReport(ctx, op, caller, id, 0)
	if err != nil {
		return nil, err
	}
	return &meteringv1.GetSavedReportResponse{SavedReport: saved}, nil
}

// savedCall is who asks about which saved report.
func savedCall(ctx context.Context, op string, req interface{ GetSavedReportId() string }) (authn.Caller, contract.ID, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return caller, contract.ID{}, err
	}
	id, err := resource.ParseID(op, "saved_report_id", req.GetSavedReportId())
	return caller, id, err
}

func (a *savedReportAPI) ListSavedReports(ctx context.Context, req *meteringv1.ListSavedReportsRequest) (*meteringv1.ListSavedReportsResponse, error) {
	const op = "metering.ListSavedReports"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	found, next, err := resource.Page(op, op+caller.Account.String()+caller.Login.String(), req, func(behind resource.Mark, most int) ([]*meteringv1.SavedReport, error) {
		return a.service.readSaved(ctx, caller, "(created, saved_report_id) > ($4, $5::uuid) ORDER BY created, saved_report_id LIMIT $6", behind.At, behind.ID, most)
	}, func(r *meteringv1.SavedReport) (time.Time, string) {
		return r.GetCreateTime().AsTime(), r.GetSavedReportId()
	})
	if err != nil {
		return nil, err
	}
	return &meteringv1.ListSavedReportsResponse{SavedReports: found, NextPageToken: next}, nil
}

func (a *savedReportAPI) UpdateSavedReport(ctx context.Context, req *meteringv1.UpdateSavedReportRequest) (*meteringv1.UpdateSavedReportResponse, error) {
	const op = "metering.UpdateSavedReport"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	s := a.service
	id, err := resource.ParseID(op, "saved_report.saved_report_id", req.GetSavedReport().GetSavedReportId())
	if err != nil {
		return nil, err
	}
	paths, err := resource.MaskPaths(op, req.GetUpdateMask(), &meteringv1.SavedReport{}, "saved_report_id", "owner_login_id", "next_due_time", "create_time", "update_time", "etag", "changeable", "last_run")
	if err != nil {
		return nil, err
	}
	command, err := resource.CommandOf(caller.Actor, op, req)
	if err != nil {
		return nil, err
	}
	result, err := s.commands.saved.Execute(ctx, savedReportSubject(caller.Account, id), command, func(r SavedReport) ([]proto.Message, error) {
		if err := changeable(op, caller, id, r); err != nil {
			return nil, err
		}
		if etag := req.GetSavedReport().GetEtag(); etag != "" && etag != r.Etag() {
			return nil, errs.New(errs.Conflict, op, "saved report "+id.String(), "it was changed since you read it: read it again, then repeat your change").WithReason("ETAG_MISMATCH")
		}
		words, err := s.openSaved(ctx, caller.Account, r.Definition)
		if err != nil {
			return nil, err
		}
		there := savedMessage(r.Definition, r.Schedule, words[0], true)
		want := proto.CloneOf(there)
		for _, path := range paths {
			field := want.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name(path))
			if given := req.GetSavedReport().ProtoReflect(); given.Has(field) {
				want.ProtoReflect().Set(field, given.Get(field))
			} else {
				want.ProtoReflect().Clear(field)
			}
		}
		want = proto.CloneOf(want) // what is trimmed is not the request's
		if err := s.checkSaved(ctx, op, caller, r.Owner(), want, slices.Contains(paths, "schedule") || slices.Contains(paths, "shared")); err != nil {
			return nil, err
		}
		var events []proto.Message
		before, after := proto.CloneOf(there), proto.CloneOf(want)
		before.Schedule, after.Schedule = nil, nil
		if !proto.Equal(before, after) {
			defined, err := s.define(ctx, caller.Account, id, r.Owner(), want)
			if err != nil {
				return nil, err
			}
			events = append(events, defined)
		}
		return append(events, r.DecideSchedule(want.GetSchedule(), s.now())...), nil
	})
	if err != nil {
		return nil, resource.CommandError(op, err)
	}
	s.sends.soon()
	saved, err := s.savedReport(ctx, op, caller, id, result.Position)
	return &meteringv1.UpdateSavedReportResponse{SavedReport: saved}, err
}

// changeable refuses who may not change a saved report, and does not tell of it whoever may not see it.
func changeable(op string, caller authn.Caller, id contract.ID, r SavedReport) error {
	switch {
	case r.There() && mayChange(caller, r.Owner()):
		return nil
	case r.There() && r.Definition.GetShared() && caller.Reach == authzv1.Reach_REACH_ACCOUNT:
		return errs.New(errs.Denied, op, "saved report "+id.String(), "its owner and administrators change it: save one of your own that asks the same")
	}
	return noSaved(op, id)
}

func noSaved(op string, id contract.ID) error {
	return errs.New(errs.NotFound, op, "saved report "+id.String(), "there is no such saved report")
}

func (a *savedReportAPI) DeleteSavedReport(ctx context.Context, req *meteringv1.DeleteSavedReportRequest) (*meteringv1.DeleteSavedReportResponse, error) {
	const op = "metering.DeleteSavedReport"
	caller, id, err := savedCall(ctx, op, req)
	if err != nil {
		return nil, err
	}
	command, err := resource.CommandOf(caller.Actor, op, req)
	if err != nil {
		return nil, err
	}
	result, err := a.service.commands.saved.Execute(ctx, savedReportSubject(caller.Account, id), command, func(r SavedReport) ([]proto.Message, error) {
		return []proto.Message{&meteringv1.SavedReportDeleted{}}, changeable(op, caller, id, r)
	})
	if err == nil {
		err = a.service.waitForCatalog(ctx, caller.Account, result.Position)
	}
	return &meteringv1.DeleteSavedReportResponse{}, resource.CommandError(op, err)
}

func (a *savedReportAPI) ResolveSavedReport(ctx context.Context, req *meteringv1.ResolveSavedReportRequest) (*meteringv1.ResolveSavedReportResponse, error) {
	const op = "metering.ResolveSavedReport"
	caller, id, err := savedCall(ctx, op, req)
	if err != nil {
		return nil, err
	}
	saved, err := a.service.savedReport(ctx, op, caller, id, 0)
	if err != nil {
		return nil, err
	}
	zone, err := a.service.questionZone(ctx, caller.Account, saved.GetReport())
	if err != nil {
		return nil, err
	}
	at := a.service.now()
	if req.GetAtTime() != nil {
		if at = req.GetAtTime().AsTime(); at.Year() < 1970 || at.Year() > 9000 {
			return nil, errs.InvalidFields(op, "", errs.Field{Path: "at_time", Description: "is at no time that makes sense here"})
		}
	}
	return &meteringv1.ResolveSavedReportResponse{Report: withTimes(saved.GetReport(), saved.GetPeriod(), zone, at)}, nil
}

func (a *savedReportAPI) SendSavedReport(ctx context.Context, req *meteringv1.SendSavedReportRequest) (*meteringv1.SendSavedReportResponse, error) {
	const op = "metering.SendSavedReport"
	caller, id, err := savedCall(ctx, op, req)
	if err != nil {
		return nil, err
	}
	s := a.service
	command, err := resource.CommandOf(caller.Actor, op, req)
	if err != nil {
		return nil, err
	}
	command.ID = cmp.Or(command.ID, resource.NewID().String())
	run := resource.DerivedID(caller.Account, "run", id.String()+command.ID)
	result, err := s.commands.saved.Execute(ctx, savedReportSubject(caller.Account, id), command, func(r SavedReport) ([]proto.Message, error) {
		if err := changeable(op, caller, id, r); err != nil {
			return nil, err
		}
		delivery := req.GetDelivery()
		if delivery == nil {
			delivery = r.Schedule.GetDelivery()
		}
		if delivery == nil {
			delivery = &meteringv1.ReportDelivery{RecipientLoginIds: []string{r.Owner().String()}}
		}
		if err := s.checkDelivery(ctx, op, "delivery.", caller, r.Owner(), r.Definition.GetShared(), r.Definition.GetReport(), req.GetDelivery()); err != nil {
			return nil, err
		}
		return r.DecideSend(run, caller.Login, delivery, s.now())
	})
	if err == nil {
		err = s.waitForCatalog(ctx, caller.Account, result.Position)
	}
	if err != nil {
		return nil, resource.CommandError(op, err)
	}
	runs, err := s.readRuns(ctx, caller.Account, id, "run_id = $3::uuid", run)
	if err != nil || len(runs) == 0 {
		return nil, errs.Wrap(op, "", cmp.Or(err, noSaved(op, id)))
	}
	return &meteringv1.SendSavedReportResponse{Run: runs[0]}, nil
}

func (a *savedReportAPI) ListReportRuns(ctx context.Context, req *meteringv1.ListReportRunsRequest) (*meteringv1.ListReportRunsResponse, error) {
	const op = "metering.ListReportRuns"
	caller, id, err := savedCall(ctx, op, req)
	if err != nil {
		return nil, err
	}
	if _, err := a.service.savedReport(ctx, op, caller, id, 0); err != nil {
		return nil, err
	}
	runs, next, err := resource.Page(op, op+caller.Account.String()+id.String(), req, func(behind resource.Mark, most int) ([]*meteringv1.ReportRun, error) {
		return a.service.readRuns(ctx, caller.Account, id, "($3 OR (begun, run_id) < ($4, $5::uuid)) ORDER BY begun DESC, run_id DESC LIMIT $6", req.GetPageToken() == "", behind.At, behind.ID, most)
	}, func(r *meteringv1.ReportRun) (time.Time, string) { return r.GetBeginTime().AsTime(), r.GetRunId() })
	if err != nil {
		return nil, err
	}
	return &meteringv1.ListReportRunsResponse{Runs: runs, NextPageToken: next}, nil
}

// savedReport is one saved report as a caller may see it.
func (s *Service) savedReport(ctx context.Context, op string, caller authn.Caller, id contract.ID, position eventlog.Position) (*meteringv1.SavedReport, error) {
	if err := s.waitForCatalog(ctx, caller.Account, position); err != nil {
		return nil, err
	}
	found, err := s.readSaved(ctx, caller, "saved_report_id = $4::uuid", id)
	if err != nil {
		return nil, errs.Wrap(op, "saved report "+id.String(), err)
	}
	if len(found) == 0 {
		return nil, noSaved(op, id)
	}
	return found[0], nil
}

// readSaved reads the saved reports that a caller may see; more is a condition with $4 …
func (s *Service) readSaved(ctx context.Context, caller authn.Caller, more string, args ...any) ([]*meteringv1.SavedReport, error) {
	var found []*meteringv1.SavedReport
	var definitions []*meteringv1.SavedReportDefined
	err := s.inAccount(ctx, caller.Account, func(tx pgx.Tx) error {
		settings, err := readSettings(ctx, tx, caller.Account)
		if err != nil {
			return err
		}
		zone, err := loadZone(settings.TimeZone)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT definition, schedule, since, last_due, revision, created, updated, last.decided, last.begun, last.outcome, last.ended
			FROM saved_report AS r LEFT JOIN LATERAL (SELECT n.decided, n.begun, n.outcome, n.ended FROM report_run AS n
				WHERE n.account_id = $1::uuid AND n.saved_report_id = r.saved_report_id ORDER BY n.begun DESC, n.run_id DESC LIMIT 1) AS last ON true
			WHERE account_id = $1::uuid AND ($2 OR shared OR owner_login_id = $3::uuid) AND `+more,
			append([]any{caller.Account, administers(caller), caller.Login}, args...)...)
		if err != nil {
			return err
		}
		found, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*meteringv1.SavedReport, error) {
			var definition, schedule, decided, outcome []byte
			var since, lastDue, begun, ended *time.Time
			var created, updated time.Time
			r := SavedReport{Definition: &meteringv1.SavedReportDefined{}}
			if err := row.Scan(&definition, &schedule, &since, &lastDue, &r.Revision, &created, &updated, &decided, &begun, &outcome, &ended); err != nil {
				return nil, err
			}
			if err := r.read(definition, schedule, since, lastDue); err != nil {
				return nil, err
			}
			definitions = append(definitions, r.Definition)
			m := savedMessage(r.Definition, r.Schedule, savedWords{}, false)
			m.CreateTime, m.UpdateTime, m.Etag, m.Changeable = timestamppb.New(created), timestamppb.New(updated), r.Etag(), mayChange(caller, r.Owner())
			m.NextDueTime = r.next(zone, s.now())
			if begun != nil {
				if m.LastRun, err = runMessage(decided, *begun, outcome, ended); err != nil {
					return nil, err
				}
			}
			return m, nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	words, err := s.openSaved(ctx, caller.Account, definitions...)
	if err != nil {
		return nil, err
	}
	for i, m := range found {
		m.DisplayName = words[i].name
		if m.GetChangeable() {
			setReason(m.GetReport(), words[i].reason)
		}
	}
	return found, nil
}

// read takes over what a row holds.
func (r *SavedReport) read(definition, schedule []byte, since, lastDue *time.Time) error {
	r.Definition = &meteringv1.SavedReportDefined{}
	if err := proto.Unmarshal(definition, r.Definition); err != nil {
		return fmt.Errorf("metering: a saved report: %w", err)
	}
	if schedule != nil {
		r.Schedule = &meteringv1.ReportSchedule{}
		if err := proto.Unmarshal(schedule, r.Schedule); err != nil {
			return fmt.Errorf("metering: a schedule: %w", err)
		}
	}
	if since != nil {
		r.Since = *since
	}
	if lastDue != nil {
		r.LastDue = *lastDue
	}
	return nil
}

// next is when it is due next; nil where it is not.
func (r SavedReport) next(zone *time.Location, now time.Time) *timestamppb.Timestamp {
	if r.Schedule == nil || r.Schedule.GetPaused() {
		return nil
	}
	if due, ok := nextDue(r.Schedule, zone, later(now, later(r.Since, r.LastDue))); ok {
		return timestamppb.New(due)
	}
	return nil
}

func setReason(question *meteringv1.ReportQuestion, reason string) {
	if m := asked(question); m != nil && reason != "" {
		if field := fieldNamed(m, "reason"); field != nil {
			m.Set(field, protoreflect.ValueOfString(reason))
		}
	}
}

// savedMessage is a saved report as the API has it.
func savedMessage(d *meteringv1.SavedReportDefined, schedule *meteringv1.ReportSchedule, words savedWords, withReason bool) *meteringv1.SavedReport {
	m := &meteringv1.SavedReport{
		SavedReportId: contract.ID(d.GetSavedReportId()).String(), OwnerLoginId: contract.ID(d.GetOwnerLoginId()).String(), DisplayName: words.name,
		Report: proto.CloneOf(d.GetReport()), Period: d.GetPeriod(), Shared: d.GetShared(), Schedule: schedule,
	}
	if withReason {
		setReason(m.GetReport(), words.reason)
	}
	return m
}

// readRuns reads runs of a saved report; more is a condition with $3 …
func (s *Service) readRuns(ctx context.Context, account, report contract.ID, more string, args ...any) (runs []*meteringv1.ReportRun, err error) {
	err = s.inAccount(ctx, account, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT decided, begun, outcome, ended FROM report_run WHERE account_id = $1::uuid AND saved_report_id = $2::uuid AND "+more, append([]any{account, report}, args...)...)
		if err != nil {
			return err
		}
		runs, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (*meteringv1.ReportRun, error) {
			var decided, outcome []byte
			var begun time.Time
			var ended *time.Time
			if err := row.Scan(&decided, &begun, &outcome, &ended); err != nil {
				return nil, err
			}
			return runMessage(decided, begun, outcome, ended)
		})
		return err
	})
	return runs, err
}

// runMessage is a run as the API has it.
func runMessage(decided []byte, begun time.Time, outcome []byte, ended *time.Time) (*meteringv1.ReportRun, error) {
	var d meteringv1.SavedReportRunDecided
	var e meteringv1.SavedReportRunEnded
	if err := errors.Join(proto.Unmarshal(decided, &d), proto.Unmarshal(outcome, &e)); err != nil {
		return nil, fmt.Errorf("metering: a run of a saved report: %w", err)
	}
	m := &meteringv1.ReportRun{RunId: contract.ID(d.GetRunId()).String(), State: meteringv1.ReportRun_STATE_UNDER_WAY, BeginTime: timestamppb.New(begun)}
	if d.GetDueUtcMillis() != 0 {
		m.DueTime = timestamppb.New(time.UnixMilli(d.GetDueUtcMillis()))
	}
	if by, err := contract.IDFrom(d.GetByLoginId()); err == nil {
		m.SentByLoginId = by.String()
	}
	if ended == nil {
		return m, nil
	}
	m.EndTime, m.State = timestamppb.New(*ended), meteringv1.ReportRun_STATE_SENT
	m.Sent, m.FileName, m.FileBytes, m.Attached = int32(len(e.GetSentLoginIds())), e.GetFileName(), e.GetFileBytes(), e.GetAttached()
	for _, missed := range e.GetMissed() {
		m.Missed = append(m.Missed, &meteringv1.MissedRecipient{LoginId: contract.ID(missed.GetLoginId()).String(), Problem: missed.GetProblem()})
	}
	if m.Problem = e.GetProblem(); m.GetProblem() != meteringv1.RunProblem_RUN_PROBLEM_UNSPECIFIED {
		m.State = meteringv1.ReportRun_STATE_FAILED
		m.Message = runProblems[m.GetProblem()]
		if e.GetDetail() != "" {
			m.Message += " (" + e.GetDetail() + ")"
		}
	}
	return m, nil
}

// runProblems are why a run has failed and what to do, in words.
var runProblems = map[meteringv1.RunProblem]string{
	meteringv1.RunProblem_RUN_PROBLEM_OWNER_GONE:           "The login of its owner is gone or disabled: enable it, or save the report under another login.",
	meteringv1.RunProblem_RUN_PROBLEM_OWNER_NOT_PRIVILEGED: "Its owner may not see this report any more: give the login the privilege that it needs, or save the report under another login.",
	meteringv1.RunProblem_RUN_PROBLEM_REASON_MISSING:       "The account asks why the use of named people is looked at: give this saved report a reason.",
	meteringv1.RunProblem_RUN_PROBLEM_REFUSED:              "It cannot be asked so: change what it asks.",
	meteringv1.RunProblem_RUN_PROBLEM_NO_RECIPIENT:         "None of its recipients could be sent a mail: see why of each, and choose others.",
	meteringv1.RunProblem_RUN_PROBLEM_NO_MAIL:              "This platform sends no mails: its operator names a mail server.",
	meteringv1.RunProblem_RUN_PROBLEM_TOO_LATE:             "It could not be made or sent for hours, and was given up: send it again.",
}

// applySavedReport keeps saved reports and their runs as they are.
func applySavedReport(ctx context.Context, tx pgx.Tx, account contract.ID, event eventlog.Event, message proto.Message) error {
	subject := strings.Split(event.Subject, ".")
	id, err := contract.ParseID(subject[len(subject)-1])
	if err != nil {
		return fmt.Errorf("metering: %s: %w", event.Subject, err)
	}
	switch e := message.(type) {
	case *meteringv1.SavedReportDefined:
		definition, err := proto.Marshal(e)
		if err != nil {
			return fmt.Errorf("metering: %w", err)
		}
		_, err = tx.Exec(ctx, `INSERT INTO saved_report AS r (account_id, saved_report_id, owner_login_id, shared, definition, revision, created, updated)
			VALUES ($1, $2, $3, $4, $5, 1, $6, $6) ON CONFLICT (account_id, saved_report_id)
			DO UPDATE SET owner_login_id = excluded.owner_login_id, shared = excluded.shared, definition = excluded.definition, revision = r.revision + 1, updated = excluded.updated`,
			account, id, [16]byte(e.GetOwnerLoginId()), e.GetShared(), definition, event.Time)
		return err
	case *meteringv1.SavedReportScheduled:
		var schedule []byte
		if e.GetSchedule() != nil {
			if schedule, err = proto.Marshal(e.GetSchedule()); err != nil {
				return fmt.Errorf("metering: %w", err)
			}
			schedule = slices.Concat([]byte{}, schedule)
		}
		_, err = tx.Exec(ctx, "UPDATE saved_report SET schedule = $3, since = $4, revision = revision + 1, updated = $5 WHERE account_id = $1 AND saved_report_id = $2",
			account, id, schedule, time.UnixMilli(e.GetSinceUtcMillis()), event.Time)
		return err
	case *meteringv1.SavedReportDeleted:
		if _, err := tx.Exec(ctx, "DELETE FROM report_run WHERE account_id = $1 AND saved_report_id = $2", account, id); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "DELETE FROM saved_report WHERE account_id = $1 AND saved_report_id = $2", account, id)
		return err
	case *meteringv1.SavedReportRunDecided:
		decided, err := proto.Marshal(e)
		if err != nil {
			return fmt.Errorf("metering: %w", err)
		}
		if e.GetDueUtcMillis() != 0 {
			if _, err := tx.Exec(ctx, "UPDATE saved_report SET last_due = $3 WHERE account_id = $1 AND saved_report_id = $2", account, id, time.UnixMilli(e.GetDueUtcMillis())); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, "INSERT INTO report_run (account_id, saved_report_id, run_id, decided, begun) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
			account, id, [16]byte(e.GetRunId()), decided, event.Time)
		return err
	case *meteringv1.SavedReportRunEnded:
		outcome, err := proto.Marshal(e)
		if err != nil {
			return fmt.Errorf("metering: %w", err)
		}
		_, err = tx.Exec(ctx, "UPDATE report_run SET outcome = $4, ended = $5 WHERE account_id = $1 AND saved_report_id = $2 AND run_id = $3",
			account, id, [16]byte(e.GetRunId()), outcome, event.Time)
		return err
	}
	return fmt.Errorf("metering: %T is no event of a saved report", message)
}
