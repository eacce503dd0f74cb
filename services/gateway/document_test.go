package gateway_test

import (
	"context"
	"io"
	"net/http"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
)

func (b *backend) ExportAuditEntries(ctx context.Context, req *identityv1.ExportAuditEntriesRequest) (*identityv1.ExportAuditEntriesResponse, error) {
	if req.GetActor() == "" {
		return b.UnimplementedAuditServiceServer.ExportAuditEntries(ctx, req)
	}
	return &identityv1.ExportAuditEntriesResponse{FileName: "audit.csv", ContentType: "text/csv; charset=utf-8", Content: req.GetActor() + ",\"ü\"\r\n", Truncated: true}, nil
}

// A document comes as the file that it is, under its name, and says where it is not all.
func TestADocumentIsAFile(t *testing.T) {
	f := start(t)
	r := f.do(http.MethodGet, "/v1/auditEntries:export?format=AUDIT_FORMAT_CSV&actor=ada", "")
	if r.code != http.StatusOK || r.text != "ada,\"ü\"\r\n" || r.header.Get("Content-Type") != "text/csv; charset=utf-8" ||
		r.header.Get("Content-Disposition") != "attachment; filename=audit.csv" || r.header.Get("Cetrus-Truncated") != "true" {
		t.Errorf("%d %v %q", r.code, r.header, r.text)
	}
}

// ExportReport breaks off where it is asked for JSON.
func (b *backend) ExportReport(req *meteringv1.ExportReportRequest, stream grpc.ServerStreamingServer[meteringv1.ExportReportResponse]) error {
	if req.GetReport().GetUsage() == nil {
		return b.UnimplementedExportServiceServer.ExportReport(req, stream)
	}
	for _, part := range []*meteringv1.ExportReportResponse{{FileName: "use.csv", ContentType: "text/csv; charset=utf-8", Content: []byte("\xff\x00a")}, {Content: []byte("b")}} {
		if err := stream.Send(part); err != nil {
			return err
		}
	}
	if req.GetFormat() == meteringv1.ExportFormat_EXPORT_FORMAT_JSON {
		return status.Error(codes.Unavailable, "no more")
	}
	return nil
}

// A document in parts is one file, and one that breaks off is seen to be none.
func TestADocumentComesInParts(t *testing.T) {
	f := start(t)
	const address = "/v1/reports:export?report.usage.start_time=2026-03-01T00:00:00Z&report.usage.end_time=2026-03-02T00:00:00Z&report.usage.group_by=application"
	r := f.do(http.MethodGet, address, "")
	if r.code != http.StatusOK || r.text != "\xff\x00ab" || r.header.Get("Content-Type") != "text/csv; charset=utf-8" || r.header.Get("Content-Disposition") != "attachment; filename=use.csv" {
		t.Errorf("%d %v %q", r.code, r.header, r.text)
	}
	f.do(http.MethodGet, "/v1/reports:export?report.instances.open_only=true", "").wantStatus(t, 501, 12, "UNIMPLEMENTED")

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url+address+"&format=json", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+f.key)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if text, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("half a file looks whole: %q", text)
	}
}
