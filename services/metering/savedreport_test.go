package metering

import (
	"bytes"
	"context"
	"flag"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/xuri/excelize/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/resource"
)

var savedSeed = flag.Uint64("saved.seed", 0, "seed of TestSavedReportsAreSentOnce; 0: another one each time")

// post is an office that saves reports, and an identity that sends what it asks for.
type post struct {
	*staff
	saved *savedReportAPI

	mu      sync.Mutex
	clock   time.Time
	logins  map[contract.ID]authn.Caller
	gone    map[contract.ID]error
	answers func(*identityv1.ReportMail) identityv1.ReportMailOutcome
	// mails are those that were sent, by run and login, and asked counts how often they were asked for.
	mails map[string]*identityv1.ReportMail
	asked map[string]int
}

func newPost(t *testing.T) *post {
	t.Helper()
	p := &post{
		clock: time.Date(2026, 11, 2, 6, 0, 0, 0, time.UTC), logins: map[contract.ID]authn.Caller{}, gone: map[contract.ID]error{},
		mails: map[string]*identityv1.ReportMail{}, asked: map[string]int{},
	}
	p.staff = newStaff(t, func(cfg *Config, deps *Deps) {
		cfg.Now, cfg.RunFirstPause, deps.Logins = p.now, time.Millisecond, p
	})
	p.saved = &savedReportAPI{}
	p.again()
	subscription, err := p.nc.QueueSubscribe(contract.ReportMailSubject, "identity", p.answer)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = subscription.Unsubscribe() })
	return p
}

// again goes on with the service that runs now.
func (p *post) again() { p.saved.service = p.service }

func (p *post) now() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.clock
}

func (p *post) at(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clock = t
}

// CallerOf implements Logins.
func (p *post) CallerOf(_, login contract.ID) (authn.Caller, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.gone[login]; err != nil {
		return authn.Caller{}, err
	}
	known, ok := p.logins[login]
	if !ok {
		return authn.Caller{}, errs.New(errs.NotFound, "test", "", "no such login")
	}
	return known, nil
}

func (p *post) says(login contract.ID, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone[login] = err
}

// login makes a login that has privileges, and a context in which it asks.
func (p *post) login(privileges ...authzv1.Privilege) (contract.ID, context.Context) {
	p.t.Helper()
	login := p.hired(resource.NewID(), false)
	caller := authn.Caller{Account: p.account, Login: login, Actor: "login:" + login.String(), Privileges: authn.PrivilegesOf(privileges...)}
	p.mu.Lock()
	p.logins[login] = caller
	p.mu.Unlock()
	caller.Reach = authzv1.Reach_REACH_SELF
	if caller.Privileges.Has(authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR) || caller.Privileges.Has(authzv1.Privilege_PRIVILEGE_REPORT) {
		caller.Reach = authzv1.Reach_REACH_ACCOUNT
	}
	return login, authn.WithCaller(p.t.Context(), caller)
}

// answer is identity's part: of one run it sends a login one mail.
func (p *post) answer(m *nats.Msg) {
	q := &identityv1.ReportMail{}
	if err := proto.Unmarshal(m.Data, q); err != nil {
		p.t.Error(err)
		return
	}
	p.mu.Lock()
	key := contract.ID(q.GetRunId()).String() + "." + contract.ID(q.GetLoginId()).String()
	p.asked[key]++
	outcome := identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_SENT
	if p.mails[key] == nil && p.answers != nil {
		outcome = p.answers(q)
	}
	if outcome == identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_SENT {
		p.mails[key] = q
	}
	p.mu.Unlock()
	data, err := proto.Marshal(&identityv1.ReportMailAnswer{Outcome: outcome})
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		p.t.Error(err)
	}
}

func (p *post) create(ctx context.Context, report *meteringv1.SavedReport) *meteringv1.SavedReport {
	p.t.Helper()
	resp, err := p.saved.CreateSavedReport(ctx, &meteringv1.CreateSavedReportRequest{SavedReport: report})
	if err != nil {
		p.t.Fatal(err)
	}
	return resp.GetSavedReport()
}

