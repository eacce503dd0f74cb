package history

import (
	"fmt"
	"slices"
)

// Verdict is what a history shows.
type Verdict struct {
	// Faults, Journalled, Acknowledged, Published and Observed are how much was seen: records,
	// but for Published, messages of the log, and Observed, changes of an instance.
	Faults, Journalled, Acknowledged, Published, Observed int
	// Keys is how many (instance, attention) were compared.
	Keys int

	// LostMillis are missing from what was counted, DoubledMillis are too many in it; key by key, so they
	// never cancel out.
	LostMillis, DoubledMillis int64
	// Lost are records that were journalled, or acknowledged, and are not in the log.
	Lost int
	// Doubled are events that are in the log, or were journalled, with two contents.
	Doubled int
	// Reordered are messages that stand in the log before one that their Manager had numbered before them.
	Reordered int
	// Resurrected are things that came back: an instance that was closed, time that had been counted
	// already, a number that was used for something else, and what nobody has journalled.
	Resurrected int

	// Findings say it in words, the first of each kind.
	Findings []string
}

// Clean tells whether nothing is wrong.
func (v Verdict) Clean() bool {
	return v.LostMillis == 0 && v.DoubledMillis == 0 && v.Lost == 0 && v.Doubled == 0 && v.Reordered == 0 && v.Resurrected == 0
}

// mostFindings is how many are told of one kind.
const mostFindings = 10

// place is a record's in its journal; seq 0: the journal itself.
type place struct {
	agent, lane string
	epoch, seq  uint64
}

// laneUsage is the lane of events.
const laneUsage = "LANE_USAGE"

type key struct{ instance, attention string }

// position is one that a Manager has given.
type position struct {
	subject, buffer string
	number          uint64
}

// Checker judges facts as they come.
type Checker struct {
	verdict Verdict
	told    map[string]int

	journalled map[string]Record // by event
	published  map[string]string // digest by event
	places     map[place]string  // digest by place, of the log
	spans      map[place][]Span  // of the log, by journal
	acked      []Span
	positions  map[position]string // digest
	highest    map[position]uint64 // of a buffer's subject; number 0
	counted    map[string]Counted
	phantoms   map[string]Record
}

// NewChecker begins a judgement.
func NewChecker() *Checker {
	return &Checker{
		told: map[string]int{}, journalled: map[string]Record{}, published: map[string]string{}, places: map[place]string{}, spans: map[place][]Span{},
		positions: map[position]string{}, highest: map[position]uint64{}, counted: map[string]Counted{}, phantoms: map[string]Record{},
	}
}

// Check judges a whole history.
func Check(path string) (Verdict, error) {
	c := NewChecker()
	if err := Read(path, func(f Fact) error { c.Add(f); return nil }); err != nil {
		return Verdict{}, err
	}
	return c.Verdict(), nil
}

func (c *Checker) find(kind string, count *int, format string, args ...any) {
	*count++
	if c.told[kind]++; c.told[kind] <= mostFindings {
		c.verdict.Findings = append(c.verdict.Findings, kind+": "+fmt.Sprintf(format, args...))
	}
}

// Add takes a fact; they come in the order in which they were told.
func (c *Checker) Add(f Fact) {
	v := &c.verdict
	switch {
	case f.Fault != nil:
		v.Faults++
	case f.Journalled != nil:
		c.journal(*f.Journalled)
	case f.Acknowledged != nil:
		c.acked = append(c.acked, *f.Acknowledged)
		v.Acknowledged += int(f.Acknowledged.Last - f.Acknowledged.First + 1)
	case f.Published != nil:
		c.publish(*f.Published)
	case f.Counted != nil:
		c.count(*f.Counted)
	}
}

func (c *Checker) journal(r Record) {
	known, ok := c.journalled[r.Event]
	if !ok {
		c.verdict.Journalled++
		c.journalled[r.Event] = r
		return
	}
	if known.Digest != r.Digest {
		c.find("doubled", &c.verdict.Doubled, "event %s was journalled with two contents", r.Event)
	}
}

