package ledger

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cetrus/cetrus/agent/durable"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

const (
	suffix = ".ledger"
	// dayForm is a day in the zone that the machine was in.
	dayForm = "2006-01-02"
	// maxLine is longer than any line that is written.
	maxLine = 8 << 10
	// maxBytes bounds a person's file once it is added up: the oldest days are left out
	// of one that is larger.
	maxBytes = 4 << 20
	// attentions are those of usage.proto, and the place for none.
	attentions = int(usagev1.Attention_ATTENTION_BACKGROUND) + 1
)

// key is what is added up.
type key struct {
	day         string
	application contract.ID
	// document is zero for the application as a whole.
	document contract.ID
}

// sums are what was recorded of a key.
type sums struct {
	millis   [attentions]int64
	opened   int64
	timeouts int64
}

func (s *sums) add(o sums) {
	for i, ms := range o.millis {
		s.millis[i] += ms
	}
	s.opened += o.opened
	s.timeouts += o.timeouts
}

// Row is what was recorded of an application, or of one of its documents, on a day.
type Row struct {
	// Day is in the zone that the machine was in, as 2006-01-02.
	Day         string `json:"day"`
	Application string `json:"application"`
	// Document is one of the application's documents; empty: the application as a whole,
	// with all its documents in it.
	Document string `json:"document,omitempty"`
	// All times are in milliseconds, and open is the sum of the others.
	OpenMillis       int64 `json:"open_millis"`
	BusyMillis       int64 `json:"busy_millis"`
	IdleMillis       int64 `json:"idle_millis"`
	BackgroundMillis int64 `json:"background_millis"`
	AwayMillis       int64 `json:"away_millis"`
	PausedMillis     int64 `json:"paused_millis"`
	SuspendedMillis  int64 `json:"suspended_millis"`
	UnknownMillis    int64 `json:"unknown_millis"`
	Opened           int64 `json:"opened"`
	Timeouts         int64 `json:"timeouts"`
}

// Name is what an application or a document is called.
type Name struct {
	Person, ID contract.ID
	Document   bool
	Name       string
}

// Ledger is the folder. It may be used by several goroutines.
type Ledger struct {
	dir  string
	days int

	mu sync.Mutex
	// swept is the day on which the files were added up last.
	swept   string
	anchors map[uint64]*usagev1.Anchor
	named   map[Name]bool
}

// Open opens the ledger in a folder, which is made where it is missing; so many days are
// kept beside today.
func Open(dir string, days int) (*Ledger, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	return &Ledger{dir: dir, days: days, anchors: map[uint64]*usagev1.Anchor{}, named: map[Name]bool{}}, nil
}

// Names notes what applications and documents are called.
func (l *Ledger) Names(names []Name) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := map[contract.ID][]byte{}
	for _, n := range names {
		if n.Name == "" || l.named[n] {
			continue
		}
		if len(l.named) > 4096 {
			clear(l.named)
		}
		l.named[n] = true
		lines[n.Person] = append(lines[n.Person], nameLine(n)...)
	}
	return l.write(lines)
}

func nameLine(n Name) []byte {
	kind := "a"
	if n.Document {
		kind = "d"
	}
	return fmt.Appendf(nil, "%s %s %s\n", kind, n.ID, strconv.Quote(n.Name))
}

// Add notes usage events that were journalled, with the anchors that they name.
func (l *Ledger) Add(events []*usagev1.UsageEvent, anchors []*usagev1.Anchor) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.anchors) > 1024 {
		clear(l.anchors)
	}
	for _, a := range anchors {
		l.anchors[a.GetAnchorId()] = a
	}
	lines := map[contract.ID][]byte{}
	today := ""
	for _, e := range events {
		k, s, person, ok := l.entry(e)
		if ok {
			lines[person] = append(lines[person], usageLine(k, s)...)
			today = max(today, k.day)
		}
	}
	err := l.write(lines)
	// An event of a clock that was years ahead must not take the other days along.
	today = min(today, time.Now().AddDate(0, 0, 1).Format(dayForm))
	if today > l.swept {
		l.swept = today
		err = errors.Join(err, l.sweep(today))
	}
	return err
}

