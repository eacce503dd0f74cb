package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/services/platform/natsserver"
)

func TestHealth(t *testing.T) {
	server, err := natsserver.Start(t.Context(), natsserver.Config{StoreDir: t.TempDir(), Listen: "127.0.0.1:0", Unsynced: true, Users: []natsserver.User{natsserver.PlatformUser("p")}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	nc, err := server.Connect(natsserver.PlatformUser("p"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)

	var h health
	wrong := errors.New("down for repair")
	h.start("metering")
	h.watch("metering", nc)
	h.worksWith("PostgreSQL", func(context.Context) error { return wrong })
	for _, step := range []struct {
		do           func()
		ready, alive string
	}{
		{func() {}, "starting: metering\nPostgreSQL: down for repair", "ok"},
		{func() { h.start("") }, "PostgreSQL: down for repair", "ok"},
		{func() { wrong = nil }, "ok", "ok"},
		// Given up for good, and not by the process: nothing but a restart helps.
		{nc.Close, "NATS for metering: not connected", "NATS for metering: the connection was given up"},
		{h.stop, "the process stops\nNATS for metering: not connected", "ok"},
	} {
		step.do()
		for want, ask := range map[string]func(context.Context) []string{"ready: " + step.ready: h.ready, "alive: " + step.alive: h.alive} {
			_, want, _ = strings.Cut(want, ": ")
			recorded := httptest.NewRecorder()
			answer(ask)(recorded, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
			if said := strings.TrimSpace(recorded.Body.String()); said != want || (recorded.Code == http.StatusOK) != (want == "ok") {
				t.Errorf("%d %q, want %q", recorded.Code, said, want)
			}
		}
	}
	if nc.Status() != nats.CLOSED {
		t.Error("the connection is not closed")
	}
}
