package desktop

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf16"
)

// tracer is what is asked of Windows so that its kernel tells of processes (ETW). A trace
// has a name, is the system's, and outlives the program that began it.
type tracer interface {
	// begin makes the trace, to which the kernel tells of processes; errTraceThere where
	// there is one of that name.
	begin() error
	// takeAway ends the trace of that name, whoever began it.
	takeAway() error
	// follow hands over what is told until the trace ends. It is called once for each begin.
	follow(take func(traced)) error
	// end ends the trace that was begun; follow returns then.
	end() error
}

var errTraceThere = errors.New("there is a trace of that name")

// traced is one record of a trace.
type traced struct {
	// lost: records are missing here.
	lost bool
	// id, version and data are an event of the provider of process events.
	id      uint16
	version uint8
	data    []byte
}

// processEvent is that a process has started or exited.
type processEvent struct {
	pid     int32
	created int64 // FILETIME
	// exited is a FILETIME; 0: the process has started, and what follows is told.
	exited  int64
	parent  int32
	session uint32
	// image is the program's file as the kernel names it, \Device\HarddiskVolume3\….
	image string
	pkg   string
}

// Events of the provider Microsoft-Windows-Kernel-Process, by its manifest. The versions
// that are known are those of Windows 8 to Windows 11 24H2.
const (
	eventProcessStart    = 1
	eventProcessStop     = 2
	lastProcessStart     = 4
	lastProcessStop      = 2
	startWithFlags       = 1
	startWithPackage     = 2
	startWithSequence    = 3
	stopWithSequence     = 2
	sidHead, sidPart     = 8, 4
	sidParts, sidFirst   = 15, 1
	maxImage, widthUTF16 = 32 << 10, 2
)

// parseProcessEvent reads an event; ok is false for those that tell something else.
func parseProcessEvent(id uint16, version uint8, data []byte) (e processEvent, ok bool, err error) {
	r := eventReader{rest: data}
	switch id {
	case eventProcessStart:
		if version > lastProcessStart {
			return e, false, fmt.Errorf("desktop: version %d of the kernel's event of a start is not known", version)
		}
		e.pid = int32(r.uint32())
		if version >= startWithSequence {
			r.uint64()
		}
		e.created = int64(r.uint64())
		e.parent = int32(r.uint32())
		if version >= startWithSequence {
			r.uint64()
		}
		e.session = r.uint32()
		if version >= startWithFlags {
			r.uint32()
		}
		if version >= startWithSequence {
			r.uint32() // type of elevation
			r.uint32() // is elevated
			r.sid()    // mandatory label
		}
		e.image = r.text()
		if version >= startWithPackage {
			r.uint32() // checksum
			r.uint32() // time stamp
			e.pkg = r.text()
		}
	case eventProcessStop:
		if version > lastProcessStop {
			return e, false, fmt.Errorf("desktop: version %d of the kernel's event of an exit is not known", version)
		}
		e.pid = int32(r.uint32())
		if version >= stopWithSequence {
			r.uint64()
		}
		e.created, e.exited = int64(r.uint64()), int64(r.uint64())
		if r.err == nil && e.exited <= 0 {
			r.err = errors.New("it has no time")
		}
	default:
		return e, false, nil
	}
	if r.err != nil {
		return e, false, fmt.Errorf("desktop: event %d, version %d, of the kernel's processes: %w", id, version, r.err)
	}
	return e, true, nil
}

// eventReader reads fields one after the other; after an error it gives nothing.
type eventReader struct {
	rest []byte
	err  error
}

func (r *eventReader) take(n int) []byte {
	if r.err == nil && len(r.rest) < n {
		r.err = errors.New("it is cut off")
	}
	if r.err != nil {
		return make([]byte, n)
	}
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *eventReader) uint32() uint32 { return binary.LittleEndian.Uint32(r.take(4)) }

func (r *eventReader) uint64() uint64 { return binary.LittleEndian.Uint64(r.take(8)) }

func (r *eventReader) sid() {
	head := r.take(sidHead)
	if r.err == nil && (head[0] != sidFirst || head[1] > sidParts) {
		r.err = errors.New("a security identifier makes no sense")
	}
	r.take(int(head[1]) * sidPart)
}

// text reads UTF-16 up to a zero.
func (r *eventReader) text() string {
	var units []uint16
	for {
		unit := binary.LittleEndian.Uint16(r.take(widthUTF16))
		if r.err == nil && len(units) == maxImage {
			r.err = errors.New("a text has no end")
		}
		if r.err != nil || unit == 0 {
			return string(utf16.Decode(units))
		}
		units = append(units, unit)
	}
}

// Pauses before a trace is begun anew that could not be, or has ended.
const (
	firstTracePause = 10 * time.Second
	lastTracePause  = 10 * time.Minute
)

// processTrace keeps a trace of processes going, and hands over what it tells.
type processTrace struct {
	system tracer
	// note takes events; lost is called where some are missing, and state when it begins to
	// be told, with an empty reason, and when it is not any more.
	note  func(processEvent)
	lost  func()
	state func(why string)
}

// run follows the trace until ctx ends.
func (p *processTrace) run(ctx context.Context) {
	pause := firstTracePause
	for ctx.Err() == nil {
		began := time.Now()
		err := p.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("somebody has ended the trace")
		}
		p.state(err.Error())
		if time.Since(began) > lastTracePause {
			pause = firstTracePause
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, lastTracePause)
	}
}

// follow begins the trace and hands over what it tells until it ends.
func (p *processTrace) follow(ctx context.Context) error {
	err := p.system.begin()
	if errors.Is(err, errTraceThere) {
		// A service that was ended has left it behind.
		if err := p.system.takeAway(); err != nil {
			return err
		}
		err = p.system.begin()
	}
	if err != nil {
		return err
	}
	var ending sync.WaitGroup
	ended := make(chan struct{})
	ending.Go(func() {
		select {
		case <-ctx.Done():
		case <-ended:
		}
		_ = p.system.end() // one that has ended already cannot be
	})
	defer ending.Wait()
	defer close(ended)
	p.state("")
	var wrong error
	err = p.system.follow(func(t traced) {
		if t.lost {
			p.lost()
			return
		}
		e, is, err := parseProcessEvent(t.id, t.version, t.data)
		switch {
		case err != nil:
			if wrong == nil || wrong.Error() != err.Error() {
				p.state(err.Error())
			}
			wrong = err
		case is:
			p.note(e)
		}
	})
	return errors.Join(wrong, err)
}

// baseName is the last part of a path of Windows.
func baseName(path string) string { return path[strings.LastIndexByte(path, '\\')+1:] }

// driveOf finds the drive letter of a file that the kernel names by its device, in the
// devices of letters such as C:; empty: it has none.
func driveOf(image string, devices map[string]string) string {
	for letter, device := range devices {
		if rest, ok := strings.CutPrefix(image, device+`\`); ok && device != "" {
			return letter + `\` + rest
		}
	}
	return ""
}
