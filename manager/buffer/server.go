package buffer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/natsfiles"
)

const (
	streamName = "BUFFER"
	account    = "$G" // the server's own
	// A batch, its headers, and room to spare.
	maxPayload = 8 << 20
	// How long the embedded server may take to start or to answer.
	serverPatience = 30 * time.Second
)

// store is the embedded server with our one connection to it.
type store struct {
	server *natsserver.Server
	nc     *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
	broken chan struct{} // closed when the server says that it cannot write
}

// openStore starts the server on dir and opens the stream there, making it with
// firstPosition where it is missing. Where its files are there and the server does not
// know them, it takes them up: all from keptFrom on must be in them.
//
// Whatever fails, the files are as they were: a server that cannot open a stream would
// remove it.
func openStore(ctx context.Context, dir string, maxBytes int64, firstPosition, keptFrom uint64, log *slog.Logger) (*store, error) {
	s, err := tryStore(ctx, dir, maxBytes, firstPosition, 0, log)
	if errors.Is(err, errUnknown) {
		// A server that failed for its disk does not say so, and one that opens it now has all. Where the description is
		// what is damaged, it does not know the stream this time either.
		s, err = tryStore(ctx, dir, maxBytes, firstPosition, keptFrom, log)
	}
	return s, err
}

// errUnknown says that the stream's files are there, and that the server does not know it.
var errUnknown = errors.New("buffer: the embedded server could not open the stream: its files are put back")

// tryStore is openStore once. Without keptFrom nothing is taken up.
func tryStore(ctx context.Context, dir string, maxBytes int64, firstPosition, keptFrom uint64, log *slog.Logger) (_ *store, err error) {
	ctx, cancel := context.WithTimeout(ctx, serverPatience)
	defer cancel()
	path := filepath.Join(dir, "jetstream", account, "streams", streamName)
	held, err := natsfiles.Hold(dir)
	if err != nil {
		return nil, fmt.Errorf("buffer: %w", err)
	}
	there := exists(path)
	s, err := startStore(dir, maxBytes, log)
	defer func() {
		if err == nil {
			if err = held.Release(); err == nil {
				return
			}
		}
		if s != nil {
			s.close()
		}
		err = errors.Join(err, held.Restore())
	}()
	if err != nil {
		return nil, err
	}
	if s.stream, err = s.js.Stream(ctx, streamName); errors.Is(err, jetstream.ErrStreamNotFound) {
		first := firstPosition
		if there {
			if keptFrom == 0 {
				return nil, errUnknown
			}
			if err := held.Unreadable(account, streamName); err != nil {
				return nil, fmt.Errorf("%w; %w; move that file away, and the Manager goes on without what it holds, and tells which positions the platform does not have", errUnknown, err)
			}
			if intact, err := held.Intact(account, streamName); err != nil || !intact {
				return nil, errors.Join(errUnknown, err)
			}
			first = keptFrom
			log.Warn("the embedded server does not know the buffer's stream, and takes it up from its files", "folder", path)
		}
		s.stream, err = s.js.CreateStream(ctx, streamConfig(maxBytes, first))
	} else if err == nil && s.stream.CachedInfo().Config.MaxBytes != maxBytes {
		s.stream, err = s.js.UpdateStream(ctx, streamConfig(maxBytes, s.stream.CachedInfo().Config.FirstSeq))
	}
	if err != nil {
		return nil, fmt.Errorf("buffer: open the stream: %w", err)
	}
	return s, nil
}

func streamConfig(maxBytes int64, first uint64) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        streamName,
		Description: "what agents sent and the platform may not have yet",
		Subjects:    []string{subjectPrefix + "*"},
		Storage:     jetstream.FileStorage,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		MaxBytes:    maxBytes,
		MaxMsgs:     -1,
		MaxMsgSize:  maxPayload,
		Replicas:    1,
		AllowDirect: true,
		FirstSeq:    first,
	}
}

func startStore(dir string, maxBytes int64, log *slog.Logger) (*store, error) {
	server, err := natsserver.NewServer(&natsserver.Options{
		ServerName:             "cetrus-manager-buffer",
		DontListen:             true,
		JetStream:              true,
		StoreDir:               dir,
		SyncAlways:             true,
		JetStreamMaxStore:      2 * maxBytes,
		JetStreamMaxMemory:     16 << 20,
		MaxPayload:             maxPayload,
		NoSigs:                 true,
		DisableJetStreamBanner: true,
	})
	if err != nil {
		return nil, fmt.Errorf("buffer: %w", err)
	}
	s := &store{server: server, broken: make(chan struct{})}
	server.SetLoggerV2(&serverLog{log: log, broken: s.broken}, false, false, false)
	server.Start()
	if !server.ReadyForConnections(serverPatience) {
		s.close()
		return nil, fmt.Errorf("buffer: the embedded server did not start within %v", serverPatience)
	}
	s.nc, err = nats.Connect("", nats.InProcessServer(server), nats.Name("buffer"), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err == nil {
		s.js, err = jetstream.New(s.nc, jetstream.WithPublishAsyncTimeout(serverPatience), jetstream.WithDefaultTimeout(serverPatience))
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("buffer: reach the embedded server: %w", err)
	}
	return s, nil
}

// isBroken tells whether the server said that it cannot write.
func (s *store) isBroken() bool {
	select {
	case <-s.broken:
		return true
	default:
		return false
	}
}

func (s *store) close() {
	if s.nc != nil {
		s.nc.Close()
	}
	s.server.Shutdown()
	s.server.WaitForShutdown()
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// serverLog hands the embedded server's words on; what it says in passing is of
// no interest here. It listens for one thing: after a failed write the server
// neither answers nor writes again, and its log is the only place to hear of it.
type serverLog struct {
	log    *slog.Logger
	broken chan struct{}
	once   sync.Once
}

func (l *serverLog) say(level slog.Level, format string, v ...any) {
	text := strings.TrimSpace(fmt.Sprintf(format, v...))
	if level >= slog.LevelError && natsfiles.GivesUp(text) {
		l.once.Do(func() { close(l.broken) })
	}
	l.log.Log(context.Background(), level, text, "from", "embedded server")
}
func (l *serverLog) Noticef(format string, v ...any) { l.say(slog.LevelDebug, format, v...) }
func (l *serverLog) Warnf(format string, v ...any)   { l.say(slog.LevelWarn, format, v...) }
func (l *serverLog) Fatalf(format string, v ...any)  { l.say(slog.LevelError, format, v...) }
func (l *serverLog) Errorf(format string, v ...any)  { l.say(slog.LevelError, format, v...) }
func (l *serverLog) Debugf(string, ...any)           {}
func (l *serverLog) Tracef(string, ...any)           {}
