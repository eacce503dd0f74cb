package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// trayLogBytes bounds each of the two files that the icon's log takes.
const trayLogBytes = 256 << 10

// openTrayLog opens the log of an icon that a service has started, which has nobody's
// terminal to write to: a file in the person's own folder, since what happens in their
// session is theirs, and a program of theirs is not to fill the service's log.
func openTrayLog() (io.WriteCloser, error) {
	folder, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("the person's folder for the icon's log: %w", err)
	}
	return openBoundedLog(filepath.Join(folder, "Cetrus", "tray.log"), trayLogBytes)
}

// boundedLog is a file that is put aside as .old, in the place of the one before, when it
// would grow beyond a bound. It is written by one goroutine at a time.
type boundedLog struct {
	name string
	most int64
	file *os.File
	size int64
}

func openBoundedLog(name string, most int64) (*boundedLog, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, fmt.Errorf("the folder of the log: %w", err)
	}
	l := &boundedLog{name: name, most: most}
	return l, l.open()
}

func (l *boundedLog) open() error {
	file, err := os.OpenFile(l.name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("the log: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close()
		return fmt.Errorf("the log: %w", err)
	}
	l.file, l.size = file, info.Size()
	return nil
}

// Write implements io.Writer.
func (l *boundedLog) Write(line []byte) (int, error) {
	if l.size > 0 && l.size+int64(len(line)) > l.most {
		if err := l.turn(); err != nil {
			return 0, err
		}
	}
	n, err := l.file.Write(line)
	l.size += int64(n)
	return n, err
}

// turn begins the file anew.
func (l *boundedLog) turn() error {
	_ = l.file.Close()
	if err := os.Rename(l.name, l.name+".old"); err != nil {
		// An icon of the same person in another session may hold it, and Windows then keeps
		// its name; what it says is let go of rather than that it grows.
		if err := os.Truncate(l.name, 0); err != nil {
			return fmt.Errorf("the log: %w", err)
		}
	}
	return l.open()
}

// Close implements io.Closer.
func (l *boundedLog) Close() error { return l.file.Close() }
