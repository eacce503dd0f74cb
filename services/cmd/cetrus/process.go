package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/services/gateway"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/mail"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/services/platform/rpc"
)

const (
	// stopWithin is how long all parts together may take to stop, where the settings do not say.
	stopWithin = 5 * time.Second
	// goneWithin is how long what is stopped the hard way then may take: a server that was started here must not
	// outlive this process.
	goneWithin = time.Second
)

// process is one running target, and what its parts share.
type process struct {
	settings settings
	target   target
	log      *slog.Logger
	// out takes what a person at the terminal must know.
	out io.Writer

	// tls is how others are known; health is what may be asked about this process.
	tls    encryption
	health health

	// keys are the account's.
	keys *authn.Keys

	// arrived ends what answers in the gateway's place while the parts before it start.
	arrived func()

	// stopping is closed as soon as the parts are stopped, one after the other; stopBy says until when.
	stopping chan struct{}
	stopBy   time.Time

	// Set by the parts as they start.
	nats      *natsserver.Server
	platform  natsserver.User // who runs that server
	callers   *authn.Authenticator
	managers  *managerBook
	names     *keyring.Keyring
	mails     *mail.Sender // nil where none are sent
	services  []rpc.Service
	addresses addresses
}

// newProcess prepares the data directory; nothing runs yet.
func newProcess(s settings, t target, log *slog.Logger, out io.Writer) (*process, error) {
	dir, err := filepath.Abs(s.dataDir)
	if err != nil {
		return nil, errs.Wrap("cetrus", s.dataDir, err)
	}
	s.dataDir, s.stopWithin = dir, cmp.Or(s.stopWithin, stopWithin)
	if _, err := os.Stat(filepath.Join(dir, restoringFile)); err == nil && t.name != restoreTarget {
		return nil, errs.New(errs.Precondition, "cetrus", "data directory "+dir, "is of a restoration that did not end: empty it, and the database, and restore again")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, errs.As(errs.Precondition, "cetrus", "data directory "+dir, "cannot be made; choose another with --data-dir or "+config.EnvName("data-dir"), err)
	}
	if os.Geteuid() == 0 {
		// The private PostgreSQL server runs as somebody else, who must be able to
		// pass through. What is secret in here is readable by its owner only.
		if err := openPath(dir); err != nil {
			return nil, errs.As(errs.Precondition, "cetrus", "data directory "+dir, "cannot be opened for the user of PostgreSQL", err)
		}
	}
	return &process{settings: s, target: t, log: log, out: out, stopping: make(chan struct{})}, nil
}

func openPath(dir string) error {
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm()&0o111 == 0o111 {
		return err
	}
	return os.Chmod(dir, info.Mode().Perm()|0o111)
}

// running is a part that was started.
type running struct {
	name string
	stop context.CancelFunc
	done chan struct{}
}

