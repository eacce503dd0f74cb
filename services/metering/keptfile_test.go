package metering

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// keptDownload gathers what a download sends.
type keptDownload struct {
	grpc.ServerStream
	ctx  context.Context
	name string
	file bytes.Buffer
}

func (d *keptDownload) Context() context.Context { return d.ctx }

func (d *keptDownload) Send(part *meteringv1.DownloadReportFileResponse) error {
	if part.GetFileName() != "" {
		d.name = part.GetFileName()
	}
	_, err := d.file.Write(part.GetContent())
	return err
}

func (p *post) files() *reportFileAPI { return &reportFileAPI{service: p.service} }

// own adds to the context of a login which principals it is, as who serves the call does.
func (p *post) own(ctx context.Context) context.Context {
	p.t.Helper()
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		p.t.Fatal(err)
	}
	principals, err := p.service.PrincipalsOf(p.t.Context(), caller.Account, caller.Login)
	if err != nil {
		p.t.Fatal(err)
	}
	return authn.WithOwn(ctx, principals)
}

func (p *post) keep(ctx context.Context, q *meteringv1.ReportQuestion, format meteringv1.ExportFormat) *meteringv1.ReportFile {
	p.t.Helper()
	answer, err := p.files().CreateReportFile(p.own(ctx), &meteringv1.CreateReportFileRequest{ReportFile: &meteringv1.ReportFile{Report: q, Format: format}})
	if err != nil {
		p.t.Fatal(err)
	}
	return answer.GetReportFile()
}

// until waits for a state of a file.
func (p *post) until(ctx context.Context, f *meteringv1.ReportFile, is func(*meteringv1.ReportFile) bool) *meteringv1.ReportFile {
	p.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		got, err := p.files().GetReportFile(p.own(ctx), &meteringv1.GetReportFileRequest{ReportFileId: f.GetReportFileId()})
		if err != nil || time.Now().After(deadline) {
			p.t.Fatalf("%v, %v", got, err)
		}
		if is(got.GetReportFile()) {
			return got.GetReportFile()
		}
		p.service.files.soon()
		<-time.After(5 * time.Millisecond)
	}
}

func ended(f *meteringv1.ReportFile) bool { return f.GetEndTime() != nil }

func (p *post) download(ctx context.Context, f *meteringv1.ReportFile) (*keptDownload, error) {
	d := &keptDownload{ctx: p.own(ctx)}
	return d, p.files().DownloadReportFile(&meteringv1.DownloadReportFileRequest{ReportFileId: f.GetReportFileId()}, d)
}

// useByPerson is a report that names people.
func useByPerson() *meteringv1.ReportQuestion {
	return &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Usage{Usage: &meteringv1.SummarizeUsageRequest{
		StartTime: timestamppb.New(time.Now().Add(-100 * 24 * time.Hour).Truncate(24 * time.Hour)), EndTime: timestamppb.New(time.Now().Add(24 * time.Hour).Truncate(24 * time.Hour)),
		GroupBy: []meteringv1.GroupBy{meteringv1.GroupBy_GROUP_BY_PRINCIPAL, meteringv1.GroupBy_GROUP_BY_APPLICATION},
	}}}
}

