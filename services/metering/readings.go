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
	// maxReadUses bounds how many uses are kept in memory over all readings: some 250 MB with their
	// replays.
	maxReadUses = 2_000_000
)

// readings are what was read of a short while ago, for who asks about the same again: to read a
// year takes seconds, to replay it otherwise, milliseconds.
type readings struct {
	mu   sync.Mutex
	kept map[readingKey]*reading
	uses int
}

// readingKey is who asked for what, with which reach, and how far the tables were. The filter is
// the one that was answered: of who sees only their own, it names them.
type readingKey [sha256.Size]byte

// reading is the use of a period, and the replay that was last asked for.
type reading struct {
	account  contract.ID
	from, to int64
	position string
	all      []used
	uses     int
	read     time.Time

	mu       sync.Mutex
	metric   meteringv1.Metric
	replayed *replay
}

func newReadings() *readings { return &readings{kept: make(map[readingKey]*reading)} }

func (r *report) readingKey(schema, position string) readingKey {
	h := sha256.New()
	h.Write(r.caller.Account[:])
	h.Write([]byte(schema + "\x00" + position + "\x00"))
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
	if r.uses > maxReadUses {
		return
	}
	k.kept[key] = r
	k.uses += r.uses
	for k.uses > maxReadUses {
		k.drop(k.dispensable(key))
	}
}

// dispensable is the oldest reading of the account that has most kept, other than a new one: who
// asks for much makes room for it by their own as long as they can.
func (k *readings) dispensable(fresh readingKey) readingKey {
	has := make(map[contract.ID]int)
	for _, r := range k.kept {
		has[r.account] += r.uses
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
	k.uses -= k.kept[key].uses
	delete(k.kept, key)
}

// replay is the reading's under a metric.
func (r *reading) replay(m meteringv1.Metric) *replay {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.replayed == nil || r.metric != m {
		r.replayed, r.metric = newReplay(runsOf(r.all, metricOf(m)), r.from, r.to), m
	}
	return r.replayed
}

// reading is one that is kept, where the question names its position, or a new one.
func (a *reportAPI) reading(ctx context.Context, tx pgx.Tx, r *report, asOf string) (*reading, error) {
	schema := a.service.serving.Load().store.Schema
	if asOf != "" {
		if kept := a.service.readings.get(r.readingKey(schema, asOf), time.Now()); kept != nil {
			r.position = kept.position
			return kept, nil
		}
	}
	fresh := &reading{account: r.caller.Account, from: r.from.millis(), to: r.to.millis(), position: r.position, read: time.Now()}
	var err error
	if fresh.all, err = readUsed(ctx, tx, r.usedQuery(fresh.from, fresh.to)); err != nil {
		return nil, err
	}
	for i := range fresh.all {
		fresh.uses += 1 + len(fresh.all[i].uses)
	}
	a.service.readings.put(r.readingKey(schema, fresh.position), fresh)
	return fresh, nil
}
