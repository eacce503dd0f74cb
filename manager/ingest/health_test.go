package ingest

import (
	"testing"
	"time"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// What changes in figures only is told once a minute, what changes in words at once.
func TestFiguresAreToldOnceAMinute(t *testing.T) {
	t.Parallel()
	s, a, now := &Server{}, &agent{id: contract.ID{1}}, time.Unix(1_800_000_000, 0)
	told := func(want bool, when string) {
		t.Helper()
		if state := s.stateOf(a, now); (state != nil) != want {
			t.Errorf("%s there is %v to tell", when, state)
		}
	}
	told(false, "of an agent that has not said hello")
	a.greet(&agentv1.Hello{}, contract.ID{2}, 0, now)
	told(true, "after a hello")
	told(false, "without a word since")
	a.reported(&agentv1.Health{UnacknowledgedRecords: 1}, 0, now)
	told(true, "after the first words")
	a.reported(&agentv1.Health{UnacknowledgedRecords: 2}, 0, now)
	now = now.Add(renewPeriod - time.Second)
	told(false, "of figures within the minute")
	now = now.Add(time.Second)
	told(true, "of figures after a minute")
	a.reported(&agentv1.Health{UnacknowledgedRecords: 2, Paused: true}, 0, now)
	told(true, "of a pause")
	late := &agentv1.Health{Paused: true, Backlog: &agentv1.Backlog{OldestUtcMillis: 1, TimeMillis: 1}}
	a.reported(late, 0, now)
	told(true, "of a backlog")
	a.reported(late, 0, now)
	now = now.Add(catchUpPeriod)
	told(true, "of a backlog that becomes less")
	a.reported(&agentv1.Health{Paused: true}, 0, now)
	told(true, "of a backlog that is sent")
	now = now.Add(renewPeriod)
	told(false, "of an agent that is silent")
	a.refused("it was too large", now)
	told(true, "of a refusal")
	now = now.Add(troubleLife)
	told(false, "of a refusal that was told")
	now = now.Add(time.Second)
	told(true, "a day after the refusal")
	if a.info.Refused != 0 || a.info.LastRefusal != "" {
		t.Errorf("a day after a refusal it stands: %+v", a.info)
	}
	a.copied("two machines", now)
	told(true, "of a copy")
	s.agents, s.config.Now = map[contract.ID]*agent{a.id: a}, func() time.Time { return now }
	s.Forgive()
	told(true, "of a copy that somebody has looked at")
	if a.info.Copied != "" {
		t.Errorf("a copy that somebody has looked at stands: %+v", a.info)
	}
}
