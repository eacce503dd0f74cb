package follow

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

const (
	// heartbeat is how often the server says that it is there; two that fail tell that it is not.
	heartbeat = 2 * time.Second
	expiry    = 30 * time.Second
	// forgotten is when the server may drop the consumer of a process that died.
	forgotten = time.Minute
	// again is how long a session that broke waits for the next one.
	again = 250 * time.Millisecond
)

// errRecreated means that the log is not the one that was read.
var errRecreated = errors.New("the stream is another one than was read")

// registry knows the events that matter here.
func registry() *eventlog.Registry {
	return eventlog.NewRegistry(
		eventlog.Current[*identityv1.LoginPrivilegesChanged]("cetrus.identity.login.privileges_changed.v1"),
		eventlog.Current[*identityv1.LoginDisabled]("cetrus.identity.login.disabled.v1"),
		eventlog.Current[*identityv1.LoginEnabled]("cetrus.identity.login.enabled.v1"),
		eventlog.Current[*identityv1.LoginDeleted]("cetrus.identity.login.deleted.v1"),
		eventlog.Current[*identityv1.ApiKeyCreated]("cetrus.identity.apikey.created.v1"),
		eventlog.Current[*identityv1.ApiKeyRevoked]("cetrus.identity.apikey.revoked.v1"),
		eventlog.Current[*identityv1.SessionEnded]("cetrus.identity.session.ended.v1"),
		eventlog.Current[*identityv1.SigningKeyPublished]("cetrus.identity.signingkey.published.v1"),
		eventlog.Current[*identityv1.SigningKeyWithdrawn]("cetrus.identity.signingkey.withdrawn.v1"),
	)
}

// Follower feeds one directory.
type Follower struct {
	js        jetstream.JetStream
	operator  contract.ID
	directory *authn.Directory
	log       *slog.Logger
	registry  *eventlog.Registry
}

// New makes a follower; it reads from Run on. operator is the account whose keys sign.
func New(js jetstream.JetStream, operator contract.ID, directory *authn.Directory, log *slog.Logger) *Follower {
	return &Follower{js: js, operator: operator, directory: directory, log: log, registry: registry()}
}

// source is a part of the log, and from when on it matters.
type source struct {
	name     string
	subjects []string
	since    time.Duration // 0: from the beginning
}

func (f *Follower) sources() []source {
	return []source{
		{"logins", []string{"ev.*.*.identity.login.*", "ev.*.*.identity.apikey.*", contract.EventSubject(f.operator, "identity", "signingkey", "*")}, 0},
		{"sessions", []string{"ev.*.*.identity.session.*"}, authn.SessionsMatterFor},
	}
}

// Run feeds the directory until ctx ends. It fails where an event cannot be understood.
func (f *Follower) Run(ctx context.Context) error {
	for {
		err := f.readAll(ctx)
		switch {
		case ctx.Err() != nil:
			err = nil
		case errors.Is(err, errRecreated):
			f.log.WarnContext(ctx, "the log of decisions is another one: who may call is read from its beginning")
			f.directory.Reset()
			continue
		}
		return err
	}
}

// readAll reads the sources side by side; the directory is level once all of them are.
func (f *Follower) readAll(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	hears := &hearing{directory: f.directory}
	for _, s := range f.sources() {
		r := &reader{Follower: f, source: s, hears: hears, unheard: true, unlevel: true}
		hears.add()
		group.Go(func() error { return r.run(ctx) })
	}
	return group.Wait()
}

// hearing tells the directory of all readers together.
type hearing struct {
	directory        *authn.Directory
	mu               sync.Mutex
	unheard, unlevel int
}

func (h *hearing) add() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.unheard++
	h.unlevel++
	h.directory.Hears(false)
}

func (h *hearing) change(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.unlevel
	change()
	h.directory.Hears(h.unheard == 0)
	if before > 0 && h.unlevel == 0 {
		h.directory.Level()
	}
}

// reader reads one source.
type reader struct {
	*Follower
	source  source
	hears   *hearing
	created time.Time // of the stream
	next    uint64    // position to read from; 0: from the source's beginning
	unheard bool
	unlevel bool
}

