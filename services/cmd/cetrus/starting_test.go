package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cetrus/cetrus/services/platform/ports"
)

// While parts start that the gateway stands on, its address says so; after that, and where starting fails, nobody is
// there any more.
func TestWhileItStarts(t *testing.T) {
	free, err := ports.Hold(1)
	if err != nil {
		t.Fatal(err)
	}
	defer free.Release()
	address := free.Addresses()[0]
	answers := func() int {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/", nil)
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0
		}
		_ = answer.Body.Close()
		return answer.StatusCode
	}
	said, broken := 0, errors.New("broken")
	slow := part{name: "slow", start: func(context.Context, *process) (runner, error) {
		said = answers()
		return nil, broken
	}}
	p, err := newProcess(settings{dataDir: t.TempDir(), restListen: address}, target{"test", "", []part{slow, gatewayPart}}, slog.New(slog.DiscardHandler), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.run(t.Context(), func() {}); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if said != http.StatusServiceUnavailable || answers() != 0 {
		t.Errorf("while it starts %d is answered, and later %d", said, answers())
	}
}

// A server that was started here is gone when the process ends, also where another part does not stop in time.
func TestServersDoNotOutliveTheProcess(t *testing.T) {
	var gone atomic.Bool
	server := part{name: "server", start: func(_ context.Context, p *process) (runner, error) {
		return func(ctx context.Context) error {
			<-ctx.Done()
			select {
			case <-p.stopping:
			default:
				t.Error("it is stopped without being told before")
			}
			<-time.After(50 * time.Millisecond) // what it takes to stop
			gone.Store(true)
			return nil
		}, nil
	}}
	release := make(chan struct{})
	defer close(release)
	stuck := part{name: "stuck", start: func(context.Context, *process) (runner, error) {
		return func(context.Context) error { <-release; return nil }, nil
	}}
	p, err := newProcess(settings{dataDir: t.TempDir(), stopWithin: 50 * time.Millisecond}, target{"test", "", []part{server, stuck}}, slog.New(slog.DiscardHandler), t.Output())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	if err := p.run(ctx, stop); err == nil || !strings.Contains(err.Error(), "stuck did not stop within 50ms") {
		t.Errorf("it ends with %v", err)
	}
	if !gone.Load() {
		t.Error("the server outlives the process")
	}
}
