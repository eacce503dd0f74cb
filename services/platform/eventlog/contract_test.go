package eventlog_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/eventlog/eventlogtest"
	"github.com/cetrus/cetrus/services/platform/natsserver"
)

// attempt is short, so that a lost answer costs a test little.
const attempt = 150 * time.Millisecond

func TestContract(t *testing.T) {
	t.Run("memory", func(t *testing.T) {
		memory := eventlog.NewMemory()
		eventlogtest.Run(t, eventlogtest.Harness{Open: func(testing.TB) eventlog.Log { return memory }})
	})
	t.Run("one server", func(t *testing.T) {
		user := natsserver.PlatformUser(natsserver.NewPassword())
		server, err := natsserver.Start(t.Context(), natsserver.Config{
			StoreDir: t.TempDir(), Listen: "127.0.0.1:0", Users: []natsserver.User{user}, Logger: quiet(),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(server.Stop)
		eventlogtest.Run(t, harness(t, []*natsserver.Server{server}, user.Options(), 1))
	})
	t.Run("three servers", func(t *testing.T) {
		cluster, err := natsserver.StartCluster(t.Context(), t.TempDir(), quiet())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cluster.Stop)
		h := harness(t, cluster.Servers, nil, 3)
		nc := connect(t, cluster.Servers[0].URL(), nil)
		h.ChangeLeader = func(ctx context.Context) error {
			return cluster.StepDown(ctx, nc, contract.EventStream)
		}
		eventlogtest.Run(t, h)
	})
}

// harness opens its connections on one server after the other, so that two
// writers speak to two servers.
func harness(t *testing.T, servers []*natsserver.Server, options []nats.Option, replicas int) eventlogtest.Harness {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	nc := connect(t, servers[0].URL(), options)
	if err := natsserver.EnsureStreams(ctx, nc, natsserver.Streams{Replicas: replicas}); err != nil {
		t.Fatal(err)
	}
	next := 0
	server := func() *natsserver.Server {
		next++
		return servers[next%len(servers)]
	}
	return eventlogtest.Harness{
		Open: func(t testing.TB) eventlog.Log {
			return eventlog.NewJetStream(connect(t, server().URL(), options), contract.EventStream, eventlog.AttemptTimeout(attempt))
		},
		OpenFaulty: func(t testing.TB) (eventlog.Log, *eventlogtest.Proxy) {
			proxy := eventlogtest.NewProxy(t, server().Addr(), attempt+attempt/2)
			return eventlog.NewJetStream(connect(t, proxy.URL(), options), contract.EventStream, eventlog.AttemptTimeout(attempt)), proxy
		},
	}
}

func connect(t testing.TB, url string, options []nats.Option) *nats.Conn {
	t.Helper()
	options = append([]nats.Option{
		nats.MaxReconnects(-1),
		nats.ReconnectWait(5 * time.Millisecond),
		nats.ReconnectJitter(0, 0),
		nats.IgnoreDiscoveredServers(),
	}, options...)
	nc, err := nats.Connect(url, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
