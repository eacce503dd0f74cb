package manager

import (
	"cmp"
	"context"
	"crypto/subtle"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/buffer"
	"github.com/cetrus/cetrus/manager/forward"
	"github.com/cetrus/cetrus/manager/policy"
	"github.com/cetrus/cetrus/manager/releases"
)

// TokenHeader carries the content of the file control-token with a command.
const TokenHeader = "Cetrus-Control-Token" //nolint:gosec // the header's name, not a token

//go:embed status.html
var statusHTML string

var statusPage = template.Must(template.New("status").Funcs(template.FuncMap{
	"bytes": humanBytes, "ago": humanAgo, "short": shortID,
	"since": func(t time.Time) string { return humanDuration(time.Since(t)) },
}).Parse(statusHTML))

// Status is how a Manager is doing, as its API tells it. Times are RFC 3339,
// durations end in _seconds.
type Status struct {
	ManagerID     string        `json:"manager_id"`
	AccountID     string        `json:"account_id"`
	Started       time.Time     `json:"started"`
	Now           time.Time     `json:"now"`
	AgentsAddress string        `json:"agents_address"`
	Alarms        []Alarm       `json:"alarms"`
	Platform      string        `json:"platform"`
	Policy        PolicyStatus  `json:"policy"`
	Buffer        BufferStatus  `json:"buffer"`
	Forward       []LaneStatus  `json:"forward"`
	Backlog       uint64        `json:"backlog_messages"`
	People        PeopleStatus  `json:"people"`
	Ingest        IngestStatus  `json:"ingest"`
	Agents        []AgentStatus `json:"agents"`
	// Releases are what agents are offered, the newest first.
	Releases []releases.Release `json:"releases,omitempty"`
}

// Alarm is something that a person should act on.
type Alarm struct {
	// What is a short code, Text says what is wrong and the way out.
	What string `json:"what"`
	Text string `json:"text"`
}

// PolicyStatus is the mirrored policy.
type PolicyStatus struct {
	Known        bool   `json:"known"`
	Revision     uint64 `json:"revision"`
	Applications int    `json:"applications"`
	// PutBack tells that the platform seems to have been put back from a backup.
	PutBack *policy.PutBack `json:"put_back,omitempty"`
}

// BufferStatus is the durable buffer.
type BufferStatus struct {
	ID            string `json:"id"`
	FirstPosition uint64 `json:"first_position"`
	LastPosition  uint64 `json:"last_position"`
	UsedBytes     int64  `json:"used_bytes"`
	MaxBytes      int64  `json:"max_bytes"`
	FreeBytes     int64  `json:"disk_free_bytes"`
	Stall         string `json:"stall,omitempty"`
	Commits       uint64 `json:"commits"`
	Percent       int64  `json:"-"`
	// Losses are all that the buffer ever lost; those that were acknowledged are no
	// alarm any more.
	Losses []buffer.Loss `json:"losses,omitempty"`
}

// LaneStatus is one lane's way to the platform.
type LaneStatus struct {
	Lane          string    `json:"lane"`
	Phase         string    `json:"phase"`
	Trouble       string    `json:"trouble,omitempty"`
	Cursor        uint64    `json:"cursor"`
	Level         uint64    `json:"level"`
	Published     uint64    `json:"published"`
	Rewinds       uint64    `json:"rewinds"`
	LastPublished time.Time `json:"last_published,omitzero"`
}

// PeopleStatus is the book of people.
type PeopleStatus struct {
	Principals  int `json:"principals"`
	Undeposited int `json:"keys_not_deposited"`
}

// IngestStatus counts what came from agents since the start.
type IngestStatus struct {
	Frames      uint64 `json:"frames"`
	Records     uint64 `json:"records"`
	Repeated    uint64 `json:"repeated_frames"`
	Refused     uint64 `json:"refused"`
	Live        uint64 `json:"live_sent"`
	LiveDropped uint64 `json:"live_dropped"`
}

// AgentStatus is one agent.
type AgentStatus struct {
	AgentID         string    `json:"agent_id"`
	HostName        string    `json:"host_name"`
	OperatingSystem string    `json:"operating_system"`
	Version         string    `json:"version"`
	Connected       bool      `json:"connected"`
	LastFrame       time.Time `json:"last_frame,omitzero"`
	Records         uint64    `json:"records"`
	Refused         uint64    `json:"refused"`
	LastRefusal     string    `json:"last_refusal,omitempty"`
	SkewSeconds     float64   `json:"skew_seconds"`
	PolicyRevision  uint64    `json:"policy_revision"`
	JournalBytes    uint64    `json:"journal_bytes"`
	Unacknowledged  uint64    `json:"unacknowledged_records"`
	Unsupported     []string  `json:"unsupported,omitempty"`
	Paused          bool      `json:"paused"`
	// Plugins are those that are not well, each with why.
	Plugins        []string `json:"plugins,omitempty"`
	ManagerProblem string   `json:"manager_problem,omitempty"`
	PolicyProblem  string   `json:"policy_problem,omitempty"`
	// Copied names the two machines that were connected as this agent at once.
	Copied string `json:"copied,omitempty"`
	// Release is how it stands with releases; absent where it takes none.
	Release *AgentReleaseStatus `json:"release,omitempty"`
}

