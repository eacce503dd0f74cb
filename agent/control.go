package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Status is what an agent tells the person at the desktop: what it records, and
// how it is doing.
type Status struct {
	AgentID string `json:"agent_id"`
	Version string `json:"version"`
	// Recording is true where everything works.
	Recording bool `json:"recording"`
	// Problem is why nothing is recorded; empty where all is well.
	Problem      string `json:"problem,omitempty"`
	Paused       bool   `json:"paused"`
	PauseAllowed bool   `json:"pause_allowed"`
	// PolicyRevision is zero until a policy is in force.
	PolicyRevision uint64   `json:"policy_revision"`
	Applications   []string `json:"applications"`
	// Unsupported is what the desktop cannot tell.
	Unsupported []string      `json:"unsupported,omitempty"`
	Manager     ManagerStatus `json:"manager"`
	Journal     JournalStatus `json:"journal"`
	// Plugins are the plug-ins and how each is doing.
	Plugins []PluginStatus `json:"plugins,omitempty"`
	// SetAside are files that were damaged: the agent went on without them, and they
	// are kept until somebody removes them.
	SetAside []string `json:"set_aside,omitempty"`
	// Open is what is open now, as it is recorded.
	Open []OpenStatus `json:"open"`
}

// ManagerStatus is how the conversation with the Manager stands.
type ManagerStatus struct {
	Address          string     `json:"address"`
	ID               string     `json:"id,omitempty"`
	Connected        bool       `json:"connected"`
	Since            *time.Time `json:"since,omitempty"`
	LastAcknowledged *time.Time `json:"last_acknowledged,omitempty"`
	Problem          string     `json:"problem,omitempty"`
	// Preferred is why Managers that go before this one could not be spoken to.
	Preferred string `json:"preferred_problem,omitempty"`
}

// JournalStatus is what waits for the Manager.
type JournalStatus struct {
	Bytes          int64  `json:"bytes"`
	Unacknowledged uint64 `json:"unacknowledged"`
}

// OpenStatus is one open instance.
type OpenStatus struct {
	Application string    `json:"application"`
	State       string    `json:"state"`
	Attention   string    `json:"attention"`
	Since       time.Time `json:"since"`
	Opened      time.Time `json:"opened"`
}

// Status tells how the agent is doing.
func (a *Agent) Status() Status {
	up := a.uplink.Status()
	a.mu.Lock()
	defer a.mu.Unlock()
	s := Status{
		AgentID:        a.identity.AgentID.String(),
		Version:        a.config.Version,
		Recording:      a.trouble == "" && !a.paused && a.policy != nil && !a.policy.GetPaused(),
		Problem:        a.trouble,
		Paused:         a.paused,
		PauseAllowed:   a.policy == nil || a.policy.GetPauseAllowed(),
		PolicyRevision: a.policy.GetRevision(),
		Unsupported:    a.blind,
		Manager: ManagerStatus{
			Address: up.Manager, Connected: up.Connected, Problem: up.Problem, Preferred: up.Preferred,
			Since: moment(up.Since), LastAcknowledged: moment(up.LastAcknowledged),
		},
		Journal:  JournalStatus{Bytes: a.journal.Bytes(), Unacknowledged: a.journal.Backlog() + a.plugins.backlog() + a.inheritedBacklog()},
		Plugins:  a.plugins.status(),
		SetAside: setAside(a.config.DataDir),
		Open:     []OpenStatus{},
	}
	if a.policy == nil && s.Problem == "" {
		s.Problem = "no policy yet: the Manager has not told what to record"
	}
	if !up.ManagerID.IsZero() {
		s.Manager.ID = up.ManagerID.String()
	}
	names := make(map[string]string)
	for _, app := range a.policy.GetApplications() {
		names[string(app.GetApplicationId())] = app.GetDisplayName()
		s.Applications = append(s.Applications, app.GetDisplayName())
	}
	slices.Sort(s.Applications)
	for _, snapshot := range a.live {
		for _, open := range snapshot.GetOpen() {
			s.Open = append(s.Open, openStatus(open, names))
		}
	}
	slices.SortFunc(s.Open, func(x, y OpenStatus) int { return strings.Compare(x.Application, y.Application) })
	return s
}

