package metering

import (
	"container/list"
	"sync"

	"github.com/cetrus/cetrus/proto/contract"
)

// memoryBytes is for how much there is room in memory of what was read of prepared days, and made of them: of a year of
// 1,000 people, what pages ask for takes some 220 MB and the bytes of its days 45.
const memoryBytes = 512 << 20

// memory keeps what was read of prepared days, and what was made of them, by keys that change with them: what is in
// it is never out of date. Who may read it has read in the tables, behind their walls, that the days are there. Where
// there is no more room, the account that has most loses what was longest not asked for.
type memory struct {
	mu       sync.Mutex
	room     int
	size     int
	accounts map[contract.ID]*remembered
}

// remembered is what is kept of an account, the last asked for first.
type remembered struct {
	size  int
	order *list.List
	of    map[any]*list.Element
}

type memoryEntry struct {
	key, value any
	size       int
}

func newMemory(room int) *memory {
	return &memory{room: room, accounts: make(map[contract.ID]*remembered)}
}

func (m *memory) get(account contract.ID, key any) (any, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.accounts[account]
	if a == nil {
		return nil, false
	}
	e, ok := a.of[key]
	if !ok {
		return nil, false
	}
	a.order.MoveToFront(e)
	return e.Value.(*memoryEntry).value, true
}

// filled is how many bytes all takes that is there.
func (m *memory) filled() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.size
}

// shared is how many accounts have something there.
func (m *memory) shared() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.accounts)
}

// has tells what is there and how many bytes it takes, as if nobody had asked for it.
func (m *memory) has(account contract.ID, key any) (value any, size int, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.accounts[account]
	if a == nil {
		return nil, 0, false
	}
	e, ok := a.of[key]
	if !ok {
		return nil, 0, false
	}
	entry := e.Value.(*memoryEntry)
	return entry.value, entry.size, true
}

// put keeps a value of so many bytes.
func (m *memory) put(account contract.ID, key, value any, size int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if size += 200; size > m.room { // what it takes to keep it
		return
	}
	a := m.accounts[account]
	if a == nil {
		a = &remembered{order: list.New(), of: make(map[any]*list.Element)}
		m.accounts[account] = a
	}
	if _, ok := a.of[key]; ok {
		return
	}
	a.of[key] = a.order.PushFront(&memoryEntry{key, value, size})
	a.size += size
	m.size += size
	for m.size > m.room {
		m.drop()
	}
}

// drop makes room.
func (m *memory) drop() {
	var most contract.ID
	for account, a := range m.accounts {
		if of := m.accounts[most]; of == nil || a.size > of.size {
			most = account
		}
	}
	a := m.accounts[most]
	e := a.order.Remove(a.order.Back()).(*memoryEntry)
	delete(a.of, e.key)
	a.size -= e.size
	m.size -= e.size
	if a.order.Len() == 0 {
		delete(m.accounts, most)
	}
}
