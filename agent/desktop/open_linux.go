package desktop

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
)

// ErrNoDisplay says that there is no desktop to watch.
var ErrNoDisplay = errors.New("desktop: no display: set DISPLAY, or name one (such as :0) in the agent's configuration")

// Where the kernel tells of processes, and where X servers put their sockets.
const (
	proc     = "/proc"
	xSockets = "/tmp/.X11-unix"
)

// Open gives the desktop of this machine: all its sessions for a service, whose eyes are
// a helper in each; the display that is named, or the session that it runs in, for any
// other program. The display's server need not run yet: it is waited for.
func Open(config Config) (Desktop, error) {
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	m, err := open(config, systemKernel())
	if err != nil {
		return nil, err
	}
	return m, nil
}

func open(config Config, k kernel) (*machineDesktop, error) {
	boot, err := readBootID()
	if err != nil {
		return nil, err
	}
	table := newProcessTable(proc)
	m := newMachineDesktop(parts{boot: boot, host: host(), clocks: newClocks()}, config.Log)
	logins := newLogins(config.SystemBus, config.Log, m.LookNow)
	var listed seats
	if config.Helper != nil {
		places := newPlaces(proc, xSockets)
		listed = &loginSeats{logins: logins, users: newUsers(), places: places}
		m.open = func(ctx context.Context, s seat, wake func()) (eyes, error) {
			s.at = reach(proc, s)
			places.note(s.key, s.at)
			return openHelper(ctx, *config.Helper, s, wake)
		}
		m.launch = launchIn
	} else {
		own, err := ownPlace(config)
		if err != nil {
			return nil, err
		}
		listed = &ownSeat{at: own, uid: uint32(os.Getuid()), logins: logins, users: newUsers(), log: config.Log, stat: table.stat}
		m.open = func(ctx context.Context, s seat, wake func()) (eyes, error) {
			opened, err := openSessionEyes(ctx, s.at, wake)
			if err != nil {
				return nil, err
			}
			return newPatientEyes(opened), nil
		}
		m.launch = launchHere
	}
	followed := newLinuxProcesses(table, k, m.waker())
	m.seats = followed.follow(listed)
	if !followed.exits.tells() {
		config.Log.Info("this kernel does not tell when a process ends; it is looked for once a second")
	}
	m.parts.processes = followed
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { logins.run(ctx) })
	m.close = func() {
		stop()
		running.Wait()
		followed.close()
	}
	return m, nil
}

// ownPlace is the desktop that is named, or that of this process.
func ownPlace(config Config) (place, error) {
	own := placeOf(os.Getenv)
	if config.Display != "" {
		own.kind, own.display = kindX11, config.Display
	}
	own.authority = cmp.Or(config.Authority, own.authority)
	own.sessionBus = cmp.Or(config.SessionBus, own.sessionBus)
	if own.kind == kindWayland {
		return own, nil
	}
	if own.display == "" {
		return own, ErrNoDisplay
	}
	_, err := parseDisplay(own.display)
	return own, err
}