// ended waits until no run is under way, and returns them, the latest first.
func (p *post) ended(ctx context.Context, id string) []*meteringv1.ReportRun {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		resp, err := p.saved.ListReportRuns(ctx, &meteringv1.ListReportRunsRequest{SavedReportId: id})
		if err != nil {
			p.t.Fatal(err)
		}
		if !slices.ContainsFunc(resp.GetRuns(), func(r *meteringv1.ReportRun) bool { return r.GetState() == meteringv1.ReportRun_STATE_UNDER_WAY }) {
			return resp.GetRuns()
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("runs do not end: %v", resp.GetRuns())
		}
		<-time.After(5 * time.Millisecond)
	}
}

// idle is a saved report about how the office used what it has, whenever that was.
func (p *post) idle() *meteringv1.SavedReport {
	return &meteringv1.SavedReport{
		DisplayName: "Use by people",
		Report: &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Usage{Usage: &meteringv1.SummarizeUsageRequest{
			StartTime: timestamppb.New(p.booted.Truncate(24 * time.Hour)), EndTime: timestamppb.New(p.booted.Add(40 * 24 * time.Hour).Truncate(24 * time.Hour)),
			GroupBy: []meteringv1.GroupBy{meteringv1.GroupBy_GROUP_BY_APPLICATION},
		}}},
	}
}

const (
	administrator = authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR
	reporter      = authzv1.Privilege_PRIVILEGE_REPORT
	user          = authzv1.Privilege_PRIVILEGE_APPLICATION_USER
)

