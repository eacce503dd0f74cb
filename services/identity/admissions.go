package identity

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

const (
	// admissionType is the CloudEvents type of an Admission in the stream POLICY.
	admissionType = "cetrus.admission.v1"
	// maxOrders is how many agents an Admission speaks of: those that were decided on last.
	maxOrders = 10_000

	admissionFirstRetry, admissionLastRetry = 100 * time.Millisecond, 5 * time.Second
)

// admission is what Managers of one account are told, gathered from the log.
type admission struct {
	position eventlog.Position
	millis   int64
	tokens   map[contract.ID]*policyv1.AdmittingToken
	agents   map[contract.ID]*policyv1.AgentOrder
}

// take takes an event in, which is about id.
func (a *admission) take(id contract.ID, event eventlog.Event, message proto.Message) error {
	now := event.Time.UnixMilli()
	a.position, a.millis = event.Position, max(a.millis, now)
	switch e := message.(type) {
	case *identityv1.EnrollmentTokenCreated:
		if len(e.GetSha256()) != sha256.Size {
			return fmt.Errorf("identity: enrolment token %s: its hash has %d bytes", id, len(e.GetSha256()))
		}
		a.tokens[id] = &policyv1.AdmittingToken{
			TokenId: id[:], ManagerId: e.GetManagerId(), Sha256: e.GetSha256(), DisplayName: e.GetDisplayName(), MaxUses: e.GetMaxUses(),
			CreatedUtcMillis: now, ExpiresUtcMillis: e.GetExpireTime().AsTime().UnixMilli(),
		}
	case *identityv1.EnrollmentTokenRevoked:
		if t := a.tokens[id]; t != nil {
			t.Revoked = true
		}
	case *identityv1.AgentRevoked:
		a.agents[id] = &policyv1.AgentOrder{AgentId: id[:], UtcMillis: a.orderedAt(id, now), Revoked: true, Copies: e.GetCopies()}
	case *identityv1.AgentReadmitted:
		a.agents[id] = &policyv1.AgentOrder{AgentId: id[:], UtcMillis: a.orderedAt(id, now)}
	default:
		return fmt.Errorf("identity: %T says nothing of who is admitted", message)
	}
	return nil
}

// orderedAt is the time of an order on an agent: later than that of the one before, which another
// process may have written whose clock is ahead. Managers carry out the latest.
func (a *admission) orderedAt(id contract.ID, now int64) int64 {
	return max(now, a.agents[id].GetUtcMillis()+1)
}

// message is what Managers are told now.
func (a *admission) message(account contract.ID, now time.Time) *policyv1.Admission {
	maps.DeleteFunc(a.tokens, func(_ contract.ID, t *policyv1.AdmittingToken) bool { return t.GetExpiresUtcMillis() < now.UnixMilli() })
	m := &policyv1.Admission{AccountId: account[:], Position: uint64(a.position), UtcMillis: a.millis}
	m.Tokens = slices.SortedFunc(maps.Values(a.tokens), func(x, y *policyv1.AdmittingToken) int {
		return cmp.Or(cmp.Compare(y.GetCreatedUtcMillis(), x.GetCreatedUtcMillis()), bytes.Compare(x.GetTokenId(), y.GetTokenId()))
	})
	m.Agents = slices.SortedFunc(maps.Values(a.agents), func(x, y *policyv1.AgentOrder) int {
		return cmp.Or(cmp.Compare(y.GetUtcMillis(), x.GetUtcMillis()), bytes.Compare(x.GetAgentId(), y.GetAgentId()))
	})
	m.Tokens, m.Agents = m.GetTokens()[:min(len(m.GetTokens()), maxOrders)], m.GetAgents()[:min(len(m.GetAgents()), maxOrders)]
	return m
}

// publishAdmissions tells Managers, through the stream POLICY, whom they admit, as long as ctx
// lasts. It reads the log from its start, so that nothing but the log says what is told.
func (s *Service) publishAdmissions(ctx context.Context) error {
	pause := admissionFirstRetry
	for {
		err := s.followAdmissions(ctx, func() { pause = admissionFirstRetry })
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end of the context is an orderly stop
		}
		s.log.Warn("Managers are not told whom they admit for a moment", "error", err, "again_in", pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, admissionLastRetry)
	}
}

