package eventlog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/nats-io/nats.go"
)

const (
	// defaultAttempt is how long one request may take before it is ambiguous.
	defaultAttempt = 2 * time.Second
	// defaultLimit bounds an operation whose context has no deadline.
	defaultLimit = 30 * time.Second
	// loadBatch is how many events one request for an aggregate asks for.
	loadBatch = 256
)

// Codes of JetStream's answers that this package acts on.
const (
	codeNotFound          = 10037
	codeWrongLast         = 10071 // wrong last sequence, from a single server
	codeWrongLastConstant = 10164 // the same, from a replicated stream
	codeTooLarge          = 10054
	codeWrongStream       = 10060
	codeNoStream          = 10059
	codeNoAtomic          = 10174
	codeBatchTooLarge     = 10199
)

// JetStream is the Log on a stream of NATS JetStream.
type JetStream struct {
	nc      *nats.Conn
	stream  string
	attempt time.Duration
	answers *answers
	// atOnce has a place for each atomic batch under way.
	atOnce chan struct{}
}

// batchesAtOnce is far below the 50 that a stream takes: it gives no answer to the rest, which
// would wait for one, and send again when there is none.
const batchesAtOnce = 12

// JetStreamOption changes how a JetStream log behaves.
type JetStreamOption func(*JetStream)

// AttemptTimeout is how long one request waits for its answer before it is
// made again; 2 s if not given.
func AttemptTimeout(d time.Duration) JetStreamOption {
	return func(l *JetStream) { l.attempt = d }
}

// NewJetStream returns the log that is kept in the named stream, which
// natsserver.EnsureStreams has made. The connection stays the caller's.
func NewJetStream(nc *nats.Conn, stream string, options ...JetStreamOption) *JetStream {
	l := &JetStream{nc: nc, stream: stream, attempt: defaultAttempt, answers: newAnswers(nc), atOnce: make(chan struct{}, batchesAtOnce)}
	for _, option := range options {
		option(l)
	}
	return l
}

// Load implements Log with batches of direct gets, which any replica may answer.
func (l *JetStream) Load(ctx context.Context, subject string) ([]Event, Position, error) {
	var events []Event
	last, err := l.Each(ctx, subject, func(e Event) error { events = append(events, e); return nil })
	if err != nil {
		return nil, 0, err
	}
	return events, last, nil
}

// Each implements Log.
func (l *JetStream) Each(ctx context.Context, subject string, take func(Event) error) (Position, error) {
	if err := checkSubject(subject); err != nil {
		return 0, err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	var last Position
	var taken error
	err := l.batches(ctx, subject, 1, func(batch []Event) bool {
		for _, e := range batch {
			if taken = take(e); taken != nil {
				return false
			}
		}
		last = lastOf(batch)
		return true
	})
	switch {
	case taken != nil:
		return 0, taken
	case err != nil:
		return 0, fmt.Errorf("eventlog: load %s: %w", subject, unavailable(ctx, err))
	}
	return last, nil
}

// read returns the subject's events from a position on, and stops asking once it has as
// many as wanted; the last answer may bring more.
func (l *JetStream) read(ctx context.Context, subject string, from Position, wanted int) ([]Event, error) {
	var events []Event
	err := l.batches(ctx, subject, from, func(batch []Event) bool {
		events = append(events, batch...)
		return len(events) < wanted
	})
	if err != nil {
		return nil, err
	}
	return events, nil
}

// batches hands over the subject's events from a position on, some at a time, until there
// are no more or take wants no more. It asks again until it has an answer or ctx ends.
func (l *JetStream) batches(ctx context.Context, subject string, from Position, take func([]Event) bool) error {
	more, some := true, false
	for attempt := 0; more; {
		batch, pending, err := l.readBatch(ctx, subject, from)
		if err == nil && len(batch) == 0 && some {
			err = errors.New("a replica lags behind the one that answered before")
		}
		if err != nil {
			if errors.Is(err, ErrInvalid) {
				return err
			}
			if attempt++; pause(ctx, attempt) != nil {
				return err
			}
			continue
		}
		attempt = 0
		if len(batch) > 0 {
			from, some = lastOf(batch)+1, true
			if !take(batch) {
				return nil
			}
		}
		more = pending > 0
	}
	return nil
}

// readBatch asks once. A batch that did not arrive whole is an error.
func (l *JetStream) readBatch(ctx context.Context, subject string, from Position) (events []Event, pending uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.attempt)
	defer cancel()
	request, err := json.Marshal(struct {
		Seq    Position `json:"seq"`
		Next   string   `json:"next_by_subj"`
		Batch  int      `json:"batch"`
		MaxLen int      `json:"max_bytes"`
	}{from, subject, loadBatch, 16 << 20})
	if err != nil {
		return nil, 0, err
	}
	arriving, done, err := l.answers.ask("$JS.API.DIRECT.GET."+l.stream, request, loadBatch+1)
	if err != nil {
		return nil, 0, err
	}
	defer done()
	var before Position
	for {
		msg, err := next(ctx, arriving)
		if err != nil {
			return nil, 0, err
		}
		header := Header(msg.Header)
		switch status := header.get("Status"); status {
		case "":
		case "404":
			return nil, 0, nil
		case "204":
			// The end names what it follows, so a message that was dropped on the
			// way shows.
			if last, err := position(header, "Nats-Last-Sequence"); err != nil || last != lastOf(events) {
				return nil, 0, fmt.Errorf("the answer ends at %d, but %d came last", last, lastOf(events))
			}
			pending, err := strconv.ParseUint(header.get("Nats-Num-Pending"), 10, 64)
			return events, pending, err
		default:
			return nil, 0, fmt.Errorf("answer %s %s", status, header.get("Description"))
		}
		seq, err := position(header, "Nats-Sequence")
		if err != nil {
			return nil, 0, err
		}
		if last, err := position(header, "Nats-Last-Sequence"); err != nil || last != before {
			return nil, 0, fmt.Errorf("message %d follows %d, but %d came before it", seq, last, before)
		}
		before = seq
		event, err := FromMessage(subject, header, msg.Data, seq)
		if err != nil {
			return nil, 0, err
		}
		events = append(events, event)
	}
}

