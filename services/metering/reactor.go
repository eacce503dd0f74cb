package metering

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/reactor"
)

// policyType is the CloudEvents type of a policy in the stream POLICY.
const policyType = "cetrus.policy.v1"

// policyPublisher tells agents, through the stream POLICY, what an account decided.
//
// A policy is compiled from the log itself and carries the position of the last
// event in it, so whoever publishes later than it should cannot put an old policy
// over a new one: the revision and the literal expectation of the subject's last
// message stand in the way. Where the log was made anew or put back, positions count
// from less: then what it holds now is published all the same, and the time of
// publication tells agents that it is the newer one.
type policyPublisher struct {
	js       jetstream.JetStream
	commands *commands
	secrets  *pgxpool.Pool
	log      *slog.Logger
}

// accountSubjects are where identity says that there is an account: it has a policy from then on,
// also when nobody has decided anything yet.
const accountSubjects = "ev.*.*.identity.account.*"

// runReactor publishes the policies that are missing, then one for each decision.
func (s *Service) runReactor(ctx context.Context) error {
	for _, account := range s.cfg.Accounts {
		if err := s.policies.publishUntilDone(ctx, account, false); err != nil {
			return err
		}
	}
	r, err := reactor.New(reactor.Config{
		Name: "metering-policy", Stream: contract.EventStream, Subjects: []string{"ev.*.*." + contextName + ".>", accountSubjects},
		// One at a time: each publishes the whole policy, and two would only
		// conflict.
		InFlight: 1,
	}, reactor.Deps{NATS: s.nats, Logger: s.log, Handler: func(ctx context.Context, event eventlog.Event) error {
		if account, made := madeAccount(event.Subject); made {
			return s.policies.publish(ctx, account, 0, false)
		}
		account, err := accountOfSubject(event.Subject)
		if err != nil {
			return reactor.Permanent(err)
		}
		switch strings.Split(event.Subject, ".")[4] {
		case agentAggregate, correctionAggregate, viewAggregate, retentionAggregate, savedAggregate:
			return nil // nothing that agents are told
		case principalAggregate:
			return s.forget(ctx, account, event)
		}
		return s.policies.publish(ctx, account, uint64(event.Position), false)
	}})
	if err != nil {
		return err
	}
	s.reactor.Store(r)
	return r.Run(ctx)
}

// forget follows the order to forget somebody: the key is destroyed, files of reports that may name
// them go, and agents are not told the name any more.
func (s *Service) forget(ctx context.Context, account contract.ID, event eventlog.Event) error {
	message, err := s.registry.Decode(event)
	if err != nil {
		return reactor.Permanent(err)
	}
	forgotten, is := message.(*meteringv1.PrincipalForgotten)
	if !is {
		return nil
	}
	if s.commands.people.keys == nil {
		return errors.New("metering: somebody is to be forgotten, and this process has no keyring")
	}
	if err := s.commands.people.forget(ctx, account, []contract.ID{contract.ID(forgotten.GetPrincipalId())}); err != nil {
		return err
	}
	if err := s.files.forgetPeople(ctx, account); err != nil {
		return err
	}
	return s.policies.publish(ctx, account, 0, false)
}

// madeAccount is the account of a subject of accountSubjects.
func madeAccount(subject string) (contract.ID, bool) {
	tokens := strings.Split(subject, ".")
	if len(tokens) != 6 || tokens[3] != "identity" {
		return contract.ID{}, false
	}
	account, err := contract.ParseID(tokens[2])
	return account, err == nil
}

