package capacity

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the page anew")

// TestThePageIsComputed: docs/capacity.md says what the formula makes of the figures.
func TestThePageIsComputed(t *testing.T) {
	w, err := CountWork()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join("..", "..", "docs", "capacity.md")
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := Write(string(page), Blocks(w, Known()))
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, string(page)); diff != "" {
		t.Errorf("the page is out of date; write it anew with -update (-computed +page):\n%s", diff)
	}
}

// TestNeedsGrowWithSeats: twice the seats need twice of everything that is of seats, and no less than one of
// what is whole.
func TestNeedsGrowWithSeats(t *testing.T) {
	w, err := CountWork()
	if err != nil {
		t.Fatal(err)
	}
	f := Known()
	one, two := For(f.AgentsPerManager, w, f), For(2*f.AgentsPerManager, w, f)
	if one.Managers != 1 || two.Managers != 2 || one.ManagerMemory != two.ManagerMemory || one.ManagerDisk != two.ManagerDisk {
		t.Errorf("the Managers of %+v and %+v", one, two)
	}
	if two.EventsPerDay != 2*one.EventsPerDay || two.LogDisk != 2*one.LogDisk || two.PostgresPerYear != 2*one.PostgresPerYear {
		t.Errorf("what is kept of %+v and %+v", one, two)
	}
	least := For(1, w, f)
	if least.Managers != 1 || least.PlatformProcessors != 1 || least.EventsPerSecond != 1 {
		t.Errorf("one seat needs %+v", least)
	}
	if w.EventsInBusiestHour*10 < w.EventsPerDay*thousand || w.EventsInBusiestHour > w.EventsPerDay*thousand {
		t.Errorf("the busiest hour of 1,000 has %d events, a person's day %d", w.EventsInBusiestHour, w.EventsPerDay)
	}
}
