package agentlog

import (
	"encoding/binary"
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// The messages of usagev1 are decoded by hand here: protobuf's own decoder
// allocates a dozen times for each usage event, and this is the one place that
// every event of every agent passes. What is decoded aliases the bytes it comes
// from. Fields that are not known, or that have another wire type, are skipped,
// and of a field that comes twice the last one holds, as protobuf has it;
// fuzzing compares the two.

var errWire = errors.New("the bytes are not a protobuf message")

// uvarint reads a varint; n is 0 where there is none.
func uvarint(b []byte) (v uint64, n int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	v, n = protowire.ConsumeVarint(b)
	return v, max(n, 0)
}

// tag reads a field's tag.
func tag(b []byte) (t uint64, n int) {
	t, n = uvarint(b)
	if num := t >> 3; num < 1 || num > uint64(protowire.MaxValidNumber) {
		return 0, 0
	}
	return t, n
}

// sized reads a length and as many bytes.
func sized(b []byte) (v []byte, n int) {
	l, n := uvarint(b)
	if n == 0 || l > uint64(len(b)-n) {
		return nil, 0
	}
	end := n + int(l)
	return b[n:end:end], end
}

// skip measures a value that is of no interest.
func skip(t uint64, b []byte) int {
	return max(0, protowire.ConsumeFieldValue(protowire.Number(t>>3), protowire.Type(t&7), b))
}

const (
	wireVarint = uint64(protowire.VarintType)
	wire64     = uint64(protowire.Fixed64Type)
	wireBytes  = uint64(protowire.BytesType)
)

// rawBatch is an AgentBatch.
type rawBatch struct {
	account, manager []byte
	frames           [][]byte // ReceivedFrame
	names            [][]byte // SealedName
	machines         [][]byte // MachineName
}

func (r *rawBatch) parse(b []byte) error {
	for len(b) > 0 {
		t, n := tag(b)
		if n == 0 {
			return errWire
		}
		b = b[n:]
		var v []byte
		switch t {
		case 1<<3 | wireBytes:
			v, n = sized(b)
			r.account = v
		case 2<<3 | wireBytes:
			v, n = sized(b)
			r.manager = v
		case 3<<3 | wireBytes:
			v, n = sized(b)
			r.frames = append(r.frames, v)
		case 4<<3 | wireBytes:
			v, n = sized(b)
			r.names = append(r.names, v)
		case 5<<3 | wireBytes:
			v, n = sized(b)
			r.machines = append(r.machines, v)
		default:
			n = skip(t, b)
		}
		if n == 0 {
			return errWire
		}
		b = b[n:]
	}
	return nil
}

// rawReceived is a ReceivedFrame.
type rawReceived struct {
	frame          []byte
	bindings       [][]byte // PrincipalBinding
	received, skew int64
}

func (r *rawReceived) parse(b []byte) error {
	for len(b) > 0 {
		t, n := tag(b)
		if n == 0 {
			return errWire
		}
		b = b[n:]
		var v []byte
		var u uint64
		switch t {
		case 1<<3 | wireBytes:
			v, n = sized(b)
			r.frame = v
		case 2<<3 | wireBytes:
			v, n = sized(b)
			r.bindings = append(r.bindings, v)
		case 3<<3 | wireVarint:
			u, n = uvarint(b)
			r.received = int64(u)
		case 4<<3 | wireVarint:
			u, n = uvarint(b)
			r.skew = int64(u)
		default:
			n = skip(t, b)
		}
		if n == 0 {
			return errWire
		}
		b = b[n:]
	}
	return nil
}

// rawBinding is a PrincipalBinding.
type rawBinding struct{ alias, principal []byte }

func (r *rawBinding) parse(b []byte) error {
	for len(b) > 0 {
		t, n := tag(b)
		if n == 0 {
			return errWire
		}
		b = b[n:]
		switch t {
		case 1<<3 | wireBytes:
			r.alias, n = sized(b)
		case 2<<3 | wireBytes:
			r.principal, n = sized(b)
		default:
			n = skip(t, b)
		}
		if n == 0 {
			return errWire
		}
		b = b[n:]
	}
	return nil
}

// rawFrame is a Frame.
type rawFrame struct {
	agent         []byte
	epoch         uint64
	lane          uint64
	first         uint64
	records       [][]byte
	before, after []byte
	anchors       [][]byte
	machine       []byte
	traceparent   []byte
}

// parse reads a frame, reusing the slices that r has.
func (r *rawFrame) parse(b []byte) error {
	*r = rawFrame{records: r.records[:0], anchors: r.anchors[:0]}
	for len(b) > 0 {
		t, n := tag(b)
		if n == 0 {
			return errWire
		}
		b = b[n:]
		var v []byte
		switch t {
		case 1<<3 | wireBytes:
			r.agent, n = sized(b)
		case 2<<3 | wire64:
			r.epoch, n = fixed64(b)
		case 3<<3 | wireVarint:
			r.lane, n = uvarint(b)
		case 4<<3 | wireVarint:
			r.first, n = uvarint(b)
		case 5<<3 | wireBytes:
			v, n = sized(b)
			r.records = append(r.records, v)
		case 6<<3 | wireBytes:
			r.before, n = sized(b)
		case 7<<3 | wireBytes:
			r.after, n = sized(b)
		case 8<<3 | wireBytes:
			v, n = sized(b)
			r.anchors = append(r.anchors, v)
		case 9<<3 | wireBytes:
			r.machine, n = sized(b)
		case 10<<3 | wireBytes:
			r.traceparent, n = sized(b)
		default:
			n = skip(t, b)
		}
		if n == 0 {
			return errWire
		}
		b = b[n:]
	}
	return nil
}

func fixed64(b []byte) (uint64, int) {
	if len(b) < 8 {
		return 0, 0
	}
	return binary.LittleEndian.Uint64(b), 8
}

// rawAnchor is an Anchor.
type rawAnchor struct {
	id     uint64
	boot   []byte
	bootMs int64
	utcMs  int64
	zone   int32
}

func (r *rawAnchor) parse(b []byte) error {
	*r = rawAnchor{}
	for len(b) > 0 {
		t, n := tag(b)
		if n == 0 {
			return errWire
		}
		b = b[n:]
		var u uint64
		switch t {
		case 1<<3 | wire64:
			r.id, n = fixed64(b)
		case 2<<3 | wireBytes:
			r.boot, n = sized(b)
		case 3<<3 | wireVarint:
			u, n = uvarint(b)
			r.bootMs = int64(u)
		case 4<<3 | wireVarint:
			u, n = uvarint(b)
			r.utcMs = int64(u)
		case 5<<3 | wireVarint:
			u, n = uvarint(b)
			r.zone = int32(u)
		default:
			n = skip(t, b)
		}
		if n == 0 {
			return errWire
		}
		b = b[n:]
	}
	return nil
}

// rawRecord is a Record: the fact that came last, and how many came.
type rawRecord struct {
	usage, choice []byte
	facts         int
}

func (r *rawRecord) parse(b []byte) error {
	for len(b) > 0 {
		t, n := tag(b)
		if n == 0 {
			return errWire
		}
		b = b[n:]
		switch t {
		case 1<<3 | wireBytes:
			r.usage, n = sized(b)
			r.facts++
		case 2<<3 | wireBytes:
			r.choice, n = sized(b)
			r.facts++
		default:
			n = skip(t, b)
		}
		if n == 0 {
			return errWire
		}
		b = b[n:]
	}
	return nil
}

// rawUsage is a UsageEvent.
type rawUsage struct {
	version                            uint64
	agent                              []byte
	epoch, seq                         uint64
	event                              []byte
	source                             uint64
	boot                               []byte
	anchor                             uint64
	rule, application                  []byte
	revision                           uint64
	alias, session, instance, document []byte
	transition, attention, state       uint64
	at                                 int64
	hasClosed                          bool
	closedAttention, closedState       uint64
	from, to                           int64
	closedReason, closedAccess         uint64
	reason                             uint64
	documentSource, documentConfidence uint64
	documentUnsaved                    bool
}

func (r *rawUsage) parse(b []byte) error {
	for len(b) > 0 {
		t, n := tag(b)
		if n == 0 {
			return errWire
		}
		b = b[n:]
		var u uint64
		switch t {
		case 1<<3 | wireVarint:
			r.version, n = uvarint(b)
		case 2<<3 | wireBytes:
			r.agent, n = sized(b)
		case 3<<3 | wire64:
			r.epoch, n = fixed64(b)
		case 4<<3 | wireVarint:
			r.seq, n = uvarint(b)
		case 5<<3 | wireBytes:
			r.event, n = sized(b)
		case 6<<3 | wireVarint:
			r.source, n = uvarint(b)
		case 7<<3 | wireBytes:
			r.boot, n = sized(b)
		case 8<<3 | wire64:
			r.anchor, n = fixed64(b)
		case 9<<3 | wireBytes:
			r.rule, n = sized(b)
		case 10<<3 | wireBytes:
			r.application, n = sized(b)
		case 11<<3 | wireVarint:
			r.revision, n = uvarint(b)
		case 12<<3 | wireBytes:
			r.alias, n = sized(b)
		case 13<<3 | wireBytes:
			r.session, n = sized(b)
		case 14<<3 | wireBytes:
			r.instance, n = sized(b)
		case 15<<3 | wireBytes:
			r.document, n = sized(b)
		case 16<<3 | wireVarint:
			r.transition, n = uvarint(b)
		case 17<<3 | wireVarint:
			r.attention, n = uvarint(b)
		case 18<<3 | wireVarint:
			r.state, n = uvarint(b)
		case 19<<3 | wireVarint:
			u, n = uvarint(b)
			r.at = int64(u)
		case 20<<3 | wireBytes:
			var v []byte
			if v, n = sized(b); n > 0 {
				r.hasClosed = true
				if err := r.parseClosed(v); err != nil {
					return err
				}
			}
		case 21<<3 | wireVarint:
			r.reason, n = uvarint(b)
		case 23<<3 | wireVarint:
			r.documentSource, n = uvarint(b)
		case 24<<3 | wireVarint:
			r.documentConfidence, n = uvarint(b)
		case 25<<3 | wireVarint:
			u, n = uvarint(b)
			r.documentUnsaved = u != 0
		default:
			n = skip(t, b)
		}
		if n == 0 {
			return errWire
		}
		b = b[n:]
	}
	return nil
}

// parseClosed reads an Interval; where it comes twice, the two are merged.
func (r *rawUsage) parseClosed(b []byte) error {
	for len(b) > 0 {
		t, n := tag(b)
		if n == 0 {
			return errWire
		}
		b = b[n:]
		var u uint64
		switch t {
		case 1<<3 | wireVarint:
			r.closedAttention, n = uvarint(b)
		case 2<<3 | wireVarint:
			r.closedState, n = uvarint(b)
		case 3<<3 | wireVarint:
			u, n = uvarint(b)
			r.from = int64(u)
		case 4<<3 | wireVarint:
			u, n = uvarint(b)
			r.to = int64(u)
		case 5<<3 | wireVarint:
			r.closedReason, n = uvarint(b)
		case 7<<3 | wireVarint:
			r.closedAccess, n = uvarint(b)
		default:
			n = skip(t, b)
		}
		if n == 0 {
			return errWire
		}
		b = b[n:]
	}
	return nil
}
