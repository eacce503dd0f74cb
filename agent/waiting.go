package agent

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/durable"
	"github.com/cetrus/cetrus/proto/contract"
)

// program is a process that may be stopped, named as the system itself does: by its pid
// and its start. The system gives a pid to others later.
type program struct {
	PID   int32 `json:"p"`
	Start int64 `json:"s"`
}

// waiting are the programs that are stopped until somebody has chosen a project. They
// are kept in a file too, so that a crash does not leave them so.
type waiting struct {
	file string
	log  *slog.Logger

	mu   sync.Mutex
	boot contract.ID
	held map[program]int // how many hold it
}

// heldPrograms is the content of the file.
type heldPrograms struct {
	Boot      string    `json:"boot"`
	Processes []program `json:"processes"`
}

// hold stops programs of a boot, those that are their session's person's own, until release
// is called; nil where there is none to stop.
func (w *waiting) hold(boot contract.ID, owner activity.User, keys []activity.ProcessKey) (release func()) {
	var programs []program
	for _, key := range keys {
		if p, found := identify(key, owner); found {
			programs = append(programs, p)
		}
	}
	if len(programs) == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held == nil {
		w.held = map[program]int{}
	}
	w.boot = boot
	for _, p := range programs {
		w.held[p]++
	}
	w.save() // before they stop: a crash must not leave them so
	for _, p := range programs {
		if w.held[p] == 1 { // some systems count
			suspend(p)
		}
	}
	return sync.OnceFunc(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, p := range programs {
			if w.held[p]--; w.held[p] <= 0 {
				delete(w.held, p)
				resume(p)
			}
		}
		w.save()
	})
}

func (w *waiting) save() {
	if len(w.held) == 0 {
		_ = os.Remove(w.file)
		return
	}
	all := heldPrograms{Boot: w.boot.String()}
	for p := range w.held {
		all.Processes = append(all.Processes, p)
	}
	if err := durable.ReplaceJSON(w.file, all); err != nil {
		w.log.Error("which programs wait is not kept over a crash", "reason", err)
	}
}

// releaseLeftOver lets programs of this boot go on that a crashed agent has left waiting.
func (w *waiting) releaseLeftOver() {
	text, err := os.ReadFile(w.file)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var all heldPrograms
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		w.log.Error("which programs a crash left waiting cannot be read; one that stands still has to be let go on, or ended, by hand", "file", w.file, "reason", err)
		return
	}
	if sameBoot(all.Boot) {
		for _, p := range all.Processes {
			resume(p)
		}
	}
	_ = os.Remove(w.file)
}
