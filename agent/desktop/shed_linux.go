package desktop

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// shed gives back the pages of this program's file that only its start has touched, such
// as what prepares packages that a helper never uses. Those that are needed come back one
// by one; nothing of them was ever changed. So does memory that only the start has used.
func shed() {
	debug.FreeOSMemory()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		// 00400000-00a21000 r-xp 00000000 08:01 1234   /usr/bin/cetrus-agent
		fields := strings.Fields(line)
		if len(fields) < 6 || strings.Contains(fields[1], "w") || fields[5] != self {
			continue
		}
		first, last, _ := strings.Cut(fields[0], "-")
		from, err := strconv.ParseUint(first, 16, 64)
		to, err2 := strconv.ParseUint(last, 16, 64)
		if err == nil && err2 == nil && from < to {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, uintptr(from), uintptr(to-from), unix.MADV_DONTNEED)
		}
	}
}
