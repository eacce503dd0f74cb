package prompt

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"github.com/cetrus/cetrus/proto/expense"
)

// KeyName is a key that does something else than write.
type KeyName int

// The keys that the model knows.
const (
	// Rune writes Key.Rune.
	Rune KeyName = iota
	Enter
	Escape
	Tab
	BackTab
	Up
	Down
	PageUp
	PageDown
	Left
	Right
	Home
	End
	Backspace
	Delete
)

// Key is one press of a key.
type Key struct {
	Name KeyName
	Rune rune
	// Alt is held: with a rune it is a shortcut.
	Alt bool
	// Control is held.
	Control bool
}

// Element is something that can have the focus: the fields in their order, the box "the
// same for all" where other questions wait, then the buttons.
type Element int

// The buttons, behind the fields and the box; see Model.button.
const (
	acceptButton = iota
	notChargeableButton
	laterButton
	buttons
)

// The buttons of a notice.
const (
	seenButton = iota
	unseenButton
	noticeButtons
)

// page is how many entries of a list are shown.
const page = 6

// Model is the state of a prompt. It knows no window and no clock.
type Model struct {
	request Request
	fields  []fieldState
	focus   Element
	problem string
	answer  *Answer
	// forAll: the answer is for the other questions too.
	forAll bool
	// followed is the worker whose recent choice is filled in; -1: nobody's.
	followed int
	// scrolled is how many lines of a notice are above what is shown; the painter, who
	// knows how many there are, keeps it within them.
	scrolled int
	// away: keys go elsewhere, so no focus is shown.
	away bool
}

// fieldState is what is in a field.
type fieldState struct {
	text   []rune
	cursor int
	// all is selected: what is written replaces it.
	selected bool
	// chosen is the option taken; -1: none.
	chosen int
	// open shows the list of the options that match; at is the one marked, first the
	// first shown.
	open    bool
	matches []int
	at      int
	first   int
	folded  []string // labels as they are compared; made when first needed
	check   *expense.Check
	// touched: the person has filled it in, so nothing else does. tried: they went on
	// from it, so what is wrong with it is said as a fault and not as advice.
	touched, tried bool
}

// NewModel gives the prompt of a question, with the first field in focus that is empty and
// required or filled in with what is not valid any more, or else the first one.
func NewModel(r Request) (*Model, error) {
	if err := r.Check(); err != nil {
		return nil, err
	}
	m := &Model{request: r, fields: make([]fieldState, len(r.Fields)), followed: -1}
	for i, f := range r.Fields {
		s := &m.fields[i]
		var err error
		if s.check, err = f.Limits.Compile(); err != nil {
			return nil, fmt.Errorf("prompt: the field %q: %w", f.Key, err)
		}
		m.fill(i, f.Value)
		if f.Kind == Worker {
			m.followed = s.chosen
		}
	}
	m.focus = 0
	if r.Notice != nil {
		return m, nil
	}
	if missing, _ := m.missing(Chosen); missing >= 0 {
		m.focus = Element(missing)
		m.fields[missing].tried = m.invalid(missing) != ""
	}
	m.enter()
	return m, nil
}

// fill fills a field in with an option's ID or a text.
func (m *Model) fill(i int, value string) {
	f, s := m.request.Fields[i], &m.fields[i]
	s.chosen, s.text, s.selected = -1, nil, false
	if n, known := f.option(value); known {
		s.take(f, n)
	} else if f.Kind == Text || f.Kind == Project && m.request.ProposeAllowed {
		s.text = clean(value)
	}
	s.cursor = len(s.text)
}

// follow fills the fields that nobody has touched in with what the worker who was chosen
// now had chosen last.
func (m *Model) follow() {
	for i, f := range m.request.Fields {
		s := &m.fields[i]
		if f.Kind != Worker || s.chosen < 0 || s.chosen == m.followed {
			continue
		}
		m.followed = s.chosen
		recent := m.request.Recent[f.Options[s.chosen].ID]
		for n, other := range m.request.Fields {
			if n != i && !m.fields[n].touched {
				m.fill(n, recent[other.Key])
			}
		}
	}
}

// invalid says what is wrong with the text of a field; empty: nothing is, or there is none.
func (m *Model) invalid(i int) string {
	f, s := m.request.Fields[i], &m.fields[i]
	if s.chosen >= 0 || f.Kind != Text && (f.Kind != Project || !m.request.ProposeAllowed) {
		return ""
	}
	return s.check.Problem(f.Label, s.value())
}

