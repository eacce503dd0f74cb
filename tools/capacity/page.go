package capacity

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Examples are the seats that the page works out.
func Examples() []int64 { return []int64{1_000, 50_000, 1_000_000} }

// Blocks are the parts of the page that are computed, by name.
func Blocks(w Work, f Figures) map[string]string {
	return map[string]string{"figures": figures(w, f), "carries": carries(w, f), "examples": examples(w, f)}
}

// Write puts the blocks into the page, each between <!-- computed: NAME --> and <!-- end -->.
func Write(page string, blocks map[string]string) (string, error) {
	const end = "<!-- end -->"
	for name, text := range blocks {
		mark := "<!-- computed: " + name + " -->\n"
		before, rest, found := strings.Cut(page, mark)
		_, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			return "", fmt.Errorf("capacity: the page has no %q with %q behind it", strings.TrimSpace(mark), end)
		}
		page = before + mark + "\n" + text + "\n" + end + after
	}
	return page, nil
}

func figures(w Work, f Figures) string {
	var b strings.Builder
	b.WriteString("| figure | value | measured by | when |\n| --- | --- | --- | --- |\n")
	const counted = "`cd tools && GOWORK=off go test ./capacity`, which counts the recorded office"
	fmt.Fprintf(&b, "| events of a person on a working day | %d | %s | |\n", w.EventsPerDay, counted)
	fmt.Fprintf(&b, "| events of 1,000 people in the busiest hour | %s | the same | |\n", grouped(w.EventsInBusiestHour))
	for _, m := range f.Measured {
		fmt.Fprintf(&b, "| %s | %s | `%s`: %s | %s |\n", m.Name, m.Value, m.Command, m.Field, m.When)
	}
	fmt.Fprintf(&b, "| PostgreSQL, for a person's working day | %s kB | the two, multiplied | |\n", grouped(w.EventsPerDay*f.PostgresBytes/thousand))
	return b.String()
}

func carries(w Work, f Figures) string {
	var b strings.Builder
	b.WriteString("| one | carries, seats |\n| --- | --- |\n")
	c := Carries(w, f)
	for _, row := range []struct {
		of    string
		seats int64
	}{
		{fmt.Sprintf("core of a Manager, with × %d for bursts", Headroom), c.ManagerCore},
		{fmt.Sprintf("core of the platform with NATS and PostgreSQL, with × %d for bursts", Headroom), c.PlatformCore},
		{"gigabyte of a Manager's memory", c.ManagerGigabyte},
		{fmt.Sprintf("terabyte of a Manager's disk, for %d days without the platform", BufferDays), c.BufferTerabyte},
		{fmt.Sprintf("terabyte of a NATS server's disk, for %d days of the log", LogDays), c.LogTerabyte},
		{"terabyte of the archive, for a year", c.ArchiveTerabyte},
		{"terabyte of PostgreSQL's disk, for a year", c.PostgresTerabyte},
	} {
		fmt.Fprintf(&b, "| %s | %s |\n", row.of, grouped(row.seats))
	}
	return b.String()
}

func examples(w Work, f Figures) string {
	var needs []Need
	head, line := "| seats |", "| --- |"
	for _, seats := range Examples() {
		needs = append(needs, For(seats, w, f))
		head, line = head+" "+grouped(seats)+" |", line+" --- |"
	}
	var b strings.Builder
	b.WriteString(head + "\n" + line + "\n")
	row := func(name string, of func(Need) string) {
		b.WriteString("| " + name + " |")
		for _, n := range needs {
			b.WriteString(" " + of(n) + " |")
		}
		b.WriteString("\n")
	}
	row("events on a working day", func(n Need) string { return grouped(n.EventsPerDay) })
	row("events a second in the busiest hour", func(n Need) string { return grouped(n.EventsPerSecond) })
	row("Managers", func(n Need) string { return grouped(n.Managers) })
	row("— memory of each", func(n Need) string { return megabytes(n.ManagerMemory) })
	row("— processors of each", func(n Need) string { return processors(n.ManagerMilliprocessors) })
	row(fmt.Sprintf("— buffer of each, for %d days without the platform", BufferDays), func(n Need) string { return size(n.ManagerDisk) })
	row("processors of the platform in the busiest hour", func(n Need) string { return processors(n.PlatformMilliprocessors) })
	row(fmt.Sprintf("— to give it, × %d", Headroom), func(n Need) string { return grouped(n.PlatformProcessors) })
	row(fmt.Sprintf("disk of the log, %d days, on each of %d NATS servers", LogDays, Replicas), func(n Need) string { return size(n.LogDisk) })
	row("archive, a year", func(n Need) string { return size(n.ArchivePerYear) })
	row("PostgreSQL, a year", func(n Need) string { return size(n.PostgresPerYear) })
	row("a whole day of everybody, counted at once", func(n Need) string { return n.DayAtOnce.Round(time.Second).String() })
	row("of what one replica of metering counts, in the busiest hour, if all are one account", func(n Need) string { return fmt.Sprintf("%d.%d %%", n.OneAccount/10, n.OneAccount%10) })
	return b.String()
}

func processors(milli int64) string { return fmt.Sprintf("%d.%02d", milli/thousand, milli%thousand/10) }

func megabytes(bytes int64) string { return grouped(up(bytes, 1e6)) + " MB" }

func size(bytes int64) string {
	if bytes < 1e9 {
		return megabytes(bytes)
	}
	return grouped(up(bytes, 1e9)) + " GB"
}

// grouped writes a number as English does.
func grouped(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