// TestKeptFilesAreWhatIsHadDirectly: byte for byte, for those who see all and those who see their own; and
// nobody else has them.
func TestKeptFilesAreWhatIsHadDirectly(t *testing.T) {
	p := newPost(t)
	ada, asAda := p.login(reporter)
	_, asAdmin := p.login(administrator)
	eve, asEve := p.login(user)
	if err := p.bind(p.principals[0], eve); err != nil {
		t.Fatal(err)
	}
	instances := &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Instances{Instances: &meteringv1.ListInstancesRequest{}}}
	first := p.until(asAda, p.keep(asAda, useByPerson(), meteringv1.ExportFormat_EXPORT_FORMAT_XLSX), ended)
	if views := p.auditOf(ada); first.GetState() != fileReady || !slices.Equal(views, []string{"SummarizeUsage"}) {
		t.Fatalf("that named people were looked at is recorded so: %v; %v", views, first)
	}
	rows := map[string]int64{}
	for _, c := range []struct {
		who    string
		ctx    context.Context
		q      *meteringv1.ReportQuestion
		format meteringv1.ExportFormat
	}{
		{"use", asAda, useByPerson(), meteringv1.ExportFormat_EXPORT_FORMAT_CSV},
		{"use", asAda, useByPerson(), meteringv1.ExportFormat_EXPORT_FORMAT_JSON},
		{"instances", asAdmin, instances, meteringv1.ExportFormat_EXPORT_FORMAT_CSV},
		{"own", asEve, useByPerson(), meteringv1.ExportFormat_EXPORT_FORMAT_CSV},
	} {
		f := p.until(c.ctx, p.keep(c.ctx, c.q, c.format), ended)
		want, err := exportOf(p.own(c.ctx), p.service, c.q, c.format)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.download(c.ctx, f)
		if err != nil || f.GetState() != fileReady || !bytes.Equal(got.file.Bytes(), want.file.Bytes()) || got.name != want.first.GetFileName() {
			t.Errorf("%s: %v: %v: %d bytes, not %d", c.who, err, f, got.file.Len(), want.file.Len())
		}
		if f.GetBytes() != int64(want.file.Len()) || f.GetDonePercent() != 100 || f.GetTitle() == "" || !strings.HasPrefix(got.name, strings.TrimSuffix(f.GetFileName(), ".csv")[:3]) {
			t.Errorf("%s: %v", c.who, f)
		}
		rows[c.who] = f.GetRows()
		for who, other := range map[string]context.Context{"Report": asAda, "an administrator": asAdmin, "a user": asEve} {
			if other == c.ctx {
				continue
			}
			_, err := p.download(other, f)
			_, got := p.files().GetReportFile(p.own(other), &meteringv1.GetReportFileRequest{ReportFileId: f.GetReportFileId()})
			_, cancelled := p.files().CancelReportFile(p.own(other), &meteringv1.CancelReportFileRequest{ReportFileId: f.GetReportFileId()})
			_, removed := p.files().DeleteReportFile(p.own(other), &meteringv1.DeleteReportFileRequest{ReportFileId: f.GetReportFileId()})
			for _, err := range []error{err, got, cancelled, removed} {
				if !errs.Is(errs.NotFound, err) {
					t.Errorf("%s of another: %v", who, err)
				}
			}
		}
	}
	if rows["own"] == 0 || rows["instances"] == 0 || rows["own"] >= rows["use"] {
		t.Errorf("rows: %v", rows)
	}
	list, err := p.files().ListReportFiles(p.own(asAda), &meteringv1.ListReportFilesRequest{PageSize: 2})
	if err != nil || len(list.GetReportFiles()) != 2 || list.GetNextPageToken() == "" {
		t.Fatalf("%v, %v", list, err)
	}
	rest, err := p.files().ListReportFiles(p.own(asAda), &meteringv1.ListReportFilesRequest{PageSize: 2, PageToken: list.GetNextPageToken()})
	if err != nil || len(rest.GetReportFiles()) != 1 || rest.GetNextPageToken() != "" || rest.GetReportFiles()[0].GetReportFileId() == list.GetReportFiles()[0].GetReportFileId() {
		t.Fatalf("%v, %v", rest, err)
	}
	// The same request is one file; another file is another request's.
	request := &meteringv1.CreateReportFileRequest{ReportFile: &meteringv1.ReportFile{Report: useByPerson()}, RequestId: resource.NewID().String()}
	once, err := p.files().CreateReportFile(asAda, request)
	again, err2 := p.files().CreateReportFile(asAda, proto.CloneOf(request))
	if err := errors.Join(err, err2); err != nil || once.GetReportFile().GetReportFileId() != again.GetReportFile().GetReportFileId() {
		t.Errorf("%v: %v, %v", err, once, again)
	}
	request.ReportFile.Report = instances
	if _, err := p.files().CreateReportFile(asAda, request); !errs.Is(errs.AlreadyExists, err) {
		t.Errorf("another file of the same request: %v", err)
	}
	// A key that is good for less than its login has no more by a file.
	key, _ := authn.CallerFrom(asAda)
	key.Privileges, key.Reach = authn.PrivilegesOf(user), authzv1.Reach_REACH_SELF
	asKey := authn.WithCaller(t.Context(), key)
	byKey := p.until(asKey, p.keep(asKey, useByPerson(), 0), ended)
	if byKey.GetState() == fileReady && byKey.GetRows() >= rows["use"] || byKey.GetState() == fileFailed && byKey.GetProblem() != meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_NOT_PRIVILEGED {
		t.Errorf("by a key: %v", byKey)
	}
	if _, err := p.download(asKey, list.GetReportFiles()[0]); !errs.Is(errs.Denied, err) {
		t.Errorf("a key that sees less downloads what its login sees: %v", err)
	}

	// Who is forgotten is in no file any more, and who is gone has none.
	if _, err := p.api.ForgetPrincipal(p.admin, &meteringv1.ForgetPrincipalRequest{PrincipalId: p.principals[1].String()}); err != nil {
		t.Fatal(err)
	}
	forgotten := p.until(asAda, list.GetReportFiles()[0], func(f *meteringv1.ReportFile) bool { return f.GetState() == fileFailed })
	if forgotten.GetProblem() != meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_PERSON_FORGOTTEN || p.keptParts(forgotten) != 0 {
		t.Errorf("somebody was forgotten: %v", forgotten)
	}
	p.fire(ada)
	for deadline := time.Now().Add(time.Minute); ; {
		var left int
		if err := p.deps.Stores.Files.Projector.QueryRow(t.Context(), "SELECT count(*) FROM report_file WHERE owner_login_id = $1::uuid", ada).Scan(&left); err != nil || time.Now().After(deadline) {
			t.Fatalf("%d files are left: %v", left, err)
		}
		if left == 0 {
			break
		}
		<-time.After(5 * time.Millisecond)
	}
}

