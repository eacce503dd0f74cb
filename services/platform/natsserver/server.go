package natsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/natsfiles"
	"github.com/cetrus/cetrus/services/platform/tlsfiles"
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
	// Listen is an address with a port, 0 for any free one; a loopback address unless
	// there is TLS. Empty: the server can be reached from this process only.
	Listen string
	// TLS encrypts all that listens, and has servers of a cluster know one another. Who follows
	// the files is who opened them. nil: nothing is encrypted, and only loopback is listened on.
	TLS *tlsfiles.Files
	// WebSocketListen is an address for the same users over WebSocket; empty: there is none.
	WebSocketListen string
	// WebSocketPlain leaves TLS for WebSocket to a proxy before it, wherever it listens.
	WebSocketPlain bool
	// Users may connect; nobody else may. Empty: whoever reaches the server may
	// do everything, which is allowed only when it does not listen.
	Users []User
	// MaxStoreBytes bounds the files; 0: three quarters of what is free on the disk or used by them.
	MaxStoreBytes int64
	// Unsynced leaves the time of syncing to the server (every two minutes), so
	// that what it acknowledged can be lost with the machine. For tests of what
	// has nothing to do with durability.
	Unsynced bool
	// Logger takes the server's own log; slog.Default() if nil.
	Logger *slog.Logger

	// Cluster is which servers this one replicates with; nil: it is alone.
	Cluster *ClusterConfig

	// open lets everybody in: three servers of a test, whose connections have no users.
	open bool
}

// Validate tells what is wrong with the configuration, and what to write
// instead.
func (c Config) Validate() error {
	if c.StoreDir == "" {
		return errors.New("natsserver: StoreDir is empty; name a directory for JetStream's files")
	}
	if c.Cluster != nil {
		if err := c.Cluster.validate(c); err != nil {
			return err
		}
	}
	if c.Listen == "" && c.WebSocketListen == "" {
		return nil
	}
	if c.Listen != "" {
		if err := CheckAddress(c.Listen, c.TLS != nil); err != nil {
			return fmt.Errorf("natsserver: Listen %q %w", c.Listen, err)
		}
	}
	if c.WebSocketListen != "" {
		if c.Listen == "" {
			return errors.New("natsserver: WebSocketListen without Listen: a server that listens for WebSocket listens for NATS too")
		}
		if err := CheckAddress(c.WebSocketListen, c.TLS != nil || c.WebSocketPlain); err != nil {
			return fmt.Errorf("natsserver: WebSocketListen %q %w", c.WebSocketListen, err)
		}
	}
	if len(c.Users) == 0 && !c.open {
		return fmt.Errorf("natsserver: Listen %q without Users would let every program of this machine read every account; name users", c.Listen)
	}
	return nil
}

// CheckAddress tells what is wrong with an address to listen on, encrypted or not.
func CheckAddress(address string, encrypted bool) error {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return errors.New("is not host:port, for example 127.0.0.1:4222")
	}
	if ip := net.ParseIP(host); !encrypted && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return errors.New("is not a loopback address, and nothing is encrypted; give TLS (tls-dir), or use 127.0.0.1")
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("port %q is not a number from 0 to 65535", port)
	}
	return nil
}

// listenOn is an address that CheckAddress has passed, as the server wants it.
func listenOn(address string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	if port, err = strconv.Atoi(text); port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, err
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
	var err error
	if c.Listen != "" {
		if opts.Host, opts.Port, err = listenOn(c.Listen); err != nil {
			return nil, err
		}
	}
	if c.WebSocketListen != "" {
		// Browsers have no business here.
		opts.Websocket = server.WebsocketOpts{SameOrigin: true, NoTLS: c.TLS == nil || c.WebSocketPlain}
		if opts.Websocket.Host, opts.Websocket.Port, err = listenOn(c.WebSocketListen); err != nil {
			return nil, err
		}
	}
	if c.TLS != nil {
		opts.TLSConfig, opts.TLS = c.TLS.Public(), true
		if !opts.Websocket.NoTLS {
			opts.Websocket.TLSConfig = c.TLS.Public()
		}
	}
	if c.Cluster != nil {
		if err := c.Cluster.set(opts, c.TLS); err != nil {
			return nil, err
		}
	}
	return opts, nil
}