func (r *reader) run(ctx context.Context) error {
	said := ""
	for {
		err := r.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.deaf()
		var broken *brokenError
		if !errors.As(err, &broken) {
			return fmt.Errorf("follow: %s: %w", r.source.name, err)
		}
		if text := broken.Error(); text != said {
			said = text
			r.log.WarnContext(ctx, "who may call is not kept up to date while the log cannot be read", "what", r.source.name, "error", err)
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// brokenError ends a session that another one may follow.
type brokenError struct{ error }

func (e *brokenError) Unwrap() error { return e.error }

func (r *reader) heard() {
	if r.unheard {
		r.unheard = false
		r.hears.change(func() { r.hears.unheard-- })
	}
}

func (r *reader) deaf() {
	if !r.unheard {
		r.unheard = true
		r.hears.change(func() { r.hears.unheard++ })
	}
}

func (r *reader) level() {
	if r.unlevel {
		r.unlevel = false
		r.hears.change(func() { r.hears.unlevel-- })
	}
}

// session reads from where the one before ended, until it breaks. The consumer is its own,
// and checked to leave nothing out.
func (r *reader) session(ctx context.Context) error {
	consumer, err := r.consumer(ctx)
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullExpiry(expiry), jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return &brokenError{err}
	}
	defer messages.Stop()
	if consumer.CachedInfo().NumPending == 0 {
		r.heard()
		r.level()
	}
	for delivered := uint64(1); ; delivered++ {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return &brokenError{err}
		}
		meta, err := m.Metadata()
		if err != nil {
			return &brokenError{err}
		}
		if meta.Sequence.Consumer != delivered {
			return &brokenError{fmt.Errorf("message %d came in place of %d", meta.Sequence.Consumer, delivered)}
		}
		if err := r.apply(m, meta.Sequence.Stream); err != nil {
			return err
		}
		r.next = meta.Sequence.Stream + 1
		if meta.NumPending == 0 {
			r.heard()
			r.level()
		}
	}
}

func (r *reader) consumer(ctx context.Context) (jetstream.Consumer, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	stream, err := r.js.Stream(ctx, contract.EventStream)
	if err != nil {
		return nil, &brokenError{err}
	}
	created := stream.CachedInfo().Created
	if !r.created.IsZero() && !created.Equal(r.created) {
		return nil, errRecreated
	}
	r.created = created
	cfg := jetstream.ConsumerConfig{
		Description:   "who may call: " + r.source.name,
		DeliverPolicy: jetstream.DeliverAllPolicy, FilterSubjects: r.source.subjects,
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1, InactiveThreshold: forgotten,
	}
	switch {
	case r.next > 0:
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, r.next
	case r.source.since > 0:
		from := time.Now().Add(-r.source.since)
		cfg.DeliverPolicy, cfg.OptStartTime = jetstream.DeliverByStartTimePolicy, &from
	}
	consumer, err := stream.CreateConsumer(ctx, cfg)
	if err != nil {
		return nil, &brokenError{err}
	}
	return consumer, nil
}

// apply feeds one event. One of another type says nothing of who may call.
func (r *reader) apply(m jetstream.Msg, position uint64) error {
	event, err := eventlog.FromMessage(m.Subject(), m.Headers(), m.Data(), eventlog.Position(position))
	if err != nil {
		return err
	}
	if !r.registry.Knows(event.Type) {
		return nil
	}
	message, err := r.registry.Decode(event)
	if err != nil {
		return err
	}
	if err := feed(r.directory, event, message); err != nil {
		return fmt.Errorf("event %s at %d: %w", event.ID, position, err)
	}
	return nil
}

func feed(d *authn.Directory, event eventlog.Event, message any) error {
	// ev.<p>.<account>.identity.<aggregate>.<id>
	tokens := strings.Split(event.Subject, ".")
	if len(tokens) != 6 {
		return fmt.Errorf("the subject %q is of no aggregate", event.Subject)
	}
	account, err := contract.ParseID(tokens[2])
	if err != nil {
		return fmt.Errorf("the subject %q: %w", event.Subject, err)
	}
	switch e := message.(type) {
	case *identityv1.SigningKeyPublished:
		key := ed25519.PublicKey(e.GetPublicKey())
		if len(key) != ed25519.PublicKeySize || authn.KeyID(key) != tokens[5] {
			return errors.New("the key is none, or stands under another's name")
		}
		d.SigningKeyPublished(key)
		return nil
	case *identityv1.SigningKeyWithdrawn:
		d.SigningKeyWithdrawn(tokens[5])
		return nil
	}
	id, err := contract.ParseID(tokens[5])
	if err != nil {
		return fmt.Errorf("the subject %q: %w", event.Subject, err)
	}
	switch e := message.(type) {
	case *identityv1.LoginPrivilegesChanged:
		d.LoginPrivileges(account, id, authn.PrivilegesOf(e.GetPrivileges()...))
	case *identityv1.LoginDisabled:
		d.LoginDisabled(account, id, event.Time)
	case *identityv1.LoginEnabled:
		d.LoginEnabled(account, id)
	case *identityv1.LoginDeleted:
		d.LoginDeleted(account, id)
	case *identityv1.ApiKeyCreated:
		login, err := contract.IDFrom(e.GetLoginId())
		if err != nil || len(e.GetSha256()) != sha256.Size {
			return errors.New("is of no login, or has no hash of the key")
		}
		d.KeyCreated(account, login, id, [sha256.Size]byte(e.GetSha256()), e.GetPrefix(), authn.PrivilegesOf(e.GetPrivileges()...), e.GetExpireTime().AsTime())
	case *identityv1.ApiKeyRevoked:
		d.KeyRevoked(id)
	case *identityv1.SessionEnded:
		d.SessionEnded(id, event.Time)
	}
	return nil
}
