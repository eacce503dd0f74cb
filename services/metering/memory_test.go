package metering

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/proto/contract"
)

// TestMemoryIsBounded: there is never more in memory than there is room for, what was just put there is there, and
// nobody who has little loses it to somebody who asks for much.
func TestMemoryIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMemory(10_000)
		little := contract.ID{0xff}
		m.put(little, 0, "little", 100)
		for i := range rapid.IntRange(1, 100).Draw(t, "values") {
			account, size := contract.ID{byte(rapid.IntRange(0, 2).Draw(t, "account"))}, rapid.IntRange(0, 2000).Draw(t, "size")
			m.put(account, i, i, size)
			if got, ok := m.get(account, i); !ok || got != i {
				t.Fatalf("what was just put there is %v, %t", got, ok)
			}
			if _, ok := m.get(little, 0); !ok {
				t.Fatal("another account took the room")
			}
			sum := 0
			for _, a := range m.accounts {
				of := 0
				for e := a.order.Front(); e != nil; e = e.Next() {
					of += e.Value.(*memoryEntry).size
				}
				if of != a.size || a.order.Len() != len(a.of) {
					t.Fatalf("%d bytes of an account are counted as %d", of, a.size)
				}
				sum += of
			}
			if sum != m.size || sum > m.room {
				t.Fatalf("%d bytes are there, counted as %d", sum, m.size)
			}
		}
		m.put(little, 1, "large", m.room)
		if _, ok := m.get(little, 1); ok {
			t.Fatal("what there is no room for is there")
		}
	})
}
