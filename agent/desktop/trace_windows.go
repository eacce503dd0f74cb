package desktop

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/windows"
)

// traceName is the name of the trace. There is one for the machine, its service's.
const traceName = "Cetrus agent: processes"

// evntrace.h and evntcons.h in numbers that x/sys does not have.
const (
	wnodeTraced       = 0x00020000 // WNODE_FLAG_TRACED_GUID
	traceRealTime     = 0x00000100 // EVENT_TRACE_REAL_TIME_MODE, PROCESS_TRACE_MODE_REAL_TIME
	traceInOrder      = 0x10000000 // EVENT_TRACE_NO_PER_PROCESSOR_BUFFERING
	traceRecords      = 0x10000000 // PROCESS_TRACE_MODE_EVENT_RECORD
	traceStop         = 1          // EVENT_TRACE_CONTROL_STOP
	traceEnable       = 1          // EVENT_CONTROL_CODE_ENABLE_PROVIDER
	traceInformation  = 4          // TRACE_LEVEL_INFORMATION
	traceProcesses    = 0x10       // WINEVENT_KEYWORD_PROCESS
	traceTicks        = 1          // Wnode.ClientContext: the performance counter
	traceBufferKB     = 64
	traceLeastBuffers = 2
	traceMostBuffers  = 16
	traceFlushSeconds = 1
	invalidTrace      = ^uint64(0)          // INVALID_PROCESSTRACE_HANDLE
	errTraceNotThere  = windows.Errno(4201) // ERROR_WMI_INSTANCE_NOT_FOUND
)

// The layouts below are those of 64 bits, for which alone the agent is built; a test holds
// them to the sizes that the documentation gives.

// traceProperties is EVENT_TRACE_PROPERTIES, with room for the name behind it.
type traceProperties struct {
	bufferSize, _     uint32 // WNODE_HEADER
	handle            uint64
	_                 int64
	_                 windows.GUID
	clientContext     uint32
	flags             uint32
	bufferKB          uint32
	leastBuffers      uint32
	mostBuffers       uint32
	_                 uint32
	mode              uint32
	flushSeconds      uint32
	_, _              uint32
	_, _, _, _, _, _  uint32 // counters
	_                 uintptr
	logFileNameOffset uint32
	nameOffset        uint32
	name              [128]uint16
}

// traceLogFile is EVENT_TRACE_LOGFILEW.
type traceLogFile struct {
	_              *uint16
	name           *uint16
	_              int64
	_              uint32
	mode           uint32
	_              [88]byte  // EVENT_TRACE
	_              [280]byte // TRACE_LOGFILE_HEADER
	_              uintptr
	_, _, _        uint32
	recordCallback uintptr
	_              uint32
	_              uintptr
}

// eventRecord is EVENT_RECORD.
type eventRecord struct {
	_              [24]byte // EVENT_HEADER
	provider       windows.GUID
	id             uint16
	version        uint8
	_              [13]byte // the rest of EVENT_DESCRIPTOR
	_              [24]byte
	_              uint32
	_              uint16
	userDataLength uint16
	_              uintptr
	userData       *byte
	_              uintptr
}

// systemTrace is the trace of this machine.
type systemTrace struct {
	procs *procs
	// callback is what the system calls with each record. There is one for good, since what
	// Go has made for the system to call is never given back.
	callback uintptr

	mu     sync.Mutex
	handle uint64 // of the trace that was begun; 0: none
	opened uint64 // what follows it; 0: nothing does
	take   func(traced)
}

// kernelProcesses is the provider Microsoft-Windows-Kernel-Process,
// {22FB2CD6-0E7B-422B-A0C7-2FAD1FD0E716}.
func kernelProcesses() windows.GUID {
	return windows.GUID{Data1: 0x22FB2CD6, Data2: 0x0E7B, Data3: 0x422B, Data4: [8]byte{0xA0, 0xC7, 0x2F, 0xAD, 0x1F, 0xD0, 0xE7, 0x16}}
}

// lostRecords is the class RT_LostEvent, {6A399AE0-4BC6-4DE9-870B-3657F8947E7E}.
func lostRecords() windows.GUID {
	return windows.GUID{Data1: 0x6A399AE0, Data2: 0x4BC6, Data3: 0x4DE9, Data4: [8]byte{0x87, 0x0B, 0x36, 0x57, 0xF8, 0x94, 0x7E, 0x7E}}
}

