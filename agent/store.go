package agent

import (
	"context"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/uplink"
)

// store is what the agent asks of its journal.
type store interface {
	uplink.Journal
	uplink.Labels
	// Append makes a batch durable, all of it or nothing.
	Append(ctx context.Context, batch activity.Output, traceparent string) error
	// WriteSlot replaces the crash slot.
	WriteSlot(slot []byte) error
	// Backlog is how many records are not acknowledged.
	Backlog() uint64
	// Bytes is the size on disk.
	Bytes() int64
	Close() error
}

func (a *Agent) openJournal() error { return nil }
