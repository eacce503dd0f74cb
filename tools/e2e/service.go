package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cetrus/cetrus/manager"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/ports"
	"github.com/cetrus/cetrus/tools/stack"
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

	process *stack.Process
}

// where is what the platform says of itself.
func (s *deployment) where() stack.Addresses {
	s.t.Helper()
	w, err := stack.ReadAddresses(s.platform, "all")
	if err != nil {
		s.t.Fatal(err)
	}
	w.NATS = strings.TrimPrefix(w.NATS, "nats://")
	return w
}

// admit lets a Manager in, as an administrator would, and gives the URL of the
// platform with its user.
func (s *deployment) admit(id string) string {
	s.t.Helper()
	url, err := stack.AdmitManager(s.t.Context(), filepath.Join(s.binaries, "cetrus"), s.platform, id, s.where().NATS)
	if err != nil {
		s.t.Fatal(err)
	}
	return url
}

// startManager starts a Manager of an account: first to learn its id, then with
// leave to forward.
func (s *deployment) startManager(account contract.ID) *service {
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
		"run", "--data-dir", m.data, "--account-id", m.account.String(), "--agents-address", m.agents, "--agents-security", "plaintext",
		"--status-address", m.statusAt, "--max-buffer-bytes", "268435456",
	}
	if m.platform != "" {
		args = append(args, "--platform-url", m.platform)
	}
	var err error
	m.process, err = stack.Start(stack.Command{Name: "the Manager", Path: filepath.Join(m.binaries, "cetrus-manager"), Args: args, Log: m.log})
	if err != nil {
		m.t.Fatal(err)
	}
	eventually(m.t, time.Minute, "the Manager to answer", func() error {
		_, err := m.ask(m.t.Context())
		return errors.Join(err, m.process.Failure())
	})
}

// stop ends the Manager in good order.
func (m *service) stop() {
	if m.process == nil {
		return
	}
	if err := m.process.Stop(20 * time.Second); err != nil {
		m.t.Error(err)
	}
	m.process = nil
}

// said is all that the Manager has logged.
func (m *service) said() string {
	text, _ := os.ReadFile(m.log)
	return string(text)
}

func (m *service) ask(ctx context.Context) (manager.Status, error) {
	return stack.ManagerStatus(ctx, m.statusAt)
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
	eventually(m.t, time.Minute, "the alarm "+what, func() error {
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
	eventually(m.t, time.Minute, fmt.Sprintf("a line of the log with %q", words), func() error {
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
func (s *deployment) quality() (*meteringv1.GetDataQualityResponse, error) {
	quality := &meteringv1.GetDataQualityResponse{}
	return quality, s.api.Get(s.t.Context(), "/v1/usage:dataQuality", nil, quality)
}

// quarantined waits until so much is set aside for a reason.
func (s *deployment) quarantined(reason string, count int64) {
	s.t.Helper()
	eventually(s.t, time.Minute, fmt.Sprintf("%d set aside for %s", count, reason), func() error {
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
	held, err := ports.Hold(1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(held.Release)
	return held.Addresses()[0]
}
