package e2p

import (
	"encoding/hex"
	"encoding/json"
	"maps"
	"os"
	"slices"

	"github.com/cetrus/cetrus/agent/durable"
	"github.com/cetrus/cetrus/agent/prompt"
	pluginv1 "github.com/cetrus/cetrus/proto/cetrus/plugin/v1"
)

// maxRecent is how many choices are remembered to fill the next prompt in.
const maxRecent = 2000

// recent is what was chosen last, over restarts too: by application, person and, on a
// shared login, worker; and by person alone, for other applications.
type recent struct {
	file    string
	entries []recentEntry // the latest first
}

type recentEntry struct {
	Key    string            `json:"key"`
	Values map[string]string `json:"values"`
}

// open reads what an earlier run has left. What cannot be read is only not filled in.
func (r *recent) open(file string) {
	if file == r.file {
		return
	}
	r.file = file
	if text, err := os.ReadFile(file); err == nil {
		_ = json.Unmarshal(text, &r.entries)
	}
}

// of is what a person chose last in an application, or failing that in whatever other one;
// worker: whom of those who share the login, or empty.
func (r *recent) of(e *pluginv1.Event, worker string) map[string]string {
	for _, key := range recentKeys(e, worker) {
		for _, entry := range r.entries {
			if entry.Key == key {
				return entry.Values
			}
		}
	}
	return nil
}

func (r *recent) put(e *pluginv1.Event, worker string, values map[string]string) {
	for _, key := range recentKeys(e, worker) {
		r.entries = slices.DeleteFunc(r.entries, func(entry recentEntry) bool { return entry.Key == key })
		r.entries = slices.Insert(r.entries, 0, recentEntry{Key: key, Values: values})
	}
	r.entries = r.entries[:min(len(r.entries), maxRecent)]
}

func recentKeys(e *pluginv1.Event, worker string) [2]string {
	person := "/" + hex.EncodeToString(e.GetPrincipalAlias()) + "/" + worker
	return [2]string{hex.EncodeToString(e.GetApplicationId()) + person, "*" + person}
}

func (r *recent) save() error { return durable.ReplaceJSON(r.file, r.entries) }

// remember keeps what was chosen, to fill it in the next time. "Not chargeable" says nothing
// of projects, so the one before stays; it does say who is working.
func (p *Plugin) remember(e *pluginv1.Event, a prompt.Answer) {
	worker := a.Values[workerKey]
	values := a.Values
	if a.Outcome != prompt.Chosen {
		if worker == "" {
			return
		}
		values = maps.Clone(p.recent.of(e, ""))
		if values == nil {
			values = map[string]string{}
		}
		values[workerKey] = worker
	} else if worker != "" {
		p.recent.put(e, worker, a.Values)
	}
	p.recent.put(e, "", values)
	if p.recent.file == "" {
		return
	}
	if err := p.recent.save(); err != nil {
		p.deps.Log.Warn("the last choice is not remembered over a restart", "reason", err)
	}
}
