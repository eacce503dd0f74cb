package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// board is what is known of who uses what now: from the live stream, and busy
// time from the instances' final figures.
type board struct {
	sessions map[string]*meteringv1.LiveSession
	final    map[string]*meteringv1.Instance
	gaps     map[string]time.Duration // activity gaps, by application
}

func newBoard() *board {
	return &board{sessions: map[string]*meteringv1.LiveSession{}, final: map[string]*meteringv1.Instance{}}
}

// change is an instance whose state is new.
type change struct {
	session  *meteringv1.LiveSession
	instance *meteringv1.LiveInstance
	closed   bool
}

// take brings in an answer of the live stream and tells what changed by it.
func (b *board) take(answer *meteringv1.StreamLiveUsageResponse) []change {
	var changes []change
	before := b.sessions
	if answer.GetComplete() {
		b.sessions = map[string]*meteringv1.LiveSession{}
	}
	for _, session := range answer.GetSessions() {
		changes = append(changes, differences(before[session.GetSessionId()], session)...)
		b.sessions[session.GetSessionId()] = session
	}
	for _, id := range answer.GetEndedSessionIds() {
		if session := b.sessions[id]; session != nil {
			changes = append(changes, differences(session, &meteringv1.LiveSession{})...)
			delete(b.sessions, id)
		}
	}
	return changes
}

func differences(before, after *meteringv1.LiveSession) []change {
	var changes []change
	known := map[string]*meteringv1.LiveInstance{}
	for _, instance := range before.GetInstances() {
		known[instance.GetInstanceId()] = instance
	}
	for _, instance := range after.GetInstances() {
		old := known[instance.GetInstanceId()]
		if old == nil || old.GetState() != instance.GetState() {
			changes = append(changes, change{session: after, instance: instance})
		}
		delete(known, instance.GetInstanceId())
	}
	for _, instance := range before.GetInstances() {
		if known[instance.GetInstanceId()] != nil {
			changes = append(changes, change{session: before, instance: instance, closed: true})
		}
	}
	return changes
}

// setFinal replaces what is known of open instances' final figures.
func (b *board) setFinal(instances []*meteringv1.Instance) {
	b.final = make(map[string]*meteringv1.Instance, len(instances))
	for _, instance := range instances {
		b.final[instance.GetInstanceId()] = instance
	}
}

// setApplications replaces what is known of applications' settings.
func (b *board) setApplications(applications []*meteringv1.Application) {
	b.gaps = make(map[string]time.Duration, len(applications))
	for _, application := range applications {
		b.gaps[application.GetApplicationId()] = application.GetActivityGap().AsDuration()
	}
}

// row is a line of the table.
type row struct {
	person, machine, application, document string
	state                                  usagev1.State
	attention                              usagev1.Attention
	since, open, busy                      time.Duration
	more                                   int // instances that this row stands for besides its own
}

// rows are all open instances, by person, what is in front first.
func (b *board) rows(now time.Time) []row {
	var rows []row
	for _, session := range b.sessions {
		for _, instance := range session.GetInstances() {
			rows = append(rows, row{
				person:      cmp.Or(session.GetPrincipalName(), short(session.GetPrincipalId())),
				machine:     cmp.Or(session.GetMachineName(), short(session.GetMachineId())),
				application: cmp.Or(instance.GetApplicationName(), short(instance.GetApplicationId())),
				document:    instance.GetDocumentName(),
				state:       instance.GetState(),
				attention:   instance.GetAttention(),
				since:       now.Sub(instance.GetSinceTime().AsTime()),
				open:        now.Sub(instance.GetOpenTime().AsTime()),
				busy:        b.busy(instance, session.GetObserveTime().AsTime()),
			})
		}
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(
			strings.Compare(a.person, b.person), strings.Compare(a.machine, b.machine),
			cmp.Compare(inFront(b), inFront(a)), strings.Compare(a.application, b.application), cmp.Compare(b.open, a.open),
		)
	})
	return rows
}

// busy is the busy time of an instance that is certain: what is decided, and of what
// has come since all but the activity gap before it was last observed. Whoever is busy
// had input within that gap, but when is known only once it is over; what is counted
// here never has to be taken back.
func (b *board) busy(instance *meteringv1.LiveInstance, observed time.Time) time.Duration {
	final := b.final[instance.GetInstanceId()]
	busy := final.GetTotals().GetBusy().AsDuration()
	gap, known := b.gaps[instance.GetApplicationId()]
	if instance.GetAttention() != usagev1.Attention_ATTENTION_BUSY || !known {
		return busy
	}
	since := instance.GetSinceTime().AsTime()
	if decided := final.GetDecidedTime(); decided != nil && decided.AsTime().After(since) {
		since = decided.AsTime()
	}
	return busy + max(0, observed.Add(-gap).Sub(since))
}

func inFront(r row) int {
	switch r.attention {
	case usagev1.Attention_ATTENTION_BUSY:
		return 2
	case usagev1.Attention_ATTENTION_IDLE:
		return 1
	default:
		return 0
	}
}

func short(id string) string {
	if len(id) > 8 {
		return id[:8]
	}
	return id
}

// fold keeps one row for each person and machine.
func fold(rows []row) []row {
	var folded []row
	for _, r := range rows {
		if n := len(folded); n > 0 && folded[n-1].person == r.person && folded[n-1].machine == r.machine {
			folded[n-1].more++
			continue
		}
		folded = append(folded, r)
	}
	return folded
}

// columns are the widths of those columns that names stand in; 0 leaves one out.
type columns struct {
	person, machine, application, state int
}

