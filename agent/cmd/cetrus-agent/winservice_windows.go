package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/eventlog"
	"golang.org/x/sys/windows/svc/mgr"

	"github.com/cetrus/cetrus/agent/desktop"
)

const (
	serviceName   = "cetrus-agent"
	helperCommand = "session-helper"
	// stopHint is how long the service manager is told that stopping takes; a machine
	// that shuts down gives no more.
	stopHint = 10 * time.Second
	// helperLimit is what a helper's Go runtime is told to stay below, in bytes.
	helperLimit = 8 << 20
)

// systemPart is what this system needs of a program.
type systemPart struct {
	// asService: a service manager is talked to, and the whole machine is watched.
	asService bool
	watched   atomic.Pointer[desktop.Desktop]
}

func (s *systemPart) watching(d desktop.Desktop) { s.watched.Store(&d) }

// underServiceManager answers the service manager, where that has started the program.
// Whether it has is asked of the manager itself: the way to find out by the session's
// number does not hold everywhere.
func (p *program) underServiceManager(ctx context.Context) (ran bool, err error) {
	p.asService = true
	if events, err := eventlog.Open(serviceName); err == nil {
		defer events.Close()
		if level, err := p.settings.level(); err == nil {
			before := p.log
			p.log = slog.New(newEventHandler(events, level))
			defer func() { p.log = before }()
		}
	}
	err = svc.Run(serviceName, &conversation{program: p, ctx: ctx})
	if errors.Is(err, windows.ERROR_FAILED_SERVICE_CONTROLLER_CONNECT) {
		p.asService = false
		return false, nil
	}
	return true, errors.Join(err, p.err)
}

// conversation is what the service manager says, and what is done about it.
type conversation struct {
	program *program
	ctx     context.Context //nolint:containedctx // svc's interface has no room for one.
}

// Execute implements svc.Handler.
func (c *conversation) Execute(_ []string, requests <-chan svc.ChangeRequest, changes chan<- svc.Status) (ownCode bool, code uint32) {
	const accepted = svc.AcceptStop | svc.AcceptShutdown | svc.AcceptPreShutdown | svc.AcceptSessionChange | svc.AcceptPowerEvent
	changes <- svc.Status{State: svc.StartPending}
	p := c.program
	if err := p.Start(nil); err != nil {
		p.err = err
		return true, 1
	}
	running := svc.Status{State: svc.Running, Accepts: accepted}
	changes <- running
	// An MSI cannot say reliably what is to happen after a failure.
	if err := recoverService(serviceName); err != nil {
		p.log.Warn("after a failure the service is not started again", "error", err)
	}
	for {
		select {
		case <-p.failed:
			// The service manager starts it again as the recovery actions say.
			p.running.Wait()
			return true, 1
		case <-c.ctx.Done():
		case r := <-requests:
			switch r.Cmd {
			case svc.Interrogate:
				changes <- running
				continue
			case svc.SessionChange, svc.PowerEvent:
				// What has changed is read from the system, which knows the whole of it.
				p.lookNow()
				continue
			case svc.Stop, svc.Shutdown, svc.PreShutdown:
			default:
				continue
			}
		}
		changes <- svc.Status{State: svc.StopPending, WaitHint: uint32(stopHint.Milliseconds())}
		_ = p.Stop(nil)
		return false, 0
	}
}

// lookNow has the desktop looked at again.
func (p *program) lookNow() {
	if d := p.watched.Load(); d != nil {
		(*d).LookNow()
	}
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
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program's own file: %w", err)
	}
	return &desktop.Helper{Executable: self, Args: []string{helperCommand}}, nil
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
func afterInstall(name string) error { return recoverService(name) }

// recoverService has the service manager start the service again after a failure, also
// where it ended in good order with an error. What somebody has decided already stays.
func recoverService(name string) error {
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
