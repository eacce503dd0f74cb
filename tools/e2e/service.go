package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cetrus/cetrus/manager"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// service is a Manager of its own that a test stops and starts again.
type service struct {
	t        *testing.T
	binaries string
	data     string
	account  contract.ID
	agents   string // address
	statusAt string // address
	platform string // URL; empty: none
	log      string // file

	process *os.Process
	ended   chan struct{}
}

// where is what addresses.json says that the tests of stack.go do not need.
type where struct {
	NATS    string `json:"nats"`
	Account string `json:"account_id"`
}

func (s *stack) where() (w where) {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.platform, "addresses.json"))
	if err == nil {
		err = json.Unmarshal(text, &w)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	w.NATS = strings.TrimPrefix(w.NATS, "nats://")
	return w
}

// admit lets a Manager in, as an administrator would, and gives the URL of the
// platform with its user.
func (s *stack) admit(id string) string {
	s.t.Helper()
	out, err := exec.Command(filepath.Join(s.binaries, "cetrus"), "manager", "add", "--data-dir", s.platform, "--manager-id", id).Output()
	if err != nil {
		s.t.Fatalf("cetrus manager add: %v", err)
	}
	var access struct{ User, Password string }
	if err := json.Unmarshal(out, &access); err != nil {
		s.t.Fatalf("cetrus manager add: %v", err)
	}
	return (&url.URL{Scheme: "nats", User: url.UserPassword(access.User, access.Password), Host: s.where().NATS}).String()
}

// startManager starts a Manager of an account: first to learn its id, then with
// leave to forward.
func (s *stack) startManager(account contract.ID) *service {
	s.t.Helper()
	dir := s.t.TempDir()
	m := &service{
		t: s.t, binaries: s.binaries, data: filepath.Join(dir, "manager"), account: account,
		agents: freeAddress(s.t), statusAt: freeAddress(s.t), log: filepath.Join(dir, "log"),
	}
	s.t.Cleanup(func() {
		m.stop()
		if s.t.Failed() {
			s.t.Logf("the Manager of account %s said:\n%s", account, tail(m.said(), 60))
		}
	})
	m.start()
	id := m.status().ManagerID
	m.stop()
	m.platform = s.admit(id)
	m.start()
	return m
}

// start starts the Manager and waits until it answers.
func (m *service) start() {
	m.t.Helper()
	args := []string{
		"run", "--data-dir", m.data, "--account-id", m.account.String(), "--agents-address", m.agents,
		"--status-address", m.statusAt, "--max-buffer-bytes", "268435456",
	}
	if m.platform != "" {
		args = append(args, "--platform-url", m.platform)
	}
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(m.binaries, "cetrus-manager"), args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		// The child dies with the thread that started it, so this one stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(ended)
		defer func() { _ = log.Close() }()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		m.t.Fatal(err)
	}
	m.process, m.ended = cmd.Process, ended
	eventually(m.t, 30*time.Second, "the Manager to answer", func() error {
		_, err := m.ask(m.t.Context())
		return errors.Join(err, m.alive())
	})
}

// stop ends the Manager in good order.
func (m *service) stop() {
	if m.process == nil {
		return
	}
	_ = m.process.Signal(syscall.SIGTERM)
	select {
	case <-m.ended:
	case <-time.After(20 * time.Second):
		_ = m.process.Kill()
		<-m.ended
		m.t.Error("the Manager did not stop within 20 s")
	}
	m.process = nil
}

// alive tells whether the Manager runs, unless the test stopped it.
func (m *service) alive() error {
	select {
	case <-m.ended:
		return errors.New("the Manager ended by itself:\n" + tail(m.said(), 20))
	default:
		return nil
	}
}

// said is all that the Manager has logged.
func (m *service) said() string {
	text, _ := os.ReadFile(m.log)
	return string(text)
}

func (m *service) ask(ctx context.Context) (status manager.Status, err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.statusAt+"/api/v1/status", nil)
	if err != nil {
		return status, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return status, err
	}
	defer response.Body.Close()
	return status, json.NewDecoder(response.Body).Decode(&status)
}

func (m *service) status() manager.Status {
	m.t.Helper()
	status, err := m.ask(m.t.Context())
	if err != nil {
		m.t.Fatalf("the Manager's status: %v", err)
	}
	return status
}

// alarmed waits for an alarm whose text says something.
func (m *service) alarmed(what, text string) {
	m.t.Helper()
	eventually(m.t, 20*time.Second, "the alarm "+what, func() error {
		status, err := m.ask(m.t.Context())
		if err != nil {
			return err
		}
		for _, a := range status.Alarms {
			if a.What == what && strings.Contains(a.Text, text) {
				return nil
			}
		}
		return fmt.Errorf("alarms: %+v", status.Alarms)
	})
}

// logged waits for a line in the log that holds all the words.
func (m *service) logged(words ...string) {
	m.t.Helper()
	eventually(m.t, 20*time.Second, fmt.Sprintf("a line of the log with %q", words), func() error {
		for line := range strings.Lines(m.said()) {
			all := true
			for _, w := range words {
				all = all && strings.Contains(line, w)
			}
			if all {
				return nil
			}
		}
		return errors.New("there is none")
	})
}

// quality asks how far the figures can be trusted.
func (s *stack) quality() (*meteringv1.GetDataQualityResponse, error) {
	quality := &meteringv1.GetDataQualityResponse{}
	return quality, s.api.Get(s.t.Context(), "/v1/usage:dataQuality", nil, quality)
}

// quarantined waits until so much is set aside for a reason.
func (s *stack) quarantined(reason string, count int64) {
	s.t.Helper()
	eventually(s.t, 20*time.Second, fmt.Sprintf("%d set aside for %s", count, reason), func() error {
		quality, err := s.quality()
		if err != nil {
			return err
		}
		for _, q := range quality.GetQuarantined() {
			if q.GetReason() == reason && q.GetCount() == count && q.GetLastTime().IsValid() {
				return nil
			}
		}
		return fmt.Errorf("set aside: %v", quality.GetQuarantined())
	})
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}
