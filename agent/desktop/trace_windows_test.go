package desktop

import (
	"errors"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/windows"
)

// The layouts have the sizes, and the fields the places, that evntrace.h and evntcons.h give
// them on 64 bits.
func TestLayoutsOfTraces(t *testing.T) {
	t.Parallel()
	var p traceProperties
	var f traceLogFile
	var r eventRecord
	for id, want := range map[windows.GUID]string{
		kernelProcesses(): "{22FB2CD6-0E7B-422B-A0C7-2FAD1FD0E716}", lostRecords(): "{6A399AE0-4BC6-4DE9-870B-3657F8947E7E}",
	} {
		if got := id.String(); got != want {
			t.Errorf("%s instead of %s", got, want)
		}
	}
	for name, c := range map[string][2]uintptr{
		"EVENT_TRACE_PROPERTIES":                   {unsafe.Offsetof(p.name), 120},
		"EVENT_TRACE_PROPERTIES.LogFileMode":       {unsafe.Offsetof(p.mode), 64},
		"EVENT_TRACE_PROPERTIES.LoggerNameOffset":  {unsafe.Offsetof(p.nameOffset), 116},
		"EVENT_TRACE_LOGFILEW":                     {unsafe.Sizeof(f), 448},
		"EVENT_TRACE_LOGFILEW.EventRecordCallback": {unsafe.Offsetof(f.recordCallback), 424},
		"EVENT_RECORD":                             {unsafe.Sizeof(r), 112},
		"EVENT_RECORD.EventHeader.EventDescriptor": {unsafe.Offsetof(r.id), 40},
		"EVENT_RECORD.UserDataLength":              {unsafe.Offsetof(r.userDataLength), 86},
		"EVENT_RECORD.UserData":                    {unsafe.Offsetof(r.userData), 96},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: %d, want %d", name, c[0], c[1])
		}
	}
}

// A system that lets nobody follow a trace, as Wine 8, says so, and keeps none.
func TestTraceOfThisSystem(t *testing.T) {
	t.Parallel()
	trace := newSystemTrace(newProcs())
	err := trace.begin()
	if errors.Is(err, errTraceThere) || errors.Is(err, windows.ERROR_ACCESS_DENIED) {
		t.Skipf("NOT TESTED: a trace of this machine: %v", err)
	}
	if err == nil {
		err = trace.follow(func(traced) { _ = trace.end() })
	}
	t.Logf("the trace of this system: %v", err)
	if ended := trace.end(); trace.handle != 0 {
		t.Errorf("after its end the trace is held: %v", ended)
	}
}

func TestFilesOfDevices(t *testing.T) {
	t.Parallel()
	s := newSystemProcesses(newProcs())
	if file := s.fileOf(`\Device\Nowhere\x.exe`); file != "" {
		t.Errorf("a file of a device without a letter is %s", file)
	}
	if len(s.devices) == 0 {
		t.Error("no drive has a device")
	}
	for letter, device := range s.devices {
		got := s.fileOf(device + `\folder\x.exe`)
		found, rest, _ := strings.Cut(got, `\`)
		if rest != `folder\x.exe` || s.devices[found] != device { // two letters may be of one device
			t.Errorf("a file of %s is %s, want it on %s", device, got, letter)
		}
	}
}
