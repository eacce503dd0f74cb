package evidence

import (
	"bytes"
	"cmp"
	"errors"
	"io"
	"os"
	"os/user"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
)

// Bounds of what is read of one process.
const (
	maxCommandLine = 64 << 10
	maxOpenFiles   = 4096
)

// ofTheSystem are folders that hold no document of a person.
var ofTheSystem = [...]string{"/dev/", "/proc/", "/sys/", "/usr/", "/lib/", "/lib64/", "/bin/", "/sbin/", "/snap/", "/memfd:"}

// Processes tells of the processes of this machine.
type Processes struct {
	root string // /proc

	mu    sync.Mutex
	homes map[uint32]string
}

// New gives the evidence of this machine's processes.
func New() *Processes { return &Processes{root: "/proc", homes: map[uint32]string{}} }

// CommandLine implements activity.Evidence.
func (e *Processes) CommandLine(p activity.Process) []string {
	if !e.isStill(p) {
		return nil
	}
	line, err := readSome(e.file(p, "cmdline"), maxCommandLine)
	if err != nil {
		return nil
	}
	var arguments []string
	for a := range bytes.SplitSeq(bytes.TrimRight(line, "\x00"), []byte{0}) {
		arguments = append(arguments, string(a))
	}
	folder, err := os.Readlink(e.file(p, "cwd"))
	known := err == nil && strings.HasPrefix(folder, "/")
	return pathsOf(arguments, func(a string) string {
		switch {
		case strings.HasPrefix(a, "/"):
			return path.Clean(a)
		case known:
			return path.Join(folder, a)
		default:
			return ""
		}
	})
}

// OpenFiles implements activity.Evidence. It reads the names that the kernel has of what
// is open, which asks no file system.
func (e *Processes) OpenFiles(p activity.Process) []string {
	if !e.isStill(p) {
		return nil
	}
	folder, err := os.Open(e.file(p, "fd"))
	if err != nil {
		return nil
	}
	defer func() { _ = folder.Close() }()
	names, err := folder.Readdirnames(maxOpenFiles)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil
	}
	var files []string
	for _, name := range names {
		target, err := os.Readlink(e.file(p, "fd/"+name))
		if err != nil || !strings.HasPrefix(target, "/") || isOfTheSystem(target) {
			continue
		}
		// Editors that write a new file and put it in the old one's place hold the old.
		files = append(files, strings.TrimSuffix(target, " (deleted)"))
	}
	slices.SortFunc(files, cmp.Compare[string])
	return slices.Compact(files)
}

func isOfTheSystem(file string) bool {
	return slices.ContainsFunc(ofTheSystem[:], func(folder string) bool { return strings.HasPrefix(file, folder) })
}

// Home implements activity.Evidence.
func (e *Processes) Home(p activity.Process) string {
	var info unix.Stat_t
	if !e.isStill(p) || unix.Stat(e.file(p, ""), &info) != nil {
		return ""
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	home, known := e.homes[info.Uid]
	if !known {
		if u, err := user.LookupId(strconv.FormatUint(uint64(info.Uid), 10)); err == nil {
			home = u.HomeDir
		}
		e.homes[info.Uid] = home
	}
	return home
}

// isStill tells whether the number is still that process's.
func (e *Processes) isStill(p activity.Process) bool {
	start, err := desktop.StartMillis(p.PID)
	return err == nil && start == p.StartMillis
}

func (e *Processes) file(p activity.Process, name string) string {
	return e.root + "/" + strconv.Itoa(int(p.PID)) + "/" + name
}

// readSome reads the beginning of a file.
func readSome(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, most))
}
