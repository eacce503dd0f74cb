package natsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/proto/contract"
)

// readyWithin is how long a server may take until it accepts connections. A
// store with much data in it is indexed before that.
const readyWithin = 2 * time.Minute

// headerRoom is what a message may have in headers beyond the largest batch.
const headerRoom = 64 << 10

// Config says how a server runs.
type Config struct {
	// Name of the server in its logs and in a cluster; "cetrus" if empty.
	Name string
	// StoreDir is where JetStream keeps its files; created if missing. One
	// server at a time may use it.
	StoreDir string
	// Listen is a loopback address with a port, 0 for any free one. Empty: the
	// server can be reached from this process only.
	Listen string
	// Users may connect; nobody else may. Empty: whoever reaches the server may
	// do everything, which is allowed only when it does not listen.
	Users []User
	// MaxStoreBytes bounds the files; 0 leaves it to the server, which takes
	// three quarters of what is free on the disk.
	MaxStoreBytes int64
	// Unsynced leaves the time of syncing to the server (every two minutes), so
	// that what it acknowledged can be lost with the machine. For tests of what
	// has nothing to do with durability.
	Unsynced bool
	// Logger takes the server's own log; slog.Default() if nil.
	Logger *slog.Logger

	cluster *clusterConfig
}

type clusterConfig struct {
	name   string
	port   int
	routes []*url.URL
}

// Validate tells what is wrong with the configuration, and what to write
// instead.
func (c Config) Validate() error {
	if c.StoreDir == "" {
		return errors.New("natsserver: StoreDir is empty; name a directory for JetStream's files")
	}
	if c.Listen == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("natsserver: Listen %q is not host:port, for example 127.0.0.1:4222: %w", c.Listen, err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("natsserver: Listen %q is not a loopback address; the embedded server has no TLS, so use 127.0.0.1 or run NATS on its own", c.Listen)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("natsserver: Listen %q: port %q is not a number from 0 to 65535", c.Listen, port)
	}
	if len(c.Users) == 0 && c.cluster == nil {
		return fmt.Errorf("natsserver: Listen %q without Users would let every program of this machine read every account; name users", c.Listen)
	}
	return nil
}

func (c Config) options() (*server.Options, error) {
	opts := &server.Options{
		ServerName:         c.Name,
		DontListen:         c.Listen == "",
		NoSigs:             true,
		MaxPayload:         contract.MaxBatchBytes + headerRoom,
		JetStream:          true,
		StoreDir:           c.StoreDir,
		JetStreamMaxStore:  c.MaxStoreBytes,
		JetStreamMaxMemory: 64 << 20,
		SyncAlways:         !c.Unsynced,
	}
	if c.Listen != "" {
		host, port, err := net.SplitHostPort(c.Listen)
		if err != nil {
			return nil, err
		}
		n, err := strconv.Atoi(port)
		if err != nil {
			return nil, err
		}
		opts.Host, opts.Port = host, n
		if n == 0 {
			opts.Port = server.RANDOM_PORT
		}
	}
	if c.cluster != nil {
		opts.Cluster = server.ClusterOpts{Name: c.cluster.name, Host: "127.0.0.1", Port: c.cluster.port, NoAdvertise: true}
		opts.Routes = c.cluster.routes
	}
	return opts, nil
}

// Server is a running server. It runs from Start to Stop.
type Server struct {
	config Config
	server *server.Server
	fatal  *atomic.Pointer[string]
	// Where there are no users, nobody keeps the door, and own is nil too.
	door *doorkeeper
	own  *nats.Conn
}

