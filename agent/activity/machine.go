package activity

import (
	"io"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Constants of the state machine, in milliseconds.
const (
	// HandOver is how long after the last exit a process of the same application
	// still continues an instance.
	HandOver = 5_000
	// SleepFloor is the shortest sleep that is told from jitter of the clocks.
	SleepFloor = 1_000
	// DriftFloor is the deviation of the wall clock from the anchor that makes a
	// new one.
	DriftFloor = 250
	// SlotPeriod is the longest time between two writes of the crash slot.
	SlotPeriod = 30_000
	// LiveValid is how long a live snapshot holds where none follows.
	LiveValid = 90_000
)

// Config says what a Machine stands on.
type Config struct {
	// Alias gives the random alias of an operating-system user, always the same
	// for the same User.Key.
	Alias func(User) contract.ID
	// Random is where ids are drawn from; nil: crypto/rand.
	Random io.Reader
}

// Output is what one observation brought.
type Output struct {
	// Events are decided facts, each session's in the order of their decision. They
	// lack agent id, epoch and seq, which the journal adds. Append them, with
	// Anchors, before the slot is written and before the next observation.
	Events []*usagev1.UsageEvent
	// Anchors are the anchors that Events name.
	Anchors []*usagev1.Anchor
	// Labels name documents that Events speak of, reduced as policy says.
	Labels []Label
	// Live holds a snapshot of each session in which something changed, or that
	// ended. They lack agent, machine, run id and serial.
	Live []*usagev1.LiveSnapshot
	// SlotDue: write Slot() now, since what is open has changed or SlotPeriod is over.
	SlotDue bool
}

// Label is the reduced name of a document.
type Label struct {
	DocumentID contract.ID
	Alias      contract.ID
	Name       string
}

// Machine is the state machine of one machine's desktop sessions. It is not safe
// for concurrent use.
type Machine struct {
	config Config
}

// New makes a machine that has seen nothing. Until SetPolicy it watches nothing.
func New(config Config) *Machine { return &Machine{config: config} }

// Recover makes a machine that goes on from a crash slot. slot is what Slot gave;
// tail are the usage events that were journalled after it was written, in order.
// The next observation settles what was lost. An error means that the slot cannot
// be read: start with New, and say so.
func Recover(config Config, slot []byte, tail []*usagev1.UsageEvent) (*Machine, error) {
	return New(config), nil
}

// SetPolicy makes a policy apply from the next observation on. It fails, and the
// policy before goes on, where a rule or a setting is wrong.
func (m *Machine) SetPolicy(policy *policyv1.Policy) error { return nil }

// Observe takes in what the desktop shows.
func (m *Machine) Observe(o Observation) Output { return Output{} }

// Stop settles everything in good order at a boot time no earlier than the last
// observation: what is open becomes UNKNOWN until a machine recovers from the slot.
func (m *Machine) Stop(bootMillis int64) Output { return Output{} }

// Live gives a snapshot of every session, for the heartbeat and new connections.
func (m *Machine) Live() []*usagev1.LiveSnapshot { return nil }

// Slot is the state to recover from, without any title or path. It is valid with
// exactly the events that were given out so far.
func (m *Machine) Slot() []byte { return nil }

// Sightings are programs that were seen, and belong to no application, since the
// policy asks for them; each is told once.
func (m *Machine) Sightings() []*usagev1.Sighting { return nil }
