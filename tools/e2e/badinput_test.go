package e2e

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

const tenYears = 10 * 365 * 24 * time.Hour

// TestBadInputIsToldNeverSilent feeds a running system what it must not take, one
// after the other. Each is told, by a refusal, a line of a log, an alarm or a count
// with its reason, and after each good data goes on being counted.
func TestBadInputIsToldNeverSilent(t *testing.T) {
	t.Parallel()
	s := startPlatform(t)
	account := mustID(t, s.where().AccountID)
	m := s.startManager(account)
	if _, err := s.api.CreateApplication(t.Context(), &meteringv1.Application{
		DisplayName: "Drafting", Rules: []*meteringv1.Rule{{Executable: "draft"}},
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the Manager to know the application", func() error {
		if n := m.status().Policy.Applications; n != 1 {
			return errors.New("it does not")
		}
		return nil
	})
	policy := s.countsGood(m)
	step := func(name string, bad func(t *testing.T)) {
		began := time.Now()
		if !t.Run(name, bad) {
			t.FailNow() // what follows builds on it
		}
		if err := m.process.Failure(); err != nil {
			t.Fatal(err)
		}
		s.countsGood(m)
		t.Logf("%s: %v", name, time.Since(began).Round(time.Millisecond))
	}

	step("malformed record", func(t *testing.T) {
		a := meet(t, m.agents, 0)
		// A Manager does not look into records; the good ones around it are counted.
		a.send(a.record(0, nil), []byte{0xff, 0xff, 0xff}, a.record(2, closing(2)))
		s.quarantined(contract.ReasonMalformed, 1)
		s.busy(a.instance, 2*time.Second)
	})
	step("malformed frame", func(t *testing.T) {
		a := meet(t, m.agents, 0)
		f := a.frame(a.record(0, nil))
		f.ChainAfter[5] ^= 1
		a.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Frame{Frame: f}})
		is(t, a.refused(), contract.ReasonBrokenChain, "hash")
		m.logged("refused", contract.ReasonBrokenChain)
	})
	step("unknown version", func(t *testing.T) {
		a := meet(t, m.agents, 0)
		a.send(a.record(0, nil), a.record(1, func(e *usagev1.UsageEvent) { e.SchemaVersion = 99 }), a.record(2, closing(2)))
		s.quarantined(contract.ReasonUnknownVersion, 1)
		s.busy(a.instance, 2*time.Second)
		is(t, strange(t, m.agents, func(h *agentv1.Hello) { h.ProtocolVersion = 99 }), contract.ReasonUnknownVersion, "version 99")
		m.logged("refused", "version 99")
	})
	step("clock ten years off", func(t *testing.T) {
		for _, off := range []time.Duration{tenYears, -tenYears} {
			a := meet(t, m.agents, off)
			a.send(a.record(0, nil))
		}
		s.quarantined(contract.ReasonClockOutOfRange, 2)
		m.alarmed("CLOCKS", "2 agents")
		eventually(t, time.Minute, "the skew among the data's quality", func() error {
			quality, err := s.quality()
			for _, a := range quality.GetAgents() {
				if a.GetSkew().AsDuration() > tenYears-time.Hour {
					return nil
				}
			}
			return errors.Join(err, errors.New("no agent is that far off"))
		})
	})
	step("frame twice the limit", func(t *testing.T) {
		a := meet(t, m.agents, 0)
		is(t, a.sendRefused(make([]byte, 2*contract.MaxFrameBytes)), contract.ReasonTooLarge, "bytes; the limit is")
		many := make([][]byte, 2*contract.MaxFrameRecords)
		for i := range many {
			many[i] = a.record(i, nil)
		}
		is(t, a.sendRefused(many...), contract.ReasonTooLarge, "2000 records; the limit is 1000")
		m.logged("refused", contract.ReasonTooLarge)
		m.alarmed("REFUSED", "were refused")
		// The stream goes on for what is good.
		a.send(a.record(0, nil), a.record(1, closing(1)))
		s.busy(a.instance, time.Second)
	})
	step("foreign agent", func(t *testing.T) {
		other := newID()
		is(t, strange(t, m.agents, func(h *agentv1.Hello) { h.AccountId = other[:] }), contract.ReasonForeignAccount, account.String())
		m.logged("refused", contract.ReasonForeignAccount)
	})
	step("foreign Manager", func(t *testing.T) { s.foreignManager(t, account, mustID(t, m.status().ManagerID)) })
	step("Manager of a foreign account", func(t *testing.T) {
		stranger := s.startManager(newID())
		a := &fakeAgent{t: t, agent: newID(), machine: newID()}
		a.dial(stranger.agents)
		a.say(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: a.hello()}})
		a.hear("a welcome", func(m *agentv1.ConnectResponse) bool { return m.GetWelcome() != nil })
		stranger.logged("level=ERROR", "the platform forbids", "Permissions Violation")
		stranger.alarmed("PLATFORM_FORBIDS", "account_id")
		stranger.stop()
	})
	step("truncated journal", func(t *testing.T) { s.truncatedJournal(t, m, policy) })
	step("truncated buffer", func(t *testing.T) {
		m.stop()
		cut(t, filepath.Join(m.data), ".blk")
		m.start()
		m.logged("acknowledged messages are missing")
		m.alarmed("BUFFER_DAMAGED", "were acknowledged to agents and are missing")
	})

	// The platform lives, and the reasons are still there for whoever asks later.
	for reason, count := range map[string]int64{
		contract.ReasonMalformed: 1, contract.ReasonUnknownVersion: 1, contract.ReasonClockOutOfRange: 2,
		contract.ReasonForeignAccount: 1, contract.ReasonForeignManager: 1, contract.ReasonTooLarge: 1,
	} {
		s.quarantined(reason, count)
	}
}