// republish publishes every policy as the newest one, though it may be the same: where
// the log was put back together with the stream of policies, agents hold one that
// nobody knows of any more, and would refuse an older one.
func (s *Service) republish(ctx context.Context) {
	accounts := make(map[contract.ID]bool)
	for _, account := range s.cfg.Accounts {
		accounts[account] = true
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := s.policies.addPublished(ctx, accounts)
		if err == nil {
			break
		}
		s.log.Warn("cannot tell yet whose policies are published", "error", err, "again in", pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
	for account := range accounts {
		if err := s.policies.publishUntilDone(ctx, account, true); err != nil {
			return // ctx has ended
		}
	}
}

// addPublished adds the accounts that the stream of policies holds one of.
func (p *policyPublisher) addPublished(ctx context.Context, to map[contract.ID]bool) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	stream, err := p.js.Stream(ctx, contract.PolicyStream)
	if err != nil {
		return err
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(contract.PolicySubjects))
	if err != nil {
		return err
	}
	for subject := range info.State.Subjects {
		account, err := contract.ParseID(subject[strings.LastIndexByte(subject, '.')+1:])
		if err != nil {
			p.log.Warn("a published policy is nobody's", "subject", subject, "error", err)
			continue
		}
		to[account] = true
	}
	return nil
}

// publishUntilDone tries until ctx ends: without a policy no agent of the account
// knows what to watch.
func (p *policyPublisher) publishUntilDone(ctx context.Context, account contract.ID, anew bool) error {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		attempt, cancel := context.WithTimeout(ctx, 15*time.Second)
		err := p.publish(attempt, account, 0, anew)
		cancel()
		if err == nil {
			return nil
		}
		p.log.Warn("the account's policy could not be published yet", "account", account.String(), "error", err, "again in", pause)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// publish brings the account's policy in the stream up to date. It must hold what
// stands at least at position; an answer from a lagging replica is an error, to be
// tried again. Where nothing is to be changed nothing is published, unless anew.
func (p *policyPublisher) publish(ctx context.Context, account contract.ID, position uint64, anew bool) error {
	stream, err := p.js.Stream(ctx, contract.PolicyStream)
	if err != nil {
		return fmt.Errorf("metering: policy of %s: %w", account, err)
	}
	subject := contract.PolicySubject(account)
	var last uint64
	var current policyv1.Policy
	message, err := stream.GetLastMsgForSubject(ctx, subject)
	switch {
	case err == nil:
		last = message.Sequence
		if err := proto.Unmarshal(message.Data, &current); err != nil {
			p.log.Warn("the published policy cannot be read and is replaced", "account", account.String(), "error", err)
		}
	case !errors.Is(err, jetstream.ErrMsgNotFound):
		return fmt.Errorf("metering: policy of %s: %w", account, err)
	}
	events, err := p.js.Stream(ctx, contract.EventStream)
	if err != nil {
		return fmt.Errorf("metering: policy of %s: %w", account, err)
	}
	info := events.CachedInfo()
	sameLog := current.GetLogCreatedUtcMillis() == info.Created.UnixMilli() && current.GetRevision() <= info.State.LastSeq
	if last > 0 && position > 0 && sameLog && current.GetRevision() >= position {
		return nil
	}

	catalog, catalogAt, err := p.commands.catalogs.Load(ctx, catalogSubject(account))
	if err != nil {
		return fmt.Errorf("metering: policy of %s: %w", account, err)
	}
	settings, settingsAt, err := p.commands.settings.Load(ctx, settingsSubject(account))
	if err != nil {
		return fmt.Errorf("metering: policy of %s: %w", account, err)
	}
	expense, expenseAt, err := p.commands.expenses.Load(ctx, expenseSubject(account))
	if err != nil {
		return fmt.Errorf("metering: policy of %s: %w", account, err)
	}
	revision := uint64(max(catalogAt, settingsAt, expenseAt))
	if revision < position {
		return fmt.Errorf("metering: policy of %s: the log answered up to %d, not yet %d", account, revision, position)
	}
	key, err := documentKey(ctx, p.secrets, account)
	if err != nil {
		return err
	}
	policy := catalog.Policy(account, revision, settings, key)
	if expense.Decided != nil {
		asked, err := p.commands.people.open(ctx, account, expense.Decided)
		if err != nil {
			return fmt.Errorf("metering: policy of %s: %w", account, err)
		}
		policy.ExpenseToProject = asked.settings()
	}
	policy.LogCreatedUtcMillis, policy.PublishedUtcMillis = info.Created.UnixMilli(), current.GetPublishedUtcMillis()
	if last > 0 && !anew && (sameLog && current.GetRevision() > revision || proto.Equal(&current, policy)) {
		return nil
	}
	policy.PublishedUtcMillis = max(time.Now().UnixMilli(), current.GetPublishedUtcMillis()+1)
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(policy)
	if err != nil {
		return fmt.Errorf("metering: policy of %s: %w", account, err)
	}
	out := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{
		contract.HeaderSpecVersion: {contract.SpecVersion},
		contract.HeaderType:        {policyType},
		contract.HeaderID:          {fmt.Sprintf("%s-%d-%d", account, revision, policy.GetPublishedUtcMillis())},
		contract.HeaderSource:      {"/cetrus/" + contextName},
		contract.HeaderTime:        {time.Now().UTC().Format(time.RFC3339Nano)},
		contract.HeaderContentType: {contract.ContentTypeProtobuf},
	}}
	if _, err := p.js.PublishMsg(ctx, out, jetstream.WithExpectLastSequencePerSubject(last)); err != nil {
		return fmt.Errorf("metering: policy of %s: %w", account, err)
	}
	p.log.Info("policy published", "account", account.String(), "revision", revision, "applications", len(policy.GetApplications()))
	return nil
}

// documentKey is the account's key of document ids, drawn when it is first asked
// for.
func documentKey(ctx context.Context, secrets *pgxpool.Pool, account contract.ID) ([]byte, error) {
	fresh := make([]byte, 32)
	_, _ = rand.Read(fresh) // never fails, says its documentation
	if _, err := secrets.Exec(ctx, "INSERT INTO document_key (account_id, key) VALUES ($1, $2) ON CONFLICT DO NOTHING", account, fresh); err != nil {
		return nil, fmt.Errorf("metering: document key of %s: %w", account, err)
	}
	var key []byte
	if err := secrets.QueryRow(ctx, "SELECT key FROM document_key WHERE account_id = $1", account).Scan(&key); err != nil {
		return nil, fmt.Errorf("metering: document key of %s: %w", account, err)
	}
	return key, nil
}