func newSystemTrace(p *procs) *systemTrace {
	t := &systemTrace{procs: p}
	processes, lost := kernelProcesses(), lostRecords()
	t.callback = windows.NewCallback(func(r *eventRecord) uintptr {
		switch r.provider {
		case processes:
			t.take(traced{id: r.id, version: r.version, data: unsafe.Slice(r.userData, r.userDataLength)})
		case lost:
			t.take(traced{lost: true})
		}
		return 0
	})
	return t
}

func newTraceProperties() *traceProperties {
	t := &traceProperties{
		flags: wnodeTraced, clientContext: traceTicks, bufferKB: traceBufferKB, leastBuffers: traceLeastBuffers, mostBuffers: traceMostBuffers,
		mode: traceRealTime | traceInOrder, flushSeconds: traceFlushSeconds,
	}
	t.bufferSize, t.nameOffset = uint32(unsafe.Sizeof(*t)), uint32(unsafe.Offsetof(t.name))
	return t
}

// begin implements tracer.
func (t *systemTrace) begin() error {
	for _, proc := range []*windows.LazyProc{t.procs.startTrace, t.procs.controlTrace, t.procs.enableTrace, t.procs.openTrace, t.procs.processTrace, t.procs.closeTrace} {
		if err := proc.Find(); err != nil {
			return err
		}
	}
	name, err := windows.UTF16PtrFromString(traceName)
	if err != nil {
		return err
	}
	properties, handle := newTraceProperties(), uint64(0)
	code, _, _ := t.procs.startTrace.Call(uintptr(unsafe.Pointer(&handle)), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(properties)))
	switch {
	case windows.Errno(code) == windows.ERROR_ALREADY_EXISTS:
		return errTraceThere
	case code != 0:
		return fmt.Errorf("begin the trace: %w", windows.Errno(code))
	}
	t.mu.Lock()
	t.handle = handle
	t.mu.Unlock()
	provider := kernelProcesses()
	code, _, _ = t.procs.enableTrace.Call(uintptr(handle), uintptr(unsafe.Pointer(&provider)), traceEnable, traceInformation, traceProcesses, 0, 0, 0)
	if code != 0 {
		return errors.Join(fmt.Errorf("have the kernel tell of processes: %w", windows.Errno(code)), t.end())
	}
	return nil
}

// takeAway implements tracer.
func (t *systemTrace) takeAway() error {
	name, err := windows.UTF16PtrFromString(traceName)
	if err != nil {
		return err
	}
	code, _, _ := t.procs.controlTrace.Call(0, uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(newTraceProperties())), traceStop)
	if code != 0 && windows.Errno(code) != errTraceNotThere {
		return fmt.Errorf("end the trace that was left behind: %w", windows.Errno(code))
	}
	return nil
}

// end implements tracer.
func (t *systemTrace) end() error {
	t.mu.Lock()
	handle, opened := t.handle, t.opened
	t.handle, t.opened = 0, 0
	t.mu.Unlock()
	if opened != 0 {
		_, _, _ = t.procs.closeTrace.Call(uintptr(opened)) // so that what follows the trace need not wait for its last buffers
	}
	if handle == 0 {
		return nil
	}
	if code, _, _ := t.procs.controlTrace.Call(uintptr(handle), 0, uintptr(unsafe.Pointer(newTraceProperties())), traceStop); code != 0 {
		return fmt.Errorf("end the trace: %w", windows.Errno(code))
	}
	return nil
}

// follow implements tracer.
func (t *systemTrace) follow(take func(traced)) error {
	name, err := windows.UTF16PtrFromString(traceName)
	if err != nil {
		return err
	}
	t.take = take // read by the callback, which runs below
	file := &traceLogFile{name: name, mode: traceRealTime | traceRecords, recordCallback: t.callback}
	answer, _, openErr := t.procs.openTrace.Call(uintptr(unsafe.Pointer(file)))
	handle := uint64(answer)
	if handle == invalidTrace {
		return fmt.Errorf("follow the trace: %w", openErr)
	}
	t.mu.Lock()
	t.opened = handle
	t.mu.Unlock()
	code, _, _ := t.procs.processTrace.Call(uintptr(unsafe.Pointer(&handle)), 1, 0, 0)
	runtime.KeepAlive(file)
	t.mu.Lock()
	opened := t.opened
	t.opened = 0
	t.mu.Unlock()
	if opened != 0 {
		_, _, _ = t.procs.closeTrace.Call(uintptr(opened))
	}
	if code != 0 {
		return fmt.Errorf("follow the trace: %w", windows.Errno(code))
	}
	return nil
}
