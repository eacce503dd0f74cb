package journal

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// renewed is a journal of 203 records, the first three of which came over from another
// epoch, and the copy of the state that named that one.
func renewed(t *testing.T) (Config, *Journal, []byte) {
	t.Helper()
	c := Config{Dir: t.TempDir(), Lane: usagev1.Lane_LANE_USAGE, AgentID: contract.ID{1}, Sync: func(*os.File) error { return nil }}
	j, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	boot := contract.ID{9}
	a := &usagev1.Anchor{BootId: boot[:], BootMillis: 1, UtcMillis: 1}
	a.AnchorId = contract.AnchorID(a)
	add := func(n int) {
		for range n {
			if err := j.Append(t.Context(), Batch{Usage: []*usagev1.UsageEvent{{AnchorId: a.AnchorId, AtBootMillis: int64(j.next)}}, Anchors: []*usagev1.Anchor{a}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	add(3)
	stale, err := os.ReadFile(filepath.Join(c.Dir, "state.a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := j.NewEpoch(); err != nil {
		t.Fatal(err)
	}
	add(200)
	return c, j, stale
}

// copies are the copies of the state by their file, the newest first.
func copies(t *testing.T, dir string) (names []string) {
	t.Helper()
	generations := map[uint64]string{}
	for _, n := range []string{"state.a", "state.b"} {
		b, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil {
			t.Fatal(err)
		}
		if g, _, err := parseCopy(b); err == nil {
			generations[g] = n
		}
	}
	names = slices.Collect(maps.Values(generations))
	if len(names) == 2 && generations[slices.Max(slices.Collect(maps.Keys(generations)))] != names[0] {
		slices.Reverse(names)
	}
	return names
}

func spoil(t *testing.T, name string) {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b[30] ^= 0xff
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// One bad sector in either copy of the state, long after a change of epoch and before
// anything is acknowledged, takes nothing.
func TestBadSectorInTheStateAfterAChangeOfEpoch(t *testing.T) {
	t.Parallel()
	for n := range 2 {
		c, j, _ := renewed(t)
		spoil(t, filepath.Join(c.Dir, copies(t, c.Dir)[n]))
		k, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		if s := k.Stats(); s.Epoch != j.Epoch() || s.Unacknowledged != 203 || s.Damage.Reason != "" {
			t.Errorf("copy %d spoilt: %+v", n, s)
		}
		// Both copies are sound again.
		if len(copies(t, c.Dir)) != 2 {
			t.Errorf("copy %d stays spoilt", n)
		}
	}
}

// A state that names an epoch which is over removes nothing of the one that holds the
// records: without any segment of the old epoch, and with one that came back.
func TestStaleStateGivesWayToTheRecords(t *testing.T) {
	t.Parallel()
	for _, back := range []bool{false, true} {
		for _, damaged := range []bool{false, true} {
			if back && !damaged {
				continue // two sound copies that name an epoch which is there are believed
			}
			c, j, stale := renewed(t)
			names := copies(t, c.Dir)
			if err := os.WriteFile(filepath.Join(c.Dir, names[1]), stale, 0o600); err != nil {
				t.Fatal(err)
			}
			if damaged {
				spoil(t, filepath.Join(c.Dir, names[0]))
			} else if err := os.Remove(filepath.Join(c.Dir, names[0])); err != nil {
				t.Fatal(err)
			}
			if back {
				var old journalState
				if _, v, err := parseCopy(stale); err != nil || json.Unmarshal(v, &old) != nil {
					t.Fatal("the stale state cannot be read")
				}
				h := header{lane: 1, epoch: old.Epoch, first: 1, agent: c.AgentID}
				b := entry{kind: entryRecord, seq: 1, payload: []byte("no record of the new epoch")}.append(h.append(nil), old.Epoch)
				if err := os.WriteFile(filepath.Join(c.Dir, segmentName(old.Epoch, 1)), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			k, err := Open(c)
			if err != nil {
				t.Fatal(err)
			}
			s := k.Stats()
			if s.Epoch != j.Epoch() || s.Unacknowledged != 203 || s.Damage.Reason == "" || len(s.Damage.Quarantined) > 0 != back {
				t.Errorf("old segment back: %v, newest copy damaged: %v: %+v", back, damaged, s)
			}
			_ = k.Close()
			if k, err = Open(c); err != nil || k.Stats().Unacknowledged != 203 || k.Stats().Damage.Reason != "" {
				t.Errorf("opened again: %+v, %v", k.Stats(), err)
			}
			_, _ = k.Close(), j.Close() // or Windows does not remove the folder
		}
	}
}

// All segments gone is damage, though nothing was ever acknowledged: the numbers that
// they had are not given again.
func TestSegmentsGoneIsDamage(t *testing.T) {
	t.Parallel()
	c, j, _ := renewed(t)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	for _, s := range j.segments {
		if err := os.Remove(filepath.Join(c.Dir, s.name)); err != nil {
			t.Fatal(err)
		}
	}
	k, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = k.Close() })
	if s := k.Stats(); s.Epoch == j.epoch || s.Damage.LostRecords != 203 {
		t.Errorf("%+v", s)
	}
}
