package eventlog_test

import (
	"fmt"
	"testing"

	"github.com/google/uuid"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/natsserver"
)

func benchLog(b *testing.B) *eventlog.JetStream {
	server, err := natsserver.Start(b.Context(), natsserver.Config{StoreDir: b.TempDir(), Logger: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(server.Stop)
	nc, err := server.Connect(natsserver.User{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	if err := natsserver.EnsureStreams(b.Context(), nc, natsserver.Streams{}); err != nil {
		b.Fatal(err)
	}
	return eventlog.NewJetStream(nc, contract.EventStream)
}

func benchSubject() string {
	return contract.EventSubject(contract.ID{1}, "bench", "thing", uuid.NewString())
}

// BenchmarkAppend is one event after the other on one aggregate, each synced.
func BenchmarkAppend(b *testing.B) {
	log, subject := benchLog(b), benchSubject()
	var last eventlog.Position
	for b.Loop() {
		var err error
		if last, err = log.Append(b.Context(), subject, last, eventlog.Event{Type: "t", Data: make([]byte, 200)}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoad reads aggregates of several lengths out of a stream that holds
// others too.
func BenchmarkLoad(b *testing.B) {
	for _, length := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("events=%d", length), func(b *testing.B) {
			log, subject := benchLog(b), benchSubject()
			events := make([]eventlog.Event, length)
			for i := range events {
				events[i] = eventlog.Event{Type: "t", Data: make([]byte, 200)}
			}
			for _, s := range []string{benchSubject(), subject, benchSubject()} {
				if _, err := log.Append(b.Context(), s, 0, events...); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				if loaded, _, err := log.Load(b.Context(), subject); err != nil || len(loaded) != length {
					b.Fatal(len(loaded), err)
				}
			}
		})
	}
}
