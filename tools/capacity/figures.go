package capacity

import (
	"fmt"
	"time"

	"github.com/cetrus/cetrus/tools/load"
)

// Work is how much people do, counted from the recorded office.
type Work struct {
	// EventsPerDay is of a person on a working day, EventsInBusiestHour of a thousand people in the
	// hour of the day in which most happens.
	EventsPerDay, EventsInBusiestHour int64
}

const (
	corpusDays    = 2
	hourMillis    = 3_600_000
	hoursOfADay   = 24
	thousand      = 1000
	secondsInHour = 3600
)

// CountWork counts the recorded office.
func CountWork() (Work, error) {
	corpus, err := load.Recorded()
	if err != nil {
		return Work{}, err
	}
	var hours [corpusDays * hoursOfADay]int64
	all := int64(0)
	for _, session := range corpus.Sessions {
		for _, event := range session.Events {
			all++
			if h := event.GetAtBootMillis() / hourMillis; h < int64(len(hours)) {
				hours[h]++
			}
		}
	}
	people := int64(len(corpus.Sessions))
	if people == 0 {
		return Work{}, fmt.Errorf("capacity: nobody works in the corpus")
	}
	w := Work{EventsPerDay: all / people / corpusDays}
	for _, n := range hours {
		w.EventsInBusiestHour = max(w.EventsInBusiestHour, n*thousand/people)
	}
	return w, nil
}

// Measured is a figure, and how it came about.
type Measured struct {
	// Name says what of, Value how much with its unit, as text.
	Name, Value string
	// Command measured it; Field is the line of out/bench.jsonl, or what the command prints.
	Command, Field string
	// When, and at which load of the machine.
	When string
}

// Figures are those that the formula goes by. Bytes are of a whole event, in all indexes and copies that a
// tier makes of it.
type Figures struct {
	// ManagerBase is a Manager's resident memory without agents, ManagerPerAgent what each adds.
	ManagerBase, ManagerPerAgent int64
	// ManagerCPU is the processor time of a Manager, in a minute, for ten thousand agents at people's pace.
	ManagerCPU time.Duration
	// ManagerCPUPerThousand is that for a thousand events that come at once.
	ManagerCPUPerThousand time.Duration
	// PlatformCPU is the processor time of all of the platform with NATS and PostgreSQL, in a minute, for ten
	// thousand agents at people's pace: their events, live view, health.
	PlatformCPU time.Duration
	// PlatformCPUPerThousand is that for a thousand events of a backlog.
	PlatformCPUPerThousand time.Duration
	// CountedPerSecond are events that one replica of metering counts with PostgreSQL beside it.
	CountedPerSecond int64
	// StreamBytes, PostgresBytes, ArchiveBytes and BufferBytes are what an event takes in AGENT (of one
	// replica), in PostgreSQL, in the archive and in a Manager's buffer.
	StreamBytes, PostgresBytes, ArchiveBytes, BufferBytes int64
	// AgentsPerManager are as many as the bench connects to one.
	AgentsPerManager int64
	// Measured tells all of them.
	Measured []Measured
}

const (
	tenThousandAgents = "make bench ARGS=ten_thousand_agents"
	offlineBacklog    = "make bench ARGS=offline_backlog"
	projection        = `make bench ARGS="--only metering_projection --scale middle --rounds 1"`
)

// Known are the figures of the reference machine: two processors, 23 GiB, a virtual disk.
func Known() Figures {
	f := Figures{
		ManagerBase: 35e6, ManagerPerAgent: 145e3, ManagerCPU: 13_000 * time.Millisecond, ManagerCPUPerThousand: 17_200 * time.Microsecond,
		PlatformCPU: 35 * time.Second, PlatformCPUPerThousand: 52_000 * time.Microsecond, CountedPerSecond: 135_657,
		StreamBytes: 244, PostgresBytes: 476, ArchiveBytes: 34, BufferBytes: 241, AgentsPerManager: 10_000,
	}
	add := func(name, value, command, field, when string) {
		f.Measured = append(f.Measured, Measured{name, value, command, field, when})
	}
	add("a Manager's memory without agents", megabytes(f.ManagerBase), tenThousandAgents, "`ten_thousand_agents_memory`, `empty_mb`", alone)
	add("— for each connected agent", fmt.Sprintf("%d kB", f.ManagerPerAgent/1000), tenThousandAgents, "`ten_thousand_agents_memory`, `per_agent_kb`", alone)
	add("a Manager's processor time, 10,000 agents at people's pace", fmt.Sprintf("%.1f s a minute", f.ManagerCPU.Seconds()), tenThousandAgents, "`ten_thousand_agents_cpu`", alone)
	add("— for 1,000 events of a backlog", perThousand(f.ManagerCPUPerThousand), offlineBacklog, "`offline_backlog_live`, `manager_cpu_s_per_thousand`", beside)
	add("the platform's processor time with NATS and PostgreSQL, 10,000 agents at people's pace", fmt.Sprintf("%.1f s a minute", f.PlatformCPU.Seconds()), tenThousandAgents, "`ten_thousand_agents_cpu`, 60 × `platform_processors`", alone)
	add("— for 1,000 events of a backlog", perThousand(f.PlatformCPUPerThousand), offlineBacklog, "`offline_backlog_live`, `platform_cpu_s_per_thousand`", beside)
	add("events that one replica of metering counts", grouped(f.CountedPerSecond)+" a second", projection, "`metering_projection`", "29 November 2026, load 2")
	add("an event in `AGENT`, of one replica of the stream", fmt.Sprintf("%d bytes", f.StreamBytes), offlineBacklog, "`offline_backlog_bytes`, `nats_bytes_per_event`", bound)
	add("— in PostgreSQL, with indexes", fmt.Sprintf("%d bytes", f.PostgresBytes), offlineBacklog, "`offline_backlog_bytes`, `postgres_bytes_per_event`", bound)
	add("— in the archive", fmt.Sprintf("%d bytes", f.ArchiveBytes), offlineBacklog, "`offline_backlog_bytes`, `archive_bytes_per_event`", bound)
	add("— in a Manager's buffer", fmt.Sprintf("%d bytes", f.BufferBytes), offlineBacklog, "`offline_backlog_bytes`, `manager_buffer_bytes_per_event`", bound)
	return f
}

// alone is of figures of a machine with nothing else on it, beside of a machine on which others built and tested;
// bound of the folders after the backlog, with all that was there before in them.
const (
	alone  = "30 November 2026, load 3, the generator on the same two processors"
	beside = "30 November 2026, load 15: others built on both processors"
	bound  = beside + "; an upper bound: the folders' whole size by the 6.9 million events that had come"
)

func perThousand(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/thousand)
}
