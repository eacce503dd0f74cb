package ingest_test

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/buffer"
	"github.com/cetrus/cetrus/manager/ingest"
	"github.com/cetrus/cetrus/manager/people"
	"github.com/cetrus/cetrus/manager/policy"
)

var (
	testAccount = contract.ID{1, 2, 3}
	testManager = contract.ID{4, 5, 6}
)

type testConfig struct {
	dir    string
	buffer buffer.Config
	// wrap stands between the server and its buffer.
	wrap func(ingest.Buffer) ingest.Buffer
	// managers are those that agents are told of.
	managers []string
	callers  ingest.Callers
}

// running is an ingest server over a real buffer.
type running struct {
	address   string
	buffer    *buffer.Buffer
	people    *people.Book
	policy    *policy.Mirror
	server    *ingest.Server
	mu        sync.Mutex
	published map[string][][]byte
	stop      func()
}

func start(tb testing.TB, config testConfig) *running {
	tb.Helper()
	if config.dir == "" {
		config.dir = tb.TempDir()
	}
	quiet := slog.New(slog.DiscardHandler)
	r := &running{published: make(map[string][][]byte)}
	config.buffer.Dir = filepath.Join(config.dir, "buffer")
	config.buffer.AccountID, config.buffer.ManagerID, config.buffer.Log = testAccount, testManager, quiet
	if config.buffer.MaxBytes == 0 {
		config.buffer.MaxBytes = 8 << 30
	}
	var err error
	if r.buffer, err = buffer.Open(context.Background(), config.buffer); err != nil {
		tb.Fatal(err)
	}
	if r.people, err = people.Open(filepath.Join(config.dir, "people"), quiet); err != nil {
		tb.Fatal(err)
	}
	if r.policy, err = policy.Open(filepath.Join(config.dir, "policy"), testAccount, quiet); err != nil {
		tb.Fatal(err)
	}
	var store ingest.Buffer = r.buffer
	if config.wrap != nil {
		store = config.wrap(store)
	}
	r.server = ingest.New(ingest.Config{AccountID: testAccount, ManagerID: testManager, Managers: config.managers, Log: quiet}, ingest.Deps{
		Buffer: store, People: r.people, Policies: r.policy, Callers: config.callers,
		Publish: func(subject string, data []byte) bool {
			if len(data) > server.MAX_PAYLOAD_SIZE {
				return false
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.published[subject] = append(r.published[subject], data)
			return true
		},
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	r.address = listener.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.server.Serve(ctx, listener) }()
	var once sync.Once
	r.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				tb.Error(err)
			}
			late, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			if err := r.buffer.Close(late); err != nil {
				tb.Error(err)
			}
			if err := r.people.Close(); err != nil {
				tb.Error(err)
			}
		})
	}
	tb.Cleanup(r.stop)
	return r
}
