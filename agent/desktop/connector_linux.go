package desktop

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The process connector of the kernel: linux/connector.h and linux/cn_proc.h.
const (
	connectorID     = 1 // CN_IDX_PROC, CN_VAL_PROC, and the group of both
	connectorListen = 1 // PROC_CN_MCAST_LISTEN
	connectorIgnore = 2 // PROC_CN_MCAST_IGNORE

	newsAnswer = 0          // PROC_EVENT_NONE: to listen or ignore
	newsExec   = 0x00000002 // PROC_EVENT_EXEC
	newsExit   = 0x80000000 // PROC_EVENT_EXIT
)

// Where the parts of a message are: struct nlmsghdr, struct cn_msg, struct proc_event.
const (
	newsType   = 4
	newsIndex  = 16
	newsValue  = 20
	newsNumber = 28 // cn_msg.ack; in an answer one more
	newsSize   = 32
	newsWhat   = 36
	newsWhen   = 44
	newsPID    = 52 // of a thread; in an answer the error
	newsGroup  = 56 // of the process
	newsLength = 60
)

const (
	// newsBuffer is how much the kernel keeps for us while we do not get to listen: some
	// thousands of messages. It takes no memory but what waits.
	newsBuffer = 4 << 20
	// maxNews bounds what is kept for the next look, in case there is none.
	maxNews = 8192
	// newsPatience is how long the kernel may take to say that it will tell.
	newsPatience = 5 * time.Second
)

// message is one message of the kernel.
type message struct {
	what       uint32
	number     uint32 // of the order that is answered
	awakeNanos int64  // by the clock that stops in sleep
	thread     int32
	group      int32
}

// parseMessage reads a message of the process connector.
func parseMessage(packet []byte) (message, error) {
	if len(packet) < newsLength {
		return message{}, fmt.Errorf("desktop: a message of %d bytes from the process connector", len(packet))
	}
	word := func(at int) uint32 { return binary.NativeEndian.Uint32(packet[at:]) }
	kind := binary.NativeEndian.Uint16(packet[newsType:])
	if kind != unix.NLMSG_DONE || word(newsIndex) != connectorID || word(newsValue) != connectorID {
		return message{}, fmt.Errorf("desktop: a message of type %d, of connector %d.%d", kind, word(newsIndex), word(newsValue))
	}
	return message{
		what: word(newsWhat), number: word(newsNumber), awakeNanos: int64(binary.NativeEndian.Uint64(packet[newsWhen:])),
		thread: int32(word(newsPID)), group: int32(word(newsGroup)),
	}, nil
}

// order gives the kernel an order over a socket: to tell, or not to any more. Everybody who
// listens hears the answers to everybody's orders, so each has a number: the socket's own.
func order(fd int, what uint32) error {
	number, err := numberOf(fd)
	if err != nil {
		return err
	}
	const data = 4
	b := make([]byte, newsWhat+data)
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[newsType:], unix.NLMSG_DONE)
	binary.NativeEndian.PutUint32(b[newsIndex:], connectorID)
	binary.NativeEndian.PutUint32(b[newsValue:], connectorID)
	binary.NativeEndian.PutUint32(b[newsNumber:], number)
	binary.NativeEndian.PutUint16(b[newsSize:], data)
	binary.NativeEndian.PutUint32(b[newsWhat:], what)
	return unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// numberOf is the address that the kernel has given a socket of its own.
func numberOf(fd int) (uint32, error) {
	address, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	own, is := address.(*unix.SockaddrNetlink)
	if !is {
		return 0, errors.New("desktop: no netlink socket")
	}
	return own.Pid, nil
}

