package eventlog

import (
	"context"
	"slices"
	"sync"
)

// Memory is a Log in memory, for tests. Nothing in it is ambiguous: an Append
// has succeeded or has not.
type Memory struct {
	mu       sync.Mutex
	last     Position
	subjects map[string][]Event
}

// NewMemory returns an empty log.
func NewMemory() *Memory {
	return &Memory{subjects: make(map[string][]Event)}
}

// Load implements Log.
func (m *Memory) Load(ctx context.Context, subject string) ([]Event, Position, error) {
	if err := checkSubject(subject); err != nil {
		return nil, 0, err
	}
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	events := cloneEvents(m.subjects[subject])
	return events, lastOf(events), nil
}

// Each implements Log.
func (m *Memory) Each(ctx context.Context, subject string, take func(Event) error) (Position, error) {
	events, last, err := m.Load(ctx, subject)
	if err != nil {
		return 0, err
	}
	for _, e := range events {
		if err := take(e); err != nil {
			return 0, err
		}
	}
	return last, nil
}

// Last implements Log.
func (m *Memory) Last(ctx context.Context, subject string) (Position, error) {
	_, last, err := m.Load(ctx, subject)
	return last, err
}

// Append implements Log.
func (m *Memory) Append(ctx context.Context, subject string, expected Position, events ...Event) (Position, error) {
	return m.AppendAll(ctx, Write{Subject: subject, Expected: expected, Events: events})
}

// AppendAll implements Log.
func (m *Memory) AppendAll(ctx context.Context, writes ...Write) (Position, error) {
	writes, err := prepare(ctx, writes)
	if err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range writes {
		if lastOf(m.subjects[w.Subject]) != w.Expected {
			return 0, conflict(w)
		}
	}
	for _, w := range writes {
		for _, e := range cloneEvents(w.Events) {
			m.last++
			e.Position = m.last
			m.subjects[w.Subject] = append(m.subjects[w.Subject], e)
		}
	}
	return m.last, nil
}

// All returns every event in the order of their positions.
func (m *Memory) All() []Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []Event
	for _, events := range m.subjects {
		all = append(all, cloneEvents(events)...)
	}
	slices.SortFunc(all, func(a, b Event) int { return int(a.Position) - int(b.Position) })
	return all
}

func cloneEvents(events []Event) []Event {
	out := slices.Clone(events)
	for i := range out {
		out[i].Data = slices.Clone(out[i].Data)
	}
	return out
}

func lastOf(events []Event) Position {
	if len(events) == 0 {
		return 0
	}
	return events[len(events)-1].Position
}
