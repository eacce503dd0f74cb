package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/cetrus/cetrus/agent/notice"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// Status is what an agent tells whoever asks: what it records of them, or, for an
// administrator, of everybody, and how it is doing.
type Status struct {
	AgentID string `json:"agent_id"`
	Version string `json:"version"`
	// Recording is true where everything works, and whoever asks has not paused.
	Recording bool `json:"recording"`
	// Problem is why nothing is recorded; empty where all is well.
	Problem      string `json:"problem,omitempty"`
	Paused       bool   `json:"paused"`
	PauseAllowed bool   `json:"pause_allowed"`
	// PolicyRevision is zero until a policy is in force.
	PolicyRevision uint64   `json:"policy_revision"`
	Applications   []string `json:"applications"`
	// Person is what concerns whoever asks.
	Person PersonStatus `json:"person"`
	// NeverRecorded is what is not recorded, whatever the policy says.
	NeverRecorded []string `json:"never_recorded"`
	// Unsupported is what the desktop cannot tell.
	Unsupported []string      `json:"unsupported,omitempty"`
	Manager     ManagerStatus `json:"manager"`
	Journal     JournalStatus `json:"journal"`
	// Plugins are the plug-ins and how each is doing.
	Plugins []PluginStatus `json:"plugins,omitempty"`
	// SetAside are files that were damaged: the agent went on without them, and they
	// are kept until somebody removes them.
	SetAside []string `json:"set_aside,omitempty"`
	// Open is what is open now, as it is recorded, in the sessions of whoever asks.
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
	Application string `json:"application"`
	// User is whose it is.
	User string `json:"user"`
	// Document is the document in front, or used last, as it is told: reduced as the
	// policy says. Empty where nothing is told of it.
	Document string `json:"document,omitempty"`
	// Project is the project that was chosen or assigned; empty: none was.
	Project   string    `json:"project,omitempty"`
	State     string    `json:"state"`
	Attention string    `json:"attention"`
	Since     time.Time `json:"since"`
	Opened    time.Time `json:"opened"`
}

// Status tells how the agent is doing, and of everybody.
func (a *Agent) Status() Status { return a.status(asker{administrator: true}) }

