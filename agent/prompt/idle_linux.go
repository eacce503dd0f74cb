package prompt

import (
	"encoding/binary"
	"time"

	"github.com/jezek/xgb/xproto"
)

// Requests of the X server's SYNC extension, which the library lacks, and how long its
// answers are at least.
const (
	syncInitialize   = 0
	syncListCounters = 1
	syncQueryCounter = 5
	answerBytes      = 32
)

// Counters of the extension: milliseconds since somebody used the pointer or the keyboard,
// by the devices that every server has for all that are plugged in.
const (
	pointerIdle  = "DEVICEIDLETIME 2"
	keyboardIdle = "DEVICEIDLETIME 3"
	serverTime   = "SERVERTIME"
)

// idleTimes gives how long ago keyboard and pointer were used, and never what with. A server
// that does not tell knows nothing of them.
func (w *window) idleTimes() idleTimes {
	counters := w.idleCounters()
	w.serverTime = counters[serverTime]
	w.compareClocks()
	return func() (keyboard, pointer time.Duration, ok bool) {
		var known [2]bool
		keyboard, known[0] = w.counter(counters[keyboardIdle])
		pointer, known[1] = w.counter(counters[pointerIdle])
		return keyboard, pointer, known[0] && known[1]
	}
}

// idleCounters gives the server's counters by their names; there are none where it lacks them.
func (w *window) idleCounters() map[string]uint32 {
	const name = "SYNC"
	extension, err := xproto.QueryExtension(w.conn, uint16(len(name)), name).Reply()
	if err != nil || !extension.Present {
		return nil
	}
	w.sync = extension.MajorOpcode
	const major, minor = 3, 0
	if _, err := w.syncRequest(syncInitialize, major, minor, 0, 0); err != nil {
		return nil
	}
	list, err := w.syncRequest(syncListCounters)
	if err != nil {
		return nil
	}
	return readCounters(list)
}

// readCounters reads the answer to syncListCounters as far as it is whole.
func readCounters(list []byte) map[string]uint32 {
	counters := map[string]uint32{}
	const nameAt = 14
	for entry := list[min(len(list), answerBytes):]; len(entry) >= nameAt; {
		end := nameAt + int(binary.LittleEndian.Uint16(entry[nameAt-2:]))
		if end > len(entry) {
			break
		}
		counters[string(entry[nameAt:end])] = binary.LittleEndian.Uint32(entry)
		entry = entry[min(len(entry), (end+3)&^3):]
	}
	return counters
}

// compareClocks learns which moment the server's time is. The answer that comes fastest
// tells best.
func (w *window) compareClocks() {
	since, ok := w.counter(w.serverTime)
	if !ok {
		return
	}
	stamp, now := xproto.Timestamp(since.Milliseconds()), time.Now()
	if w.compared.at.IsZero() || now.Before(w.moment(stamp)) {
		w.compared.stamp, w.compared.at = stamp, now
	}
}

// moment is when the server's time was a stamp, which counts on from 0 after 49 days.
func (w *window) moment(stamp xproto.Timestamp) time.Time {
	return w.compared.at.Add(time.Duration(int32(stamp-w.compared.stamp)) * time.Millisecond)
}

// pressed is when a key was pressed that is taken in now.
func (w *window) pressed(stamp xproto.Timestamp, now time.Time) time.Time {
	if at := w.moment(stamp); !w.compared.at.IsZero() && at.Before(now) {
		return at
	}
	return now
}

// counter is what a counter shows.
func (w *window) counter(id uint32) (idle time.Duration, ok bool) {
	if id == 0 {
		return 0, false
	}
	reply, err := w.syncRequest(syncQueryCounter, binary.LittleEndian.AppendUint32(nil, id)...)
	if err != nil || len(reply) < answerBytes {
		return 0, false
	}
	millis := int64(int32(binary.LittleEndian.Uint32(reply[8:])))<<32 | int64(binary.LittleEndian.Uint32(reply[12:]))
	return time.Duration(millis) * time.Millisecond, millis >= 0
}

// syncRequest asks something of the extension; the arguments are whole words.
func (w *window) syncRequest(minor byte, arguments ...byte) ([]byte, error) {
	request := append([]byte{w.sync, minor, 0, 0}, arguments...)
	binary.LittleEndian.PutUint16(request[2:], uint16(len(request)/4))
	cookie := w.conn.NewCookie(true, true)
	w.conn.NewRequest(request, cookie)
	return cookie.Reply()
}
