package evidence

import (
	"errors"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
)

// Bounds of what is read of one process; a command line has at most 32,767 units.
const (
	firstCommandLine = 4 << 10
	maxCommandLine   = 128 << 10
)

// Processes tells of the processes of this machine.
type Processes struct{}

// New gives the evidence of this machine's processes.
func New() *Processes { return &Processes{} }

// CommandLine implements activity.Evidence.
func (*Processes) CommandLine(p activity.Process) []string {
	line, err := commandLine(p)
	if err != nil || line == "" {
		return nil
	}
	arguments, err := windows.DecomposeCommandLine(line)
	if err != nil {
		return nil
	}
	return pathsOf(arguments, wholePath)
}

// OpenFiles implements activity.Evidence: the system does not tell them safely.
func (*Processes) OpenFiles(activity.Process) []string { return nil }

// Home implements activity.Evidence: no title shortens it here.
func (*Processes) Home(activity.Process) string { return "" }

// wholePath takes a path with a drive or a server; others need the program's folder.
func wholePath(a string) string {
	a = strings.ReplaceAll(a, "/", `\`)
	letter := len(a) > 2 && a[1] == ':' && a[2] == '\\' && a[0]|0x20 >= 'a' && a[0]|0x20 <= 'z'
	if !letter && !strings.HasPrefix(a, `\\`) {
		return ""
	}
	return a
}

// errAnother says that the number of a process is another one's by now.
var errAnother = errors.New("evidence: the process has gone, and another one has its number")

// commandLine asks the system for a process's command line. As long as it is held on to,
// nobody else gets its number.
func commandLine(p activity.Process) (string, error) {
	process, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, uint32(p.PID))
	if err != nil {
		return "", err
	}
	defer func() { _ = windows.CloseHandle(process) }()
	if !desktop.IsStill(process, p.StartMillis) {
		return "", errAnother
	}
	return read(func(buffer []uint64) (uint32, error) {
		var used uint32
		err := windows.NtQueryInformationProcess(process, windows.ProcessCommandLineInformation, unsafe.Pointer(&buffer[0]), uint32(len(buffer)*8), &used)
		return used, err
	})
}

// read asks with ever more room for what takes the form of a UNICODE_STRING and, behind
// it, its text. ask tells how many bytes there are where the room is too small.
func read(ask func(buffer []uint64) (used uint32, err error)) (string, error) {
	buffer := make([]uint64, firstCommandLine/8)
	for {
		used, err := ask(buffer)
		if err == nil {
			return textOf(buffer)
		}
		short := errors.Is(err, windows.STATUS_INFO_LENGTH_MISMATCH) || errors.Is(err, windows.STATUS_BUFFER_TOO_SMALL) || errors.Is(err, windows.STATUS_BUFFER_OVERFLOW)
		if !short || len(buffer)*8 >= maxCommandLine {
			return "", err
		}
		buffer = make([]uint64, min(max((int(used)+7)/8, 2*len(buffer)), maxCommandLine/8))
	}
}

// textOf reads the text of a UNICODE_STRING, which must lie within the answer.
func textOf(buffer []uint64) (string, error) {
	head := (*windows.NTUnicodeString)(unsafe.Pointer(&buffer[0]))
	if head.Length == 0 {
		return "", nil
	}
	begin := uintptr(unsafe.Pointer(&buffer[0]))
	at := uintptr(unsafe.Pointer(head.Buffer))
	if at < begin || at+uintptr(head.Length) > begin+uintptr(len(buffer)*8) {
		return "", errors.New("evidence: the system's answer makes no sense")
	}
	return windows.UTF16ToString(unsafe.Slice(head.Buffer, head.Length/2)), nil
}
