package metering

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

const (
	// readingLife is for how long a reading answers again.
	readingLife = 10 * time.Minute
	// maxReadBytes bounds what is kept in memory over all readings.
	maxReadBytes = 128 << 20
)

// readings are what was read of a short while ago, for who asks about the same again: to read a
// year takes seconds, to replay it otherwise, milliseconds.
type readings struct {
	mu   sync.Mutex
	kept map[readingKey]*reading
	size int
}

// readingKey is who asked for what, with which reach, and how far the tables were. The filter is
// the one that was answered: of who sees only their own, it names them.
type readingKey [sha256.Size]byte

// reading is the use of a period under a metric, day by day, or its idle time.
type reading struct {
	account  contract.ID
	from, to int64
	position string
	days     []*demandDay
	// idle is of stretches of at least so long.
	idle    []*idleDay
	atLeast int64
	memory  *memory
	// size is how many bytes it takes.
	size int
	read time.Time
}

func newReadings() *readings { return &readings{kept: make(map[readingKey]*reading)} }

// readingKey names a reading of a kind: of demand, that of its metric.
func (r *report) readingKey(schema, kind, position string) readingKey {
	h := sha256.New()
	h.Write(r.caller.Account[:])
	h.Write([]byte(schema + "\x00" + kind + "\x00" + position + "\x00"))
	_ = binary.Write(h, binary.BigEndian, []int32{int32(r.caller.Reach), int32(r.from), int32(r.to)}) // a hash takes all
	for _, ids := range [][]contract.ID{r.filter.applications, r.filter.principals, r.filter.machines} {
		_ = binary.Write(h, binary.BigEndian, int32(len(ids)))
		for _, id := range ids {
			h.Write(id[:])
		}
	}
	return readingKey(h.Sum(nil))
}

func (k *readings) get(key readingKey, now time.Time) *reading {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.kept[key]; r != nil && now.Sub(r.read) < readingLife {
		return r
	}
	return nil
}

// put keeps a reading, and forgets what is too old, and others where there is no room for it.
func (k *readings) put(key readingKey, r *reading) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for other, is := range k.kept {
		if other == key || r.read.Sub(is.read) >= readingLife {
			k.drop(other)
		}
	}
	if r.size > maxReadBytes {
		return
	}
	k.kept[key] = r
	k.size += r.size
	for k.size > maxReadBytes {
		k.drop(k.dispensable(key))
	}
}

// dispensable is the oldest reading of the account that has most kept, other than a new one: who
// asks for much makes room for it by their own as long as they can.
func (k *readings) dispensable(fresh readingKey) readingKey {
	has := make(map[contract.ID]int)
	for _, r := range k.kept {
		has[r.account] += r.size
	}
	found := fresh
	for key, r := range k.kept {
		if key == fresh {
			continue
		}
		if is := k.kept[found]; found == fresh || has[r.account] > has[is.account] || r.account == is.account && r.read.Before(is.read) {
			found = key
		}
	}
	return found
}

func (k *readings) drop(key readingKey) {
	k.size -= k.kept[key].size
	delete(k.kept, key)
}

// reading is one that is kept, where the question names its position, or a new one.
func (a *reportAPI) reading(ctx context.Context, tx pgx.Tx, r *report, m meteringv1.Metric, asOf string) (*reading, error) {
	key := func(position string) readingKey {
		return r.readingKey(a.service.serving.Load().store.Schema, m.String(), position)
	}
	if asOf != "" {
		if kept := a.service.readings.get(key(asOf), time.Now()); kept != nil {
			r.position = kept.position
			return kept, nil
		}
	}
	fresh, err := readDemand(ctx, tx, a.usedQuery(r, r.from.millis(), r.to.millis()), m)
	if err != nil {
		return nil, err
	}
	fresh.position = r.position
	a.service.readings.put(key(fresh.position), fresh)
	return fresh, nil
}

// readDemand reads a period under a metric.
func readDemand(ctx context.Context, tx pgx.Tx, q usedQuery, m meteringv1.Metric) (*reading, error) {
	r := &reading{account: q.account, from: q.from, to: q.to, memory: q.memory, read: time.Now()}
	err := eachUsed(ctx, tx, q, demandOf(m), func(d *demandDay) {
		r.days = append(r.days, d)
		r.size += d.bytes()
	})
	return r, err
}

// readReplay reads a period under a metric as all that rose and fell in it.
func readReplay(ctx context.Context, tx pgx.Tx, q usedQuery, m meteringv1.Metric) (*replay, error) {
	var parts []*replay
	err := eachUsed(ctx, tx, q, replayOf(m), func(r *replay) { parts = append(parts, r) })
	return joinReplays(parts, q.from, q.to), err
}

// idleReading is one that is kept, where the question names its position and asks for no shorter stretches
// than it has, or a new one.
func (a *reportAPI) idleReading(ctx context.Context, tx pgx.Tx, r *report, atLeast int64, asOf string) (*reading, error) {
	key := func(position string) readingKey {
		return r.readingKey(a.service.serving.Load().store.Schema, "idle", position)
	}
	if asOf != "" {
		if kept := a.service.readings.get(key(asOf), time.Now()); kept != nil && kept.atLeast <= atLeast {
			r.position = kept.position
			return kept, nil
		}
	}
	fresh := &reading{account: r.caller.Account, from: r.from.millis(), to: r.to.millis(), position: r.position, atLeast: atLeast, read: time.Now()}
	err := eachUsed(ctx, tx, a.usedQuery(r, fresh.from, fresh.to), idleAfter(atLeast), func(d *idleDay) {
		fresh.idle = append(fresh.idle, d)
		fresh.size += d.bytes()
	})
	if err != nil {
		return nil, err
	}
	a.service.readings.put(key(fresh.position), fresh)
	return fresh, nil
}
