package agent

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"sync"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/proto/contract"
)

// waiting are the programs that are stopped until somebody has chosen a project. They
// are kept in a file too, so that a crash does not leave them so. A process is known by
// boot, pid and start: the system gives a pid to others later.
type waiting struct {
	file string
	log  *slog.Logger

	mu   sync.Mutex
	boot contract.ID
	held map[activity.ProcessKey]int // how many hold it
}

// heldPrograms is the content of the file.
type heldPrograms struct {
	Boot      string                `json:"boot"`
	Processes []activity.ProcessKey `json:"processes"`
}

// hold stops programs of a boot until release is called.
func (w *waiting) hold(boot contract.ID, keys []activity.ProcessKey) (release func()) {
	if len(keys) == 0 {
		return func() {}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held == nil {
		w.held = map[activity.ProcessKey]int{}
	}
	w.boot = boot
	for _, key := range keys {
		w.held[key]++
	}
	w.save() // before they stop: a crash must not leave them so
	for _, key := range keys {
		suspend(key)
	}
	return sync.OnceFunc(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, key := range keys {
			if w.held[key]--; w.held[key] <= 0 {
				delete(w.held, key)
				resume(key)
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
	for key := range w.held {
		all.Processes = append(all.Processes, key)
	}
	text, err := json.Marshal(all)
	if err == nil {
		err = replaceFile(w.file, text)
	}
	if err != nil {
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
		w.log.Error("which programs a crash left waiting cannot be read; `kill -CONT` lets one go on", "file", w.file, "reason", err)
		return
	}
	if all.Boot == bootNow() {
		for _, key := range all.Processes {
			resume(key)
		}
	}
	_ = os.Remove(w.file)
}
