package activity

import (
	"cmp"
	"slices"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/rules"
)

// maxParents bounds the climb from a dialog to its window, and from a process to
// its ancestors, where the system's answers go in circles.
const maxParents = 64

// newSession begins a session that was not there before since.
func (m *Machine) newSession(so *Session, since int64) *session {
	s := &session{
		Key: so.Key, UserKey: so.User.Key(), ID: m.newID(), Alias: m.alias(so.User),
		LastInput: never, Stretch: never, remembered: since,
	}
	m.sessions = append(m.sessions, s)
	m.slotDue = true
	// An input at the very first moment counts, one before it was not watched.
	s.LastInput = min(so.LastInputMillis, m.now-1)
	return s
}

// newInput takes in the reading of the last input, and says when within the step there was
// one: clamped to the greatest seen, the future refused, the past never changed.
func (s *session) newInput(so *Session, st step) (int64, bool) {
	last := so.LastInputMillis
	if so.InputUnsupported || last > st.to || last <= s.LastInput {
		return 0, false
	}
	s.LastInput = last
	return max(last, st.from), true
}

// list takes in the processes and windows of a session.
func (m *Machine) list(s *session, so *Session) {
	s.brief = nil
	for _, p := range so.Passed {
		s.brief = append(s.brief, &process{Process: p})
	}
	// Most lists are what they were: that costs a comparison, not a new index.
	if !so.SameProcesses && (s.processes == nil || len(s.exited) > 0 || !slices.Equal(so.Processes, s.listed)) {
		s.listProcesses(so.Processes)
		s.listed, s.unmatched = slices.Clone(so.Processes), true
	}
	if !so.SameWindows {
		s.listWindows(so.Windows)
	}
	if m.changed {
		for _, p := range s.processes {
			p.looked = false
		}
		for _, w := range s.windows {
			w.stale = true
		}
	}
	paused := m.pausedIn(so) || m.policy.GetPaused()
	for _, p := range s.processes {
		if !s.unmatched && !m.changed {
			break
		}
		if !p.looked {
			s.unmatched = true
			program := m.matchProcess(p)
			if !paused {
				m.sight(program, p.match, p.matched)
			}
		}
	}
	m.matchBrief(s, paused)
	for _, w := range s.windows {
		switch {
		case paused:
		case !w.looked || w.stale:
			m.look(s, w)
		case w.again != never && m.now >= w.again:
			m.lookAgain(s, w)
		}
	}
	for _, w := range s.windows {
		s.own(w)
	}
	s.front = so.Foreground
}

// matchBrief finds the applications of what came and went. One that none claims is of no
// interest: a shell starts hundreds.
func (m *Machine) matchBrief(s *session, paused bool) {
	claimed := false
	for _, p := range s.brief {
		program := m.matchProcess(p)
		if !p.matched {
			continue
		}
		claimed = true
		if !paused {
			m.sight(program, p.match, p.matched)
		}
	}
	if !claimed {
		s.brief = nil
		return
	}
	s.unmatched = true
	s.trace(nil)
	s.prune() // the list may stay what it is for days, while short lives come and go
}

// matchProcess finds the application of a process.
func (m *Machine) matchProcess(p *process) rules.Program {
	program := rules.Program{Executable: p.Executable, Path: p.Path, Package: p.Package}
	p.match, p.matched = m.matcher.Match(program)
	p.looked, p.attached = true, false
	return program
}

func (s *session) listProcesses(listed []Process) {
	before, byPIDBefore, exitedBefore := s.processes, s.byPID, s.exited
	s.processes = make(map[ProcessKey]*process, len(listed))
	s.byPID = make(map[int32]*process, len(listed))
	s.exited = nil
	for _, lp := range listed {
		p := before[lp.Key()]
		if p == nil || p.Executable != lp.Executable || p.Path != lp.Path || p.Package != lp.Package {
			p = &process{Process: lp, became: p != nil}
		}
		if lp.ExitMillis > 0 {
			if s.exited == nil {
				s.exited = map[ProcessKey]int64{}
			}
			s.exited[lp.Key()] = lp.ExitMillis
			if _, again := exitedBefore[lp.Key()]; p.ExitMillis > 0 && !again {
				s.brief = append(s.brief, p)
			}
			continue
		}
		s.processes[lp.Key()] = p
		s.byPID[lp.PID] = p
	}
	s.gone = make(map[int32]ProcessKey)
	for _, p := range byPIDBefore {
		if key := p.Key(); s.processes[key] == nil {
			s.gone[key.PID] = key
		}
	}
	s.trace(byPIDBefore)
	s.prune()
	for _, w := range s.windows {
		s.ownerOf(w)
	}
}

