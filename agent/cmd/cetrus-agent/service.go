package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/kardianos/service"
	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/desktop"
)

// How the Go runtime is told to be small. The agent works for a millisecond a
// second; memory matters, throughput does not.
const (
	gcPercent = 50
	// memoryLimit is soft, in bytes of what the runtime has mapped, not all of it
	// touched. Below 10 MB it collects without end.
	memoryLimit = 12 << 20
	processors  = 1
)

// serve runs the agent until it is told to stop.
func serve(ctx context.Context, s *settings, logTo io.Writer) error {
	runtime.GOMAXPROCS(processors)
	debug.SetGCPercent(gcPercent)
	debug.SetMemoryLimit(memoryLimit)
	log, err := s.logger(logTo)
	if err != nil {
		return err
	}
	if over, err := s.launch(ctx, log); over || err != nil {
		return err
	}
	program := &program{settings: s, log: log, failed: make(chan struct{})}
	if err := program.serve(ctx); !errors.Is(err, agent.ErrSwitch) {
		return err
	}
	return switchOver()
}

// serve works in the foreground, or as the service manager asks.
func (program *program) serve(ctx context.Context) error {
	if ran, err := program.underServiceManager(ctx); ran {
		return err
	}
	if service.Interactive() {
		return program.work(ctx)
	}
	config := program.settings.service()
	// Where the agent cannot work, the process ends with an error, and the service
	// manager starts it again as its own rules say.
	config.Option["RunWait"] = func() {
		select {
		case <-ctx.Done():
		case <-program.failed:
		}
	}
	svc, err := service.New(program, config)
	if err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	return errors.Join(svc.Run(), program.err) // Run has waited for it
}

func (s *settings) logger(w io.Writer) (*slog.Logger, error) {
	level, err := s.level()
	if err != nil {
		return nil, err
	}
	options := &slog.HandlerOptions{Level: level}
	if s.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return slog.New(slog.NewTextHandler(w, options)), nil
}

// program is what a service manager starts and stops.
type program struct {
	settings *settings
	log      *slog.Logger

	stop    context.CancelFunc
	running sync.WaitGroup
	systemPart
	// failed is closed when the agent has ended with err.
	failed chan struct{}
	err    error
}

// Start implements service.Interface.
func (p *program) Start(service.Service) error {
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	p.running.Go(func() {
		if p.err = p.work(ctx); p.err != nil {
			close(p.failed)
		}
	})
	return nil
}

// Stop implements service.Interface.
func (p *program) Stop(service.Service) error {
	p.stop()
	p.running.Wait()
	return nil
}

// work runs the agent.
func (p *program) work(ctx context.Context) (err error) {
	s := p.settings
	helper, err := p.helperOf()
	if err != nil {
		return err
	}
	d, err := desktop.Open(desktop.Config{Display: s.display, Authority: s.xauthority, Helper: helper, Log: p.log})
	if err != nil {
		return err
	}
	p.watching(d)
	tracer, shutDown, err := tracing(ctx, version)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, shutDown()) }()
	plugins, err := s.plugins()
	if err != nil {
		return err
	}
	releases, err := s.releases()
	if err != nil {
		return err
	}
	a, err := agent.New(agent.Config{
		DataDir:       s.dataDir,
		Managers:      s.managers,
		Version:       version,
		JournalBytes:  s.journalBytes,
		ControlSocket: s.controlSocket,
		Plugins:       plugins,
		Releases:      releases,
	}, agent.Deps{Desktop: d, Tracer: tracer, Log: p.log})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// service describes the agent to the service manager. Started by root it serves
// the machine; otherwise it serves the user who installs it, whose desktop it
// can reach without further rights.
func (s *settings) service() *service.Config {
	args := []string{"run"}
	if s.configFile != "" {
		if file, err := filepath.Abs(s.configFile); err == nil {
			args = append(args, "--"+configFlag, file)
		}
	}
	return &service.Config{
		Name:        "cetrus-agent",
		DisplayName: "Cetrus agent",
		Description: "Tells the Cetrus Manager who uses which monitored application.",
		Arguments:   args,
		Option: service.KeyValue{
			"UserService": os.Geteuid() != 0 && runtime.GOOS != "windows",
			"Restart":     "always",
		},
	}
}

type serviceVerb struct {
	name, short string
	do          func(*cobra.Command, *settings) error
}

var serviceVerbs = []serviceVerb{
	{"install", "Install as a service; the settings given now are its settings", install},
	{"uninstall", "Remove the service; what it has recorded stays in the data folder", control("uninstall")},
	{"start", "Start the installed service", control("start")},
	{"stop", "Stop the installed service", control("stop")},
}

// install registers the service with the settings that were given.
func install(cmd *cobra.Command, s *settings) error {
	config := s.service()
	for _, name := range []string{"data-dir", "manager", "control-socket", "display", "xauthority", "journal-bytes", "plugin-dir", "plugin-keys", "release-keys", "release-trial", "log-level", "log-format"} {
		flag := cmd.Root().PersistentFlags().Lookup(name)
		if flag.Changed {
			value := flag.Value.String()
			if name == "manager" {
				for _, m := range s.managers {
					config.Arguments = append(config.Arguments, "--manager", m)
				}
				continue
			}
			config.Arguments = append(config.Arguments, "--"+name, value)
		}
	}
	svc, err := service.New(new(program), config)
	if err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	if err := svc.Install(); err != nil {
		return fmt.Errorf("install the service: %w", err)
	}
	if err := afterInstall(config.Name); err != nil {
		fmt.Fprintf(cmd.ErrOrStderr(), "cetrus-agent: the service is installed, but: %v\n", err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "installed as a service of %s; `cetrus-agent start` starts it\n", service.Platform())
	return nil
}

func control(verb string) func(*cobra.Command, *settings) error {
	return func(cmd *cobra.Command, s *settings) error {
		svc, err := service.New(new(program), s.service())
		if err != nil {
			return fmt.Errorf("service manager: %w", err)
		}
		return order(svc, verb, cmd.OutOrStdout())
	}
}

// order asks the service manager to do something with the installed service, and says
// what there was to do.
func order(svc service.Service, verb string, out io.Writer) error {
	status, unknown := svc.Status()
	if errors.Is(unknown, service.ErrNotInstalled) {
		whose := "for this machine"
		if os.Geteuid() != 0 && runtime.GOOS != "windows" {
			whose = "for this user; for the machine, ask as root"
		}
		return fmt.Errorf("%s: the service cetrus-agent is not installed %s; `cetrus-agent install` installs it, and `cetrus-agent run` runs an agent without", verb, whose)
	}
	running, stopped := unknown == nil && status == service.StatusRunning, unknown == nil && status == service.StatusStopped
	var done string
	var err error
	switch {
	case verb == "start" && running:
		done = "it runs already"
	case verb == "start":
		done, err = "started", svc.Start()
	case verb == "stop" && stopped:
		done = "it does not run"
	case verb == "stop":
		done, err = "stopped", svc.Stop()
	default:
		if running {
			err = svc.Stop()
		}
		if done = "removed"; err == nil {
			err = svc.Uninstall()
		}
	}
	switch {
	case err != nil && unknown != nil:
		// Some service managers do not tell what they do not know from what fails.
		return fmt.Errorf("%s the service: %w, and its status cannot be told: %w; if it is not installed, `cetrus-agent install` installs it", verb, err, unknown)
	case err != nil:
		return fmt.Errorf("%s the service: %w", verb, err)
	}
	fmt.Fprintln(out, done)
	return nil
}
