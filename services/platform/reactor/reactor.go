package reactor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// Handler acts on one event. It must stand a repetition: the event's ID is the
// idempotency key of all that it does. An error has it tried again with
// back-off; Permanent says that this would be of no use.
type Handler func(ctx context.Context, event eventlog.Event) error

// Permanent marks an error that another attempt cannot mend. The event is set
// aside at once.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ error }

func (e *permanentError) Unwrap() error { return e.error }

// Config says what a reactor reads and how patient it is. Zero values stand for
// the defaults named.
type Config struct {
	// Name of the reactor and of its durable consumer: lower-case letters,
	// digits and dashes. Renaming a reactor makes it a new one, without a
	// position.
	Name string
	// Stream that it reads, and the subjects in it, with wildcards; all if empty.
	Stream   string
	Subjects []string
	// FromNow begins with the events to come; else with the first of the stream.
	// It matters only when the consumer is made.
	FromNow bool
	// InFlight is how many events may be in hand at once; 16. More instances
	// with one name share them.
	InFlight int
	// Timeout of one attempt; 30 s.
	Timeout time.Duration
	// Attempts at one event before it is set aside; 12, which with the back-off
	// below takes a quarter of an hour.
	Attempts int
	// FirstPause is the back-off after the first attempt, doubled after each, up
	// to MaxPause; 200 ms and 5 min.
	FirstPause, MaxPause time.Duration
	// MaxDeliveries is how often the event may be handed out before it is set
	// aside unseen, because it seems to end the process; 25.
	MaxDeliveries int
	// PerSecond bounds the attempts; 0 leaves them unbounded.
	PerSecond float64
	// AckWait is how long the server waits for a sign of life of this process
	// before it hands an event to another one; 30 s.
	AckWait time.Duration
	// Grace is how long handlers may go on when Run is to end; 3 s.
	Grace time.Duration
}

var namePattern = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

// withDefaults also tells what is wrong.
func (c Config) withDefaults() (Config, error) {
	if !namePattern.MatchString(c.Name) {
		return c, fmt.Errorf("reactor: name %q: use lower-case letters, digits and dashes", c.Name)
	}
	if c.Stream == "" {
		return c, fmt.Errorf("reactor %s: no stream is named", c.Name)
	}
	if c.InFlight < 0 || c.Timeout < 0 || c.Attempts < 0 || c.FirstPause < 0 || c.MaxPause < 0 ||
		c.MaxDeliveries < 0 || c.PerSecond < 0 || c.AckWait < 0 || c.Grace < 0 {
		return c, fmt.Errorf("reactor %s: a setting is negative; leave it out for its default", c.Name)
	}
	orDefault(&c.InFlight, 16)
	orDefault(&c.Timeout, 30*time.Second)
	orDefault(&c.Attempts, 12)
	orDefault(&c.FirstPause, 200*time.Millisecond)
	orDefault(&c.MaxPause, 5*time.Minute)
	orDefault(&c.MaxDeliveries, 25)
	orDefault(&c.AckWait, 30*time.Second)
	orDefault(&c.Grace, 3*time.Second)
	return c, nil
}

func orDefault[T comparable](v *T, standard T) {
	var zero T
	if *v == zero {
		*v = standard
	}
}

// Deps are what a reactor stands on.
type Deps struct {
	// NATS stays the caller's; it is not closed.
	NATS    *nats.Conn
	Handler Handler
	// Logger; slog.Default() if nil.
	Logger *slog.Logger
}

// Reactor runs from Run to the end of its context.
type Reactor struct {
	config  Config
	deps    Deps
	js      jetstream.JetStream
	metrics *metrics
	running atomic.Bool
}

// New checks the configuration; it speaks to nobody yet.
func New(config Config, deps Deps) (*Reactor, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	if deps.NATS == nil || deps.Handler == nil {
		return nil, fmt.Errorf("reactor %s: it needs a connection and a handler", config.Name)
	}
	if deps.Logger == nil {
		deps.Logger = slog.Default()
	}
	deps.Logger = deps.Logger.With("reactor", config.Name)
	js, err := jetstream.New(deps.NATS)
	if err != nil {
		return nil, fmt.Errorf("reactor %s: %w", config.Name, err)
	}
	metrics, err := newMetrics()
	if err != nil {
		return nil, fmt.Errorf("reactor %s: %w", config.Name, err)
	}
	r := &Reactor{config: config, deps: deps, js: js, metrics: metrics}
	// Told from the start: Prometheus does not see a figure grow that comes into being with the first event.
	r.count(context.Background(), "poisoned", 0)
	return r, nil
}

// Run handles events until ctx ends; then it waits for the handlers that are at
// work, for Grace, and returns nil. Another error says that the reactor cannot
// go on: its consumer was deleted, and with it its position.
func (r *Reactor) Run(ctx context.Context) error {
	if !r.running.CompareAndSwap(false, true) {
		return fmt.Errorf("reactor %s: it is running already", r.config.Name)
	}
	defer r.running.Store(false)

	// Watermill tells at info what is of interest to who debugs it.
	logger := watermill.NewSlogLoggerWithLevelMapping(r.deps.Logger, map[slog.Level]slog.Level{
		slog.LevelInfo: slog.LevelDebug,
	})
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: 2 * r.config.Grace}, logger)
	if err != nil {
		return fmt.Errorf("reactor %s: %w", r.config.Name, err)
	}
	router.AddMiddleware(r.middleware()...)
	source := &subscriber{config: r.config, js: r.js, log: r.deps.Logger}
	router.AddConsumerHandler(r.config.Name, r.config.Stream, source, r.handle)

	err = router.Run(ctx)
	source.wait()
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nil // Run was to end before it had begun
	}
	if err = errors.Join(err, source.failure()); err != nil {
		return fmt.Errorf("reactor %s: %w", r.config.Name, err)
	}
	return nil
}

// handle is the innermost step: from Watermill's message back to the event.
func (r *Reactor) handle(msg *message.Message) error {
	d := deliveryFrom(msg.Context())
	if d.err != nil {
		return Permanent(d.err)
	}
	return r.deps.Handler(msg.Context(), d.event)
}