// prune lets go of what is known of the ancestry of nobody who is left.
func (s *session) prune() {
	needed := make(map[ProcessKey]bool, len(s.processes))
	need := func(key ProcessKey) {
		for range maxParents {
			if needed[key] {
				break
			}
			needed[key] = true
			parent, there := s.lineage[key]
			if !there {
				break
			}
			key = parent
		}
	}
	for key := range s.processes {
		need(key)
	}
	for _, p := range s.brief {
		need(p.Key())
	}
	for key := range s.lineage {
		if !needed[key] {
			delete(s.lineage, key)
		}
	}
	for _, i := range s.Instances {
		i.Past = slices.DeleteFunc(i.Past, func(k ProcessKey) bool { return !needed[k] })
	}
}

// trace notes the parents of processes that are new; byPIDBefore are those that ran at the
// listing before this one.
func (s *session) trace(byPIDBefore map[int32]*process) {
	if s.lineage == nil {
		s.lineage = map[ProcessKey]ProcessKey{}
	}
	brief := make(map[int32]*process, len(s.brief))
	for _, p := range s.brief {
		brief[p.PID] = p
	}
	find := func(p *process) {
		key := p.Key()
		if _, there := s.lineage[key]; there {
			return
		}
		for _, pids := range []map[int32]*process{s.byPID, brief, byPIDBefore} {
			parent := pids[p.ParentPID]
			if parent != nil && parent.StartMillis <= p.StartMillis && parent.Key() != key && (parent.ExitMillis == 0 || parent.ExitMillis >= p.StartMillis) {
				s.lineage[key] = parent.Key()
				return
			}
		}
	}
	for _, p := range s.processes {
		find(p)
	}
	for _, p := range s.brief {
		find(p)
	}
}

func (s *session) listWindows(listed []Window) {
	before := s.windows
	s.windows = make(map[uint64]*window, len(listed))
	s.order = s.order[:0]
	for _, lw := range listed {
		if lw.ID == 0 || s.windows[lw.ID] != nil {
			continue
		}
		w := before[lw.ID]
		switch {
		case w == nil:
			w = &window{Window: lw}
		case w.PID != lw.PID:
			w = &window{Window: lw}
		case w.Title != lw.Title || w.Class != lw.Class || w.Auxiliary != lw.Auxiliary:
			w.Window, w.looked = lw, false
		default:
			w.Window = lw
		}
		s.windows[lw.ID] = w
		s.order = append(s.order, lw.ID)
		s.ownerOf(w)
	}
}

// ownerOf notes which process owns a window; a change asks for a new look.
func (s *session) ownerOf(w *window) {
	p := s.byPID[w.PID]
	if w.PID == 0 || p == nil {
		// A process that has just gone keeps its window until that goes too.
		if key, gone := s.justGone(w.PID); gone && !w.known {
			w.process, w.known = key, true
		}
		return
	}
	if !w.known || w.process != p.Key() || w.executable != p.Executable {
		w.process, w.known, w.executable, w.looked = p.Key(), true, p.Executable, false
	}
}

// justGone finds a process by its number that the last list did not have any more.
func (s *session) justGone(pid int32) (key ProcessKey, gone bool) {
	if key, gone = s.gone[pid]; gone {
		return key, true
	}
	for _, p := range s.brief {
		if p.PID == pid {
			return p.Key(), true
		}
	}
	return key, false
}

// outlives tells whether a window is still there though its process is gone: it will go
// as well, and belongs to nothing that it did not belong to before.
func (s *session) outlives(w *window) bool { return w.known && s.processes[w.process] == nil }