// status is what whoever asks is told.
func (a *Agent) status(who asker) Status {
	up := a.uplink.Status()
	a.mu.Lock()
	defer a.mu.Unlock()
	s := Status{
		AgentID:        a.identity.AgentID.String(),
		Version:        a.config.Version,
		Person:         a.personStatus(who),
		NeverRecorded:  notice.Never(),
		Problem:        cmp.Or(a.trouble, a.policyProblem),
		PauseAllowed:   a.policy == nil || a.policy.GetPauseAllowed(),
		PolicyRevision: a.policy.GetRevision(),
		Unsupported:    a.blind,
		Manager: ManagerStatus{
			Address: up.Manager, Connected: up.Connected, Problem: cmp.Or(up.Problem, up.Identity), Preferred: up.Preferred,
			Since: moment(up.Since), LastAcknowledged: moment(up.LastAcknowledged),
		},
		Journal:  JournalStatus{Bytes: a.journal.Bytes(), Unacknowledged: a.journal.Backlog() + a.plugins.backlog() + a.inheritedBacklog()},
		Plugins:  a.plugins.status(),
		SetAside: setAside(a.config.DataDir),
		Open:     []OpenStatus{},
	}
	// A pause of the account's is shown as such, not as the person's own.
	s.Paused = s.Person.Pause != nil && s.Person.Pause.By != ByAccount
	s.Recording = a.trouble == "" && s.Person.Pause == nil && a.policy != nil
	if !who.administrator {
		s.SetAside = nil
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
	projects := a.plugins.chosen(a.policy)
	for _, snapshot := range a.live {
		user, known := a.users[string(snapshot.GetPrincipalAlias())]
		if !who.administrator && (!known || !who.is(user)) {
			continue
		}
		for _, open := range snapshot.GetOpen() {
			told := openStatus(open, names)
			told.User = called(user)
			told.Document = a.documents[string(open.GetDocumentId())]
			told.Project = cmp.Or(projects[string(open.GetInstanceId())+string(open.GetDocumentId())], projects[string(open.GetInstanceId())])
			s.Open = append(s.Open, told)
		}
	}
	slices.SortFunc(s.Open, func(x, y OpenStatus) int {
		return cmp.Or(strings.Compare(x.User, y.User), strings.Compare(x.Application, y.Application), x.Opened.Compare(y.Opened))
	})
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
// pipe on Windows. The people of this machine may open it; who asks is whom the system
// says to be at the other end, and decides what they are told and may do.
type control struct {
	agent    *Agent
	names    *names
	mux      *http.ServeMux
	server   *http.Server
	listener net.Listener
	// end ends the contexts of all questions, and answering are those that are answered.
	end       context.CancelFunc
	answering answering
	// nameless says now and then that somebody is not named: they may ask as often as they like.
	nameless rate.Sometimes
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
	c := newControl(a, listener)
	c.handle("GET /v1/status", func(who asker, w http.ResponseWriter, _ *http.Request) { answer(w, a.status(who)) })
	c.handle("POST /v1/pause", func(who asker, w http.ResponseWriter, r *http.Request) { a.servePause(who, w, r, true) })
	c.handle("POST /v1/resume", func(who asker, w http.ResponseWriter, r *http.Request) { a.servePause(who, w, r, false) })
	c.handle("GET /v1/my-data", a.serveMyData)
	c.handle("POST /v1/notice", func(who asker, w http.ResponseWriter, r *http.Request) {
		var seen NoticeSeen
		if !read(w, r, &seen) {
			return
		}
		a.finishAsking(who, w, r, a.acknowledgeNotice(who, seen.Version))
	})
	return c, nil
}

func newControl(a *Agent, listener net.Listener) *control {
	ctx, end := context.WithCancel(context.Background())
	mux := http.NewServeMux()
	return &control{
		agent: a, names: newNames(userOf), mux: mux, end: end, nameless: rate.Sometimes{First: 10, Interval: time.Minute},
		listener: newAskedListener(listener, func(conn net.Conn) string { return placeOf(conn, a.sits) }),
		server: &http.Server{
			Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Second, MaxHeaderBytes: 16 << 10,
			BaseContext: func(net.Listener) context.Context { return ctx },
			ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
				return context.WithValue(ctx, connKey{}, conn)
			},
		},
	}
}

// handle answers a kind of question, once it is known who asks.
func (c *control) handle(pattern string, do func(who asker, w http.ResponseWriter, r *http.Request)) {
	c.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if !c.answering.begin() {
			http.Error(w, "agent: the agent is stopping", http.StatusServiceUnavailable)
			return
		}
		defer c.answering.done()
		conn, _ := r.Context().Value(connKey{}).(*askedConn)
		who, err := askerOf(conn.Conn)
		if err != nil {
			c.nameless.Do(func() {
				c.agent.log.WarnContext(r.Context(), "somebody asks whom the system does not name", "reason", err)
			})
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		if who.user, err = c.agent.named(r.Context(), who.user, c.names); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxQuestionBytes)
		do(who, w, r)
	})
}

func (c *control) serve() { _ = c.server.Serve(c.listener) }

// stop lets nobody ask any more, and waits until everybody is answered.
func (c *control) stop() {
	c.end()
	_ = c.server.Close()
	c.answering.wait()
}

// answering is who is being answered: the server itself does not wait for them when it is
// closed.
type answering struct {
	mu    sync.Mutex
	ended bool
	going sync.WaitGroup
}

// begin tells whether anybody is still answered; whoever is, calls done.
func (a *answering) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		return false
	}
	a.going.Add(1)
	return true
}

func (a *answering) done() { a.going.Done() }

func (a *answering) wait() {
	a.mu.Lock()
	a.ended = true
	a.mu.Unlock()
	a.going.Wait()
}

// askedListener lets in so many at a time as there is room for, so that nobody on the
// machine makes the agent large by asking, and of one person no more than their share, so
// that nobody keeps the others from asking: who comes beyond that is hung up on.
type askedListener struct {
	net.Listener
	// placeOf says whose places somebody who has come takes one of. It must not be held up.
	placeOf func(net.Conn) string
	room    chan struct{}

	mu    sync.Mutex
	taken map[string]int
}

func newAskedListener(under net.Listener, placeOf func(net.Conn) string) *askedListener {
	return &askedListener{Listener: under, placeOf: placeOf, room: make(chan struct{}, maxAskers), taken: make(map[string]int)}
}

// askedConn gives its room back when it is closed.
type askedConn struct {
	net.Conn
	leave func()
}

// Accept waits for room after somebody has come: closing the listener must end it.
func (l *askedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		place := l.placeOf(conn)
		if !l.take(place) {
			_ = conn.Close()
			continue
		}
		l.room <- struct{}{} // the server's timeouts make room
		return &askedConn{Conn: conn, leave: sync.OnceFunc(func() {
			<-l.room
			l.leave(place)
		})}, nil
	}
}

func (l *askedListener) take(place string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taken[place] >= maxOfOneAsker {
		return false
	}
	l.taken[place]++
	return true
}

