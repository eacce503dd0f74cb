package fleet

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/enroll"
	"github.com/cetrus/cetrus/manager"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// join makes a Manager known to the platform, in a folder that is new.
func (p *platform) join(name string) (folder, id string) {
	p.t.Helper()
	code, made := p.ask(p.Key, http.MethodPost, "/v1/managers", fmt.Sprintf(`{"display_name":%q}`, name))
	token, _ := made["token"].(string)
	about, _ := made["manager"].(map[string]any)
	id, _ = about["manager_id"].(string)
	folder = p.t.TempDir()
	if _, _, err := manager.Join(p.t.Context(), manager.JoinConfig{DataDir: folder, API: p.REST, Token: token}); err != nil {
		p.t.Fatalf("%d %v %v", code, made, err)
	}
	return folder, id
}

// An administrator of the account makes a token at the platform, sees its use, and keeps an agent
// out of all Managers of the site: also of one that was away meanwhile. Readmitted, it comes back and
// sends what waited.
func TestAgentsAreAdmittedByThePlatform(t *testing.T) {
	t.Parallel()
	p := startPlatform(t)
	folder, id := p.join("Berlin")
	m, _ := p.serve(folder)
	office := &office{Manager: m, t: t}
	s := &site{t: t, agents: m.AgentsAddress(), truth: map[contract.ID]*usagev1.UsageEvent{}}

	tokens := "/v1/managers/" + id + "/enrollmentTokens"
	newToken := func(uses int) (token, tokenID string) {
		t.Helper()
		s.await("a token is made", func() error {
			code, made := p.ask(p.Key, http.MethodPost, tokens, fmt.Sprintf(`{"display_name":"spring","max_uses":%d}`, uses))
			if code != http.StatusOK {
				return fmt.Errorf("%d %v", code, made) // the Manager has not told who it is yet
			}
			token, _ = made["token"].(string)
			about, _ := made["enrollment_token"].(map[string]any)
			tokenID, _ = about["enrollment_token_id"].(string)
			return nil
		})
		return token, tokenID
	}
	token, tokenID := newToken(2)
	if code, answer := p.ask("", http.MethodPost, tokens, "{}"); code != http.StatusUnauthorized {
		t.Errorf("whoever asks makes a token: %d %v", code, answer)
	}
	seat := s.seat("ws", machine("ws"))
	if err := enroll.PutToken(seat.dir, token); err != nil {
		t.Fatal(err)
	}
	var leaving atomic.Bool
	running, ended := make(chan *agent.Agent, 1), make(chan error, 1)
	go func() { ended <- seat.stay(&leaving, func(a *agent.Agent) { running <- a }) }()
	a := <-running
	connected := func(want int) {
		t.Helper()
		s.await(fmt.Sprintf("%d are connected", want), func() error {
			if n := office.connected(); n != want {
				return fmt.Errorf("%d are: %s", n, a.Status().Manager.Problem)
			}
			return nil
		})
	}
	connected(1)
	s.await("its use is shown", func() error {
		_, list := p.ask(p.Key, http.MethodGet, tokens, "")
		all, _ := list["enrollment_tokens"].([]any)
		if strings.Contains(fmt.Sprint(list), token) {
			t.Fatal("the token is listed")
		}
		for _, one := range all {
			about, _ := one.(map[string]any)
			if about["enrollment_token_id"] == tokenID && about["used"] == float64(1) && about["pending"] != true {
				return nil
			}
		}
		return fmt.Errorf("%v", list)
	})

	// A second Manager of the site, which shares its authority and is away when it matters.
	other, otherID := p.join("Berlin, second")
	authority, err := os.ReadFile(filepath.Join(folder, "site", "authority.pem"))
	if err == nil {
		err = os.Mkdir(filepath.Join(other, "site"), 0o700)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(other, "site", "authority.pem"), authority, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}

	agents := "/v1/agents/" + seat.id()
	began := time.Now()
	code, decided := p.ask(p.Key, http.MethodPost, agents+":revoke", "{}")
	if code != http.StatusOK || decided["revoked"] != true {
		t.Fatalf("%d %v", code, decided)
	}
	connected(0)
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %v to cut off a revoked agent", took)
	}
	s.await("the agent says why", func() error {
		if said := a.Status().Manager.Problem; !strings.Contains(said, "revoked") {
			return errors.New(said)
		}
		return nil
	})
	pending := func(what string, want ...any) {
		t.Helper()
		s.await(what, func() error {
			code, now := p.ask(p.Key, http.MethodGet, agents+"/admission", "")
			waits, _ := now["pending_manager_ids"].([]any)
			if code != http.StatusOK || fmt.Sprintf("%v", waits) != fmt.Sprintf("%v", want) {
				return fmt.Errorf("%d %v", code, now)
			}
			return nil
		})
	}
	pending("the Manager that is away is named", otherID)
	leaving.Store(true)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	second, _ := p.serve(other)
	pending("it follows when it is back")
	elsewhere := &site{t: t, agents: second.AgentsAddress(), truth: map[contract.ID]*usagev1.UsageEvent{}}
	visit := func(what string, served func(*agent.Agent) error) {
		t.Helper()
		visitor := *seat
		visitor.site = elsewhere
		leaving.Store(false)
		go func() { ended <- visitor.stay(&leaving, func(a *agent.Agent) { running <- a }) }()
		a := <-running
		s.await(what, func() error { return served(a) })
		leaving.Store(true)
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	visit("the second refuses it", func(a *agent.Agent) error {
		if said := a.Status().Manager.Problem; !strings.Contains(said, "revoked") {
			return errors.New(said)
		}
		return nil
	})

	if code, answer := p.ask(p.Key, http.MethodPost, agents+":readmit", "{}"); code != http.StatusOK || answer["revoked"] == true {
		t.Fatalf("%d %v", code, answer)
	}
	pending("both follow")
	anew, anewID := newToken(1)
	if err := enroll.PutToken(seat.dir, anew); err != nil {
		t.Fatal(err)
	}
	leaving.Store(false)
	go func() { ended <- seat.stay(&leaving, func(a *agent.Agent) { running <- a }) }()
	a = <-running
	connected(1)
	leaving.Store(true)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	visit("the second serves it by what the first has signed", func(a *agent.Agent) error {
		for _, c := range second.Status().Agents {
			if c.Connected {
				return nil
			}
		}
		return errors.New(a.Status().Manager.Problem)
	})
	if code, answer := p.ask(p.Key, http.MethodPost, tokens+"/"+anewID+":revoke", "{}"); code != http.StatusOK || answer["revoke_time"] == nil {
		t.Errorf("%d %v", code, answer)
	}
	s.await("no token of the platform admits any more but the first", func() error {
		code, list := p.ask(p.Key, http.MethodGet, tokens, "")
		all, _ := list["enrollment_tokens"].([]any)
		for _, one := range all {
			if about, _ := one.(map[string]any); about["pending"] == true {
				return fmt.Errorf("%d %v", code, list)
			}
		}
		return nil
	})
}
