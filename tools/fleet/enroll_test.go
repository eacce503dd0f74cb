package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	managerenroll "github.com/cetrus/cetrus/manager/enroll"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// enrolling is a Manager at which agents enrol, and a site that has nobody yet.
func enrolling(t *testing.T) (*office, *site, string) {
	t.Helper()
	dir := t.TempDir()
	m := runManager(t, manager.Config{DataDir: dir, AgentsAddress: "127.0.0.1:0"})
	return m, &site{t: t, agents: m.AgentsAddress(), policy: draft(), truth: map[contract.ID]*usagev1.UsageEvent{}}, dir
}

func (o *office) newToken(uses int) string {
	o.t.Helper()
	token, err := o.CreateToken("test", uses, time.Hour)
	if err != nil {
		o.t.Fatal(err)
	}
	return token
}

// order gives an order as the command line does.
func (o *office) order(dir, path string) []byte {
	o.t.Helper()
	secret, err := os.ReadFile(filepath.Join(dir, manager.ControlTokenFile))
	if err != nil {
		o.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(o.t.Context(), http.MethodPost, "http://"+o.StatusAddress()+path, nil)
	if err != nil {
		o.t.Fatal(err)
	}
	request.Header.Set(manager.TokenHeader, string(secret))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		o.t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode >= http.StatusBadRequest {
		o.t.Fatalf("%s: %s %s %v", path, response.Status, answer, err)
	}
	return answer
}

func (o *office) enrolledAgents() (list []managerenroll.Agent) {
	o.t.Helper()
	response, err := http.Get("http://" + o.StatusAddress() + "/api/v1/enrolled")
	if err != nil {
		o.t.Fatal(err)
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&list); err != nil {
		o.t.Fatal(err)
	}
	return list
}

func (s *site) allCame(m *office) {
	s.t.Helper()
	s.mu.Lock()
	journalled := uint64(len(s.truth))
	s.mu.Unlock()
	if n := m.Status().Ingest.Records; n != journalled || n == 0 {
		s.t.Errorf("%d records were journalled, %d have come", journalled, n)
	}
}

// A token in the data folder gets an agent a certificate; from then on it needs none. Who
// has neither is told, and goes on journalling.
func TestAgentsEnrol(t *testing.T) {
	t.Parallel()
	m, s, _ := enrolling(t)
	first := s.seat("ws", machine("ws"))
	first.work("ada", 9, true)
	if err := enroll.PutToken(first.dir, m.newToken(1)); err != nil {
		t.Fatal(err)
	}
	first.work("ada", 8, false)
	s.allCame(m)
	if _, err := os.Stat(filepath.Join(first.dir, enroll.TokenFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the token is left: %v", err)
	}
	// A token that is none does no harm to who has a certificate, and is told.
	spoil(t, first)
	first.work("ada", 7, false)
	s.allCame(m)
	if list := m.Status().Agents; len(list) != 1 || !strings.Contains(list[0].ManagerProblem, "enrolment token begins with") {
		t.Errorf("the Manager hears of the token that is none: %+v", list)
	}

	stranger := s.seat("other", machine("other"))
	spoil(t, stranger)
	var leaving atomic.Bool
	running, ended := make(chan *agent.Agent, 1), make(chan error, 1)
	go func() { ended <- stranger.stay(&leaving, func(a *agent.Agent) { running <- a }) }()
	a := <-running
	s.await("the stranger is told that its token is none", func() error {
		if said := a.Status().Manager.Problem; !strings.Contains(said, "enrolment token begins with") {
			return errors.New(said)
		}
		return nil
	})
	if err := os.Remove(filepath.Join(stranger.dir, enroll.TokenFile)); err != nil {
		t.Fatal(err)
	}
	s.await("the stranger is told what it lacks", func() error {
		if said := a.Status().Manager.Problem; !strings.Contains(said, "enrolment token") && !strings.Contains(said, "enrollment-token") {
			return errors.New(said)
		}
		return nil
	})
	if m.connected() != 0 {
		t.Error("an agent without a certificate is connected")
	}
	if err := enroll.PutToken(stranger.dir, m.newToken(1)); err != nil {
		t.Fatal(err)
	}
	s.await("it is connected", func() error {
		if m.connected() != 1 {
			return errors.New(a.Status().Manager.Problem)
		}
		return nil
	})
	leaving.Store(true)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	s.allCame(m)
	if list := m.enrolledAgents(); len(list) != 2 {
		t.Errorf("enrolled are %+v", list)
	}
}

// spoil lays a token that is none.
func spoil(t *testing.T, s *seat) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, enroll.TokenFile), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A copied machine enrols as an agent of its own by the certificate that came with the copy,
// and hands over what the copy held under the name of the other, and nothing else.
func TestCopiesEnrolByTheCertificateThatTheyHold(t *testing.T) {
	t.Parallel()
	m, s, _ := enrolling(t)
	original := s.seat("golden", machine("a"))
	if err := enroll.PutToken(original.dir, m.newToken(1)); err != nil {
		t.Fatal(err)
	}
	original.work("ada", 9, false)
	original.work("ada", 8, true)
	other := original.copied("clone", machine("b"))
	other.work("bob", 7, false)
	s.await("what was inherited has come", func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if n := m.Status().Ingest.Records; n != uint64(len(s.truth)) {
			return fmt.Errorf("%d of %d", n, len(s.truth))
		}
		return nil
	})
	if other.id() == original.id() {
		t.Error("the copy goes on as the original")
	}
	for _, a := range m.enrolledAgents() {
		if a.Text == other.id() && a.CopyOf != original.id() {
			t.Errorf("the copy is enrolled as %+v", a)
		}
	}
	if n := len(m.enrolledAgents()); n != 2 {
		t.Errorf("%d agents are enrolled", n)
	}
}

