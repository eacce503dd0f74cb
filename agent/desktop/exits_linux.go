package desktop

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxWatchedExits bounds how many processes are watched for their end, each of
	// which takes a file descriptor. Further ones are found by looking.
	maxWatchedExits = 512
	// exitPeriod is the shortest time between two tellings of exits, so that a
	// machine on which thousands of processes end does not keep the agent busy.
	exitPeriod = 100 * time.Millisecond
)

// exitWatch is told by the kernel when a process ends (pidfd_open(2), Linux 5.3).
// Where the kernel does not do that, nothing is watched, and exits are seen by
// looking at the list of processes.
type exitWatch struct {
	open func(pid int32) (fd int, err error)
	// poller is an epoll of pidfds; nil: exits are not told.
	poller *os.File
	fds    map[int32]int // belongs to the observing goroutine
	// wake is called when ended is no longer empty.
	wake func()
	done chan struct{}
	stop chan struct{}

	mu    sync.Mutex
	ended []int32
}

func openPIDFD(pid int32) (int, error) { return unix.PidfdOpen(int(pid), 0) }

// newExitWatch begins to wait for exits; close ends it.
func newExitWatch(open func(pid int32) (int, error), wake func()) *exitWatch {
	w := &exitWatch{
		open: open, fds: make(map[int32]int),
		wake: wake, done: make(chan struct{}), stop: make(chan struct{}),
	}
	own, err := open(int32(os.Getpid()))
	if err != nil {
		close(w.done)
		return w // this kernel, or what the agent is confined by, refuses
	}
	_ = unix.Close(own)
	if w.poller, err = newPoller("exits of processes"); err != nil {
		close(w.done)
		return w
	}
	go w.run()
	return w
}

// newPoller makes an epoll that the Go runtime waits for: no thread sleeps in it.
func newPoller(name string) (*os.File, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// tells is false where exits have to be looked for.
func (w *exitWatch) tells() bool { return w.poller != nil }

// add watches a process. One that cannot be watched is left to looking.
func (w *exitWatch) add(pid int32) {
	if _, there := w.fds[pid]; there || w.poller == nil || len(w.fds) >= maxWatchedExits {
		return
	}
	fd, err := w.open(pid)
	if err != nil {
		return
	}
	err = control(w.poller, func(poller int) error {
		return unix.EpollCtl(poller, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: pid})
	})
	if err != nil {
		_ = unix.Close(fd)
		return
	}
	w.fds[pid] = fd
}

// watch watches these processes and no others.
func (w *exitWatch) watch(pids map[int32]bool) {
	for pid := range w.fds {
		if !pids[pid] {
			w.remove(pid)
		}
	}
	for pid := range pids {
		w.add(pid)
	}
}

// remove lets go of a process; closing its descriptor takes it out of the epoll.
func (w *exitWatch) remove(pid int32) {
	if fd, there := w.fds[pid]; there {
		_ = unix.Close(fd)
		delete(w.fds, pid)
	}
}

// take gives the processes that have ended since it was last called.
func (w *exitWatch) take() []int32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	ended := w.ended
	w.ended = nil
	return ended
}

// control does something with a file's descriptor.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	if err := raw.Control(func(fd uintptr) { result = f(int(fd)) }); err != nil {
		return err
	}
	return result
}

// run waits for exits until close.
func (w *exitWatch) run() {
	defer close(w.done)
	raw, err := w.poller.SyscallConn()
	if err != nil {
		return
	}
	events := make([]unix.EpollEvent, 16)
	for {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			for {
				if n, err = unix.EpollWait(int(fd), events, 0); !errors.Is(err, syscall.EINTR) {
					return n != 0 // one, or an error
				}
			}
		})
		if err != nil || n < 0 {
			return // closed
		}
		w.mu.Lock()
		for _, e := range events[:n] {
			w.ended = append(w.ended, e.Fd)
		}
		w.mu.Unlock()
		w.wake()
		select {
		case <-w.stop:
			return
		case <-time.After(exitPeriod):
		}
	}
}

// close stops waiting.
func (w *exitWatch) close() {
	close(w.stop)
	if w.poller != nil {
		_ = w.poller.Close()
	}
	<-w.done
	w.watch(nil)
}
