package metering

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	otelmetric "go.opentelemetry.io/otel/metric"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/reactor"
	"github.com/cetrus/cetrus/services/platform/resource"
)

const (
	// lookForDue is how often it is looked what is due, at least: whoever decides elsewhere wakes nobody here.
	lookForDue = 30 * time.Second
	// runWithin is for how long a run is tried.
	runWithin = 6 * time.Hour
	// runsAtOnce bounds the runs that are made or wait for another attempt, runAttempt one attempt
	// and mailWithin one mail of it.
	runsAtOnce = 64
	runAttempt = 10 * time.Minute
	mailWithin = 45 * time.Second
	// runFirstPause and runPause are the shortest and the longest pause between attempts.
	runFirstPause = time.Second
	runPause      = 5 * time.Minute
	// sendActor stands in events that follow from schedules.
	sendActor = "metering"
)

// sends is what sends saved reports.
type sends struct {
	// wake has it looked what is due, or when that is next.
	wake
	ended otelmetric.Int64Counter
	delay otelmetric.Float64Histogram
}

func newSends() (*sends, error) {
	meter := otel.Meter("github.com/cetrus/cetrus/services/metering")
	ended, err := meter.Int64Counter("cetrus.metering.report_runs", otelmetric.WithDescription("Times that a saved report was to be sent, by what became of it"))
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	delay, err := meter.Float64Histogram("cetrus.metering.report_run_delay", otelmetric.WithUnit("s"),
		otelmetric.WithDescription("From when a saved report was due, or sent by hand, until that had ended"),
		otelmetric.WithExplicitBucketBoundaries(1, 5, 15, 60, 300, 1800, 7200, 21600))
	if err != nil {
		return nil, fmt.Errorf("metering: %w", err)
	}
	return &sends{wake: newWake(), ended: ended, delay: delay}, nil
}

// runSends decides what is due until ctx ends.
func (s *Service) runSends(ctx context.Context) error {
	due := time.AfterFunc(lookForDue, s.sends.soon)
	defer due.Stop()
	s.everyLevel(ctx, lookForDue, s.sends.wake, func(v *views) {
		next, err := s.decideDue(ctx, v)
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "what is due could not be decided; it is tried again", "error", err, "again in", lookForDue)
		}
		if !next.IsZero() {
			due.Reset(max(next.Sub(s.now()), 0))
		}
	})
	return nil
}

// decideDue decides on the runs of all schedules that are due now, and tells when the next one is. The tables only
// say where to look: what the log says of each saved report decides, once for each due time.
func (s *Service) decideDue(ctx context.Context, v *views) (next time.Time, err error) {
	now := s.now()
	rows, err := v.store.Projector.Query(ctx, `SELECT r.account_id, r.saved_report_id, r.definition, r.schedule, r.since, r.last_due, coalesce(s.time_zone, $1)
		FROM saved_report AS r LEFT JOIN settings AS s ON s.account_id = r.account_id WHERE r.schedule IS NOT NULL`, DefaultSettings().TimeZone)
	if err != nil {
		return next, fmt.Errorf("metering: %w", err)
	}
	type due struct {
		account, report contract.ID
		zone            *time.Location
	}
	var dues []due
	var failed []error
	var one due
	var definition, schedule []byte
	var since, lastDue *time.Time
	var zone string
	if _, err := pgx.ForEachRow(rows, []any{(*[16]byte)(&one.account), (*[16]byte)(&one.report), &definition, &schedule, &since, &lastDue, &zone}, func() error {
		var r SavedReport
		err := r.read(definition, schedule, since, lastDue)
		if err == nil {
			one.zone, err = loadZone(zone)
		}
		if err != nil { // the others are due all the same
			failed = append(failed, fmt.Errorf("metering: saved report %s of %s: %w", one.report, one.account, err))
			return nil
		}
		if _, is := r.Due(one.zone, now); is {
			dues = append(dues, one)
		}
		if at := r.next(one.zone, now); at != nil && (next.IsZero() || at.AsTime().Before(next)) {
			next = at.AsTime()
		}
		return nil
	}); err != nil {
		return next, fmt.Errorf("metering: %w", err)
	}
	for _, d := range dues {
		if err := s.commands.decideDue(ctx, d.account, d.report, d.zone, now); err != nil {
			failed = append(failed, fmt.Errorf("metering: saved report %s of %s: %w", d.report, d.account, err))
		}
	}
	return next, errors.Join(failed...)
}