func openStatus(o *usagev1.OpenInstance, names map[string]string) OpenStatus {
	name := names[string(o.GetApplicationId())]
	if name == "" {
		if id, err := contract.IDFrom(o.GetApplicationId()); err == nil {
			name = id.String()
		}
	}
	return OpenStatus{
		Application: name,
		State:       strings.ToLower(strings.TrimPrefix(o.GetState().String(), "STATE_")),
		Attention:   strings.ToLower(strings.TrimPrefix(o.GetAttention().String(), "ATTENTION_")),
		Since:       time.UnixMilli(o.GetSinceUtcMillis()).UTC(),
		Opened:      time.UnixMilli(o.GetOpenedUtcMillis()).UTC(),
	}
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// control serves the control socket: JSON over HTTP on a Unix socket, or a named
// pipe on Windows, that only the agent's own user may open (and administrators, on
// Windows).
type control struct {
	server   *http.Server
	listener net.Listener
}

// controlSocket is where the control socket of a configuration is.
func (c Config) controlSocket() string {
	if c.ControlSocket == "" {
		return controlIn(c.DataDir)
	}
	return c.ControlSocket
}

func (a *Agent) serveControl() (*control, error) {
	socket := a.config.controlSocket()
	if socket == NoControl {
		return nil, nil
	}
	listener, err := listenControl(socket)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { a.answer(w, http.StatusOK) })
	mux.HandleFunc("POST /v1/pause", func(w http.ResponseWriter, r *http.Request) { a.setPaused(r.Context(), w, true) })
	mux.HandleFunc("POST /v1/resume", func(w http.ResponseWriter, r *http.Request) { a.setPaused(r.Context(), w, false) })
	return &control{
		listener: listener,
		server:   &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10},
	}, nil
}

func (c *control) serve() { _ = c.server.Serve(c.listener) }

func (c *control) stop() { _ = c.server.Close() }

func (a *Agent) answer(w http.ResponseWriter, code int) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(a.Status()) // the asker may leave
}

// pauseSeen is how long the answer to a pause waits until it shows what is open as it is
// recorded from then on.
const pauseSeen = 2 * time.Second

func (a *Agent) setPaused(ctx context.Context, w http.ResponseWriter, paused bool) {
	err := a.SetPaused(paused)
	switch {
	case errors.Is(err, ErrPauseNotAllowed):
		http.Error(w, err.Error(), http.StatusForbidden)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		ctx, cancel := context.WithTimeout(ctx, pauseSeen)
		defer cancel()
		a.await(ctx, func() bool {
			a.mu.Lock()
			defer a.mu.Unlock()
			return a.seenPaused == paused
		})
		a.answer(w, http.StatusOK)
	}
}

// Control talks to a running agent through its control socket.
type Control struct {
	socket string
	client *http.Client
}

// NewControl talks to the agent that uses a data directory; socket is as in
// Config.ControlSocket.
func NewControl(dataDir, socket string) *Control {
	socket = Config{DataDir: dataDir, ControlSocket: socket}.controlSocket()
	return &Control{socket: socket, client: &http.Client{
		Timeout: 10 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialControl(ctx, socket)
		}},
	}}
}

// Status asks how the agent is doing.
func (c *Control) Status(ctx context.Context) (Status, error) {
	return c.ask(ctx, http.MethodGet, "/v1/status")
}

// Pause presses the pause button.
func (c *Control) Pause(ctx context.Context) (Status, error) {
	return c.ask(ctx, http.MethodPost, "/v1/pause")
}

// Resume releases it.
func (c *Control) Resume(ctx context.Context) (Status, error) {
	return c.ask(ctx, http.MethodPost, "/v1/resume")
}

func (c *Control) ask(ctx context.Context, method, path string) (Status, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, nil)
	if err != nil {
		return Status{}, fmt.Errorf("agent: %w", err)
	}
	response, err := c.client.Do(request)
	if err != nil {
		return Status{}, c.unanswered(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		var text [512]byte
		n, _ := response.Body.Read(text[:])
		return Status{}, errors.New(strings.TrimSpace(string(text[:n])))
	}
	var s Status
	if err := json.NewDecoder(response.Body).Decode(&s); err != nil {
		return Status{}, fmt.Errorf("agent: the answer at %s cannot be read: %w", c.socket, err)
	}
	return s, nil
}

// unanswered says why nobody answers at the socket, and what to do.
func (c *Control) unanswered(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("agent: no agent runs with its control socket at %s; `cetrus-agent start` starts the service, `cetrus-agent run` runs one here; name the folder of another with --data-dir", c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("agent: the control socket %s belongs to another user; ask as that user, or as root: %w", c.socket, err)
	default:
		return fmt.Errorf("agent: the agent at %s does not answer: %w", c.socket, err)
	}
}
