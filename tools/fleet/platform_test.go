package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/cetrus/cetrus/agent/enroll"
	"github.com/cetrus/cetrus/manager"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/tools/stack"
)

// platform is a platform without a Manager.
type platform struct {
	*stack.Platform
	t *testing.T
}

func startPlatform(t *testing.T) *platform {
	t.Helper()
	dir, err := os.MkdirTemp("", "cetrus-fleet-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // for PostgreSQL's own user
		t.Fatal(err)
	}
	binary, err := stack.Build(t.Context(), dir, "services/cmd/cetrus")
	if err != nil {
		t.Fatal(err)
	}
	p, err := stack.StartPlatform(t.Context(), binary, filepath.Join(dir, "platform"), filepath.Join(t.ArtifactDir(), "cetrus.log"), append(stack.Anywhere().Listen(), "--manager=false")...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(20 * time.Second); err != nil {
			t.Error(err)
		}
	})
	return &platform{p, t}
}

// ask asks the API.
func (p *platform) ask(key, method, path, body string) (int, map[string]any) {
	p.t.Helper()
	request, err := http.NewRequestWithContext(p.t.Context(), method, p.REST+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	if key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	answer := make(map[string]any)
	if err == nil {
		err = json.Unmarshal(text, &answer)
	}
	if err != nil {
		p.t.Fatalf("%s %s: %s %s %v", method, path, response.Status, text, err)
	}
	return response.StatusCode, answer
}

// nats is where Managers connect.
func (p *platform) nats() string {
	p.t.Helper()
	at, err := url.Parse(p.NATS)
	if err != nil {
		p.t.Fatal(err)
	}
	at.User = nil
	return at.String()
}

// serve runs the Manager of a folder that has joined, until stop is called.
func (p *platform) serve(folder string) (m *manager.Manager, stop func()) {
	p.t.Helper()
	account, _, err := manager.AccountOf(folder)
	if err != nil {
		p.t.Fatal(err)
	}
	option, found, err := manager.PlatformKey(folder)
	if err != nil || !found {
		p.t.Fatal(found, err)
	}
	at := p.nats()
	m, err = manager.New(manager.Config{DataDir: folder, AccountID: account, AgentsAddress: "127.0.0.1:0", StatusAddress: "127.0.0.1:0"}, manager.Deps{
		Log: slog.New(slog.DiscardHandler),
		Platform: func(_ context.Context, id contract.ID) (*nats.Conn, error) {
			return nats.Connect(at, option, nats.CustomInboxPrefix(contract.ManagerInbox(id)), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
		},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			p.t.Error(err)
		}
	})
	p.t.Cleanup(stop)
	return m, stop
}

// A Manager enrols at the platform with a token that is good once, forwards under its own key,
// and is cut off when it is revoked; what it cannot forward any more it keeps.
func TestManagersEnrolAtThePlatform(t *testing.T) {
	t.Parallel()
	p := startPlatform(t)
	ask := p.ask
	if code, answer := ask("", http.MethodPost, "/v1/managers", `{"display_name":"Berlin"}`); code != http.StatusUnauthorized {
		t.Errorf("whoever asks makes a Manager: %d %v", code, answer)
	}
	code, made := ask(p.Key, http.MethodPost, "/v1/managers", `{"display_name":"Berlin"}`)
	token, _ := made["token"].(string)
	if code != http.StatusOK || token == "" {
		t.Fatalf("%d %v", code, made)
	}
	about, _ := made["manager"].(map[string]any)
	id, _ := about["manager_id"].(string)

	join := func(dir, token string) error {
		_, _, err := manager.Join(t.Context(), manager.JoinConfig{DataDir: dir, API: p.REST, Token: token})
		return err
	}
	folder := t.TempDir()
	for range 2 { // the answer may have been lost
		if err := join(folder, token); err != nil {
			t.Fatal(err)
		}
	}
	if err := join(t.TempDir(), token); err == nil || !strings.Contains(err.Error(), "was used") {
		t.Errorf("a token that was used: %v", err)
	}
	forged := token[:len(token)-20] + strings.Repeat("A", 20)
	if err := join(t.TempDir(), forged); err == nil {
		t.Error("half of a token is enough")
	}
	if err := join(t.TempDir(), "cetrus-enroll-x"); err == nil || !strings.Contains(err.Error(), "begins with") {
		t.Errorf("another token: %v", err)
	}

	at := p.nats()
	option, found, err := manager.PlatformKey(folder)
	if err != nil || !found {
		t.Fatal(found, err)
	}
	m, stop := p.serve(folder)
	defer stop()
	if m.ID().String() != id {
		t.Errorf("the Manager is %s, and was created as %s", m.ID(), id)
	}
	if _, err := p.API.CreateApplication(t.Context(), &meteringv1.Application{
		DisplayName: "Draft", ActivityGap: durationpb.New(30 * time.Second), Timeout: durationpb.New(30 * time.Minute),
		Rules: []*meteringv1.Rule{{Executable: "draft"}},
	}); err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, agents: m.AgentsAddress(), truth: map[contract.ID]*usagev1.UsageEvent{}}
	platform := func(want string) {
		t.Helper()
		s.await("the platform is "+want, func() error {
			if now := m.Status().Platform; now != want {
				return fmt.Errorf("it is %s", now)
			}
			return nil
		})
	}
	platform("connected")
	seat := s.seat("ws", machine("ws"))
	agentToken, err := m.CreateToken("", 1, time.Hour)
	if err == nil {
		err = enroll.PutToken(seat.dir, agentToken)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.learn(seat)
	forwarded := func() (n uint64) {
		for _, lane := range m.Status().Forward {
			n += lane.Published
		}
		return n
	}
	seat.work("ada", 9, false)
	s.await("it is forwarded", func() error {
		if forwarded() == 0 || m.Status().Backlog > 0 {
			return errors.New("it waits")
		}
		return nil
	})

	if code, answer := ask(p.Key, http.MethodPost, "/v1/managers/"+id+":revoke", "{}"); code != http.StatusOK || answer["revoke_time"] == nil {
		t.Fatalf("%d %v", code, answer)
	}
	began := time.Now()
	platform("refused")
	if list := m.Status().Alarms; !slices.ContainsFunc(list, func(a manager.Alarm) bool { return a.What == "PLATFORM_REFUSES" }) {
		t.Errorf("no alarm tells that it was revoked: %+v", list)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("it took %v to cut off a revoked Manager", took)
	}
	if nc, err := nats.Connect(at, option); err == nil {
		nc.Close()
		t.Error("a revoked Manager connects")
	}
	seat.work("ada", 8, false)
	if m.Status().Backlog == 0 {
		t.Error("what came after that is not kept")
	}
	if err := join(folder, token); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("a revoked Manager enrols: %v", err)
	}
	if code, answer := ask(p.Key, http.MethodPost, "/v1/managers/"+id+":renewToken", "{}"); code == http.StatusOK {
		t.Errorf("a revoked Manager gets a token: %v", answer)
	}
	code, list := ask(p.Key, http.MethodGet, "/v1/managers", "")
	if all, _ := list["managers"].([]any); code != http.StatusOK || len(all) != 1 || strings.Contains(fmt.Sprint(list), token) {
		t.Errorf("%d %v", code, list)
	}
}