// run starts all parts, calls ready, and runs until ctx ends or a part fails;
// then it stops what was started, the last first, within stopWithin.
func (p *process) run(ctx context.Context, ready func()) (err error) {
	began := time.Now()
	unlock, err := lockDir(p.settings.dataDir, p.target.name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := p.checkAddresses(ctx, append(everywhere(), p.target.parts...)...); err != nil {
		return err
	}
	if err := errors.Join(p.openAccount(), p.openEncryption()); err != nil {
		return err
	}

	if err := p.answerStarting(ctx); err != nil {
		return err
	}
	defer p.arrived()

	var started []running
	failed := make(chan error, len(p.target.parts))
	defer func() { err = errors.Join(err, p.stop(started)) }()
	for _, part := range append(everywhere(), p.target.parts...) {
		p.health.start(part.name)
		run, err := part.start(ctx, p)
		if err != nil {
			// Somebody may have taken an address since it was looked at.
			if taken := p.checkAddresses(ctx, part); taken != nil {
				err = taken
			}
			return fmt.Errorf("start %s: %w", part.name, err)
		}
		if run == nil {
			continue
		}
		partCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
		r := running{name: part.name, stop: stop, done: make(chan struct{})}
		started = append(started, r)
		go func() {
			defer close(r.done)
			err := run(partCtx)
			if err == nil && partCtx.Err() == nil {
				err = errors.New("it ended by itself")
			}
			if err != nil {
				failed <- fmt.Errorf("%s: %w", part.name, err)
			}
		}()
		p.log.DebugContext(ctx, "part started", "part", part.name, "after", time.Since(began).Round(time.Millisecond))
	}
	if err := p.addresses.write(p.settings.dataDir, p.target.name); err != nil {
		return err
	}
	defer func() {
		if rmErr := os.Remove(filepath.Join(p.settings.dataDir, addressesFile(p.target.name))); !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}()
	p.health.start("")
	p.log.InfoContext(ctx, "ready", "target", p.target.name, "after", time.Since(began).Round(time.Millisecond))
	ready()

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// answerStarting has the gateway's address say that the platform starts: what was killed reads back first what it
// was writing, which takes a while.
func (p *process) answerStarting(ctx context.Context) error {
	p.arrived = func() {}
	_, port, err := net.SplitHostPort(p.settings.restListen)
	if err != nil || port == "0" || !slices.ContainsFunc(p.target.parts, func(part part) bool { return part.name == gatewayPart.name }) {
		return nil //nolint:nilerr // the gateway says what is wrong with its address
	}
	stop, err := gateway.AnswerStarting(ctx, p.settings.restListen, p.tls.restTLS())
	if err == nil {
		p.arrived = sync.OnceFunc(stop)
	}
	return err
}

// openAccount opens the account, or makes it at first start. Targets that share
// a data directory may start at once; one of them makes it. Where credentials are given, so is the account.
func (p *process) openAccount() (err error) {
	var keys *authn.Keys
	fresh := ""
	if p.settings.credentialsDir != "" {
		path := filepath.Join(p.settings.credentialsDir, authn.AccountFile)
		if keys, err = authn.Load(path); errors.Is(err, fs.ErrNotExist) {
			err = missingCredential(path, err)
		}
	} else {
		unlock, lockErr := lockFile(filepath.Join(p.settings.dataDir, "lock.account"), lockWait)
		if lockErr != nil {
			return lockErr
		}
		defer unlock()
		keys, fresh, err = authn.Bootstrap(p.settings.dataDir, time.Now())
	}
	if err != nil {
		return err
	}
	p.keys, p.addresses.AccountID, p.addresses.PID = keys, keys.Account().String(), os.Getpid()
	if fresh != "" {
		// Not the key: what is said here ends in logs, which others may read.
		_, _ = fmt.Fprintf(p.out, "A new account, %s; its API key is in %s.\n", keys.Account(), filepath.Join(p.settings.dataDir, authn.KeyFile))
	}
	return nil
}

// stop stops parts, the last started first.
func (p *process) stop(started []running) error {
	began := time.Now()
	p.stopBy = began.Add(p.settings.stopWithin)
	close(p.stopping)
	p.health.stop()
	deadline := time.NewTimer(p.settings.stopWithin)
	defer deadline.Stop()
	for i := len(started) - 1; i >= 0; i-- {
		r := started[i]
		r.stop()
		select {
		case <-r.done:
			p.log.Debug("part stopped", "part", r.name, "after", time.Since(began).Round(time.Millisecond))
		case <-deadline.C:
			rest := started[:i]
			for i := len(rest) - 1; i >= 0; i-- { // in the order still, and at once
				rest[i].stop()
			}
			gone := time.NewTimer(goneWithin)
			defer gone.Stop()
			for i := len(rest) - 1; i >= 0; i-- {
				select {
				case <-rest[i].done:
				case <-gone.C:
					return fmt.Errorf("%s and %s did not stop within %s; the process ends all the same", r.name, rest[i].name, p.settings.stopWithin)
				}
			}
			return fmt.Errorf("%s did not stop within %s; the process ends all the same", r.name, p.settings.stopWithin)
		}
	}
	p.log.Info("stopped", "target", p.target.name, "after", time.Since(began).Round(time.Millisecond))
	return nil
}

// checkAddresses tells all addresses of parts that do not run that are taken, with
// the settings that would move them.
func (p *process) checkAddresses(ctx context.Context, parts ...part) error {
	var problems []error
	listened := p.settings.listened()
	for _, part := range parts {
		for _, setting := range part.listens {
			address := listened[setting]
			if address == "" || part.name == managerPart.name && !p.settings.manager {
				continue
			}
			lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
			if err == nil {
				if at, ok := lis.Addr().(*net.TCPAddr); ok && !at.IP.IsLoopback() && !p.encrypts(setting) {
					p.log.WarnContext(ctx, "other machines can reach this address, and nothing is encrypted: put a proxy with TLS before it", "setting", setting, "address", address)
				}
				err = lis.Close()
			}
			switch {
			case errors.Is(err, syscall.EADDRINUSE):
				problems = append(problems, errs.As(errs.Precondition, "cetrus", "address "+address,
					fmt.Sprintf("is in use by another program: stop that, or choose another with --%s or %s (port 0 takes a free one)", setting, config.EnvName(setting)), err))
			case err != nil:
				problems = append(problems, errs.As(errs.Precondition, "cetrus", "address "+address,
					fmt.Sprintf("cannot be listened on: correct --%s or %s", setting, config.EnvName(setting)), err))
			}
		}
	}
	return errors.Join(problems...)
}

// encrypts tells whether an address needs no proxy before it: what is said there is encrypted, or concerns nobody.
func (p *process) encrypts(setting string) bool {
	switch setting {
	case "health-listen":
		return true
	case "rest-listen":
		return p.settings.tlsDir != "" || p.settings.restTLSDir != ""
	default:
		return p.settings.tlsDir != ""
	}
}

// connect connects to NATS with the rights of a role (natsserver.Roles): to the server of this
// process, the one that the settings name, or the one of the same data directory. It waits for one that
// cannot be reached yet, until ctx ends.
func (p *process) connect(ctx context.Context, role, name string) (*nats.Conn, error) {
	// A right that is missing shows as a question that is never answered, unless it is told.
	told := nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		p.log.Error("NATS refuses what a part asks for, or cannot keep up", "part", name, "user", role, "error", err)
	})
	if p.nats != nil {
		nc, err := p.nats.Connect(p.managers.part(role), nats.Name(name), told)
		if err == nil {
			p.health.watch(name, nc)
		}
		return nc, err
	}
	url := p.settings.natsURL
	options, err := p.settings.natsOptions(role, p.tls)
	if err != nil {
		return nil, err
	}
	if url == "" {
		other, err := addressesOf(p.settings.dataDir, "nats")
		if err != nil {
			return nil, err
		}
		url = other.NATSURLs[role]
	}
	if url == "" {
		return nil, config.Problem("nats-url", "", "this target needs a NATS server: nats://user:password@host:port, or `cetrus nats` on the same data directory")
	}
	nc, err := nats.Connect(url, slices.Concat([]nats.Option{nats.Name(name), told}, options, natsPatience(), p.toldOnce(name))...)
	if err != nil {
		return nil, errs.As(errs.Unavailable, "cetrus", "NATS", "cannot be reached as nats-url says", err)
	}
	p.health.watch(name, nc)
	if err := reached(ctx, nc); err != nil {
		nc.Close()
		return nil, err
	}
	return nc, nil
}

