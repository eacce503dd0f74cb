package metering

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// reportFileAPI serves cetrus.metering.v1.ReportFileService.
type reportFileAPI struct {
	meteringv1.UnimplementedReportFileServiceServer
	service *Service
}

func (a *reportFileAPI) CreateReportFile(ctx context.Context, req *meteringv1.CreateReportFileRequest) (*meteringv1.CreateReportFileResponse, error) {
	const op = "metering.CreateReportFile"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	if caller.Login.IsZero() {
		return nil, errs.New(errs.Precondition, op, "", "a file is a login's, and this key is of none: sign in, or use a key of a login")
	}
	s := a.service
	if s.logins == nil {
		return nil, errs.New(errs.Precondition, op, "", "this process knows no logins, and makes no files in the background")
	}
	question := proto.CloneOf(req.GetReportFile().GetReport())
	if _, err := s.asking(ctx, question); err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	if _, err := s.tableOf(question); err != nil {
		return nil, err
	}
	if m := asked(question); m != nil {
		if field := fieldNamed(m, "page_size"); field != nil {
			m.Clear(field)
		}
	}
	command, err := resource.CommandOf(caller.Actor, op, req)
	if err != nil {
		return nil, err
	}
	f := &keptFile{
		account: caller.Account, owner: caller.Login, format: req.GetReportFile().GetFormat(), privileges: caller.Privileges,
		id: resource.DerivedID(caller.Account, "reportfile", caller.Login.String()+cmp.Or(command.ID, resource.NewID().String())),
	}
	if err := s.files.put(ctx, op, f, question); err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	found, err := a.file(ctx, op, caller, f.id)
	if err != nil {
		return nil, err
	}
	m, err := a.message(ctx, found)
	if err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	if !proto.Equal(m.GetReport(), question) || found.format != f.format {
		return nil, errs.New(errs.AlreadyExists, op, "", "this request_id was used for another file")
	}
	return &meteringv1.CreateReportFileResponse{ReportFile: m}, nil
}

// file is a file of the caller.
func (a *reportFileAPI) file(ctx context.Context, op string, caller authn.Caller, id contract.ID) (*keptFile, error) {
	found, err := a.service.files.read(ctx, caller.Account, caller.Login, "f.report_file_id = $3::uuid", id)
	if err != nil {
		return nil, errs.Wrap(op, "report file "+id.String(), err)
	}
	if len(found) == 0 {
		return nil, errs.New(errs.NotFound, op, "report file "+id.String(), "you have no such file, or it is gone: files are kept for a week")
	}
	return &found[0], nil
}

// named is the file of the caller that a request names.
func (a *reportFileAPI) named(ctx context.Context, op string, req interface{ GetReportFileId() string }) (*keptFile, error) {
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	id, err := resource.ParseID(op, "report_file_id", req.GetReportFileId())
	if err != nil {
		return nil, err
	}
	return a.file(ctx, op, caller, id)
}

func (a *reportFileAPI) GetReportFile(ctx context.Context, req *meteringv1.GetReportFileRequest) (*meteringv1.GetReportFileResponse, error) {
	const op = "metering.GetReportFile"
	f, err := a.named(ctx, op, req)
	if err != nil {
		return nil, err
	}
	m, err := a.message(ctx, f)
	return &meteringv1.GetReportFileResponse{ReportFile: m}, errs.Wrap(op, "", err)
}

func (a *reportFileAPI) ListReportFiles(ctx context.Context, req *meteringv1.ListReportFilesRequest) (*meteringv1.ListReportFilesResponse, error) {
	const op = "metering.ListReportFiles"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	found, next, err := resource.Page(op, op+caller.Account.String()+caller.Login.String(), req, func(behind resource.Mark, most int) ([]keptFile, error) {
		return a.service.files.read(ctx, caller.Account, caller.Login,
			"($3 OR (f.created, f.report_file_id) < ($4, $5::uuid)) ORDER BY f.created DESC, f.report_file_id DESC LIMIT $6", req.GetPageToken() == "", behind.At, behind.ID, most)
	}, func(f keptFile) (time.Time, string) { return f.created, f.id.String() })
	if err != nil {
		return nil, err
	}
	resp := &meteringv1.ListReportFilesResponse{NextPageToken: next}
	for i := range found {
		m, err := a.message(ctx, &found[i])
		if err != nil {
			return nil, errs.Wrap(op, "", err)
		}
		resp.ReportFiles = append(resp.ReportFiles, m)
	}
	return resp, nil
}

func (a *reportFileAPI) CancelReportFile(ctx context.Context, req *meteringv1.CancelReportFileRequest) (*meteringv1.CancelReportFileResponse, error) {
	const op = "metering.CancelReportFile"
	f, err := a.named(ctx, op, req)
	if err != nil {
		return nil, err
	}
	if _, err := a.service.files.emptied(ctx, fileCancelled, 0, "", "f.account_id = $6::uuid AND f.report_file_id = $7::uuid AND f.state IN ($4, $8)", f.account, f.id, int16(fileMaking)); err != nil {
		return nil, errs.Wrap(op, "", err)
	}
	if f, err = a.named(ctx, op, req); err != nil {
		return nil, err
	}
	m, err := a.message(ctx, f)
	return &meteringv1.CancelReportFileResponse{ReportFile: m}, errs.Wrap(op, "", err)
}

