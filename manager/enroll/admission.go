package enroll

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/enrollment"
)

// TakeAdmission carries out what the platform has decided on who is admitted here, as far as it
// was not: tokens that it made for this Manager, and agents that it keeps out or lets enrol again.
// What it says nothing of stays as it is.
func (s *Service) TakeAdmission(manager contract.ID, m *policyv1.Admission) error {
	if err := checkAdmission(m); err != nil {
		return fmt.Errorf("enroll: what the platform has decided cannot be carried out: %w", err)
	}
	done, full, err := s.book.follow(manager, m, s.now())
	if full > 0 {
		s.log.Error("there is no room for tokens of the platform: revoke some that were made here", "tokens", full)
	}
	for _, a := range done {
		switch {
		case a.Revoked.IsZero():
			s.log.Info("the platform lets an agent enrol again", "agent", a.Text, "host", a.HostName)
		default:
			s.log.Info("an agent was revoked by the platform", "agent", a.Text, "host", a.HostName)
		}
	}
	return err
}

// checkAdmission looks whether there is in it what the contract promises.
func checkAdmission(m *policyv1.Admission) error {
	for _, t := range m.GetTokens() {
		id, err := contract.IDFrom(t.GetTokenId())
		if err == nil {
			_, err = contract.IDFrom(t.GetManagerId())
		}
		switch {
		case err != nil:
		case len(t.GetSha256()) != 32:
			err = errors.New("its hash is none")
		case t.GetMaxUses() < 1 || t.GetMaxUses() > MaxUses:
			err = fmt.Errorf("it is for %d agents", t.GetMaxUses())
		}
		if err != nil {
			return fmt.Errorf("token %s: %w", id, err)
		}
	}
	for _, o := range m.GetAgents() {
		if id, err := contract.IDFrom(o.GetAgentId()); err != nil || id.IsZero() || o.GetUtcMillis() <= 0 {
			return fmt.Errorf("an order on agent %x at %d ms is none", o.GetAgentId(), o.GetUtcMillis())
		}
	}
	return nil
}

// follow is TakeAdmission in the book. It returns the agents that it concerned, and how many
// tokens there was no room for.
func (b *book) follow(manager contract.ID, m *policyv1.Admission, now time.Time) (done []Agent, full int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var changes []entry
	for _, t := range m.GetTokens() {
		if contract.ID(t.GetManagerId()) != manager {
			continue
		}
		next := b.token(t, now)
		switch {
		case next == nil:
		case b.tokens[next.ID] == nil && !b.room(now):
			full++
		default:
			changes = append(changes, entry{Token: next})
		}
	}
	orders := slices.SortedFunc(slices.Values(m.GetAgents()), func(x, y *policyv1.AgentOrder) int {
		return cmp.Or(cmp.Compare(x.GetUtcMillis(), y.GetUtcMillis()), bytes.Compare(x.GetAgentId(), y.GetAgentId()))
	})
	concerned := make(map[contract.ID]Agent)
	for _, o := range orders {
		b.order(o, concerned, now)
	}
	for _, a := range concerned {
		changes, done = append(changes, entry{Agent: &a}), append(done, a)
	}
	if next := (followed{m.GetPosition(), m.GetUtcMillis()}); next != b.followed && next.Millis >= b.followed.Millis && full == 0 {
		changes = append(changes, entry{Followed: &next})
	}
	if len(changes) == 0 {
		return nil, full, nil
	}
	return done, full, b.keep(changes...)
}

// token is what becomes of a token of the platform; nil where it stays as it is.
func (b *book) token(t *policyv1.AdmittingToken, now time.Time) *Token {
	id := contract.ID(t.GetTokenId())
	was := b.tokens[hex.EncodeToString(id[:enrollment.IDBytes])]
	if was != nil {
		if !t.GetRevoked() || !was.Revoked.IsZero() || was.Platform != id.String() {
			return nil
		}
		changed := *was
		changed.Revoked = now.UTC()
		return &changed
	}
	if t.GetRevoked() {
		return nil
	}
	return &Token{
		ID: hex.EncodeToString(id[:enrollment.IDBytes]), Platform: id.String(), Hash: t.GetSha256(), Label: t.GetDisplayName(),
		Created: time.UnixMilli(t.GetCreatedUtcMillis()).UTC(), Expires: time.UnixMilli(t.GetExpiresUtcMillis()).UTC(), Uses: int(t.GetMaxUses()),
	}
}

// order carries out what the platform has decided on an agent, where it has not been; concerned has
// those that it changes.
func (b *book) order(o *policyv1.AgentOrder, concerned map[contract.ID]Agent, now time.Time) {
	id := contract.ID(o.GetAgentId())
	next := b.agent(id)
	if next.Order >= o.GetUtcMillis() {
		return
	}
	next.Order, next.Barred = o.GetUtcMillis(), o.GetRevoked()
	if !o.GetRevoked() {
		// Certificates that the site has signed since are good, also where another Manager did; one
		// of its seconds is not divided.
		if since := time.UnixMilli(o.GetUtcMillis()).UTC().Truncate(time.Second); since.After(next.Since) {
			next.Since = since
		}
		next.Revoked, next.Readmitted = time.Time{}, true
		concerned[id] = next
		return
	}
	next.Revoked, next.Readmitted = now.UTC(), false
	concerned[id] = next
	for _, copied := range b.withCopies(id, o.GetCopies())[1:] {
		ended, decided := concerned[copied]
		if !decided {
			ended = b.agent(copied)
		}
		if ended.Order < o.GetUtcMillis() { // otherwise it was decided on by itself since
			ended.Revoked, ended.Readmitted = now.UTC(), false
			concerned[copied] = ended
		}
	}
}

// Report is what the platform is told of this site.
func (s *Service) Report(manager contract.ID) *policyv1.SiteReport {
	told := &policyv1.SiteReport{ManagerId: manager[:]}
	for _, c := range s.site.all(s.now()) {
		pin := enrollment.Pin(c.certificate)
		told.Authorities = append(told.Authorities, pin[:])
	}
	b, now := s.book, s.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	told.AdmissionPosition, told.AdmissionUtcMillis = b.followed.Position, b.followed.Millis
	for _, t := range b.tokens {
		id, err := contract.ParseID(t.Platform)
		if err != nil || t.Used == 0 || now.After(t.Expires) {
			continue // one that was made here, or that nobody asks after
		}
		told.Uses = append(told.Uses, &policyv1.SiteTokenUse{TokenId: id[:], Used: int32(t.Used)})
	}
	slices.SortFunc(told.GetUses(), func(x, y *policyv1.SiteTokenUse) int { return bytes.Compare(x.GetTokenId(), y.GetTokenId()) })
	return told
}

// Changed is told when Report may say something else; it has room for one.
func (s *Service) Changed() <-chan struct{} { return s.book.changed }
