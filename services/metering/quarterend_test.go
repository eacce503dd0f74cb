package metering

import (
	"testing"
	"time"
)

// What was last is never told to be still to come.
func TestTheEndOfAQuarterHourIsNeverLaterThanNow(t *testing.T) {
	now := time.Date(2026, 3, 4, 10, 7, 30, 0, time.UTC)
	q := quarterOf(now.UnixMilli())
	if noQuarter.end(now) != nil {
		t.Error("no quarter-hour has an end")
	}
	if end := q.end(now).AsTime(); !end.Equal(now) {
		t.Errorf("the present one ends at %v", end)
	}
	if end := (q - 1).end(now).AsTime(); !end.Equal(time.Date(2026, 3, 4, 10, 0, 0, 0, time.UTC)) {
		t.Errorf("the one before ends at %v", end)
	}
}
