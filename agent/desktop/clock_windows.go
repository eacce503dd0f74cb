package desktop

import (
	"crypto/rand"
	"fmt"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
)

// clocks reads the machine's clocks. They are named explicitly: what Go's time
// package calls monotonic does not count sleep on Windows, and does elsewhere.
type clocks struct{ procs *procs }

// now implements timekeeper.
func (c clocks) now() (moment, error) {
	var boot, awake uint64 // units of 100 ns
	if c.procs.queryInterruptTimePrecise.Find() == nil {
		_, _, _ = c.procs.queryInterruptTimePrecise.Call(uintptr(unsafe.Pointer(&boot)))
	} else { // Wine 8 has no such procedure; the tick count is the same clock, coarser
		boot = uint64(windows.DurationSinceBoot() / 100)
	}
	if ok, _, err := c.procs.queryUnbiasedInterruptTime.Call(uintptr(unsafe.Pointer(&awake))); ok == 0 {
		return moment{}, fmt.Errorf("desktop: the clock that stops in sleep: %w", err)
	}
	wall := wallFileTime()
	return moment{
		bootMillis:        int64(boot / fileTimePerMilli),
		awakeMillis:       int64(awake / fileTimePerMilli),
		utcMillis:         (wall - unixEpochFileTime) / fileTimePerMilli,
		zoneOffsetSeconds: zoneOffsetSeconds(),
	}, nil
}

func fileTime(t windows.Filetime) int64 {
	return int64(t.HighDateTime)<<32 | int64(t.LowDateTime)
}

func wallFileTime() int64 {
	var t windows.Filetime
	windows.GetSystemTimePreciseAsFileTime(&t)
	return fileTime(t)
}

// zoneOffsetSeconds asks the system each time: laptops travel.
func zoneOffsetSeconds() int32 {
	const daylight = 2
	var zone windows.Timezoneinformation
	id, err := windows.GetTimeZoneInformation(&zone)
	if err != nil {
		return 0
	}
	bias := zone.Bias + zone.StandardBias
	if id == daylight {
		bias = zone.Bias + zone.DaylightBias
	}
	return -60 * bias
}

// Where what is known of this boot is kept: a volatile key, which the system
// itself forgets when it boots.
const (
	bootKey   = `SOFTWARE\Cetrus\Agent\Boot`
	bootValue = "Boot"
)

// keptBootline is a bootline in the registry.
type keptBootline struct {
	bootline
	key registry.Key
}

// openBootline reads what is known of this boot, or draws an id for it. For a
// service it is kept for the machine, otherwise for the user.
func openBootline(p *procs, machine bool) (*keptBootline, error) {
	root := windows.Handle(registry.CURRENT_USER)
	if machine {
		root = windows.Handle(registry.LOCAL_MACHINE)
	}
	const optionVolatile, access = 1, registry.QUERY_VALUE | registry.SET_VALUE | registry.WOW64_64KEY
	name, err := windows.UTF16PtrFromString(bootKey)
	if err != nil {
		return nil, err
	}
	var key windows.Handle
	if code, _, _ := p.regCreateKey.Call(uintptr(root), uintptr(unsafe.Pointer(name)), 0, 0, optionVolatile, access, 0,
		uintptr(unsafe.Pointer(&key)), 0); code != 0 {
		return nil, fmt.Errorf("desktop: keep the id of this boot in the registry: %w", windows.Errno(code))
	}
	kept := &keptBootline{key: registry.Key(key)}
	if data, _, err := kept.key.GetBinaryValue(bootValue); err == nil {
		if line, err := parseBootline(data); err == nil {
			kept.bootline = *line
			return kept, nil
		}
	}
	if _, err := rand.Read(kept.boot[:]); err != nil {
		return nil, fmt.Errorf("desktop: draw the id of this boot: %w", err)
	}
	return kept, nil
}

// update notes the clocks and keeps the marks that were made.
func (k *keptBootline) update(now moment) error {
	if k.note(now.fileTime(), now.bootMillis); !k.unkept {
		return nil
	}
	if err := k.key.SetBinaryValue(bootValue, k.bytes()); err != nil {
		return fmt.Errorf("desktop: keep what is known of this boot: %w", err)
	}
	k.unkept = false
	return nil
}