// look matches a window, and reduces the name of its document.
func (m *Machine) look(s *session, w *window) {
	program := rules.Program{WindowClass: w.Class, Title: w.Title}
	if p := s.processes[w.process]; w.known && p != nil {
		program.Executable, program.Path, program.Package = p.Executable, p.Path, p.Package
	}
	w.match, w.matched = m.matcher.Match(program)
	w.looked, w.stale, w.attached = true, false, false
	if w.matched || program.Executable != "" {
		m.sight(program, w.match, w.matched)
	}
	m.lookAtDocument(s, w)
}

// lookAtDocument finds out a window's document, and reduces it.
func (m *Machine) lookAtDocument(s *session, w *window) {
	before, whole := w.said, w.found
	w.said, w.found = rules.Document{}, found{}
	w.document, w.label, w.named, w.recognised = contract.ID{}, "", false, recognised{}
	w.again = never
	if !w.matched || !w.match.Application.Documents || w.Auxiliary {
		return
	}
	w.said = w.match.Document
	w.said.Modified = false
	if w.nothingKept() {
		w.recognised.Source = usagev1.DocumentSource_DOCUMENT_SOURCE_WINDOW
		if !w.match.Application.Asks {
			return
		}
	}
	if w.said.Name == "" {
		return
	}
	if w.said == before && whole != (found{}) {
		w.found = whole
	} else {
		w.found = m.findOut(s, w, w.said)
		if w.found.file && w.found.Confidence != usagev1.DocumentConfidence_DOCUMENT_CONFIDENCE_HIGH {
			w.again = m.now + secondLook
		}
	}
	m.reduceDocument(s, w)
}

// secondLook is how long after a new title, in milliseconds, its file is looked for once
// more: many programs show a name before they have opened the file, and terminals before
// they have started the program in them.
const secondLook = 2_000

// lookAgain looks once more for a file of which not everything is known yet.
func (m *Machine) lookAgain(s *session, w *window) {
	w.again = never
	if p := s.processes[w.process]; w.known && p != nil {
		delete(p.files, asked(w.said))
	}
	w.found = m.findOut(s, w, w.said)
	m.reduceDocument(s, w)
}

// reduceDocument cuts what was found out down to what policy lets out of memory.
func (m *Machine) reduceDocument(s *session, w *window) {
	if w.nothingKept() {
		return
	}
	w.recognised = w.found.recognised
	w.document, w.label, w.named = reduce(w.match.Application.Reduction, m.policy.GetDocumentKey(), w.found, runOf(s, w))
}

// nothingKept tells whether policy keeps nothing of the documents of a matched window.
func (w *window) nothingKept() bool {
	return w.match.Application.Reduction == policyv1.DocumentReduction_DOCUMENT_REDUCTION_NOTHING
}

// mayShowDocument tells whether a window is one of those that show documents.
func (w *window) mayShowDocument() bool {
	return w.looked && w.matched && w.owner == w.ID && !w.Auxiliary && w.match.Application.Documents
}

// hasDocument tells whether a window shows a document: a title may say that there is
// none, or that the window is private.
func (w *window) hasDocument() bool {
	if !w.mayShowDocument() {
		return false
	}
	if w.nothingKept() {
		return w.said.Kind != rules.NoDocument && w.said.Kind != rules.Private
	}
	return w.named
}

// own finds the window that decides to what a window belongs: the highest metered one
// of those that it is a dialog of, else itself.
func (s *session) own(w *window) {
	w.owner = w.ID
	at := w
	for range maxParents {
		parent := s.windows[at.Parent]
		if parent == nil || parent == w {
			return
		}
		if parent.matched {
			w.owner = parent.ID
		}
		at = parent
	}
}

// exits finds the instances whose last holder goes within a step.
func (m *Machine) exits(s *session, st step) {
	for _, i := range s.Instances {
		if i.Track.Closed != never {
			continue
		}
		i.exit, i.exitReason = never, 0
		last := never
		gone := slices.DeleteFunc(slices.Clone(i.Holders), func(h holder) bool { return m.alive(s, i, h) })
		if len(gone) == 0 && len(i.Holders) > 0 {
			continue
		}
		if len(gone) == len(i.Holders) {
			reason := usagev1.Reason_REASON_UNSPECIFIED
			for _, h := range gone {
				at, removed := m.goneAt(s, h, st)
				if removed && m.changed {
					reason = usagev1.Reason_REASON_POLICY_REMOVED
				}
				last = max(last, at)
			}
			i.exit, i.exitReason = max(last, st.from), reason
			continue
		}
		i.Holders = slices.DeleteFunc(i.Holders, func(h holder) bool { return slices.Contains(gone, h) })
		for _, h := range gone {
			if !h.isWindow() {
				i.Past = append(i.Past, h.Process)
			}
		}
	}
}