// AgentReleaseStatus is how one agent stands with releases of itself.
type AgentReleaseStatus struct {
	Number uint64 `json:"number"`
	// State is current, fetching, staged, trial or refused; Target is the release that it
	// is about, where that is another one.
	State   string `json:"state"`
	Target  uint64 `json:"target,omitempty"`
	Percent uint64 `json:"percent,omitempty"` // fetched
	Refused uint64 `json:"refused,omitempty"`
	Message string `json:"message,omitempty"`
}

// unwell are plug-ins that do not work, and releases of them that were refused, each with
// why.
func unwell(plugins []*agentv1.PluginHealth, offered *agentv1.PluginReleases) (list []string) {
	for _, r := range offered.GetPlugins() {
		if r.GetState() == agentv1.ReleaseState_RELEASE_STATE_REFUSED {
			list = append(list, fmt.Sprintf("%s: release %d: %s", r.GetName(), r.GetTarget(), r.GetMessage()))
		}
	}
	for _, p := range plugins {
		switch p.GetState() {
		case agentv1.PluginState_PLUGIN_STATE_FAILED, agentv1.PluginState_PLUGIN_STATE_REFUSED:
			list = append(list, fmt.Sprintf("%s: %s", p.GetName(), p.GetMessage()))
		default:
		}
	}
	return list
}

func releaseStatus(r *agentv1.ReleaseReport) *AgentReleaseStatus {
	if r == nil {
		return nil
	}
	return &AgentReleaseStatus{
		Number: r.GetNumber(), State: strings.ToLower(strings.TrimPrefix(r.GetState().String(), "RELEASE_STATE_")),
		Target: r.GetTarget(), Percent: 100 * r.GetFetchedBytes() / max(1, r.GetSizeBytes()), Refused: r.GetRefused(), Message: r.GetMessage(),
	}
}

// Usage is recent use, temporary by nature: the platform's reports are what
// counts.
type Usage struct {
	// Complete is false while not everything in the buffer has been read.
	Complete bool       `json:"complete"`
	Live     []LiveLine `json:"live"`
	Recent   []UseLine  `json:"recent"`
}

// LiveLine is one open instance.
type LiveLine struct {
	Application string    `json:"application"`
	Person      string    `json:"person"`
	Machine     string    `json:"machine"`
	State       string    `json:"state"`
	Since       time.Time `json:"since"`
}

// UseLine is what one person did with one application within a day.
type UseLine struct {
	Application string  `json:"application"`
	Person      string  `json:"person"`
	BusySeconds float64 `json:"busy_seconds"`
	OpenSeconds float64 `json:"open_seconds"`
	Busy        string  `json:"-"`
	Open        string  `json:"-"`
}

// handler serves the status page and its API to callers on this machine.
func (m *Manager) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", m.servePage)
	mux.HandleFunc("GET /api/v1/status", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, m.Status()) })
	mux.HandleFunc("GET /api/v1/usage", func(w http.ResponseWriter, r *http.Request) {
		usage, err := m.Usage(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		writeJSON(w, usage)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /metrics", m.serveMetrics)
	m.serveReleases(mux)
	m.serveEnrollment(mux)
	mux.HandleFunc("POST /api/v1/takeover", m.commanded(m.forwarder.Takeover))
	mux.HandleFunc("POST /api/v1/acknowledge", m.commanded(func() error {
		n, err := m.buffer.Acknowledge(time.Now())
		if err == nil {
			m.log.Info("losses of the buffer, refusals and copies were acknowledged", "losses", n)
			m.ingest.Forgive()
			err = m.policy.Acknowledge()
		}
		return err
	}))
	return localOnly(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(IDHeader, m.id.String())
		mux.ServeHTTP(w, r)
	}))
}

