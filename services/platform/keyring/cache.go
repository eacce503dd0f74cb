package keyring

import (
	"sync"
	"time"

	"github.com/cetrus/cetrus/proto/contract"
)

const (
	// cacheSize bounds the keys in memory.
	cacheSize = 10_000
	// cacheFor is how long a key may stay in the memory of a process after it
	// was destroyed through another one.
	cacheFor = time.Minute
)

type cacheKey struct{ account, principal contract.ID }

type cached struct {
	key   Key
	until time.Time
}

// cache holds opened keys for a short while.
type cache struct {
	mu      sync.Mutex
	size    int
	entries map[cacheKey]cached
	// generation rises when a key is destroyed, so that one read before is not
	// put back after.
	generation uint64
}

func newCache(size int) *cache {
	return &cache{size: size, entries: make(map[cacheKey]cached)}
}

func (c *cache) get(id cacheKey, now time.Time) (Key, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	entry, ok := c.entries[id]
	return entry.key, ok && now.Before(entry.until)
}

// begin is to be called before keys are read, and its value given to put.
func (c *cache) begin() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation
}

func (c *cache) put(id cacheKey, key Key, now time.Time, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if generation != c.generation {
		return
	}
	if _, ok := c.entries[id]; !ok && len(c.entries) >= c.size {
		c.makeRoom(now)
	}
	c.entries[id] = cached{key: key, until: now.Add(cacheFor)}
}

// makeRoom drops what has expired, or else any one entry: Go's random order of a
// map is as good a choice as any other when all are younger than a minute.
func (c *cache) makeRoom(now time.Time) {
	for id, entry := range c.entries {
		if !now.Before(entry.until) {
			delete(c.entries, id)
		}
	}
	for id := range c.entries {
		if len(c.entries) < c.size {
			return
		}
		delete(c.entries, id)
	}
}

func (c *cache) remove(id cacheKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.generation++
	delete(c.entries, id)
}
