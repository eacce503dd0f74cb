package enroll

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/enrollment"
)

var here, elsewhere = contract.ID{0xa}, contract.ID{0xb} //nolint:gochecknoglobals // an array is no constant

func opened(t testing.TB, dir string, now func() time.Time) *Service {
	t.Helper()
	s, err := New(Config{Dir: dir, Log: slog.New(slog.DiscardHandler), Now: now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// made is a token of the platform, with what an agent shows of it.
func made(n byte, manager contract.ID, uses int32, expires time.Time) (*policyv1.AdmittingToken, enrollment.Token) {
	id := contract.ID{n, 1, 2, 3, 4, 5, 6, 7, 8}
	token := enrollment.Token{ID: [8]byte(id[:8]), Secret: [16]byte{n}}
	hash := sha256.Sum256(token.Credential())
	return &policyv1.AdmittingToken{
		TokenId: id[:], ManagerId: manager[:], Sha256: hash[:], DisplayName: "spring", MaxUses: uses,
		CreatedUtcMillis: expires.Add(-time.Hour).UnixMilli(), ExpiresUtcMillis: expires.UnixMilli(),
	}, token
}

// admits tries to enrol an agent by a token.
func admits(s *Service, token enrollment.Token, agent contract.ID) error {
	return s.book.admit(token, agent, []byte(agent.String()), "ws", s.now().Add(LeafLife), s.now())
}

// A token of the platform admits at the Manager that it is for, as often as it says, also after a
// restart without the platform; what is told late, or twice, takes nothing back.
func TestTokensOfThePlatform(t *testing.T) {
	t.Parallel()
	dir, start := t.TempDir(), time.Now()
	now := start
	s := opened(t, dir, func() time.Time { return now })
	ours, token := made(1, here, 2, start.Add(time.Hour))
	theirs, foreign := made(2, elsewhere, 2, start.Add(time.Hour))
	first := &policyv1.Admission{Position: 7, UtcMillis: start.UnixMilli(), Tokens: []*policyv1.AdmittingToken{ours, theirs}}
	if err := s.TakeAdmission(here, first); err != nil {
		t.Fatal(err)
	}
	if err := admits(s, token, contract.ID{1}); err != nil {
		t.Fatal(err)
	}
	if err := admits(s, foreign, contract.ID{2}); err == nil {
		t.Error("a token of another Manager admits")
	}
	select {
	case <-s.Changed():
	default:
		t.Error("nobody is told that it was used")
	}
	told := s.Report(here)
	if told.GetAdmissionPosition() != 7 || told.GetAdmissionUtcMillis() != start.UnixMilli() || len(told.GetUses()) != 1 || told.GetUses()[0].GetUsed() != 1 ||
		string(told.GetUses()[0].GetTokenId()) != string(ours.GetTokenId()) || hex.EncodeToString(told.GetAuthorities()[0]) != s.Authority() {
		t.Errorf("told is %v", told)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = opened(t, dir, func() time.Time { return now })
	if err := s.TakeAdmission(here, first); err != nil {
		t.Fatal(err)
	}
	if err := admits(s, token, contract.ID{3}); err != nil {
		t.Error(err)
	}
	if err := admits(s, token, contract.ID{4}); err == nil || !strings.Contains(err.Error(), "used up") {
		t.Errorf("a third agent: %v", err)
	}
	more, other := made(3, here, 5, start.Add(time.Hour))
	if err := s.TakeAdmission(here, &policyv1.Admission{Position: 8, UtcMillis: start.UnixMilli() + 1, Tokens: []*policyv1.AdmittingToken{more}}); err != nil {
		t.Fatal(err)
	}
	ended := proto.CloneOf(more)
	ended.Revoked = true
	for _, m := range []*policyv1.AdmittingToken{ended, more} { // the second is late
		if err := s.TakeAdmission(here, &policyv1.Admission{Position: 9, UtcMillis: start.UnixMilli() + 2, Tokens: []*policyv1.AdmittingToken{m}}); err != nil {
			t.Fatal(err)
		}
		if err := admits(s, other, contract.ID{5}); err == nil || !strings.Contains(err.Error(), "revoked") {
			t.Errorf("a revoked token: %v", err)
		}
	}
	named, third := made(4, here, 1, start.Add(time.Hour))
	if err := s.TakeAdmission(here, &policyv1.Admission{Position: 10, UtcMillis: start.UnixMilli() + 3, Tokens: []*policyv1.AdmittingToken{named}}); err != nil {
		t.Fatal(err)
	}
	for text, known := range map[string]bool{contract.ID{4, 1, 2, 3, 4, 5, 6, 7, 9}.String(): false, contract.ID(named.GetTokenId()).String(): true} {
		if err := s.RevokeToken(text); (err == nil) != known {
			t.Errorf("revoked here by the id that the platform shows, %s: %v", text, err)
		}
	}
	if err := admits(s, third, contract.ID{6}); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("a token that was revoked here: %v", err)
	}
	now = start.Add(2 * time.Hour)
	if uses := s.Report(here).GetUses(); len(uses) != 0 {
		t.Errorf("expired ones are told of: %v", uses)
	}
}

// A book that is full of tokens keeps those of the platform that are used up: they are told again,
// and would admit once more.
func TestUsedTokensOfThePlatformAreNotForgotten(t *testing.T) {
	t.Parallel()
	s := opened(t, t.TempDir(), time.Now)
	ours, token := made(1, here, 1, time.Now().Add(time.Hour))
	m := &policyv1.Admission{Position: 1, UtcMillis: 1, Tokens: []*policyv1.AdmittingToken{ours}}
	if err := s.TakeAdmission(here, m); err != nil {
		t.Fatal(err)
	}
	if err := admits(s, token, contract.ID{1}); err != nil {
		t.Fatal(err)
	}
	for n := range maxTokens - 1 {
		id := fmt.Sprintf("%016x", n)
		s.book.tokens[id] = &Token{ID: id, Expires: time.Now().Add(time.Hour), Uses: 1}
	}
	if _, _, err := s.CreateToken("", 1, time.Hour); err == nil || !strings.Contains(err.Error(), "revoke some") {
		t.Errorf("one too many: %v", err)
	}
	if err := s.TakeAdmission(here, m); err != nil {
		t.Fatal(err)
	}
	if err := admits(s, token, contract.ID{2}); err == nil {
		t.Error("a used token admits again")
	}
}

// What the platform decides on agents holds against what is said at the Manager, and the other way
// round only where the platform lets them in.
func TestAgentsRevokedByThePlatform(t *testing.T) {
	t.Parallel()
	start := time.Now().Truncate(time.Second)
	now := start
	s := opened(t, t.TempDir(), func() time.Time { return now })
	agent, copied := contract.ID{1}, contract.ID{2}
	fresh := func() enrollment.Token {
		t.Helper()
		text, _, err := s.CreateToken("", 1, 100*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		token, err := enrollment.ParseToken(text)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	if err := admits(s, fresh(), agent); err != nil {
		t.Fatal(err)
	}
	if err := s.book.admitCopy(agent, copied, []byte("copy"), "ws", now.Add(LeafLife), now); err != nil {
		t.Fatal(err)
	}
	decide := func(at time.Time, revoked, copies bool) {
		t.Helper()
		m := &policyv1.Admission{Position: 1, UtcMillis: at.UnixMilli(), Agents: []*policyv1.AgentOrder{{AgentId: agent[:], UtcMillis: at.UnixMilli(), Revoked: revoked, Copies: copies}}}
		for range 2 {
			if err := s.TakeAdmission(here, m); err != nil {
				t.Fatal(err)
			}
		}
	}
	state := func(what string, id contract.ID, issued time.Time, want bool) {
		t.Helper()
		if got := s.book.revoked(id, issued); got != want {
			t.Errorf("%s: revoked is %v", what, got)
		}
	}
	now = start.Add(time.Hour)
	decide(now, true, false)
	state("revoked", agent, start, true)
	state("its copy", copied, start, false)
	if err := s.ReadmitAgent(agent); err == nil || !strings.Contains(err.Error(), "platform") {
		t.Errorf("readmitted at the Manager: %v", err)
	}
	if err := admits(s, fresh(), agent); err == nil {
		t.Error("a revoked agent enrols")
	}
	now = start.Add(2 * time.Hour)
	decide(now, true, true)
	state("its copy, revoked along", copied, start, true)
	now = start.Add(3 * time.Hour)
	decide(now, false, false)
	state("readmitted, its old certificate", agent, start, true)
	state("readmitted, one that another Manager signed since", agent, now.Add(time.Minute), false)
	state("its copy, which was not readmitted", copied, start, true)
	decide(start.Add(2*time.Hour), true, true) // late
	now = start.Add(4 * time.Hour)
	if err := admits(s, fresh(), agent); err != nil {
		t.Fatal(err)
	}
	state("enrolled anew", agent, now, false)
	decide(start.Add(3*time.Hour), false, false) // told again
	state("enrolled anew, and told again", agent, now, false)
	if err := admits(s, fresh(), agent); err == nil {
		t.Error("what was told again lets another key in")
	}
	if err := s.ReadmitAgent(copied); err != nil {
		t.Error(err)
	}
	for _, bad := range []*policyv1.Admission{
		{Agents: []*policyv1.AgentOrder{{AgentId: []byte{1}, UtcMillis: 1}}},
		{Agents: []*policyv1.AgentOrder{{AgentId: agent[:]}}},
		{Tokens: []*policyv1.AdmittingToken{{TokenId: agent[:], ManagerId: here[:], MaxUses: 1}}},
		{Tokens: []*policyv1.AdmittingToken{{TokenId: agent[:], ManagerId: here[:], Sha256: make([]byte, 32)}}},
	} {
		if err := s.TakeAdmission(here, bad); err == nil {
			t.Errorf("taken: %v", bad)
		}
	}
}

// Whichever of the platform's words a Manager has heard, in whichever order and however often,
// after the last one it holds the same agents out.
func TestTheOrderOfWhatIsToldDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		start := time.Now().Truncate(time.Second)
		orders := make(map[contract.ID]*policyv1.AgentOrder)
		var told []*policyv1.Admission
		for i := range rapid.IntRange(1, 8).Draw(rt, "decisions") {
			id := contract.ID{byte(rapid.IntRange(1, 3).Draw(rt, "agent"))}
			at := start.Add(time.Duration(i+1) * time.Hour).UnixMilli()
			orders[id] = &policyv1.AgentOrder{AgentId: id[:], UtcMillis: at, Revoked: rapid.Bool().Draw(rt, "revoked"), Copies: rapid.Bool().Draw(rt, "copies")}
			m := &policyv1.Admission{Position: uint64(i + 1), UtcMillis: at}
			for _, o := range orders {
				m.Agents = append(m.Agents, o)
			}
			told = append(told, m)
		}
		last := told[len(told)-1]
		empty := func() *book {
			b, err := openBook(t.TempDir()+"/book", slog.New(slog.DiscardHandler))
			if err != nil {
				rt.Fatal(err)
			}
			for n := byte(1); n <= 3; n++ {
				id := contract.ID{n}
				b.agents[id] = &Agent{ID: id, Text: id.String(), Enrolled: start}
			}
			return b
		}
		direct, wandering := empty(), empty()
		defer direct.close()
		defer wandering.close()
		take := func(b *book, m *policyv1.Admission) {
			if _, _, err := b.follow(here, m, start.Add(100*time.Hour)); err != nil {
				rt.Fatal(err)
			}
		}
		take(direct, last)
		heard := rapid.SliceOfN(rapid.IntRange(0, len(told)-1), 0, 12).Draw(rt, "heard")
		for _, i := range append(slices.Clone(heard), len(told)-1) {
			take(wandering, told[i])
		}
		for n := byte(1); n <= 3; n++ {
			for h := range 12 {
				issued := start.Add(time.Duration(h) * time.Hour)
				if a, b := direct.revoked(contract.ID{n}, issued), wandering.revoked(contract.ID{n}, issued); a != b {
					rt.Fatalf("agent %d, issued after %d h: %v and %v", n, h, a, b)
				}
			}
		}
		if direct.followed != wandering.followed {
			rt.Fatalf("followed %v and %v", direct.followed, wandering.followed)
		}
	})
}
