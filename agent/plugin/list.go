package plugin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cetrus/cetrus/agent/durable"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
)

// takenFile in the agent's own folder says which list of programs was taken last.
const takenFile = "list.json"

// taken is the newest list that was taken.
type taken struct {
	Number uint64 `json:"number"`
	// SHA256 of its bytes, in hexadecimal.
	SHA256 string `json:"sha256"`
}

// readTaken reads which list was taken last; the zero one where none was.
func readTaken(stateDir string) (t taken, err error) {
	text, err := os.ReadFile(filepath.Join(stateDir, takenFile))
	if errors.Is(err, fs.ErrNotExist) {
		return taken{}, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &t)
	}
	if err != nil {
		return taken{}, refuse("which list was taken last cannot be read, so an older one would not be known: %v; remove %s to take the list of the folder", err, filepath.Join(stateDir, takenFile))
	}
	return t, nil
}

// write replaces the file in one step.
func (t taken) write(stateDir string) error {
	err := os.MkdirAll(stateDir, 0o700)
	if err == nil {
		err = durable.ReplaceJSON(filepath.Join(stateDir, takenFile), t)
	}
	if err != nil {
		return fmt.Errorf("plugin: %w", err)
	}
	return nil
}

// follows tells whether a list may be taken after the one that was: numbers go only
// forward, and one number is one list. Lists without a number are as old as can be.
func (t taken) follows(before taken) error {
	switch {
	case t.Number < before.Number:
		return refuse("the list has the number %d, and number %d was taken before: an older list is not taken again; give it a greater number", t.Number, before.Number)
	case t.Number == before.Number && t.Number != 0 && t.SHA256 != before.SHA256:
		return refuse("another list of the number %d was taken before; give this one a greater number", t.Number)
	}
	return nil
}

// takeList reads the list of the folder and notes that it was taken.
func (h *Host) takeList() (List, error) {
	list, text, err := readList(h.config.Dir, h.config.Keys)
	if err != nil {
		return List{}, err
	}
	before, err := readTaken(h.config.StateDir)
	if err != nil {
		return List{}, err
	}
	sum := sha256.Sum256(text)
	now := taken{Number: list.Number, SHA256: hex.EncodeToString(sum[:])}
	if text == nil {
		return list, nil // the folder is empty: nothing runs, and nothing older may come
	}
	if err := now.follows(before); err != nil {
		return List{}, err
	}
	if now != before && now.Number > 0 {
		return list, now.write(h.config.StateDir)
	}
	return list, nil
}

// mark is what the folder's list looked like: it is read again when that changes.
func (h *Host) mark() []byte {
	var all []byte
	for _, name := range []string{ListFile, SignatureFile} {
		text, err := readSmall(filepath.Join(h.config.Dir, name))
		sum := sha256.Sum256(append(text, fmt.Sprint(err)...))
		all = append(all, sum[:]...)
	}
	return fmt.Append(all, withoutList(h.config.Dir))
}

// follow takes new lists until ctx ends. A list that is refused changes nothing of what
// runs: who put it there is told by health.
func (h *Host) follow(ctx context.Context) {
	look := time.NewTicker(h.config.ListLook)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		if mark := h.mark(); !bytes.Equal(mark, h.seen) {
			h.seen = mark
			h.renew()
		}
	}
}

// renew runs what the folder's list now holds: what is not in it any more, or as another
// program, is stopped; the rest goes on undisturbed.
func (h *Host) renew() {
	list, err := h.takeList()
	if err != nil {
		h.note(err)
		return
	}
	h.note(withoutList(h.config.Dir))
	h.mu.Lock()
	h.list = list
	h.mu.Unlock()
	started := h.settle()
	h.deps.Log.Info("the folder of plug-ins has a new list", "number", list.Number, "started", started)
	if h.deps.Changed != nil {
		h.deps.Changed()
	}
}

// note says whether the list as a whole is refused, or missing though programs wait for one.
func (h *Host) note(err error) {
	h.mu.Lock()
	before := h.refused
	h.refused = nil
	if err != nil {
		h.refused = &agentv1.PluginHealth{Name: listName, State: agentv1.PluginState_PLUGIN_STATE_REFUSED, Message: clip(err.Error())}
	}
	h.mu.Unlock()
	if err != nil && before.GetMessage() != clip(err.Error()) {
		h.deps.Log.Error("no list of plug-ins is taken from the folder", "dir", h.config.Dir, "reason", err)
		if h.deps.Changed != nil {
			h.deps.Changed()
		}
	}
}