// Server is a running server. It runs from Start to Stop.
type Server struct {
	config Config
	server *server.Server
	said   *said
	// Where there are no users, nobody keeps the door, and judge is nil too.
	door  *doorkeeper
	judge *judge
	// unmadeSince is since when what is unmade is so: of whoever asks gaveUp.
	unmadeSince map[string]time.Time
}

// Start starts a server and waits until it accepts connections and JetStream is
// ready. Whoever starts a server stops it.
func Start(ctx context.Context, config Config) (*Server, error) {
	if err := config.awaitRoom(ctx); err != nil {
		return nil, err
	}
	s, err := launch(config)
	if err != nil {
		return nil, err
	}
	if err := s.begin(ctx); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// begin waits until a server that was launched accepts connections, and lets its users in.
func (s *Server) begin(ctx context.Context) error {
	if err := s.awaitReady(ctx); err != nil || s.door == nil {
		return err
	}
	return s.admitRoles()
}

func (s *Server) admitRoles() error {
	accounts, err := linkAccounts(s.server)
	if err != nil {
		return err
	}
	nc, err := s.Connect(s.door.own, nats.Name("natsserver"))
	if err != nil {
		return err
	}
	if s.judge, err = newJudge(nc); err != nil {
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
	if err := claimStore(config); err != nil {
		return nil, err
	}
	opts, err := config.options()
	if err != nil {
		return nil, fmt.Errorf("natsserver: %w", err)
	}
	if opts.JetStreamMaxStore == 0 {
		if opts.JetStreamMaxStore, err = storeBytes(config.StoreDir); err != nil {
			return nil, err
		}
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
	held, err := natsfiles.Hold(config.StoreDir)
	if err != nil {
		return nil, fmt.Errorf("natsserver: %w", err)
	}
	s := &Server{config: config, server: srv, said: new(said), door: door}
	srv.SetLoggerV2(slogLogger{log: config.Logger.With("component", "nats", "server", config.Name), said: s.said}, false, false, false)
	srv.Start() // all streams are opened when it returns
	if missing := held.Missing(s.knows()); len(missing) > 0 {
		s.Stop()
		return nil, errors.Join(fmt.Errorf("natsserver: the server could not open %s: its files are kept; see to the disk, then start again", strings.Join(missing, ", ")), held.Restore())
	}
	if err := held.Release(); err != nil {
		s.Stop()
		return nil, fmt.Errorf("natsserver: %w", err)
	}
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
		if why := s.said.fatal.Load(); why != nil {
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

// URL is the server's with the address that it really listens on; empty if it does not listen.
func (s *Server) URL() string {
	if s.config.Listen == "" {
		return ""
	}
	scheme := "nats"
	if s.config.TLS != nil {
		scheme = "tls"
	}
	return scheme + "://" + s.Addr()
}

// WebSocketURL is the address for WebSocket, ws:// or wss://; empty if there is none.
func (s *Server) WebSocketURL() string {
	if s.config.WebSocketListen == "" {
		return ""
	}
	return s.server.WebsocketURL()
}

// Ready tells why the server cannot do its work yet, or not any more: it does not follow the leader of
// its cluster, what it keeps of a stream or a consumer is not current, or it does not know yet
// which Managers have enrolled, and would refuse them. Of a cluster all of whose servers are ready,
// each may be lost.
func (s *Server) Ready() error {
	if why := s.said.unwritten.Load(); why != nil {
		return fmt.Errorf("natsserver: %s writes no more: %s", s.config.Name, *why)
	}
	if health := s.server.Healthz(nil); health.Error != "" {
		return fmt.Errorf("natsserver: %s: %s", s.config.Name, health.Error)
	}
	if s.door != nil && !s.door.knowsManagers() {
		return fmt.Errorf("natsserver: %s has not read yet which Managers have enrolled", s.config.Name)
	}
	return nil
}

// While ends with a context, or as soon as only a restart helps the server: JetStream has given up, as it does when
// its disk is full, or a stream writes no more since a write failed. The cause says so. While the disk still fails a
// restart would not help.
func (s *Server) While(ctx context.Context) (context.Context, context.CancelFunc) {
	while, end := context.WithCancelCause(ctx)
	var looking sync.WaitGroup
	looking.Go(func() {
		look := time.NewTicker(lookForRoom)
		defer look.Stop()
		for {
			select {
			case <-while.Done():
				return
			case <-look.C:
			}
			if err := s.gaveUp(time.Now()); err != nil {
				end(err)
			}
		}
	})
	return while, func() {
		end(nil)
		looking.Wait()
	}
}

// gaveUp tells whether and why only a restart helps, asked by one goroutine again and again.
func (s *Server) gaveUp(now time.Time) error {
	if s.server.Running() && !s.server.JetStreamEnabled() {
		return fmt.Errorf("natsserver: %s takes nothing any more, as what it keeps in %s could not be written: is that disk full? Make room, and start it again", s.config.Name, s.config.StoreDir)
	}
	why := ""
	if unwritten := s.said.unwritten.Load(); unwritten != nil {
		why = *unwritten
	} else if s.config.Cluster != nil {
		why = s.unmade(now, s.server.Healthz(&server.HealthzOptions{Details: true}).Errors)
	}
	if why != "" && natsfiles.Try(s.config.StoreDir) == nil {
		return fmt.Errorf("natsserver: %s has to be started again, now that its disk is well: %s", s.config.Name, why)
	}
	return nil
}

// unmadeFor is how long a server goes on without something that it could not write: while it starts, each consumer is without
// its node for as long as those before it take, which is some syncs each; and where a start does not help, as with a folder
// that it may not write, it serves what else it has in between.
const unmadeFor = 30 * time.Second

// unmade tells of what is wrong with a server's streams and consumers what it could not write as its cluster has decided it,
// the node among them through which each follows the cluster: nats-server (2.15) does not try again. It is empty where
// nothing is, or not for long: other errors pass, or, such as for a limit, a start would not help.
func (s *Server) unmade(now time.Time, wrong []server.HealthzError) string {
	since, why := map[string]time.Time{}, ""
	for _, e := range wrong {
		if !s.isUnmade(e.Error) {
			continue
		}
		what := e.Account + " " + e.Stream + " " + e.Consumer
		began, known := s.unmadeSince[what]
		if !known {
			began = now
		}
		since[what] = began
		if now.Sub(began) >= unmadeFor {
			why = e.Error
		}
	}
	s.unmadeSince = since
	return why
}

func (s *Server) isUnmade(health string) bool {
	if strings.Contains(health, "node missing") {
		return true
	}
	return strings.Contains(health, "assignment error") &&
		(strings.Contains(health, s.config.StoreDir) || strings.Contains(health, "storage directory") || strings.Contains(health, "creating store"))
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

// knows tells which streams the server has opened, by their accounts.
func (s *Server) knows() func(account, stream string) bool {
	open := map[[2]string]bool{}
	// Where JetStream does not run there are none.
	if info, err := s.server.Jsz(&server.JSzOptions{Accounts: true, Streams: true}); err == nil {
		for _, account := range info.AccountDetails {
			for _, stream := range account.Streams {
				open[[2]string{account.Name, stream.Name}] = true
			}
		}
	}
	return func(account, stream string) bool { return open[[2]string{account, stream}] }
}

// Stop stops the server and waits until its files are closed.
func (s *Server) Stop() {
	if s.judge != nil {
		s.judge.close()
	}
	s.server.Shutdown()
	s.server.WaitForShutdown()
}

// Run keeps the server until ctx ends, then stops it. It is Stop for those who
// run everything in one group. Where only a restart helps (While) the server is stopped, and the error says why.
func (s *Server) Run(ctx context.Context) error {
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.server.WaitForShutdown()
	}()
	while, end := s.While(ctx)
	defer end()
	select {
	case <-while.Done():
		s.Stop()
		<-stopped
		if ctx.Err() != nil {
			return nil
		}
		return context.Cause(while)
	case <-stopped:
		s.Stop()
		return fmt.Errorf("natsserver: %s stopped by itself; its log says why", s.config.Name)
	}
}
