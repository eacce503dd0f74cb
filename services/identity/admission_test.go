package identity

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/enrollment"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// until waits for a condition.
func until(t *testing.T, what string, holds func() error) {
	t.Helper()
	for late := time.Now().Add(time.Minute); ; <-time.After(20 * time.Millisecond) {
		err := holds()
		if err == nil {
			return
		}
		if time.Now().After(late) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// told is what Managers of an account are told.
func admissionTold(ctx context.Context, s *Service, account contract.ID) (*policyv1.Admission, error) {
	js, err := jetstream.New(s.nats)
	if err != nil {
		return nil, err
	}
	stream, err := js.Stream(ctx, contract.PolicyStream)
	if err != nil {
		return nil, err
	}
	message, err := stream.GetLastMsgForSubject(ctx, contract.AdmissionSubject(account))
	if err != nil {
		return nil, err
	}
	m := new(policyv1.Admission)
	return m, proto.Unmarshal(message.Data, m)
}

// report says what a Manager says of its site.
func report(t *testing.T, s *Service, account, manager contract.ID, told *policyv1.SiteReport) {
	t.Helper()
	told.ManagerId = manager[:]
	raw, err := proto.Marshal(told)
	if err == nil {
		err = s.nats.Publish(contract.SiteSubject(account, manager), raw)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A token is made for a Manager that has told who its site's authority is, is told to it and to no
// other, and shows how often it was used; in the log and the answers there is none of it.
func TestEnrollmentTokensOfThePlatform(t *testing.T) {
	s := running(t)
	managers, tokens := &managerAPI{service: s}, &enrollmentTokenAPI{service: s}
	account := newAccountOf(t, s, "Acme")
	ours, theirs := as(t.Context(), account), as(t.Context(), newAccountOf(t, s, "Umbrella"))
	created, err := managers.CreateManager(ours, &identityv1.CreateManagerRequest{Manager: &identityv1.Manager{DisplayName: "Berlin"}})
	if err != nil {
		t.Fatal(err)
	}
	text := created.GetManager().GetManagerId()
	manager, _ := contract.ParseID(text)
	if _, err := tokens.CreateEnrollmentToken(ours, &identityv1.CreateEnrollmentTokenRequest{ManagerId: text}); !errs.Is(errs.Precondition, err) {
		t.Errorf("before the Manager has told anything: %v", err)
	}
	authority := sha256.Sum256([]byte("authority"))
	report(t, s, account, manager, &policyv1.SiteReport{Authorities: [][]byte{authority[:]}})
	// What is against the contract, or told under another's name, changes nothing.
	report(t, s, account, manager, &policyv1.SiteReport{Authorities: [][]byte{{1}}})
	if err := s.nats.Publish(contract.SiteSubject(account, resource.NewID()), []byte{0xff}); err != nil {
		t.Fatal(err)
	}
	var made *identityv1.CreateEnrollmentTokenResponse
	until(t, "a token is made", func() (err error) {
		made, err = tokens.CreateEnrollmentToken(ours, &identityv1.CreateEnrollmentTokenRequest{ManagerId: text, EnrollmentToken: &identityv1.EnrollmentToken{DisplayName: "spring", MaxUses: 3}})
		if err != nil && !errs.Is(errs.Precondition, err) {
			t.Fatal(err)
		}
		return err
	})
	token, err := enrollment.ParseToken(made.GetToken())
	if err != nil || token.Authority != authority || !made.GetEnrollmentToken().GetPending() || made.GetEnrollmentToken().GetMaxUses() != 3 {
		t.Errorf("made: %v, %v", made, err)
	}
	for what, req := range map[string]*identityv1.EnrollmentToken{
		"expired": {ExpireTime: timestamppb.New(time.Now().Add(-time.Hour))}, "for ever": {ExpireTime: timestamppb.New(time.Now().Add(2 * longestTokenLife))},
		"for nobody": {MaxUses: -1}, "with a name that is too long": {DisplayName: strings.Repeat("a", maxDisplayName+1)},
	} {
		if _, err := tokens.CreateEnrollmentToken(ours, &identityv1.CreateEnrollmentTokenRequest{ManagerId: text, EnrollmentToken: req}); !errs.Is(errs.Invalid, err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	id := made.GetEnrollmentToken().GetEnrollmentTokenId()
	for what, err := range map[string]error{
		"created": func() error {
			_, err := tokens.CreateEnrollmentToken(theirs, &identityv1.CreateEnrollmentTokenRequest{ManagerId: text})
			return err
		}(),
		"read": func() error {
			_, err := tokens.GetEnrollmentToken(theirs, &identityv1.GetEnrollmentTokenRequest{ManagerId: text, EnrollmentTokenId: id})
			return err
		}(),
		"listed": func() error {
			_, err := tokens.ListEnrollmentTokens(theirs, &identityv1.ListEnrollmentTokensRequest{ManagerId: text})
			return err
		}(),
		"revoked": func() error {
			_, err := tokens.RevokeEnrollmentToken(theirs, &identityv1.RevokeEnrollmentTokenRequest{ManagerId: text, EnrollmentTokenId: id})
			return err
		}(),
		"revoked under another Manager": func() error {
			_, err := tokens.RevokeEnrollmentToken(ours, &identityv1.RevokeEnrollmentTokenRequest{ManagerId: resource.NewID().String(), EnrollmentTokenId: id})
			return err
		}(),
	} {
		if !errs.Is(errs.NotFound, err) {
			t.Errorf("by another account %s: %v", what, err)
		}
	}

	var told *policyv1.Admission
	until(t, "its Manager is told", func() (err error) {
		if told, err = admissionTold(t.Context(), s, account); err == nil && len(told.GetTokens()) != 1 {
			err = fmt.Errorf("told is %v", told)
		}
		return err
	})
	hash := sha256.Sum256(token.Credential())
	if is := told.GetTokens()[0]; string(is.GetSha256()) != string(hash[:]) || is.GetRevoked() || is.GetMaxUses() != 3 || strings.Contains(told.String(), string(token.Secret[:])) {
		t.Errorf("told is %v", told)
	}
	tokenID, _ := contract.ParseID(id)
	report(t, s, account, manager, &policyv1.SiteReport{
		Authorities: [][]byte{authority[:]}, AdmissionPosition: told.GetPosition(), AdmissionUtcMillis: told.GetUtcMillis(),
		Uses: []*policyv1.SiteTokenUse{{TokenId: tokenID[:], Used: 2}},
	})
	until(t, "its use is shown", func() error {
		list, err := tokens.ListEnrollmentTokens(ours, &identityv1.ListEnrollmentTokensRequest{ManagerId: text})
		if err == nil && (len(list.GetEnrollmentTokens()) != 1 || list.GetEnrollmentTokens()[0].GetUsed() != 2 || list.GetEnrollmentTokens()[0].GetPending()) {
			err = fmt.Errorf("listed is %v", list)
		}
		return err
	})
	gone, err := tokens.RevokeEnrollmentToken(ours, &identityv1.RevokeEnrollmentTokenRequest{ManagerId: text, EnrollmentTokenId: id})
	if err != nil || gone.GetEnrollmentToken().GetRevokeTime() == nil || !gone.GetEnrollmentToken().GetPending() {
		t.Errorf("revoked: %v, %v", gone, err)
	}
	until(t, "its Manager is told", func() error {
		now, err := admissionTold(t.Context(), s, account)
		if err == nil && !now.GetTokens()[0].GetRevoked() {
			err = fmt.Errorf("told is %v", now)
		}
		return err
	})
	if _, err := managers.RevokeManager(ours, &identityv1.RevokeManagerRequest{ManagerId: text}); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.CreateEnrollmentToken(ours, &identityv1.CreateEnrollmentTokenRequest{ManagerId: text}); !errs.Is(errs.Precondition, err) {
		t.Errorf("of a revoked Manager: %v", err)
	}
}

// An agent is revoked and readmitted; which Managers have not heard of it yet is shown, and a
// service that begins anew tells the same.
func TestAgentsAreRevokedAndReadmitted(t *testing.T) {
	s := running(t)
	api := &agentAdmissionAPI{service: s}
	account := newAccountOf(t, s, "Acme")
	ours, theirs := as(t.Context(), account), as(t.Context(), newAccountOf(t, s, "Umbrella"))
	agent := resource.NewID()
	if _, err := api.GetAgentAdmission(ours, &identityv1.GetAgentAdmissionRequest{AgentId: agent.String()}); !errs.Is(errs.NotFound, err) {
		t.Errorf("before anything was decided: %v", err)
	}
	manager := resource.NewID()
	token := enrollment.NewManagerToken(account, manager)
	if _, err := s.commands.createManager(t.Context(), "test", eventlog.Command{Actor: "test"}, account, manager, "Berlin", token.Hash()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.commands.managers.Execute(t.Context(), managerSubject(account, manager), eventlog.Command{Actor: "test"}, func(m Manager) ([]proto.Message, error) {
		return m.DecideEnroll("test", token.Hash(), "UBERLIN", time.Now())
	}); err != nil {
		t.Fatal(err)
	}
	out, err := api.RevokeAgent(ours, &identityv1.RevokeAgentRequest{AgentId: agent.String(), Copies: true})
	if err != nil || !out.GetAgentAdmission().GetRevoked() || !out.GetAgentAdmission().GetCopies() || len(out.GetAgentAdmission().GetPendingManagerIds()) != 1 {
		t.Fatal(out, err)
	}
	if again, err := api.RevokeAgent(ours, &identityv1.RevokeAgentRequest{AgentId: agent.String()}); err != nil || !again.GetAgentAdmission().GetUpdateTime().AsTime().Equal(out.GetAgentAdmission().GetUpdateTime().AsTime()) {
		t.Errorf("revoked twice: %v, %v", again, err)
	}
	var told *policyv1.Admission
	heard := func(revoked bool) func() error {
		return func() (err error) {
			if told, err = admissionTold(t.Context(), s, account); err == nil && (len(told.GetAgents()) != 1 || told.GetAgents()[0].GetRevoked() != revoked) {
				err = fmt.Errorf("told is %v", told)
			}
			return err
		}
	}
	until(t, "Managers are told", heard(true))
	report(t, s, account, manager, &policyv1.SiteReport{AdmissionPosition: told.GetPosition(), AdmissionUtcMillis: told.GetUtcMillis()})
	until(t, "no Manager is waited for", func() error {
		list, err := api.ListAgentAdmissions(ours, &identityv1.ListAgentAdmissionsRequest{})
		if err == nil && (len(list.GetAgentAdmissions()) != 1 || len(list.GetAgentAdmissions()[0].GetPendingManagerIds()) > 0) {
			err = fmt.Errorf("listed is %v", list)
		}
		return err
	})
	if list, err := api.ListAgentAdmissions(theirs, &identityv1.ListAgentAdmissionsRequest{}); err != nil || len(list.GetAgentAdmissions()) > 0 {
		t.Errorf("another account sees %v, %v", list, err)
	}
	back, err := api.ReadmitAgent(ours, &identityv1.ReadmitAgentRequest{AgentId: agent.String()})
	if err != nil || back.GetAgentAdmission().GetRevoked() || len(back.GetAgentAdmission().GetPendingManagerIds()) != 1 {
		t.Errorf("readmitted: %v, %v", back, err)
	}
	until(t, "Managers are told", heard(false))

	js, err := jetstream.New(s.nats)
	if err != nil {
		t.Fatal(err)
	}
	// One that has read less of the log tells nothing, and one that starts finds all told.
	earlier := proto.CloneOf(told)
	earlier.Position, earlier.Agents[0].Revoked = earlier.GetPosition()-1, true
	if err := tellAdmission(t.Context(), js, earlier); err != nil {
		t.Fatal(err)
	}
	if err := heard(false)(); err != nil {
		t.Error(err)
	}
	// The stream is put back: what was told is told anew.
	stream, err := js.Stream(t.Context(), contract.PolicyStream)
	if err == nil {
		err = stream.Purge(t.Context(), jetstream.WithPurgeSubject(contract.AdmissionSubject(account)))
	}
	if err != nil {
		t.Fatal(err)
	}
	again := *s
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- again.publishAdmissions(ctx) }()
	until(t, "Managers are told anew", heard(false))
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What was decided last counts, also where the process that wrote it has a clock that is behind.
func TestTheLastOrderOnAnAgentIsTheLatest(t *testing.T) {
	t.Parallel()
	agent, now := contract.ID{7}, time.Now()
	a := admission{tokens: make(map[contract.ID]*policyv1.AdmittingToken), agents: make(map[contract.ID]*policyv1.AgentOrder)}
	before := int64(0)
	for i, decided := range []proto.Message{&identityv1.AgentRevoked{}, &identityv1.AgentReadmitted{}, &identityv1.AgentRevoked{}} {
		event := eventlog.Event{Position: eventlog.Position(i + 1), Time: now.Add(-time.Duration(i) * time.Minute)}
		if err := a.take(agent, event, decided); err != nil {
			t.Fatal(err)
		}
		_, revoked := decided.(*identityv1.AgentRevoked)
		told := a.message(contract.ID{1}, now).GetAgents()
		if len(told) != 1 || told[0].GetRevoked() != revoked || told[0].GetUtcMillis() <= before {
			t.Errorf("after order %d, which came later than %d: %v", i, before, told)
		}
		before = told[0].GetUtcMillis()
	}
}

func FuzzSiteReports(f *testing.F) {
	manager := contract.ID{1}
	good, _ := proto.Marshal(&policyv1.SiteReport{ManagerId: manager[:], Authorities: [][]byte{make([]byte, 32)}, AdmissionPosition: 3, AdmissionUtcMillis: 7, Uses: []*policyv1.SiteTokenUse{{TokenId: manager[:], Used: 1}}})
	f.Add(contract.SiteSubject(contract.ID{2}, manager), good)
	f.Add("site.1.x.y", []byte{1})
	f.Fuzz(func(t *testing.T, subject string, data []byte) {
		from, told, err := readSite(subject, data)
		if err != nil {
			return
		}
		events := Manager{ID: from.manager}.DecideReport(told)
		for _, e := range events {
			after, err := Manager{ID: from.manager}.Apply(e)
			if err != nil || !after.Report.same(told) || len(after.DecideReport(told)) > 0 {
				t.Fatalf("%v becomes %v, %v", told, after.Report, err)
			}
		}
	})
}
