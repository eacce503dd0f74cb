package desktop

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
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
	// newsPeriod is how far apart programs are read that begin one after the other. What
	// lives shorter, in the midst of many, may be gone by then.
	newsPeriod = 100 * time.Millisecond
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

// ofInterest is a filter on the socket: answers, and of processes, not of their threads, one
// kind of news. Whatever else happens wakes nobody.
func ofInterest(news uint32) []unix.SockFilter {
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
		{Code: equal | unix.BPF_K, K: loaded(newsAnswer), Jt: 5},
		{Code: equal | unix.BPF_K, K: loaded(news), Jf: 5},
		{Code: load, K: newsPID},
		{Code: keep},
		{Code: load, K: newsGroup},
		{Code: equal | unix.BPF_X, Jf: 1},
		{Code: ret, K: 1 << 16},
		{Code: ret},
	}
}

// dialConnector makes a socket on which the kernel may tell one kind of news. It takes
// CAP_NET_ADMIN, and the namespaces of the machine itself.
func dialConnector(news uint32) (socket *os.File, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_CONNECTOR)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	program := ofInterest(news)
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
// program, for what is gone by then is not to be found out; ends, which tell all by
// themselves, wait for whoever looks. Where programs begin without pause, as in a build, they
// are read some time apart: a wake costs more than what is read.
type kernelNews struct {
	wake  func()
	apart time.Duration
	done  chan struct{}
	// closed ends the goroutine that listens to programs.
	closed chan struct{}
	// programs and ends are where the kernel tells; nil: it does not.
	programs, ends *os.File
	// poller tells once that there is something on programs, until it is asked again: the
	// socket itself would wake the Go runtime with each message, wanted or not.
	poller *os.File

	mu sync.Mutex
	// reader knows, once followed, whose processes are of interest.
	reader   *processTable
	followed bool
	wanted   sieve // nil: all are
	packet   []byte
	// answered are the sockets on which the kernel has said that it will tell.
	answered map[*os.File]bool
	why      string // the kernel does not tell; empty: it does, or has not answered yet
	news     []processNews
	lost     bool
	awaited  map[int32]bool // have shown themselves
}

// newKernelNews begins to listen; close ends it.
func newKernelNews(root string, k kernel, wake func()) *kernelNews {
	n := &kernelNews{wake: wake, apart: k.apart, reader: newProcessTable(root), packet: make([]byte, 512), answered: make(map[*os.File]bool), done: make(chan struct{}), closed: make(chan struct{})}
	var err error
	if n.ends, err = k.connector(newsExit); err == nil {
		n.programs, err = k.connector(newsExec)
	}
	if err == nil {
		n.poller, err = newPoller("whether there are news of programs")
	}
	if err == nil {
		err = n.ask(unix.EPOLL_CTL_ADD)
	}
	if err != nil {
		n.why = notToldByKernel(err)
		n.leave()
		close(n.done)
		return n
	}
	go n.run()
	return n
}

// ask has the poller tell once, now or when there is something on programs.
func (n *kernelNews) ask(order int) error {
	return control(n.programs, func(socket int) error {
		return control(n.poller, func(poller int) error {
			return unix.EpollCtl(poller, order, socket, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(socket)})
		})
	})
}

func notToldByKernel(err error) string {
	return fmt.Sprintf("%sthe kernel does not tell of them (%v)", livesUnseen, err)
}

// follow says whose processes are of interest.
func (n *kernelNews) follow(seats []seat) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.reader.seats, n.followed = seats, true
}

// sift says which programs are of interest.
func (n *kernelNews) sift(wanted sieve) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wanted = wanted
}

// await says which processes have shown themselves, so that they are of interest whoever
// runs them.
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

// take gives what was told since it was last called, in the order of time.
func (n *kernelNews) take() heard {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, socket := range []*os.File{n.programs, n.ends} {
		if socket == nil || n.why != "" {
			continue
		}
		if err := control(socket, func(fd int) error { return n.drain(socket, fd) }); err != nil {
			n.giveUp(err)
			n.leave()
		}
	}
	h := heard{listening: n.listening(), why: n.why, lost: n.lost, news: n.news}
	slices.SortStableFunc(h.news, func(a, b processNews) int { return cmp.Compare(a.awakeNanos, b.awakeNanos) })
	n.news, n.lost = nil, false
	return h
}

