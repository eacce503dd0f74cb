package agentlog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/projection"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

const (
	laneUsage  = usagev1.Lane_LANE_USAGE
	laneChoice = usagev1.Lane_LANE_CHOICE
	// knownVersion is the newest schema version of a usage event and a choice.
	knownVersion = 1
	// The greatest of their kind that are known.
	lastDocumentSource     = uint64(usagev1.DocumentSource_DOCUMENT_SOURCE_OPEN_FILE)
	lastSessionAccess      = uint64(usagev1.SessionAccess_SESSION_ACCESS_REMOTE)
	lastDocumentConfidence = uint64(usagev1.DocumentConfidence_DOCUMENT_CONFIDENCE_HIGH)
	// farthest bounds every number of milliseconds, so that sums of a few of
	// them cannot overflow: a quarter of a million years.
	farthest = int64(1) << 53
	// longestInterval bounds what one interval may claim. Agents cut intervals
	// at each quarter-hour while they watch; only sleep can be long.
	longestInterval = int64(400 * 24 * time.Hour / time.Millisecond)
	// lastSeq is the last sequence number that a Postgres range can hold.
	lastSeq = math.MaxInt64 - 1
)

// link is the first half of a chain's hash, kept where what was received ends.
type link [16]byte

func linkOf(h contract.Hash) link { return link(h[:16]) }

// mark is what is kept of each record.
type mark struct {
	// link is the first four bytes of the chain's hash: since a link covers all
	// that went before, one that agrees by chance is followed by others that do
	// not.
	link uint32
	// event tells the record's event from the agent's others, whichever epoch it
	// comes in; zero where the record says none.
	event event
}

// event is half an event's id: from the top 32 bits of when it was made, in units
// of 1,024 ms, then the last 32 bits, which are random. Events in the order of
// their making are in the order of this number, but for the last second.
type event uint64

// eventOf is zero where b is no id.
func eventOf(b []byte) event {
	var id contract.ID
	if !setID(&id, b) {
		return 0
	}
	millis := binary.BigEndian.Uint64(id[:8]) >> 16
	return event(millis>>10<<32 | uint64(binary.BigEndian.Uint32(id[12:])))
}

// second is when the event was made, in units of 1,024 ms since 1970.
func (e event) second() int64 { return int64(e >> 32) }

// message is a message decoded and checked as far as that goes without tables.
type message struct {
	account, manager contract.ID
	lane             usagev1.Lane
	frames           []*frame
	names            []SealedName
	machines         []MachineName
	faults           []fault
}

// frame is a frame whose chain holds.
type frame struct {
	raw                []byte // the ReceivedFrame
	agent, machine     contract.ID
	epoch, first, last uint64
	before, after      link
	marks              []mark // of each record
	least, most        int64  // seconds of its events; least is greater where it has none
	records            int
	bindings           []binding
	received, skew     int64
	traceparent        string
	usage              []Usage  // Principal holds the alias
	choices            []Choice // likewise
	faults             []recordFault
}

type binding struct{ alias, principal contract.ID }

// recordFault is one record of a frame that is not applied.
type recordFault struct {
	seq    uint64
	reason string
	detail string
}

// fault is something that is set aside as a whole.
type fault struct {
	reason, detail string
	agent          contract.ID // zero where not known
	epoch          uint64
	seqs           []seqRange // nil where it is not about records
	size           int
	payload        []byte
}

