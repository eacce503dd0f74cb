package desktop

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
)

// systemProcesses lists the machine's processes, and waits for the exit of some.
type systemProcesses struct {
	procs  *procs
	buffer []uint64 // aligned as the system wants it
	list   []snapshotProcess
	exits  *exitWatch
	// devices are those of drive letters, as read last.
	devices     map[string]string
	devicesRead time.Time
}

const (
	firstSnapshot = 256 << 10
	largest       = 16 << 20
	maxPath       = 32 << 10
)

func newSystemProcesses(p *procs) *systemProcesses { return &systemProcesses{procs: p} }

// snapshot implements snapshotter. One question gives everything that is needed of
// all processes, protected ones too, with the kernel's own times.
func (s *systemProcesses) snapshot() ([]snapshotProcess, error) {
	if s.buffer == nil {
		s.buffer = make([]uint64, firstSnapshot/8)
	}
	var used uint32
	for {
		err := windows.NtQuerySystemInformation(windows.SystemProcessInformation, unsafe.Pointer(&s.buffer[0]), uint32(len(s.buffer)*8), &used)
		if err == nil {
			break
		}
		if !errors.Is(err, windows.STATUS_INFO_LENGTH_MISMATCH) || len(s.buffer)*8 >= largest {
			return nil, fmt.Errorf("desktop: list the processes: %w", err)
		}
		s.buffer = make([]uint64, max(2*len(s.buffer), int(used)/8+4096))
	}
	s.list = s.list[:0]
	end := min(int(used), len(s.buffer)*8)
	for at := 0; at+int(unsafe.Sizeof(windows.SYSTEM_PROCESS_INFORMATION{})) <= end; {
		entry := (*windows.SYSTEM_PROCESS_INFORMATION)(unsafe.Add(unsafe.Pointer(&s.buffer[0]), at))
		if entry.UniqueProcessID != 0 && entry.NumberOfThreads > 0 {
			s.list = append(s.list, snapshotProcess{
				pid: int32(entry.UniqueProcessID), parent: int32(entry.InheritedFromUniqueProcessID),
				session: entry.SessionID, created: entry.CreateTime, name: entry.ImageName.String(),
			})
		}
		if entry.NextEntryOffset == 0 {
			break
		}
		at += int(entry.NextEntryOffset)
	}
	return s.list, nil
}

// describe implements snapshotter. It asks with the least right that there is, which
// elevated programs grant too.
func (s *systemProcesses) describe(pid int32) (path, pkg string) {
	process, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, uint32(pid))
	if err != nil {
		return "", ""
	}
	defer func() { _ = windows.CloseHandle(process) }()
	text := make([]uint16, windows.MAX_PATH)
	for len(text) <= maxPath {
		size := uint32(len(text))
		err := windows.QueryFullProcessImageName(process, 0, &text[0], &size)
		if err == nil {
			path = windows.UTF16ToString(text[:size])
			break
		}
		if !errors.Is(err, windows.ERROR_INSUFFICIENT_BUFFER) {
			break
		}
		text = make([]uint16, 4*len(text))
	}
	if s.procs.getPackageFullName.Find() == nil {
		var name [256]uint16
		size := uint32(len(name))
		if code, _, _ := s.procs.getPackageFullName.Call(uintptr(process), uintptr(unsafe.Pointer(&size)), uintptr(unsafe.Pointer(&name[0]))); code == 0 {
			pkg = windows.UTF16ToString(name[:])
		}
	}
	return path, pkg
}

// devicesPeriod is the shortest time between two readings of drive letters: of a file of a
// network or of a volume without a letter no reading finds one.
const devicesPeriod = 10 * time.Second

// fileOf implements snapshotter.
func (s *systemProcesses) fileOf(image string) string {
	if file := driveOf(image, s.devices); file != "" || time.Since(s.devicesRead) < devicesPeriod {
		return file
	}
	s.devicesRead, s.devices = time.Now(), make(map[string]string)
	letters, err := windows.GetLogicalDrives()
	if err != nil {
		return ""
	}
	for n := range 26 {
		if letters&(1<<n) == 0 {
			continue
		}
		letter := string(rune('A'+n)) + ":"
		name, err := windows.UTF16PtrFromString(letter)
		if err != nil {
			continue
		}
		var device [windows.MAX_PATH]uint16
		if length, err := windows.QueryDosDevice(name, &device[0], uint32(len(device))); err == nil && length > 0 {
			s.devices[letter] = windows.UTF16ToString(device[:])
		}
	}
	return driveOf(image, s.devices)
}

// sameStartMillis is how far the start of a process may lie from where it was placed: marks
// of the boot timeline are up to bootlineStep off, and so may those of a service be from
// those of a user's agent.
const sameStartMillis = 2 * bootlineStep / fileTimePerMilli

