package office

import (
	"iter"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestActsMakeSense holds every stretch of every routine to what a desktop can do.
func TestActsMakeSense(t *testing.T) {
	staff := Staff()
	rapid.Check(t, func(t *rapid.T) {
		person := staff[rapid.IntRange(0, len(staff)-1).Draw(t, "person")]
		seed := rapid.Uint64().Draw(t, "seed")
		from := time.Date(2026, 3, 26, rapid.IntRange(0, 23).Draw(t, "hour"), 7, 0, 0, time.UTC)
		to := from.AddDate(0, 0, 5)
		acts := Days(person, seed, from, to)
		if rapid.Bool().Draw(t, "live") {
			acts = first(Shift(person, seed, from), 3000)
		}
		last := from
		var present, locked, asleep bool
		open := map[uint64]bool{}
		for act := range acts {
			if act.At.Before(last) {
				t.Fatalf("%v at %v comes before %v", act.Kind, act.At, last)
			}
			last = act.At
			switch act.Kind {
			case LogOn:
				must(t, !present, act)
				present = true
			case LogOff:
				must(t, present && len(open) == 0, act)
				present, locked = false, false
			case Lock:
				must(t, present && !locked && !asleep, act)
				locked = true
			case Unlock:
				must(t, present && locked && !asleep, act)
				locked = false
			case Sleep:
				must(t, !asleep, act)
				asleep = true
			case Wake:
				must(t, asleep, act)
				asleep = false
			case Open:
				must(t, present && !locked && !asleep && !open[act.Window] && act.Window != 0 && act.Title != "", act)
				open[act.Window] = true
			case Close:
				must(t, present && !asleep && open[act.Window], act)
				delete(open, act.Window)
			case Focus:
				must(t, present && !asleep && (act.Window == 0 || open[act.Window]), act)
			case Retitle:
				must(t, present && !locked && open[act.Window] && act.Title != "", act)
			case Input:
				must(t, present && !locked && !asleep, act)
			}
		}
	})
}

func TestSameSeedSameDays(t *testing.T) {
	person := Staff()[3]
	from := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	one := slices.Collect(Days(person, 7, from, from.AddDate(0, 0, 3)))
	two := slices.Collect(Days(person, 7, from, from.AddDate(0, 0, 3)))
	if !slices.EqualFunc(one, two, same) || len(one) < 1000 {
		t.Errorf("%d and %d acts", len(one), len(two))
	}
}

func same(a, b Act) bool {
	return a.At.Equal(b.At) && a.Kind == b.Kind && a.Window == b.Window && a.Title == b.Title && a.Program.Name == b.Program.Name
}

func must(t *rapid.T, holds bool, act Act) {
	if !holds {
		t.Fatalf("%v of window %d at %v makes no sense", act.Kind, act.Window, act.At)
	}
}

func first[T any](seq iter.Seq[T], n int) iter.Seq[T] {
	return func(yield func(T) bool) {
		for item := range seq {
			if n == 0 || !yield(item) {
				return
			}
			n--
		}
	}
}
