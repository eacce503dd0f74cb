package agent

import (
	"golang.org/x/sys/windows"

	"github.com/cetrus/cetrus/agent/activity"
)

// startTolerance is how far the start of a process may lie from where it was first placed,
// in milliseconds: marks between wall clock and boot timeline are a second apart.
const startTolerance = 2000

// identify finds the process of a key. Windows tells starts in wall-clock time, in units of
// 100 ns: with the pid they name one process for ever, over boots too.
// Which session it is of is the system's own word.
func identify(key activity.ProcessKey, _ activity.User) (program, bool) {
	process, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, uint32(key.PID))
	if err != nil {
		return program{}, false
	}
	defer windows.CloseHandle(process) //nolint:errcheck // It is only let go of.
	created, ok := createdOf(process)
	if !ok {
		return program{}, false
	}
	var now windows.Filetime
	windows.GetSystemTimePreciseAsFileTime(&now)
	age := (ticks(now) - created) / 10_000
	off := windows.DurationSinceBoot().Milliseconds() - age - key.StartMillis
	return program{PID: key.PID, Start: created}, -startTolerance <= off && off <= startTolerance
}

func createdOf(process windows.Handle) (created int64, ok bool) {
	var born, exited, kernel, user windows.Filetime
	if err := windows.GetProcessTimes(process, &born, &exited, &kernel, &user); err != nil {
		return 0, false
	}
	return ticks(born), true
}

func ticks(t windows.Filetime) int64 { return int64(t.HighDateTime)<<32 | int64(t.LowDateTime) }

// suspend and resume stop a program and let it go on. No documented call does so for a
// process as a whole; these two are what debuggers and the system's own Resource Monitor use,
// unchanged since Windows XP. One that is gone, or protected, is left alone.
func suspend(p program) { signal(p, ntdll().NewProc("NtSuspendProcess")) }

func resume(p program) { signal(p, ntdll().NewProc("NtResumeProcess")) }

func ntdll() *windows.LazyDLL { return windows.NewLazySystemDLL("ntdll.dll") }

func signal(p program, procedure *windows.LazyProc) {
	const rights = windows.PROCESS_SUSPEND_RESUME | windows.PROCESS_QUERY_LIMITED_INFORMATION
	process, err := windows.OpenProcess(rights, false, uint32(p.PID))
	if err != nil {
		return
	}
	defer windows.CloseHandle(process) //nolint:errcheck // It is only let go of.
	// What is open keeps its pid: nothing changes hands between the look and the call.
	if created, ok := createdOf(process); !ok || created != p.Start {
		return
	}
	_, _, _ = procedure.Call(uintptr(process))
}

// sameBoot: a process is named over boots too.
func sameBoot(string) bool { return true }