// ofInterest is a filter on the socket: answers, and of processes, not of their threads, the
// beginning of a program and the end. Whatever else happens wakes nobody.
func ofInterest() []unix.SockFilter {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		keep  = unix.BPF_MISC | unix.BPF_TAX
		equal = unix.BPF_JMP | unix.BPF_JEQ
		ret   = unix.BPF_RET | unix.BPF_K
	)
	// The filter loads words as a network has them, the kernel writes them as this machine does.
	loaded := func(word uint32) uint32 {
		var b [4]byte
		binary.NativeEndian.PutUint32(b[:], word)
		return binary.BigEndian.Uint32(b[:])
	}
	return []unix.SockFilter{
		{Code: load, K: newsWhat},
		{Code: equal | unix.BPF_K, K: loaded(newsAnswer), Jt: 6},
		{Code: equal | unix.BPF_K, K: loaded(newsExec), Jt: 1},
		{Code: equal | unix.BPF_K, K: loaded(newsExit), Jf: 5},
		{Code: load, K: newsPID},
		{Code: keep},
		{Code: load, K: newsGroup},
		{Code: equal | unix.BPF_X, Jf: 1},
		{Code: ret, K: 1 << 16},
		{Code: ret},
	}
}

// dialConnector makes a socket on which the kernel may tell of processes. It takes
// CAP_NET_ADMIN, and the namespaces of the machine itself.
func dialConnector() (socket *os.File, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_CONNECTOR)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	program := ofInterest()
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}); err != nil {
		return nil, err
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, newsBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, newsBuffer)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: connectorID}); err != nil {
		return nil, err
	}
	if err := order(fd, connectorListen); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "news of processes"), nil
}

// processNews is that a process has begun a program, or ended.
type processNews struct {
	pid        int32
	awakeNanos int64
	// ended: it has ended; otherwise began is the process as it was read when it began its
	// program, nil where that is not wanted and was not read.
	ended bool
	began *process
}

// kernelNews is told by the kernel when a process begins a program or ends, so that those are
// seen too that are gone at the next look. A process is read as soon as it has begun its
// program: what is gone by then is not to be found out.
type kernelNews struct {
	wake func()
	// reader belongs to the goroutine that listens, seats to whoever follows them.
	reader *processTable
	seats  atomic.Pointer[[]seat]
	wanted atomic.Pointer[sieve] // nil: all are
	done   chan struct{}
	closed chan struct{}
	// letGo stops the kernel's telling; nil: it tells nothing.
	letGo func()

	mu        sync.Mutex
	listening bool
	why       string // the kernel does not tell; empty: it does, or has not answered yet
	news      []processNews
	lost      bool
	awaited   map[int32]bool // whose end is to be seen at once
}

// newKernelNews begins to listen; close ends it.
func newKernelNews(root string, dial func() (*os.File, error), wake func()) *kernelNews {
	n := &kernelNews{wake: wake, reader: newProcessTable(root), done: make(chan struct{}), closed: make(chan struct{})}
	socket, err := dial()
	if err != nil {
		n.why = notToldByKernel(err)
		close(n.done)
		return n
	}
	n.letGo = sync.OnceFunc(func() {
		// Before Linux 6.6 the kernel counts who listens, and goes on for who has just left.
		_ = control(socket, func(fd int) error { return order(fd, connectorIgnore) })
		_ = socket.Close()
	})
	go n.run(socket)
	return n
}

func notToldByKernel(err error) string {
	return fmt.Sprintf("%sthe kernel does not tell of them (%v)", livesUnseen, err)
}

// follow says whose processes are of interest.
func (n *kernelNews) follow(seats []seat) { n.seats.Store(&seats) }

// await says which processes' ends are to be seen at once.
func (n *kernelNews) await(pids map[int32]bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.awaited = pids
}

// heard is what was told since the last time.
type heard struct {
	// listening: the kernel tells.
	listening bool
	why       string
	// lost: it told more than could be listened to.
	lost bool
	news []processNews
}

func (n *kernelNews) take() heard {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := heard{listening: n.listening, why: n.why, lost: n.lost, news: n.news}
	n.news, n.lost = nil, false
	return h
}

// close stops listening.
func (n *kernelNews) close() {
	close(n.closed)
	if n.letGo != nil {
		n.letGo()
	}
	<-n.done
}