func (l *askedListener) leave(place string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taken[place]--; l.taken[place] == 0 {
		delete(l.taken, place)
	}
}

func (c *askedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}

// connKey leads to the connection in the context of a request.
type connKey struct{}

// Limits of the control channel, which everybody on the machine may reach.
const (
	maxAskers        = 64
	maxOfOneAsker    = 8
	maxQuestionBytes = 16 << 10
)

// Whose places those take who are no person with a session here.
const (
	ofAdministrators = "administrators"
	ofStrangers      = "strangers" // all of them together: one person may have users to spare
)

// NoticeSeen says which version of the notice a person has seen.
type NoticeSeen struct {
	Version string `json:"version"`
}

// read takes a question; nothing at all is an empty one.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(r.Body).Decode(into); err != nil && !errors.Is(err, io.EOF) {
		http.Error(w, fmt.Sprintf("agent: the question cannot be read: %v", err), http.StatusBadRequest)
		return false
	}
	return true
}

func answer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // the asker may leave
}

// pauseSeen is how long the answer to a pause waits until it shows what is open as it is
// recorded from then on.
const pauseSeen = 2 * time.Second

func (a *Agent) servePause(who asker, w http.ResponseWriter, r *http.Request, paused bool) {
	var request PauseRequest
	if read(w, r, &request) {
		a.finishAsking(who, w, r, a.setPaused(who, paused, request))
	}
}

// finishAsking answers with the status once what was chosen holds, or says what is wrong.
func (a *Agent) finishAsking(who asker, w http.ResponseWriter, r *http.Request, err error) {
	var theirs refused
	switch {
	case errors.Is(err, errTooOften):
		http.Error(w, err.Error(), http.StatusTooManyRequests)
	case errors.As(err, &theirs), errors.Is(err, ErrPauseNotAllowed):
		http.Error(w, err.Error(), http.StatusForbidden)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		ctx, cancel := context.WithTimeout(r.Context(), pauseSeen)
		defer cancel()
		a.await(ctx, a.seen)
		answer(w, a.status(who))
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
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dialControl(ctx, socket) },
		},
	}}
}

// Status asks how the agent is doing.
func (c *Control) Status(ctx context.Context) (s Status, err error) {
	err = c.ask(ctx, http.MethodGet, "/v1/status", nil, &s)
	return s, err
}

// Pause presses the pause button.
func (c *Control) Pause(ctx context.Context, request PauseRequest) (s Status, err error) {
	err = c.ask(ctx, http.MethodPost, "/v1/pause", request, &s)
	return s, err
}

// Resume releases it; of the request only Everybody counts.
func (c *Control) Resume(ctx context.Context, request PauseRequest) (s Status, err error) {
	err = c.ask(ctx, http.MethodPost, "/v1/resume", request, &s)
	return s, err
}

// SeeNotice says that the person has seen a version of the notice.
func (c *Control) SeeNotice(ctx context.Context, version string) (s Status, err error) {
	err = c.ask(ctx, http.MethodPost, "/v1/notice", NoticeSeen{Version: version}, &s)
	return s, err
}

// MyData asks what was recorded of the person on the last days, today among them.
func (c *Control) MyData(ctx context.Context, days int) (d MyData, err error) {
	err = c.ask(ctx, http.MethodGet, "/v1/my-data?days="+strconv.Itoa(days), nil, &d)
	return d, err
}

func (c *Control) ask(ctx context.Context, method, path string, question, into any) error {
	var body io.Reader = http.NoBody
	if question != nil {
		text, err := json.Marshal(question)
		if err != nil {
			return fmt.Errorf("agent: %w", err)
		}
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	response, err := c.client.Do(request)
	if err != nil {
		return c.unanswered(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 2<<10))
		return errors.New(strings.TrimSpace(string(text)))
	}
	if err := json.NewDecoder(response.Body).Decode(into); err != nil {
		return fmt.Errorf("agent: the answer at %s cannot be read: %w", c.socket, err)
	}
	return nil
}

// unanswered says why nobody answers at the socket, and what to do.
func (c *Control) unanswered(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("agent: no agent runs with its control socket at %s; `cetrus-agent start` starts the service, `cetrus-agent run` runs one here; name the folder of another with --data-dir", c.socket)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("agent: this user may not reach the control socket %s: the agent is another person's own; ask as that user, or as root: %w", c.socket, err)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return fmt.Errorf("agent: the agent at %s has hung up: it stops, or answers %d questions of yours already; ask again: %w", c.socket, maxOfOneAsker, err)
	default:
		return fmt.Errorf("agent: the agent at %s does not answer: %w", c.socket, err)
	}
}
