package activity

import (
	"slices"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
)

// SessionWindows are the windows of a session that belong to applications whose documents are
// metered and whose use is given to projects. They tell whole names, whatever policy keeps of
// documents: rules by folder and file name need them. They stay in memory.
type SessionWindows struct {
	SessionID contract.ID
	// Windows are all there are; none: the last one has closed, or the session ended.
	Windows []ShownWindow
}

// ShownWindow is a window and what it shows.
type ShownWindow struct {
	// ID tells it from others of its session.
	ID       uint64
	Instance contract.ID
	// Document is what it is metered under, which several windows may share; zero: it
	// shows none, and nothing below is told.
	Document contract.ID
	// OpenedMillis is when that opened, on the boot timeline.
	OpenedMillis int64
	// Front: it has the keyboard, or a dialog of it has.
	Front bool
	// Title is what its title says of the document: what stays the same while more
	// becomes known of the file.
	Title string
	// Kind is what the title says that it is. Of a File the Folder is the whole one, or
	// empty where that is not known.
	Kind         rules.DocumentKind
	Folder, Name string
	// Settled: nothing more becomes known of it without another title.
	Settled bool
}

// tellWindows adds the windows of sessions in which they changed. While a session is
// paused nothing is told of it.
func (m *Machine) tellWindows() {
	if !m.watching {
		return
	}
	for _, s := range m.sessions {
		if s.base == rawPaused {
			continue
		}
		shown := m.shownWindows(s)
		if slices.Equal(shown, s.toldWindows) {
			continue
		}
		s.toldWindows = shown
		m.out.Windows = append(m.out.Windows, SessionWindows{SessionID: s.ID, Windows: slices.Clone(shown)})
	}
}

func (m *Machine) shownWindows(s *session) (all []ShownWindow) {
	for _, id := range s.order {
		w := s.windows[id]
		if !w.mayShowDocument() || !w.match.Application.Asks {
			continue
		}
		i := m.openInstanceOf(s, w)
		if i == nil {
			continue
		}
		shown := ShownWindow{ID: w.ID, Instance: i.ID}
		if d := i.openDocument(w); d != nil && w.hasDocument() {
			shown.show(w, d)
			shown.Front = i.frontWindow == w.ID
		}
		all = append(all, shown)
	}
	return all
}

// show tells the document that a window shows.
func (v *ShownWindow) show(w *window, d *track) {
	v.Document, v.OpenedMillis = d.Document, d.Opened
	v.Title, v.Kind, v.Name, v.Settled = asked(w.said), w.said.Kind, w.said.Name, w.again == never
	if w.found == (found{}) {
		return
	}
	v.Name = w.found.name
	if w.found.file && isAbsolute(w.found.folder) {
		v.Folder = w.found.folder
	}
}