// commanded carries a command out for callers who may read this Manager's folder.
func (m *Manager) commanded(act func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !m.mayCommand(w, r) {
			return
		}
		if err := act(); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// mayCommand tells whether a caller may read this Manager's folder; others are answered.
func (m *Manager) mayCommand(w http.ResponseWriter, r *http.Request) bool {
	if subtle.ConstantTimeCompare([]byte(r.Header.Get(TokenHeader)), []byte(m.token)) != 1 {
		http.Error(w, "the control token is missing or wrong", http.StatusForbidden)
		return false
	}
	return true
}

// localOnly turns away requests for another host's name, which is how a web page
// elsewhere would reach a loopback address.
func localOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if ip := net.ParseIP(strings.Trim(host, "[]")); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "this page is for this machine only", http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
		w.Header().Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

func (m *Manager) servePage(w http.ResponseWriter, r *http.Request) {
	usage, err := m.Usage(r.Context())
	trouble := ""
	if err != nil {
		trouble = err.Error()
	}
	var page strings.Builder
	if err := statusPage.Execute(&page, struct {
		Status
		Usage     Usage
		Trouble   string
		ShowNames bool
	}{m.Status(), usage, trouble, m.config.ShowNames}); err != nil {
		m.log.Error("the status page cannot be made", "error", err)
		http.Error(w, "the status page cannot be made; see the log", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write([]byte(page.String()))
}

// Status tells how the Manager is doing.
func (m *Manager) Status() Status {
	buffered, counts := m.buffer.State(), m.ingest.Counts()
	principals, undeposited := m.people.Count()
	s := Status{
		ManagerID: m.id.String(), AccountID: m.config.AccountID.String(),
		Started: m.started.UTC(), Now: time.Now().UTC(), AgentsAddress: m.AgentsAddress(),
		Platform: m.platformState(), Backlog: m.backlog(),
		People: PeopleStatus{principals, undeposited},
		Ingest: IngestStatus{counts.Frames, counts.Records, counts.Repeated, counts.Refused, counts.Live, counts.LiveDropped},
		Buffer: BufferStatus{
			ID: buffered.ID.String(), FirstPosition: buffered.FirstPosition, LastPosition: buffered.LastPosition,
			UsedBytes: buffered.UsedBytes, MaxBytes: buffered.MaxBytes, FreeBytes: buffered.FreeBytes, Stall: buffered.Stall,
			Commits: buffered.Stats.Commits, Losses: buffered.Losses, Percent: 100 * buffered.UsedBytes / max(1, buffered.MaxBytes),
		},
	}
	if current, _ := m.policy.Current(); current != nil {
		s.Policy = PolicyStatus{Known: true, Revision: current.GetRevision(), Applications: len(current.GetApplications())}
	}
	s.Policy.PutBack = m.policy.PutBack()
	for _, a := range m.ingest.Agents() {
		s.Agents = append(s.Agents, AgentStatus{
			AgentID: a.AgentID.String(), HostName: a.HostName, OperatingSystem: a.OperatingSystem, Version: a.Version,
			Connected: a.Connected, LastFrame: a.LastFrame, Records: a.Records, Refused: a.Refused, LastRefusal: a.LastRefusal,
			SkewSeconds: float64(a.SkewMillis) / 1000, PolicyRevision: a.PolicyRevision, JournalBytes: a.JournalBytes,
			Unacknowledged: a.Unacknowledged, Unsupported: a.Unsupported, Paused: a.Paused,
			Plugins: unwell(a.Plugins, a.PluginReleases), ManagerProblem: a.ManagerProblem, PolicyProblem: a.PolicyProblem, Copied: a.Copied,
			Release: releaseStatus(a.Release),
		})
	}
	slices.SortFunc(s.Agents, func(a, b AgentStatus) int {
		return cmp.Or(strings.Compare(a.HostName, b.HostName), strings.Compare(a.AgentID, b.AgentID))
	})
	s.Releases = m.releases.List()
	s.Alarms = m.alarms(&s)
	return s
}

// What of alarms the platform is told: a line of each is enough to know where to look.
const (
	alarmsTold     = 32
	alarmTextBytes = 1024
)

// stateToTell is what the platform is told of how the Manager is doing.
func (m *Manager) stateToTell() *agentv1.ManagerState {
	status := m.Status()
	state := &agentv1.ManagerState{
		Version: m.deps.Version[:min(len(m.deps.Version), 64)], StartUtcMillis: status.Started.UnixMilli(),
		BufferBytes: status.Buffer.UsedBytes, BufferMaxBytes: status.Buffer.MaxBytes, Backlog: status.Backlog,
	}
	for _, a := range status.Agents {
		if a.Connected {
			state.ConnectedAgents++
		}
	}
	for _, alarm := range status.Alarms[:min(len(status.Alarms), alarmsTold)] {
		text := strings.ToValidUTF8(alarm.Text[:min(len(alarm.Text), alarmTextBytes)], "")
		state.Alarms = append(state.Alarms, &agentv1.ManagerAlarm{Code: alarm.What, Text: text})
	}
	return state
}

func (m *Manager) platformState() string {
	switch nc := m.platform.Load(); {
	case m.deps.Platform == nil:
		return "not configured"
	case nc != nil && nc.IsConnected():
		return "connected"
	case m.refused.Load() != nil:
		return "refused"
	}
	return "unreachable"
}

// lagPatience is for how long a replica of the platform that lags is no alarm.
const lagPatience = 30 * time.Second

// alarms also fills in the lanes, which it looks through anyway.
func (m *Manager) alarms(s *Status) []Alarm {
	alarms := []Alarm{}
	if s.Buffer.Stall != "" {
		alarms = append(alarms, Alarm{"BUFFER_STALLED", s.Buffer.Stall})
	} else if s.Buffer.Percent >= 80 {
		alarms = append(alarms, Alarm{"BUFFER_NEARLY_FULL", fmt.Sprintf("the buffer is %d %% full; at its bound agents are asked to wait", s.Buffer.Percent)})
	}
	for _, l := range s.Buffer.Losses {
		if l.Acknowledged.IsZero() {
			alarms = append(alarms, Alarm{"BUFFER_DAMAGED", fmt.Sprintf("positions %d to %d were acknowledged to agents and are missing (found %s): %s. Once you have seen to it, `cetrus-manager acknowledge` ends this alarm", l.From, l.To, l.Found.Format(time.RFC3339), l.Reason)})
		}
	}
	for _, l := range m.forwarder.State() {
		lane := strings.ToLower(strings.TrimPrefix(l.Lane.String(), "LANE_"))
		s.Forward = append(s.Forward, LaneStatus{lane, string(l.Phase), l.Trouble, l.Cursor, l.Level, l.Published, l.Rewinds, l.LastPublished})
		if l.Phase == forward.PhaseStopped {
			alarms = append(alarms, Alarm{"TAKEOVER_NEEDED", lane + ": " + l.Trouble + ". If this Manager is the one that should go on, run `cetrus-manager takeover`"})
		}
		for _, loss := range l.Lost {
			alarms = append(alarms, Alarm{"PLATFORM_LOST_DATA", fmt.Sprintf("%s: positions %d to %d: %s", lane, loss.From, loss.To, loss.Reason)})
		}
	}
	if b := s.Policy.PutBack; b != nil && (b.Believed || time.Since(b.Since) > lagPatience) {
		text := fmt.Sprintf("since %s the platform answers with the policy of revision %d, which comes before revision %d that this Manager had from it, as when it was put back from a backup. ", b.Since.Format(time.RFC3339), b.Revision, b.Mirrored)
		if b.Believed {
			text += "Agents got it as the newest: look at the account's applications and settings, and decide again what is missing. Once you have seen to it, `cetrus-manager acknowledge` ends this alarm"
		} else {
			text += "Agents keep the mirrored one until that has lasted for two minutes and the stream's leader says the same"
		}
		alarms = append(alarms, Alarm{"PLATFORM_PUT_BACK", text})
	}
	if forbidden := m.forbidden.Load(); forbidden != nil {
		alarms = append(alarms, Alarm{"PLATFORM_FORBIDS", fmt.Sprintf("the platform forbids what this Manager needs, and gets no data: %s. Check that account_id %s is the platform's, and that the Manager was added there", *forbidden, m.config.AccountID)})
	}
	if r := m.refused.Load(); r != nil {
		alarms = append(alarms, Alarm{"PLATFORM_REFUSES", fmt.Sprintf("since %s the platform has refused this Manager %d times: %s. It was revoked there, or its key or password is not known there: ask an administrator of the account. What agents send is kept here until the buffer is full, and then by them",
			r.since.UTC().Format(time.RFC3339), r.times, r.text)})
	}
	if alarm, there := m.certificates.alarm(time.Now()); there {
		alarms = append(alarms, alarm)
	}
	if m.enrolled != nil {
		if text := m.enrolled.Alarm(); text != "" {
			alarms = append(alarms, Alarm{"CERTIFICATE", text})
		}
	}
	for _, r := range s.Releases {
		if r.Damaged {
			alarms = append(alarms, Alarm{"RELEASE_DAMAGED", fmt.Sprintf("%v is held: %s. `cetrus-manager release add` with the vendor's file mends it; find out who or what changed %s", r.Manifest, r.Held, r.File)})
		} else if r.Held != "" && r.Failed > 0 {
			alarms = append(alarms, Alarm{"RELEASE_HELD", fmt.Sprintf("%v is held: %s. `cetrus-manager release withdraw %s` takes it back, `… go-on` offers it all the same", r.Manifest, r.Held, r.File)})
		}
	}
	for _, a := range s.Agents {
		if a.Copied != "" {
			alarms = append(alarms, Alarm{"AGENT_COPIED", fmt.Sprintf("agent %s: %s. Make an image clean before it is copied, by `cetrus-agent generalize`", a.AgentID, a.Copied)})
		}
	}
	skewed, refused := 0, 0
	last := ""
	for _, a := range s.Agents {
		if a.Refused > 0 {
			refused++
			last = a.HostName + ": " + a.LastRefusal
		}
		if a.SkewSeconds > 120 || a.SkewSeconds < -120 {
			skewed++
		}
	}
	if skewed > 0 {
		alarms = append(alarms, Alarm{"CLOCKS", "more than two minutes away from this machine's are the clocks of " + agents(skewed)})
	}
	if refused > 0 {
		alarms = append(alarms, Alarm{"REFUSED", fmt.Sprintf("frames of %s were refused, within a day and not acknowledged since, and stay in their journals; for one, %s", agents(refused), last)})
	}
	return alarms
}

func agents(n int) string {
	if n == 1 {
		return "1 agent"
	}
	return fmt.Sprintf("%d agents", n)
}

// Usage tells who has what open, and recent use of the last day.
func (m *Manager) Usage(ctx context.Context) (Usage, error) {
	lines, level, err := m.usage.lines(ctx, time.Now())
	if err != nil {
		return Usage{}, err
	}
	names := m.applicationNames()
	u := Usage{Complete: level, Live: []LiveLine{}, Recent: []UseLine{}}
	for _, l := range lines {
		u.Recent = append(u.Recent, UseLine{
			Application: nameOf(names, l.Application), Person: m.personName(l.Principal),
			BusySeconds: l.Busy.Seconds(), OpenSeconds: l.Open.Seconds(), Busy: humanDuration(l.Busy), Open: humanDuration(l.Open),
		})
	}
	for _, session := range m.ingest.Live() {
		principal, _ := contract.IDFrom(session.Snapshot.GetPrincipalId())
		for _, open := range session.Snapshot.GetOpen() {
			application, _ := contract.IDFrom(open.GetApplicationId())
			u.Live = append(u.Live, LiveLine{
				Application: nameOf(names, application), Person: m.personName(principal),
				Machine: session.Snapshot.GetMachine().GetHostName(), State: stateName(open.GetState()),
				Since: time.UnixMilli(open.GetSinceUtcMillis()).UTC(),
			})
		}
	}
	slices.SortFunc(u.Live, func(a, b LiveLine) int {
		return cmp.Or(strings.Compare(a.Application, b.Application), strings.Compare(a.Person, b.Person), strings.Compare(a.Machine, b.Machine), a.Since.Compare(b.Since))
	})
	return u, nil
}

func (m *Manager) applicationNames() map[contract.ID]string {
	names := make(map[contract.ID]string)
	current, _ := m.policy.Current()
	for _, a := range current.GetApplications() {
		if id, err := contract.IDFrom(a.GetApplicationId()); err == nil {
			names[id] = a.GetDisplayName()
		}
	}
	return names
}

func nameOf(names map[contract.ID]string, id contract.ID) string {
	if name := names[id]; name != "" {
		return name
	}
	return shortID(id.String())
}

func (m *Manager) personName(principal contract.ID) string {
	if principal.IsZero() {
		return "unknown"
	}
	if m.config.ShowNames {
		if sealed := m.people.PersonName(principal); sealed != nil {
			if name, err := m.people.Open(sealed); err == nil {
				return name
			}
		}
	}
	return "person " + shortID(principal.String())
}

func stateName(s usagev1.State) string {
	switch s {
	case usagev1.State_STATE_ACTIVE:
		return "Active"
	case usagev1.State_STATE_INACTIVE:
		return "Inactive"
	case usagev1.State_STATE_TIMEOUT:
		return "Timeout"
	case usagev1.State_STATE_UNSPECIFIED:
	}
	return "Unknown"
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v)
}

func shortID(id string) string { return id[:min(8, len(id))] }

func humanBytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, names := n, "KMGTP"
	i := 0
	for value >= unit*unit && i < len(names)-1 {
		value /= unit
		i++
	}
	return fmt.Sprintf("%d.%d %ciB", value/unit, value%unit*10/unit, names[i])
}

func humanAgo(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return humanDuration(time.Since(t)) + " ago"
}

func humanDuration(d time.Duration) string {
	d = max(0, d).Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}
