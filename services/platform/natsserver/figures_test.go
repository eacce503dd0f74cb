package natsserver_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/natsserver"
)

// figures are those of several servers, by stream, once they are as wanted.
func figures(t *testing.T, servers []*natsserver.Server, what string, wanted func([]natsserver.Figures, map[string]natsserver.StreamFigures) bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; <-time.After(50 * time.Millisecond) {
		all, streams := make([]natsserver.Figures, len(servers)), make(map[string]natsserver.StreamFigures)
		for i, s := range servers {
			var err error
			if all[i], err = s.Figures(); err != nil {
				t.Fatal(err)
			}
			for _, stream := range all[i].Streams {
				streams[stream.Name] = stream
			}
		}
		if wanted(all, streams) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %+v", what, all)
		}
	}
}

func TestFiguresOfOneServer(t *testing.T) {
	dir := t.TempDir()
	s := start(t, natsserver.Config{StoreDir: dir})
	nc := connect(t, s, natsserver.User{})
	ensure(t, nc, natsserver.Streams{})
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), contract.EventSubject(contract.ID{1}, "test", "thing", "1"), make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	asWanted := func(all []natsserver.Figures, streams map[string]natsserver.StreamFigures) bool {
		events := streams[contract.EventStream]
		return all[0].Ready && all[0].Servers == 1 && all[0].StoredBytes > 1<<20 && all[0].StoreLimitBytes > all[0].StoredBytes &&
			len(streams) == 4 && events.Messages == 1 && events.Bytes > 1<<20 && events.Copies == 1 && events.Replicas == 1
	}
	figures(t, []*natsserver.Server{s}, "with one event", asWanted)
	nc.Close()
	s.Stop()
	figures(t, []*natsserver.Server{start(t, natsserver.Config{StoreDir: dir})}, "after a restart", asWanted)
}

// Which copies of a stream are missing its leader tells, whichever server that is.
func TestFiguresOfACluster(t *testing.T) {
	cluster, err := natsserver.StartCluster(t.Context(), t.TempDir(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Stop()
	ensure(t, connect(t, cluster.Servers[0], natsserver.User{}), natsserver.Streams{Replicas: 3})
	of := func(copies int) func([]natsserver.Figures, map[string]natsserver.StreamFigures) bool {
		return func(all []natsserver.Figures, streams map[string]natsserver.StreamFigures) bool {
			for _, server := range all {
				if server.Servers != copies {
					return false
				}
			}
			for _, stream := range streams {
				if stream.Copies != copies || stream.Replicas != 3 {
					return false
				}
			}
			return len(streams) == 4
		}
	}
	figures(t, cluster.Servers, "three copies of all", of(3))
	cluster.Servers[0].Stop()
	figures(t, cluster.Servers[1:], "two copies of all", of(2))
}