// TestSavedReportsAreSentOnce: whatever stops, and whoever else decides at the same time, each due time is
// decided once, and of each a login is sent one mail, which holds what the API answers.
func TestSavedReportsAreSentOnce(t *testing.T) {
	seed := *savedSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-saved.seed=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	p := newPost(t)
	ada, asAda := p.login(reporter)
	bob, _ := p.login(administrator)
	p.mu.Lock()
	p.answers = func(*identityv1.ReportMail) identityv1.ReportMailOutcome {
		return identityv1.ReportMailOutcome(rnd.IntN(2)) // every other time it could not be done just now
	}
	p.mu.Unlock()
	want := p.idle()
	want.Shared = true
	want.Schedule = &meteringv1.ReportSchedule{
		Recurrence: meteringv1.ReportSchedule_RECURRENCE_DAILY, TimeOfDay: "07:00",
		Delivery: &meteringv1.ReportDelivery{RecipientLoginIds: []string{ada.String(), bob.String()}},
	}
	saved := p.create(asAda, want)
	// What cannot be read of another account's keeps nobody waiting.
	if _, err := p.service.stores.Views.Projector.Exec(t.Context(), `INSERT INTO saved_report (account_id, saved_report_id, owner_login_id, shared, definition, schedule, revision, created, updated)
		VALUES ($1, $1, $1, false, '\xff', '\xff', 1, now(), now())`, contract.ID{}); err != nil {
		t.Fatal(err)
	}
	if due := saved.GetNextDueTime().AsTime(); !due.Equal(time.Date(2026, 11, 2, 7, 0, 0, 0, time.UTC)) {
		t.Fatalf("it is due at %s", due)
	}
	for range 5 {
		p.at(p.now().Add(time.Duration(rnd.IntN(50)) * time.Hour))
		p.service.sends.soon()
		other, err := New(p.cfg, p.deps)
		if err != nil {
			t.Fatal(err)
		}
		stopOther := begin(t, other)
		if rnd.IntN(2) == 0 {
			p.ended(asAda, saved.GetSavedReportId())
		}
		p.stop()
		p.at(p.now().Add(time.Duration(rnd.IntN(30)) * time.Hour))
		other.sends.soon()
		p.run()
		p.again()
		stopOther()
	}
	p.at(p.now().Add(25 * time.Hour))
	last, _ := latestDue(want.GetSchedule(), time.UTC, p.now())
	var runs []*meteringv1.ReportRun
	for deadline := time.Now().Add(time.Minute); len(runs) == 0 || !runs[0].GetDueTime().AsTime().Equal(last); {
		p.service.sends.soon()
		if runs = p.ended(asAda, saved.GetSavedReportId()); time.Now().After(deadline) {
			t.Fatalf("the last due time is %s: %v", last, runs)
		}
		<-time.After(5 * time.Millisecond)
	}
	dues := map[int64]bool{}
	for _, r := range runs {
		due := r.GetDueTime().AsTime()
		if due.Hour() != 7 || due.Minute() != 0 || dues[due.Unix()] {
			t.Errorf("due at %s again, or never", due)
		}
		dues[due.Unix()] = true
		if r.GetState() != meteringv1.ReportRun_STATE_SENT || r.GetSent() != 2 || !r.GetAttached() || r.GetFileName() != "use.xlsx" {
			t.Errorf("a run ended as %v", r)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.mails) != 2*len(runs) {
		t.Errorf("%d mails of %d runs", len(p.mails), len(runs))
	}
	t.Logf("%d due times of %s were sent", len(runs), last.Sub(time.Date(2026, 11, 2, 0, 0, 0, 0, time.UTC)))
	// The log says the same as the tables.
	decided := map[int64]int{}
	id, err := contract.ParseID(saved.GetSavedReportId())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.service.commands.log.Each(t.Context(), savedReportSubject(p.account, id), func(e eventlog.Event) error {
		m, err := p.service.registry.Decode(e)
		if d, is := m.(*meteringv1.SavedReportRunDecided); is {
			decided[d.GetDueUtcMillis()]++
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for due, n := range decided {
		if n != 1 {
			t.Errorf("%s was decided %d times", time.UnixMilli(due), n)
		}
	}
	file, err := exportOf(asAda, p.service, saved.GetReport(), meteringv1.ExportFormat_EXPORT_FORMAT_XLSX)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range p.mails {
		if diff := cmp.Diff(sheet(t, file.file.Bytes()), sheet(t, m.GetContent())); diff != "" {
			t.Fatalf("the mail's file is another:\n%s", diff)
		}
		if m.GetName() != "Use by people" || m.GetKind() != "Use" || m.GetPeriod() == "" || m.GetByHand() {
			t.Fatalf("the mail is called %q, %q, %q", m.GetName(), m.GetKind(), m.GetPeriod())
		}
	}
}

// sheet is what the first sheet of a workbook holds.
func sheet(t *testing.T, workbook []byte) [][]string {
	t.Helper()
	f, err := excelize.OpenReader(bytes.NewReader(workbook))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := f.GetRows(f.GetSheetList()[0])
	if err != nil || len(rows) < 2 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	return rows
}

// TestSavedReportsThatFailSayWhy: each thing that can be wrong is told by the run, with what to do.
func TestSavedReportsThatFailSayWhy(t *testing.T) {
	p := newPost(t)
	ada, asAda := p.login(reporter)
	bob, _ := p.login(reporter)
	want := p.idle()
	want.Shared = true
	want.Report.GetUsage().GroupBy = []meteringv1.GroupBy{meteringv1.GroupBy_GROUP_BY_PRINCIPAL}
	saved := p.create(asAda, want)
	send := func(to ...contract.ID) *meteringv1.ReportRun {
		t.Helper()
		delivery := &meteringv1.ReportDelivery{Format: meteringv1.ExportFormat_EXPORT_FORMAT_CSV}
		for _, login := range to {
			delivery.RecipientLoginIds = append(delivery.RecipientLoginIds, login.String())
		}
		if _, err := p.saved.SendSavedReport(asAda, &meteringv1.SendSavedReportRequest{SavedReportId: saved.GetSavedReportId(), Delivery: delivery}); err != nil {
			t.Fatal(err)
		}
		return p.ended(asAda, saved.GetSavedReportId())[0]
	}
	fails := func(problem meteringv1.RunProblem, run *meteringv1.ReportRun) {
		t.Helper()
		if run.GetState() != meteringv1.ReportRun_STATE_FAILED || run.GetProblem() != problem || run.GetMessage() == "" || run.GetSent() != 0 {
			t.Errorf("%s: %v", problem, run)
		}
	}
	if run := send(ada, bob); run.GetSent() != 2 || run.GetDueTime() != nil || run.GetSentByLoginId() != ada.String() || run.GetFileName() != "use.csv" {
		t.Errorf("sent by hand: %v", run)
	}
	answers := func(outcome identityv1.ReportMailOutcome) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.answers = func(*identityv1.ReportMail) identityv1.ReportMailOutcome { return outcome }
	}
	for outcome, problem := range map[identityv1.ReportMailOutcome]meteringv1.RecipientProblem{
		identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_NO_ADDRESS: meteringv1.RecipientProblem_RECIPIENT_PROBLEM_NO_ADDRESS,
		identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_REFUSED:    meteringv1.RecipientProblem_RECIPIENT_PROBLEM_REFUSED,
	} {
		answers(outcome)
		run := send(ada)
		fails(meteringv1.RunProblem_RUN_PROBLEM_NO_RECIPIENT, run)
		if len(run.GetMissed()) != 1 || run.GetMissed()[0].GetProblem() != problem {
			t.Errorf("%s: %v", outcome, run)
		}
	}
	answers(identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_NO_MAIL)
	fails(meteringv1.RunProblem_RUN_PROBLEM_NO_MAIL, send(ada))
	p.mu.Lock()
	p.answers = func(*identityv1.ReportMail) identityv1.ReportMailOutcome {
		p.clock = p.clock.Add(24 * time.Hour * 365 * 10) // events have the time of this machine
		return identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_UNSPECIFIED
	}
	p.mu.Unlock()
	fails(meteringv1.RunProblem_RUN_PROBLEM_TOO_LATE, send(ada))
	p.mu.Lock()
	p.answers = nil
	p.mu.Unlock()

	p.says(bob, authn.ErrDisabled)
	if run := p.refusedRun(asAda, saved, bob); run == nil || !strings.Contains(run.Error(), "disabled") {
		t.Errorf("a recipient who is disabled: %v", run)
	}
	// One who was just made, and is not known here yet, is waited for.
	p.says(bob, errs.New(errs.NotFound, "test", "", "no such login"))
	time.AfterFunc(4*askedAgain, func() { p.says(bob, nil) })
	if run := send(bob); run.GetSent() != 1 {
		t.Errorf("a recipient who is known a moment later: %v", run)
	}
	p.says(bob, nil)
	if _, err := p.saved.UpdateSavedReport(asAda, &meteringv1.UpdateSavedReportRequest{
		SavedReport: &meteringv1.SavedReport{SavedReportId: saved.GetSavedReportId(), Schedule: &meteringv1.ReportSchedule{
			Recurrence: meteringv1.ReportSchedule_RECURRENCE_MONTHLY, DayOfMonth: 31, TimeOfDay: "18:00", Delivery: &meteringv1.ReportDelivery{RecipientLoginIds: []string{ada.String(), bob.String()}},
		}}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"schedule"}},
	}); err != nil {
		t.Fatal(err)
	}
	byHand := func() *meteringv1.ReportRun {
		t.Helper()
		if _, err := p.saved.SendSavedReport(asAda, &meteringv1.SendSavedReportRequest{SavedReportId: saved.GetSavedReportId()}); err != nil {
			t.Fatal(err)
		}
		return p.ended(asAda, saved.GetSavedReportId())[0]
	}
	p.says(bob, errs.New(errs.NotFound, "test", "", "gone"))
	if run := byHand(); run.GetSent() != 1 || len(run.GetMissed()) != 1 || run.GetMissed()[0].GetProblem() != meteringv1.RecipientProblem_RECIPIENT_PROBLEM_GONE {
		t.Errorf("one is gone: %v", run)
	}
	p.says(bob, nil)
	p.mu.Lock()
	p.logins[bob] = authn.Caller{Account: p.account, Login: bob, Privileges: authn.PrivilegesOf(user)}
	p.mu.Unlock()
	if run := byHand(); len(run.GetMissed()) != 1 || run.GetMissed()[0].GetProblem() != meteringv1.RecipientProblem_RECIPIENT_PROBLEM_NOT_PRIVILEGED {
		t.Errorf("one has lost the privilege: %v", run)
	}

	settings := &settingsAPI{service: p.service}
	if _, err := settings.UpdateSettings(p.admin, &meteringv1.UpdateSettingsRequest{Settings: &meteringv1.Settings{ViewReasonRequired: true}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"view_reason_required"}}}); err != nil {
		t.Fatal(err)
	}
	fails(meteringv1.RunProblem_RUN_PROBLEM_REASON_MISSING, byHand())
	got := saved.GetReport()
	got.GetUsage().Reason = "licence review"
	changed, err := p.saved.UpdateSavedReport(asAda, &meteringv1.UpdateSavedReportRequest{SavedReport: &meteringv1.SavedReport{SavedReportId: saved.GetSavedReportId(), Report: got}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"report"}}})
	if err != nil || changed.GetSavedReport().GetReport().GetUsage().GetReason() != "licence review" {
		t.Fatalf("%v, %v", changed, err)
	}
	if run := byHand(); run.GetSent() != 1 {
		t.Errorf("with a reason: %v", run)
	}

	p.says(ada, authn.ErrDisabled)
	fails(meteringv1.RunProblem_RUN_PROBLEM_OWNER_GONE, byHand())
	p.says(ada, nil)
	p.mu.Lock()
	p.logins[ada] = authn.Caller{Account: p.account, Login: ada}
	p.mu.Unlock()
	fails(meteringv1.RunProblem_RUN_PROBLEM_OWNER_NOT_PRIVILEGED, byHand())
}