func (a *reportFileAPI) DeleteReportFile(ctx context.Context, req *meteringv1.DeleteReportFileRequest) (*meteringv1.DeleteReportFileResponse, error) {
	const op = "metering.DeleteReportFile"
	f, err := a.named(ctx, op, req)
	if err != nil {
		return nil, err
	}
	if _, err := a.service.files.store.Projector.Exec(ctx, "DELETE FROM report_file WHERE account_id = $1::uuid AND report_file_id = $2::uuid", f.account, f.id); err != nil {
		return nil, errs.Wrap(op, "report file "+f.id.String(), fmt.Errorf("metering: %w", err))
	}
	return &meteringv1.DeleteReportFileResponse{}, nil
}

func (a *reportFileAPI) DownloadReportFile(req *meteringv1.DownloadReportFileRequest, stream grpc.ServerStreamingServer[meteringv1.DownloadReportFileResponse]) error {
	const op = "metering.DownloadReportFile"
	ctx := stream.Context()
	f, err := a.named(ctx, op, req)
	if err != nil {
		return err
	}
	s := a.service
	question, err := s.files.asked(ctx, f)
	if err != nil {
		return errs.Wrap(op, "", err)
	}
	asks, err := s.asking(ctx, question)
	if err != nil {
		return errs.Wrap(op, "", err)
	}
	if caller, err := authn.CallerFrom(asks); err != nil || !seesAsFar(caller.Reach, f.reach) {
		return cmp.Or(err, error(errs.New(errs.Denied, op, "report file "+f.id.String(), "the file was made when you saw more than now: have it made anew")))
	}
	if f.state != fileReady {
		return errs.New(errs.Precondition, op, "report file "+f.id.String(), "it is not ready: GetReportFile tells how far it is")
	}
	table, err := s.tableOf(question)
	if err != nil {
		return err
	}
	next := &meteringv1.DownloadReportFileResponse{}
	next.FileName, next.ContentType = fileNamed(table, f.format)
	for part := range f.parts {
		if next.Content, err = s.files.part(ctx, f, part); err != nil {
			return errs.Wrap(op, "report file "+f.id.String(), err)
		}
		if err := stream.Send(next); err != nil {
			return err
		}
		next = &meteringv1.DownloadReportFileResponse{} // what was sent may still be read
	}
	return nil
}

// seesAsFar tells whether one who sees so far may have what was made for one who saw as far as that.
func seesAsFar(now, then authzv1.Reach) bool {
	switch then {
	case authzv1.Reach_REACH_ACCOUNT, authzv1.Reach_REACH_PLATFORM:
		return now == authzv1.Reach_REACH_ACCOUNT || now == authzv1.Reach_REACH_PLATFORM
	case authzv1.Reach_REACH_AGGREGATE:
		return now != authzv1.Reach_REACH_SELF
	case authzv1.Reach_REACH_SELF, authzv1.Reach_REACH_UNSPECIFIED:
	}
	return true
}

// fileProblems are why there is no file and what to do, in words.
var fileProblems = map[meteringv1.ReportFileProblem]string{
	meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_OWNER_DISABLED:   "Your login was disabled.",
	meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_NOT_PRIVILEGED:   "Your login may not ask this report any more: an administrator gives it the privilege that it needs.",
	meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_REASON_MISSING:   "The account asks why the use of named people is looked at: ask again with a reason.",
	meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_REFUSED:          "It cannot be asked so: change what it asks.",
	meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_TOO_LARGE:        "The file is larger than one may be: ask for a shorter period, or narrow the report, and have several files.",
	meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_GIVEN_UP:         "It was begun several times and never came to its end. Try again; if that fails too, the operator finds the reason in the platform's log.",
	meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_NO_ROOM:          fmt.Sprintf("The files of the account have %d GiB together, and it has room for no more: remove some, and have it made again.", maxAccountBytes>>30),
	meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_PERSON_FORGOTTEN: "Somebody in the account was forgotten since, and may have been in it: have it made anew.",
}

// message is a file as the API has it.
func (a *reportFileAPI) message(ctx context.Context, f *keptFile) (*meteringv1.ReportFile, error) {
	stamp := func(t *time.Time) *timestamppb.Timestamp {
		if t == nil {
			return nil
		}
		return timestamppb.New(*t)
	}
	question, err := a.service.files.asked(ctx, f)
	if err != nil {
		return nil, err
	}
	m := &meteringv1.ReportFile{
		ReportFileId: f.id.String(), Report: question, Format: f.format, State: f.state, Rows: f.rows, Bytes: f.bytes, DonePercent: f.percent,
		Problem: f.problem, Message: fileProblems[f.problem],
		CreateTime: timestamppb.New(f.created), BeginTime: stamp(f.begun), EndTime: stamp(f.ended), ExpireTime: timestamppb.New(f.expires),
	}
	if f.detail != "" {
		m.Message += " (" + f.detail + ")"
	}
	table, err := a.service.tableOf(question)
	if err != nil {
		return nil, err
	}
	m.Title = table.title
	m.FileName, _ = fileNamed(table, f.format)
	if zone, err := a.service.questionZone(ctx, f.account, question); err == nil {
		m.Period = periodWords(question, zone)
	}
	return m, nil
}
