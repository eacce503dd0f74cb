package desktop

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// confine takes from this process, for good, whatever looking at a desktop does not take:
// to write or make files, to start programs, to reach other processes, and any socket but
// local ones. What stays are the system calls of the Go runtime, reading files, and talking
// to local sockets: a display's and a bus's. A kernel without such filters leaves it the
// rights of the session's user, who is all that it can harm. With files true it may still
// make and change files; confined again, it may no longer.
func confine(files bool) error {
	limits := []int{unix.RLIMIT_CORE}
	if !files {
		limits = append(limits, unix.RLIMIT_FSIZE)
	}
	for _, limit := range limits {
		if err := unix.Setrlimit(limit, &unix.Rlimit{}); err != nil {
			return fmt.Errorf("desktop: limit the helper: %w", err)
		}
	}
	// The filter is put on all threads; what it needs is asked of this one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("desktop: renounce new privileges: %w", err)
	}
	program := filter(uint32(os.Getpid()), files)
	of := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&of))) //nolint:gosec // The kernel takes the address of the filter.
	runtime.KeepAlive(program)
	switch {
	case errno == 0, errors.Is(errno, unix.ENOSYS), errors.Is(errno, unix.EINVAL):
		return nil
	default:
		return fmt.Errorf("desktop: confine the helper: %w", errno)
	}
}

// allowed are the system calls that are let through whatever their arguments.
var allowed = []uint32{
	// Reading and writing what is open.
	unix.SYS_READ, unix.SYS_READV, unix.SYS_PREAD64, unix.SYS_WRITE, unix.SYS_WRITEV, unix.SYS_CLOSE, unix.SYS_LSEEK,
	unix.SYS_FSTAT, unix.SYS_NEWFSTATAT, unix.SYS_STATX, unix.SYS_FACCESSAT, unix.SYS_FACCESSAT2, unix.SYS_READLINKAT, unix.SYS_GETDENTS64, unix.SYS_GETCWD,
	unix.SYS_FCNTL, unix.SYS_DUP, unix.SYS_DUP3, unix.SYS_PIPE2, unix.SYS_EVENTFD2,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_PPOLL,
	// Local sockets: only such can be made.
	unix.SYS_CONNECT, unix.SYS_SENDTO, unix.SYS_SENDMSG, unix.SYS_RECVFROM, unix.SYS_RECVMSG, unix.SYS_SHUTDOWN,
	unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT,
	// Memory, threads, signals and clocks of the runtime.
	unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MREMAP, unix.SYS_MPROTECT, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_BRK,
	unix.SYS_FUTEX, unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_MEMBARRIER, unix.SYS_PRCTL,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_GETRES, unix.SYS_GETTIMEOFDAY,
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_GETRANDOM,
	// Being confined further.
	unix.SYS_SECCOMP,
	// Who and where this is.
	unix.SYS_GETPID, unix.SYS_GETPPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID, unix.SYS_UNAME,
}

// making are those by which files are made, changed and removed.
var making = []uint32{unix.SYS_OPENAT, unix.SYS_MKDIRAT, unix.SYS_UNLINKAT, unix.SYS_FTRUNCATE, unix.SYS_FCHMODAT}

// Where the parts of struct seccomp_data are.
const (
	dataNumber   = 0
	dataArch     = 4
	dataArgument = 16
)

// filter makes the program that judges each system call: allowed, or EPERM.
func filter(pid uint32, files bool) []unix.SockFilter {
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		and  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		jump = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret  = unix.BPF_RET | unix.BPF_K
	)
	refuse := func(why unix.Errno) unix.SockFilter {
		return unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(why)}
	}
	allow := unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW}
	argument := func(n uint32) unix.SockFilter {
		return unix.SockFilter{Code: load, K: dataArgument + 8*n} // the lower half, little-endian
	}
	program := []unix.SockFilter{
		{Code: load, K: dataArch},
		{Code: jump, K: auditArch, Jt: 1},
		refuse(unix.EPERM),
		{Code: load, K: dataNumber},
	}
	through := slices.Clone(allowed)
	if files {
		through = append(through, making...)
	}
	for _, number := range through {
		program = append(program, unix.SockFilter{Code: jump, K: number, Jf: 1}, allow)
	}
	// when lets a system call through where an argument, masked, has a value.
	when := func(number, of, mask, value uint32, otherwise unix.Errno) {
		program = append(program, unix.SockFilter{Code: jump, K: number, Jf: 5},
			argument(of), unix.SockFilter{Code: and, K: mask}, unix.SockFilter{Code: jump, K: value, Jf: 1}, allow, refuse(otherwise))
	}
	const all = ^uint32(0)
	// The C library makes threads by clone where it is told that there is no clone3.
	program = append(program, unix.SockFilter{Code: jump, K: unix.SYS_CLONE3, Jf: 1}, refuse(unix.ENOSYS))
	when(unix.SYS_SOCKET, 0, all, unix.AF_UNIX, unix.EAFNOSUPPORT)
	when(unix.SYS_OPENAT, 2, unix.O_ACCMODE|unix.O_CREAT|unix.O_TRUNC|unix.O_TMPFILE&^unix.O_DIRECTORY, unix.O_RDONLY, unix.EPERM)
	when(unix.SYS_CLONE, 0, unix.CLONE_THREAD, unix.CLONE_THREAD, unix.EPERM)
	when(unix.SYS_TGKILL, 0, all, pid, unix.EPERM)
	when(unix.SYS_PRLIMIT64, 0, all, 0, unix.EPERM)
	return append(program, refuse(unix.EPERM))
}
