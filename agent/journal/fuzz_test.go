package journal

import (
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

func FuzzSegment(f *testing.F) {
	h := header{lane: 1, epoch: 5, first: 3, agent: contract.ID{7}}
	b := h.append(nil)
	b = entry{kind: entryAnchor, seq: 3, payload: []byte("anchor")}.append(b, 5)
	b = entry{kind: entryRecord, seq: 3, payload: []byte("one")}.append(b, 5)
	b = entry{kind: entryRecord, seq: 4, payload: []byte("two")}.append(b, 5)
	f.Add(b)
	f.Add(b[:len(b)-3])
	f.Add(b[:headerSize])
	f.Add([]byte(segmentMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseSegment(b)
		if err != nil {
			return
		}
		if c.good > len(b) || c.good < headerSize {
			t.Fatalf("%d of %d bytes are sound", c.good, len(b))
		}
		again := c.header.append(nil)
		for _, e := range c.entries {
			again = e.append(again, c.header.epoch)
		}
		if len(again) != c.good {
			t.Fatalf("written again it has %d bytes, not %d", len(again), c.good)
		}
		if c.next() < c.header.first {
			t.Fatal("sequence numbers go back")
		}
		c.chain()
	})
}

// FuzzOpen gives a whole segment file to Open: it must repair, refuse or put aside.
func FuzzOpen(f *testing.F) {
	h := header{lane: 1, epoch: 5, first: 1, agent: contract.ID{7}}
	b := entry{kind: entryRecord, seq: 1, payload: []byte("one")}.append(h.append(nil), 5)
	f.Add(b)
	f.Add(b[:20])
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, segmentName(5, 1)), b, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Open(Config{Dir: dir, Lane: usagev1.Lane_LANE_USAGE, AgentID: contract.ID{7}, Sync: func(*os.File) error { return nil }})
		if err != nil {
			return
		}
		_, _ = j.Frame(1)
		_ = j.Close()
	})
}

func FuzzPair(f *testing.F) {
	f.Add(appendCopy(nil, 7, []byte("value")))
	f.Add([]byte(pairMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		generation, value, err := parseCopy(b)
		if err != nil {
			return
		}
		if again := appendCopy(nil, generation, value); string(again) != string(b[:len(again)]) {
			t.Fatal("written again it differs")
		}
	})
}

func FuzzSlot(f *testing.F) {
	f.Add(crashSlot{epoch: 1, seq: 2, tail: [][]byte{[]byte("a"), nil}, anchors: [][]byte{[]byte("b")}, state: []byte("state")}.encode())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeSlot(b)
		if err != nil {
			return
		}
		if string(c.encode()) != string(b) {
			t.Fatal("written again it differs")
		}
	})
}

func TestRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r ranges
		set := map[uint64]bool{}
		for range rapid.IntRange(0, 30).Draw(t, "n") {
			s := span{First: rapid.Uint64Range(1, 60).Draw(t, "first")}
			s.Last = s.First + rapid.Uint64Range(0, 9).Draw(t, "more")
			fresh := false
			for n := s.First; n <= s.Last; n++ {
				fresh = fresh || !set[n]
				set[n] = true
			}
			var changed bool
			if r, changed = r.add(s); changed != fresh {
				t.Fatalf("adding %v changed: %v, want %v", s, changed, fresh)
			}
		}
		if !r.sound() || r.count() != uint64(len(set)) {
			t.Fatalf("%v holds %d, want %d", r, r.count(), len(set))
		}
		for n := uint64(1); n < 80; n++ {
			if _, there := r.holds(n); there != set[n] {
				t.Fatalf("%v holds %d: %v", r, n, there)
			}
		}
	})
}