// keptParts counts the parts that are kept of a file.
func (p *post) keptParts(f *meteringv1.ReportFile) (n int) {
	p.t.Helper()
	if err := p.deps.Stores.Files.Projector.QueryRow(p.t.Context(), "SELECT count(*) FROM report_file_part WHERE report_file_id = $1::uuid", f.GetReportFileId()).Scan(&n); err != nil {
		p.t.Fatal(err)
	}
	return n
}

// auditOf are the methods by which a login looked at the use of named people.
func (p *post) auditOf(login contract.ID) (methods []string) {
	p.t.Helper()
	if _, err := p.service.commands.principals.Log.Each(p.t.Context(), viewSubject(p.account, login), func(e eventlog.Event) error {
		message, err := p.service.registry.Decode(e)
		if view, is := message.(*meteringv1.NamedUseViewed); is {
			methods = append(methods, view.GetMethod())
		}
		return err
	}); err != nil {
		p.t.Fatal(err)
	}
	return methods
}

// TestWhyThereIsNoKeptFile: each reason is told, and nothing is left of what was begun.
func TestWhyThereIsNoKeptFile(t *testing.T) {
	p := newPost(t)
	ada, asAda := p.login(reporter)
	fails := func(what string, f *meteringv1.ReportFile, problem meteringv1.ReportFileProblem) {
		t.Helper()
		if f = p.until(asAda, f, ended); f.GetState() != fileFailed || f.GetProblem() != problem || f.GetMessage() == "" || p.keptParts(f) != 0 {
			t.Errorf("%s: %v", what, f)
		}
	}
	p.service.cfg.MaxFileBytes = 100
	fails("too large", p.keep(asAda, useByPerson(), 0), meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_TOO_LARGE)
	p.service.cfg.MaxFileBytes = maxFileBytes
	// There is a little room as it is asked for, and none for all of it.
	full := resource.NewID()
	if _, err := p.deps.Stores.Files.Projector.Exec(t.Context(), `INSERT INTO report_file (account_id, report_file_id, owner_login_id, question, format, privileges, state, written_bytes, expires)
		VALUES ($2, $1, $1, '', 0, 0, $3, $4, now() + interval '1 hour')`, full, p.account, int16(fileReady), int64(maxAccountBytes-1)); err != nil {
		t.Fatal(err)
	}
	fails("no room", p.keep(asAda, useByPerson(), 0), meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_NO_ROOM)
	if _, err := p.deps.Stores.Files.Projector.Exec(t.Context(), "DELETE FROM report_file WHERE report_file_id = $1::uuid", full); err != nil {
		t.Fatal(err)
	}
	fails("of no instance", p.keep(asAda, &meteringv1.ReportQuestion{Question: &meteringv1.ReportQuestion_Intervals{Intervals: &meteringv1.ListIntervalsRequest{InstanceId: resource.NewID().String()}}}, 0),
		meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_REFUSED)
	p.says(ada, authn.ErrDisabled)
	fails("disabled", p.keep(asAda, useByPerson(), 0), meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_OWNER_DISABLED)
	p.says(ada, errors.New("nobody answers"))
	waits := p.until(asAda, p.keep(asAda, useByPerson(), 0), func(f *meteringv1.ReportFile) bool { return f.GetState() == fileWaits && f.GetBeginTime() != nil })
	cancelled, err := p.files().CancelReportFile(p.own(asAda), &meteringv1.CancelReportFileRequest{ReportFileId: waits.GetReportFileId()})
	if err != nil || cancelled.GetReportFile().GetState() != fileCancelled {
		t.Errorf("cancelled: %v, %v", cancelled, err)
	}
	if _, err := p.download(asAda, waits); !errs.Is(errs.Precondition, err) {
		t.Errorf("a file that is not ready: %v", err)
	}
	p.says(ada, nil)
	p.mu.Lock()
	p.logins[ada] = authn.Caller{Account: p.account, Login: ada}
	p.mu.Unlock()
	fails("not privileged", p.keep(asAda, useByPerson(), 0), meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_NOT_PRIVILEGED)
	p.mu.Lock()
	p.logins[ada] = authn.Caller{Account: p.account, Login: ada, Actor: "login:ada", Privileges: authn.PrivilegesOf(reporter)}
	p.mu.Unlock()
	settings := &settingsAPI{service: p.service}
	if _, err := settings.UpdateSettings(p.admin, &meteringv1.UpdateSettingsRequest{Settings: &meteringv1.Settings{ViewReasonRequired: true}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"view_reason_required"}}}); err != nil {
		t.Fatal(err)
	}
	fails("without a reason", p.keep(asAda, useByPerson(), 0), meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_REASON_MISSING)
	q := useByPerson()
	q.GetUsage().Reason = "licence review"
	f := p.until(asAda, p.keep(asAda, q, 0), ended)
	if f.GetState() != fileReady || f.GetReport().GetUsage().GetReason() != "licence review" {
		t.Errorf("with a reason: %v", f)
	}

	// What has been kept for long enough goes.
	if _, err := p.deps.Stores.Files.Projector.Exec(t.Context(), "UPDATE report_file SET expires = now() - interval '1 second' WHERE report_file_id = $1::uuid", f.GetReportFileId()); err != nil {
		t.Fatal(err)
	}
	if err := p.service.files.expire(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.files().GetReportFile(p.own(asAda), &meteringv1.GetReportFileRequest{ReportFileId: f.GetReportFileId()}); !errs.Is(errs.NotFound, err) || p.keptParts(f) != 0 {
		t.Errorf("an old file: %v", err)
	}
}

