package desktop

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cetrus/cetrus/proto/contract"
)

// asleepMillis is how long the machine has slept since it booted.
func (m moment) asleepMillis() int64 { return m.bootMillis - m.awakeMillis }

// clocks reads the machine's clocks. They are named explicitly: what Go's time
// package calls monotonic counts sleep on one system and not on another.
type clocks struct {
	zoneFile    string
	zone        *time.Location
	zoneModTime time.Time
	zoneTarget  string
	zoneChecked int64 // awakeMillis; 0 before the first check
}

func newClocks() *clocks { return &clocks{zoneFile: "/etc/localtime", zone: time.Local} } //nolint:gosmopolitan // The machine's own zone is the fact that is observed.

// zoneCheckMillis is how often a change of the machine's zone is looked for: Go
// reads it once per process, and laptops travel.
const zoneCheckMillis = 60_000

// now implements timekeeper.
func (c *clocks) now() (moment, error) {
	var boot, awake, wall unix.Timespec
	for _, clock := range []struct {
		id   int32
		into *unix.Timespec
	}{
		{unix.CLOCK_BOOTTIME, &boot},
		{unix.CLOCK_MONOTONIC, &awake},
		{unix.CLOCK_REALTIME, &wall},
	} {
		if err := unix.ClockGettime(clock.id, clock.into); err != nil {
			return moment{}, fmt.Errorf("desktop: read clock %d: %w", clock.id, err)
		}
	}
	r := moment{
		bootMillis:  boot.Nano() / int64(time.Millisecond),
		awakeMillis: awake.Nano() / int64(time.Millisecond),
		utcMillis:   wall.Nano() / int64(time.Millisecond),
	}
	if c.zoneChecked == 0 || r.awakeMillis-c.zoneChecked >= zoneCheckMillis {
		c.zoneChecked = max(1, r.awakeMillis)
		c.refreshZone()
	}
	_, offset := time.UnixMilli(r.utcMillis).In(c.zone).Zone()
	r.zoneOffsetSeconds = int32(offset)
	return r, nil
}

// awakeMillis reads the clock that stops while the machine sleeps.
func awakeMillis() int64 { return clockMillis(unix.CLOCK_MONOTONIC) }

// bootMillis reads the clock of the boot timeline.
func bootMillis() int64 { return clockMillis(unix.CLOCK_BOOTTIME) }

func clockMillis(id int32) int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(id, &t); err != nil {
		return 0 // cannot fail for a clock that every Linux has
	}
	return t.Nano() / int64(time.Millisecond)
}

// refreshZone reads the zone file again if it is another one than before. With
// TZ set, or without a zone file, Go's own reading stands.
func (c *clocks) refreshZone() {
	if _, set := os.LookupEnv("TZ"); set {
		return
	}
	info, err := os.Stat(c.zoneFile)
	if err != nil {
		return
	}
	target, _ := os.Readlink(c.zoneFile)
	if info.ModTime().Equal(c.zoneModTime) && target == c.zoneTarget {
		return
	}
	data, err := os.ReadFile(c.zoneFile)
	if err != nil {
		return
	}
	zone, err := time.LoadLocationFromTZData("Local", data)
	if err != nil {
		return
	}
	c.zone, c.zoneModTime, c.zoneTarget = zone, info.ModTime(), target
}

// readBootID reads the kernel's random id of this boot.
func readBootID() (contract.ID, error) {
	const file = "/proc/sys/kernel/random/boot_id"
	text, err := os.ReadFile(file)
	if err != nil {
		return contract.ID{}, fmt.Errorf("desktop: read the id of this boot: %w", err)
	}
	id, err := contract.ParseID(strings.TrimSpace(string(text)))
	if err != nil {
		return contract.ID{}, fmt.Errorf("desktop: %s: %w", file, err)
	}
	return id, nil
}
