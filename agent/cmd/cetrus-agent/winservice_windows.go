package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/spf13/cobra"
	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/eventlog"
	"golang.org/x/sys/windows/svc/mgr"

	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/release"
)

const (
	serviceName   = "cetrus-agent"
	helperCommand = "session-helper"
	// stopHint is how long the service manager is told that stopping takes; a machine
	// that shuts down gives no more.
	stopHint = 10 * time.Second
	// stopBound is when the process ends though the agent has not stopped: its journal is
	// made for that, and is not made for a machine that is switched off under a write.
	stopBound = 9 * time.Second
	// helperLimit is what a helper's Go runtime is told to stay below, in bytes.
	helperLimit = 8 << 20
)

// systemPart is what this system needs of a program.
type systemPart struct {
	// asService: a service manager is talked to, and the whole machine is watched.
	asService bool
	watched   atomic.Pointer[desktop.Desktop]
	// guarding: a release runs as a child, which hears of looks.
	guarding atomic.Bool
	looks    chan struct{}
}

func (s *systemPart) watching(d desktop.Desktop) { s.watched.Store(&d) }

// underServiceManager answers the service manager, where that has started the program.
// Whether it has is asked of the manager itself: the way to find out by the session's
// number does not hold everywhere. A release works for its guardian, which is asked.
func (p *program) underServiceManager(ctx context.Context) (ran bool, err error) {
	guarded := release.Launched()
	p.asService = !guarded || os.Getenv(serviceVariable) != ""
	p.looks = make(chan struct{}, 1)
	if p.asService {
		defer p.logToEvents()()
	}
	if guarded {
		return true, p.work(ctx)
	}
	talk := &conversation{
		ctx: ctx, log: p.log, failed: p.failed, look: p.lookNow,
		start:    func() error { return p.Start(nil) },
		stop:     func() { _ = p.Stop(nil) },
		complete: func() error { return completeService(serviceName) },
	}
	err = svc.Run(serviceName, talk)
	if errors.Is(err, windows.ERROR_FAILED_SERVICE_CONTROLLER_CONNECT) {
		p.asService = false
		return false, nil
	}
	if talk.late {
		return true, errors.Join(err, fmt.Errorf("the agent has not stopped within %v", stopBound))
	}
	return true, errors.Join(err, p.err)
}

// logToEvents has the system's event log take what is logged, until it is undone.
func (p *program) logToEvents() (undo func()) {
	before := p.log
	events, err := eventlog.Open(serviceName)
	if err != nil {
		return func() {}
	}
	if level, err := p.settings.level(); err == nil {
		p.log = slog.New(newEventHandler(events, level))
	}
	return func() {
		p.log = before
		_ = events.Close()
	}
}

// conversation is what the service manager says, and what is done about it.
type conversation struct {
	ctx context.Context //nolint:containedctx // svc's interface has no room for one.
	log *slog.Logger
	// start and stop are of the agent; stop waits until it has stopped. failed is closed
	// when it has ended by itself.
	start  func() error
	stop   func()
	failed <-chan struct{}
	look   func()
	// complete sees to what an installation has left out.
	complete func() error
	// late: the agent had not stopped when the conversation ended.
	late bool
}

// accepted is what the service manager is to tell. A machine that shuts down tells it before
// it ends other services, and waits; where it does not know of that, it tells at the end.
const accepted = svc.AcceptStop | svc.AcceptShutdown | svc.AcceptPreShutdown | svc.AcceptSessionChange | svc.AcceptPowerEvent

// Execute implements svc.Handler.
func (c *conversation) Execute(_ []string, requests <-chan svc.ChangeRequest, changes chan<- svc.Status) (ownCode bool, code uint32) {
	changes <- svc.Status{State: svc.StartPending}
	if err := c.start(); err != nil {
		c.log.Error("the agent cannot be started", "error", err)
		return true, 1
	}
	running := svc.Status{State: svc.Running, Accepts: accepted}
	changes <- running
	// An MSI cannot say reliably what is to happen after a failure, or at the end.
	if err := c.complete(); err != nil {
		c.log.Warn("the service manager does not do all that it should", "error", err)
	}
	for {
		select {
		case <-c.failed:
			// The service manager starts it again as the recovery actions say.
			c.stop()
			return true, 1
		case <-c.ctx.Done():
		case r := <-requests:
			switch r.Cmd {
			case svc.Interrogate:
				changes <- running
				continue
			case svc.SessionChange, svc.PowerEvent:
				// What has changed is read from the system, which knows the whole of it.
				c.look()
				continue
			case svc.Stop, svc.Shutdown, svc.PreShutdown:
			default:
				continue
			}
		}
		changes <- svc.Status{State: svc.StopPending, WaitHint: uint32(stopHint.Milliseconds())}
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			c.stop()
		}()
		bound := time.NewTimer(stopBound)
		defer bound.Stop()
		select {
		case <-stopped:
		case <-bound.C:
			c.late = true // the process ends, and what waits with it
		}
		return false, 0
	}
}

// lookNow has the desktop looked at again.
func (p *program) lookNow() {
	if p.guarding.Load() {
		select {
		case p.looks <- struct{}{}:
		default:
		}
		return
	}
	if d := p.watched.Load(); d != nil {
		(*d).LookNow()
	}
}