// decode decodes and checks a message.
func (d *Decoder) decode(m *projection.Message) *message {
	out := &message{}
	whole := func(reason, detail string) *message {
		out.frames, out.names, out.machines = nil, nil, nil
		out.faults = []fault{{reason: reason, detail: detail, size: 1, payload: m.Data}}
		return out
	}
	var err error
	if out.account, out.manager, out.lane, err = contract.ParseAgentSubject(m.Subject); err != nil {
		out.account, out.manager = contract.ID{}, contract.ID{}
		return whole(contract.ReasonMalformed, err.Error())
	}
	if want := contract.AgentSubject(out.account, out.manager, out.lane); m.Subject != want {
		return whole(contract.ReasonMalformed, fmt.Sprintf("the subject %q should be %q", m.Subject, want))
	}
	if t := m.Header.Get(contract.HeaderType); t != "" && t != contract.AgentBatchType {
		return whole(contract.ReasonUnknownVersion, fmt.Sprintf("the message's type is %q; known is %q", t, contract.AgentBatchType))
	}
	if len(m.Data) > contract.MaxBatchBytes {
		return whole(contract.ReasonTooLarge, fmt.Sprintf("the batch has %d bytes; at most %d are allowed", len(m.Data), contract.MaxBatchBytes))
	}
	var batch rawBatch
	if err := batch.parse(m.Data); err != nil {
		return whole(contract.ReasonMalformed, "batch: "+err.Error())
	}
	if !bytes.Equal(batch.account, out.account[:]) {
		return whole(contract.ReasonForeignAccount, fmt.Sprintf("the batch is of the account %x, its subject of %s", batch.account, out.account))
	}
	if !bytes.Equal(batch.manager, out.manager[:]) {
		return whole(contract.ReasonForeignManager, fmt.Sprintf("the batch is of the Manager %x, its subject of %s", batch.manager, out.manager))
	}
	for _, raw := range batch.frames {
		f, bad := d.decodeFrame(m, out, raw)
		if bad != nil {
			out.faults = append(out.faults, *bad)
			continue
		}
		out.frames = append(out.frames, f)
	}
	for _, raw := range batch.names {
		name, err := decodeName(raw)
		if err != nil {
			out.faults = append(out.faults, fault{reason: contract.ReasonMalformed, detail: "name: " + err.Error(), size: 1, payload: payload(out, 4, raw)})
			continue
		}
		name.Account, name.Position = out.account, m.Position
		out.names = append(out.names, name)
	}
	for _, raw := range batch.machines {
		machine, err := decodeMachine(raw)
		if err != nil {
			out.faults = append(out.faults, fault{reason: contract.ReasonMalformed, detail: "machine: " + err.Error(), size: 1, payload: payload(out, 5, raw)})
			continue
		}
		machine.Account, machine.Position, machine.StoredUTCMillis = out.account, m.Position, m.Stored.UnixMilli()
		out.machines = append(out.machines, machine)
	}
	return out
}

// payload wraps one part of a batch as a batch of its own, which Replay can
// decode like any other.
func payload(m *message, field protowire.Number, part []byte) []byte {
	b := make([]byte, 0, len(part)+48)
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendBytes(b, m.account[:])
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendBytes(b, m.manager[:])
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendBytes(b, part)
}