// faulty tells whether a field shows that it is not valid.
func (m *Model) faulty(i int) bool { return m.fields[i].tried && m.invalid(i) != "" }

// said is what the prompt says below its fields; fault: something is wrong, otherwise it is
// advice to somebody who is still writing.
func (m *Model) said() (text string, fault bool) {
	if m.problem != "" {
		return m.problem, true
	}
	if int(m.focus) < len(m.fields) {
		if text := m.invalid(int(m.focus)); text != "" {
			return text, m.faulty(int(m.focus))
		}
	}
	for i := range m.fields {
		if m.faulty(i) {
			return m.invalid(i), true
		}
	}
	return "", false
}

// Answer is what the person has said; nil while they have not.
func (m *Model) Answer() *Answer { return m.answer }

// Focus is what has the keyboard.
func (m *Model) Focus() Element { return m.focus }

// shows tells whether an element is to be seen to have the focus.
func (m *Model) shows(e Element) bool { return m.focus == e && !m.away }

// elements is how many there are; where the application waits there is no "later".
func (m *Model) elements() int {
	if m.request.Notice != nil {
		return noticeButtons
	}
	if m.request.Waiting {
		return int(m.button(buttons)) - 1
	}
	return int(m.button(buttons))
}

// hasBox tells whether there is the box "the same for all", behind the fields.
func (m *Model) hasBox() bool { return m.request.Others > 0 }

func (m *Model) box() Element { return Element(len(m.fields)) }

func (m *Model) button(n int) Element {
	if m.hasBox() {
		n++
	}
	return Element(len(m.fields) + n)
}

// field is the field in focus; nil where a button is.
func (m *Model) field() (*fieldState, Field) {
	if int(m.focus) >= len(m.fields) {
		return nil, Field{}
	}
	return &m.fields[m.focus], m.request.Fields[m.focus]
}

// Press takes in one key.
func (m *Model) Press(k Key) {
	if m.answer != nil {
		return
	}
	if m.request.Notice != nil {
		m.readOn(k)
		return
	}
	defer m.follow()
	s, f := m.field()
	switch k.Name {
	case Rune:
		m.write(s, f, k)
	case Enter:
		m.confirm(s, f)
	case Escape:
		switch {
		case s != nil && s.open:
			m.shut(s, f)
		case !m.request.Waiting:
			m.later()
		default:
			m.problem = fmt.Sprintf("%s waits for your choice.", m.request.Application)
		}
	case Tab:
		m.move(1)
	case BackTab:
		m.move(-1)
	default:
		if s == nil {
			m.moveButtons(k)
			return
		}
		s.edit(f, k)
		m.problem = ""
	}
}

// readOn takes in a key in front of a notice.
func (m *Model) readOn(k Key) {
	switch k.Name {
	case Enter:
		m.closeNotice()
	case Escape:
		m.answer = &Answer{Outcome: Later}
	case Tab, BackTab, Left, Right:
		m.focus = (m.focus + 1) % noticeButtons
	case Up:
		m.scrolled--
	case Down:
		m.scrolled++
	case PageUp:
		m.scrolled -= noticeLines - 1
	case PageDown:
		m.scrolled += noticeLines - 1
	case Home:
		m.scrolled = 0
	case End:
		m.scrolled = MaxNoticeBytes
	case Rune:
		if k.Rune == ' ' && !k.Alt && !k.Control {
			m.closeNotice()
		}
	default:
	}
	m.scrolled = max(0, m.scrolled)
}

func (m *Model) closeNotice() {
	m.answer = &Answer{Outcome: Seen}
	if m.focus == unseenButton {
		m.answer.Outcome = Later
	}
}

// moveButtons lets arrows go from button to button.
func (m *Model) moveButtons(k Key) {
	switch k.Name {
	case Left, Up:
		m.move(-1)
	case Right, Down:
		m.move(1)
	default:
	}
}

// Point takes in a click on an element; entry is which of the shown entries of its
// open list was meant, -1 where none.
func (m *Model) Point(e Element, entry int) {
	if m.answer != nil || e < 0 || int(e) >= m.elements() {
		return
	}
	defer m.follow()
	if e != m.focus {
		m.leave()
		m.focus = e
		m.enter()
	}
	s, f := m.field()
	switch {
	case m.request.Notice != nil:
		m.closeNotice()
	case m.hasBox() && e == m.box():
		m.forAll = !m.forAll
	case s == nil:
		m.confirm(nil, Field{})
	case entry >= 0 && s.open && s.first+entry < len(s.matches):
		s.take(f, s.matches[s.first+entry])
		s.open, s.touched = false, true
	case f.Kind != Text && !s.open:
		s.show(f)
	default:
		m.shut(s, f)
	}
}

