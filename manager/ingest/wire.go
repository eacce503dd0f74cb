package ingest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"sync"
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	encodingproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Field numbers of ConnectRequest and Frame, which are read by hand so that
// records stay the bytes that the agent hashed. A fuzz target holds this reading
// against the generated code's.
const (
	requestHello     = 1
	requestFrame     = 2
	requestLive      = 3
	requestPerson    = 4
	requestLabel     = 5
	requestSightings = 6
	requestHealth    = 7

	frameAgent   = 1
	frameEpoch   = 2
	frameLane    = 3
	frameFirst   = 4
	frameRecords = 5
	frameBefore  = 6
	frameAfter   = 7
	frameAnchors = 8
	frameMachine = 9
	frameTrace   = 10
)

// inbound is a ConnectRequest as it came from the network. Its memory is given
// back by free, since frames are large and come all the time.
type inbound struct{ data *[]byte }

// Memory for messages of each size; gRPC's own pools clear what they hand out.
var pools = [...]struct {
	room int
	sync.Pool
}{{room: 4 << 10}, {room: largeInbound}, {room: contract.MaxFrameBytes / 2}, {room: largeMessage}}

const largeMessage = contract.MaxFrameBytes + contract.MaxFrameBytes/8

func (in *inbound) take(size int) []byte {
	room := size
	for i := range pools {
		if size <= pools[i].room {
			in.data, _ = pools[i].Get().(*[]byte)
			room = pools[i].room
			break
		}
	}
	if in.data == nil {
		fresh := make([]byte, size, room)
		in.data = &fresh
	}
	*in.data = (*in.data)[:size]
	return *in.data
}

func (in *inbound) free() {
	if in.data == nil {
		return
	}
	for i := range pools {
		if cap(*in.data) == pools[i].room {
			pools[i].Put(in.data)
			break
		}
	}
	in.data = nil
}

// rawCodec leaves inbound messages as bytes, and is the usual codec otherwise.
type rawCodec struct{ usual encoding.CodecV2 }

func newRawCodec() rawCodec { return rawCodec{encoding.GetCodecV2(encodingproto.Name)} }

func (c rawCodec) Name() string                           { return c.usual.Name() }
func (c rawCodec) Marshal(v any) (mem.BufferSlice, error) { return c.usual.Marshal(v) }

func (c rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if in, ok := v.(*inbound); ok {
		data.CopyTo(in.take(data.Len()))
		return nil
	}
	return c.usual.Unmarshal(data, v)
}

// parseRequest takes the one message out of a serialized ConnectRequest. A kind
// of 0 means that a newer agent said something that this Manager does not know.
func parseRequest(b []byte) (kind protowire.Number, body []byte, err error) {
	for len(b) > 0 {
		number, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return 0, nil, protowire.ParseError(n)
		}
		b = b[n:]
		if wire != protowire.BytesType || number > requestHealth {
			if n = protowire.ConsumeFieldValue(number, wire, b); n < 0 {
				return 0, nil, protowire.ParseError(n)
			}
			b = b[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return 0, nil, protowire.ParseError(n)
		}
		if kind != 0 {
			return 0, nil, errors.New("two messages in one")
		}
		kind, body, b = number, value, b[n:]
	}
	return kind, body, nil
}

// frame is a view of a serialized usagev1.Frame; its slices point into it.
type frame struct {
	raw     []byte
	agent   []byte
	epoch   uint64
	lane    int32
	first   uint64
	records [][]byte
	before  []byte
	after   []byte
	anchors [][]byte
	machine []byte
	trace   []byte
}

func (f *frame) last() uint64 { return f.first + uint64(len(f.records)) - 1 }