func (n *kernelNews) listening() bool { return len(n.answered) == 2 && n.why == "" }

// giveUp says why the kernel is not listened to any more.
func (n *kernelNews) giveUp(err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = errors.New("it does not answer, as in a container")
	}
	n.why, n.news = notToldByKernel(err), nil
}

// close stops listening.
func (n *kernelNews) close() {
	close(n.closed)
	n.leave()
	<-n.done
}

// leave lets the kernel keep nothing more for us. Before Linux 6.6 it counts who listens, and
// goes on for who has just left.
func (n *kernelNews) leave() {
	for _, socket := range []*os.File{n.programs, n.ends} {
		if socket != nil {
			_ = control(socket, func(fd int) error { return order(fd, connectorIgnore) })
			_ = socket.Close()
		}
	}
	if n.poller != nil {
		_ = n.poller.Close()
	}
}

// run listens until close, or until it cannot.
func (n *kernelNews) run() {
	defer close(n.done)
	err := n.listen()
	select {
	case <-n.closed:
		return
	default:
	}
	n.mu.Lock()
	if n.why == "" {
		n.giveUp(err)
	}
	n.mu.Unlock()
	n.leave()
	n.wake()
}

func (n *kernelNews) listen() error {
	if err := n.poller.SetReadDeadline(time.Now().Add(newsPatience)); err != nil {
		return err
	}
	raw, err := n.poller.SyscallConn()
	if err != nil {
		return err
	}
	for read := (time.Time{}); ; read = time.Now() {
		if err := raw.Read(tellsOfOne); err != nil {
			return err
		}
		if early := n.apart - time.Since(read); early > 0 {
			select {
			case <-n.closed:
				return os.ErrClosed
			case <-time.After(early):
			}
		}
		err := control(n.programs, func(fd int) error {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.drain(n.programs, fd)
		})
		if err := errors.Join(err, n.ask(unix.EPOLL_CTL_MOD)); err != nil {
			return err
		}
	}
}

// tellsOfOne tells whether a poller of one descriptor has something to tell.
func tellsOfOne(poller uintptr) bool {
	var events [1]unix.EpollEvent
	for {
		if ready, err := unix.EpollWait(int(poller), events[:], 0); !errors.Is(err, syscall.EINTR) {
			return ready != 0 // it is one, or an error
		}
	}
}

// drain takes in all that is on a socket.
func (n *kernelNews) drain(socket *os.File, fd int) error {
	for {
		length, from, err := unix.Recvfrom(fd, n.packet, 0)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case errors.Is(err, syscall.EAGAIN):
			return nil
		case errors.Is(err, syscall.ENOBUFS):
			n.lost = true
			continue
		case err != nil:
			return err
		}
		if kernel, is := from.(*unix.SockaddrNetlink); !is || kernel.Pid != 0 {
			continue // another program's
		}
		said, err := parseMessage(n.packet[:length])
		if err != nil {
			return err
		}
		if said.what == newsAnswer {
			number, err := numberOf(fd)
			if err != nil {
				return err
			}
			if said.number != number+1 {
				continue
			}
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
		n.answered[socket] = true
		n.wake()
		if socket == n.programs {
			return n.poller.SetReadDeadline(time.Time{})
		}
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
	if !n.followed {
		return nil, true
	}
	file := ""
	if n.wanted != nil {
		file = n.reader.executable(pid)
		// The package of a flatpak is not told by its path, but that it is one.
		if file != "" && !strings.HasPrefix(file, "/app/") && !n.wanted(path.Base(file), file, snapOfPath(file)) {
			return nil, false
		}
	}
	var info unix.Stat_t
	if unix.Stat(n.reader.file(pid, ""), &info) != nil || !n.reader.seated(info.Uid) && !n.awaited[pid] {
		return nil, true
	}
	stat, err := n.reader.stat(pid)
	if err != nil {
		return nil, true
	}
	if n.wanted != nil && file == "" && !n.wanted(stat.name, "", "") {
		return nil, false
	}
	p = &process{pid: pid, parent: stat.parent, startMillis: stat.startMillis, name: stat.name, uid: info.Uid}
	n.reader.identify(p)
	return p, true
}

func (n *kernelNews) keep(news processNews) {
	if len(n.news) == maxNews {
		n.news, n.lost = nil, true
	}
	n.news = append(n.news, news)
}