// write puts a rune into the field in focus.
func (m *Model) write(s *fieldState, f Field, k Key) {
	switch {
	case k.Alt:
		switch {
		case unicode.ToLower(k.Rune) == 'n':
			m.finish(NotChargeable)
		case unicode.ToLower(k.Rune) == 's' && m.hasBox():
			m.forAll = !m.forAll
		}
		return
	case k.Control:
		if s != nil && unicode.ToLower(k.Rune) == 'a' {
			s.selected = len(s.text) > 0
		}
		return
	case s == nil:
		switch {
		case k.Rune != ' ':
		case m.hasBox() && m.focus == m.box():
			m.forAll = !m.forAll
		default:
			m.confirm(nil, Field{})
		}
		return
	case !printable(k.Rune):
		return
	}
	m.problem, s.touched = "", true
	s.replaceSelected()
	if len(s.text) < MaxText {
		s.text = slices.Insert(s.text, s.cursor, k.Rune)
		s.cursor++
	}
	s.changed(f)
}

// confirm is Enter.
func (m *Model) confirm(s *fieldState, f Field) {
	if s != nil && s.open && s.at < len(s.matches) && (len(s.text) > 0 || s.chosen >= 0) {
		s.take(f, s.matches[s.at])
	}
	if s != nil {
		s.open = false
	}
	switch m.focus {
	case m.button(notChargeableButton):
		m.finish(NotChargeable)
	case m.button(laterButton):
		m.later()
	default:
		m.finish(Chosen)
	}
}

func (m *Model) later() { m.answer = &Answer{Outcome: Later, ForAll: m.forAll} }

// finish gives the answer, or says what it lacks and goes there.
func (m *Model) finish(outcome Outcome) {
	m.leave()
	m.follow() // leaving may have taken a worker
	if field, problem := m.missing(outcome); field >= 0 {
		m.problem, m.focus = problem, Element(field)
		m.fields[field].tried = true
		m.enter()
		return
	}
	a := &Answer{Outcome: outcome, Values: map[string]string{}, ForAll: m.forAll}
	for i, f := range m.request.Fields {
		s := &m.fields[i]
		if outcome == NotChargeable && f.Kind != Worker {
			continue
		}
		switch value := s.value(); {
		case value == "":
		case s.chosen >= 0:
			a.Values[f.Key] = f.Options[s.chosen].ID
		default:
			a.Values[f.Key] = s.check.Kept(value)
			if f.Kind == Project {
				a.Proposed = append(a.Proposed, f.Key)
			}
		}
	}
	m.answer = a
}

// missing is the first field that keeps the prompt from an outcome; -1: none.
func (m *Model) missing(outcome Outcome) (field int, problem string) {
	for i, f := range m.request.Fields {
		s := &m.fields[i]
		if outcome == NotChargeable && f.Kind != Worker {
			continue
		}
		value := s.value()
		switch {
		case value == "" && f.Required:
			return i, fmt.Sprintf("Please fill in “%s”.", f.Label)
		case m.invalid(i) != "":
			return i, m.invalid(i)
		case value == "" || f.Kind == Text || s.chosen >= 0:
		case f.Kind == Project && m.request.ProposeAllowed:
		default:
			return i, fmt.Sprintf("“%s” is not in the list.", value)
		}
	}
	return -1, ""
}

// move gives the focus to the next element, or the one before.
func (m *Model) move(by int) {
	m.leave()
	n := m.elements()
	m.focus = Element((int(m.focus) + by + n) % n)
	m.enter()
}

// leave settles the field in focus: of a list that is open, the marked entry
// is taken.
func (m *Model) leave() {
	if s, f := m.field(); s != nil {
		m.shut(s, f)
		s.tried = true
	}
}

// enter selects what is in the field, so that writing replaces it.
func (m *Model) enter() {
	if s, _ := m.field(); s != nil {
		s.selected, s.cursor = len(s.text) > 0, len(s.text)
	}
}

// shut closes a list. What was written and fits an entry becomes it; own words
// stay where they may be proposed.
func (m *Model) shut(s *fieldState, f Field) {
	if s.open && s.chosen < 0 && len(s.text) > 0 && len(s.matches) > 0 && (f.Kind != Project || !m.request.ProposeAllowed) {
		s.take(f, s.matches[s.at])
	}
	s.open = false
}