func (c *commands) decideDue(ctx context.Context, account, report contract.ID, zone *time.Location, now time.Time) error {
	_, err := c.saved.Execute(ctx, savedReportSubject(account, report), eventlog.Command{Actor: sendActor}, func(r SavedReport) ([]proto.Message, error) {
		due, _ := r.Due(zone, now)
		return r.DecideDue(resource.DerivedID(account, "run", report.String()+due.UTC().Format(time.RFC3339)), zone, now), nil
	})
	return err
}

// newSendReactor makes what sends the reports that were decided to be sent, and forgets those of
// logins that are deleted.
func (s *Service) newSendReactor() (*reactor.Reactor, error) {
	return reactor.New(reactor.Config{
		Name: "metering-saved-reports", Stream: contract.EventStream,
		Subjects: []string{"ev.*.*." + contextName + "." + savedAggregate + ".*", "ev.*.*.identity.login.*"},
		InFlight: runsAtOnce, Timeout: runAttempt, FirstPause: cmp.Or(s.cfg.RunFirstPause, runFirstPause), MaxPause: runPause,
		// Age ends the attempts, not their number, so that the run says why.
		Attempts: int(4 * runWithin / runPause), MaxDeliveries: 1000,
	}, reactor.Deps{NATS: s.nats, Logger: s.log, Handler: s.handleSaved})
}

func (s *Service) handleSaved(ctx context.Context, event eventlog.Event) error {
	if event.Type == loginDeleted {
		return s.forgetSaved(ctx, event)
	}
	if !s.registry.Knows(event.Type) {
		return nil
	}
	message, err := s.registry.Decode(event)
	if err != nil {
		return reactor.Permanent(err)
	}
	decided, is := message.(*meteringv1.SavedReportRunDecided)
	if !is {
		return nil
	}
	account, err := accountOfSubject(event.Subject)
	if err != nil {
		return reactor.Permanent(err)
	}
	return s.send(ctx, account, event, contract.ID(decided.GetRunId()))
}