// decodeFrame checks one frame. A record that fails its own checks is noted in
// the frame; what makes the whole frame unusable is returned.
func (d *Decoder) decodeFrame(m *projection.Message, of *message, raw []byte) (*frame, *fault) {
	f := &frame{raw: raw}
	bad := func(reason, format string, args ...any) (*frame, *fault) {
		return nil, &fault{
			reason: reason, detail: "frame: " + fmt.Sprintf(format, args...), agent: f.agent, epoch: f.epoch, size: 1,
			payload: payload(of, 3, raw),
		}
	}
	var received rawReceived
	if err := received.parse(raw); err != nil {
		return bad(contract.ReasonMalformed, "received: %v", err)
	}
	var in rawFrame
	if err := in.parse(received.frame); err != nil {
		return bad(contract.ReasonMalformed, "%v", err)
	}
	if !setID(&f.agent, in.agent) || !setID(&f.machine, in.machine) {
		return bad(contract.ReasonMalformed, "the ids of agent and machine have %d and %d bytes, not 16", len(in.agent), len(in.machine))
	}
	f.epoch, f.first, f.records = in.epoch, in.first, len(in.records)
	n := uint64(len(in.records))
	switch {
	case in.epoch == 0:
		return bad(contract.ReasonMalformed, "the epoch is 0")
	case in.lane != uint64(of.lane):
		return bad(contract.ReasonMalformed, "the lane is %d, the subject's is %d", in.lane, of.lane)
	case n == 0:
		return bad(contract.ReasonMalformed, "it has no records")
	case n > contract.MaxFrameRecords:
		return bad(contract.ReasonTooLarge, "it has %d records; at most %d are allowed", n, contract.MaxFrameRecords)
	case len(received.frame) > contract.MaxFrameBytes:
		return bad(contract.ReasonTooLarge, "it has %d bytes; at most %d are allowed", len(received.frame), contract.MaxFrameBytes)
	case in.first == 0 || in.first > lastSeq-n:
		return bad(contract.ReasonMalformed, "the first sequence number is %d", in.first)
	case len(in.before) != sha256.Size || len(in.after) != sha256.Size:
		return bad(contract.ReasonMalformed, "the chain's links have %d and %d bytes, not %d", len(in.before), len(in.after), sha256.Size)
	}
	f.last = in.first + n - 1
	before := contract.Hash(in.before)
	if in.first == 1 && before != (contract.Hash{}) {
		return bad(contract.ReasonBrokenChain, "the link before the first record is not zero")
	}
	after, marks := chain(before, in.records)
	if after != contract.Hash(in.after) {
		return bad(contract.ReasonBrokenChain, "the chain over records %d to %d ends at %x, not at %x", f.first, f.last, after[:8], in.after[:8])
	}
	f.before, f.after, f.marks = linkOf(before), linkOf(after), marks
	anchors := make([]anchor, len(in.anchors))
	for i, b := range in.anchors {
		if err := anchors[i].decode(b); err != nil {
			return bad(contract.ReasonUnknownAnchor, "%v", err)
		}
	}
	for _, b := range received.bindings {
		var r rawBinding
		var bind binding
		if err := r.parse(b); err != nil || !setID(&bind.alias, r.alias) || !setID(&bind.principal, r.principal) {
			return bad(contract.ReasonMalformed, "a binding of an alias cannot be read")
		}
		f.bindings = append(f.bindings, bind)
	}
	f.received, f.skew = received.received, received.skew
	f.traceparent = string(in.traceparent)

	f.least, f.most = math.MaxInt64, math.MinInt64
	c := checker{anchors: anchors, earliest: m.Stored.Add(-d.cfg.MaxPast).UnixMilli(), latest: m.Stored.Add(d.cfg.MaxFuture).UnixMilli()}
	if of.lane == laneUsage {
		f.usage = make([]Usage, 0, n)
	}
	for i, b := range in.records {
		seq := in.first + uint64(i)
		reason, detail := c.record(f, of, seq, b)
		if reason != "" {
			f.faults = append(f.faults, recordFault{seq, reason, detail})
		}
	}
	for i := range f.usage {
		u := &f.usage[i]
		u.Account, u.Agent, u.Epoch, u.Machine, u.Position = of.account, f.agent, f.epoch, f.machine, m.Position
	}
	for i := range f.choices {
		c := &f.choices[i]
		c.Account, c.Agent, c.Epoch, c.Machine, c.Position = of.account, f.agent, f.epoch, f.machine, m.Position
	}
	return f, nil
}

// note keeps which event a record brings.
func (f *frame) note(seq uint64, id []byte) {
	e := eventOf(id)
	f.marks[seq-f.first].event = e
	if e != 0 {
		f.least, f.most = min(f.least, e.second()), max(f.most, e.second())
	}
}

// chain computes the link after the records, and the mark of each but for its
// event.
func chain(before contract.Hash, records [][]byte) (after contract.Hash, marks []mark) {
	var room [1024]byte
	marks = make([]mark, len(records))
	for i, record := range records {
		before = sha256.Sum256(append(append(room[:0], before[:]...), record...))
		marks[i].link = binary.BigEndian.Uint32(before[:4])
	}
	return before, marks
}

// anchor is an Anchor whose id is the one that it computes to.
type anchor struct {
	id     uint64
	boot   contract.ID
	bootMs int64
	utcMs  int64
	zone   int32
}

func (a *anchor) decode(b []byte) error {
	var r rawAnchor
	if err := r.parse(b); err != nil {
		return fmt.Errorf("anchor: %w", err)
	}
	if !setID(&a.boot, r.boot) {
		return fmt.Errorf("anchor: the id of the boot has %d bytes, not 16", len(r.boot))
	}
	a.id, a.bootMs, a.utcMs, a.zone = r.id, r.bootMs, r.utcMs, r.zone
	if a.bootMs < 0 || a.bootMs > farthest || a.utcMs < -farthest || a.utcMs > farthest {
		return fmt.Errorf("anchor: %d ms after the boot cannot be %d ms after 1970", a.bootMs, a.utcMs)
	}
	if a.zone < -64800 || a.zone > 64800 {
		return fmt.Errorf("anchor: the zone is %d s east of UTC", a.zone)
	}
	want := contract.AnchorID(&usagev1.Anchor{BootId: r.boot, BootMillis: r.bootMs, UtcMillis: r.utcMs, ZoneOffsetSeconds: r.zone})
	if a.id != want {
		return fmt.Errorf("anchor: its id is %016x and should be %016x", a.id, want)
	}
	return nil
}

