package console

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// formats are what templates write figures with.
var formats = map[string]any{
	"span":     span,
	"length":   length,
	"at":       at,
	"iso":      iso,
	"count":    count,
	"count64":  func(n int32) string { return count(int64(n)) },
	"machines": machines,
	"width":    width,
}

// span is a stretch of time in hours, minutes and seconds, as a stopwatch shows it: figures
// below each other can be compared, and sums be checked.
func span(d *durationpb.Duration) string { return length(d.AsDuration()) }

func length(d time.Duration) string {
	seconds := int64(d / time.Second)
	return fmt.Sprintf("%s:%02d:%02d", count(seconds/3600), seconds/60%60, seconds%60)
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

// count is a whole number in groups of three, parted by narrow spaces that no reader takes for a
// decimal point.
func count(n int64) string {
	digits := strconv.FormatInt(n, 10)
	sign := ""
	if strings.HasPrefix(digits, "-") {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "\u202f" + digits[i:]
	}
	return sign + digits
}

// machines are so many.
func machines(n int32) string {
	if n == 1 {
		return "1 machine"
	}
	return count(int64(n)) + " machines"
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
