package metering

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// maxSightings bounds the programs that are remembered of one account.
const maxSightings = 20_000

// sightings remember the programs that agents saw and that belong to no
// application. Agents report only where their account wants it, and report anew
// when they start; nothing of it is stored.
type sightings struct {
	log      *slog.Logger
	mu       sync.Mutex
	accounts map[contract.ID]map[program]*sighting
}

type program struct{ executable, windowClass, pack, path string }

type sighting struct {
	agents map[contract.ID]struct{}
	last   time.Time
}

func newSightings(log *slog.Logger) *sightings {
	return &sightings{log: log, accounts: make(map[contract.ID]map[program]*sighting)}
}

func (s *sightings) run(ctx context.Context, nc *nats.Conn) error {
	messages := make(chan *nats.Msg, 1024)
	subscription, err := nc.ChanSubscribe(contract.SightingSubjects, messages)
	if err != nil {
		return fmt.Errorf("listen to %s: %w", contract.SightingSubjects, err)
	}
	defer func() { _ = subscription.Unsubscribe() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-messages:
			s.take(m.Subject, m.Data, time.Now())
		}
	}
}

func (s *sightings) take(subject string, data []byte, now time.Time) {
	account, err := accountOfPlainSubject(subject)
	report := new(usagev1.SightingReport)
	if err == nil {
		err = proto.Unmarshal(data, report)
	}
	var agent contract.ID
	if err == nil {
		agent, err = contract.IDFrom(report.GetAgentId())
	}
	if err != nil {
		s.log.Warn("a report of sightings cannot be read", "subject", subject, "error", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	programs := s.accounts[account]
	if programs == nil {
		programs = make(map[program]*sighting)
		s.accounts[account] = programs
	}
	for _, seen := range report.GetSightings() {
		key := program{seen.GetExecutable(), seen.GetWindowClass(), seen.GetPackage(), seen.GetPath()}
		known := programs[key]
		if known == nil {
			if len(programs) >= maxSightings {
				continue
			}
			known = &sighting{agents: make(map[contract.ID]struct{})}
			programs[key] = known
		}
		known.agents[agent] = struct{}{}
		known.last = now
	}
}

// seenProgram is a program, by how many agents it was seen, and when last.
type seenProgram struct {
	program
	agents int
	last   time.Time
}

// of lists what was seen in an account.
func (s *sightings) of(account contract.ID) []seenProgram {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]seenProgram, 0, len(s.accounts[account]))
	for p, seen := range s.accounts[account] {
		all = append(all, seenProgram{p, len(seen.agents), seen.last})
	}
	return all
}

// accountOfPlainSubject reads the account out of live.<p>.<account>.<manager> and
// its like.
func accountOfPlainSubject(subject string) (contract.ID, error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) != 4 {
		return contract.ID{}, fmt.Errorf("metering: subject %q has not the form <channel>.<p>.<account>.<manager>", subject)
	}
	return contract.ParseID(tokens[2])
}