// value is what a field says: the label of the option taken, or text.
func (s *fieldState) value() string { return strings.TrimSpace(string(s.text)) }

func (s *fieldState) take(f Field, option int) {
	s.chosen = option
	s.text = clean(f.Options[option].Label)
	s.cursor, s.selected = len(s.text), false
}

// replaceSelected empties a field that is selected as a whole.
func (s *fieldState) replaceSelected() {
	if s.selected {
		s.text, s.cursor, s.selected = nil, 0, false
	}
}

// changed follows the text of a field with its list.
func (s *fieldState) changed(f Field) {
	if f.Kind == Text {
		return
	}
	s.chosen = -1
	s.match(f, string(s.text))
	s.open = len(s.matches) > 0
	// What is written in full is taken, whether or not it is looked at.
	for i, o := range f.Options {
		if strings.EqualFold(o.Label, s.value()) {
			s.chosen = i
			s.at = max(0, slices.Index(s.matches, i))
			break
		}
	}
	s.scroll()
}

// show opens the whole list, with what was taken marked.
func (s *fieldState) show(f Field) {
	if f.Kind == Text || len(f.Options) == 0 {
		return
	}
	s.match(f, "")
	s.open = true
	if s.chosen >= 0 {
		s.at = s.chosen
	}
	s.scroll()
}

// match finds the options in which every word of a text stands, whatever its case and
// accents; those that begin with it come first.
func (s *fieldState) match(f Field, text string) {
	if s.folded == nil {
		s.folded = make([]string, len(f.Options))
		for i, o := range f.Options {
			s.folded[i] = fold(o.Label)
		}
	}
	s.matches, s.at, s.first = nil, 0, 0
	text = fold(text)
	words := strings.Fields(text)
	var others []int
	for i, label := range s.folded {
		switch {
		case strings.HasPrefix(label, text):
			s.matches = append(s.matches, i)
		case !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(label, w) }):
			others = append(others, i)
		}
	}
	s.matches = append(s.matches, others...)
}

// edit moves within a field or its list, or deletes.
func (s *fieldState) edit(f Field, k Key) {
	switch k.Name {
	case Up, Down, PageUp, PageDown:
		s.browse(f, k.Name)
		return
	case Left:
		if s.selected {
			s.cursor = 0
		} else {
			s.cursor = max(0, s.cursor-1)
		}
	case Right:
		s.cursor = min(len(s.text), s.cursor+1)
	case Home:
		s.cursor = 0
	case End:
		s.cursor = len(s.text)
	case Backspace, Delete:
		s.touched = true
		s.erase(k.Name)
		s.changed(f)
		return
	default:
	}
	s.selected = false
}

func (s *fieldState) erase(key KeyName) {
	switch {
	case s.selected:
		s.replaceSelected()
	case key == Backspace && s.cursor > 0:
		s.text = slices.Delete(s.text, s.cursor-1, s.cursor)
		s.cursor--
	case key == Delete && s.cursor < len(s.text):
		s.text = slices.Delete(s.text, s.cursor, s.cursor+1)
	}
}

// browse opens the list of a field, or marks another entry, which is taken.
func (s *fieldState) browse(f Field, key KeyName) {
	if f.Kind == Text || len(f.Options) == 0 {
		return
	}
	if !s.open {
		s.show(f)
		if s.chosen >= 0 {
			return
		}
	} else {
		by := map[KeyName]int{Up: -1, Down: 1, PageUp: -page, PageDown: page}[key]
		s.at = min(max(0, s.at+by), len(s.matches)-1)
	}
	if len(s.matches) > 0 {
		s.take(f, s.matches[s.at])
		s.selected, s.touched = true, true
	}
	s.scroll()
}

func (s *fieldState) scroll() {
	s.first = max(0, min(s.first, s.at))
	if s.at >= s.first+page {
		s.first = s.at - page + 1
	}
}

// clean leaves out what may not stand in a field.
func clean(text string) []rune {
	runes := slices.DeleteFunc([]rune(text), func(r rune) bool { return !printable(r) })
	return runes[:min(len(runes), MaxText)]
}

// fold makes texts that differ in case and accents the same.
func fold(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Mn, r) {
			return -1
		}
		return unicode.ToLower(r)
	}, norm.NFD.String(strings.TrimSpace(text)))
}

// Dismiss is the window's close button: "later", where that is an answer.
func (m *Model) Dismiss() {
	if s, _ := m.field(); s != nil {
		s.open = false
	}
	m.Press(Key{Name: Escape})
}