func position(h Header, name string) (Position, error) {
	n, err := strconv.ParseUint(h.get(name), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("header %s: %w", name, err)
	}
	return Position(n), nil
}

// Last implements Log. It asks the leader, which has applied all that it ever
// acknowledged.
func (l *JetStream) Last(ctx context.Context, subject string) (Position, error) {
	if err := checkSubject(subject); err != nil {
		return 0, err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	request, err := json.Marshal(map[string]string{"last_by_subj": subject})
	if err != nil {
		return 0, err
	}
	for attempt := 1; ; attempt++ {
		last, err := l.askLast(ctx, request)
		if err == nil {
			return last, nil
		}
		if pause(ctx, attempt) != nil {
			return 0, fmt.Errorf("eventlog: last position of %s: %w", subject, unavailable(ctx, err))
		}
	}
}

func (l *JetStream) askLast(ctx context.Context, request []byte) (Position, error) {
	ctx, cancel := context.WithTimeout(ctx, l.attempt)
	defer cancel()
	msg, err := l.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+l.stream, request)
	if err != nil {
		return 0, err
	}
	var answer struct {
		Error   *apiError `json:"error"`
		Message *struct {
			Seq Position `json:"seq"`
		} `json:"message"`
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return 0, err
	}
	switch {
	case answer.Error != nil && answer.Error.Code == codeNotFound:
		return 0, nil
	case answer.Error != nil:
		return 0, answer.Error
	case answer.Message == nil:
		return 0, errors.New("an answer without a message")
	}
	return answer.Message.Seq, nil
}

// Append implements Log.
func (l *JetStream) Append(ctx context.Context, subject string, expected Position, events ...Event) (Position, error) {
	return l.AppendAll(ctx, Write{Subject: subject, Expected: expected, Events: events})
}

// AppendAll implements Log. One event is one message; several are one atomic
// batch.
//
// An attempt without an answer says nothing: neither does the error of the next
// one (a single server and a replicated stream answer a repetition differently),
// nor that a read does not find the events (a lagging replica may have answered).
// So after such an attempt the same messages are sent again, under the same
// expectation, until they are accepted or a read shows what stands behind the
// expected position: these events, or others. The expectation is literal, so at
// most one of the attempts can ever succeed.
func (l *JetStream) AppendAll(ctx context.Context, writes ...Write) (Position, error) {
	writes, err := prepare(ctx, writes)
	if err != nil {
		return 0, err
	}
	ctx, cancel := limited(ctx)
	defer cancel()
	ambiguous := false
	for attempt := 1; ; attempt++ {
		position, err := l.publish(ctx, writes)
		if err == nil {
			return position, nil
		}
		var refused *apiError
		if answered := errors.As(err, &refused); answered && !ambiguous {
			// The first answer to the first attempt can be taken at its word.
			if refused.conflict() {
				return 0, conflict(writes[0])
			}
			if refused.permanent() {
				return 0, fmt.Errorf("eventlog: append to %s: %w", writes[0].Subject, refused)
			}
		} else if !errors.Is(err, nats.ErrNoResponders) {
			ambiguous = true
		}
		if ambiguous {
			position, found, err := l.find(ctx, writes)
			if err == nil && found {
				return position, nil
			}
			if errors.Is(err, ErrConflict) {
				return 0, err
			}
		}
		if pause(ctx, attempt) != nil {
			if ambiguous {
				return 0, fmt.Errorf("eventlog: append to %s: %w: %w", writes[0].Subject, ErrUnknownOutcome, err)
			}
			return 0, fmt.Errorf("eventlog: append to %s: %w", writes[0].Subject, unavailable(ctx, err))
		}
	}
}