// database is the URL of PostgreSQL: of this process's server, as set, or of the
// one of the same data directory.
func (p *process) database() (string, error) {
	url := p.addresses.PostgresURL
	if url == "" {
		url = p.settings.postgresURL
	}
	if url == "" {
		other, err := addressesOf(p.settings.dataDir, "postgres")
		if err != nil {
			return "", err
		}
		url = other.PostgresURL
	}
	if url == "" {
		return "", config.Problem("postgres-url", "", "this target needs PostgreSQL: postgres://user:password@host:port/database, or `cetrus postgres` on the same data directory")
	}
	return url, nil
}

// service is the gRPC address of a service: of this process, as set, or of the
// same data directory.
func (p *process) service(name, set string) (string, error) {
	address := p.addresses.GRPC
	if address == "" {
		address = set
	}
	if address == "" {
		other, err := addressesOf(p.settings.dataDir, name)
		if err != nil {
			return "", err
		}
		address = other.GRPC
	}
	if address == "" {
		return "", config.Problem(name+"-address", "", "this target needs "+name+": host:port, or `cetrus "+name+"` on the same data directory")
	}
	return address, nil
}

// announce tells a person where everything is.
func (p *process) announce() {
	if p.target.name != "all" {
		return
	}
	a := p.addresses
	key := "in " + filepath.Join(p.settings.dataDir, authn.KeyFile)
	if _, err := os.Stat(filepath.Join(p.settings.dataDir, authn.KeyFile)); errors.Is(err, fs.ErrNotExist) {
		key = "not kept here any more; a new one: cetrus key new --data-dir " + p.settings.dataDir
	}
	_, _ = fmt.Fprintf(p.out, "Cetrus is running.\n  API       %s/v1   to read and try it: %s/docs/\n  gRPC      %s\n  API key   %s\n",
		a.REST, a.REST, a.GRPC, key)
	if a.ManagerAgents != "" {
		_, _ = fmt.Fprintf(p.out, "  Agents    %s\n  Manager   %s\n", a.ManagerAgents, a.ManagerStatus)
	}
	p.announceFirstPassword()
	_, _ = fmt.Fprintf(p.out, "  Data      %s\nCtrl-C stops it.\n", p.settings.dataDir)
}

// announceFirstPassword shows the first administrator's password, once and on a terminal only: what is said
// elsewhere ends in logs, which others may read.
func (p *process) announceFirstPassword() {
	path := filepath.Join(p.settings.dataDir, authn.FirstPasswordFile)
	text, err := os.ReadFile(path)
	if err != nil {
		return // it was shown, or there never was one
	}
	password := "in " + path
	if f, ok := p.out.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			password = strings.TrimSpace(string(text)) + ", shown this once; to be changed at the first sign-in"
			defer func() { _ = os.Remove(path) }() // it is shown again then
		}
	}
	_, _ = fmt.Fprintf(p.out, "  Sign in   account operator, login admin, one-time password %s\n", password)
}
