package capacity

import "time"

const (
	// WorkingDays are those of a year.
	WorkingDays = 250
	// LogDays is how long the log keeps what is archived, by default.
	LogDays = 7
	// BufferDays is for how long an outage of the platform a Manager's buffer is to last.
	BufferDays = 5
	// Headroom is how many times what the busiest hour takes is given: bursts, questions, catching up.
	Headroom = 3
	// Replicas hold the log in a cluster.
	Replicas = 3
)

// Need is what a number of seats takes.
type Need struct {
	Seats int64
	// EventsPerDay are of a working day, EventsPerSecond of its busiest hour.
	EventsPerDay, EventsPerSecond int64
	// Managers, and what each takes of memory, of a processor on average over the busiest hour, in
	// thousandths, and of disk so that the platform may be away for BufferDays.
	Managers, ManagerMemory, ManagerMilliprocessors, ManagerDisk int64
	// PlatformMilliprocessors are of everything of the platform together in the busiest hour, PlatformProcessors
	// those to give it, with Headroom.
	PlatformMilliprocessors, PlatformProcessors int64
	// LogDisk is of each of the Replicas, ArchivePerYear and PostgresPerYear of all.
	LogDisk, ArchivePerYear, PostgresPerYear int64
	// DayAtOnce is how long a whole day of everybody takes to be counted by one replica of metering.
	DayAtOnce time.Duration
	// OneAccount is the thousandth part of what one replica of metering can count that the busiest hour takes.
	OneAccount int64
}

// For is the formula.
func For(seats int64, w Work, f Figures) Need {
	n := Need{Seats: seats, EventsPerDay: seats * w.EventsPerDay}
	n.EventsPerSecond = up(seats*w.EventsInBusiestHour, thousand*secondsInHour)
	n.Managers = up(seats, f.AgentsPerManager)
	agents := up(seats, n.Managers)
	n.ManagerMemory = f.ManagerBase + agents*f.ManagerPerAgent
	n.ManagerMilliprocessors = up(agents*f.ManagerCPU.Milliseconds(), perMinute)
	n.ManagerDisk = agents * w.EventsPerDay * f.BufferBytes * BufferDays
	n.PlatformMilliprocessors = up(seats*f.PlatformCPU.Milliseconds(), perMinute)
	n.PlatformProcessors = max(1, up(n.PlatformMilliprocessors*Headroom, thousand))
	n.LogDisk = n.EventsPerDay * f.StreamBytes * LogDays
	n.ArchivePerYear = n.EventsPerDay * f.ArchiveBytes * WorkingDays
	n.PostgresPerYear = n.EventsPerDay * f.PostgresBytes * WorkingDays
	n.DayAtOnce = time.Duration(up(n.EventsPerDay, f.CountedPerSecond)) * time.Second
	n.OneAccount = up(n.EventsPerSecond*thousand, f.CountedPerSecond)
	return n
}

// Carried is how many seats one of something carries.
type Carried struct {
	// ManagerCore is one processor of a Manager, PlatformCore one of everything of the platform, in the
	// busiest hour, with Headroom.
	ManagerCore, PlatformCore int64
	// ManagerGigabyte is a gigabyte of a Manager's memory.
	ManagerGigabyte int64
	// The others are a terabyte of disk: of a Manager, for BufferDays; of a server of the log, for LogDays; of
	// the archive and of PostgreSQL, for a year.
	BufferTerabyte, LogTerabyte, ArchiveTerabyte, PostgresTerabyte int64
}

// Carries is the formula for one of each, rounded down.
func Carries(w Work, f Figures) Carried {
	day := func(bytes, days int64) int64 { return terabyte / (w.EventsPerDay * bytes * days) }
	return Carried{
		ManagerCore:      thousand * perMinute / (f.ManagerCPU.Milliseconds() * Headroom),
		PlatformCore:     thousand * perMinute / (f.PlatformCPU.Milliseconds() * Headroom),
		ManagerGigabyte:  (gigabyte - f.ManagerBase) / f.ManagerPerAgent,
		BufferTerabyte:   day(f.BufferBytes, BufferDays),
		LogTerabyte:      day(f.StreamBytes, LogDays),
		ArchiveTerabyte:  day(f.ArchiveBytes, WorkingDays),
		PostgresTerabyte: day(f.PostgresBytes, WorkingDays),
	}
}

const (
	gigabyte = 1_000_000_000
	terabyte = 1000 * gigabyte
)

// perMinute makes thousandths of a processor of milliseconds in a minute of ten thousand agents.
const perMinute = 10_000 * 60

// up divides, and rounds up.
func up(a, b int64) int64 { return (a + b - 1) / b }
