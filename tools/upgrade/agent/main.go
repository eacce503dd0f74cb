// Command agent is an agent that watches a script, for tests of upgrades. What follows its
// program in its file says which fault it has, so that releases differ without being built.
package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	"github.com/cetrus/cetrus/agent/release"
	signing "github.com/cetrus/cetrus/proto/release"
)

func main() {
	if err := run(); err != nil {
		slog.Error("the agent ended", "error", err)
		os.Exit(1)
	}
}

// run takes: data folder, Manager, keys, UTC milliseconds of the script's begin, milliseconds
// that a trial may take.
func run() error {
	dir, manager, keysFile := os.Args[1], os.Args[2], os.Args[3]
	begin, err := strconv.ParseInt(os.Args[4], 10, 64)
	if err != nil {
		return err
	}
	bound, err := strconv.ParseInt(os.Args[5], 10, 64)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	text, err := os.ReadFile(keysFile)
	if err != nil {
		return err
	}
	keys, err := signing.ParseKeys(text)
	if err != nil {
		return err
	}
	trust := release.Config{Keys: keys, Installed: 1, System: runtime.GOOS, Architecture: runtime.GOARCH}
	folder := filepath.Join(dir, "releases")
	launcher := release.Launcher{Config: trust, Dir: folder, Trial: time.Duration(bound) * time.Millisecond, Log: slog.Default()}
	for {
		if over, err := launcher.Launch(ctx); over || err != nil {
			return err
		}
		err := work(ctx, dir, manager, folder, begin, trust)
		if !errors.Is(err, agent.ErrSwitch) {
			return err
		}
		// Where no process becomes another one, what is not a release goes on as a guardian.
		if runtime.GOOS != "windows" || release.Launched() {
			return release.Switch(ctx)
		}
	}
}

// work is the agent, with the fault that its file names.
func work(ctx context.Context, dir, manager, folder string, begin int64, trust release.Config) error {
	ctx, done, err := release.Guarded(ctx, func() {})
	if err != nil {
		return err
	}
	defer done()
	version, fault, err := mark()
	if err != nil {
		return err
	}
	dial := []grpc.DialOption{}
	switch fault {
	case "crash":
		time.AfterFunc(300*time.Millisecond, func() { panic("broken on purpose") })
	case "hang":
		signal.Ignore(syscall.SIGTERM)
		select {}
	case "deaf":
		dial = append(dial, grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return nil, errors.New("broken on purpose") }))
	}
	start := time.UnixMilli(begin)
	desk := scripted.New(scripted.Config{
		Host:   desktop.Host{Name: "upgrading", OperatingSystem: "script"},
		Script: script, Begin: start, Booted: time.Minute, Pace: scripted.Since(start), Endless: true,
	})
	defer desk.Close()
	a, err := agent.New(agent.Config{
		DataDir: dir, Managers: []string{manager}, Version: version, ControlSocket: agent.NoControl,
		Releases: &agent.ReleasesConfig{Dir: folder, Trust: trust, Trial: release.OnTrial(), BytesPerSecond: 1 << 30, WellFor: time.Second},
	}, agent.Deps{Desktop: desk, Dial: dial, Log: slog.Default().With("version", version)})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// mark is what follows the program in its file: "\n#release <version> <fault>".
func mark() (version, fault string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", "", err
	}
	text, err := os.ReadFile(self)
	if err != nil {
		return "", "", err
	}
	tail := text[max(0, len(text)-64):]
	at := bytes.LastIndex(tail, []byte("\n#release "))
	if at < 0 {
		return "installed", "", nil
	}
	version, fault, _ = strings.Cut(string(tail[at+len("\n#release "):]), " ")
	return version, fault, nil
}

// Two programs are open from 1 s on, with one of them in front, in turns of 1500 ms; the
// person types every 200 ms. A third one lives for 499 ms of every 6 s. Nothing ever ends but
// that one.
func script(yield func(scripted.Step) bool) {
	do := func(at time.Duration, action scripted.Action) bool {
		return yield(scripted.Step{At: at, Do: action})
	}
	ok := do(0, scripted.LogOn{User: activity.User{Domain: "OFFICE", Name: "anna"}})
	for n, path := range []string{"/usr/bin/editor", "/usr/bin/calc"} {
		ok = ok && do(time.Second, scripted.Start{PID: int32(10 + n), Path: path}) &&
			do(time.Second, scripted.Show{ID: uint64(1 + n), PID: int32(10 + n), Class: path, Title: path})
	}
	ok = ok && do(time.Second, scripted.Focus{ID: 1}) && do(time.Second, scripted.Inputs{For: 24 * time.Hour, Every: 200 * time.Millisecond})
	for n := 1; ok; n++ {
		at := time.Second + time.Duration(n)*500*time.Millisecond
		if n%3 == 0 {
			ok = do(at, scripted.Focus{ID: uint64(1 + n/3%2)})
		}
		if n%12 == 0 {
			pid := int32(100 + n)
			ok = ok && do(at, scripted.Start{PID: pid, Path: "/usr/bin/short"}) &&
				do(at, scripted.Show{ID: uint64(pid), PID: pid, Class: "short", Title: "short"})
			ok = ok && do(at+499*time.Millisecond, scripted.Exit{PID: pid})
		}
	}
}
