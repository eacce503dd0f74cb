package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/mail/inbox"
	"github.com/cetrus/cetrus/tools/firm"
	"github.com/cetrus/cetrus/tools/office"
	"github.com/cetrus/cetrus/tools/stack"
)

// gcPercent trades some 100 MB for a tenth of the time that playing the past takes.
const gcPercent = 400

// settings are what the runner is told.
type settings struct {
	dataDir string // empty: as the kind of the run says
	binDir  string
	demo    bool
	// whyDemo says why nothing of this machine is measured.
	whyDemo  string
	days     int
	people   int // 0: all
	seed     uint64
	forward  stringList // further arguments for `cetrus all`
	duration time.Duration
}

type stringList []string

// String implements flag.Value.
func (l *stringList) String() string { return strings.Join(*l, " ") }

// Set implements flag.Value.
func (l *stringList) Set(value string) error {
	*l = append(*l, value)
	return nil
}

// Main is the whole program; it returns its exit code.
func Main(args []string, stdout, stderr *os.File) int {
	s, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if s.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.duration)
		defer cancel()
	}
	if err := run(ctx, s, stdout); err != nil {
		fmt.Fprintf(stderr, "\ncetrus: %v\n", err)
		return 1
	}
	return 0
}

func parse(args []string, stderr io.Writer) (settings, error) {
	s := settings{}
	executable, err := os.Executable()
	if err != nil {
		return s, err
	}
	flags := flag.NewFlagSet("cetrus-dev", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&s.dataDir, "data-dir", "", "folder of everything that is kept (default "+defaultDir(false)+", or "+defaultDir(true)+" for a simulated company)")
	flags.StringVar(&s.binDir, "bin-dir", filepath.Dir(executable), "folder of the binaries cetrus and cetrus-agent")
	demo := os.Getenv("DEMO")
	flags.BoolVar(&s.demo, "demo", demo != "" && demo != "0", "show a simulated company, even where there is a desktop (environment: DEMO=1)")
	flags.IntVar(&s.days, "days", firm.Days, "days of history that the company has")
	flags.IntVar(&s.people, "people", 0, "how many of its people there are; 0: all")
	flags.Uint64Var(&s.seed, "seed", 1, "which company")
	flags.DurationVar(&s.duration, "for", 0, "stop after this long; 0: on Ctrl-C")
	flags.Var(&s.forward, "platform", "a further argument for `cetrus all`, such as --rest-listen=127.0.0.1:0; repeatable")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	return s, nil
}

// What is measured and what is simulated never share a folder: reports would mix
// invented people with real ones, and nothing could tell them apart again.
const (
	agentDir   = "agent"
	companyDir = "company"
	// officeDir is that of releases in which the company was an office of 25.
	officeDir = "office"
)

func defaultDir(demo bool) string {
	if demo {
		return ".data-demo"
	}
	return ".data"
}

