package policy

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/internal/durable"
	"github.com/cetrus/cetrus/manager/internal/latest"
)

const (
	// putBackAfter is how long the stream must answer with a policy that was published
	// before the mirrored one until that is believed: a replica that lags does not so
	// long, a stream that was put back from a backup does for ever.
	putBackAfter = 2 * time.Minute
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

	// earlier is what the stream answers with though it was published before the
	// current one, and since when it does.
	earlier      []byte
	earlierSince time.Time
	putBackAfter time.Duration
	// suspected is told while it stays so, believed until somebody acknowledges it.
	suspected, believed *PutBack
}

// PutBack says that the platform answers with a policy that comes before the one that was
// mirrored, as one does that was put back from a backup.
type PutBack struct {
	// Since is when that was first so.
	Since time.Time `json:"since"`
	// Revision is the platform's, Mirrored the one that was known before.
	Revision uint64 `json:"revision"`
	Mirrored uint64 `json:"mirrored"`
	// Believed: it has stayed so and the stream's leader said the same, or something was
	// decided since; agents got it as the newest. Until then they keep the mirrored one.
	Believed bool `json:"believed"`
}

// putBackSuffix ends the name of the file that tells of what was believed.
const putBackSuffix = "-put-back"

// Open reads the mirrored policy. A file that is missing or damaged is no error:
// the platform has the policy, and until it is heard agents keep their own.
func Open(path string, account contract.ID, log *slog.Logger) (*Mirror, error) {
	m := &Mirror{account: account, path: path, log: log.With("part", "policy"), changed: make(chan struct{}), putBackAfter: putBackAfter}
	m.readPutBack()
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
	return latest.Follow(ctx, nc, contract.PolicySubject(m.account), m.log, func(ctx context.Context) ([]byte, error) { return m.read(ctx, nc) })
}

// read takes over the last policy of the stream. One that cannot be used is told,
// and the one before goes on.
func (m *Mirror) read(ctx context.Context, nc *nats.Conn) ([]byte, error) {
	body, err := latest.Read(ctx, nc, contract.PolicyStream, contract.PolicySubject(m.account))
	if err != nil {
		return nil, err
	}
	err = m.take(body, false)
	if errors.Is(err, errAskLeader) {
		// Any replica may have answered, also one that has been cut off for long.
		led, askErr := nc.RequestWithContext(ctx, contract.PolicyAskSubject(m.account), nil)
		if askErr != nil {
			return nil, fmt.Errorf("the stream's leader is to be asked whether the platform was put back: %w", askErr)
		}
		err = m.take(led.Data, true)
	}
	if err != nil {
		m.log.Error("the platform's policy is not used", "error", err)
	}
	return body, nil
}

// errAskLeader says that the stream's leader is to be asked before an earlier policy is taken
// over.
var errAskLeader = errors.New("policy: the stream's leader is to be asked")

// take makes a serialized policy the current one, durably. leader tells that it is the
// stream's leader's, and not a replica's that may be behind.
func (m *Mirror) take(body []byte, leader bool) error {
	policy, err := decode(body, m.account)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if string(m.raw) == string(body) {
		m.levelAgain()
		return nil
	}
	putBack := policy.GetPublishedUtcMillis() < m.current.GetPublishedUtcMillis()
	if putBack {
		if !m.wasPutBack(policy, body) {
			return nil
		}
		if !leader {
			return errAskLeader
		}
		m.believe(*m.suspected)
		// The platform has forgotten what it published since, and agents refuse what was
		// published before what they have: to them it is published now, by this Manager.
		policy.PublishedUtcMillis = m.current.GetPublishedUtcMillis() + 1
		if body, err = (proto.MarshalOptions{Deterministic: true}).Marshal(policy); err != nil {
			return fmt.Errorf("policy: %w", err)
		}
	}
	m.levelAgain()
	if err := durable.Replace(m.path, body); err != nil {
		// Agents get it all the same: only a restart without the platform would miss it.
		m.log.Error("the policy could not be mirrored", "file", m.path, "error", err)
	}
	if revision, before := policy.GetRevision(), m.current.GetRevision(); revision < before {
		m.log.Warn("the platform's policy has a smaller revision than the mirrored one", "revision", revision, "before", before)
		if !putBack && policy.GetLogCreatedUtcMillis() == m.current.GetLogCreatedUtcMillis() {
			// One log counts up: it was put back, and something was decided since.
			m.believe(PutBack{Since: time.Now().UTC(), Revision: revision, Mirrored: before})
		}
	}
	m.current, m.raw = policy, body
	close(m.changed)
	m.changed = make(chan struct{})
	m.log.Info("policy taken over", "revision", policy.GetRevision(), "applications", len(policy.GetApplications()))
	return nil
}

// levelAgain forgets an earlier policy that was not believed.
func (m *Mirror) levelAgain() {
	m.earlier, m.suspected = nil, nil
}

// believe notes, until somebody acknowledges it, that the platform was put back.
func (m *Mirror) believe(told PutBack) {
	told.Believed = true
	m.believed = &told
	text, err := json.Marshal(m.believed)
	if err == nil {
		err = durable.Replace(m.path+putBackSuffix, text)
	}
	if err != nil {
		m.log.Error("that the platform was put back is told until this Manager stops only", "error", err)
	}
	m.log.Warn("the platform was put back: agents get its policy as the newest", "revision", m.believed.Revision, "mirrored", m.believed.Mirrored)
}

// readPutBack reads what an earlier run has believed.
func (m *Mirror) readPutBack() {
	text, err := durable.Read(m.path + putBackSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	told := new(PutBack)
	if err == nil {
		err = json.Unmarshal(text, told)
	}
	if err != nil {
		m.log.Error("whether the platform was put back is not known", "error", err)
		return
	}
	m.believed = told
}

// PutBack tells whether the platform was put back, or else seems to have been; nil where it
// does not. It must not be changed.
func (m *Mirror) PutBack() *PutBack {
	m.mu.Lock()
	defer m.mu.Unlock()
	return cmp.Or(m.believed, m.suspected)
}

// Acknowledge ends telling that the platform was put back.
func (m *Mirror) Acknowledge() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.believed == nil {
		return nil
	}
	if err := os.Remove(m.path + putBackSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("policy: %w", err)
	}
	m.believed = nil
	return nil
}

// wasPutBack tells whether the stream has answered with an earlier policy for so long
// that it must have been put back, and this is not the one that is current already but
// for the time.
func (m *Mirror) wasPutBack(policy *policyv1.Policy, body []byte) bool {
	same := proto.CloneOf(policy)
	same.PublishedUtcMillis = m.current.GetPublishedUtcMillis()
	if proto.Equal(same, m.current) {
		return false
	}
	if !bytes.Equal(m.earlier, body) {
		m.earlier, m.earlierSince = body, time.Now()
		m.suspected = &PutBack{Since: m.earlierSince.UTC(), Revision: policy.GetRevision(), Mirrored: m.current.GetRevision()}
		m.log.Warn("the platform's policy was published before the mirrored one; if it stays so, its log was put back and agents get it as the newest",
			"revision", policy.GetRevision(), "mirrored", m.current.GetRevision(), "after", m.putBackAfter)
	}
	return time.Since(m.earlierSince) >= m.putBackAfter
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
