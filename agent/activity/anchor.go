package activity

import (
	"slices"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

const quarterHour = int64(contract.QuarterHour / 1_000_000)

// anchor maps boot time to UTC from its own moment on.
type anchor struct {
	ID   uint64 `json:"id"`
	Boot int64  `json:"boot"`
	UTC  int64  `json:"utc"`
	Zone int32  `json:"zone"`
}

func (a anchor) utc(boot int64) int64 { return a.UTC + boot - a.Boot }

func (a anchor) message(bootID contract.ID) *usagev1.Anchor {
	m := &usagev1.Anchor{BootId: bootID[:], BootMillis: a.Boot, UtcMillis: a.UTC, ZoneOffsetSeconds: a.Zone}
	m.AnchorId = contract.AnchorID(m)
	return m
}

// anchors are those of one boot that open intervals may still need, oldest first;
// there is at least one. What lies before the first is placed by it.
type anchors []anchor

func (as anchors) index(boot int64) int {
	i, found := slices.BinarySearchFunc(as, boot, func(a anchor, b int64) int {
		switch {
		case a.Boot < b:
			return -1
		case a.Boot > b:
			return 1
		}
		return 0
	})
	if !found {
		i--
	}
	return max(i, 0)
}

func (as anchors) at(boot int64) anchor { return as[as.index(boot)] }

// isCut tells whether open intervals are cut at a moment: at an anchor, and at each
// quarter-hour of UTC.
func (as anchors) isCut(boot int64) bool {
	i := as.index(boot)
	if i > 0 && as[i].Boot == boot {
		return true
	}
	return floorMod(as[i].utc(boot), quarterHour) == 0
}

// nextCut is the first cut behind a moment.
func (as anchors) nextCut(boot int64) int64 {
	i := as.index(boot)
	next := boot + quarterHour - floorMod(as[i].utc(boot), quarterHour)
	if i+1 < len(as) && as[i+1].Boot > boot {
		next = min(next, as[i+1].Boot)
	}
	return next
}

// needed tells whether a reading of the wall clock asks for a new anchor.
func (as anchors) needed(boot, utc int64, zone int32) bool {
	if len(as) == 0 {
		return true
	}
	last := as[len(as)-1]
	deviation := utc - last.utc(boot)
	return last.Zone != zone || deviation >= DriftFloor || deviation <= -DriftFloor
}

// add puts a new anchor behind the others; at the same moment it replaces the last.
func (as anchors) add(a anchor) anchors {
	if n := len(as); n > 0 && as[n-1].Boot >= a.Boot {
		as = as[:n-1]
	}
	return append(as, a)
}

// prune forgets the anchors that nothing at or behind a moment needs.
func (as anchors) prune(boot int64) anchors {
	if i := as.index(boot); i > 0 {
		return slices.Clone(as[i:])
	}
	return as
}

func floorMod(a, b int64) int64 {
	m := a % b
	if m < 0 {
		m += b
	}
	return m
}