// Start starts a server and waits until it accepts connections and JetStream is
// ready. Whoever starts a server stops it.
func Start(ctx context.Context, config Config) (*Server, error) {
	s, err := launch(config)
	if err != nil {
		return nil, err
	}
	err = s.awaitReady(ctx)
	if err == nil && s.door != nil {
		err = s.admitRoles()
	}
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

func (s *Server) admitRoles() error {
	accounts, err := linkAccounts(s.server)
	if err != nil {
		return err
	}
	if s.own, err = s.Connect(s.door.own, nats.Name("natsserver")); err != nil {
		return err
	}
	if err := errors.Join(answerStreamInfo(s.own), answerPolicyAsks(s.own), answerCreates(s.own)); err != nil {
		return err
	}
	s.door.admit(accounts)
	return nil
}

func launch(config Config) (*Server, error) {
	if config.Name == "" {
		config.Name = "cetrus"
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(config.StoreDir, 0o700); err != nil {
		return nil, fmt.Errorf("natsserver: make the store directory: %w", err)
	}
	opts, err := config.options()
	if err != nil {
		return nil, fmt.Errorf("natsserver: %w", err)
	}
	var door *doorkeeper
	if len(config.Users) > 0 {
		door = newDoorkeeper(config.Users)
		opts.CustomClientAuthentication, opts.AlwaysEnableNonce = door, true
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("natsserver: %w", err)
	}
	s := &Server{config: config, server: srv, fatal: new(atomic.Pointer[string]), door: door}
	srv.SetLoggerV2(slogLogger{log: config.Logger.With("component", "nats", "server", config.Name), fatal: s.fatal}, false, false, false)
	srv.Start()
	return s, nil
}

// awaitReady asks in short turns, so that ctx can end the waiting.
func (s *Server) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for !s.server.ReadyForConnections(50 * time.Millisecond) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("natsserver: %s is not ready: %w", s.config.Name, err)
		}
		if why := s.fatal.Load(); why != nil {
			return fmt.Errorf("natsserver: %s cannot start on %q with its files in %s: %s", s.config.Name, s.config.Listen, s.config.StoreDir, *why)
		}
		if !s.server.Running() {
			return fmt.Errorf("natsserver: %s stopped while it started; its log says why", s.config.Name)
		}
	}
	if !s.server.JetStreamEnabled() {
		return fmt.Errorf("natsserver: %s runs without JetStream; its log says why (directory %s)", s.config.Name, s.config.StoreDir)
	}
	return nil
}

// Addr is the address that the server really listens on, host:port; empty if it
// does not listen.
func (s *Server) Addr() string {
	if s.config.Listen == "" {
		return ""
	}
	return s.server.Addr().String()
}

// URL is what a client on this machine connects to; empty if the server does
// not listen.
func (s *Server) URL() string {
	if s.config.Listen == "" {
		return ""
	}
	return "nats://" + s.Addr()
}

// Connect connects from within this process, without a socket. The zero User
// serves where the server has no users. The caller closes the connection.
func (s *Server) Connect(user User, options ...nats.Option) (*nats.Conn, error) {
	options = append([]nats.Option{
		nats.InProcessServer(s.server),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(50 * time.Millisecond),
	}, append(user.Options(), options...)...)
	nc, err := nats.Connect("", options...)
	if err != nil {
		return nil, fmt.Errorf("natsserver: connect to %s as %q: %w", s.config.Name, user.Name, err)
	}
	return nc, nil
}

// SetUsers replaces the users of a running server that has users. Connections of
// users that are gone, or have another password, are closed; the others go on.
func (s *Server) SetUsers(users ...User) error {
	if s.door == nil || len(users) == 0 {
		return fmt.Errorf("natsserver: %s runs with users from its start to its end, or without", s.config.Name)
	}
	if err := disconnect(s.server, s.door.replace(users)); err != nil {
		return fmt.Errorf("natsserver: close the connections of users that are gone: %w", err)
	}
	return nil
}

// SetManagers replaces the Managers that are known by keys of their own, beside the users.
// Connections of those that are gone are closed; the others go on.
func (s *Server) SetManagers(managers ...User) error {
	if s.door == nil {
		return fmt.Errorf("natsserver: %s lets everybody in", s.config.Name)
	}
	if err := disconnect(s.server, s.door.enroll(managers)); err != nil {
		return fmt.Errorf("natsserver: close the connections of Managers that are gone: %w", err)
	}
	return nil
}

// Stop stops the server and waits until its files are closed.
func (s *Server) Stop() {
	if s.own != nil {
		s.own.Close()
	}
	s.server.Shutdown()
	s.server.WaitForShutdown()
}

// Run keeps the server until ctx ends, then stops it. It is Stop for those who
// run everything in one group.
func (s *Server) Run(ctx context.Context) error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.server.WaitForShutdown()
	}()
	select {
	case <-ctx.Done():
		s.Stop()
		<-stopped
		return nil
	case <-stopped:
		s.Stop()
		return fmt.Errorf("natsserver: %s stopped by itself; its log says why", s.config.Name)
	}
}
