package projection

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Message is one message of the stream.
type Message struct {
	// Subject that it was published to.
	Subject string
	// Position is its sequence number in the stream, from 1.
	Position uint64
	// Stored is when the stream took it, by the stream's clock.
	Stored time.Time
	// Header holds the message's headers by their exact names; may be nil.
	Header Header
	// Data is the payload. It belongs to the message; nobody changes it.
	Data []byte
	// Decoded is what Config.Decode left here ahead of Apply; else nil.
	Decoded any
}

// Header holds the headers of a message.
type Header map[string][]string

// Get is the first value of a header, or "" where there is none.
func (h Header) Get(name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// Handler writes what messages mean into tables.
type Handler interface {
	// Apply applies the messages, which are in the order of the stream and at
	// least one, within the transaction. The transaction's search_path is the
	// projection's schema. The same messages come again where the transaction
	// fails; Apply must then behave as if the first time had not been.
	//
	// An error that Postgres may get over (a lost connection, a deadlock, a
	// full disk) is retried with back-off. Any other error stops the Runner,
	// unless Config.Poison takes the message that causes it.
	Apply(ctx context.Context, tx pgx.Tx, batch []Message) error
}

// HandlerFunc is a Handler that is one function.
type HandlerFunc func(ctx context.Context, tx pgx.Tx, batch []Message) error

// Apply implements Handler.
func (f HandlerFunc) Apply(ctx context.Context, tx pgx.Tx, batch []Message) error {
	return f(ctx, tx, batch)
}

type hooksKey struct{}

// hooks are what wants to know how the transaction ended.
type hooks struct{ ended []func(committed bool) }

// AfterTx has fn called once the transaction that ctx belongs to has ended:
// with true where it is certain that it was committed, else with false. It
// returns false, and never calls fn, where ctx comes from no Runner.
//
// It lets a handler keep in memory what it has also written to its tables, and
// forget it when the tables did not take it.
func AfterTx(ctx context.Context, fn func(committed bool)) bool {
	h, ok := ctx.Value(hooksKey{}).(*hooks)
	if ok {
		h.ended = append(h.ended, fn)
	}
	return ok
}

// WithHooks makes a context in which AfterTx works, for a transaction that is
// run without a Runner: a replay, a test. ended is called once, when it is known
// how the transaction ended.
func WithHooks(ctx context.Context) (hooked context.Context, ended func(committed bool)) {
	h := &hooks{}
	return context.WithValue(ctx, hooksKey{}, h), h.end
}

func (h *hooks) end(committed bool) {
	for _, ended := range h.ended {
		ended(committed)
	}
}
