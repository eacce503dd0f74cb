package audit

import (
	"context"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// maxExport bounds the entries of one document.
const maxExport = 10_000

// api serves cetrus.identity.v1.AuditService.
type api struct {
	identityv1.UnimplementedAuditServiceServer
	service *Service
}

// asked is what both requests have.
type asked interface {
	GetActor() string
	GetTypePrefix() string
	GetAggregateId() string
	GetStartTime() *timestamppb.Timestamp
	GetEndTime() *timestamppb.Timestamp
}

func filterOf(op string, req asked) (filter, error) {
	f := filter{actor: req.GetActor(), typePrefix: req.GetTypePrefix(), aggregateID: req.GetAggregateId()}
	for _, bound := range []struct {
		path string
		time *timestamppb.Timestamp
		into *time.Time
	}{{"start_time", req.GetStartTime(), &f.from}, {"end_time", req.GetEndTime(), &f.to}} {
		if bound.time == nil {
			continue
		}
		if err := bound.time.CheckValid(); err != nil {
			return f, errs.InvalidFields(op, "", errs.Field{Path: bound.path, Description: "is no time between the years 1 and 9999"})
		}
		*bound.into = bound.time.AsTime()
	}
	if req.GetStartTime() != nil && req.GetEndTime() != nil && f.to.Before(f.from) {
		return f, errs.InvalidFields(op, "",
			errs.Field{Path: "start_time", Description: "is after end_time"}, errs.Field{Path: "end_time", Description: "is before start_time"})
	}
	return f, nil
}

func (a *api) ListAuditEntries(ctx context.Context, req *identityv1.ListAuditEntriesRequest) (*identityv1.ListAuditEntriesResponse, error) {
	const op = "identity.ListAuditEntries"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	f, err := filterOf(op, req)
	if err != nil {
		return nil, err
	}
	question := "audit" + caller.Account.String() + f.key()
	before := int64(math.MaxInt64)
	if req.GetPageToken() != "" {
		// The list goes by position alone, which stands in the place of the time.
		mark, err := resource.ReadToken(op, question, req.GetPageToken())
		if err != nil {
			return nil, err
		}
		before = mark.At.UnixMicro()
	}
	most := resource.PageSize(req.GetPageSize(), 100)
	entries, err := a.service.entries(ctx, op, caller.Account, f, before, false, most+1)
	if err != nil {
		return nil, err
	}
	resp := &identityv1.ListAuditEntriesResponse{AuditEntries: entries}
	if len(entries) > most {
		resp.AuditEntries = entries[:most]
		resp.NextPageToken = resource.Token(question, resource.Mark{At: time.UnixMicro(entries[most-1].GetPosition())})
	}
	return resp, nil
}

func (a *api) ExportAuditEntries(ctx context.Context, req *identityv1.ExportAuditEntriesRequest) (*identityv1.ExportAuditEntriesResponse, error) {
	const op = "identity.ExportAuditEntries"
	caller, err := authn.CallerFrom(ctx)
	if err != nil {
		return nil, err
	}
	f, err := filterOf(op, req)
	if err != nil {
		return nil, err
	}
	entries, err := a.service.entries(ctx, op, caller.Account, f, 0, true, maxExport+1)
	if err != nil {
		return nil, err
	}
	resp := &identityv1.ExportAuditEntriesResponse{FileName: "audit.csv", ContentType: "text/csv; charset=utf-8"}
	if len(entries) > maxExport {
		entries, resp.Truncated = entries[:maxExport], true
	}
	document := csvDocument
	if req.GetFormat() == identityv1.AuditFormat_AUDIT_FORMAT_JSON {
		document, resp.FileName, resp.ContentType = jsonDocument, "audit.json", "application/json"
	}
	resp.Content, err = document(entries)
	return resp, errs.Wrap(op, "", err)
}