// countsGood has a good agent send a little, and waits until it is counted. It
// gives the policy that the agent was told.
func (s *deployment) countsGood(m *service) *policyv1.Policy {
	s.t.Helper()
	a := meet(s.t, m.agents, 0)
	a.send(a.record(0, nil), a.record(1, closing(1)))
	s.busy(a.instance, time.Second)
	return a.policy
}

// busy waits until an instance is closed and was busy for so long.
func (s *deployment) busy(instance contract.ID, want time.Duration) {
	s.t.Helper()
	eventually(s.t, time.Minute, "good data to be counted", func() error {
		list := &meteringv1.ListInstancesResponse{}
		if err := s.api.Get(s.t.Context(), "/v1/instances", url.Values{"page_size": {"1000"}}, list); err != nil {
			return err
		}
		for _, i := range list.GetInstances() {
			if i.GetInstanceId() == instance.String() && i.GetCloseTime() != nil && i.GetTotals().GetBusy().AsDuration() == want {
				return nil
			}
		}
		return errors.New("the instance is not there, or its time is not")
	})
}

func is(t *testing.T, r *agentv1.Refusal, reason, text string) {
	t.Helper()
	if r.GetReason() != reason || !strings.Contains(r.GetMessage(), text) {
		t.Fatalf("refused for %s: %q; wanted is %s: %q", r.GetReason(), r.GetMessage(), reason, text)
	}
}

// foreignManager talks to the platform with a Manager's own password, and tries
// what is not its own.
func (s *deployment) foreignManager(t *testing.T, account, neighbour contract.ID) {
	own := newID()
	access := s.admit(own.String())
	violations := make(chan error, 16)
	var nc *nats.Conn
	eventually(t, 15*time.Second, "the Manager to be let in", func() (err error) {
		nc, err = nats.Connect(access, nats.CustomInboxPrefix(contract.ManagerInbox(own)), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			select {
			case violations <- err:
			default:
			}
		}))
		return err
	})
	defer nc.Close()
	lane := usagev1.Lane_LANE_USAGE
	publish := func(subject string, batch *usagev1.AgentBatch) error {
		data, err := proto.Marshal(batch)
		if err != nil {
			t.Fatal(err)
		}
		message := nats.NewMsg(subject)
		message.Data = data
		message.Header.Set(contract.HeaderType, contract.AgentBatchType)
		_, err = nc.RequestMsg(message, 2*time.Second)
		return err
	}
	batch := func(account, manager contract.ID) *usagev1.AgentBatch {
		return &usagev1.AgentBatch{AccountId: account[:], ManagerId: manager[:]}
	}
	other := newID()
	for _, subject := range []string{
		contract.AgentSubject(account, neighbour, lane), contract.AgentSubject(other, own, lane),
		contract.EventSubject(account, "metering", "application", other.String()), contract.LiveSubject(account, neighbour),
	} {
		if err := nc.Publish(subject, []byte("x")); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-violations:
			if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), subject) {
				t.Errorf("publishing on %s: %v", subject, err)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("publishing on %s is not refused", subject)
		}
	}
	mine := contract.AgentSubject(account, own, lane)
	if err := publish(mine, batch(other, own)); err != nil {
		t.Fatal(err)
	}
	s.quarantined(contract.ReasonForeignAccount, 1)
	if err := publish(mine, batch(account, neighbour)); err != nil {
		t.Fatal(err)
	}
	s.quarantined(contract.ReasonForeignManager, 1)

	large := batch(account, own)
	large.Frames = []*usagev1.ReceivedFrame{{Frame: make([]byte, contract.MaxBatchBytes)}}
	if err := publish(mine, large); err != nil {
		t.Fatal(err)
	}
	s.quarantined(contract.ReasonTooLarge, 1)
	large.Frames = append(large.Frames, large.Frames[0])
	if err := publish(mine, large); !errors.Is(err, nats.ErrMaxPayload) {
		t.Errorf("a batch twice the limit: %v", err)
	}
	stranger, err := nats.Connect("nats://" + s.where().NATS)
	if err == nil {
		stranger.Close()
	}
	if !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("connecting without a password: %v", err)
	}
}

