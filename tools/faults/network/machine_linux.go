package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Machine is a network namespace with one interface at the switch, and loopback.
type Machine struct {
	// Name is told in errors.
	Name string
	// Address is the interface's.
	Address netip.Addr

	network   *Network
	hardware  [6]byte
	namespace *os.File
	tap       *os.File

	mu        sync.Mutex
	waiting   flights
	order     uint64
	wake      chan struct{}
	unplugged chan struct{}
	once      sync.Once
	work      sync.WaitGroup
}

// Machine adds a machine to the network.
func (n *Network) Machine(name string) (*Machine, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	number := len(n.machines) + 1
	if number > mostMachines {
		return nil, fmt.Errorf("network: machine %s: there are %d already", name, mostMachines)
	}
	m := &Machine{
		Name: name, Address: address(number), network: n, hardware: hardware(number),
		wake: make(chan struct{}, 1), unplugged: make(chan struct{}),
	}
	made := make(chan error, 1)
	go func() {
		// The thread is never given back: it ends with this goroutine, and the namespace
		// lives by the file.
		runtime.LockOSThread()
		made <- m.make()
	}()
	if err := <-made; err != nil {
		return nil, fmt.Errorf("network: machine %s: %w", name, err)
	}
	m.work.Go(m.listen)
	m.work.Go(m.deliver)
	n.machines = append(n.machines, m)
	return m, nil
}

// make makes the namespace of the calling thread the machine's.
func (m *Machine) make() (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if m.namespace, err = os.Open("/proc/thread-self/ns/net"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.namespace.Close())
		}
	}()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq("eth0")
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return errors.Join(fmt.Errorf("make the interface: %w", err), unix.Close(fd))
	}
	// Only now: a device without an interface is an error to who waits for it.
	m.tap = os.NewFile(uintptr(fd), "tap of "+m.Name)
	h := m.hardware
	// Frames are large, since each passes through this process.
	for _, args := range []string{
		"link set lo up",
		fmt.Sprintf("link set eth0 address %02x:%02x:%02x:%02x:%02x:%02x mtu 9000 up", h[0], h[1], h[2], h[3], h[4], h[5]),
		fmt.Sprintf("addr add %s/%d dev eth0", m.Address, prefix.Bits()),
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return errors.Join(fmt.Errorf("ip %s: %w: %s", args, err, out), m.tap.Close())
		}
	}
	return nil
}

func (m *Machine) unplug() (err error) {
	m.once.Do(func() {
		close(m.unplugged)
		err = m.tap.Close()
		m.work.Wait()
		err = errors.Join(err, m.namespace.Close())
	})
	return err
}

// Namespace is what has nsenter run a program on the machine: one of its arguments. The process that
// comes of it is the program itself.
func (m *Machine) Namespace() string {
	return fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), m.namespace.Fd())
}

// within runs something on a thread that is on the machine.
func (m *Machine) within(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never given back, see Network.Machine
		if err := unix.Setns(int(m.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("network: onto machine %s: %w", m.Name, err)
			return
		}
		done <- do()
	}()
	return <-done
}

// DialContext connects from the machine to an address, without names.
func (m *Machine) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = m.within(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens on the machine.
func (m *Machine) Listen(ctx context.Context, address string) (listener net.Listener, err error) {
	err = m.within(func() (err error) {
		listener, err = new(net.ListenConfig).Listen(ctx, "tcp", address)
		return err
	})
	return listener, err
}