func (c *Checker) publish(m Message) {
	v := &c.verdict
	v.Published++
	at := position{m.Subject, m.Buffer, m.BufferPosition}
	if known, ok := c.positions[at]; ok {
		// Sent again: it must be the same.
		if known != m.Digest {
			c.find("resurrected", &v.Resurrected, "position %d of buffer %s was used twice", m.BufferPosition, m.Buffer)
		}
	} else {
		c.positions[at] = m.Digest
		highest := position{m.Subject, m.Buffer, 0}
		if m.BufferPosition < c.highest[highest] {
			c.find("reordered", &v.Reordered, "position %d of buffer %s came after %d", m.BufferPosition, m.Buffer, c.highest[highest])
		}
		c.highest[highest] = max(c.highest[highest], m.BufferPosition)
	}
	for _, r := range m.Records {
		at := place{r.Agent, laneUsage, r.Epoch, r.Seq}
		if known, ok := c.places[at]; ok && known != r.Digest {
			c.find("resurrected", &v.Resurrected, "number %d of epoch %d of agent %s was used twice", r.Seq, r.Epoch, r.Agent)
		}
		c.places[at] = r.Digest
		if known, ok := c.published[r.Event]; ok && known != r.Digest {
			c.find("doubled", &v.Doubled, "event %s was published with two contents", r.Event)
		}
		c.published[r.Event] = r.Digest
		c.phantoms[r.Event] = r
	}
	for _, s := range m.Spans {
		at := place{s.Agent, s.Lane, s.Epoch, 0}
		c.spans[at] = append(c.spans[at], s)
	}
}

func (c *Checker) count(now Counted) {
	v := &c.verdict
	v.Observed++
	before, ok := c.counted[now.Instance]
	c.counted[now.Instance] = now
	if !ok {
		return
	}
	if before.Closed && !now.Closed {
		c.find("resurrected", &v.Resurrected, "instance %s was closed and is open again", now.Instance)
	}
	for attention, millis := range before.Millis {
		if now.Millis[attention] < millis {
			c.find("resurrected", &v.Resurrected, "instance %s, %s: %d ms were counted, and then %d", now.Instance, attention, millis, now.Millis[attention])
		}
	}
}

// Verdict is what the facts show, once all are told.
func (c *Checker) Verdict() Verdict {
	v := &c.verdict
	truth := map[key]int64{}
	for event, r := range c.journalled {
		delete(c.phantoms, event)
		if _, ok := c.published[event]; !ok {
			c.find("lost", &v.Lost, "number %d of epoch %d of agent %s was journalled and is not in the log", r.Seq, r.Epoch, r.Agent)
		} else if c.published[event] != r.Digest {
			c.find("doubled", &v.Doubled, "event %s was journalled with one content and published with another", event)
		}
		if r.Document == "" && r.Millis != 0 {
			truth[key{r.Instance, r.Attention}] += r.Millis
		}
	}
	for _, r := range c.phantoms {
		c.find("resurrected", &v.Resurrected, "number %d of epoch %d of agent %s is in the log, and nobody has journalled it", r.Seq, r.Epoch, r.Agent)
	}
	for at := range c.spans {
		c.spans[at] = merged(c.spans[at])
	}
	for _, s := range c.acked {
		if missing := uncovered(s, c.spans[place{s.Agent, s.Lane, s.Epoch, 0}]); missing > 0 {
			c.find("lost", &v.Lost, "%d of the numbers %d to %d of epoch %d of agent %s were acknowledged and are not in the log", missing, s.First, s.Last, s.Epoch, s.Agent)
		}
	}
	reported := map[key]int64{}
	for _, i := range c.counted {
		for attention, millis := range i.Millis {
			if millis != 0 {
				reported[key{i.Instance, attention}] = millis
			}
		}
	}
	c.compare(truth, reported)
	return *v
}

// compare holds what was counted against what was journalled, key by key.
func (c *Checker) compare(truth, reported map[key]int64) {
	v := &c.verdict
	for k, millis := range truth {
		v.Keys++
		var one int
		switch counted := reported[k]; {
		case counted < millis:
			v.LostMillis += millis - counted
			c.find("lost", &one, "instance %s, %s: %d ms were journalled, %d counted", k.instance, k.attention, millis, counted)
		case counted > millis:
			v.DoubledMillis += counted - millis
			c.find("doubled", &one, "instance %s, %s: %d ms were journalled, %d counted", k.instance, k.attention, millis, counted)
		}
	}
	for k, millis := range reported {
		if _, known := truth[k]; !known {
			v.Keys++
			v.DoubledMillis += millis
			var one int
			c.find("doubled", &one, "instance %s, %s: none was journalled, %d ms counted", k.instance, k.attention, millis)
		}
	}
}

// merged are spans in their order, without overlaps.
func merged(spans []Span) []Span {
	slices.SortFunc(spans, func(a, b Span) int {
		switch {
		case a.First < b.First:
			return -1
		case a.First > b.First:
			return 1
		}
		return 0
	})
	var out []Span
	for _, s := range spans {
		if n := len(out); n > 0 && s.First <= out[n-1].Last+1 {
			out[n-1].Last = max(out[n-1].Last, s.Last)
			continue
		}
		out = append(out, s)
	}
	return out
}

// uncovered is how many numbers of a span are in none of the others, which are merged.
func uncovered(s Span, by []Span) uint64 {
	missing := s.Last - s.First + 1
	for _, b := range by {
		if from, to := max(s.First, b.First), min(s.Last, b.Last); from <= to {
			missing -= to - from + 1
		}
	}
	return missing
}