// parse reads a serialized Frame as the generated code would: of a repeated
// scalar the last one counts, and a field of another wire type is unknown.
func (f *frame) parse(raw []byte) error {
	*f = frame{raw: raw, records: f.records[:0], anchors: f.anchors[:0]}
	for b := raw; len(b) > 0; {
		number, wire, n := protowire.ConsumeTag(b)
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
		switch {
		case number == frameEpoch && wire == protowire.Fixed64Type:
			f.epoch, n = protowire.ConsumeFixed64(b)
		case number == frameLane && wire == protowire.VarintType:
			var v uint64
			v, n = protowire.ConsumeVarint(b)
			f.lane = int32(v)
		case number == frameFirst && wire == protowire.VarintType:
			f.first, n = protowire.ConsumeVarint(b)
		case wire == protowire.BytesType:
			var v []byte
			if v, n = protowire.ConsumeBytes(b); n < 0 {
				return protowire.ParseError(n)
			}
			switch int(number) {
			case frameAgent:
				f.agent = v
			case frameRecords:
				f.records = append(f.records, v)
			case frameBefore:
				f.before = v
			case frameAfter:
				f.after = v
			case frameAnchors:
				f.anchors = append(f.anchors, v)
			case frameMachine:
				f.machine = v
			case frameTrace:
				if !utf8.Valid(v) {
					return errors.New("traceparent is not UTF-8")
				}
				f.trace = v
			}
		default:
			n = protowire.ConsumeFieldValue(number, wire, b)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		b = b[n:]
	}
	return nil
}

// refusal is why a frame cannot be taken.
type refusal struct {
	reason   string
	message  string
	newEpoch bool
}

func refuse(reason, format string, args ...any) *refusal {
	return &refusal{reason: reason, message: fmt.Sprintf(format, args...)}
}

// checker keeps what checking a frame needs from one to the next.
type checker struct {
	linked  []byte              // a link and the record behind it
	anchors map[string]struct{} // serialized anchors that were found right
}

// Anchors are few and come again with each frame.
const rememberedAnchors = 64

func newChecker() *checker {
	return &checker{anchors: make(map[string]struct{})}
}

// check says what is wrong with a frame of the agent, or nil.
func (c *checker) check(f *frame, agent contract.ID) *refusal {
	if len(f.raw) > contract.MaxFrameBytes {
		return refuse(contract.ReasonTooLarge, "the frame has %d bytes; the limit is %d", len(f.raw), contract.MaxFrameBytes)
	}
	if len(f.records) > contract.MaxFrameRecords {
		return refuse(contract.ReasonTooLarge, "the frame has %d records; the limit is %d", len(f.records), contract.MaxFrameRecords)
	}
	lane := usagev1.Lane(f.lane)
	switch {
	case string(f.agent) != string(agent[:]):
		return refuse(contract.ReasonMalformed, "the frame names agent %x, the hello named %s", f.agent, agent)
	case len(f.machine) != len(contract.ID{}):
		return refuse(contract.ReasonMalformed, "machine_id has %d bytes, not 16", len(f.machine))
	case f.epoch == 0:
		return refuse(contract.ReasonMalformed, "epoch is zero")
	case lane != usagev1.Lane_LANE_USAGE && lane != usagev1.Lane_LANE_CHOICE:
		return refuse(contract.ReasonUnknownVersion, "lane %d is not known here", f.lane)
	case f.first == 0:
		return refuse(contract.ReasonMalformed, "first_seq is zero")
	case len(f.records) == 0:
		return refuse(contract.ReasonMalformed, "the frame has no records")
	case f.first > math.MaxInt64-contract.MaxFrameRecords:
		return refuse(contract.ReasonMalformed, "first_seq %d is out of range", f.first)
	case len(f.before) != len(contract.Hash{}) || len(f.after) != len(contract.Hash{}):
		return refuse(contract.ReasonMalformed, "the chain's hashes have %d and %d bytes, not 32", len(f.before), len(f.after))
	case len(f.trace) > 64:
		return refuse(contract.ReasonMalformed, "traceparent has %d bytes; the limit is 64", len(f.trace))
	case len(f.anchors) > contract.MaxFrameRecords:
		return refuse(contract.ReasonMalformed, "the frame has %d anchors; the limit is %d", len(f.anchors), contract.MaxFrameRecords)
	case len(f.anchors) == 0:
		return refuse(contract.ReasonUnknownAnchor, "the frame has no anchor")
	}
	for _, raw := range f.anchors {
		if r := c.checkAnchor(raw); r != nil {
			return r
		}
	}
	return c.checkChain(f)
}

func (c *checker) checkAnchor(raw []byte) *refusal {
	if _, known := c.anchors[string(raw)]; known {
		return nil
	}
	var a usagev1.Anchor
	if err := proto.Unmarshal(raw, &a); err != nil {
		return refuse(contract.ReasonMalformed, "an anchor cannot be read: %v", err)
	}
	if len(a.GetBootId()) != len(contract.ID{}) {
		return refuse(contract.ReasonMalformed, "an anchor's boot_id has %d bytes, not 16", len(a.GetBootId()))
	}
	if want := contract.AnchorID(&a); a.GetAnchorId() != want {
		return refuse(contract.ReasonUnknownAnchor, "an anchor carries the id %016x, its content has %016x", a.GetAnchorId(), want)
	}
	if len(c.anchors) >= rememberedAnchors {
		clear(c.anchors)
	}
	c.anchors[string(raw)] = struct{}{}
	return nil
}

// checkChain computes contract.Chain over the records.
func (c *checker) checkChain(f *frame) *refusal {
	link := contract.Hash(f.before)
	if f.first == 1 && link != (contract.Hash{}) {
		return &refusal{contract.ReasonBrokenChain, "the chain does not begin with zeros before the first record", true}
	}
	for i, record := range f.records {
		if len(record) == 0 {
			return refuse(contract.ReasonMalformed, "record %d is empty", f.first+uint64(i))
		}
		c.linked = append(append(c.linked[:0], link[:]...), record...)
		link = sha256.Sum256(c.linked)
	}
	if string(link[:]) != string(f.after) {
		return &refusal{contract.ReasonBrokenChain, "the hash over the records is not the one that the frame carries", true}
	}
	if cap(c.linked) > largeRecord {
		c.linked = nil
	}
	return nil
}

// A stream keeps no more memory than this for hashing.
const largeRecord = 4 << 10