// utc places a moment of the boot timeline.
func (a *anchor) utc(bootMs int64) int64 { return a.utcMs + (bootMs - a.bootMs) }

// checker checks the records of a frame.
type checker struct {
	anchors          []anchor
	last             int // index of the anchor used last
	earliest, latest int64
}

func (c *checker) anchor(id uint64) *anchor {
	if c.last < len(c.anchors) && c.anchors[c.last].id == id {
		return &c.anchors[c.last]
	}
	for i := range c.anchors {
		if c.anchors[i].id == id {
			c.last = i
			return &c.anchors[i]
		}
	}
	return nil
}

// record decodes a record into the frame, or says why not.
func (c *checker) record(f *frame, of *message, seq uint64, b []byte) (reason, detail string) {
	var r rawRecord
	if err := r.parse(b); err != nil {
		return contract.ReasonMalformed, err.Error()
	}
	if r.facts != 1 {
		return contract.ReasonMalformed, fmt.Sprintf("it holds %d facts this version knows, not one", r.facts)
	}
	switch {
	case of.lane == laneUsage && r.usage != nil:
		return c.usage(f, seq, r.usage)
	case of.lane == laneChoice && r.choice != nil:
		return c.choice(f, seq, r.choice)
	}
	return contract.ReasonMalformed, "its fact belongs to another lane"
}

func (c *checker) usage(f *frame, seq uint64, b []byte) (reason, detail string) {
	var r rawUsage
	if err := r.parse(b); err != nil {
		return contract.ReasonMalformed, "usage event: " + err.Error()
	}
	f.note(seq, r.event)
	if r.version < 1 || r.version > knownVersion {
		return contract.ReasonUnknownVersion, fmt.Sprintf("usage event: its schema version is %d; known are 1 to %d", r.version, knownVersion)
	}
	if !bytes.Equal(r.agent, f.agent[:]) || r.epoch != f.epoch || r.seq != seq {
		return contract.ReasonMalformed, fmt.Sprintf("usage event: its key is (%x, %016x, %d), by its frame (%x, %016x, %d)", r.agent, r.epoch, r.seq, f.agent[:], f.epoch, seq)
	}
	f.usage = append(f.usage, Usage{})
	u := &f.usage[len(f.usage)-1]
	defer func() {
		if reason != "" {
			f.usage = f.usage[:len(f.usage)-1]
		}
	}()
	if !setID(&u.Event, r.event) || !setID(&u.Boot, r.boot) || !setID(&u.Rule, r.rule) || !setID(&u.Application, r.application) ||
		!setID(&u.Principal, r.alias) || !setID(&u.Session, r.session) || !setID(&u.Instance, r.instance) {
		return contract.ReasonMalformed, "usage event: an id is missing or has not 16 bytes"
	}
	if len(r.document) > 0 && (!setID(&u.Document, r.document) || u.Document.IsZero()) {
		return contract.ReasonMalformed, fmt.Sprintf("usage event: the document's id is %x", r.document)
	}
	if r.source < 1 || r.source > 2 || r.transition < 1 || r.transition > uint64(Closed) || r.reason > math.MaxUint8 || r.closedReason > math.MaxUint8 {
		return contract.ReasonMalformed, fmt.Sprintf("usage event: source %d, transition %d or a reason is not known", r.source, r.transition)
	}
	u.Transition = Transition(r.transition)
	if u.Transition == Closed {
		if r.attention != 0 || r.state != 0 {
			return contract.ReasonMalformed, "usage event: a close enters no state"
		}
	} else if !consistent(r.attention, r.state) {
		return contract.ReasonMalformed, fmt.Sprintf("usage event: attention %d does not go with state %d", r.attention, r.state)
	}
	if r.hasClosed == (u.Transition == Opened) {
		return contract.ReasonMalformed, fmt.Sprintf("usage event: transition %d with an interval closed: %v", r.transition, r.hasClosed)
	}
	if r.at < 0 || r.at > farthest {
		return contract.ReasonMalformed, fmt.Sprintf("usage event: its time is %d ms after the boot", r.at)
	}
	if r.hasClosed {
		switch {
		case !consistent(r.closedAttention, r.closedState):
			return contract.ReasonMalformed, fmt.Sprintf("usage event: in the interval attention %d does not go with state %d", r.closedAttention, r.closedState)
		case r.from < 0 || r.from > r.to || r.to > farthest:
			return contract.ReasonMalformed, fmt.Sprintf("usage event: its interval goes from %d to %d ms after the boot", r.from, r.to)
		case r.to-r.from > longestInterval:
			return contract.ReasonMalformed, fmt.Sprintf("usage event: its interval is %d ms long; at most %d are believed", r.to-r.from, longestInterval)
		}
	}
	a := c.anchor(r.anchor)
	if a == nil || a.boot != u.Boot {
		return contract.ReasonUnknownAnchor, fmt.Sprintf("usage event: its frame holds no anchor %016x of its boot", r.anchor)
	}
	u.AtUTCMillis, u.AtBootMillis = a.utc(r.at), r.at
	lo, hi := u.AtUTCMillis, u.AtUTCMillis
	if r.hasClosed {
		u.HasClosed = true
		u.ClosedAttention, u.ClosedState, u.ClosedReason = Attention(r.closedAttention), State(r.closedState), Reason(r.closedReason)
		if r.closedAccess <= lastSessionAccess { // what a newer agent tells is as good as not told
			u.ClosedAccess = SessionAccess(r.closedAccess)
		}
		u.FromUTCMillis, u.ToUTCMillis = a.utc(r.from), a.utc(r.to)
		lo, hi = min(lo, u.FromUTCMillis), max(hi, u.ToUTCMillis)
	}
	if lo < c.earliest || hi > c.latest {
		return contract.ReasonClockOutOfRange, c.outOfRange("usage event", lo, hi)
	}
	u.Seq, u.Anchor, u.PolicyRevision, u.ZoneOffsetSeconds = seq, r.anchor, r.revision, a.zone
	if !u.Document.IsZero() {
		// What a newer agent tells and this does not know is as good as not told.
		if r.documentSource <= lastDocumentSource {
			u.DocumentSource = DocumentSource(r.documentSource)
		}
		if r.documentConfidence <= lastDocumentConfidence {
			u.DocumentConfidence = DocumentConfidence(r.documentConfidence)
		}
		u.DocumentUnsaved = r.documentUnsaved
	}
	u.Attention, u.State, u.Reason, u.Source = Attention(r.attention), State(r.state), Reason(r.reason), SourceKind(r.source)
	return "", ""
}

