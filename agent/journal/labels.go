package journal

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

const (
	// maxLabels bounds the names that wait for a Manager.
	maxLabels = 8_000
	// ackedLabels is how many acknowledged labels are remembered, so that a document
	// opened again is not named again at once.
	ackedLabels = 4096
	// lazyLabels is how many acknowledgements may go unsaved: forgetting one costs
	// no more than sending a label twice.
	lazyLabels = 64
)

// labels is the table of documents' names that no Manager has yet.
type labels struct {
	pair    *pair
	log     *slog.Logger
	pending []savedLabel
	index   map[contract.ID]bool
	acked   map[contract.ID]bool
	unsaved int
	refused bool
}

type savedLabel struct {
	Document contract.ID `json:"d"`
	Alias    contract.ID `json:"a"`
	Name     string      `json:"n"`
}

func openLabels(dir string, sync func(*os.File) error, log *slog.Logger) (*labels, error) {
	p, value, found, damaged, err := openPair(filepath.Join(dir, "labels"), sync)
	if err != nil {
		return nil, err
	}
	l := &labels{pair: p, log: log, index: map[contract.ID]bool{}, acked: map[contract.ID]bool{}}
	if found {
		if err := json.Unmarshal(value, &l.pending); err != nil {
			damaged, l.pending = damaged+1, nil
		}
	}
	if damaged > 0 {
		log.Error("the table of documents' names was damaged; names are told again as documents open", "dir", dir, "kept", len(l.pending))
	}
	for _, s := range l.pending {
		l.index[s.Document] = true
	}
	return l, nil
}

// add makes labels durable that are new.
func (l *labels) add(more []*agentv1.DocumentLabel) error {
	before := len(l.pending)
	for _, m := range more {
		id, err := contract.IDFrom(m.GetDocumentId())
		if err != nil {
			return fmt.Errorf("journal: label: %w", err)
		}
		if l.index[id] || l.acked[id] {
			continue
		}
		if len(l.pending) >= maxLabels {
			if !l.refused {
				l.log.Error("too many documents' names wait for a Manager; further ones are told when their documents open again", "limit", maxLabels)
			}
			l.refused = true
			break
		}
		alias, err := contract.IDFrom(m.GetPrincipalAlias())
		if err != nil {
			return fmt.Errorf("journal: label: %w", err)
		}
		l.pending = append(l.pending, savedLabel{id, alias, m.GetName()})
		l.index[id] = true
	}
	if len(l.pending) == before {
		return nil
	}
	if err := l.save(); err != nil {
		for _, s := range l.pending[before:] {
			delete(l.index, s.Document)
		}
		l.pending = l.pending[:before]
		return err
	}
	return nil
}

func (l *labels) save() error {
	b, err := json.Marshal(l.pending)
	if err != nil {
		return fmt.Errorf("journal: labels: %w", err)
	}
	if err := l.pair.write(b); err != nil {
		return err
	}
	l.unsaved = 0
	return nil
}

func (l *labels) list(limit int) []*agentv1.DocumentLabel {
	var list []*agentv1.DocumentLabel
	for _, s := range l.pending[:min(limit, len(l.pending))] {
		list = append(list, &agentv1.DocumentLabel{DocumentId: s.Document[:], PrincipalAlias: s.Alias[:], Name: s.Name})
	}
	return list
}

func (l *labels) acknowledge(id contract.ID) error {
	if !l.index[id] {
		return nil
	}
	for n, s := range l.pending {
		if s.Document == id {
			l.pending = append(l.pending[:n:n], l.pending[n+1:]...)
			break
		}
	}
	delete(l.index, id)
	l.refused = false
	if len(l.acked) >= ackedLabels {
		clear(l.acked)
	}
	l.acked[id] = true
	if l.unsaved++; l.unsaved >= lazyLabels || len(l.pending) == 0 {
		return l.save()
	}
	return nil
}