// alive tells whether a holder still keeps its instance open.
func (m *Machine) alive(s *session, i *instance, h holder) bool {
	if m.changed {
		application := m.application(i.Application)
		if application == nil || application.Scope != i.Scope {
			return false
		}
	}
	if h.isWindow() {
		w := s.windows[h.Window]
		return w != nil && (!w.looked || w.matched && w.owner == w.ID && w.match.Application.ID == i.Application)
	}
	p := s.processes[h.Process]
	if p == nil {
		return false
	}
	if p.matched && p.match.Application.ID == i.Application {
		return true
	}
	if !h.ByWindow {
		return m.shows(s, h.Process, i.Application)
	}
	application, there := m.matcher.HasRule(h.Rule)
	return there && application.ID == i.Application || m.shows(s, h.Process, i.Application)
}

// shows tells whether a process has a window of an application.
func (m *Machine) shows(s *session, key ProcessKey, application contract.ID) bool {
	for _, w := range s.windows {
		if w.known && w.process == key && w.matched && w.owner == w.ID && w.match.Application.ID == application {
			return true
		}
	}
	return false
}

// goneAt is when a holder went, or became another program; removed: it is still there but
// matches no more.
func (m *Machine) goneAt(s *session, h holder, st step) (at int64, removed bool) {
	if h.isWindow() {
		return st.to, s.windows[h.Window] != nil
	}
	if at, told := s.exited[h.Process]; told {
		return min(max(at, st.from), st.to), false
	}
	p := s.processes[h.Process]
	if p != nil && p.became && p.ProgramMillis > st.from && !m.changed {
		return min(p.ProgramMillis, st.to), false
	}
	return st.to, p != nil
}

func (m *Machine) application(id contract.ID) *rules.Application {
	for _, a := range m.matcher.Applications() {
		if a.ID == id {
			return a
		}
	}
	return nil
}

// apply makes what a session shows hold from now on.
func (m *Machine) apply(s *session, so *Session, fresh bool) {
	m.setBase(s, so)
	if s.processes == nil {
		m.list(s, so)
	}
	if m.changed {
		m.adopt(s)
	}
	m.setAccess(s, so.Access)
	m.attachProcesses(s, fresh)
	m.attachWindows(s, fresh)
	m.setFront(s)
	m.setDocuments(s)
	s.brief = nil
	s.forget(m.now - LateStart)
	// The first moment that is watched counts, what was before does not.
	if so.LastInputMillis == m.now && s.LastInput < m.now && !so.InputUnsupported {
		s.LastInput = m.now
		if !s.base.breaks() {
			m.input(s, m.now)
		}
	}
}

// pausedIn tells whether a session is paused by its person, or with all of the machine.
func (m *Machine) pausedIn(so *Session) bool { return m.pausedByPerson || so.PausedByPerson }

// setBase notes what holds for the session as a whole.
func (m *Machine) setBase(s *session, so *Session) {
	s.base, s.baseReason = rawBehind, why{}
	switch {
	case so.FocusUnsupported:
		s.base, s.baseReason = rawUnknown, because(usagev1.Reason_REASON_FOCUS_UNSUPPORTED)
	case m.pausedIn(so):
		s.base, s.baseReason = rawPaused, why{usagev1.Reason_REASON_PAUSED_BY_PERSON, so.PauseReason}
	case m.policy.GetPaused():
		s.base, s.baseReason = rawPaused, because(usagev1.Reason_REASON_PAUSED_BY_POLICY)
	case so.Locked || so.Disconnected:
		s.base = rawAway
	}
	s.inputUnsupported = so.InputUnsupported
	if s.base.breaks() || s.inputUnsupported {
		m.breakStretch(s)
	}
}