// refusedRun is why a report may not be sent to somebody.
func (p *post) refusedRun(ctx context.Context, saved *meteringv1.SavedReport, to contract.ID) error {
	_, err := p.saved.SendSavedReport(ctx, &meteringv1.SendSavedReportRequest{
		SavedReportId: saved.GetSavedReportId(), Delivery: &meteringv1.ReportDelivery{RecipientLoginIds: []string{to.String()}},
	})
	return err
}

// TestWhoseSavedReports: the owner and administrators change one, Report sees what is shared, others their
// own; and what a deleted login had is gone.
func TestWhoseSavedReports(t *testing.T) {
	p := newPost(t)
	ada, asAda := p.login(reporter)
	bob, asBob := p.login(reporter)
	_, asAdmin := p.login(administrator)
	eve, asEve := p.login(user)
	private, shared := p.idle(), p.idle()
	private.DisplayName, shared.DisplayName, shared.Shared = "private", "shared", true
	private.Report.GetUsage().Reason = "because"
	mine, ours := p.create(asAda, private), p.create(asAda, shared)
	own := p.create(asEve, &meteringv1.SavedReport{DisplayName: "mine", Report: p.idle().GetReport(), Period: &meteringv1.ReportPeriod{Kind: meteringv1.ReportPeriod_KIND_LAST_DAYS, Days: 7}})
	for _, c := range []struct {
		who  string
		ctx  context.Context
		sees []string
	}{
		{"the owner", asAda, []string{"private", "shared"}},
		{"Report", asBob, []string{"shared"}},
		{"an administrator", asAdmin, []string{"private", "shared", "mine"}},
		{"a user", asEve, []string{"mine"}},
	} {
		var names []string
		for token := ""; ; {
			list, err := p.saved.ListSavedReports(c.ctx, &meteringv1.ListSavedReportsRequest{PageSize: 1, PageToken: token})
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range list.GetSavedReports() {
				names = append(names, r.GetDisplayName())
			}
			if token = list.GetNextPageToken(); token == "" {
				break
			}
		}
		if !slices.Equal(names, c.sees) {
			t.Errorf("%s sees %v", c.who, names)
		}
	}
	update := func(ctx context.Context, r *meteringv1.SavedReport, etag string) error {
		_, err := p.saved.UpdateSavedReport(ctx, &meteringv1.UpdateSavedReportRequest{SavedReport: &meteringv1.SavedReport{SavedReportId: r.GetSavedReportId(), DisplayName: r.GetDisplayName() + "!", Etag: etag}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"display_name"}}})
		return err
	}
	for _, c := range []struct {
		what string
		err  error
		kind errs.Kind
	}{
		{"another's shared one", update(asBob, ours, ""), errs.Denied},
		{"another's own", update(asBob, mine, ""), errs.NotFound},
		{"a user another's", update(asEve, ours, ""), errs.NotFound},
		{"an old one", update(asAda, mine, "7"), errs.Conflict},
		{"to another, what is not shared", p.refusedRun(asAda, mine, bob), errs.Invalid},
		{"to another, of a user", p.refusedRun(asEve, own, ada), errs.Invalid},
		{"to a user, what is shared", p.refusedRun(asAda, ours, eve), errs.Invalid},
	} {
		if !errs.Is(c.kind, c.err) {
			t.Errorf("%s: %v", c.what, c.err)
		}
	}
	if err := update(asAdmin, mine, mine.GetEtag()); err != nil {
		t.Errorf("an administrator: %v", err)
	}
	if _, err := p.saved.CreateSavedReport(asEve, &meteringv1.CreateSavedReportRequest{SavedReport: shared}); !errs.Is(errs.Invalid, err) {
		t.Errorf("a user shares: %v", err)
	}
	resolved, err := p.saved.ResolveSavedReport(asEve, &meteringv1.ResolveSavedReportRequest{SavedReportId: own.GetSavedReportId(), AtTime: timestamppb.New(time.Date(2026, 3, 30, 12, 0, 0, 0, time.UTC))})
	if diff := cmp.Diff(timestamppb.New(time.Date(2026, 3, 23, 0, 0, 0, 0, time.UTC)), resolved.GetReport().GetUsage().GetStartTime(), protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("resolved: %v %s", err, diff)
	}
	if run, err := p.saved.SendSavedReport(asEve, &meteringv1.SendSavedReportRequest{SavedReportId: own.GetSavedReportId()}); err != nil || run.GetRun().GetState() == meteringv1.ReportRun_STATE_FAILED {
		t.Errorf("a user sends it to themselves: %v, %v", run, err)
	}
	if runs := p.ended(asEve, own.GetSavedReportId()); runs[0].GetSent() != 1 {
		t.Errorf("a user sends it to themselves: %v", runs)
	}
	got, err := p.saved.GetSavedReport(asAda, &meteringv1.GetSavedReportRequest{SavedReportId: mine.GetSavedReportId()})
	if err != nil || got.GetSavedReport().GetDisplayName() != "private!" || got.GetSavedReport().GetReport().GetUsage().GetReason() != "because" {
		t.Errorf("%v, %v", got, err)
	}
	p.fire(ada)
	for deadline := time.Now().Add(time.Minute); ; {
		list, err := p.saved.ListSavedReports(asAdmin, &meteringv1.ListSavedReportsRequest{})
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%v, %v", list, err)
		}
		if len(list.GetSavedReports()) == 1 {
			break
		}
		<-time.After(5 * time.Millisecond)
	}
}

// fire deletes a login.
func (p *post) fire(login contract.ID) {
	p.t.Helper()
	log := p.service.commands.log
	subject := contract.EventSubject(p.account, "identity", "login", login.String())
	last, err := log.Last(p.t.Context(), subject)
	if err == nil {
		_, err = log.Append(p.t.Context(), subject, last, eventlog.Event{ID: resource.NewID().String(), Type: loginDeleted, Time: time.Now()})
	}
	if err != nil {
		p.t.Fatal(err)
	}
}
