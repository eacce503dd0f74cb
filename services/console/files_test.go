package console

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// keeping is a metering service that has files.
type keeping struct {
	reporting
	kept []*meteringv1.ReportFile
}

func (k *keeping) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if answer, ok := reply.(*meteringv1.ListReportFilesResponse); ok {
		answer.ReportFiles = k.kept
		return nil
	}
	return k.reporting.Invoke(ctx, method, args, reply, opts...)
}

// TestFilesAreMadeInTheBackground: what is asked for is what the page asks, and the list says how each is.
func TestFilesAreMadeInTheBackground(t *testing.T) {
	k := &keeping{reporting: reporting{services: services{privileges: authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_REPORT)}}}
	now := time.Date(2026, 3, 29, 12, 0, 0, 0, time.UTC)
	console, err := New(Deps{Metering: k, Identity: k, Authenticator: k, Logger: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	page := func(address string) string {
		t.Helper()
		answer := get(console, address, &http.Cookie{Name: current.access, Value: "good"})
		text, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d, %v", address, answer.StatusCode, err)
		}
		return string(text)
	}
	for address, recommended := range map[string]bool{"/use?from=2025-03-01&to=2026-02-28&by=person": true, "/use?from=2026-02-01&to=2026-02-28": false, "/idle": false, "/forecast": false} {
		shown := page(address)
		if !strings.Contains(shown, "data-background") || strings.Contains(shown, "best for so long a period") != recommended {
			t.Errorf("%s offers it otherwise", address)
		}
		if form := page("/files/new?of=" + url.QueryEscape(address)); !strings.Contains(form, "Make the file") {
			t.Errorf("%s has no form: %s", address, form)
		}
		page(exportPath + address)
		k.asked = nil
		if sent := post(console, "/files/new", url.Values{"form": {address}, ofField: {address}, "format": {"JSON"}}); sent.Code != http.StatusSeeOther || sent.Header().Get("Location") != "/files" {
			t.Fatalf("%s: %d %s", address, sent.Code, sent.Body)
		}
		var made *meteringv1.CreateReportFileRequest
		for _, asked := range k.asked {
			if create, ok := asked.(*meteringv1.CreateReportFileRequest); ok {
				made = create
			}
		}
		if diff := cmp.Diff(k.export.GetReport(), made.GetReportFile().GetReport(), protocmp.Transform()); diff != "" || made.GetReportFile().GetFormat() != meteringv1.ExportFormat_EXPORT_FORMAT_JSON || made.GetRequestId() == "" {
			t.Errorf("%s: %v; %s", address, made, diff)
		}
	}
	if text := page("/files"); !strings.Contains(text, "There are no files") || strings.Contains(text, "hx-trigger=\"every") {
		t.Error("an empty list does not say what to do, or is asked again and again")
	}
	const some = "0198f2aa-0000-4000-8000-00000000000"
	file := func(n string, state meteringv1.ReportFile_State, percent *int32) *meteringv1.ReportFile {
		return &meteringv1.ReportFile{ReportFileId: some + n, Title: "Use", State: state, Rows: 12345, DonePercent: percent, Message: "Why it failed."}
	}
	k.kept = []*meteringv1.ReportFile{file("1", meteringv1.ReportFile_STATE_READY, nil), file("2", meteringv1.ReportFile_STATE_FAILED, nil), file("3", meteringv1.ReportFile_STATE_CANCELLED, nil)}
	if text := page("/files"); strings.Contains(text, "data-under-way") || !strings.Contains(text, "/files/"+some+"1/download") || !strings.Contains(text, "Why it failed.") || strings.Count(text, "/remove") != 3 || strings.Contains(text, "/cancel") {
		t.Error("what is over looks otherwise")
	}
	k.kept = []*meteringv1.ReportFile{file("4", meteringv1.ReportFile_STATE_MAKING, proto.Int32(0)), file("5", meteringv1.ReportFile_STATE_MAKING, nil), file("6", meteringv1.ReportFile_STATE_WAITING, nil)}
	if text := page("/files?page=x"); !strings.Contains(text, `hx-get="/files?page=x"`) || strings.Count(text, "<progress") != 2 || strings.Count(text, `value="0"`) != 1 || !strings.Contains(text, " rows, 0 %") || strings.Count(text, "/cancel") != 3 {
		t.Errorf("what is being made looks otherwise: %s", text)
	}
	for path, what := range map[string]func(proto.Message) bool{
		"/cancel": func(m proto.Message) bool { _, ok := m.(*meteringv1.CancelReportFileRequest); return ok },
		"/remove": func(m proto.Message) bool { _, ok := m.(*meteringv1.DeleteReportFileRequest); return ok },
	} {
		k.asked = nil
		if sent := post(console, "/files/"+some+"4"+path, url.Values{"form": {path}}); sent.Code != http.StatusSeeOther || len(k.asked) != 1 || !what(k.asked[0]) {
			t.Errorf("%s: %d %v", path, sent.Code, k.asked)
		}
	}
}