// setAccess notes where a session is shown, which cuts what is open. What a crash slot or
// the journal says of each track may be older than what it says of another.
func (m *Machine) setAccess(s *session, access usagev1.SessionAccess) {
	s.access = access
	for _, i := range s.Instances {
		for t := range i.tracks {
			t.show(access)
		}
	}
}

func (m *Machine) settingsOf(a *rules.Application, rule contract.ID, access usagev1.SessionAccess) settings {
	return settings{Rule: rule, Revision: m.revision, Gap: a.ActivityGapMillis, Timeout: a.TimeoutMillis, Access: access}
}

// adopt gives what is open, and what may be continued, the settings of a new policy.
func (m *Machine) adopt(s *session) {
	for _, i := range s.Instances {
		a := m.application(i.Application)
		if a == nil {
			continue
		}
		rule := i.Track.latest().Rule
		for n, h := range i.Holders {
			if p := s.processes[h.Process]; !h.isWindow() && p != nil && p.matched && p.match.Application.ID == i.Application {
				i.Holders[n].Rule, i.Holders[n].ByWindow = p.match.RuleID, false
				rule = p.match.RuleID
			}
		}
		e := m.emitter(s, i)
		for t := range i.tracks {
			before := t.latest()
			after := m.settingsOf(a, rule, before.Access)
			t.change(after, before.Rule != after.Rule || before.Gap != after.Gap || before.Timeout != after.Timeout)
			t.judge(e)
		}
	}
}

func (m *Machine) attachProcesses(s *session, fresh bool) {
	if !s.unmatched {
		return
	}
	s.unmatched = false
	var joining []*process
	join := func(p *process) {
		if p.matched && !p.attached && p.match.Application.Scope != policyv1.InstanceScope_INSTANCE_SCOPE_WINDOW {
			joining = append(joining, p)
		}
		p.attached = true
	}
	for _, p := range s.processes {
		join(p)
	}
	if !fresh && !m.changed { // what was before nobody watched, or another policy held for
		for _, p := range s.brief {
			join(p)
		}
	}
	// Ancestors first, so that a tree gathers in one instance.
	slices.SortFunc(joining, func(a, b *process) int {
		return cmp.Or(cmp.Compare(a.StartMillis, b.StartMillis), cmp.Compare(a.PID, b.PID))
	})
	for _, p := range joining {
		if p.ExitMillis > 0 {
			m.attachBrief(s, p)
			continue
		}
		m.attach(s, p.match.Application, holder{Process: p.Key(), Rule: p.match.RuleID}, fresh)
	}
}

// since is the boot time from which a process counts, where it is told for the first time
// as this program; ok is false where that is not known, or longer ago than remembered.
func (s *session) since(p *process) (at int64, ok bool) {
	at = p.ProgramMillis
	if at == 0 && !p.became {
		at = p.StartMillis
	}
	return at, (at > 0 || !p.became) && at >= s.remembered
}

// attachBrief gives the time of a process that has come and gone to the instance that it
// belongs to, or to one of its own.
func (m *Machine) attachBrief(s *session, p *process) {
	from, known := s.since(p)
	to := min(p.ExitMillis, m.now)
	if !known && p.became {
		return // it is not known how long it ran this program
	}
	from = max(from, s.remembered)
	a := p.match.Application
	i := m.instanceOfBrief(s, a, p, from, to)
	switch {
	case i == nil && from >= to:
		return
	case i == nil:
		i = m.open(s, a, holder{Process: p.Key(), Rule: p.match.RuleID}, from, to)
		i.Holders = nil
	case i.Track.Closed != never:
		i.Track.goOnUntil(m.emitter(s, i), to)
		m.slotDue = true
	}
	i.Past = append(i.Past, p.Key())
}

// instanceOfBrief finds the instance that a process belongs to that has come and gone. It
// may be one that opened after it and is told already, since what is told of the start of
// a process may come later than what a look finds: then the process was its launcher.
func (m *Machine) instanceOfBrief(s *session, a *rules.Application, p *process, from, to int64) *instance {
	if i := m.instanceOf(s, a, holder{Process: p.Key(), Rule: p.match.RuleID}); i != nil {
		return i
	}
	for _, i := range s.Instances {
		if i.Application == a.ID && i.Scope == a.Scope && a.Scope == policyv1.InstanceScope_INSTANCE_SCOPE_PROCESS_TREE &&
			!i.Track.Done && i.Track.CloseReason == 0 && i.Track.Opened >= from && i.Track.Opened <= to+HandOver {
			return i
		}
	}
	return nil
}