// entry is what an event adds.
func (l *Ledger) entry(e *usagev1.UsageEvent) (k key, s sums, person contract.ID, ok bool) {
	anchor := l.anchors[e.GetAnchorId()]
	person, err := contract.IDFrom(e.GetPrincipalAlias())
	if err != nil || anchor == nil {
		return k, s, person, false
	}
	if k.application, err = contract.IDFrom(e.GetApplicationId()); err != nil {
		return k, s, person, false
	}
	if document := e.GetDocumentId(); len(document) > 0 {
		if k.document, err = contract.IDFrom(document); err != nil {
			return k, s, person, false
		}
	}
	at := e.GetAtBootMillis()
	if closed := e.GetClosed(); closed != nil {
		at = closed.GetFromBootMillis()
		if n := int(closed.GetAttention()); n > 0 && n < attentions {
			s.millis[n] = closed.GetToBootMillis() - at
		}
	}
	switch e.GetTransition() {
	case usagev1.Transition_TRANSITION_OPENED:
		s.opened = 1
	case usagev1.Transition_TRANSITION_TIMED_OUT:
		s.timeouts = 1
	default:
	}
	local := anchor.GetUtcMillis() + at - anchor.GetBootMillis() + 1000*int64(anchor.GetZoneOffsetSeconds())
	k.day = time.UnixMilli(local).UTC().Format(dayForm)
	return k, s, person, s != sums{}
}

func usageLine(k key, s sums) []byte {
	line := fmt.Appendf(nil, "u %s %s %s %d %d", k.day, k.application, k.document, s.opened, s.timeouts)
	for attention, ms := range s.millis {
		if ms != 0 {
			line = fmt.Appendf(line, " %d:%d", attention, ms)
		}
	}
	return append(line, '\n')
}

func (l *Ledger) file(person contract.ID) string { return filepath.Join(l.dir, person.String()+suffix) }

// write adds lines to files, each in one piece.
func (l *Ledger) write(lines map[contract.ID][]byte) error {
	var problems []error
	for person, text := range lines {
		f, err := os.OpenFile(l.file(person), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err == nil {
			_, err = f.Write(text)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("ledger: %w", err))
		}
	}
	return errors.Join(problems...)
}

// book is what a person's file says.
type book struct {
	days         map[key]*sums
	applications map[contract.ID]string
	documents    map[contract.ID]string
	// unread are lines that say nothing that is known.
	unread int
}

// read reads a file, from a day on.
func (l *Ledger) read(file, from string) (*book, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	defer f.Close()
	return parse(f, from)
}

// parse reads the lines of a person from a day on. It takes any bytes.
func parse(r io.Reader, from string) (*book, error) {
	b := &book{days: map[key]*sums{}, applications: map[contract.ID]string{}, documents: map[contract.ID]string{}}
	lines := bufio.NewReaderSize(r, maxLine)
	for {
		line, tooLong, err := lines.ReadLine()
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			return nil, fmt.Errorf("ledger: %w", err)
		}
		bad := tooLong
		for tooLong && err == nil {
			_, tooLong, err = lines.ReadLine()
		}
		if bad || !b.take(line, from) {
			b.unread++
		}
	}
}

func (b *book) take(line []byte, from string) bool {
	kind, rest, _ := bytes.Cut(line, []byte(" "))
	switch string(kind) {
	case "a", "d":
		idText, quoted, _ := bytes.Cut(rest, []byte(" "))
		id, err := contract.ParseID(string(idText))
		name, quoteErr := strconv.Unquote(string(quoted))
		if err != nil || quoteErr != nil {
			return false
		}
		if string(kind) == "a" {
			b.applications[id] = name
		} else {
			b.documents[id] = name
		}
		return true
	case "u":
		k, s, ok := parseUsage(string(rest))
		if ok && k.day >= from {
			if b.days[k] == nil {
				b.days[k] = &sums{}
			}
			b.days[k].add(s)
		}
		return ok
	default:
		return false
	}
}

func parseUsage(text string) (k key, s sums, ok bool) {
	fields := strings.Split(text, " ")
	if len(fields) < 5 {
		return k, s, false
	}
	day, err := time.Parse(dayForm, fields[0])
	if err != nil {
		return k, s, false
	}
	k.day = day.Format(dayForm)
	var problems [4]error
	k.application, problems[0] = contract.ParseID(fields[1])
	k.document, problems[1] = contract.ParseID(fields[2])
	s.opened, problems[2] = strconv.ParseInt(fields[3], 10, 64)
	s.timeouts, problems[3] = strconv.ParseInt(fields[4], 10, 64)
	if errors.Join(problems[:]...) != nil {
		return k, s, false
	}
	for _, field := range fields[5:] {
		attention, millis, _ := strings.Cut(field, ":")
		n, err := strconv.Atoi(attention)
		ms, msErr := strconv.ParseInt(millis, 10, 64)
		if err != nil || msErr != nil || n < 0 || n >= attentions {
			return k, s, false
		}
		s.millis[n] += ms
	}
	return k, s, true
}

