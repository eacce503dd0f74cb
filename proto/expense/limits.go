package expense

import (
	"errors"
	"fmt"
	"math/big"
	"regexp"
	"regexp/syntax"
	"strings"
	"time"
	"unicode/utf8"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
)

const (
	// MaxText is the longest text of a field, in characters.
	MaxText = 200
	// MaxPattern is the longest pattern, in bytes.
	MaxPattern = 512
	// MaxMessage is the longest message, in characters: two lines of the prompt.
	MaxMessage = 120
)

// Form is what a text has to be.
type Form string

// The forms.
const (
	// AnyText is free.
	AnyText Form = ""
	// Number is a decimal number.
	Number Form = "number"
	// Date is a day.
	Date Form = "date"
)

// dateLayout is how a day is written: ISO 8601 is the one way that means the same
// everywhere.
const dateLayout = "2006-01-02"

// numberForm has a point or a comma, since people have either on their keys. Separators
// of thousands would make a comma mean two things.
var numberForm = regexp.MustCompile(`^[+-]?[0-9]{1,15}([.,][0-9]{1,9})?$`)

// Limits are what a text must be that people fill in themselves.
type Limits struct {
	Form Form `json:"form,omitempty"`
	// Pattern is RE2 that the whole text must match; Message is what people are told
	// where it does not.
	Pattern string `json:"pattern,omitempty"`
	Message string `json:"message,omitempty"`
	// MinLength and MaxLength are in characters; 0: no such limit.
	MinLength int `json:"min_length,omitempty"`
	MaxLength int `json:"max_length,omitempty"`
	// Minimum and Maximum are of a Number or Date; empty: no such limit.
	Minimum string `json:"minimum,omitempty"`
	Maximum string `json:"maximum,omitempty"`
}

// LimitsOf are those of an account's field.
func LimitsOf(f *policyv1.PromptField) Limits {
	l := Limits{
		Pattern: f.GetPattern(), Message: f.GetPatternMessage(), MinLength: int(f.GetMinLength()), MaxLength: int(f.GetMaxLength()),
		Minimum: f.GetMinimum(), Maximum: f.GetMaximum(),
	}
	switch f.GetKind() {
	case policyv1.PromptFieldKind_PROMPT_FIELD_KIND_NUMBER:
		l.Form = Number
	case policyv1.PromptFieldKind_PROMPT_FIELD_KIND_DATE:
		l.Form = Date
	default:
	}
	return l
}

// Error names the setting that is wrong, as policy.proto calls it.
type Error struct {
	Field string
	Err   error
}

