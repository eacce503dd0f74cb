package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// Two users of any Linux who are nobody's own.
const (
	daemonUID = 1
	nobodyUID = 65534
)

// openSocket is a place that everybody reaches, which the data directory is not.
func openSocket(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "cetrus-people-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	return filepath.Join(dir, "run", "control.sock")
}

// dialAs connects to a socket as another user: the kernel notes the user of the thread
// that connects.
func dialAs(tb testing.TB, uid int, socket string) net.Conn {
	tb.Helper()
	type dialled struct {
		conn net.Conn
		err  error
	}
	done := make(chan dialled)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			done <- dialled{nil, errno}
			return
		}
		conn, err := net.Dial("unix", socket)
		done <- dialled{conn, err}
	}()
	d := <-done
	if d.err != nil {
		tb.Fatalf("as user %d: %v", uid, d.err)
	}
	return d.conn
}

// userOf is a user of this machine as its sessions name them.
func userOf(tb testing.TB, uid uint32) activity.User {
	tb.Helper()
	u, err := desktop.UserOf(tb.Context(), uid)
	if err != nil {
		tb.Fatal(err)
	}
	return u
}

// askAs asks the control socket as another user. It gives the answer's code and text, and
// the status in it where it is one.
func askAs(tb testing.TB, uid int, socket, method, path string, question any) (code int, text string, s agent.Status) {
	tb.Helper()
	conn := dialAs(tb, uid, socket)
	defer conn.Close()
	body, err := json.Marshal(question)
	if err != nil {
		tb.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
	request, err := http.NewRequestWithContext(tb.Context(), method, "http://agent"+path, bytes.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		tb.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		tb.Fatal(err)
	}
	if response.StatusCode == http.StatusOK {
		if err := json.Unmarshal(answer, &s); err != nil {
			tb.Fatal(err)
		}
	}
	return response.StatusCode, string(answer), s
}

// Each of two people sees and pauses their own use only, and root everybody's; what they
// chose outlives a restart, and only the reason's code is journalled.
func TestEachPersonTheirOwn(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can ask as somebody else")
	}
	o := newOffice(t)
	script := scripted.Steps(
		scripted.Step{Session: "one", Do: scripted.LogOn{User: userOf(t, daemonUID)}},
		scripted.Step{Session: "one", Do: scripted.Start{PID: 10, Path: "/usr/bin/editor"}},
		scripted.Step{Session: "two", Do: scripted.LogOn{User: userOf(t, nobodyUID)}},
		scripted.Step{Session: "two", Do: scripted.Start{PID: 11, Path: "/usr/bin/calc"}},
	)
	d := scripted.New(scripted.Config{Script: script, Begin: begin, Pace: scripted.Real(), Endless: true})
	defer d.Close()
	socket := openSocket(t)
	allowing := policy(1, "editor", "calc")
	allowing.Person = &policyv1.PersonPolicy{
		PauseReasons:        []*policyv1.PauseReason{{Code: "private", Label: "Something private"}, {Code: "break", Label: "A break"}},
		PauseReasonRequired: true,
		Notice:              "The works council has agreed.",
	}
	start := func() (stop func()) {
		ctx, cancel := context.WithCancel(t.Context())
		a := o.agent(d, func(c *agent.Config, deps *agent.Deps) {
			c.Drain, c.ControlSocket, deps.Policy = false, socket, allowing
		})
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		waitFor(t, "it watches both", func() bool { return len(a.Status().Open) == 2 })
		waitFor(t, "it answers", func() bool {
			_, err := agent.NewControl(o.dir, socket).Status(t.Context())
			return err == nil
		})
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	stop := start()

	_, _, s := askAs(t, nobodyUID, socket, http.MethodGet, "/v1/status", nil)
	if len(s.Open) != 1 || s.Open[0].Application != "calc" || !s.Person.Watched || s.Person.Administrator || s.Person.User != "nobody" {
		t.Errorf("nobody is told %+v of %+v", s.Open, s.Person)
	}
	if !s.Person.Notice.Due || !strings.HasPrefix(s.Person.Notice.Text, "The works council has agreed.") || len(s.NeverRecorded) == 0 {
		t.Errorf("the notice: %+v", s.Person.Notice)
	}
	if _, _, s := askAs(t, 4711, socket, http.MethodGet, "/v1/status", nil); len(s.Open) != 0 || s.Person.Watched || s.Person.Notice.Due {
		t.Errorf("a stranger is told %+v of %+v", s.Open, s.Person)
	}
	for _, c := range []struct {
		uid      int
		question agent.PauseRequest
		says     string
	}{
		{nobodyUID, agent.PauseRequest{Everybody: true, Reason: "break"}, "only an administrator"},
		{nobodyUID, agent.PauseRequest{}, "give one of the reasons private, break"},
		{nobodyUID, agent.PauseRequest{Reason: "rain"}, "none of the reasons"},
		{nobodyUID, agent.PauseRequest{Reason: "break", Note: strings.Repeat("x", 201)}, "longer than"},
		{4711, agent.PauseRequest{Reason: "break"}, "nothing is recorded"},
		{0, agent.PauseRequest{Reason: "break"}, "--everybody"},
	} {
		if code, text, _ := askAs(t, c.uid, socket, http.MethodPost, "/v1/pause", c.question); code != http.StatusForbidden || !strings.Contains(text, c.says) {
			t.Errorf("%+v of user %d: %d %s, want 403 and %q", c.question, c.uid, code, text, c.says)
		}
	}

	code, text, s := askAs(t, nobodyUID, socket, http.MethodPost, "/v1/pause", agent.PauseRequest{Reason: "private", Note: "the doctor calls"})
	if code != http.StatusOK || s.Recording || len(s.Open) != 1 || s.Open[0].Attention != "paused" {
		t.Fatalf("the pause: %d %s", code, text)
	}
	if p := s.Person.Pause; p == nil || p.By != agent.ByPerson || p.Reason != "Something private" || p.Note != "the doctor calls" || time.Since(*p.Since) > time.Minute {
		t.Errorf("the pause is told as %+v", p)
	}
	if _, _, s := askAs(t, daemonUID, socket, http.MethodGet, "/v1/status", nil); !s.Recording || s.Open[0].Attention == "paused" {
		t.Errorf("the other's pause is theirs: %+v", s)
	}
	if _, text, s := askAs(t, 0, socket, http.MethodGet, "/v1/status", nil); len(s.Open) != 2 || strings.Contains(text, "doctor") {
		t.Errorf("root is told %s", text)
	}
	if code, text, s := askAs(t, nobodyUID, socket, http.MethodPost, "/v1/notice", agent.NoticeSeen{Version: s.Person.Notice.Version}); code != http.StatusOK || s.Person.Notice.Due || s.Person.Notice.Seen == nil {
		t.Errorf("after the notice: %d %s", code, text)
	}
	// Whoever has users to spare, as in a namespace of their own, fills no settings.
	if code, text, _ := askAs(t, 4711, socket, http.MethodPost, "/v1/notice", agent.NoticeSeen{Version: s.Person.Notice.Version}); code != http.StatusForbidden || !strings.Contains(text, "nothing is recorded") {
		t.Errorf("a stranger says to have seen the notice: %d %s", code, text)
	}
	stop()

	stop = start()
	if _, _, s := askAs(t, nobodyUID, socket, http.MethodGet, "/v1/status", nil); s.Person.Pause == nil || s.Person.Pause.Note != "the doctor calls" || s.Person.Notice.Due {
		t.Errorf("after a restart: %+v", s.Person)
	}
	if _, _, s := askAs(t, daemonUID, socket, http.MethodGet, "/v1/status", nil); s.Person.Pause != nil || !s.Person.Notice.Due {
		t.Errorf("after a restart, the other: %+v", s.Person)
	}
	if code, text, s := askAs(t, nobodyUID, socket, http.MethodPost, "/v1/resume", agent.PauseRequest{}); code != http.StatusOK || !s.Recording || s.Open[0].Attention == "paused" {
		t.Errorf("the resume: %d %s", code, text)
	}
	stop()

	stop = start()
	defer stop()
	waitFor(t, "the pause is journalled and sent", func() bool {
		for _, e := range o.manager.Usage() {
			if c := e.GetClosed(); c.GetAttention() == usagev1.Attention_ATTENTION_PAUSED && c.GetPauseReason() == "private" && c.GetReason() == usagev1.Reason_REASON_PAUSED_BY_PERSON {
				return true
			}
		}
		return false
	})
	for _, e := range o.manager.Usage() {
		if e.GetApplicationId()[15] == 100 && e.GetAttention() == usagev1.Attention_ATTENTION_PAUSED {
			t.Errorf("the other was paused: %v", e)
		}
	}
	files, err := filepath.Glob(filepath.Join(o.dir, "usage", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("the journal's files: %v, %v", files, err)
	}
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && bytes.Contains(text, []byte("doctor")) {
			t.Errorf("%s holds the person's own words", file)
		}
	}
}

// Where the settings are lost everybody counts as paused, and each goes on alone.
func TestLostSettingsPauseEverybody(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can ask as somebody else")
	}
	o := newOffice(t)
	d := scripted.New(scripted.Config{Begin: begin, Pace: scripted.Real(), Endless: true, Script: scripted.Steps(
		scripted.Step{Session: "one", Do: scripted.LogOn{User: userOf(t, daemonUID)}},
		scripted.Step{Session: "one", Do: scripted.Start{PID: 10, Path: "/usr/bin/editor"}},
		scripted.Step{Session: "two", Do: scripted.LogOn{User: userOf(t, nobodyUID)}},
		scripted.Step{Session: "two", Do: scripted.Start{PID: 11, Path: "/usr/bin/editor"}},
	)})
	defer d.Close()
	if err := os.WriteFile(filepath.Join(o.dir, "settings.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := openSocket(t)
	ctx, cancel := context.WithCancel(t.Context())
	a := o.agent(d, func(c *agent.Config, deps *agent.Deps) {
		c.Drain, c.ControlSocket, deps.Policy = false, socket, policy(1, "editor")
	})
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() { cancel(); <-done }()
	attentions := func() (all string) {
		for _, open := range a.Status().Open {
			all += open.User + " " + open.Attention + ", "
		}
		return all
	}
	waitFor(t, "both are paused", func() bool { return attentions() == "daemon paused, nobody paused, " })
	if code, text, s := askAs(t, nobodyUID, socket, http.MethodPost, "/v1/resume", nil); code != http.StatusOK || s.Person.Pause != nil {
		t.Errorf("the resume: %d %s", code, text)
	}
	if got := attentions(); got != "daemon paused, nobody background, " {
		t.Errorf("after one went on: %s", got)
	}
}

// A person is one, also where the directory of users calls them otherwise than the login
// manager did, or does not answer; and they press no button faster than a person can.
func TestOnePersonIsOne(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can ask as somebody else")
	}
	o := newOffice(t)
	d := scripted.New(scripted.Config{Begin: begin, Pace: scripted.Real(), Endless: true, Script: scripted.Steps(
		scripted.Step{Session: "one", Do: scripted.LogOn{User: activity.User{Domain: "CORP", Name: "ann", UID: strconv.Itoa(nobodyUID)}}},
		scripted.Step{Session: "one", Do: scripted.Start{PID: 10, Path: "/usr/bin/editor"}},
	)})
	defer d.Close()
	socket := openSocket(t)
	ctx, cancel := context.WithCancel(t.Context())
	a := o.agent(d, func(c *agent.Config, deps *agent.Deps) {
		c.Drain, c.ControlSocket, deps.Policy = false, socket, policy(1, "editor")
	})
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() { cancel(); <-done }()
	waitFor(t, "the editor is open", func() bool { return len(a.Status().Open) == 1 })
	if _, _, s := askAs(t, nobodyUID, socket, http.MethodGet, "/v1/status", nil); len(s.Open) != 1 || !s.Person.Watched || s.Person.User != "ann" {
		t.Errorf("ann is told %+v of %+v", s.Open, s.Person)
	}
	refused := 0
	for range 200 {
		switch code, text, _ := askAs(t, nobodyUID, socket, http.MethodPost, "/v1/pause", agent.PauseRequest{}); {
		case code == http.StatusTooManyRequests && strings.Contains(text, "too often"):
			refused++
		case code != http.StatusOK:
			t.Fatalf("a pause: %d %s", code, text)
		}
		if refused > 0 {
			break
		}
	}
	if refused == 0 {
		t.Error("a person may pause two hundred times on end")
	}
	if code, text, _ := askAs(t, 0, socket, http.MethodPost, "/v1/resume", agent.PauseRequest{Everybody: true}); code != http.StatusOK {
		t.Errorf("an administrator resumes: %d %s", code, text)
	}
}