// figures is the width of SINCE, OPEN and BUSY, which are never shortened.
const figures = 8 + 1 + 9 + 1 + 9

// columnsFor fits the table into a width: first the long states are shortened, then
// names, and machines are left out where nothing else helps.
func columnsFor(width int) columns {
	c := columns{person: 18, machine: 10, application: 22, state: 22}
	taken := func() int {
		n := figures
		for _, column := range []int{c.person, c.machine, c.application, c.state} {
			if column > 0 {
				n += column + 1
			}
		}
		return n
	}
	for _, shorter := range []struct {
		column *int
		least  int
	}{{&c.application, 16}, {&c.person, 12}, {&c.state, shortState}, {&c.machine, 6}, {&c.application, 10}, {&c.person, 8}} {
		*shorter.column = max(shorter.least, *shorter.column-max(0, taken()-width))
		if shorter.column == &c.state && c.state < longState {
			c.state = shortState
		}
	}
	if taken() > width {
		c.machine = 0
	}
	return c
}

const (
	// longState is the width of "○ Inactive, background", shortState that of
	// "○ Inactive".
	longState  = 22
	shortState = 10
)

// line lays out one line; texts are in the order of the columns.
func (c columns) line(person, machine, application, state, since, open, busy, file string) string {
	var b strings.Builder
	for _, cell := range []struct {
		text  string
		width int
	}{{person, c.person}, {machine, c.machine}, {application, c.application}} {
		if cell.width > 0 {
			b.WriteString(pad(cell.text, cell.width) + " ")
		}
	}
	fmt.Fprintf(&b, "%s %8s %9s %9s  %s", state, since, open, busy, file)
	return b.String()
}

// render writes the table into at most height lines of at most width characters.
func render(out io.Writer, rows []row, width, height int, colour bool) int {
	if len(rows)+1 > height {
		rows = fold(rows)
	}
	c := columnsFor(width)
	lines := 0
	line := func(text string) {
		fmt.Fprintln(out, clip(text, width))
		lines++
	}
	line(c.line("PERSON", "MACHINE", "APPLICATION", pad("STATE", c.state), "SINCE", "OPEN", "BUSY", "FILE"))
	for i, r := range rows {
		if lines == height-1 && i < len(rows)-1 {
			line(fmt.Sprintf("… and %d more", len(rows)-i))
			break
		}
		application := r.application
		if r.more > 0 {
			more := fmt.Sprintf(" +%d", r.more)
			application = shorten(application, c.application-len(more)) + more
		}
		line(c.line(r.person, r.machine, application, paint(pad(stateText(r, c.state == longState), c.state), r.state, colour),
			clock(r.since), clock(r.open), clock(r.busy), r.document))
	}
	return lines
}

func stateText(r row, long bool) string {
	mark := "○ "
	if r.state == usagev1.State_STATE_ACTIVE {
		mark = "● "
	}
	text := mark + stateName(r.state)
	if long && r.state != usagev1.State_STATE_ACTIVE {
		text += ", " + strings.ToLower(strings.TrimPrefix(r.attention.String(), "ATTENTION_"))
	}
	return text
}

func stateName(s usagev1.State) string {
	switch s {
	case usagev1.State_STATE_ACTIVE:
		return "Active"
	case usagev1.State_STATE_TIMEOUT:
		return "Timeout"
	default:
		return "Inactive"
	}
}

func paint(text string, state usagev1.State, colour bool) string {
	switch {
	case !colour:
		return text
	case state == usagev1.State_STATE_ACTIVE:
		return "\x1b[32m" + text + "\x1b[0m"
	case state == usagev1.State_STATE_TIMEOUT:
		return "\x1b[31m" + text + "\x1b[0m"
	default:
		return "\x1b[2m" + text + "\x1b[0m"
	}
}

// clock says a duration as 12s, 4:07 or 1:12:40.
func clock(d time.Duration) string {
	s := max(0, int64(d/time.Second))
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	default:
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
}

// count is a number with what it counts.
func count[N int | uint64 | int64](n N, what string) string {
	return fmt.Sprintf("%d %s", n, oneOrMore(n, what, what+"s"))
}

func oneOrMore[N int | uint64 | int64](n N, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

// foldText breaks a text into lines of at most n characters, between words where it
// can.
func foldText(text string, n int) []string {
	var lines []string
	for utf8.RuneCountInString(text) > n {
		line := clip(text, n)
		if at := strings.LastIndexByte(line, ' '); at > n/2 {
			line = line[:at]
		}
		lines = append(lines, line)
		text = strings.TrimPrefix(text[len(line):], " ")
	}
	return append(lines, text)
}

// shorten cuts a text to n characters and shows that it did.
func shorten(text string, n int) string {
	if utf8.RuneCountInString(text) <= n {
		return text
	}
	return strings.TrimRight(clip(text, n-1), " ") + "…"
}

// pad makes a text exactly n characters wide.
func pad(text string, n int) string {
	text = shorten(text, n)
	return text + strings.Repeat(" ", n-utf8.RuneCountInString(text))
}

// clip shortens a text to n characters; the escapes of colours do not count.
func clip(text string, n int) string {
	visible := 0
	escape := false
	for i, c := range text {
		switch {
		case c == '\x1b':
			escape = true
		case escape:
			escape = c != 'm'
		default:
			visible++
			if visible > n {
				cut := text[:i]
				if strings.Contains(cut, "\x1b") {
					cut += "\x1b[0m"
				}
				return cut
			}
		}
	}
	return text
}

// bar is a progress bar.
func bar(share float64, width int) string {
	full := int(share * float64(width))
	return strings.Repeat("█", full) + strings.Repeat("░", width-full)
}
