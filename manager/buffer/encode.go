package buffer

import (
	"google.golang.org/protobuf/encoding/protowire"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Field numbers of AgentBatch and ReceivedFrame, which are written by hand: a
// frame is copied once, from the network's buffer into the message. A test holds
// them against the generated code.
const (
	batchAccount  = 1
	batchManager  = 2
	batchFrames   = 3
	batchNames    = 4
	batchMachines = 5

	receivedFrame    = 1
	receivedBindings = 2
	receivedAt       = 3
	receivedSkew     = 4
)

// Entry is what one agent adds to a batch: a frame, names, or a machine's name.
type Entry struct {
	// Lane is where the entry goes; entries without a frame go to LANE_USAGE.
	Lane usagev1.Lane
	// Frame is a serialized usagev1.Frame, or nil. It is copied.
	Frame []byte
	// Bindings are serialized usagev1.PrincipalBinding messages.
	Bindings [][]byte
	// ReceivedMillis is when the frame came, UTC.
	ReceivedMillis int64
	// SkewMillis is the agent's clock less the Manager's.
	SkewMillis int64
	// Names are serialized usagev1.SealedName messages.
	Names [][]byte
	// Machine is a serialized usagev1.MachineName, or nil.
	Machine []byte
	// TraceParent is the W3C trace context that the entry belongs to, or empty.
	TraceParent string
	// Done is called once the entry is durable, with its position in the buffer.
	// It must not block: it holds up everybody's acknowledgements.
	Done func(position uint64)
}

func (e *Entry) receivedSize() int {
	n := protowire.SizeTag(receivedFrame) + protowire.SizeBytes(len(e.Frame))
	for _, b := range e.Bindings {
		n += protowire.SizeTag(receivedBindings) + protowire.SizeBytes(len(b))
	}
	if e.ReceivedMillis != 0 {
		n += protowire.SizeTag(receivedAt) + protowire.SizeVarint(uint64(e.ReceivedMillis))
	}
	if e.SkewMillis != 0 {
		n += protowire.SizeTag(receivedSkew) + protowire.SizeVarint(uint64(e.SkewMillis))
	}
	return n
}

func (e *Entry) size() int {
	n := 0
	if e.Frame != nil {
		n += protowire.SizeTag(batchFrames) + protowire.SizeBytes(e.receivedSize())
	}
	for _, name := range e.Names {
		n += protowire.SizeTag(batchNames) + protowire.SizeBytes(len(name))
	}
	if e.Machine != nil {
		n += protowire.SizeTag(batchMachines) + protowire.SizeBytes(len(e.Machine))
	}
	return n
}

func (e *Entry) appendTo(b []byte) []byte {
	if e.Frame != nil {
		b = protowire.AppendTag(b, batchFrames, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(e.receivedSize()))
		b = protowire.AppendTag(b, receivedFrame, protowire.BytesType)
		b = protowire.AppendBytes(b, e.Frame)
		for _, binding := range e.Bindings {
			b = protowire.AppendTag(b, receivedBindings, protowire.BytesType)
			b = protowire.AppendBytes(b, binding)
		}
		if e.ReceivedMillis != 0 {
			b = protowire.AppendTag(b, receivedAt, protowire.VarintType)
			b = protowire.AppendVarint(b, uint64(e.ReceivedMillis))
		}
		if e.SkewMillis != 0 {
			b = protowire.AppendTag(b, receivedSkew, protowire.VarintType)
			b = protowire.AppendVarint(b, uint64(e.SkewMillis))
		}
	}
	for _, name := range e.Names {
		b = protowire.AppendTag(b, batchNames, protowire.BytesType)
		b = protowire.AppendBytes(b, name)
	}
	if e.Machine != nil {
		b = protowire.AppendTag(b, batchMachines, protowire.BytesType)
		b = protowire.AppendBytes(b, e.Machine)
	}
	return b
}

func batchHead(account, manager contract.ID) []byte {
	b := protowire.AppendTag(nil, batchAccount, protowire.BytesType)
	b = protowire.AppendBytes(b, account[:])
	b = protowire.AppendTag(b, batchManager, protowire.BytesType)
	return protowire.AppendBytes(b, manager[:])
}
