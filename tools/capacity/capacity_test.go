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

// TestCarriedIsTheFormulaRoundTheOtherWay: as many seats as one of something carries need no more than one of it,
// and a hundredth more need more.
func TestCarriedIsTheFormulaRoundTheOtherWay(t *testing.T) {
	w, err := CountWork()
	if err != nil {
		t.Fatal(err)
	}
	f := Known()
	c := Carries(w, f)
	for _, one := range []struct {
		of         string
		seats, one int64
		need       func(Need) int64
	}{
		{"core of the platform", c.PlatformCore, thousand, func(n Need) int64 { return n.PlatformMilliprocessors * Headroom }},
		{"terabyte of the log", c.LogTerabyte, terabyte, func(n Need) int64 { return n.LogDisk }},
		{"terabyte of the archive", c.ArchiveTerabyte, terabyte, func(n Need) int64 { return n.ArchivePerYear }},
		{"terabyte of PostgreSQL", c.PostgresTerabyte, terabyte, func(n Need) int64 { return n.PostgresPerYear }},
		{"core of a Manager", c.ManagerCore, thousand, func(n Need) int64 { return n.Managers * n.ManagerMilliprocessors * Headroom }},
	} {
		if need := one.need(For(one.seats, w, f)); need > one.one+one.one/100 {
			t.Errorf("%d seats of a %s need %d of %d", one.seats, one.of, need, one.one)
		}
		if need := one.need(For(one.seats+one.seats/50, w, f)); need <= one.one {
			t.Errorf("a %s carries %d seats, and could %d", one.of, one.seats, one.seats+one.seats/50)
		}
	}
}
