package agent

import (
	"io"
	"path/filepath"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/journal"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// openJournal opens the journal and makes a state machine that goes on where the
// last run, or its crash, left off.
func (a *Agent) openJournal() (err error) {
	a.journal, err = journal.Open(journal.Config{
		Dir:       filepath.Join(a.config.DataDir, usageDir),
		Lane:      usagev1.Lane_LANE_USAGE,
		AgentID:   a.identity.AgentID,
		MachineID: a.identity.MachineID,
		MaxBytes:  a.config.JournalBytes,
		Random:    a.deps.Random,
		Sync:      a.deps.Sync,
		Log:       a.log,
	})
	if err != nil {
		return err
	}
	config := activity.Config{Alias: a.persons.alias, Random: a.deps.Random, Evidence: a.deps.Evidence}
	a.machine = activity.New(config)
	slot, tail, anchors, found, err := a.journal.Slot()
	if err == nil && found {
		var recovered *activity.Machine
		if recovered, err = activity.Recover(config, slot, tail, anchors); err == nil {
			a.machine = recovered
			a.persons.slotted = recovered.Aliases()
		}
	}
	if err != nil {
		a.log.Error("what was open when the agent last ran is not known; its instances stay without an end", "reason", err)
	}
	return nil
}

// batchOf gathers what several observations brought, in order: all labels, and events up
// to a size, at least one.
func batchOf(outputs []activity.Output, limit int, traceparent string) journal.Batch {
	batch := journal.Batch{TraceParent: traceparent}
	for _, o := range outputs {
		for _, l := range o.Labels {
			batch.Labels = append(batch.Labels, &agentv1.DocumentLabel{
				DocumentId: l.DocumentID[:], PrincipalAlias: l.Alias[:], Name: l.Name,
			})
		}
	}
	size := 0
	for _, o := range outputs {
		if len(o.Events) > 0 {
			batch.Anchors = append(batch.Anchors, o.Anchors...)
		}
		for _, e := range o.Events {
			if size += proto.Size(e); size > limit && len(batch.Usage) > 0 {
				return batch
			}
			batch.Usage = append(batch.Usage, e)
		}
	}
	return batch
}

// written takes all labels and so many events out of what is to be written.
func written(outputs []activity.Output, events int) {
	for i := range outputs {
		o := &outputs[i]
		n := min(events, len(o.Events))
		o.Events, events, o.Labels = o.Events[n:], events-n, nil
	}
}

// lockedReader lets several goroutines draw from one source.
type lockedReader struct {
	mu     sync.Mutex
	source io.Reader
}

func (r *lockedReader) Read(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.source.Read(b)
}