// IsStill tells whether a process that is held on to is the one that began at a moment of
// the boot timeline, as in activity.Process, and not another that has got its number.
func IsStill(process windows.Handle, startMillis int64) bool {
	var created, exited, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(process, &created, &exited, &kernel, &user); err != nil {
		return false
	}
	for _, line := range keptBootlines() {
		if off := line.at(fileTime(created)) - startMillis; off >= -sameStartMillis && off <= sameStartMillis {
			return true
		}
	}
	return false
}

// keptBootlines are what a service and this user's own agent keep of this boot.
func keptBootlines() (lines []*bootline) {
	for _, root := range []registry.Key{registry.LOCAL_MACHINE, registry.CURRENT_USER} {
		key, err := registry.OpenKey(root, bootKey, registry.QUERY_VALUE|registry.WOW64_64KEY)
		if err != nil {
			continue
		}
		data, _, err := key.GetBinaryValue(bootValue)
		_ = key.Close()
		if err != nil {
			continue
		}
		if line, err := parseBootline(data); err == nil && len(line.marks) > 0 {
			lines = append(lines, line)
		}
	}
	return lines
}

// waitFor implements snapshotter.
func (s *systemProcesses) waitFor(pids []int32) {
	if s.exits != nil {
		s.exits.follow(pids)
	}
}

// exitWatch waits for exits of processes, so that they are told with the kernel's
// own time and at once. What it has no room for is seen at the next snapshot.
type exitWatch struct {
	note func(pid int32, created, exited int64)
	wake func()

	change  windows.Handle // event: what to wait for has changed, or the end
	running sync.WaitGroup
	mu      sync.Mutex
	wanted  []int32
	ended   bool
}

// maxWaits is how many handles the system waits for at once, without the event.
const maxWaits = 63

func newExitWatch(note func(pid int32, created, exited int64), wake func()) (*exitWatch, error) {
	change, err := windows.CreateEvent(nil, 0, 0, nil)
	if err != nil {
		return nil, fmt.Errorf("desktop: an event to wait for: %w", err)
	}
	w := &exitWatch{note: note, wake: wake, change: change}
	w.running.Go(w.run)
	return w, nil
}

func (w *exitWatch) follow(pids []int32) {
	w.mu.Lock()
	w.wanted = slices.Clone(pids)
	w.mu.Unlock()
	_ = windows.SetEvent(w.change)
}

func (w *exitWatch) close() {
	w.mu.Lock()
	w.ended = true
	w.mu.Unlock()
	_ = windows.SetEvent(w.change)
	w.running.Wait()
	_ = windows.CloseHandle(w.change)
}

// watchedProcess is a process that is held on to.
type watchedProcess struct {
	pid    int32
	handle windows.Handle
}

func (w *exitWatch) run() {
	var held []watchedProcess
	defer func() {
		for _, h := range held {
			_ = windows.CloseHandle(h.handle)
		}
	}()
	for {
		handles := []windows.Handle{w.change}
		for _, h := range held {
			handles = append(handles, h.handle)
		}
		event, err := windows.WaitForMultipleObjects(handles, false, windows.INFINITE)
		if err != nil {
			return
		}
		if i := int(event - windows.WAIT_OBJECT_0); i > 0 && i <= len(held) {
			gone := held[i-1]
			held = slices.Delete(held, i-1, i)
			var created, exited, kernel, user windows.Filetime
			if err := windows.GetProcessTimes(gone.handle, &created, &exited, &kernel, &user); err == nil {
				w.note(gone.pid, fileTime(created), fileTime(exited))
			}
			_ = windows.CloseHandle(gone.handle)
			w.wake()
			continue
		}
		w.mu.Lock()
		wanted, ended := w.wanted, w.ended
		w.mu.Unlock()
		if ended {
			return
		}
		held = w.hold(held, wanted)
	}
}

// hold lets go of what is no longer wanted and takes hold of what is.
func (w *exitWatch) hold(held []watchedProcess, wanted []int32) []watchedProcess {
	held = slices.DeleteFunc(held, func(h watchedProcess) bool {
		if slices.Contains(wanted, h.pid) {
			return false
		}
		_ = windows.CloseHandle(h.handle)
		return true
	})
	for _, pid := range wanted {
		if len(held) == maxWaits {
			break
		}
		if slices.ContainsFunc(held, func(h watchedProcess) bool { return h.pid == pid }) {
			continue
		}
		handle, err := windows.OpenProcess(windows.SYNCHRONIZE|windows.PROCESS_QUERY_LIMITED_INFORMATION, false, uint32(pid))
		if err == nil {
			held = append(held, watchedProcess{pid, handle})
		}
	}
	return held
}