func (e *Error) Error() string { return "expense: " + e.Field + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

func wrong(field, format string, args ...any) *Error {
	return &Error{Field: field, Err: fmt.Errorf(format, args...)}
}

// in says in what the wrong setting is.
func (e *Error) in(outer string) *Error {
	return &Error{Field: outer + "." + e.Field, Err: e.Err}
}

// Check tells whether texts keep within limits. It is safe for concurrent use.
type Check struct {
	limits           Limits
	pattern          *regexp.Regexp
	minimum, maximum *big.Rat
}

// Compile prepares limits. The error is an *Error.
func (l Limits) Compile() (*Check, error) {
	c, err := l.compile()
	if err != nil {
		return nil, err // not a nil *Error in an error
	}
	return c, nil
}

func (l Limits) compile() (*Check, *Error) {
	c := &Check{limits: l}
	bounds := l.Minimum != "" || l.Maximum != ""
	text := l.Pattern != "" || l.MinLength != 0 || l.MaxLength != 0
	switch {
	case l.Form != AnyText && l.Form != Number && l.Form != Date:
		return nil, wrong("form", "is %q; known are text, number and date", l.Form)
	case l.Form == AnyText && bounds:
		return nil, wrong("minimum", "minimum and maximum are for numbers and dates; give text a pattern, min_length or max_length")
	case l.Form != AnyText && text:
		return nil, wrong("pattern", "pattern, min_length and max_length are for text; give a number or date a minimum or maximum")
	case len(l.Pattern) > MaxPattern:
		return nil, wrong("pattern", "has %d bytes; at most %d can be", len(l.Pattern), MaxPattern)
	case !utf8.ValidString(l.Pattern):
		return nil, wrong("pattern", "is not valid UTF-8")
	case utf8.RuneCountInString(l.Message) > MaxMessage:
		return nil, wrong("pattern_message", "has %d characters; at most %d fit into the prompt", utf8.RuneCountInString(l.Message), MaxMessage)
	case l.Message != "" && l.Pattern == "":
		return nil, wrong("pattern_message", "is there without a pattern")
	case l.MinLength < 0 || l.MinLength > MaxText:
		return nil, wrong("min_length", "is %d; a text has up to %d characters", l.MinLength, MaxText)
	case l.MaxLength < 0 || l.MaxLength > MaxText:
		return nil, wrong("max_length", "is %d; a text has up to %d characters", l.MaxLength, MaxText)
	case l.MaxLength > 0 && l.MaxLength < l.MinLength:
		return nil, wrong("max_length", "%d is less than the min_length of %d", l.MaxLength, l.MinLength)
	}
	if l.Pattern != "" {
		// By itself first: what closes a group that it has not opened would escape the anchors.
		if _, err := syntax.Parse(l.Pattern, syntax.Perl); err != nil {
			return nil, wrong("pattern", "is no RE2: %v", err)
		}
		var err error
		if c.pattern, err = regexp.Compile(`\A(?:` + l.Pattern + `)\z`); err != nil {
			return nil, wrong("pattern", "is no RE2: %v", err)
		}
	}
	for _, bound := range []struct {
		field, text string
		into        **big.Rat
	}{{"minimum", l.Minimum, &c.minimum}, {"maximum", l.Maximum, &c.maximum}} {
		if bound.text == "" {
			continue
		}
		value, _, problem := l.read(bound.text)
		if problem != "" {
			return nil, wrong(bound.field, "%q %s", bound.text, problem)
		}
		*bound.into = value
	}
	if c.minimum != nil && c.maximum != nil && c.minimum.Cmp(c.maximum) > 0 {
		return nil, wrong("maximum", "%s is less than the minimum %s", l.Maximum, l.Minimum)
	}
	return c, nil
}

// read gives a number or date as something to compare, and as it is kept.
func (l Limits) read(text string) (value *big.Rat, kept, problem string) {
	if l.Form == Date {
		day, err := time.Parse(dateLayout, text)
		if err != nil {
			return nil, "", "is no day, as 2026-11-28"
		}
		return new(big.Rat).SetInt64(day.Unix()), day.Format(dateLayout), ""
	}
	if !numberForm.MatchString(text) {
		return nil, "", "is no number, as 1200 or 7.5"
	}
	whole, fraction, comma := strings.Cut(text, ",")
	if comma && len(fraction) == 3 {
		return nil, "", fmt.Sprintf("can mean two numbers: write %s%s or %s.%s", whole, fraction, whole, fraction)
	}
	kept = strings.Replace(text, ",", ".", 1)
	value, ok := new(big.Rat).SetString(kept)
	if !ok {
		return nil, "", "is no number, as 1200 or 7.5"
	}
	return value, canonical(kept), ""
}

// canonical leaves out signs and zeros that say nothing.
func canonical(number string) string {
	sign := ""
	if number[0] == '-' {
		sign = "-"
	}
	number = strings.TrimLeft(strings.TrimLeft(number, "+-"), "0")
	if number == "" || number[0] == '.' {
		number = "0" + number
	}
	if strings.Trim(number, "0.") == "" {
		sign = ""
	}
	return sign + number
}

// Kept is a text as it is kept: without spaces around it, and a number or date in one
// spelling. It is only called with what has no Problem.
func (c *Check) Kept(text string) string {
	text = strings.TrimSpace(text)
	if c.limits.Form == AnyText || text == "" {
		return text
	}
	if _, kept, problem := c.limits.read(text); problem == "" {
		return kept
	}
	return text
}

// Problem says to people what is wrong with a text in the field of a label; empty: nothing
// is. An empty text keeps within all limits: whether it may be empty is another question.
func (c *Check) Problem(label, text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return ""
	}
	length := utf8.RuneCountInString(text)
	l := c.limits
	switch {
	case l.Form != AnyText:
		return c.bounded(label, text)
	case length < l.MinLength:
		return fmt.Sprintf("“%s” needs at least %s; it has %d.", label, characters(l.MinLength), length)
	case l.MaxLength > 0 && length > l.MaxLength:
		return fmt.Sprintf("“%s” may have at most %s; it has %d.", label, characters(l.MaxLength), length)
	case c.pattern != nil && !c.pattern.MatchString(text):
		if l.Message != "" {
			return fmt.Sprintf("“%s”: %s", label, l.Message)
		}
		return fmt.Sprintf("“%s” does not have the form that your organisation asks for.", label)
	}
	return ""
}

func (c *Check) bounded(label, text string) string {
	value, _, problem := c.limits.read(text)
	low, high := "less than", "more than"
	if c.limits.Form == Date {
		low, high = "before", "after"
	}
	switch {
	case problem != "":
		return fmt.Sprintf("“%s”: %s %s.", label, clip(text), problem)
	case c.minimum != nil && value.Cmp(c.minimum) < 0:
		return fmt.Sprintf("“%s” may not be %s %s.", label, low, c.limits.Minimum)
	case c.maximum != nil && value.Cmp(c.maximum) > 0:
		return fmt.Sprintf("“%s” may not be %s %s.", label, high, c.limits.Maximum)
	}
	return ""
}

func characters(n int) string {
	if n == 1 {
		return "1 character"
	}
	return fmt.Sprintf("%d characters", n)
}

// clip keeps a long text from pushing what is said of it out of the window.
func clip(text string) string {
	const most = 20
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}

var errTwice = errors.New("is there twice")
