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
	"time"

	"github.com/kardianos/service"
	"github.com/spf13/cobra"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/evidence"
	"github.com/cetrus/cetrus/agent/uplink"
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

// ledgerDays is how long people see their own use.
const ledgerDays = 31

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
	return switchOver(ctx)
}

// serve works in the foreground, or as the service manager asks.
func (p *program) serve(ctx context.Context) error {
	if ran, err := p.underServiceManager(ctx); ran {
		return err
	}
	if service.Interactive() {
		return p.work(ctx)
	}
	config := p.settings.service()
	// Where the agent cannot work, the process ends with an error, and the service
	// manager starts it again as its own rules say.
	config.Option["RunWait"] = func() {
		select {
		case <-ctx.Done():
		case <-p.failed:
		}
	}
	svc, err := service.New(p, config)
	if err != nil {
		return fmt.Errorf("service manager: %w", err)
	}
	return errors.Join(svc.Run(), p.err) // Run has waited for it
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

// watch runs the agent itself, and the one that it begins as where another machine is this
// one.
func (p *program) watch(ctx context.Context) error {
	defer keepSmall(ctx)()
	for {
		if err := p.watchAs(ctx); !errors.Is(err, agent.ErrBeginAnew) {
			return err
		}
	}
}

// watchAs runs the agent that the data folder says.
func (p *program) watchAs(ctx context.Context) (err error) {
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
	plugins, err := s.plugins(d)
	if err != nil {
		return err
	}
	releases, err := s.releases()
	if err != nil {
		return err
	}
	watched, err := p.accompany(d)
	if err != nil {
		return err
	}
	a, err := agent.New(agent.Config{
		DataDir:  s.dataDir,
		Managers: s.managers,
		Uplink:   uplink.Config{TLS: s.tls, Proxy: s.proxy},
		Version:  version,

		EnrollmentToken: s.token,

		JournalBytes:  s.journalBytes,
		ControlSocket: s.serveAt(),
		LedgerDays:    ledgerDays,
		Plugins:       plugins,
		Releases:      releases,
	}, agent.Deps{Desktop: watched, Evidence: evidence.New(), Tracer: tracer, Log: p.log})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// service describes the agent to the service manager. Started by root it serves
// the machine; otherwise it serves the user who installs it, whose desktop it
// can reach without further rights.
func (s *settings) service() *service.Config {
	args := []string{runVerb}
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
	given, err := s.desktopOfInstall(cmd.Context())
	if err != nil {
		return err
	}
	for _, name := range []string{"data-dir", "manager", "manager-ca", "client-certificate", "client-key", "proxy", "control-socket", "display", "xauthority", "journal-bytes", "plugin-dir", "plugin-keys", "release-keys", "release-trial", "log-level", "log-format"} {
		flag := cmd.Root().PersistentFlags().Lookup(name)
		value, found := given[name]
		if _, fromEnvironment := os.LookupEnv(envName(name)); flag.Changed || fromEnvironment {
			value, found = flag.Value.String(), true
		}
		if found {
			if name == "manager" {
				for _, m := range s.managers {
					config.Arguments = append(config.Arguments, "--manager", m)
				}
				continue
			}
			config.Arguments = append(config.Arguments, "--"+name, value)
		}
	}
	svc, err := installed(config)
	if err != nil {
		return err
	}
	if _, err := svc.Status(); err == nil {
		return errors.New("install: the service cetrus-agent is installed already; to give it other settings, `cetrus-agent uninstall` first")
	}
	if err := s.installable(); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	if s.token != "" { // others may read a service's command line
		if err := s.layToken(s.token); err != nil {
			return fmt.Errorf("install: %w", err)
		}
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

// desktopOfInstall are the settings that lead to the desktop that the service is
// installed from, where nobody tells a machine's service which sessions there are.
func (s *settings) desktopOfInstall(ctx context.Context) (map[string]string, error) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 || s.display != "" || sessionsAreListed(ctx) {
		return nil, nil
	}
	display := os.Getenv("DISPLAY")
	if display == "" {
		return nil, errors.New("install: the service would not know which desktop to watch, for this machine has no login manager (logind), and DISPLAY is not set here: name it, as in `cetrus-agent install --display :0`, or put `display: \":0\"` into " + defaultConfigFile())
	}
	given := map[string]string{"display": display}
	if s.xauthority == "" {
		authority := os.Getenv("XAUTHORITY")
		if home, err := os.UserHomeDir(); authority == "" && err == nil {
			authority = filepath.Join(home, ".Xauthority")
		}
		if _, err := os.Stat(authority); err == nil { //nolint:gosec // The person's own file, as the person names it.
			given["xauthority"] = authority
		}
	}
	return given, nil
}

// installed is the service as the service manager knows it, or will.
func installed(config *service.Config) (service.Service, error) {
	svc, err := service.New(new(program), config)
	if err != nil {
		return nil, fmt.Errorf("service manager: %w", err)
	}
	if service.Platform() == "unix-systemv" {
		return &initScript{Service: svc, root: "/", name: config.Name}, nil
	}
	return svc, nil
}

// startGrace is how long a service must run to count as started: what is wrong with its
// settings ends it sooner. It is looked at every startLook.
const (
	startGrace = 1500 * time.Millisecond
	startLook  = 50 * time.Millisecond
)

func control(verb string) func(*cobra.Command, *settings) error {
	return func(cmd *cobra.Command, s *settings) error {
		svc, err := installed(s.service())
		if err != nil {
			return err
		}
		return order(svc, verb, startGrace, cmd.OutOrStdout())
	}
}

// start starts a service and sees that it lives.
func start(svc service.Service, grace time.Duration) error {
	if err := svc.Start(); err != nil {
		return err
	}
	over := time.NewTimer(grace)
	defer over.Stop()
	look := time.NewTicker(startLook)
	defer look.Stop()
	for {
		if status, err := svc.Status(); err == nil && status == service.StatusStopped {
			why := "its log says why"
			if script, ok := svc.(*initScript); ok {
				why = script.lastWords()
			}
			return fmt.Errorf("it ended at once: %s", why)
		}
		select {
		case <-over.C:
			return nil
		case <-look.C:
		}
	}
}

// order asks the service manager to do something with the installed service, and says
// what there was to do.
func order(svc service.Service, verb string, grace time.Duration, out io.Writer) error {
	status, unknown := svc.Status()
	if errors.Is(unknown, service.ErrNotInstalled) {
		whose := "for this machine"
		if os.Geteuid() != 0 && runtime.GOOS != "windows" {
			whose = "for this user; for the machine, ask as root"
		}
		wayOut := "; `cetrus-agent install` installs it, and `cetrus-agent run` runs an agent without"
		if verb == "uninstall" {
			wayOut = ""
		}
		return fmt.Errorf("%s: the service cetrus-agent is not installed %s%s", verb, whose, wayOut)
	}
	running, stopped := unknown == nil && status == service.StatusRunning, unknown == nil && status == service.StatusStopped
	var done string
	var err error
	switch {
	case verb == "start" && running:
		done = "it runs already"
	case verb == "start":
		done, err = "started", start(svc, grace)
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
		if script, ok := svc.(*initScript); ok {
			for _, log := range script.logs() {
				done += "; its log stays: " + log
			}
		}
	}
	switch {
	case err != nil && unknown != nil:
		// Some service managers do not tell what they do not know from what fails.
		wayOut := "`cetrus-agent install` installs it"
		if verb == "uninstall" {
			wayOut = "there is nothing to remove"
		}
		return fmt.Errorf("%s the service: %w, and its status cannot be told: %w; if it is not installed, %s", verb, err, unknown, wayOut)
	case err != nil:
		return fmt.Errorf("%s the service: %w", verb, err)
	}
	fmt.Fprintln(out, done)
	return nil
}
