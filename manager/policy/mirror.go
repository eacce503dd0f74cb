package policy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/internal/durable"
)

const (
	// While the platform does not answer, it is asked again after this long.
	firstRetry = 200 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// Mirror is the account's policy, in memory and in a file.
type Mirror struct {
	account contract.ID
	path    string
	log     *slog.Logger

	mu      sync.Mutex
	current *policyv1.Policy
	raw     []byte
	changed chan struct{}
}

// Open reads the mirrored policy. A file that is missing or damaged is no error:
// the platform has the policy, and until it is heard agents keep their own.
func Open(path string, account contract.ID, log *slog.Logger) (*Mirror, error) {
	m := &Mirror{account: account, path: path, log: log.With("part", "policy"), changed: make(chan struct{})}
	body, err := durable.Read(path)
	if errors.Is(err, fs.ErrNotExist) {
		return m, nil
	}
	if err != nil && !errors.Is(err, durable.ErrDamaged) {
		return nil, fmt.Errorf("policy: %w", err)
	}
	var policy *policyv1.Policy
	if err == nil {
		policy, err = decode(body, account)
	}
	if err != nil {
		m.log.Error("the mirrored policy is not used; agents keep theirs until the platform is heard", "file", path, "error", err)
		return m, nil
	}
	m.current, m.raw = policy, body
	return m, nil
}

// Current is the policy, nil before there was one, and a channel that is closed
// when another takes its place. The policy must not be changed.
func (m *Mirror) Current() (*policyv1.Policy, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current, m.changed
}

// Follow keeps the mirror level with the platform until the context ends.
func (m *Mirror) Follow(ctx context.Context, nc *nats.Conn) error {
	pause := firstRetry
	for ctx.Err() == nil {
		err := m.follow(ctx, nc)
		if ctx.Err() != nil {
			break
		}
		m.log.Debug("the policy stream cannot be followed yet", "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, lastRetry)
	}
	return ctx.Err()
}

func (m *Mirror) follow(ctx context.Context, nc *nats.Conn) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	consumer, err := js.OrderedConsumer(ctx, contract.PolicyStream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{contract.PolicySubject(m.account)},
		DeliverPolicy:  jetstream.DeliverLastPerSubjectPolicy,
	})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	stop := context.AfterFunc(ctx, messages.Stop)
	defer stop()
	for {
		message, err := messages.Next()
		if err != nil {
			return err
		}
		if err := m.take(message.Data()); err != nil {
			m.log.Error("the platform's policy is not used", "error", err)
		}
	}
}

// take makes a serialized policy the current one, durably.
func (m *Mirror) take(body []byte) error {
	policy, err := decode(body, m.account)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if string(m.raw) == string(body) {
		return nil
	}
	if err := durable.Replace(m.path, body); err != nil {
		// Agents get it all the same: only a restart without the platform would miss it.
		m.log.Error("the policy could not be mirrored", "file", m.path, "error", err)
	}
	if m.current != nil && policy.GetRevision() < m.current.GetRevision() {
		m.log.Warn("the platform's policy has a smaller revision than the mirrored one", "revision", policy.GetRevision(), "before", m.current.GetRevision())
	}
	m.current, m.raw = policy, body
	close(m.changed)
	m.changed = make(chan struct{})
	m.log.Info("policy taken over", "revision", policy.GetRevision(), "applications", len(policy.GetApplications()))
	return nil
}

func decode(body []byte, account contract.ID) (*policyv1.Policy, error) {
	var policy policyv1.Policy
	if err := proto.Unmarshal(body, &policy); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if string(policy.GetAccountId()) != string(account[:]) {
		return nil, fmt.Errorf("policy: it belongs to account %x, this Manager serves %s", policy.GetAccountId(), account)
	}
	return &policy, nil
}