func (c *checker) outOfRange(what string, lo, hi int64) string {
	show := func(ms int64) string {
		if ms < -farthest/8 || ms > farthest/8 {
			return fmt.Sprintf("%d ms", ms)
		}
		return time.UnixMilli(ms).UTC().Format(time.RFC3339)
	}
	return fmt.Sprintf("%s: it would stand from %s to %s; believed is %s to %s: the machine's clock was wrong", what, show(lo), show(hi), show(c.earliest), show(c.latest))
}

// consistent tells whether an attention and a state can be at the same moment.
func consistent(attention, state uint64) bool {
	if attention < uint64(Suspended) || attention > uint64(Background) || state < uint64(Active) || state > uint64(Timeout) {
		return false
	}
	return (attention == uint64(Busy)) == (state == uint64(Active))
}

func (c *checker) choice(f *frame, seq uint64, b []byte) (reason, detail string) {
	said := &usagev1.Choice{}
	if err := proto.Unmarshal(b, said); err != nil {
		return contract.ReasonMalformed, "choice: " + errWire.Error()
	}
	f.note(seq, said.GetChoiceId())
	if v := said.GetSchemaVersion(); v < 1 || v > knownVersion {
		return contract.ReasonUnknownVersion, fmt.Sprintf("choice: its schema version is %d; known are 1 to %d", v, knownVersion)
	}
	if !bytes.Equal(said.GetAgentId(), f.agent[:]) || said.GetEpoch() != f.epoch || said.GetSeq() != seq {
		return contract.ReasonMalformed, fmt.Sprintf("choice: its key is (%x, %016x, %d), by its frame (%x, %016x, %d)", said.GetAgentId(), said.GetEpoch(), said.GetSeq(), f.agent[:], f.epoch, seq)
	}
	var alias, boot, other contract.ID
	for _, id := range [][]byte{said.GetChoiceId(), said.GetApplicationId(), said.GetSessionId(), said.GetInstanceId()} {
		if !setID(&other, id) {
			return contract.ReasonMalformed, "choice: an id is missing or has not 16 bytes"
		}
	}
	if !setID(&alias, said.GetPrincipalAlias()) || !setID(&boot, said.GetBootId()) || len(said.GetDocumentId()) > 0 && !setID(&other, said.GetDocumentId()) {
		return contract.ReasonMalformed, "choice: an id is missing or has not 16 bytes"
	}
	switch chosen := said.GetChosen().(type) {
	case *usagev1.Choice_ProjectId:
		if !setID(&other, chosen.ProjectId) {
			return contract.ReasonMalformed, "choice: the project's id has not 16 bytes"
		}
	case *usagev1.Choice_Proposed:
		if len(chosen.Proposed.GetFields()) > 8 {
			return contract.ReasonMalformed, fmt.Sprintf("choice: it proposes %d fields; at most 8 are allowed", len(chosen.Proposed.GetFields()))
		}
	case *usagev1.Choice_NotChargeable:
	default:
		return contract.ReasonMalformed, "choice: nothing is chosen"
	}
	if said.GetEffectiveFromBootMillis() < 0 || said.GetEffectiveFromBootMillis() > farthest {
		return contract.ReasonMalformed, fmt.Sprintf("choice: its time is %d ms after the boot", said.GetEffectiveFromBootMillis())
	}
	a := c.anchor(said.GetAnchorId())
	if a == nil || a.boot != boot {
		return contract.ReasonUnknownAnchor, fmt.Sprintf("choice: its frame holds no anchor %016x of its boot", said.GetAnchorId())
	}
	at := a.utc(said.GetEffectiveFromBootMillis())
	if at < c.earliest || at > c.latest {
		return contract.ReasonClockOutOfRange, c.outOfRange("choice", at, at)
	}
	f.choices = append(f.choices, Choice{Seq: seq, Principal: alias, EffectiveFromUTCMillis: at, Said: said})
	return "", ""
}