// A machine that was cloned while it ran, so that its traits tell nothing, is noticed; the
// younger goes on as an agent with a certificate of its own.
func TestAClonedIdentityIsNoticed(t *testing.T) {
	t.Parallel()
	m, s, _ := enrolling(t)
	original := s.seat("ws", machine("same"))
	if err := enroll.PutToken(original.dir, m.newToken(1)); err != nil {
		t.Fatal(err)
	}
	original.work("ada", 9, false)
	clone := original.copied("twin", machine("same"))
	var leaving atomic.Bool
	ended := make(chan error, 2)
	go func() { ended <- original.stay(&leaving, nil) }()
	s.await("the first is connected", func() error {
		if m.connected() != 1 {
			return errors.New("it is not")
		}
		return nil
	})
	go func() { ended <- clone.stay(&leaving, nil) }()
	s.await("two agents are connected", func() error {
		if n := m.connected(); n != 2 {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	if text := m.alarm("AGENT_COPIED"); text == "" {
		t.Error("there is no alarm")
	}
	leaving.Store(true)
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if list := m.enrolledAgents(); len(list) != 2 || list[0].CopyOf == "" && list[1].CopyOf == "" {
		t.Errorf("enrolled are %+v", list)
	}
	if original.id() == clone.id() {
		t.Error("both go on as one agent")
	}
}

// A revoked agent is cut off at once and kept out, and loses nothing: readmitted, and with a
// token, it sends what waited.
func TestRevokedAgentsAreCutOff(t *testing.T) {
	t.Parallel()
	m, s, dir := enrolling(t)
	seat := s.seat("ws", machine("ws"))
	if err := enroll.PutToken(seat.dir, m.newToken(1)); err != nil {
		t.Fatal(err)
	}
	var leaving atomic.Bool
	running, ended := make(chan *agent.Agent, 1), make(chan error, 1)
	go func() { ended <- seat.stay(&leaving, func(a *agent.Agent) { running <- a }) }()
	a := <-running
	connected := func(want int) {
		t.Helper()
		s.await(fmt.Sprintf("%d are connected", want), func() error {
			if n := m.connected(); n != want {
				return fmt.Errorf("%d are: %s", n, a.Status().Manager.Problem)
			}
			return nil
		})
	}
	connected(1)
	began := time.Now()
	m.order(dir, "/api/v1/enrolled/"+seat.id()+"/revoke")
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
	m.order(dir, "/api/v1/enrolled/"+seat.id()+"/readmit")
	if err := enroll.PutToken(seat.dir, m.newToken(1)); err != nil {
		t.Fatal(err)
	}
	connected(1)
	leaving.Store(true)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	s.allCame(m)
}
