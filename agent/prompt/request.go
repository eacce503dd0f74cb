package prompt

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/cetrus/cetrus/proto/expense"
)

// Limits of a question.
const (
	// MaxFields is how many fields an account may define, and one for the worker.
	MaxFields = expense.MaxFields + 1
	// MaxText is the longest text of a field, in characters.
	MaxText = expense.MaxText
	// MaxNoticeBytes bounds a notice.
	MaxNoticeBytes = 16 << 10
	// MaxRequestBytes bounds a question: some ten thousand projects.
	MaxRequestBytes = 4 << 20
	maxOptions      = 50_000
	maxAnswerBytes  = 64 << 10
)

// Kind is how a field is filled in.
type Kind string

// The kinds of fields.
const (
	// Text is free text.
	Text Kind = "text"
	// Choice is one of the field's options.
	Choice Kind = "choice"
	// Project is one of the account's projects, or, where Request.ProposeAllowed,
	// the person's own words.
	Project Kind = "project"
	// Worker is who is working, where several people share a login.
	Worker Kind = "worker"
)

// Request is a question to the person at the desktop, or something to be read.
type Request struct {
	// Notice is to be read; there is nothing to be filled in then.
	Notice *Notice `json:"notice,omitempty"`
	// Application is the name of what opened, as people know it.
	Application string `json:"application"`
	// Document is the file or window in it that is meant; empty: all of it.
	Document string `json:"document,omitempty"`
	// Closing: it has closed; otherwise it has opened.
	Closing bool    `json:"closing,omitempty"`
	Fields  []Field `json:"fields"`
	// ProposeAllowed lets people write a project that is not in the list.
	ProposeAllowed bool `json:"propose_allowed,omitempty"`
	// Waiting: the application waits for the answer, so "later" is none.
	Waiting bool `json:"waiting,omitempty"`
	// Others is how many more such questions wait, for other files or windows of the
	// application: the answer may be for all of them.
	Others int `json:"others,omitempty"`
	// Recent is what each worker chose last, by the ID of their option and the key of the
	// field: when another worker is chosen, the fields that nobody has touched follow.
	Recent map[string]map[string]string `json:"recent,omitempty"`
}

// Notice is a text that a person is shown, with a button that says that they have read it.
type Notice struct {
	Title string `json:"title"`
	// Text has paragraphs, with an empty line between two.
	Text string `json:"text"`
}

// Field is one thing to fill in.
type Field struct {
	Key      string   `json:"key"`
	Label    string   `json:"label"`
	Kind     Kind     `json:"kind"`
	Required bool     `json:"required,omitempty"`
	Options  []Option `json:"options,omitempty"`
	// Value is what it is filled in with: an option's ID, or text.
	Value string `json:"value,omitempty"`
	// Limits are what must hold of text, and of own words in a Project field.
	Limits expense.Limits `json:"limits,omitzero"`
}

// Option is what a field may be filled in with.
type Option struct {
	ID    string `json:"id"`
	Label string `json:"label"`
}

// Outcome is how a prompt ended.
type Outcome string

// The outcomes.
const (
	// Chosen: the fields are filled in.
	Chosen Outcome = "chosen"
	// NotChargeable: the use belongs to no project.
	NotChargeable Outcome = "not_chargeable"
	// Later: the person does not want to say now.
	Later Outcome = "later"
	// Seen: a notice was read.
	Seen Outcome = "seen"
)

// Answer is what the person has said.
type Answer struct {
	Outcome Outcome `json:"outcome"`
	// Values are the fields by their keys: an option's ID, or text. Of NOT CHARGEABLE
	// only the worker's is kept.
	Values map[string]string `json:"values,omitempty"`
	// Proposed are the keys of Project fields whose value is the person's own words.
	Proposed []string `json:"proposed,omitempty"`
	// ForAll: it answers the other questions too that Request.Others counts.
	ForAll bool `json:"for_all,omitempty"`
}

// ReadRequest reads a question.
func ReadRequest(r io.Reader) (Request, error) {
	var request Request
	if err := decode(r, MaxRequestBytes, &request); err != nil {
		return Request{}, fmt.Errorf("prompt: read the question: %w", err)
	}
	return request, request.Check()
}

// ReadAnswer reads an answer and checks that it answers a question.
func ReadAnswer(r io.Reader, to Request) (Answer, error) {
	var answer Answer
	if err := decode(r, maxAnswerBytes, &answer); err != nil {
		return Answer{}, fmt.Errorf("prompt: read the answer: %w", err)
	}
	return answer, answer.check(to)
}

func decode(r io.Reader, most int64, into any) error {
	limited := &io.LimitedReader{R: r, N: most + 1}
	err := json.NewDecoder(limited).Decode(into)
	if limited.N <= 0 {
		return fmt.Errorf("it is longer than %d bytes", most)
	}
	return err
}

