package fleet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/uplink"
	"github.com/cetrus/cetrus/manager"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

func draft() *policyv1.Policy {
	id := func(n byte) []byte { return append(make([]byte, 15), n) }
	return &policyv1.Policy{AccountId: id(1), Revision: 1, DocumentKey: make([]byte, 32), Applications: []*policyv1.ApplicationPolicy{{
		ApplicationId: id(100), DisplayName: "Draft", Rules: []*policyv1.Rule{{RuleId: id(200), Executable: "draft"}},
		ActivityGap: durationpb.New(30 * time.Second), Timeout: durationpb.New(30 * time.Minute), InstanceScope: policyv1.InstanceScope_INSTANCE_SCOPE_PROCESS_TREE,
	}}}
}

// office is a Manager without a platform.
type office struct {
	t *testing.T
	*manager.Manager
	stop func()
}

func runManager(t *testing.T, config manager.Config) *office {
	t.Helper()
	config.AccountID, config.StatusAddress = contract.ID{15: 1}, "127.0.0.1:0"
	m, err := manager.New(config, manager.Deps{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	o := &office{t: t, Manager: m}
	var once atomic.Bool
	o.stop = func() {
		if once.Swap(true) {
			return
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(o.stop)
	return o
}

// look has the Manager look at its files, as whoever connects does.
func (o *office) look(t *testing.T, ca string) {
	t.Helper()
	text, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	conn, err := (&tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}}).DialContext(t.Context(), "tcp", o.AgentsAddress())
	if err == nil {
		_ = conn.Close()
	}
}

func (o *office) alarm(what string) string {
	for _, a := range o.Status().Alarms {
		if a.What == what {
			return a.Text
		}
	}
	return ""
}

func (o *office) connected() int {
	n := 0
	for _, a := range o.Status().Agents {
		if a.Connected {
			n++
		}
	}
	return n
}

// Agent and Manager speak TLS 1.3 with certificates on both sides from files, go on over
// new ones without a restart, and say what is wrong with bad ones.
func TestCertificatesAreRenewed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	ca, next := newAuthority(t), newAuthority(t)
	trust := func(who ...*authority) {
		text := []byte(nil)
		for _, a := range who {
			put(t, file("one"), "CERTIFICATE", a.cert.Raw)
			one, err := os.ReadFile(file("one"))
			if err != nil {
				t.Fatal(err)
			}
			text = append(text, one...)
		}
		if err := os.WriteFile(file("ca.pem"), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trust(ca)
	ca.issue(file("manager.pem"), file("manager.key"), time.Hour)
	ca.issue(file("agent.pem"), file("agent.key"), time.Hour)
	m := runManager(t, manager.Config{
		DataDir: file("manager"), AgentsAddress: "127.0.0.1:0",
		TLS: manager.TLSConfig{Certificate: file("manager.pem"), Key: file("manager.key"), ClientCA: file("ca.pem")},
	})
	if text := m.alarm("CERTIFICATE"); !strings.Contains(text, "expires on") {
		t.Errorf("a certificate for an hour is no alarm: %q", text)
	}

	s := &site{t: t, agents: m.AgentsAddress(), policy: draft(), truth: map[contract.ID]*usagev1.UsageEvent{}}
	s.uplink.TLS = uplink.TLSFiles{CA: file("ca.pem"), Certificate: file("agent.pem"), Key: file("agent.key")}
	seat := s.seat("ws", machine("ws"))
	var leaving atomic.Bool
	running, ended := make(chan *agent.Agent, 1), make(chan error, 1)
	go func() { ended <- seat.stay(&leaving, func(a *agent.Agent) { running <- a }) }()
	a := <-running
	records := func() (n uint64) {
		for _, agent := range m.Status().Agents {
			n += agent.Records
		}
		return n
	}
	goesOn := func() {
		t.Helper()
		before := records()
		s.await("records go on to come", func() error {
			if n := records(); n <= before {
				return fmt.Errorf("%d have come; the agent says %q", n, a.Status().Manager.Problem)
			}
			return nil
		})
	}
	goesOn()
	since := *a.Status().Manager.Since

	// The site's authority is replaced: trusted beside the old one first, then used.
	trust(ca, next)
	next.issue(file("manager.pem"), file("manager.key"), 30*24*time.Hour)
	next.issue(file("agent.pem"), file("agent.key"), time.Hour)
	s.await("the Manager has the renewed certificate", func() error {
		m.look(t, file("ca.pem"))
		if text := m.alarm("CERTIFICATE"); text != "" {
			return errors.New(text)
		}
		return nil
	})
	goesOn()
	if now := a.Status().Manager; !now.Since.Equal(since) {
		t.Errorf("renewing cut the connection of %v: it is of %v", since, now.Since)
	}
	trust(next)
	other := s.seat("other", machine("other"))
	go func() { ended <- other.stay(&leaving, nil) }()
	s.await("a second agent is connected under the new authority", func() error {
		if n := m.connected(); n != 2 {
			return fmt.Errorf("%d are connected", n)
		}
		return nil
	})

	// Half of a renewal does no harm.
	ca.issue(file("manager.pem"), file("unused.key"), time.Hour)
	s.await("the Manager tells of it", func() error {
		m.look(t, file("ca.pem"))
		if text := m.alarm("CERTIFICATE"); !strings.Contains(text, "the ones before hold") {
			return fmt.Errorf("the alarm is %q", text)
		}
		return nil
	})
	goesOn()
	leaving.Store(true)
	for range 2 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if n := len(s.truth); uint64(n) > records() {
		t.Errorf("%d records were journalled, %d have come", n, records())
	}
}

// A Manager that moves to another address, and another settings file: what was recorded
// in between is sent from the same journal.
func TestManagerMoves(t *testing.T) {
	t.Parallel()
	old := runManager(t, manager.Config{DataDir: t.TempDir(), AgentsSecurity: manager.Plaintext, AgentsAddress: "127.0.0.1:0"})
	s := &site{t: t, agents: old.AgentsAddress(), policy: draft(), truth: map[contract.ID]*usagev1.UsageEvent{}}
	seat := s.seat("ws", machine("ws"))
	seat.work("ada", 9, false)
	came := old.Status().Ingest.Records
	old.stop()
	seat.work("ada", 8, true)
	next := runManager(t, manager.Config{DataDir: t.TempDir(), AgentsSecurity: manager.Plaintext, AgentsAddress: "127.0.0.1:0"})
	s.agents = next.AgentsAddress()
	seat.work("ada", 7, false)
	if n := came + next.Status().Ingest.Records; n != uint64(len(s.truth)) {
		t.Errorf("%d records have come to the two, %d were journalled", n, len(s.truth))
	}
}
