package desktop

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
)

// Open gives the desktop of this machine: all its sessions for a service, whose eyes
// are a helper in each; the session that it runs in for any other program.
func Open(config Config) (Desktop, error) {
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	p := newProcs()
	line, err := openBootline(p, config.Helper != nil)
	if err != nil {
		return nil, err
	}
	clock := windowsClocks{clocks{p}, line}
	if _, err := clock.now(); err != nil { // so that processes can be placed from the start
		return nil, err
	}
	system := newSystemProcesses(p)
	table := newSnapshotTable(system, &line.bootline)
	terminal := &terminal{procs: p, sids: make(map[string]string)}
	made := parts{boot: line.boot, host: host(), clocks: clock, seats: terminal, processes: table}
	if config.Helper == nil {
		own, err := ownSession()
		if err != nil {
			return nil, err
		}
		terminal.own = &own
		made.open = func(_ context.Context, _ seat, wake func()) (eyes, error) { return openSessionEyes(p, wake) }
		made.launch = launchHere
	} else {
		made.open = func(ctx context.Context, s seat, wake func()) (eyes, error) {
			return openHelper(ctx, *config.Helper, s, wake)
		}
		made.launch = launchIn
	}
	m := newMachineDesktop(made, config.Log)
	if system.exits, err = newExitWatch(table.noteExit, m.waker()); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	var tracing sync.WaitGroup
	if config.Helper != nil {
		trace := processTrace{system: newSystemTrace(p), note: table.note, lost: table.noteLost, state: table.noteTrace}
		tracing.Go(func() { trace.run(ctx) })
	} else {
		table.noteTrace("the kernel tells of them to the agent's service alone")
	}
	m.close = func() {
		stop()
		tracing.Wait()
		system.exits.close()
		_ = line.key.Close()
	}
	return m, nil
}

// windowsClocks also keeps the marks of the boot timeline.
type windowsClocks struct {
	clocks
	line *keptBootline
}

// now implements timekeeper.
func (c windowsClocks) now() (moment, error) {
	m, err := c.clocks.now()
	if err != nil {
		return m, err
	}
	return m, c.line.update(m)
}

// host reads what the machine is called.
func host() Host {
	name, _ := os.Hostname()
	v := windows.RtlGetVersion()
	system := fmt.Sprintf("Windows %d.%d.%d", v.MajorVersion, v.MinorVersion, v.BuildNumber)
	key, err := registry.OpenKey(registry.LOCAL_MACHINE, `SOFTWARE\Microsoft\Windows NT\CurrentVersion`, registry.QUERY_VALUE|registry.WOW64_64KEY)
	if err != nil {
		return Host{Name: name, OperatingSystem: system}
	}
	defer key.Close()
	if product, _, err := key.GetStringValue("ProductName"); err == nil {
		system = fmt.Sprintf("%s (%d.%d.%d)", product, v.MajorVersion, v.MinorVersion, v.BuildNumber)
	}
	return Host{Name: name, OperatingSystem: system}
}