func decodeName(b []byte) (SealedName, error) {
	var in usagev1.SealedName
	if err := proto.Unmarshal(b, &in); err != nil {
		return SealedName{}, errWire
	}
	var out SealedName
	if !setID(&out.Principal, in.GetPrincipalId()) {
		return out, fmt.Errorf("the principal's id has %d bytes, not 16", len(in.GetPrincipalId()))
	}
	switch of := in.GetSubject().(type) {
	case *usagev1.SealedName_Person:
		if !of.Person {
			return out, fmt.Errorf("it names nothing")
		}
	case *usagev1.SealedName_DocumentId:
		if !setID(&out.Document, of.DocumentId) || out.Document.IsZero() {
			return out, fmt.Errorf("the document's id is %x", of.DocumentId)
		}
	default:
		return out, fmt.Errorf("it names nothing")
	}
	if n := len(in.GetSealed()); n < 24+16 || n > 4096 {
		return out, fmt.Errorf("%d sealed bytes; a nonce and a tag alone are 40, and 4,096 are allowed", n)
	}
	out.Sealed = in.GetSealed()
	return out, nil
}

func decodeMachine(b []byte) (MachineName, error) {
	var in usagev1.MachineName
	if err := proto.Unmarshal(b, &in); err != nil {
		return MachineName{}, errWire
	}
	out := MachineName{HostName: in.GetHostName(), OperatingSystem: in.GetOperatingSystem(), AgentVersion: in.GetAgentVersion()}
	if !setID(&out.Machine, in.GetMachineId()) {
		return out, fmt.Errorf("the machine's id has %d bytes, not 16", len(in.GetMachineId()))
	}
	for what, s := range map[string]string{"host name": out.HostName, "operating system": out.OperatingSystem, "agent version": out.AgentVersion} {
		// Postgres keeps no text with a zero byte.
		if utf8.RuneCountInString(s) > 255 || strings.ContainsRune(s, 0) {
			return out, fmt.Errorf("the %s is no text of at most 255 characters: %.300q", what, s)
		}
	}
	return out, nil
}

func setID(id *contract.ID, b []byte) bool {
	if len(b) != len(id) {
		return false
	}
	copy(id[:], b)
	return true
}