// forgetSaved deletes the saved reports of a login that is deleted.
func (s *Service) forgetSaved(ctx context.Context, event eventlog.Event) error {
	tokens := strings.Split(event.Subject, ".")
	account, err := contract.ParseID(tokens[2])
	if err != nil {
		return reactor.Permanent(err)
	}
	login, err := contract.ParseID(tokens[len(tokens)-1])
	if err != nil {
		return reactor.Permanent(err)
	}
	// What it had saved until then is before this event in the log.
	if err := s.waitForCatalog(ctx, account, event.Position); err != nil {
		return err
	}
	rows, err := s.serving.Load().store.Projector.Query(ctx, "SELECT saved_report_id FROM saved_report WHERE account_id = $1 AND owner_login_id = $2", account, login)
	if err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
	if err != nil {
		return fmt.Errorf("metering: %w", err)
	}
	if err := s.files.forgetLogin(ctx, account, login); err != nil {
		return err
	}
	for _, id := range ids {
		_, err := s.commands.saved.Execute(ctx, savedReportSubject(account, id), eventlog.Command{Actor: sendActor}, func(r SavedReport) ([]proto.Message, error) {
			if !r.There() {
				return nil, nil
			}
			return []proto.Message{&meteringv1.SavedReportDeleted{}}, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// send makes a report and has it sent, unless that has ended; then it says what became of it.
func (s *Service) send(ctx context.Context, account contract.ID, event eventlog.Event, run contract.ID) error {
	id, err := contract.ParseID(event.Subject[strings.LastIndexByte(event.Subject, '.')+1:])
	if err != nil {
		return reactor.Permanent(err)
	}
	r, _, err := s.commands.saved.Load(ctx, event.Subject)
	if err != nil {
		return err
	}
	decided := r.underWay[run]
	if decided == nil || !r.There() {
		return nil
	}
	ended := &meteringv1.SavedReportRunEnded{RunId: run[:]}
	if err := s.carry(ctx, account, id, r, decided, ended); err != nil {
		if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return err // this process ends: another goes on
		}
		if s.now().Sub(event.Time) < runWithin {
			return err
		}
		s.log.ErrorContext(ctx, "a saved report could not be sent for hours, and is given up", "account", account, "saved_report", id, "run", run, "error", err)
		if len(ended.GetSentLoginIds()) == 0 {
			ended.Problem, ended.Detail = meteringv1.RunProblem_RUN_PROBLEM_TOO_LATE, errs.PublicOf(err).Message
			ended.FileName, ended.FileBytes, ended.Attached = "", 0, false
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if _, err := s.commands.saved.Execute(ctx, event.Subject, eventlog.Command{Actor: sendActor}, func(r SavedReport) ([]proto.Message, error) {
		if !r.There() {
			return nil, nil
		}
		return r.DecideEnd(ended), nil
	}); err != nil {
		return err
	}
	problem := "none"
	if ended.GetProblem() != meteringv1.RunProblem_RUN_PROBLEM_UNSPECIFIED {
		problem = enumWord(ended.GetProblem(), "RUN_PROBLEM_")
		s.log.WarnContext(ctx, "a saved report was not sent", "account", account, "saved_report", id, "run", run, "problem", problem)
	}
	by := otelmetric.WithAttributes(attribute.String("problem", problem), attribute.Bool("by_hand", decided.GetDueUtcMillis() == 0))
	s.sends.ended.Add(ctx, 1, by)
	s.sends.delay.Record(ctx, s.now().Sub(time.UnixMilli(decided.GetAtUtcMillis())).Seconds(), by)
	return nil
}

// carry makes a report with what its owner may see now, and has it sent to those who may have it. It
// fills in what became of it; an error is of what may go well another time.
func (s *Service) carry(ctx context.Context, account, id contract.ID, r SavedReport, decided *meteringv1.SavedReportRunDecided, ended *meteringv1.SavedReportRunEnded) error {
	if s.logins == nil {
		return errs.New(errs.Precondition, "metering.send", "", "this process knows no logins")
	}
	fails := func(problem meteringv1.RunProblem, detail string) error {
		ended.Problem, ended.Detail = problem, detail
		return nil
	}
	owner, err := s.logins.CallerOf(account, r.Owner())
	switch {
	case errors.Is(err, authn.ErrDisabled), errs.Is(errs.NotFound, err):
		return fails(meteringv1.RunProblem_RUN_PROBLEM_OWNER_GONE, "")
	case err != nil:
		return err
	}
	if owner, err = s.admitted(r.Definition.GetReport(), owner); err != nil {
		return fails(meteringv1.RunProblem_RUN_PROBLEM_OWNER_NOT_PRIVILEGED, "")
	}
	recipients, err := s.recipientsOf(account, owner, r, decided, ended)
	if err != nil {
		return err
	}
	if len(recipients) == 0 {
		return fails(meteringv1.RunProblem_RUN_PROBLEM_NO_RECIPIENT, "")
	}
	words, err := s.openSaved(ctx, account, r.Definition)
	if err != nil {
		return err
	}
	asks, err := s.asLogin(ctx, owner)
	if err != nil {
		return err
	}
	zone, err := s.questionZone(asks, account, r.Definition.GetReport())
	if err != nil {
		return refused(err, fails)
	}
	question := withTimes(r.Definition.GetReport(), r.Definition.GetPeriod(), zone, time.UnixMilli(decided.GetAtUtcMillis()))
	setReason(question, words[0].reason)
	wish := &identityv1.ReportMail{
		AccountId: account[:], SavedReportId: id[:], RunId: decided.GetRunId(), OwnerLoginId: owner.Login[:],
		Name: words[0].name, Period: periodWords(question, zone), AtUtcMillis: decided.GetAtUtcMillis(), ByHand: decided.GetDueUtcMillis() == 0,
	}
	if err := s.fill(asks, wish, question, decided.GetDelivery()); err != nil {
		return refused(err, fails)
	}
	if wish.GetFileName() != "" {
		ended.FileName, ended.FileBytes, ended.Attached = wish.GetFileName(), int64(len(wish.GetContent())), !wish.GetTooLarge()
	}
	return s.mail(ctx, wish, recipients, ended)
}

// asLogin is a context in which a login asks that has not called itself.
func (s *Service) asLogin(ctx context.Context, login authn.Caller) (context.Context, error) {
	asks := authn.WithCaller(ctx, login)
	if _, only := authn.OwnOnly(asks); !only {
		return asks, nil
	}
	// The platform asks that, and not the login, who sees nothing yet.
	principals, err := s.PrincipalsOf(ctx, login.Account, login.Login)
	if err != nil {
		return nil, err
	}
	return authn.WithOwn(asks, principals), nil
}

// recipientsOf are those of a run who may have it; it notes why others may not.
func (s *Service) recipientsOf(account contract.ID, owner authn.Caller, r SavedReport, decided *meteringv1.SavedReportRunDecided, ended *meteringv1.SavedReportRunEnded) (recipients []contract.ID, err error) {
	for _, text := range decided.GetDelivery().GetRecipientLoginIds() {
		login, err := contract.ParseID(text)
		if err != nil {
			return nil, fmt.Errorf("metering: recipient %q: %w", text, err)
		}
		problem, err := s.recipientProblem(account, owner.Login, login, owner.Reach)
		if err != nil {
			return nil, err
		}
		if login != owner.Login && !r.Definition.GetShared() {
			problem = meteringv1.RecipientProblem_RECIPIENT_PROBLEM_NOT_PRIVILEGED
		}
		if problem == meteringv1.RecipientProblem_RECIPIENT_PROBLEM_UNSPECIFIED {
			recipients = append(recipients, login)
		} else {
			miss(ended, login, problem)
		}
	}
	return recipients, nil
}

func miss(ended *meteringv1.SavedReportRunEnded, login contract.ID, problem meteringv1.RecipientProblem) {
	ended.Missed = append(ended.Missed, &meteringv1.MissedLogin{LoginId: login[:], Problem: problem})
}

// refused tells a report that cannot be asked so from one that may be answered another time.
func refused(err error, fails func(meteringv1.RunProblem, string) error) error {
	switch detail, noReason, refused := refusal(err); {
	case noReason:
		return fails(meteringv1.RunProblem_RUN_PROBLEM_REASON_MISSING, "")
	case refused:
		return fails(meteringv1.RunProblem_RUN_PROBLEM_REFUSED, detail)
	}
	return err
}

// refusal tells whether a report cannot be asked so, and why; noReason where all that it lacks is one.
func refusal(err error) (detail string, noReason, refused bool) {
	public := errs.PublicOf(err)
	switch public.Kind {
	case errs.Invalid, errs.Denied, errs.NotFound, errs.Precondition, errs.Exhausted:
	default:
		return "", false, false
	}
	detail = public.Message
	for _, field := range public.Fields {
		if field.Path == "reason" {
			return "", true, true
		}
		detail += "; " + field.Path + " " + field.Description
	}
	return detail, false, true
}

// fill makes the file of a mail, where one is asked for.
func (s *Service) fill(ctx context.Context, wish *identityv1.ReportMail, question *meteringv1.ReportQuestion, delivery *meteringv1.ReportDelivery) error {
	table, err := s.tableOf(question)
	if err != nil {
		return err
	}
	if wish.Kind = table.title; delivery.GetLinkOnly() {
		return nil
	}
	format := delivery.GetFormat()
	if format == meteringv1.ExportFormat_EXPORT_FORMAT_UNSPECIFIED {
		format = meteringv1.ExportFormat_EXPORT_FORMAT_XLSX
	}
	file, err := s.fileOf(ctx, question, format)
	if err != nil {
		return err
	}
	wish.FileName, wish.ContentType = file.name, file.contentType
	content := &boundedBuffer{most: contract.MaxAttachedBytes}
	err = file.write(ctx, content)
	switch {
	case content.full:
		wish.TooLarge = true
		return nil
	case err != nil:
		return err
	}
	wish.Content = content.Bytes()
	return nil
}

// errFull ends the writing of a file that is too large.
var errFull = errors.New("metering: the file is too large for a mail")

// boundedBuffer takes so many bytes at most.
type boundedBuffer struct {
	bytes.Buffer
	most int
	full bool
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.full = b.full || b.Len()+len(p) > b.most; b.full {
		return 0, errFull
	}
	return b.Buffer.Write(p)
}

// mail has identity send a report to each recipient.
func (s *Service) mail(ctx context.Context, wish *identityv1.ReportMail, recipients []contract.ID, ended *meteringv1.SavedReportRunEnded) error {
	problems := map[identityv1.ReportMailOutcome]meteringv1.RecipientProblem{
		identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_GONE:       meteringv1.RecipientProblem_RECIPIENT_PROBLEM_GONE,
		identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_DISABLED:   meteringv1.RecipientProblem_RECIPIENT_PROBLEM_DISABLED,
		identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_NO_ADDRESS: meteringv1.RecipientProblem_RECIPIENT_PROBLEM_NO_ADDRESS,
		identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_REFUSED:    meteringv1.RecipientProblem_RECIPIENT_PROBLEM_REFUSED,
	}
	var later []error
	noMail := false
	for _, login := range recipients {
		wish.LoginId = login[:]
		outcome, err := s.askForMail(ctx, wish)
		if err == nil && outcome == identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_UNSPECIFIED {
			err = errs.New(errs.Unavailable, "metering.send", "", "the mail server could not be spoken to")
		}
		switch problem, missed := problems[outcome]; {
		case err != nil:
			miss(ended, login, meteringv1.RecipientProblem_RECIPIENT_PROBLEM_UNREACHABLE) // if it stays so
			later = append(later, err)
		case outcome == identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_SENT:
			ended.SentLoginIds = append(ended.SentLoginIds, slices.Clone(login[:]))
		case outcome == identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_NO_MAIL:
			noMail = true
		case missed:
			miss(ended, login, problem)
		}
	}
	switch {
	case noMail:
		ended.Problem = meteringv1.RunProblem_RUN_PROBLEM_NO_MAIL
	case len(later) > 0:
		return errors.Join(later...)
	case len(ended.GetSentLoginIds()) == 0:
		ended.Problem = meteringv1.RunProblem_RUN_PROBLEM_NO_RECIPIENT
	}
	return nil
}

func (s *Service) askForMail(ctx context.Context, wish *identityv1.ReportMail) (outcome identityv1.ReportMailOutcome, err error) {
	question, err := proto.Marshal(wish)
	if err != nil {
		return outcome, fmt.Errorf("metering: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, mailWithin)
	defer cancel()
	answer, err := s.nats.RequestWithContext(ctx, contract.ReportMailSubject, question)
	if err != nil {
		return outcome, errs.As(errs.Unavailable, "metering.send", "", "identity, which sends mails, does not answer", err)
	}
	var a identityv1.ReportMailAnswer
	if err := proto.Unmarshal(answer.Data, &a); err != nil {
		return outcome, fmt.Errorf("metering: what identity answers cannot be read: %w", err)
	}
	return a.GetOutcome(), nil
}

// periodWords is what a question is about, in words; "" where it names no times.
func periodWords(question *meteringv1.ReportQuestion, zone *time.Location) string {
	m := asked(question)
	if first, last := textOfField(m, "first_month"), textOfField(m, "last_month"); last != "" {
		return first + " to " + last
	}
	at := func(name protoreflect.Name) (time.Time, bool) {
		field := fieldNamed(m, name)
		if field == nil || !m.Has(field) {
			return time.Time{}, false
		}
		t, ok := m.Get(field).Message().Interface().(interface{ AsTime() time.Time })
		if !ok {
			return time.Time{}, false
		}
		return t.AsTime().In(zone), true
	}
	start, ok := at("start_time")
	end, is := at("end_time")
	if !ok || !is {
		return ""
	}
	const day, minute = "2006-01-02", "2006-01-02 15:04"
	from, to := start.Format(minute), end.Format(minute)
	if start.Equal(firstAt(dateIn(start, zone), zone)) && end.Equal(firstAt(dateIn(end, zone), zone)) {
		from, to = start.Format(day), dateIn(end, zone).AddDate(0, 0, -1).Format(day)
	}
	if from == to {
		return from + ", " + zone.String()
	}
	return from + " to " + to + ", " + zone.String()
}
