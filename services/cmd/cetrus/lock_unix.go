//go:build unix

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// Ways to lock a file.
const (
	lockAlone  = syscall.LOCK_EX | syscall.LOCK_NB
	lockShared = syscall.LOCK_SH | syscall.LOCK_NB
	lockWait   = syscall.LOCK_EX
)

var errLocked = errors.New("locked by another process")

// lockDir keeps a data directory for a target: "all" alone, the others beside
// one another, but each only once. The system drops the locks with the process,
// however that ends.
func lockDir(dir, target string) (unlock func(), err error) {
	how := lockShared
	if target == "all" {
		how = lockAlone
	}
	refused := func(err error, holder string) error {
		if !errors.Is(err, errLocked) {
			return err
		}
		return errs.As(errs.Precondition, "cetrus", "data directory "+dir,
			"is in use"+holder+": stop that, or choose another with --data-dir or "+config.EnvName("data-dir"), err)
	}
	unlockDir, err := lockFile(filepath.Join(dir, "lock"), how)
	if err != nil {
		return nil, refused(err, holders(dir))
	}
	unlockTarget, err := lockFile(filepath.Join(dir, "lock."+target), lockAlone)
	if err != nil {
		unlockDir()
		return nil, refused(err, holders(dir))
	}
	pid := filepath.Join(dir, "lock."+target+".pid")
	if err := os.WriteFile(pid, fmt.Appendf(nil, "%d\n", os.Getpid()), 0o600); err != nil {
		unlockTarget()
		unlockDir()
		return nil, errs.As(errs.Precondition, "cetrus", "data directory "+dir, "cannot be written to", err)
	}
	return func() {
		_ = os.Remove(pid)
		unlockTarget()
		unlockDir()
	}, nil
}

// holders tells which processes use a directory, as far as it can be told.
func holders(dir string) string {
	files, err := filepath.Glob(filepath.Join(dir, "lock.*.pid"))
	if err != nil || len(files) == 0 {
		return ""
	}
	var all []string
	for _, f := range files {
		if pid, err := os.ReadFile(f); err == nil {
			target := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), "lock."), ".pid")
			all = append(all, "`cetrus "+target+"`, process "+strings.TrimSpace(string(pid)))
		}
	}
	return " by " + strings.Join(all, " and ")
}

func lockFile(path string, how int) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, errs.As(errs.Precondition, "cetrus", path, "cannot be opened", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, errs.As(errs.Precondition, "cetrus", path, "cannot be locked", err)
	}
	return func() { _ = f.Close() }, nil
}
