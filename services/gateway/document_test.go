package gateway_test

import (
	"context"
	"net/http"
	"testing"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
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