// run listens until close, or until it cannot.
func (n *kernelNews) run(socket *os.File) {
	defer close(n.done)
	err := n.listen(socket)
	select {
	case <-n.closed:
		return
	default:
	}
	n.letGo() // what nobody reads, the kernel would keep
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errors.New("it does not answer, as in a container")
	}
	n.mu.Lock()
	n.listening, n.why, n.news = false, notToldByKernel(err), nil
	n.mu.Unlock()
	n.wake()
}

func (n *kernelNews) listen(socket *os.File) error {
	if err := socket.SetReadDeadline(time.Now().Add(newsPatience)); err != nil {
		return err
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	var number uint32
	if err := control(socket, func(fd int) (err error) { number, err = numberOf(fd); return err }); err != nil {
		return err
	}
	packet := make([]byte, 512)
	for {
		var length int
		var from unix.Sockaddr
		var received error
		err := raw.Read(func(fd uintptr) bool {
			for {
				length, from, received = unix.Recvfrom(int(fd), packet, 0)
				if !errors.Is(received, syscall.EINTR) {
					return !errors.Is(received, syscall.EAGAIN)
				}
			}
		})
		switch {
		case err != nil:
			return err
		case errors.Is(received, syscall.ENOBUFS):
			n.mu.Lock()
			n.lost = true
			n.mu.Unlock()
			continue
		case received != nil:
			return received
		}
		if kernel, is := from.(*unix.SockaddrNetlink); !is || kernel.Pid != 0 {
			continue // another program's
		}
		said, err := parseMessage(packet[:length])
		if err != nil {
			return err
		}
		if said.what == newsAnswer && said.number != number+1 {
			continue
		}
		if err := n.hear(socket, said); err != nil {
			return err
		}
	}
}

// hear takes in one message.
func (n *kernelNews) hear(socket *os.File, said message) error {
	switch said.what {
	case newsAnswer:
		if failed := max(said.thread, -said.thread); failed != 0 {
			return syscall.Errno(failed)
		}
		n.mu.Lock()
		n.listening = true
		n.mu.Unlock()
		n.wake()
		return socket.SetReadDeadline(time.Time{})
	case newsExec:
		// What is not wanted is looked at if it is there at the next look.
		if p, wanted := n.read(said.group); p != nil || !wanted {
			n.keep(processNews{pid: said.group, awakeNanos: said.awakeNanos, began: p})
		}
	case newsExit:
		n.keep(processNews{pid: said.group, awakeNanos: said.awakeNanos, ended: true})
	}
	return nil
}

// read finds out what it can of a process that has just begun a program that is wanted; nil:
// it is of nobody who has a session, or gone. Of one that has ended and is not forgotten by
// its parent yet, there is the short name only.
func (n *kernelNews) read(pid int32) (p *process, wanted bool) {
	seats := n.seats.Load()
	if seats == nil {
		return nil, true
	}
	sift, file := n.wanted.Load(), ""
	if sift != nil {
		file = n.reader.executable(pid)
		// The package of a flatpak is not told by its path, but that it is one.
		if file != "" && !strings.HasPrefix(file, "/app/") && !(*sift)(path.Base(file), file, snapOfPath(file)) {
			return nil, false
		}
	}
	n.reader.seats = *seats
	var info unix.Stat_t
	if unix.Stat(n.reader.file(pid, ""), &info) != nil || !n.reader.seated(info.Uid) && !n.awaits(pid) {
		return nil, true
	}
	stat, err := n.reader.stat(pid)
	if err != nil {
		return nil, true
	}
	if sift != nil && file == "" && !(*sift)(stat.name, "", "") {
		return nil, false
	}
	p = &process{pid: pid, parent: stat.parent, startMillis: stat.startMillis, name: stat.name, uid: info.Uid}
	n.reader.identify(p)
	return p, true
}

// awaits tells whether a process showed itself before, such as one of an administrator in
// somebody's session.
func (n *kernelNews) awaits(pid int32) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.awaited[pid]
}

func (n *kernelNews) keep(news processNews) {
	n.mu.Lock()
	if len(n.news) == maxNews {
		n.news, n.lost = nil, true
	}
	n.news = append(n.news, news)
	wake := news.ended && n.awaited[news.pid]
	n.mu.Unlock()
	if wake {
		n.wake()
	}
}