// Person gives what was recorded of a person on the last days, today among them, by day,
// application and document; nothing where nothing was.
func (l *Ledger) Person(person contract.ID, now time.Time, days int) ([]Row, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, err := l.read(l.file(person), firstDay(now, days))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rows := make([]Row, 0, len(b.days))
	for k, s := range b.days {
		r := Row{
			Day: k.day, Application: cmp.Or(b.applications[k.application], k.application.String()),
			BusyMillis:       s.millis[usagev1.Attention_ATTENTION_BUSY],
			IdleMillis:       s.millis[usagev1.Attention_ATTENTION_IDLE],
			BackgroundMillis: s.millis[usagev1.Attention_ATTENTION_BACKGROUND],
			AwayMillis:       s.millis[usagev1.Attention_ATTENTION_AWAY],
			PausedMillis:     s.millis[usagev1.Attention_ATTENTION_PAUSED],
			SuspendedMillis:  s.millis[usagev1.Attention_ATTENTION_SUSPENDED],
			UnknownMillis:    s.millis[usagev1.Attention_ATTENTION_UNKNOWN],
			Opened:           s.opened, Timeouts: s.timeouts,
		}
		for _, ms := range s.millis {
			r.OpenMillis += ms
		}
		if !k.document.IsZero() {
			r.Document = cmp.Or(b.documents[k.document], "a document without a name")
		}
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b Row) int {
		return cmp.Or(-strings.Compare(a.Day, b.Day), strings.Compare(a.Application, b.Application), strings.Compare(a.Document, b.Document))
	})
	return merged(rows), nil
}

// merged adds up rows that look the same: documents whose names are not told.
func merged(rows []Row) []Row {
	kept := rows[:0]
	for _, r := range rows {
		n := len(kept) - 1
		if n < 0 || kept[n].Day != r.Day || kept[n].Application != r.Application || kept[n].Document != r.Document {
			kept = append(kept, r)
			continue
		}
		k := &kept[n]
		k.OpenMillis += r.OpenMillis
		k.BusyMillis += r.BusyMillis
		k.IdleMillis += r.IdleMillis
		k.BackgroundMillis += r.BackgroundMillis
		k.AwayMillis += r.AwayMillis
		k.PausedMillis += r.PausedMillis
		k.SuspendedMillis += r.SuspendedMillis
		k.UnknownMillis += r.UnknownMillis
		k.Opened += r.Opened
		k.Timeouts += r.Timeouts
	}
	return kept
}

// firstDay is the first of so many days before today.
func firstDay(now time.Time, days int) string { return now.AddDate(0, 0, -days).Format(dayForm) }

// sweep adds every file up.
func (l *Ledger) sweep(today string) error {
	now, err := time.Parse(dayForm, today)
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(l.dir, "*"+suffix))
	if err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	var problems []error
	for _, file := range files {
		problems = append(problems, l.sum(file, firstDay(now, l.days)))
	}
	return errors.Join(problems...)
}

// sum writes a file anew with one line for each key, from a day on; a file that has
// nothing of those days goes.
func (l *Ledger) sum(file, from string) error {
	b, err := l.read(file, from)
	if err != nil {
		return err
	}
	if len(b.days) == 0 {
		clear(l.named) // whoever comes back is named anew
		return os.Remove(file)
	}
	text := b.text()
	for len(text) > maxBytes {
		oldest := ""
		for k := range b.days {
			if oldest == "" || k.day < oldest {
				oldest = k.day
			}
		}
		maps.DeleteFunc(b.days, func(k key, _ *sums) bool { return k.day == oldest })
		if len(b.days) == 0 {
			break // a day that large is kept as it is: there is no other
		}
		text = b.text()
	}
	if err := durable.Replace(file, text); err != nil {
		return fmt.Errorf("ledger: %w", err)
	}
	return nil
}

// text is a book as a file.
func (b *book) text() []byte {
	var text []byte
	applications, documents := map[contract.ID]bool{}, map[contract.ID]bool{}
	for k := range b.days {
		applications[k.application], documents[k.document] = true, true
	}
	for id, name := range b.applications {
		if applications[id] {
			text = append(text, nameLine(Name{ID: id, Name: name})...)
		}
	}
	for id, name := range b.documents {
		if documents[id] {
			text = append(text, nameLine(Name{ID: id, Name: name, Document: true})...)
		}
	}
	for k, s := range b.days {
		text = append(text, usageLine(k, *s)...)
	}
	return text
}
