package errs

import (
	"context"
	"errors"
	"strings"
)

// Kind says what a caller can do about an error.
type Kind uint8

// The kinds. A new one is justified only by a reaction that no other asks for.
const (
	// Internal is a fault of ours; its cause is logged, never shown. It is the
	// kind of every error that nobody gave one.
	Internal Kind = iota
	// Invalid asks for something that is wrong whatever the state: change the
	// request.
	Invalid
	// NotFound names something that is not there, or not the caller's.
	NotFound
	// AlreadyExists makes something that is there: choose another name.
	AlreadyExists
	// Conflict lost against a change made meanwhile: read again, then repeat.
	Conflict
	// Precondition cannot be done in the present state: change that first.
	Precondition
	// Unauthenticated does not say who asks: send a valid key.
	Unauthenticated
	// Denied says who asks, and they may not.
	Denied
	// Unavailable cannot be answered now: repeat after a while, unchanged.
	Unavailable
	// Exhausted went over a limit: ask for less, or later.
	Exhausted
	// DeadlineExceeded took longer than the caller, or the server, would wait.
	DeadlineExceeded
	// Canceled was given up by the caller.
	Canceled
	// Unimplemented is in the contract, but not in this build.
	Unimplemented
)

var kindNames = [...]string{
	Internal:         "internal",
	Invalid:          "invalid",
	NotFound:         "not found",
	AlreadyExists:    "already exists",
	Conflict:         "conflict",
	Precondition:     "precondition",
	Unauthenticated:  "unauthenticated",
	Denied:           "denied",
	Unavailable:      "unavailable",
	Exhausted:        "exhausted",
	DeadlineExceeded: "deadline exceeded",
	Canceled:         "canceled",
	Unimplemented:    "unimplemented",
}

// String is the kind in lower-case words.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return kindNames[Internal]
}

// Reason is the kind as machines read it: UPPER_SNAKE_CASE.
func (k Kind) Reason() string {
	return strings.ToUpper(strings.ReplaceAll(k.String(), " ", "_"))
}

// Field is one part of a request that is wrong, and why.
type Field struct {
	// Path is the field's name in the contract, with dots: "application.timeout".
	Path string
	// Description says what is wrong and what would be right.
	Description string
}

// Error is an error of one layer. Its fields are set when it is made and not
// changed after it was returned.
type Error struct {
	// Op is the operation: package and function, "metering.CreateApplication".
	Op string
	// Subject is what it was about: "application 0198…", "key listen.rest".
	// Callers see it; it holds no secret and nothing personal.
	Subject string
	// Kind says what the caller can do.
	Kind Kind
	// Reason is a stable UPPER_SNAKE_CASE word for programs that must tell apart
	// errors of one kind; empty: the kind's own.
	Reason string
	// Message says what is wrong and the way out, to whoever asked. Callers see
	// it, unless the kind is Internal.
	Message string
	// Fields are the parts of the request that are wrong; Invalid only.
	Fields []Field
	// Err is the cause, for the log. Callers never see it.
	Err error
}

// New makes an error where its cause is found. message says what is wrong and
// the way out.
func New(kind Kind, op, subject, message string) *Error {
	return &Error{Op: op, Subject: subject, Kind: kind, Message: message}
}

// Wrap adds a layer's operation and subject to err and keeps its kind. It
// returns nil for nil.
func Wrap(op, subject string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Subject: subject, Kind: KindOf(err), Err: err}
}

// As gives err a kind and a message, where the cause of a foreign error is
// understood. It returns nil for nil.
func As(kind Kind, op, subject, message string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Op: op, Subject: subject, Kind: kind, Message: message, Err: err}
}

// InvalidFields makes an Invalid error out of the fields that are wrong.
func InvalidFields(op, subject string, fields ...Field) *Error {
	message := "the request is not valid"
	if len(fields) > 0 {
		message = fields[0].Path + ": " + fields[0].Description
	}
	return &Error{Op: op, Subject: subject, Kind: Invalid, Message: message, Fields: fields}
}

// WithReason returns a copy of the error that carries the reason.
func (e *Error) WithReason(reason string) *Error {
	c := *e
	c.Reason = reason
	return &c
}

// Error is the whole chain on one line, for the log:
// "op: subject: kind: message: cause".
func (e *Error) Error() string {
	var cause string
	if e.Err != nil {
		cause = e.Err.Error()
	}
	kind := e.Kind.String()
	var inner *Error
	if errors.As(e.Err, &inner) && inner.Kind == e.Kind {
		kind = "" // told once, where it was decided
	}
	parts := make([]string, 0, 5)
	for _, p := range []string{e.Op, e.Subject, kind, e.Message, cause} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, ": ")
}

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.Err }

// KindOf is the kind of an error: that of its outermost *Error; for the errors
// of an ended context, Canceled or DeadlineExceeded; Internal for all others.
func KindOf(err error) Kind {
	var e *Error
	switch {
	case errors.As(err, &e):
		return e.Kind
	case errors.Is(err, context.DeadlineExceeded):
		return DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return Canceled
	}
	return Internal
}

// Is tells whether err is of the kind; a nil error is of none.
func Is(kind Kind, err error) bool { return err != nil && KindOf(err) == kind }

// Public is what a caller may see of an error.
type Public struct {
	Kind    Kind
	Reason  string
	Subject string
	Message string
	Fields  []Field
}

// PublicOf gathers what a caller may see: the outermost kind, and the reason,
// subject, message and fields nearest to it in the chain. Of an Internal error
// nothing is shown but that it happened.
func PublicOf(err error) Public {
	p := Public{Kind: KindOf(err)}
	if p.Kind == Internal {
		p.Reason, p.Message = Internal.Reason(), "something failed in Cetrus itself; it has been logged"
		return p
	}
	var e *Error
	for rest := err; errors.As(rest, &e) && e.Kind != Internal; rest = e.Err {
		if p.Reason == "" {
			p.Reason = e.Reason
		}
		if p.Message == "" {
			p.Message = e.Message
		}
		if p.Subject == "" {
			p.Subject = e.Subject
		}
		if p.Fields == nil {
			p.Fields = e.Fields
		}
	}
	if p.Reason == "" {
		p.Reason = p.Kind.Reason()
	}
	if p.Message == "" {
		p.Message = p.Kind.String()
	}
	return p
}
