package console

import (
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// formatsOf are what templates write figures with.
func formatsOf(l locale) map[string]any {
	return map[string]any{
		"span":     l.span,
		"length":   l.length,
		"at":       at,
		"iso":      iso,
		"count":    l.count,
		"count64":  func(n int32) string { return l.count(int64(n)) },
		"countu":   func(n uint64) string { return l.count(int64(min(n, 1<<62))) },
		"bytes":    l.bytes,
		"machines": l.machines,
		"share":    l.share,
		"width":    width,
	}
}

// length is span of a length.
func (l locale) length(d time.Duration) string {
	sign := ""
	if d < 0 {
		sign, d = "-", -d
	}
	seconds := int64(d / time.Second)
	return fmt.Sprintf("%s%s:%02d:%02d", sign, l.count(seconds/3600), seconds/60%60, seconds%60)
}

// at is a time in a zone; the browser writes it again in its reader's.
func at(t *timestamppb.Timestamp, zone *time.Location) string {
	if t == nil {
		return ""
	}
	return t.AsTime().In(zone).Format("2006-01-02 15:04:05")
}

// iso is a time for machines.
func iso(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Format(time.RFC3339Nano)
}

// width is a part of a whole in thousandths, for the bars of tables.
func width(part, whole *durationpb.Duration) int64 {
	if whole.AsDuration() <= 0 {
		return 0
	}
	return int64(1000 * part.AsDuration() / whole.AsDuration())
}

// violations are what a status says of single fields.
func violations(st *status.Status) (all []*errdetails.BadRequest_FieldViolation) {
	for _, detail := range st.Details() {
		if bad, ok := detail.(*errdetails.BadRequest); ok {
			all = append(all, bad.GetFieldViolations()...)
		}
	}
	return all
}
