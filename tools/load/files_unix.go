//go:build unix

package load

import (
	"fmt"
	"syscall"
)

// NeedFiles makes sure that this process may have so many files and connections open.
func NeedFiles(n uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("load: how many files may be open: %w", err)
	}
	if limit.Cur >= n {
		return nil
	}
	had := limit
	limit.Cur, limit.Max = n, max(n, limit.Max) // a greater Max is for root
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("load: %d files have to be open at once, and %d may be: raise the limit (`ulimit -n %d`), or run this as root: %w", n, had.Max, n, err)
	}
	return nil
}
