package postgres

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/cetrus/cetrus/services/platform/ports"
)

const (
	superuser    = "cetrus"
	databaseName = "cetrus"
	// startPatience is how long a first start may be retried: after a crash the
	// old server's children take a moment to go.
	startPatience = 30 * time.Second
	// leftoverPatience is how long a server that an earlier run left behind may take to end in good order.
	leftoverPatience = time.Minute
	// inheritedDir is the first of exec.Cmd.ExtraFiles.
	inheritedDir = "/proc/self/fd/3"
	// longestSocketPath is what a Unix socket's address holds.
	longestSocketPath = 100
)

// ServerConfig says how to run a private server.
type ServerConfig struct {
	// Dir holds everything of the server; made where it is not there.
	Dir string
	// Port on 127.0.0.1; 0 takes a free one.
	Port int
	// Binaries is the directory of initdb and postgres; default FindBinaries.
	Binaries string
	// Unsafe forgoes every sync to disk. For tests only: a crash of the machine
	// may leave nothing of the data.
	Unsafe bool
	// Logger takes what the server says; default slog.Default().
	Logger *slog.Logger
}

// Server is a private PostgreSQL server: a child of this process on loopback and
// a Unix socket, started again whenever it dies.
type Server struct {
	cfg    ServerConfig
	log    *slog.Logger
	id     identity
	data   string
	socket string
	secret string
	port   int
	held   *ports.Held // the port, where it was not given
	lock   *os.File
	// opened is cfg.Dir, handed to the server's processes where they cannot walk
	// to it by its path; else nil.
	opened *os.File

	pid      atomic.Int64
	stopping chan struct{}
	stopOnce sync.Once
	done     chan struct{}
	last     tail
}

// StartServer starts a server on cfg.Dir, making the database cluster where
// there is none, and returns once it answers. A server that a crash left behind
// on the same directory is stopped first. Stop must be called.
func StartServer(ctx context.Context, cfg ServerConfig) (*Server, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	cfg.Dir = dir
	s := &Server{
		cfg: cfg, log: cfg.Logger, data: filepath.Join(dir, "data"), port: cfg.Port,
		stopping: make(chan struct{}), done: make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.Default()
	}
	if err := s.prepare(ctx); err != nil {
		s.release()
		return nil, err
	}
	first := make(chan error, 1)
	go s.supervise(first) //nolint:gosec // the server outlives the start; Stop ends it
	select {
	case err = <-first:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil {
		err = s.ready(ctx)
	}
	if err != nil {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return nil, errors.Join(fmt.Errorf("postgres: starting the server in %s: %w%s", dir, err, s.last.quote()), s.Stop(stopCtx))
	}
	return s, nil
}

// prepare makes everything that the server needs on disk.
func (s *Server) prepare(ctx context.Context) error {
	major := 0
	if b, err := os.ReadFile(filepath.Join(s.data, "PG_VERSION")); err == nil {
		if major, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
			return fmt.Errorf("postgres: %s/PG_VERSION says %q, not a version: the directory is no database cluster", s.data, b)
		}
	}
	var err error
	if s.cfg.Binaries == "" {
		if s.cfg.Binaries, err = FindBinaries(major); err != nil {
			return err
		}
	}
	if s.id, err = identityFor(s.data); err != nil {
		return err
	}
	if err := os.MkdirAll(s.cfg.Dir, 0o755); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	if err := os.Chmod(s.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	if err := s.id.own(s.cfg.Dir); err != nil {
		return err
	}
	if !s.id.reaches(s.cfg.Dir) {
		if s.opened, err = os.Open(s.cfg.Dir); err != nil {
			return fmt.Errorf("postgres: %w", err)
		}
	}
	if s.lock, err = lock(filepath.Join(s.cfg.Dir, "lock")); err != nil {
		return err
	}
	if err := s.loadSecret(); err != nil {
		return err
	}
	s.socket = filepath.Join(s.cfg.Dir, "socket")
	if len(s.socket)+len("/.s.PGSQL.65535") > longestSocketPath {
		s.socket = ""
	} else if err := s.makeDir(s.socket); err != nil {
		return err
	}
	if major == 0 {
		if err := s.initdb(ctx); err != nil {
			return err
		}
	}
	if s.port == 0 {
		// It is started again at the same port, whatever happens meanwhile.
		if s.held, err = ports.Hold(1); err != nil {
			return fmt.Errorf("postgres: %w", err)
		}
		s.port = s.held.Ports[0]
	}
	return s.clearLeftover(ctx)
}

// seen is a path under cfg.Dir as the server's processes see it. Where a parent
// of cfg.Dir is closed to their user (root's home, say), they come to it by the
// open directory that they inherit.
func (s *Server) seen(path string) string {
	if s.opened == nil || path == "" {
		return path
	}
	return inheritedDir + strings.TrimPrefix(path, s.cfg.Dir)
}

// hand gives a command its directory.
func (s *Server) hand(cmd *exec.Cmd) {
	cmd.Dir = s.cfg.Dir
	if s.opened != nil {
		cmd.Dir = "/"
		cmd.ExtraFiles = []*os.File{s.opened}
	}
}

func (s *Server) release() {
	if s.held != nil {
		s.held.Release()
	}
	if s.lock != nil {
		s.lock.Close()
	}
	if s.opened != nil {
		s.opened.Close()
	}
}

func (s *Server) makeDir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return s.id.own(path)
}

