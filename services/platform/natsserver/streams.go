package natsserver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
)

// Streams says how the streams of the log are kept.
type Streams struct {
	// Replicas of each stream: 1 for a single server, 3 over failure domains for
	// a cluster. 0 means 1.
	Replicas int
	// AgentMaxBytes bounds AGENT; 0 leaves it unbounded. A full stream refuses
	// new messages, and Managers then keep them: it never drops old ones.
	AgentMaxBytes int64
}

// toldPrefix stands before the subject of what the stream of policies has stored, as it is told.
const toldPrefix = "told."

// EnsureStreams makes the streams of the log exist with the right settings. It
// may run at every start and from several processes: what differs is updated,
// and what cannot be changed on an existing stream is an error.
func EnsureStreams(ctx context.Context, nc *nats.Conn, settings Streams) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("natsserver: %w", err)
	}
	for _, config := range settings.configs() {
		if err := ensure(ctx, js, config); err != nil {
			return fmt.Errorf("natsserver: ensure stream %s: %w", config.Name, err)
		}
	}
	return nil
}

func (s Streams) configs() []jetstream.StreamConfig {
	replicas := max(1, s.Replicas)
	base := jetstream.StreamConfig{
		Retention: jetstream.LimitsPolicy,
		Storage:   jetstream.FileStorage,
		Replicas:  replicas,
		MaxMsgs:   -1,
		MaxBytes:  -1,
		// A full stream refuses, so that the writer keeps what it has.
		Discard:           jetstream.DiscardNew,
		MaxMsgsPerSubject: -1,
		MaxMsgSize:        contract.MaxBatchBytes + headerRoom,
		AllowDirect:       true,
		Duplicates:        2 * time.Minute,
	}

	agent := base
	agent.Name = contract.AgentStream
	agent.Description = "What agents, SDKs and licence servers observe; archived, then taken out."
	agent.Subjects = []string{contract.AgentSubjects}
	// No age limit: who archives it takes out what is archived, and nothing else goes.
	if s.AgentMaxBytes > 0 {
		agent.MaxBytes = s.AgentMaxBytes
	}

	events := base
	events.Name = contract.EventStream
	events.Description = "What people and rules decide; kept for ever."
	events.Subjects = []string{contract.EventSubjects}
	events.DenyDelete = true
	events.DenyPurge = true
	// Several aggregates are changed at once by one atomic batch.
	events.AllowAtomicPublish = true

	policy := base
	policy.Name = contract.PolicyStream
	policy.Description = "The latest policy of each account, and whom its Managers admit."
	policy.Subjects = []string{contract.PolicySubjects, contract.AdmissionSubjects}
	policy.MaxMsgsPerSubject = 1
	// The one stream where a new message replaces the old one of its subject.
	policy.Discard = jetstream.DiscardOld
	// Managers hear of it so: NATS passes nothing on to subscribers of another account that came
	// from one.
	policy.RePublish = &jetstream.RePublish{Source: ">", Destination: toldPrefix + ">"}

	poison := base
	poison.Name = contract.PoisonStream
	poison.Description = "Events that a reactor could not handle, until a person has looked at them."
	poison.Subjects = []string{contract.PoisonSubjects}

	return []jetstream.StreamConfig{agent, events, policy, poison}
}

// codeNoPeers is the answer of a cluster that does not see enough of its servers,
// or not yet.
const codeNoPeers = 10005

// ensureAttempt is how long one attempt to make a stream may take: a cluster that has no leader yet
// does not answer.
const ensureAttempt = 2 * time.Second

// ensure tries again while a cluster is not complete yet, until ctx ends.
func ensure(ctx context.Context, js jetstream.JetStream, config jetstream.StreamConfig) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, ensureAttempt)
		_, err := js.CreateOrUpdateStream(attempt, config)
		cancel()
		var refused *jetstream.APIError
		permanent := errors.As(err, &refused) && refused.Code < 500 && refused.ErrorCode != codeNoPeers
		if err == nil || permanent || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