// accompany has a service show the icon in each session. It is started by the service, not
// by the person's log-on, so that it shows no console, runs the release that the service
// runs, and is out of the way when the program is replaced.
func (p *program) accompany(d desktop.Desktop) (desktop.Desktop, error) {
	launcher, can := d.(desktop.Launcher)
	if !p.asService || !can {
		return d, nil
	}
	self, err := thisProgram()
	if err != nil {
		return nil, err
	}
	dataDir, err := filepath.Abs(p.settings.dataDir) // it begins in a folder of the person's
	if err != nil {
		return nil, fmt.Errorf("data-dir: %w", err)
	}
	args := []string{trayName, "--" + attachedFlag, "--data-dir", dataDir}
	if at := p.settings.reachAt(); at != "" {
		args = append(args, "--control-socket", at)
	}
	return desktop.Accompany(d, launcher, desktop.Program{Executable: self, Args: args}, p.log), nil
}

// helperOf has a service look into each session by a helper: this program again, with
// a command that nobody else uses.
func (p *program) helperOf() (*desktop.Helper, error) {
	if !p.asService {
		return nil, nil
	}
	if err := p.settings.believed(); err != nil {
		return nil, err
	}
	self, err := thisProgram()
	if err != nil {
		return nil, err
	}
	return &desktop.Helper{Executable: self, Args: []string{helperCommand}}, nil
}

// sessionsAreListed: the system itself lists them.
func sessionsAreListed(context.Context) bool { return true }

// thisProgram is what starts this program again.
func thisProgram() (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program's own file: %w", err)
	}
	return self, nil
}

// systemCommands are commands of this system only.
func systemCommands() []*cobra.Command {
	return []*cobra.Command{{
		Use: helperCommand + " pipe", Short: "Look at this session for the service, which starts this itself", Hidden: true, Args: cobra.ExactArgs(1),
		// It has no settings: all that it does is to answer the service.
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		RunE: func(cmd *cobra.Command, args []string) error {
			debug.SetGCPercent(gcPercent)
			debug.SetMemoryLimit(helperLimit)
			return desktop.ServeSession(cmd.Context(), args[0], os.Stdin)
		},
	}}
}

// afterInstall completes what the service manager's package leaves out.
func afterInstall(name string) error { return completeService(name) }

// completeService sees to what a service is to have beside its program: how long a machine
// that shuts down waits for it, and that it is started again after a failure.
func completeService(name string) error {
	manager, err := mgr.Connect()
	if err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	defer func() { _ = manager.Disconnect() }()
	s, err := manager.OpenService(name)
	if err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	defer s.Close()
	return errors.Join(boundShutDown(s), recoverService(s))
}

// preShutDown is SERVICE_PRESHUTDOWN_INFO.
type preShutDown struct{ timeoutMillis uint32 }

// boundShutDown has a machine that shuts down wait as long as stopping takes: Windows Server
// 2016 would wait for three minutes.
func boundShutDown(s *mgr.Service) error {
	info := preShutDown{uint32(stopHint.Milliseconds())}
	if err := windows.ChangeServiceConfig2(s.Handle, windows.SERVICE_CONFIG_PRESHUTDOWN_INFO, (*byte)(unsafe.Pointer(&info))); err != nil {
		return fmt.Errorf("have the machine wait for the service when it shuts down: %w", err)
	}
	return nil
}

// recoverService has the service manager start the service again after a failure, also
// where it ended in good order with an error. What somebody has decided already stays.
func recoverService(s *mgr.Service) error {
	if decided, err := s.RecoveryActions(); err == nil && len(decided) > 0 {
		return nil
	}
	const day = 24 * 60 * 60
	again := func(pause time.Duration) mgr.RecoveryAction {
		return mgr.RecoveryAction{Type: mgr.ServiceRestart, Delay: pause}
	}
	if err := s.SetRecoveryActions([]mgr.RecoveryAction{again(time.Second), again(10 * time.Second), again(time.Minute)}, day); err != nil {
		return fmt.Errorf("have the service restarted after a failure: %w", err)
	}
	if err := s.SetRecoveryActionsOnNonCrashFailures(true); err != nil {
		return fmt.Errorf("have the service restarted after a failure: %w", err)
	}
	return nil
}

// eventHandler writes to the system's event log.
type eventHandler struct {
	slog.Handler // writes into text
	events       *eventlog.Log
	mu           *sync.Mutex
	text         *bytes.Buffer
}

func newEventHandler(events *eventlog.Log, level slog.Level) *eventHandler {
	text := new(bytes.Buffer)
	return &eventHandler{slog.NewTextHandler(text, &slog.HandlerOptions{Level: level}), events, new(sync.Mutex), text}
}

// Handle implements slog.Handler.
func (h *eventHandler) Handle(ctx context.Context, r slog.Record) error {
	const id = 1
	h.mu.Lock()
	defer h.mu.Unlock()
	h.text.Reset()
	if err := h.Handler.Handle(ctx, r); err != nil {
		return err
	}
	switch {
	case r.Level >= slog.LevelError:
		return h.events.Error(id, h.text.String())
	case r.Level >= slog.LevelWarn:
		return h.events.Warning(id, h.text.String())
	default:
		return h.events.Info(id, h.text.String())
	}
}

// WithAttrs implements slog.Handler.
func (h *eventHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &eventHandler{h.Handler.WithAttrs(attrs), h.events, h.mu, h.text}
}

// WithGroup implements slog.Handler.
func (h *eventHandler) WithGroup(name string) slog.Handler {
	return &eventHandler{h.Handler.WithGroup(name), h.events, h.mu, h.text}
}