// loadSecret reads the superuser's password, or draws it. It is written, synced
// and renamed before a cluster is made with it.
func (s *Server) loadSecret() error {
	path := filepath.Join(s.cfg.Dir, "secret")
	b, err := os.ReadFile(path)
	if err == nil && len(bytes.TrimSpace(b)) > 0 {
		s.secret = string(bytes.TrimSpace(b))
		return nil
	}
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("postgres: %w", err)
	}
	if _, err := os.Stat(filepath.Join(s.data, "PG_VERSION")); err == nil {
		return fmt.Errorf("postgres: the password file %s is gone, but %s exists: restore it", path, s.data)
	}
	random := make([]byte, 24)
	rand.Read(random)
	s.secret = hex.EncodeToString(random)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	_, err = f.WriteString(s.secret + "\n")
	if err == nil && !s.cfg.Unsafe {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	if err := s.id.own(path + ".new"); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return nil
}

// initdb makes a cluster beside its place and renames it, so that a crash on
// the way leaves nothing half made.
func (s *Server) initdb(ctx context.Context) error {
	fresh := s.data + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	if err := s.makeDir(fresh); err != nil {
		return err
	}
	args := []string{
		"-D", s.seen(fresh), "-U", superuser, "--pwfile", s.seen(filepath.Join(s.cfg.Dir, "secret")),
		"--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums",
	}
	if s.cfg.Unsafe {
		args = append(args, "--no-sync")
	}
	cmd := exec.CommandContext(ctx, filepath.Join(s.cfg.Binaries, "initdb"), args...)
	// This goroutine may change its thread, and the signal is the thread's.
	cmd.SysProcAttr = s.id.attributes(false)
	s.hand(cmd)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("postgres: initdb in %s: %w: %s", fresh, err, bytes.TrimSpace(out))
	}
	if err := os.Rename(fresh, s.data); err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	return nil
}

// clearLeftover ends what a crash of the parent left: this process holds the
// directory's lock, so a server that still runs on it belongs to nobody, and a
// pid file without such a server is stale, even where its pid lives again.
func (s *Server) clearLeftover(ctx context.Context) error {
	path := filepath.Join(s.data, "postmaster.pid")
	b, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("postgres: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err == nil && pid > 1 && serves(pid, s.data) {
		s.log.Info("stopping the PostgreSQL server that an earlier run left behind", "pid", pid)
		// As its parent died, it began to stop in good order. Letting it end is far quicker than what a server that
		// was cut off has to read back.
		for _, try := range []struct {
			signal   syscall.Signal
			patience time.Duration
		}{{syscall.SIGINT, leftoverPatience}, {syscall.SIGQUIT, 5 * time.Second}, {syscall.SIGKILL, 5 * time.Second}} {
			if err := syscall.Kill(pid, try.signal); err != nil {
				break
			}
			for began := time.Now(); serves(pid, s.data) && time.Since(began) < try.patience; {
				if err := pause(ctx, 50*time.Millisecond); err != nil {
					return err
				}
			}
			if !serves(pid, s.data) {
				break
			}
		}
		if serves(pid, s.data) {
			return fmt.Errorf("postgres: process %d serves %s and cannot be stopped: stop it by hand", pid, s.data)
		}
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("postgres: %w", err)
	}
	return nil
}