// settle decides what kind of run this is, and where it keeps what it makes.
func (s *settings) settle(display string) error {
	if s.demo {
		s.whyDemo = "as DEMO=1 or --demo asks for"
	} else if why := unreachable(display); why != "" {
		s.demo, s.whyDemo = true, "as "+why
	}
	if s.dataDir == "" {
		s.dataDir = defaultDir(s.demo)
	}
	dir, err := filepath.Abs(s.dataDir)
	if err != nil {
		return err
	}
	s.dataDir = dir
	invented := fmt.Sprintf("people of a simulated company, and this run would measure real ones: set DATA to another folder, or remove %s if you do not need it", dir)
	refused := map[string]string{companyDir: invented, officeDir: invented}
	if s.demo {
		refused = map[string]string{
			agentDir:  fmt.Sprintf("what was measured on this machine, and a simulated company would work in it (%s): set DATA to another folder", s.whyDemo),
			officeDir: fmt.Sprintf("the office of 25 of an earlier release, and another company works now: remove %s, in which everybody is invented, or set DATA to another folder", dir),
		}
	}
	for _, kept := range slices.Sorted(maps.Keys(refused)) {
		_, err = os.Stat(filepath.Join(dir, kept))
		switch {
		case err == nil:
			return fmt.Errorf("%s holds %s", dir, refused[kept])
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
	}
	return nil
}

func run(ctx context.Context, s settings, out *os.File) (err error) {
	begun := time.Now()
	if err := s.settle(os.Getenv("DISPLAY")); err != nil {
		return err
	}
	// Others may pass through, as the private PostgreSQL of a root must, but see nothing.
	if err := os.MkdirAll(s.dataDir, 0o711); err != nil {
		return err
	}
	unlock, err := lock(filepath.Join(s.dataDir, "lock"))
	if err != nil {
		return err
	}
	defer unlock()

	box, err := s.startInbox(ctx)
	if err != nil {
		return err
	}
	if box != nil {
		taking, stopTaking := context.WithCancel(context.WithoutCancel(ctx))
		taken := make(chan error, 1)
		go func() { taken <- box.Run(taking) }()
		defer func() {
			stopTaking()
			err = errors.Join(err, <-taken)
		}()
	}

	// Everybody waits for the platform to stop, and it for the servers that it has started: what is killed does not.
	patience := platformPatience
	if s.demo {
		patience = companyPatience
	}
	s.forward = append(stringList{"--stop-within=" + (patience - stopMargin).String()}, s.forward...)

	fmt.Fprintln(out, "Starting the platform and a Manager …")
	logs := filepath.Join(s.dataDir, "log")
	platformLog, agentLog, companyLog := filepath.Join(logs, "platform.log"), filepath.Join(logs, "agent.log"), filepath.Join(logs, "company.log")
	p, err := startPlatform(ctx, s, out, platformLog)
	if err != nil {
		return silenced(ctx, err)
	}
	history := &progress{}
	v := &view{
		api: p.API, base: p.REST, key: p.Key, newKey: func() (string, error) { return stack.Key(p.Dir) },
		demo: s.demo, out: out, history: history,
	}

	// Everything is stopped in the order of the pipeline: the platform after the
	// agents, when keeping ends.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	keeping, stopKeeping := context.WithCancel(context.WithoutCancel(ctx))
	kept := make(chan error, 1)
	go func() {
		k := &keeper{name: p.Name(), patience: patience, say: v.say, pause: shortestPause, start: func(ctx context.Context) (program, error) {
			return restartPlatform(ctx, s, p, platformLog)
		}}
		err := k.keep(keeping, p.Process)
		cancel(err)
		kept <- err
	}()
	defer func() {
		stopKeeping()
		if keptErr := <-kept; err == nil { // else it is the same, or less to the point
			err = keptErr
		}
	}()
	if s.demo {
		err = setUp(ctx, p.API)
	} else {
		_, err = ensureApplications(ctx, p.API, office.Applications())
	}
	if err != nil {
		return silenced(ctx, err)
	}
	v.greeting = greeting(s, p, box)
	fmt.Fprintf(out, "Ready after %.1f s.\n%s", time.Since(begun).Seconds(), v.greeting)

	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(nil)
	watching := &keeper{name: agentName, patience: agentPatience, say: v.say, pause: shortestPause, start: func(ctx context.Context) (program, error) {
		return startAgent(ctx, s, p, agentLog)
	}}
	if s.demo {
		log, err := openLog(companyLog)
		if err != nil {
			return err
		}
		defer log.Close()
		logger := slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		watching.name, watching.patience = companyName, companyPatience
		// The platform and the console are to answer while the past is played, which makes
		// much that is soon forgotten.
		runtime.GOMAXPROCS(max(1, runtime.NumCPU()/2))
		debug.SetGCPercent(gcPercent)
		watching.start = func(ctx context.Context) (program, error) { return startCompany(ctx, s, p, history, logger) }
	}
	watched, err := watching.start(ctx)
	if err != nil {
		return err
	}
	running.Go(func() {
		if err := watching.keep(ctx, watched); err != nil {
			cancel(err)
		}
	})
	v.run(ctx)
	fmt.Fprintln(out, "\nStopping …")
	return silenced(ctx, context.Cause(ctx))
}

// silenced is nil where the person, or the time given, has ended the run.
func silenced(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if cause != nil && (errors.Is(cause, context.Canceled) || errors.Is(cause, context.DeadlineExceeded)) {
		return nil
	}
	return err
}

// notMeasured says that nobody on the screen is real, and why.
func (s *settings) notMeasured() string {
	return fmt.Sprintf("A simulated company works, %s: everybody in it is invented, and nothing of this machine is measured.", s.whyDemo)
}

func greeting(s settings, p *stack.Platform, box *inbox.Inbox) string {
	demo, mails := "", ""
	if box != nil {
		mails = "\n  mails     " + box.WebURL() + "        (what people would receive)"
	}
	if s.demo {
		demo = s.notMeasured() + "\n"
	}
	signIn, ask := "", fmt.Sprintf("(people sign in at the console, %s/; programs as docs/identity.md says)", p.REST)
	if password := firstPassword(filepath.Join(s.dataDir, "platform")); password != "" {
		signIn = "\n  sign in   account operator, login admin, one-time password " + password + " (shown this once; to be changed at the first sign-in)"
		ask = fmt.Sprintf(`curl %s/v1/sessions:signIn -d '{"account_name":"operator","login_name":"admin","password":"…","new_password":"…"}'
      (signs in for the first time; more in docs/identity.md)`, p.REST)
	}
	return demo + fmt.Sprintf(`
  console   %s/
  API       %[1]s/v1     (documentation: %[1]s/docs)
  key       %s        (of who runs this platform: it may do everything, in nobody's name, and is not listed among API keys)
  Manager   %s        (what agents sent lately)%s%s
  data      %s

Try:  curl -H 'Authorization: Bearer %[2]s' %[1]s/v1/applications
      CETRUS_SERVER=%[1]s CETRUS_API_KEY=%[2]s %[8]s get applications
      %[7]s

`, p.REST, p.Key, p.ManagerStatus, mails, signIn, s.dataDir, ask, ctlPath(s.binDir))
}

// ctlPath is how cetrusctl is typed from here.
func ctlPath(binDir string) string {
	path := filepath.Join(binDir, "cetrusctl")
	if here, err := os.Getwd(); err == nil {
		if near, err := filepath.Rel(here, path); err == nil && !strings.HasPrefix(near, "..") {
			return near
		}
	}
	return path
}

// firstPassword takes the first administrator's password out of the folder of the platform, where it lies
// until somebody was shown it; empty where it is not there.
func firstPassword(dir string) string {
	path := filepath.Join(dir, authn.FirstPasswordFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	_ = os.Remove(path) // it is shown again then
	return strings.TrimSpace(string(text))
}

// unreachable says why no X11 desktop can be measured; empty where one can be.
func unreachable(display string) string {
	switch {
	case display == "":
		return "no X11 desktop is there (DISPLAY is not set)"
	case !reachable(display):
		return "no X11 desktop answers (DISPLAY is " + display + ")"
	default:
		return ""
	}
}

// reachable tells whether an X server listens on a display.
func reachable(display string) bool {
	host, number, found := strings.Cut(display, ":")
	if !found {
		return false
	}
	number, _, _ = strings.Cut(number, ".")
	network, address := "unix", "/tmp/.X11-unix/X"+number
	if host != "" && host != "unix" {
		var port int
		if _, err := fmt.Sscanf(number, "%d", &port); err != nil {
			return false
		}
		network, address = "tcp", net.JoinHostPort(host, fmt.Sprint(6000+port))
	}
	connection, err := net.DialTimeout(network, address, time.Second)
	if err != nil {
		return false
	}
	return connection.Close() == nil
}

// lock keeps a second runner out of the same folder.
func lock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another `make run` uses %s: stop it, or set DATA to another folder", filepath.Dir(path)), file.Close())
	}
	return func() { file.Close() }, nil
}
