package ledger

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

const day = 86_400_000

var (
	now  = time.Date(2026, 3, 20, 12, 0, 0, 0, time.UTC)
	ada  = contract.ID{15: 1}
	eve  = contract.ID{15: 2}
	cad  = contract.ID{15: 10}
	pier = contract.ID{15: 20}
)

// anchorAt places boot time 0 at a moment, in a zone.
func anchorAt(t time.Time, zone int32) *usagev1.Anchor {
	return &usagev1.Anchor{AnchorId: uint64(t.UnixMilli()), UtcMillis: t.UnixMilli(), ZoneOffsetSeconds: zone}
}

func event(person, application, document contract.ID, a *usagev1.Anchor, attention usagev1.Attention, from, to int64) *usagev1.UsageEvent {
	e := &usagev1.UsageEvent{
		AnchorId: a.GetAnchorId(), PrincipalAlias: person[:], ApplicationId: application[:], AtBootMillis: to, Transition: usagev1.Transition_TRANSITION_CHANGED,
		Closed: &usagev1.Interval{Attention: attention, FromBootMillis: from, ToBootMillis: to},
	}
	if !document.IsZero() {
		e.DocumentId = document[:]
	}
	return e
}

func open(t testing.TB, dir string) *Ledger {
	t.Helper()
	l, err := Open(dir, 31)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func rows(t testing.TB, l *Ledger, person contract.ID, days int) []Row {
	t.Helper()
	all, err := l.Person(person, now, days)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestDaysOfAPerson(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir)
	// Half an hour before midnight in Kathmandu (UTC+5:45) of 19 March.
	a := anchorAt(time.Date(2026, 3, 19, 17, 45, 0, 0, time.UTC), 20_700)
	none := contract.ID{}
	events := []*usagev1.UsageEvent{
		{AnchorId: a.GetAnchorId(), PrincipalAlias: ada[:], ApplicationId: cad[:], Transition: usagev1.Transition_TRANSITION_OPENED},
		event(ada, cad, none, a, usagev1.Attention_ATTENTION_BUSY, 0, 900_000),
		event(ada, cad, pier, a, usagev1.Attention_ATTENTION_BUSY, 0, 600_000),
		event(ada, cad, none, a, usagev1.Attention_ATTENTION_IDLE, 900_000, 1_800_000),
		event(ada, cad, none, a, usagev1.Attention_ATTENTION_BACKGROUND, 1_800_000, 2_700_000),
		event(eve, cad, none, a, usagev1.Attention_ATTENTION_PAUSED, 0, 5),
	}
	if err := l.Names([]Name{{Person: ada, ID: cad, Name: "FreeCAD"}, {Person: ada, ID: pier, Document: true, Name: "Pier 3 \"old\"\n.FCStd"}}); err != nil {
		t.Fatal(err)
	}
	if err := l.Add(events, []*usagev1.Anchor{a}); err != nil {
		t.Fatal(err)
	}
	want := []Row{
		{Day: "2026-03-20", Application: "FreeCAD", OpenMillis: 900_000, BackgroundMillis: 900_000},
		{Day: "2026-03-19", Application: "FreeCAD", OpenMillis: 1_800_000, BusyMillis: 900_000, IdleMillis: 900_000, Opened: 1},
		{Day: "2026-03-19", Application: "FreeCAD", Document: "Pier 3 \"old\"\n.FCStd", OpenMillis: 600_000, BusyMillis: 600_000},
	}
	check := func(l *Ledger) {
		t.Helper()
		got := rows(t, l, ada, 30)
		if len(got) != len(want) {
			t.Fatalf("%+v, want %+v", got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("row %d is %+v, want %+v", i, got[i], want[i])
			}
		}
		if got := rows(t, l, eve, 30); len(got) != 1 || got[0].PausedMillis != 5 {
			t.Errorf("the other's: %+v", got)
		}
	}
	check(l)
	// What a crash tore off is passed over, and adding up changes nothing.
	f, err := os.OpenFile(l.file(ada), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString("u 2026-03-19 0000")
	_ = f.Close()
	l = open(t, dir)
	if err := l.sweep("2026-03-20"); err != nil {
		t.Fatal(err)
	}
	check(l)
	about, err := os.Stat(l.file(ada))
	if err != nil || about.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", about, err)
	}
	// What is older than the days that are kept goes.
	if err := l.sweep("2026-05-01"); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 {
		t.Errorf("there is still %v", left)
	}
}

// Whatever is added, in whatever parts, and added up whenever: the sums are those of all
// events, and the file stays small.
func TestSumsStay(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		dir, err := os.MkdirTemp("", "ledger-")
		if err != nil {
			r.Fatal(err)
		}
		defer os.RemoveAll(dir)
		l := open(t, dir)
		a := anchorAt(now.Add(-20*24*time.Hour), 0)
		want := map[string]int64{}
		for range rapid.IntRange(1, 20).Draw(r, "parts") {
			var events []*usagev1.UsageEvent
			for range rapid.IntRange(0, 5).Draw(r, "events") {
				from := rapid.Int64Range(0, 20*day).Draw(r, "from")
				length := rapid.Int64Range(0, 900_000).Draw(r, "length")
				attention := usagev1.Attention(rapid.IntRange(1, attentions-1).Draw(r, "attention"))
				events = append(events, event(ada, cad, contract.ID{}, a, attention, from, from+length))
				if length > 0 {
					want[time.UnixMilli(a.GetUtcMillis()+from).UTC().Format(dayForm)] += length
				}
			}
			if err := l.Add(events, []*usagev1.Anchor{a}); err != nil {
				r.Fatal(err)
			}
			if rapid.Bool().Draw(r, "sweep") {
				if err := l.sweep(now.Format(dayForm)); err != nil {
					r.Fatal(err)
				}
			}
		}
		got := map[string]int64{}
		for _, row := range rows(t, l, ada, 30) {
			got[row.Day] += row.OpenMillis
			if sum := row.BusyMillis + row.IdleMillis + row.BackgroundMillis + row.AwayMillis + row.PausedMillis + row.SuspendedMillis + row.UnknownMillis; sum != row.OpenMillis {
				r.Fatalf("open is %d, its parts are %d", row.OpenMillis, sum)
			}
		}
		if len(got) != len(want) {
			r.Fatalf("%v, want %v", got, want)
		}
		for d, ms := range want {
			if got[d] != ms {
				r.Fatalf("%s: %d, want %d", d, got[d], ms)
			}
		}
	})
}

// FuzzParse: any bytes are a ledger, of which what cannot be read is counted.
func FuzzParse(f *testing.F) {
	f.Add([]byte(""))
	f.Add(usageLine(key{day: "2026-03-19", application: cad}, sums{opened: 1, millis: [attentions]int64{5: 7}}))
	f.Add(nameLine(Name{ID: cad, Name: "FreeCAD"}))
	f.Add([]byte("u 2026-03-19 x y 1 2 9:9\nq\n" + strings.Repeat("z", 2*maxLine) + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := parse(bytes.NewReader(text), "2000-01-01")
		if err != nil {
			t.Fatal(err)
		}
		again, err := parse(bytes.NewReader(b.text()), "2000-01-01")
		if err != nil || again.unread != 0 || len(again.days) != len(b.days) {
			t.Fatalf("%d lines of its own are unread: %v", again.unread, err)
		}
	})
}
