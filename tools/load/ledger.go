package load

import (
	"cmp"
	"slices"
	"sync"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Key is what usage is compared by. Document is zero for the instance itself.
type Key struct {
	Instance  contract.ID
	Document  contract.ID
	Attention usagev1.Attention
}

// Ledger is the truth: the milliseconds of each key. It may be used from
// several goroutines.
type Ledger struct {
	mu     sync.Mutex
	millis map[Key]int64
	events int64
}

// NewLedger is an empty truth.
func NewLedger() *Ledger { return &Ledger{millis: map[Key]int64{}} }

// Add counts the interval that an event closes, if it closes one.
func (l *Ledger) Add(event *usagev1.UsageEvent) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events++
	closed := event.GetClosed()
	if closed == nil {
		return
	}
	key := Key{Attention: closed.GetAttention()}
	copy(key.Instance[:], event.GetInstanceId())
	copy(key.Document[:], event.GetDocumentId())
	l.millis[key] += closed.GetToBootMillis() - closed.GetFromBootMillis()
}

// AddMillis counts milliseconds that come from elsewhere, such as an API.
func (l *Ledger) AddMillis(key Key, millis int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.millis[key] += millis
}

// Events is how many events were added, with or without an interval.
func (l *Ledger) Events() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.events
}

// Keys is how many keys there are.
func (l *Ledger) Keys() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.millis)
}

// Millis is a copy of the truth.
func (l *Ledger) Millis() map[Key]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make(map[Key]int64, len(l.millis))
	for k, v := range l.millis {
		out[k] = v
	}
	return out
}

// Difference is a key whose milliseconds do not agree.
type Difference struct {
	Key       Key
	Truth     int64
	Reported  int64
	Surprises bool // the truth does not know the key at all
}

// Comparison is what Compare found.
type Comparison struct {
	// Keys is how many keys were compared.
	Keys int
	// LostMillis is what the truth has more, DoubledMillis what it has less; each is
	// summed key by key, so they never cancel out.
	LostMillis, DoubledMillis int64
	// Differences holds each key that disagrees, the greatest first.
	Differences []Difference
}

// Equal tells whether every key agrees to the millisecond.
func (c Comparison) Equal() bool { return len(c.Differences) == 0 }

// Compare holds what was reported against the truth, key by key.
func (l *Ledger) Compare(reported map[Key]int64) Comparison {
	truth := l.Millis()
	c := Comparison{Keys: len(truth)}
	differ := func(d Difference) {
		if lost := d.Truth - d.Reported; lost > 0 {
			c.LostMillis += lost
		} else {
			c.DoubledMillis -= lost
		}
		c.Differences = append(c.Differences, d)
	}
	for key, millis := range truth {
		if reported[key] != millis {
			differ(Difference{Key: key, Truth: millis, Reported: reported[key]})
		}
	}
	for key, millis := range reported {
		if _, known := truth[key]; !known && millis != 0 {
			c.Keys++
			differ(Difference{Key: key, Reported: millis, Surprises: true})
		}
	}
	slices.SortFunc(c.Differences, func(a, b Difference) int {
		if byAmount := cmp.Compare(abs(b.Truth-b.Reported), abs(a.Truth-a.Reported)); byAmount != 0 {
			return byAmount
		}
		return slices.Compare(a.Key.Instance[:], b.Key.Instance[:])
	})
	return c
}

func abs(n int64) int64 { return max(n, -n) }
