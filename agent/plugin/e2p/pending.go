package e2p

import (
	"encoding/hex"
	"encoding/json"
	"maps"
	"os"
	"slices"

	"github.com/cetrus/cetrus/agent/durable"
	"github.com/cetrus/cetrus/proto/contract"
)

// pending are the questions that nobody has answered, over restarts too: an agent that is
// upgraded while somebody is asked asks again. They are named by ids alone.
type pending struct {
	file string
	// left are those of an earlier run, now those of this one.
	left, now map[string]bool
}

// pendingKey names what is asked for; the document is zero for a run as a whole.
func pendingKey(r *run, document contract.ID) string {
	key := hex.EncodeToString(r.event.GetInstanceId())
	if !document.IsZero() {
		key += "/" + hex.EncodeToString(document[:])
	}
	return key
}

// open reads what an earlier run has left. What cannot be read is not asked again.
func (p *pending) open(file string) {
	if file == p.file {
		return
	}
	p.file, p.left, p.now = file, map[string]bool{}, map[string]bool{}
	text, err := os.ReadFile(file)
	if err != nil {
		return
	}
	var keys []string
	_ = json.Unmarshal(text, &keys)
	for _, key := range keys {
		p.left[key] = true
	}
}

// setPending notes that a question is put, or that it is not to be answered any more.
func (p *Plugin) setPending(s *subject, waits bool) {
	if p.pending.file == "" || s.pending == "" || p.pending.now[s.pending] == waits {
		return
	}
	if waits {
		p.pending.now[s.pending] = true
	} else {
		delete(p.pending.now, s.pending)
		delete(p.pending.left, s.pending)
	}
	if err := p.pending.save(); err != nil {
		p.deps.Log.Warn("which questions wait is not remembered over a restart", "reason", err)
	}
}

func (p *pending) save() error {
	if len(p.now) == 0 {
		return durable.Remove(p.file)
	}
	return durable.ReplaceJSON(p.file, slices.Sorted(maps.Keys(p.now)))
}