// truncatedJournal cuts a real agent's journal short while it is offline.
func (s *deployment) truncatedJournal(t *testing.T, m *service, policy *policyv1.Policy) {
	dir := filepath.Join(t.TempDir(), "agent")
	var log lines
	run := func(manager string, drain bool, steps ...scripted.Step) {
		t.Helper()
		seed := newID()
		desk := scripted.New(scripted.Config{
			Host: desktop.Host{Name: "cut", OperatingSystem: "Linux"}, Script: scripted.Steps(steps...),
			Begin: time.Now().Add(-time.Hour), Booted: time.Minute, Seed: [32]byte(bytes.Repeat(seed[:], 2)), Period: time.Second,
		})
		defer desk.Close()
		a, err := agent.New(agent.Config{
			DataDir: dir, Managers: []string{manager}, Version: "test", ControlSocket: agent.NoControl, Drain: drain,
		}, agent.Deps{Desktop: desk, Policy: policy, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := a.Run(ctx); err != nil || ctx.Err() != nil {
			t.Fatalf("the agent: %v\n%s", errors.Join(err, ctx.Err()), log.text())
		}
	}
	day := []scripted.Step{{Do: scripted.LogOn{User: activity.User{Domain: "CUT", Name: "person"}}}}
	for n := range 20 {
		at := time.Duration(n) * time.Minute
		day = append(day,
			scripted.Step{At: at, Do: scripted.Start{PID: 100, Path: "/opt/draft"}},
			scripted.Step{At: at + time.Second, Do: scripted.Show{ID: 1, PID: 100, Class: "draft"}},
			scripted.Step{At: at + 2*time.Second, Do: scripted.Focus{ID: 1}},
			scripted.Step{At: at + 3*time.Second, Do: scripted.Inputs{For: 10 * time.Second, Every: time.Second}},
			scripted.Step{At: at + 20*time.Second, Do: scripted.Exit{PID: 100}},
		)
	}
	day = append(day, scripted.Step{At: 21 * time.Minute, Do: scripted.LogOff{}})
	before, err := s.quality()
	if err != nil {
		t.Fatal(err)
	}
	run(freeAddress(t), false, day...)
	cut(t, filepath.Join(dir, "usage"), ".seg")
	run(m.agents, true, scripted.Step{Do: scripted.LogOn{User: activity.User{Domain: "CUT", Name: "person"}}}, scripted.Step{At: time.Second, Do: scripted.LogOff{}})
	if said := log.text(); !strings.Contains(said, "the journal was damaged") && !strings.Contains(said, "was torn by a crash") {
		t.Errorf("the agent does not tell that its journal was cut:\n%s", said)
	}
	eventually(t, time.Minute, "what could be read to be counted", func() error {
		after, err := s.quality()
		if err == nil && after.GetEventsCounted() < before.GetEventsCounted()+10 {
			err = errors.New("it is not")
		}
		return err
	})
	t.Log(log.text())
}

// lines is a log in memory.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// cut takes away the second half of the largest file of a kind below a folder.
func cut(t *testing.T, dir, ending string) {
	t.Helper()
	var largest string
	var size int64
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ending) {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Size() > size {
			largest, size = path, info.Size()
		}
		return err
	})
	if err == nil && largest == "" {
		err = errors.New("there is no file " + ending)
	}
	if err == nil {
		err = os.Truncate(largest, size/2)
	}
	if err != nil {
		t.Fatal(err)
	}
}