// supervise keeps a server running until Stop. It tells on first how the first
// start went.
//
// The signal that a child gets when its parent dies is tied to the thread that
// made the child, so this goroutine keeps its thread.
func (s *Server) supervise(first chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(s.done)
	began := time.Now()
	wait := 100 * time.Millisecond
	for {
		cmd := s.command()
		started := time.Now()
		err := cmd.Start()
		if err == nil {
			s.pid.Store(int64(cmd.Process.Pid))
			select {
			case <-s.stopping: // Stop may have come before the pid
				_ = cmd.Process.Signal(syscall.SIGINT) // it may be gone already
			default:
			}
			up := s.watchFirst(first, cmd.Process.Pid)
			err = cmd.Wait()
			s.pid.Store(0)
			close(up)
		}
		select {
		case <-s.stopping:
			return
		default:
		}
		if err == nil {
			err = errors.New("it stopped by itself")
		}
		if time.Since(started) > time.Minute {
			wait = 100 * time.Millisecond
		}
		if !s.last.passing() || time.Since(began) > startPatience {
			select {
			case first <- err:
			default:
			}
		}
		s.log.Error("PostgreSQL died; starting it again", "error", err, "in", wait, "said", s.last.quote())
		select {
		case <-s.stopping:
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, 5*time.Second)
		if err := s.clearLeftover(context.Background()); err != nil {
			s.log.Error("cannot clear what PostgreSQL left behind", "error", err)
		}
	}
}

// watchFirst tells first as soon as the server listens; closing what it returns
// ends the watch.
func (s *Server) watchFirst(first chan<- error, pid int) chan struct{} {
	gone := make(chan struct{})
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-gone:
				return
			case <-tick.C:
			}
			// Line 8 of the pid file says "ready" or "starting"; before that, the
			// file may still be another server's.
			b, err := os.ReadFile(filepath.Join(s.data, "postmaster.pid"))
			if err == nil && strings.HasPrefix(string(b), strconv.Itoa(pid)+"\n") && strings.Contains(string(b), "ready") {
				select {
				case first <- nil:
				default:
				}
				return
			}
		}
	}()
	return gone
}

func (s *Server) command() *exec.Cmd {
	settings := map[string]string{
		"listen_addresses":        "127.0.0.1",
		"port":                    strconv.Itoa(s.port),
		"unix_socket_directories": s.seen(s.socket),
		"unix_socket_permissions": "0700",
		"max_connections":         "200",
		"shared_buffers":          strconv.FormatInt(cacheBytes(memoryBytes())>>20, 10) + "MB",
		"work_mem":                "16MB",
		"maintenance_work_mem":    "128MB",
		// What was written since the last checkpoint is read back after a crash, at some 35 MB/s on a small machine
		// that is busy: half a minute at most, while nobody is answered.
		"max_wal_size":       "1GB",
		"min_wal_size":       "256MB",
		"checkpoint_timeout": "5min",
		"wal_compression":    "on",
		"jit":                "off",
		"timezone":           "UTC",
		"log_timezone":       "UTC",
		"log_min_messages":   "warning",
		"log_line_prefix":    "",
		"track_io_timing":    "off",
	}
	if s.cfg.Unsafe {
		settings["fsync"] = "off"
		settings["full_page_writes"] = "off"
		settings["shared_buffers"] = "128MB"
	}
	args := []string{"-D", s.seen(s.data)}
	for name, value := range settings {
		args = append(args, "-c", name+"="+value)
	}
	cmd := exec.Command(filepath.Join(s.cfg.Binaries, "postgres"), args...)
	cmd.SysProcAttr = s.id.attributes(true)
	s.hand(cmd)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	out := &lines{log: s.log, tail: &s.last}
	cmd.Stdout, cmd.Stderr = out, out
	// The server's children hold the pipe a little longer than the server lives.
	cmd.WaitDelay = time.Second
	return cmd
}

// cacheBytes is how much of a machine's memory PostgreSQL caches tables in: an
// eighth, as it shares the machine with all else and with the system's own cache.
// It takes what it fills, not all at once. What is read from outside of it costs ten
// times as much (docs/performance.md).
func cacheBytes(memory int64) int64 {
	const least, most = 128 << 20, 4 << 30
	return min(max(memory/8, least), most)
}

