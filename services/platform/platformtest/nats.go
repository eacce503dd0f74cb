package platformtest

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/services/platform/natsserver"
)

// NATS starts a NATS server with the streams of the log, for this test alone,
// and returns a connection to it. It does not sync to disk.
func NATS(t testing.TB) *nats.Conn {
	t.Helper()
	nc, _ := NATSServer(t, t.TempDir())
	return nc
}

// NATSServer is NATS on a directory of the test's choice. stop ends the server
// ahead of the test, as a crash of it would look to the connection; the
// directory can then be served again.
func NATSServer(t testing.TB, dir string) (nc *nats.Conn, stop func()) {
	t.Helper()
	s, err := natsserver.Start(t.Context(), natsserver.Config{StoreDir: dir, Unsynced: true, Logger: Logger(t)})
	if err != nil {
		t.Fatal("platformtest:", err)
	}
	t.Cleanup(s.Stop)
	nc, err = s.Connect(natsserver.User{})
	if err != nil {
		t.Fatal("platformtest:", err)
	}
	t.Cleanup(nc.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := natsserver.EnsureStreams(ctx, nc, natsserver.Streams{}); err != nil {
		t.Fatal("platformtest:", err)
	}
	return nc, s.Stop
}