func conflict(w Write) error {
	return fmt.Errorf("eventlog: append to %s behind %d: %w", w.Subject, w.Expected, ErrConflict)
}

// find looks behind the expected positions: these events are found, or others
// are (ErrConflict), or nothing is to be seen yet.
func (l *JetStream) find(ctx context.Context, writes []Write) (Position, bool, error) {
	var last Position
	for _, w := range writes {
		events, err := l.read(ctx, w.Subject, w.Expected+1, len(w.Events))
		if err != nil || len(events) == 0 {
			return 0, false, err
		}
		if events[0].ID != w.Events[0].ID {
			return 0, false, conflict(w)
		}
		if len(events) < len(w.Events) {
			return 0, false, nil
		}
		last = max(last, events[len(w.Events)-1].Position)
	}
	return last, true, nil
}

// publish sends once. The error is an *apiError where JetStream answered with
// one.
func (l *JetStream) publish(ctx context.Context, writes []Write) (Position, error) {
	messages := l.messages(writes)
	if len(messages) > 1 {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case l.atOnce <- struct{}{}:
			defer func() { <-l.atOnce }()
		}
	}
	ctx, cancel := context.WithTimeout(ctx, l.attempt)
	defer cancel()
	for _, msg := range messages[:len(messages)-1] {
		if err := l.nc.PublishMsg(msg); err != nil {
			return 0, err
		}
	}
	answer, err := l.nc.RequestMsgWithContext(ctx, messages[len(messages)-1])
	if err != nil {
		return 0, err
	}
	var ack struct {
		Error *apiError `json:"error"`
		Seq   Position  `json:"seq"`
	}
	if err := json.Unmarshal(answer.Data, &ack); err != nil {
		return 0, fmt.Errorf("the answer to an append: %w", err)
	}
	if ack.Error != nil {
		return 0, ack.Error
	}
	if ack.Seq == 0 {
		return 0, errors.New("the answer to an append names no position")
	}
	return ack.Seq, nil
}

func (l *JetStream) messages(writes []Write) []*nats.Msg {
	var messages []*nats.Msg
	for _, w := range writes {
		for i, e := range w.Events {
			msg := &nats.Msg{Subject: w.Subject, Header: nats.Header(HeaderOf(e)), Data: e.Data}
			msg.Header[nats.ExpectedStreamHdr] = []string{l.stream}
			if i == 0 {
				msg.Header[nats.ExpectedLastSubjSeqHdr] = []string{strconv.FormatUint(uint64(w.Expected), 10)}
			}
			messages = append(messages, msg)
		}
	}
	if len(messages) == 1 {
		return messages
	}
	// An id of its own for each attempt: the server may still hold the rest of
	// one that broke off.
	batch := uuid.NewString()
	for i, msg := range messages {
		msg.Header["Nats-Batch-Id"] = []string{batch}
		msg.Header["Nats-Batch-Sequence"] = []string{strconv.Itoa(i + 1)}
	}
	messages[len(messages)-1].Header["Nats-Batch-Commit"] = []string{"1"}
	return messages
}

type apiError struct {
	Status      int    `json:"code"`
	Code        int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string {
	return fmt.Sprintf("JetStream answered %d: %s", e.Code, e.Description)
}

func (e *apiError) conflict() bool {
	return e.Code == codeWrongLast || e.Code == codeWrongLastConstant
}

func (e *apiError) permanent() bool {
	switch e.Code {
	case codeTooLarge, codeWrongStream, codeNoStream, codeNoAtomic, codeBatchTooLarge:
		return true
	}
	return false
}

// unavailable says why an operation gave up when ctx ended: the caller's own
// doing, or the log's. cause is what the last attempt met.
func unavailable(ctx context.Context, cause error) error {
	switch {
	case errors.Is(cause, ErrInvalid):
		return cause
	case errors.Is(ctx.Err(), context.Canceled):
		return ctx.Err()
	case cause == nil:
		return ErrUnavailable
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, cause)
}

// limited gives an operation an end where its caller gave none.
func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, defaultLimit)
}
