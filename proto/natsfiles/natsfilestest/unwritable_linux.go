package natsfilestest

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// immutableFlag is FS_IMMUTABLE_FL of linux/fs.h.
const immutableFlag = 0x10

// Unwritable has a folder take no new file, as on a disk that fails for a moment, until the moment is over. Where no
// folder can be made so the test is skipped.
func Unwritable(tb testing.TB, folder string) (over func()) {
	tb.Helper()
	if err := immutable(folder, true); err != nil {
		tb.Skipf("no folder can be made so here: %v", err)
	}
	return func() {
		tb.Helper()
		if err := immutable(folder, false); err != nil {
			tb.Fatal(err)
		}
	}
}

func immutable(folder string, on bool) error {
	file, err := os.Open(folder)
	if err != nil {
		return err
	}
	flags, err := unix.IoctlGetInt(int(file.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		if flags &^= immutableFlag; on {
			flags |= immutableFlag
		}
		err = unix.IoctlSetPointerInt(int(file.Fd()), unix.FS_IOC_SETFLAGS, flags)
	}
	return errors.Join(err, file.Close())
}