func (m *Machine) attachWindows(s *session, fresh bool) {
	for _, id := range s.order {
		w := s.windows[id]
		if !w.looked || !w.matched || w.owner != w.ID {
			w.attached = false
			continue
		}
		if !w.attached && !s.outlives(w) {
			m.attach(s, w.match.Application, s.holderOf(w), fresh)
			w.attached = true
		}
	}
}

// holderOf is what a metered window keeps an instance open by.
func (s *session) holderOf(w *window) holder {
	if w.match.Application.Scope == policyv1.InstanceScope_INSTANCE_SCOPE_WINDOW || !w.known || s.outlives(w) {
		return holder{Window: w.ID, Rule: w.match.RuleID}
	}
	return holder{Process: w.process, Rule: w.match.RuleID, ByWindow: w.match.ByWindow}
}

// attach makes a process or window a holder of the instance that it belongs to, which
// opens where there is none.
func (m *Machine) attach(s *session, a *rules.Application, h holder, fresh bool) {
	if i := m.instanceOf(s, a, h); i != nil {
		if i.Track.Closed != never {
			i.Track.reopen(m.emitter(s, i))
			m.slotDue = true
		}
		if !slices.ContainsFunc(i.Holders, func(there holder) bool { return there.Process == h.Process && there.Window == h.Window }) {
			i.Holders = append(i.Holders, h)
			m.slotDue = true
		}
		return
	}
	opened := m.now
	if p := s.processes[h.Process]; p != nil && !h.isWindow() && !h.ByWindow && !fresh && !m.changed {
		if at, known := s.since(p); known {
			opened = min(at, m.now)
		}
	}
	m.open(s, a, h, opened, never)
}

// instanceOf finds the instance that a holder belongs to.
func (m *Machine) instanceOf(s *session, a *rules.Application, h holder) *instance {
	var handed *instance
	for _, i := range s.Instances {
		if i.Application != a.ID || i.Scope != a.Scope || i.Track.Done {
			continue
		}
		open := i.Track.Closed == never
		switch {
		case a.Scope == policyv1.InstanceScope_INSTANCE_SCOPE_SESSION:
			if open {
				return i
			}
		case h.isWindow():
			if open && slices.ContainsFunc(i.Holders, func(there holder) bool { return there.Window == h.Window }) {
				return i
			}
		case open && s.related(i, h.Process):
			return i
		case !open && i.continuable(h.Process.StartMillis):
			if handed == nil || i.Track.Closed > handed.Track.Closed {
				handed = i
			}
		}
	}
	return handed
}

// openInstanceOf finds the open instance that a matched window belongs to; nil: there is none.
func (m *Machine) openInstanceOf(s *session, w *window) *instance {
	if i := m.instanceOf(s, w.match.Application, s.holderOf(w)); i != nil && i.Track.Closed == never {
		return i
	}
	return nil
}

// openDocument finds the open document that a window shows; nil: there is none.
func (i *instance) openDocument(w *window) *track {
	for _, d := range i.Documents {
		if d.Closed == never && d.isOf(w) {
			return d
		}
	}
	return nil
}

// related tells whether a process descends from one that holds or held an instance,
// or one that holds it descends from the process.
func (s *session) related(i *instance, key ProcessKey) bool {
	at := key
	for range maxParents {
		if i.holds(at) || slices.Contains(i.Past, at) {
			return true
		}
		parent, there := s.lineage[at]
		if !there {
			break
		}
		at = parent
	}
	for _, h := range i.Holders {
		at := h.Process
		for range maxParents {
			if at == key {
				return true
			}
			parent, there := s.lineage[at]
			if !there {
				break
			}
			at = parent
		}
	}
	return false
}

