package network

import (
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Condition is how one direction of the way between two machines is.
type Condition struct {
	// Cut lets nothing through.
	Cut bool
	// Lost, Repeated and Damaged are of a thousand frames.
	Lost, Repeated, Damaged int
	// Delay holds each frame back, by up to Jitter more: what is held back longer is overtaken.
	Delay, Jitter time.Duration
}

// Figures count what the switch did to frames.
type Figures struct {
	Passed, Lost, Held, Repeated, Damaged, Overflowed int64
}

// Network is a switch with the machines at it.
type Network struct {
	mu       sync.Mutex
	random   *rand.Rand
	machines []*Machine
	ways     map[way]Condition
	closed   bool

	passed, lost, held, repeated, damaged, overflowed atomic.Int64
}

// way is one direction between two machines.
type way struct{ from, to *Machine }

// prefix is the network of all machines. No route leads to it from outside.
var prefix = netip.MustParsePrefix("10.213.0.0/24")

// mostMachines is how many addresses there are.
const mostMachines = 250

// New makes a switch without machines; the seed decides which frames are struck.
func New(seed uint64) *Network {
	return &Network{random: rand.New(rand.NewPCG(seed, 0x6e6574)), ways: map[way]Condition{}}
}

// Set makes the way from one machine to another be so from now on. Frames that are
// under way keep the condition that they left under, but a cut takes them too.
func (n *Network) Set(from, to *Machine, c Condition) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c == (Condition{}) {
		delete(n.ways, way{from, to})
		return
	}
	n.ways[way{from, to}] = c
}

// SetBoth does that in both directions.
func (n *Network) SetBoth(a, b *Machine, c Condition) {
	n.Set(a, b, c)
	n.Set(b, a, c)
}

// Figures tells what was done so far.
func (n *Network) Figures() Figures {
	return Figures{
		Passed: n.passed.Load(), Lost: n.lost.Load(), Held: n.held.Load(),
		Repeated: n.repeated.Load(), Damaged: n.damaged.Load(), Overflowed: n.overflowed.Load(),
	}
}

// Close unplugs all machines and waits. Processes on them stay, each alone.
func (n *Network) Close() error {
	n.mu.Lock()
	n.closed = true
	machines := n.machines
	n.mu.Unlock()
	var failures []error
	for _, m := range machines {
		failures = append(failures, m.unplug())
	}
	return errors.Join(failures...)
}

// Ethernet: six bytes to, six from. The last of ours is the machine's number; a group's
// address has the lowest bit of the first byte set.
const headerBytes = 14

func hardware(number int) [6]byte { return [6]byte{0x02, 0, 0, 0, 0, byte(number)} }

// carry takes a frame that a machine sent to where it goes.
func (n *Network) carry(from *Machine, frame []byte) {
	if len(frame) < headerBytes {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	for _, to := range n.machines {
		if to != from && (frame[0]&1 == 1 || [6]byte(frame[:6]) == to.hardware) {
			n.send(from, to, frame)
		}
	}
}

// send decides what becomes of a frame on one way. It is called with the lock held.
func (n *Network) send(from, to *Machine, frame []byte) {
	c := n.ways[way{from, to}]
	strikes := func(ofThousand int) bool { return ofThousand > 0 && n.random.IntN(1000) < ofThousand }
	if c.Cut || strikes(c.Lost) {
		n.lost.Add(1)
		return
	}
	copies := 1
	if strikes(c.Repeated) {
		n.repeated.Add(1)
		copies++
	}
	for range copies {
		f := flight{from: from, data: append([]byte(nil), frame...), due: time.Now()}
		if strikes(c.Damaged) && len(frame) > headerBytes {
			n.damaged.Add(1)
			bit := n.random.IntN(8 * (len(frame) - headerBytes))
			f.data[headerBytes+bit/8] ^= 1 << (bit % 8)
		}
		if c.Delay > 0 || c.Jitter > 0 {
			n.held.Add(1)
			f.due = f.due.Add(c.Delay)
			if c.Jitter > 0 {
				f.due = f.due.Add(time.Duration(n.random.Int64N(int64(c.Jitter))))
			}
		}
		if !to.queue(f) {
			n.overflowed.Add(1)
		}
	}
}

// arrives tells whether a frame that was under way is let in, now that it is due.
func (n *Network) arrives(f flight, to *Machine) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ways[way{f.from, to}].Cut {
		n.lost.Add(1)
		return false
	}
	n.passed.Add(1)
	return true
}

// flight is a frame under way.
type flight struct {
	from  *Machine
	data  []byte
	due   time.Time
	order uint64 // of those due at once the first is the first
}

type flights []flight

func (f flights) Len() int { return len(f) }
func (f flights) Less(i, j int) bool {
	if f[i].due.Equal(f[j].due) {
		return f[i].order < f[j].order
	}
	return f[i].due.Before(f[j].due)
}
func (f flights) Swap(i, j int) { f[i], f[j] = f[j], f[i] }
func (f *flights) Push(x any)   { *f = append(*f, x.(flight)) }
func (f *flights) Pop() any {
	old := *f
	last := old[len(old)-1]
	*f = old[:len(old)-1]
	return last
}

// mostQueued is how many frames wait for one machine; more are lost, as in any switch.
const mostQueued = 4096

// queue takes a frame for a machine.
func (m *Machine) queue(f flight) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.waiting) >= mostQueued {
		return false
	}
	m.order++
	f.order = m.order
	heap.Push(&m.waiting, f)
	select {
	case m.wake <- struct{}{}:
	default:
	}
	return true
}

// deliver writes to a machine what is due, until it is unplugged.
func (m *Machine) deliver() {
	for {
		m.mu.Lock()
		wait := time.Duration(-1)
		var next flight
		if len(m.waiting) > 0 {
			if wait = max(0, time.Until(m.waiting[0].due)); wait == 0 {
				next = heap.Pop(&m.waiting).(flight)
			}
		}
		m.mu.Unlock()
		if next.data != nil {
			if m.network.arrives(next, m) {
				_, _ = m.tap.Write(next.data) // what an interface does not take is lost, as on a wire
			}
			continue
		}
		var due <-chan time.Time
		if wait > 0 {
			due = time.After(wait)
		}
		select {
		case <-due:
		case <-m.wake:
		case <-m.unplugged:
			return
		}
	}
}

// listen carries what a machine sends, until it is unplugged.
func (m *Machine) listen() {
	frame := make([]byte, 64<<10)
	for {
		size, err := m.tap.Read(frame)
		if err != nil {
			if errors.Is(err, os.ErrClosed) {
				return
			}
			select {
			case <-m.unplugged:
				return
			case <-time.After(time.Millisecond): // an interface that is down reads so
				continue
			}
		}
		m.network.carry(m, frame[:size])
	}
}

// address is that of the machine of a number.
func address(number int) netip.Addr {
	base := prefix.Addr().As4()
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(base[:])+uint32(number))
	return netip.AddrFrom4(a)
}

// ErrNotRoot says that machines cannot be made.
var ErrNotRoot = errors.New("machines of their own need root")

// Available tells whether machines can be made here; if not, why.
func Available() error {
	if os.Geteuid() != 0 {
		return ErrNotRoot
	}
	n := New(0)
	defer func() { _ = n.Close() }()
	if _, err := n.Machine("trial"); err != nil {
		return fmt.Errorf("machines of their own: %w", err)
	}
	return nil
}