// TestAKeptFileHasOneMaker: of makers that take files, and die or stop anywhere, one at a time has each; and
// whoever has lost one writes nothing more. Each comes to its end.
func TestAKeptFileHasOneMaker(t *testing.T) {
	s, err := New(Config{}, Deps{NATS: platformtest.NATS(t), Stores: openStores(t), Keys: openKeyring(t), Names: openKeyring(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	files := s.files
	account, owner := resource.NewID(), resource.NewID()
	const all = 12
	for range all {
		if err := files.put(ctx, "test", &keptFile{account: account, owner: owner, id: resource.NewID()}, useByPerson()); err != nil {
			t.Fatal(err)
		}
	}
	key, err := files.key(ctx, account, owner)
	if err != nil {
		t.Fatal(err)
	}
	const holds = 150 * time.Millisecond
	var mu sync.Mutex
	made, takings := map[contract.ID]int{}, map[contract.ID]int{}
	var makers, ghosts sync.WaitGroup
	for range 3 {
		makers.Go(func() {
			for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
				m, err := files.take(ctx, holds)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				left := all - len(made)
				var n int
				if m != nil {
					takings[m.id]++
					n = takings[m.id]
				}
				mu.Unlock()
				if left == 0 {
					return
				}
				if m == nil {
					<-time.After(time.Millisecond)
					continue
				}
				if err := m.add(ctx, key, []byte{byte(n)}); err != nil {
					t.Error("of its own:", err)
				}
				switch n {
				case 1: // it is not heard of, and writes on when another has it
					ghosts.Go(func() {
						for taken := false; !taken; <-time.After(time.Millisecond) {
							mu.Lock()
							taken = takings[m.id] > 1
							mu.Unlock()
							if ctx.Err() != nil {
								return
							}
						}
						for _, err := range []error{m.add(ctx, key, []byte("stale")), m.note(ctx, 1, portion{}), m.ready(ctx, authzv1.Reach_REACH_ACCOUNT, 1), m.fail(ctx, 1, ""), m.again(ctx, 0, true)} {
							if !errors.Is(err, errNotOurs) {
								t.Error("of another's:", err)
							}
						}
					})
				case 2: // it stops
					if err := m.again(ctx, 0, false); err != nil {
						t.Error(err)
					}
				default:
					if err := m.ready(ctx, authzv1.Reach_REACH_ACCOUNT, 1); err != nil {
						t.Error(err)
					}
					mu.Lock()
					made[m.id]++
					mu.Unlock()
				}
			}
		})
	}
	makers.Wait()
	ghosts.Wait()
	found, err := files.read(ctx, account, owner, "true")
	if err != nil || len(found) != all {
		t.Fatalf("%d files: %v", len(found), err)
	}
	for i := range found {
		f := &found[i]
		content, err := files.part(ctx, f, 0)
		if err != nil || f.state != fileReady || f.parts != 1 || made[f.id] != 1 || len(content) != 1 || content[0] < 3 {
			t.Errorf("%+v: %v, %v; made %d times", f, content, err, made[f.id])
		}
	}
}

// TestKeptFilesOutliveTheService: one that was being made as the service stopped, or died, is made by the next.
func TestKeptFilesOutliveTheService(t *testing.T) {
	p := newPost(t)
	_, asAda := p.login(reporter)
	p.stop()
	stopped := p.keep(asAda, useByPerson(), 0)
	// Neither who is forgotten meanwhile nor what does not answer counts as a try, however often.
	for i := range 4 * fileTries {
		m, err := p.service.files.take(t.Context(), time.Minute)
		if err != nil || m == nil {
			t.Fatalf("%v, %v", m, err)
		}
		if i < 2*fileTries {
			err = p.service.files.forgetPeople(t.Context(), p.account)
		} else {
			_, err = p.service.afterFailure(t.Context(), m, errs.New(errs.Unavailable, "test", "", "nobody answers"))
		}
		if _, err2 := p.deps.Stores.Files.Projector.Exec(t.Context(), "UPDATE report_file SET not_before = now()"); errors.Join(err, err2) != nil {
			t.Fatal(err, err2)
		}
	}
	died := p.keep(asAda, useByPerson(), meteringv1.ExportFormat_EXPORT_FORMAT_XLSX)
	for range 2 { // both are claimed by a process that is no more
		if m, err := p.service.files.take(t.Context(), 300*time.Millisecond); err != nil || m == nil {
			t.Fatalf("%v, %v", m, err)
		}
	}
	p.run()
	p.again()
	for _, f := range []*meteringv1.ReportFile{stopped, died} {
		if f = p.until(asAda, f, ended); f.GetState() != fileReady || f.GetRows() == 0 {
			t.Error(f)
		}
	}
}
