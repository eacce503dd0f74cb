package ports

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
)

const (
	// lowest is above where programs have their ports by custom, ours among them.
	lowest  = 15_000
	highest = 65_535
	// enough is how many ports one side of the kernel's own must have.
	enough = 2_000
	// usualLow is where the kernel's own begin if it does not say.
	usualLow = 32_768
)

// Held are ports that nobody else is given until Release.
type Held struct {
	// Ports nobody listened on when they were taken.
	Ports []int

	once  sync.Once
	locks []net.PacketConn
}

// Hold takes so many ports.
func Hold(n int) (*Held, error) {
	from, to := outside(ephemeral())
	return hold(n, from, to)
}

// hold takes them from [from, to].
func hold(n, from, to int) (*Held, error) {
	h := &Held{}
	size := to - from + 1
	start := rand.IntN(size)
	var last error
	for i := 0; i < size && len(h.Ports) < n; i++ {
		port := from + (start+i)%size
		lock, err := take(port)
		if err != nil {
			last = err
			continue
		}
		h.Ports, h.locks = append(h.Ports, port), append(h.locks, lock)
	}
	if len(h.Ports) < n {
		h.Release()
		return nil, fmt.Errorf("ports: of 127.0.0.1:%d to %d only %d are free and %d are needed: stop other programs; the last looked at: %w", from, to, len(h.Ports), n, last)
	}
	return h, nil
}

// take holds one port and sees that nobody listens on it.
func take(port int) (net.PacketConn, error) {
	lock, err := (&net.ListenConfig{}).ListenPacket(context.Background(), "udp", address(port))
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", address(port))
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// Addresses are the ports as host:port.
func (h *Held) Addresses() []string {
	var all []string
	for _, port := range h.Ports {
		all = append(all, address(port))
	}
	return all
}

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Release lets the ports go; again it does nothing.
func (h *Held) Release() {
	h.once.Do(func() {
		for _, l := range h.locks {
			_ = l.Close() // it has no data to lose
		}
	})
}

// ephemeral is from where to where the kernel gives ports by itself.
func ephemeral() (low, high int) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(text), &low, &high)
	}
	if err != nil {
		return usualLow, highest
	}
	return low, high
}

// outside is a range of ports of which the kernel gives away none by itself, where
// its own are [low, high]; all where that leaves too few.
func outside(low, high int) (from, to int) {
	switch {
	case low-lowest >= enough:
		return lowest, low - 1
	case highest-high >= enough:
		return max(lowest, high+1), highest
	}
	return lowest, highest
}