// open begins an instance at a moment that may have passed; closed is when it was over
// again, never if it is not.
func (m *Machine) open(s *session, a *rules.Application, h holder, opened, closed int64) *instance {
	i := &instance{
		ID: m.newID(), Application: a.ID, Scope: a.Scope, Holders: []holder{h},
		Track: newTrack(contract.ID{}, opened, m.settingsOf(a, h.Rule, s.access)), exit: never,
	}
	i.Track.Closed = closed
	s.Instances = append(s.Instances, i)
	e := m.emitter(s, i)
	for _, p := range s.history {
		if p.To > i.Track.Cursor {
			i.Track.show(p.Access)
		}
		i.Track.feed(e, p.Raw, p.Reason, p.To)
	}
	i.Track.show(s.access)
	i.Track.feed(e, rawBehind, why{}, m.now)
	i.Track.LastInput = s.Stretch
	m.slotDue = true
	return i
}

// setFront finds the instance and the document that are in front.
func (m *Machine) setFront(s *session) {
	front := s.windows[s.front]
	for _, i := range s.Instances {
		i.inFront, i.frontWindow = false, 0
	}
	if front == nil || s.base.breaks() {
		return
	}
	owner := s.windows[front.owner]
	if owner == nil || !owner.looked || !owner.matched {
		return
	}
	if i := m.openInstanceOf(s, owner); i != nil {
		i.inFront, i.frontWindow = true, owner.ID
	}
}

// wanted gives the windows that documents are open in, by instance.
func (m *Machine) wanted(s *session) map[*instance][]*window {
	wanted := map[*instance][]*window{}
	for _, id := range s.order {
		w := s.windows[id]
		if !w.hasDocument() {
			continue
		}
		if i := m.openInstanceOf(s, w); i != nil {
			wanted[i] = append(wanted[i], w)
		}
	}
	return wanted
}

// setDocuments opens and closes documents as the windows show them.
func (m *Machine) setDocuments(s *session) {
	wanted := m.wanted(s)
	for _, i := range s.Instances {
		if i.Track.Closed != never {
			continue
		}
		m.setInstanceDocuments(s, i, wanted[i])
	}
}

func (m *Machine) setInstanceDocuments(s *session, i *instance, wanted []*window) {
	for _, d := range i.Documents {
		if d.Closed == never && !slices.ContainsFunc(wanted, func(w *window) bool { return d.isOf(w) }) {
			d.close(m.now, 0)
			m.slotDue = true
		}
	}
	for _, w := range wanted {
		if d := i.openDocument(w); d != nil {
			if w.recognised.Confidence > d.Recognised.Confidence {
				d.Recognised = w.recognised
			}
			continue
		}
		// Where one process takes over from another at once, the document was never shut.
		if n := slices.IndexFunc(i.Documents, func(d *track) bool {
			return d.Closed == m.now && d.CloseReason == 0 && !d.Done && d.isOf(w)
		}); n >= 0 {
			i.Documents[n].reopen(m.emitter(s, i))
			continue
		}
		id, owner := w.document, uint64(0)
		if !w.named {
			id, owner = m.newID(), w.ID
		}
		d := newTrack(id, m.now, i.Track.latest())
		d.Window, d.Recognised = owner, w.recognised
		d.LastInput = s.Stretch
		for _, earlier := range i.Documents {
			if earlier.Document == id {
				d.after = earlier
			}
		}
		i.Documents = append(i.Documents, d)
		m.slotDue = true
		if w.label != "" {
			m.out.Labels = append(m.out.Labels, Label{DocumentID: id, Alias: s.Alias, Name: w.label})
		}
	}
	i.frontDocument = contract.ID{}
	front := s.windows[i.frontWindow]
	if !i.inFront || front == nil {
		return
	}
	for _, d := range i.Documents {
		switch {
		case d.Closed != never:
		case front.Auxiliary:
			// A palette works on the document that was used last.
			if d.Document == i.lastDocument {
				i.frontDocument = d.Document
			}
		case d.isOf(front):
			i.frontDocument, i.lastDocument = d.Document, d.Document
		}
	}
}

// isOf tells whether a document track is that of a window.
func (t *track) isOf(w *window) bool {
	if w.named {
		return t.Window == 0 && t.Document == w.document
	}
	return t.Window == w.ID
}