// Check tells what is wrong with a question.
func (r Request) Check() error {
	switch {
	case r.Notice != nil && (r.Notice.Title == "" || r.Notice.Text == ""):
		return errors.New("prompt: the notice says nothing")
	case r.Notice != nil && len(r.Notice.Title)+len(r.Notice.Text) > MaxNoticeBytes:
		return fmt.Errorf("prompt: the notice is longer than %d bytes", MaxNoticeBytes)
	case r.Notice != nil && (r.Application != "" || len(r.Fields) > 0 || r.Waiting || r.Others != 0):
		return errors.New("prompt: a notice asks for nothing")
	case r.Notice != nil:
		return nil
	case r.Application == "":
		return errors.New("prompt: the question names no application")
	case r.Others < 0:
		return errors.New("prompt: the question counts less than no others")
	case len(r.Fields) == 0 || len(r.Fields) > MaxFields:
		return fmt.Errorf("prompt: the question has %d fields; it has 1 to %d", len(r.Fields), MaxFields)
	}
	seen, workers := map[string]bool{}, 0
	for _, f := range r.Fields {
		if f.Kind == Worker {
			workers++
		}
		switch {
		case workers > 1:
			return errors.New("prompt: the question asks twice who is working")
		case f.Key == "" || seen[f.Key]:
			return fmt.Errorf("prompt: the key %q of a field is empty or there twice", f.Key)
		case f.Kind != Text && f.Kind != Choice && f.Kind != Project && f.Kind != Worker:
			return fmt.Errorf("prompt: the field %q is of the kind %q; known are text, choice, project and worker", f.Key, f.Kind)
		case len(f.Options) > maxOptions:
			return fmt.Errorf("prompt: the field %q has %d options; at most %d are shown", f.Key, len(f.Options), maxOptions)
		case f.Kind == Text && len(f.Options) > 0:
			return fmt.Errorf("prompt: the field %q is text and has options", f.Key)
		case f.Kind != Text && f.Kind != Project && f.Limits != expense.Limits{}:
			return fmt.Errorf("prompt: the field %q has limits, and takes its options only", f.Key)
		}
		if _, err := f.Limits.Compile(); err != nil {
			return fmt.Errorf("prompt: the field %q: %w", f.Key, err)
		}
		seen[f.Key] = true
		ids := map[string]bool{}
		for _, o := range f.Options {
			if o.ID == "" || o.Label == "" || ids[o.ID] {
				return fmt.Errorf("prompt: an option of the field %q has no id or no label, or is there twice", f.Key)
			}
			ids[o.ID] = true
		}
	}
	return nil
}

func (a Answer) check(to Request) error {
	if to.Notice != nil {
		if a.Outcome != Seen && a.Outcome != Later || len(a.Values)+len(a.Proposed) > 0 {
			return fmt.Errorf("prompt: the outcome %q answers no notice", a.Outcome)
		}
		return nil
	}
	switch a.Outcome {
	case Later:
		if to.Waiting {
			return errors.New(`prompt: "later" answers no question that an application waits for`)
		}
		return a.checkForAll(to)
	case Chosen, NotChargeable:
	default:
		return fmt.Errorf("prompt: the outcome %q is not known", a.Outcome)
	}
	if err := a.checkForAll(to); err != nil {
		return err
	}
	own := map[string]bool{}
	for _, key := range a.Proposed {
		own[key] = true
	}
	for key := range a.Values {
		if _, known := to.field(key); !known {
			return fmt.Errorf("prompt: the answer fills in %q, which was not asked", key)
		}
	}
	for _, f := range to.Fields {
		if err := f.checkAnswer(a, own[f.Key], to.ProposeAllowed); err != nil {
			return err
		}
	}
	return nil
}

func (a Answer) checkForAll(to Request) error {
	if a.ForAll && to.Others == 0 {
		return errors.New("prompt: the answer is for other questions too, and none waits")
	}
	return nil
}

// checkAnswer tells what is wrong with what the field is filled in with; own: with the
// person's own words.
func (f Field) checkAnswer(a Answer, own, proposeAllowed bool) error {
	value := a.Values[f.Key]
	wanted := f.Required && (a.Outcome == Chosen || f.Kind == Worker)
	switch {
	case value == "" && wanted:
		return fmt.Errorf("prompt: the answer leaves out %q", f.Key)
	case value == "":
		return nil
	case utf8.RuneCountInString(value) > MaxText:
		return fmt.Errorf("prompt: the answer to %q is longer than %d characters", f.Key, MaxText)
	case own && (f.Kind != Project || !proposeAllowed):
		return fmt.Errorf("prompt: the answer proposes %q, which may not be proposed", f.Key)
	case f.Kind != Text && !own:
		if _, known := f.option(value); !known {
			return fmt.Errorf("prompt: the answer to %q is none of its options", f.Key)
		}
		return nil
	case value != strings.TrimSpace(string(clean(value))):
		return fmt.Errorf("prompt: the answer to %q has characters that nobody can write there", f.Key)
	}
	check, err := f.Limits.Compile()
	if err != nil {
		return fmt.Errorf("prompt: the field %q: %w", f.Key, err)
	}
	if problem := check.Problem(f.Label, value); problem != "" {
		return fmt.Errorf("prompt: the answer to %q is not valid: %s", f.Key, problem)
	}
	if value != check.Kept(value) {
		return fmt.Errorf("prompt: the answer to %q is not in the spelling that is kept", f.Key)
	}
	return nil
}

func (r Request) field(key string) (Field, bool) {
	for _, f := range r.Fields {
		if f.Key == key {
			return f, true
		}
	}
	return Field{}, false
}

func (f Field) option(id string) (int, bool) {
	for i, o := range f.Options {
		if o.ID == id {
			return i, true
		}
	}
	return 0, false
}

// printable tells whether a rune may stand in a field.
func printable(r rune) bool {
	return r != utf8.RuneError && (unicode.IsGraphic(r) || r == ' ')
}