// ready waits until the server answers, and makes the database.
func (s *Server) ready(ctx context.Context) error {
	told := time.Now()
	for {
		conn, err := pgx.Connect(ctx, s.urlFor("postgres"))
		if err == nil {
			defer conn.Close(ctx)
			var there bool
			if err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", databaseName).Scan(&there); err != nil {
				return err
			}
			if !there {
				_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{databaseName}.Sanitize())
			}
			return err
		}
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code == "28P01" {
			return fmt.Errorf("the password in %s does not open the cluster: restore the file that belongs to it", filepath.Join(s.cfg.Dir, "secret"))
		}
		if time.Since(told) > 5*time.Second {
			told = time.Now()
			s.log.WarnContext(ctx, "PostgreSQL does not answer yet", "error", err)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// URL is how the superuser reaches the database. It holds the password.
func (s *Server) URL() string { return s.urlFor(databaseName) }

func (s *Server) urlFor(database string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(superuser, s.secret), Host: fmt.Sprintf("127.0.0.1:%d", s.port), Path: "/" + database}
	q := url.Values{"sslmode": {"disable"}}
	if s.socket != "" {
		q.Set("host", s.socket)
		q.Set("port", strconv.Itoa(s.port))
	}
	// pgx takes a plus sign literally.
	u.RawQuery = strings.ReplaceAll(q.Encode(), "+", "%20")
	return u.String()
}

// Port is the server's port on 127.0.0.1.
func (s *Server) Port() int { return s.port }

// Pid is the server's process now, 0 while there is none.
func (s *Server) Pid() int { return int(s.pid.Load()) }

// Checkpoint writes out what changed since the last one, so that a stop soon after has little to write.
func (s *Server) Checkpoint(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, s.URL())
	if err != nil {
		return fmt.Errorf("postgres: checkpoint: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "CHECKPOINT"); err != nil {
		return fmt.Errorf("postgres: checkpoint: %w", err)
	}
	return nil
}

// Stop ends the server: open transactions are rolled back, the cluster is left
// clean. Where that outlasts ctx, the server is stopped the hard way, which
// loses nothing that was committed.
func (s *Server) Stop(ctx context.Context) error {
	s.stopOnce.Do(func() { close(s.stopping) })
	signal := func(sig syscall.Signal) {
		if pid := s.Pid(); pid > 0 {
			_ = syscall.Kill(pid, sig)
		}
	}
	defer s.release()
	signal(syscall.SIGINT)
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
	}
	signal(syscall.SIGQUIT)
	select {
	case <-s.done:
	case <-time.After(5 * time.Second):
		signal(syscall.SIGKILL)
		<-s.done
	}
	return fmt.Errorf("postgres: the server had to be stopped the hard way: %w", ctx.Err())
}

// pause waits, or returns the context's error.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// tail keeps the last lines that the server said, for error messages.
type tail struct {
	mu    sync.Mutex
	lines []string
}

func (t *tail) add(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lines = append(t.lines, line); len(t.lines) > 8 {
		t.lines = t.lines[1:]
	}
}

// passing tells whether what the server said last will pass by itself: the
// children of a killed server hold its memory for a moment.
func (t *tail) passing() bool {
	said := t.quote()
	return strings.Contains(said, "pre-existing shared memory block") || strings.Contains(said, "lock file")
}

func (t *tail) quote() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == 0 {
		return ""
	}
	return ": it said: " + strings.Join(t.lines, " | ")
}

// lines passes what the server says to the log, line by line.
type lines struct {
	log  *slog.Logger
	tail *tail
	rest []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 {
			return len(p), nil
		}
		line := strings.TrimSpace(string(l.rest[:i]))
		l.rest = l.rest[i+1:]
		if line == "" {
			continue
		}
		l.tail.add(line)
		l.log.Log(context.Background(), levelOf(line), "postgres: "+line)
	}
}

// levelOf is how loudly a line of the server is passed on. That a connection ends
// because somebody has stopped the server, or dropped its database, is what they
// asked for.
func levelOf(line string) slog.Level {
	if strings.Contains(line, "automatic recovery in progress") {
		return slog.LevelInfo // whoever waits for the start sees why
	}
	alarming := strings.HasPrefix(line, "FATAL") || strings.HasPrefix(line, "PANIC")
	if !alarming || strings.HasSuffix(line, "terminating connection due to administrator command") || strings.HasSuffix(line, "the database system is shutting down") {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}
