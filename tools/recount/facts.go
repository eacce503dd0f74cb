package recount

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Facts are what agents told, as far as it came.
type Facts struct {
	// Merged says of principals that were merged whose they are now, Groups in which groups each is.
	Merged map[contract.ID]contract.ID
	Groups map[contract.ID][]contract.ID
	// Zone is the account's.
	Zone *time.Location

	stretches  []*stretch
	marks      []*mark
	instances  map[contract.ID]*instance
	principals map[contract.ID]contract.ID // by alias
	machines   map[contract.ID]heard
	seen       map[contract.ID]bool
}

// heard is through which Manager a machine's agent was heard of last.
type heard struct {
	at      int64
	manager contract.ID
}

// instance is one run of an application.
type instance struct {
	id, application, alias, machine, session contract.ID
	opened, closed                           int64 // closed is 0 while it is open
	own                                      []*stretch
}

// stretch is an interval of an instance, or of a document in it, in milliseconds of UTC.
type stretch struct {
	of        *instance
	document  contract.ID
	event     contract.ID
	from, to  int64
	attention usagev1.Attention
	state     usagev1.State
	reason    usagev1.Reason
}

// mark is an opening or a timeout.
type mark struct {
	of       *instance
	document contract.ID
	at       int64
	opened   bool
}

// New knows nothing yet.
func New(zone *time.Location) *Facts {
	return &Facts{
		Merged: make(map[contract.ID]contract.ID), Groups: make(map[contract.ID][]contract.ID), Zone: zone,
		instances: make(map[contract.ID]*instance), principals: make(map[contract.ID]contract.ID), machines: make(map[contract.ID]heard), seen: make(map[contract.ID]bool),
	}
}

// Read takes a frame as a Manager handed it on. What came before counts once.
func (f *Facts) Read(manager contract.ID, received *usagev1.ReceivedFrame) error {
	frame := &usagev1.Frame{}
	if err := proto.Unmarshal(received.GetFrame(), frame); err != nil {
		return fmt.Errorf("recount: %w", err)
	}
	machine := contract.ID(frame.GetMachineId())
	if received.GetReceivedUtcMillis() >= f.machines[machine].at {
		f.machines[machine] = heard{received.GetReceivedUtcMillis(), manager}
	}
	for _, b := range received.GetBindings() {
		f.principals[contract.ID(b.GetPrincipalAlias())] = contract.ID(b.GetPrincipalId())
	}
	anchors := make(map[uint64]*usagev1.Anchor)
	for _, a := range frame.GetAnchors() {
		anchors[a.GetAnchorId()] = a
	}
	for _, data := range frame.GetRecords() {
		record := &usagev1.Record{}
		if err := proto.Unmarshal(data, record); err != nil {
			return fmt.Errorf("recount: %w", err)
		}
		u := record.GetUsage()
		if f.seen[contract.ID(u.GetEventId())] {
			continue
		}
		f.seen[contract.ID(u.GetEventId())] = true
		a := anchors[u.GetAnchorId()]
		f.read(u, machine, func(boot int64) int64 { return a.GetUtcMillis() + boot - a.GetBootMillis() })
	}
	return nil
}

func (f *Facts) read(u *usagev1.UsageEvent, machine contract.ID, utc func(int64) int64) {
	at := utc(u.GetAtBootMillis())
	n := f.instances[contract.ID(u.GetInstanceId())]
	if n == nil {
		n = &instance{
			id: contract.ID(u.GetInstanceId()), application: contract.ID(u.GetApplicationId()), alias: contract.ID(u.GetPrincipalAlias()),
			machine: machine, session: contract.ID(u.GetSessionId()), opened: at,
		}
		f.instances[n.id] = n
	}
	var document contract.ID
	copy(document[:], u.GetDocumentId())
	n.opened = min(n.opened, at)
	switch u.GetTransition() {
	case usagev1.Transition_TRANSITION_OPENED, usagev1.Transition_TRANSITION_TIMED_OUT:
		f.marks = append(f.marks, &mark{of: n, document: document, at: at, opened: u.GetTransition() == usagev1.Transition_TRANSITION_OPENED})
	case usagev1.Transition_TRANSITION_CLOSED:
		if document.IsZero() {
			n.closed = at
		}
	default:
	}
	if i := u.GetClosed(); i != nil {
		s := &stretch{
			of: n, document: document, event: contract.ID(u.GetEventId()), from: utc(i.GetFromBootMillis()), to: utc(i.GetToBootMillis()),
			attention: i.GetAttention(), state: i.GetState(), reason: i.GetReason(),
		}
		n.opened = min(n.opened, s.from)
		f.stretches = append(f.stretches, s)
		if document.IsZero() {
			n.own = append(n.own, s)
		}
	}
}

