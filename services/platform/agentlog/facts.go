package agentlog

import (
	"github.com/cetrus/cetrus/proto/contract"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// Facts are what a batch of messages says, in the order of the stream, each
// fact once however often it was sent. Facts and its slices belong to the
// Decoder and hold until its next Decode or Replay; what they point to inside a
// message (Sealed) holds as long as the message.
type Facts struct {
	Usage    []Usage
	Choices  []Choice
	Bindings []Binding
	Names    []SealedName
	Machines []MachineName
	// Receptions tell how each frame came, duplicates included.
	Receptions []Reception
	// Duplicates counts the records that had been received before.
	Duplicates int
	// Quarantined counts the records, frames and messages that were set aside.
	Quarantined int
}

// Usage is one usage event, checked, placed in UTC, and with the principal in
// place of the alias. It holds no pointers.
type Usage struct {
	Account contract.ID
	// Agent, Epoch and Seq are the event's key.
	Agent contract.ID
	Epoch uint64
	Seq   uint64
	// Event is the event's own id, a UUIDv7.
	Event    contract.ID
	Instance contract.ID
	// Document is zero where the event is about the instance as a whole.
	Document    contract.ID
	Application contract.ID
	Rule        contract.ID
	// Principal is the alias's principal, or the alias itself while it has none.
	Principal contract.ID
	Machine   contract.ID
	Session   contract.ID
	Boot      contract.ID
	// Anchor that placed this event in UTC.
	Anchor         uint64
	PolicyRevision uint64
	// Position in the stream of the message that brought the event.
	Position uint64
	// AtUTCMillis is when Attention and State were entered.
	AtUTCMillis int64
	// AtBootMillis is the same on the boot timeline.
	AtBootMillis int64
	// FromUTCMillis and ToUTCMillis are the interval [from, to) that the event
	// closes; both zero where HasClosed is false.
	FromUTCMillis int64
	ToUTCMillis   int64
	// ZoneOffsetSeconds of the machine, east of UTC, as the anchor has it.
	ZoneOffsetSeconds int32

	Transition Transition
	// Attention and State that were entered; zero for CLOSED.
	Attention Attention
	State     State
	// Reason of what was entered or, for CLOSED, of the close.
	Reason Reason
	Source SourceKind
	// DocumentSource and DocumentConfidence are what told which document it is, and how
	// sure that is; zero where there is none or the agent did not tell.
	DocumentSource     DocumentSource
	DocumentConfidence DocumentConfidence
	// DocumentUnsaved: it was never saved under a name.
	DocumentUnsaved bool
	// HasClosed tells whether the event closes an interval; all but OPENED do.
	HasClosed       bool
	ClosedAttention Attention
	ClosedState     State
	// ClosedReason says why, where ClosedAttention is UNKNOWN or PAUSED.
	ClosedReason Reason
	// ClosedAccess is where the session was shown; zero where the agent did not tell.
	ClosedAccess SessionAccess
}

// The enumerations of usagev1 in one byte each, with the same numbers.
type (
	// Attention is a usagev1.Attention.
	Attention uint8
	// State is a usagev1.State.
	State uint8
	// Transition is a usagev1.Transition.
	Transition uint8
	// Reason is a usagev1.Reason.
	Reason uint8
	// SourceKind is a usagev1.SourceKind.
	SourceKind uint8
	// DocumentSource is a usagev1.DocumentSource.
	DocumentSource uint8
	// DocumentConfidence is a usagev1.DocumentConfidence.
	DocumentConfidence uint8
	// SessionAccess is a usagev1.SessionAccess.
	SessionAccess uint8
)

// Attentions.
const (
	Suspended  = Attention(usagev1.Attention_ATTENTION_SUSPENDED)
	Unknown    = Attention(usagev1.Attention_ATTENTION_UNKNOWN)
	Paused     = Attention(usagev1.Attention_ATTENTION_PAUSED)
	Away       = Attention(usagev1.Attention_ATTENTION_AWAY)
	Busy       = Attention(usagev1.Attention_ATTENTION_BUSY)
	Idle       = Attention(usagev1.Attention_ATTENTION_IDLE)
	Background = Attention(usagev1.Attention_ATTENTION_BACKGROUND)
)

// States.
const (
	Active   = State(usagev1.State_STATE_ACTIVE)
	Inactive = State(usagev1.State_STATE_INACTIVE)
	Timeout  = State(usagev1.State_STATE_TIMEOUT)
)

// Transitions.
const (
	Opened   = Transition(usagev1.Transition_TRANSITION_OPENED)
	Changed  = Transition(usagev1.Transition_TRANSITION_CHANGED)
	Cut      = Transition(usagev1.Transition_TRANSITION_CUT)
	TimedOut = Transition(usagev1.Transition_TRANSITION_TIMED_OUT)
	Closed   = Transition(usagev1.Transition_TRANSITION_CLOSED)
)

// Choice is what a person chose on a prompt, checked and placed in UTC.
type Choice struct {
	Account   contract.ID
	Agent     contract.ID
	Epoch     uint64
	Seq       uint64
	Principal contract.ID
	Machine   contract.ID
	Position  uint64
	// EffectiveFromUTCMillis is from when the choice holds.
	EffectiveFromUTCMillis int64
	// Said is the choice as the agent wrote it.
	Said *usagev1.Choice
}

// Binding says which principal an alias stands for from here on. It is told
// once: the first binding of an alias is the one that holds.
type Binding struct {
	Account   contract.ID
	Agent     contract.ID
	Alias     contract.ID
	Principal contract.ID
	Position  uint64
}

// SealedName is a name that only the holder of the principal's key can read.
type SealedName struct {
	Account   contract.ID
	Principal contract.ID
	// Document is zero where the name is the person's own.
	Document contract.ID
	// Sealed is a 24-byte nonce and the XChaCha20-Poly1305 ciphertext.
	Sealed   []byte
	Position uint64
}

// MachineName tells the name of a machine as of StoredUTCMillis.
type MachineName struct {
	Account         contract.ID
	Machine         contract.ID
	HostName        string
	OperatingSystem string
	AgentVersion    string
	StoredUTCMillis int64
	Position        uint64
}

// Reception tells when the Manager took a frame, and how wrong the agent's
// clock looked to it.
type Reception struct {
	Account           contract.ID
	Manager           contract.ID
	Agent             contract.ID
	Machine           contract.ID
	ReceivedUTCMillis int64
	// SkewMillis is the agent's UTC clock less the Manager's.
	SkewMillis int64
	// Records in the frame.
	Records  int
	Position uint64
}
