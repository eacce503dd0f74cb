package projection_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/projection"
)

// BenchmarkRebuild is what a Runner costs by itself: reading a stream of 64 partitions from its
// start with a handler that does nothing, by one checkpoint or by one of each partition.
func BenchmarkRebuild(b *testing.B) {
	for _, c := range []struct{ size, partitions int }{{500, projection.Whole}, {500, contract.Partitions}, {100_000, projection.Whole}, {100_000, contract.Partitions}} {
		size := c.size
		b.Run(fmt.Sprintf("%d-bytes-%d-checkpoints", size, c.partitions), func(b *testing.B) {
			s, nc := platformtest.Store(b, storeConfig(1)), platformtest.NATS(b)
			js, err := jetstream.New(nc)
			if err != nil {
				b.Fatal(err)
			}
			messages := min(20_000, 100_000_000/size)
			for i := range messages {
				if _, err := js.PublishAsync(fmt.Sprintf("ev.%d.test", i%contract.Partitions), make([]byte, size)); err != nil {
					b.Fatal(err)
				}
			}
			<-js.PublishAsyncComplete()
			nothing := projection.HandlerFunc(func(context.Context, pgx.Tx, []projection.Message) error { return nil })
			for b.Loop() {
				if _, err := s.Projector.Exec(b.Context(), "DELETE FROM projection_checkpoint"); err != nil {
					b.Fatal(err)
				}
				ctx, cancel := context.WithCancel(b.Context())
				shares, err := projection.NewShares(projection.SharesConfig{Pool: s.Projector, Instance: "bench", Partitions: c.partitions, Logger: platformtest.Logger(nil)})
				if err != nil {
					b.Fatal(err)
				}
				r, err := projection.New(projection.Config{
					Name: "seen", JetStream: js, Stream: contract.EventStream, Subjects: []string{"ev.>"}, WholeStream: true, Shares: shares, Pool: s.Projector, Handler: nothing, Logger: platformtest.Logger(nil),
					Level: func(context.Context) error { cancel(); return nil },
				})
				if err != nil {
					b.Fatal(err)
				}
				if err := shares.Keep(ctx, r); err != nil {
					b.Fatal(err)
				}
				if got := r.Progress().Done; got != uint64(messages) {
					b.Fatalf("%d of %d messages applied", got, messages)
				}
			}
			b.ReportMetric(float64(messages*b.N)/b.Elapsed().Seconds(), "messages/s")
			b.SetBytes(int64(messages * size))
		})
	}
}