// Events is how many there are.
func (f *Facts) Events() int { return len(f.seen) }

// OfInstances is the time of each instance by attention.
func (f *Facts) OfInstances() map[contract.ID]Totals {
	of := make(map[contract.ID]Totals, len(f.instances))
	for id, n := range f.instances {
		t := Totals{Instances: 1}
		for _, s := range n.own {
			t.Millis[s.attention] += s.to - s.from
		}
		of[id] = t
	}
	return of
}

// person is whose an instance is: whoever the alias is bound to, and whom that was merged into.
func (f *Facts) person(n *instance) contract.ID {
	id, bound := f.principals[n.alias]
	if !bound {
		id = n.alias
	}
	for {
		into, merged := f.Merged[id]
		if !merged {
			return id
		}
		id = into
	}
}

// groupsOf are the groups of a person, by any principal of theirs.
func (f *Facts) groupsOf(person contract.ID) []contract.ID {
	in := slices.Clone(f.Groups[person])
	for principal, into := range f.Merged {
		if into == person {
			in = append(in, f.Groups[principal]...)
		}
	}
	return in
}

func (f *Facts) site(n *instance) contract.ID { return f.machines[n.machine].manager }

// passes tells whether an instance is left by a filter.
func (f *Facts) passes(filter *meteringv1.UsageFilter, n *instance) bool {
	in := func(texts []string, ids ...contract.ID) bool {
		if len(texts) == 0 {
			return true
		}
		return slices.ContainsFunc(ids, func(id contract.ID) bool { return slices.Contains(texts, id.String()) })
	}
	if !in(filter.GetApplicationIds(), n.application) || !in(filter.GetMachineIds(), n.machine) {
		return false
	}
	var people []contract.ID // any name of a person will do
	person := f.person(n)
	if len(filter.GetPrincipalIds()) > 0 {
		people = append(people, person)
		for principal, into := range f.Merged {
			if into == person {
				people = append(people, principal)
			}
		}
	}
	return in(filter.GetPrincipalIds(), people...) && in(filter.GetManagerIds(), f.site(n)) &&
		(len(filter.GetGroupIds()) == 0 || in(filter.GetGroupIds(), f.groupsOf(person)...))
}

// left are the instances that a filter leaves, in the order of their ids.
func (f *Facts) left(filter *meteringv1.UsageFilter) (left []*instance) {
	for _, n := range f.instances {
		if f.passes(filter, n) {
			left = append(left, n)
		}
	}
	slices.SortFunc(left, func(a, b *instance) int { return bytes.Compare(a.id[:], b.id[:]) })
	return left
}

// leaves gives the same as a question that is answered once for each instance.
func (f *Facts) leaves(filter *meteringv1.UsageFilter) func(*instance) bool {
	known := make(map[*instance]bool)
	for _, n := range f.left(filter) {
		known[n] = true
	}
	return func(n *instance) bool { return known[n] }
}

// Totals is time by attention, timeouts and openings.
type Totals struct {
	Millis              [8]int64
	Timeouts, Instances int64
}

func (t *Totals) add(o Totals) {
	for i := range t.Millis {
		t.Millis[i] += o.Millis[i]
	}
	t.Timeouts, t.Instances = t.Timeouts+o.Timeouts, t.Instances+o.Instances
}

func (t *Totals) open() (sum int64) {
	for _, ms := range t.Millis {
		sum += ms
	}
	return sum
}

func (t *Totals) busy() int64 { return t.Millis[usagev1.Attention_ATTENTION_BUSY] }
