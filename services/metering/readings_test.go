package metering

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/proto/contract"
)

// TestReadingsAreBounded: what is kept is never more than there is room for, nor older than it
// may be, and what was just kept is there.
func TestReadingsAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := newReadings()
		now := time.Now()
		for range rapid.IntRange(1, 30).Draw(t, "readings") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(readingLife/3)).Draw(t, "pause")))
			key := readingKey{byte(rapid.IntRange(0, 5).Draw(t, "question"))}
			r := &reading{size: rapid.IntRange(0, maxReadBytes*5/4).Draw(t, "bytes"), read: now}
			k.put(key, r)
			if got := k.get(key, now); r.size <= maxReadBytes && got != r {
				t.Fatal("what was just read is not kept")
			}
			sum := 0
			for key, is := range k.kept {
				sum += is.size
				if got := k.get(key, now); got != is {
					t.Fatalf("a reading of %v ago is kept, and does not answer", now.Sub(is.read))
				}
				if k.get(key, is.read.Add(readingLife)) != nil {
					t.Fatal("a reading answers for longer than it may")
				}
			}
			if sum != k.size || sum > maxReadBytes {
				t.Fatalf("%d bytes are kept, counted as %d", sum, k.size)
			}
		}
	})
}

// Who asks for much makes room for it by their own: an account that asked for little is answered
// from its reading, however much another asks for.
func TestAnAccountTakesNobodysReadings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k := newReadings()
		now := time.Now()
		bytes := rapid.IntRange(0, maxReadBytes/4)
		k.put(readingKey{}, &reading{account: contract.ID{1}, size: bytes.Draw(t, "bytes"), read: now})
		for i := range byte(rapid.IntRange(1, 20).Draw(t, "readings of another")) {
			now = now.Add(time.Second)
			k.put(readingKey{1, i}, &reading{account: contract.ID{2}, size: bytes.Draw(t, "bytes"), read: now})
			if k.get(readingKey{}, now) == nil {
				t.Fatal("another account took the room")
			}
		}
	})
}
