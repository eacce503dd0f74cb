package natsserver_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/natsserver"
)

// BenchmarkPublish compares what one server and a cluster of three acknowledge, both syncing always, of messages
// that come one after the other and of 64 at once. The three share this machine's disk and processors.
func BenchmarkPublish(b *testing.B) {
	for _, size := range []int{1, 3} {
		for _, atOnce := range []int{1, 64} {
			for _, bytes := range []int{4 << 10, 256 << 10} {
				b.Run(fmt.Sprintf("servers=%d/atOnce=%d/KiB=%d", size, atOnce, bytes>>10), func(b *testing.B) {
					publish(b, size, atOnce, bytes)
				})
			}
		}
	}
}

func publish(b *testing.B, size, atOnce, bytes int) {
	var nc *nats.Conn
	if size == 1 {
		platform := natsserver.PlatformUser("x")
		s, err := natsserver.Start(b.Context(), natsserver.Config{StoreDir: filepath.Join(b.TempDir(), "n"), Users: []natsserver.User{platform}, Logger: quiet()})
		if err != nil {
			b.Fatal(err)
		}
		defer s.Stop()
		if nc, err = s.Connect(platform); err != nil {
			b.Fatal(err)
		}
	} else {
		cluster, err := natsserver.StartCluster(b.Context(), b.TempDir(), quiet())
		if err != nil {
			b.Fatal(err)
		}
		defer cluster.Stop()
		if nc, err = cluster.Servers[0].Connect(natsserver.User{}); err != nil {
			b.Fatal(err)
		}
	}
	defer nc.Close()
	if err := natsserver.EnsureStreams(b.Context(), nc, natsserver.Streams{Replicas: size}); err != nil {
		b.Fatal(err)
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(atOnce))
	if err != nil {
		b.Fatal(err)
	}
	body := make([]byte, bytes)
	b.SetBytes(int64(bytes))
	for i := 0; b.Loop(); i++ {
		// As from as many Managers.
		subject := fmt.Sprintf("agent.%d.%s.%s.usage", i%atOnce%contract.Partitions, contract.ID{1}, contract.ID{byte(i % atOnce)})
		if _, err := js.PublishAsync(subject, body, jetstream.WithStallWait(time.Minute)); err != nil {
			b.Fatal(err)
		}
	}
	select {
	case <-js.PublishAsyncComplete():
	case <-time.After(time.Minute):
		b.Fatal("not all is acknowledged")
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "acknowledged/s")
}