// followAdmissions is one attempt; done is called when all has been told.
func (s *Service) followAdmissions(ctx context.Context, done func()) error {
	js, err := jetstream.New(s.nats)
	if err != nil {
		return fmt.Errorf("identity: %w", err)
	}
	consumer, err := js.OrderedConsumer(ctx, contract.EventStream, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{"ev.*.*." + contextName + "." + tokenAggregate + ".*", "ev.*.*." + contextName + "." + admissionAggregate + ".*"},
	})
	if err != nil {
		return fmt.Errorf("identity: follow who is admitted: %w", err)
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("identity: follow who is admitted: %w", err)
	}
	defer messages.Stop()
	defer context.AfterFunc(ctx, messages.Stop)()
	registry := newRegistry()
	known, changed := make(map[contract.ID]*admission), make(map[contract.ID]bool)
	for {
		message, err := messages.Next()
		if err != nil {
			return fmt.Errorf("identity: follow who is admitted: %w", err)
		}
		metadata, err := message.Metadata()
		if err != nil {
			return fmt.Errorf("identity: follow who is admitted: %w", err)
		}
		event, err := eventlog.FromMessage(message.Subject(), message.Headers(), message.Data(), eventlog.Position(metadata.Sequence.Stream))
		if err != nil {
			return err
		}
		at, err := placeOf(message.Subject())
		if err != nil {
			return err
		}
		decoded, err := registry.Decode(event)
		if err != nil {
			return err
		}
		if known[at.account] == nil {
			known[at.account] = &admission{tokens: make(map[contract.ID]*policyv1.AdmittingToken), agents: make(map[contract.ID]*policyv1.AgentOrder)}
		}
		if err := known[at.account].take(at.id, event, decoded); err != nil {
			return err
		}
		changed[at.account] = true
		if metadata.NumPending > 0 {
			continue
		}
		var failed error
		for account := range changed {
			if err := tellAdmission(ctx, js, known[account].message(account, time.Now())); err != nil {
				failed = errors.Join(failed, err) // and is no other account's trouble
			}
			delete(changed, account)
		}
		if failed != nil {
			return failed
		}
		done()
	}
}

// tellAdmission publishes what an account's Managers are told, where that is not there yet. Of two
// processes that tell, the one that has read further prevails, unless the log was put back since.
func tellAdmission(ctx context.Context, js jetstream.JetStream, m *policyv1.Admission) error {
	account := contract.ID(m.GetAccountId())
	failed := func(err error) error { return fmt.Errorf("identity: whom Managers of %s admit: %w", account, err) }
	stream, err := js.Stream(ctx, contract.PolicyStream)
	if err != nil {
		return failed(err)
	}
	var last uint64
	var current policyv1.Admission
	switch message, err := stream.GetLastMsgForSubject(ctx, contract.AdmissionSubject(account)); {
	case err == nil:
		last = message.Sequence
		if proto.Unmarshal(message.Data, &current) != nil {
			current.Reset() // and is replaced
		}
	case !errors.Is(err, jetstream.ErrMsgNotFound):
		return failed(err)
	}
	if last > 0 && proto.Equal(&current, m) {
		return nil
	}
	events, err := js.Stream(ctx, contract.EventStream)
	if err != nil {
		return failed(err)
	}
	if ahead := current.GetPosition(); ahead > m.GetPosition() && ahead <= events.CachedInfo().State.LastSeq {
		return nil
	}
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return failed(err)
	}
	now := time.Now().UTC()
	out := &nats.Msg{Subject: contract.AdmissionSubject(account), Data: data, Header: nats.Header{
		contract.HeaderSpecVersion: {contract.SpecVersion},
		contract.HeaderType:        {admissionType},
		contract.HeaderID:          {fmt.Sprintf("%s-%d-%d", account, m.GetPosition(), now.UnixMilli())},
		contract.HeaderSource:      {"/cetrus/" + contextName},
		contract.HeaderTime:        {now.Format(time.RFC3339Nano)},
		contract.HeaderContentType: {contract.ContentTypeProtobuf},
	}}
	if _, err := js.PublishMsg(ctx, out, jetstream.WithExpectLastSequencePerSubject(last)); err != nil {
		return failed(err)
	}
	return nil
}
