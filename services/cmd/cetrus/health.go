package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/services/platform/errs"
)

// healthWithin is how long one question about a process may take; who asks waits little longer.
const healthWithin = 2 * time.Second

// health is what can be asked about a process while it runs: whether it lives, and whether it can do its work.
type health struct {
	mu sync.Mutex
	// starting is the part that is being started, empty once all are.
	starting string
	stopping bool
	works    []check
	lives    []check
}

// check tells what is wrong with one thing, by its name for people.
type check struct {
	name  string
	check func(context.Context) error
}

// worksWith adds what must be there for the process to do its work, and comes back by itself.
func (h *health) worksWith(name string, ask func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.works = append(h.works, check{name, ask})
}

// livesWith adds what never comes back without a restart.
func (h *health) livesWith(name string, ask func(context.Context) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lives = append(h.lives, check{name, ask})
}

func (h *health) start(part string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.starting = part
}

func (h *health) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopping = true
}

// watch has a connection to NATS belong to what the process needs. Clients try to connect for ever: one that is
// closed and not by its process has been given up.
func (h *health) watch(part string, nc *nats.Conn) {
	h.worksWith("NATS for "+part, func(context.Context) error {
		if nc.IsConnected() {
			return nil
		}
		if err := nc.LastError(); err != nil {
			return fmt.Errorf("not connected: %w", err)
		}
		return errors.New("not connected")
	})
	h.livesWith("NATS for "+part, func(context.Context) error {
		if nc.IsClosed() {
			return errors.New("the connection was given up")
		}
		return nil
	})
}

// ready tells what is missing for the process to do its work; empty where nothing is.
func (h *health) ready(ctx context.Context) []string {
	h.mu.Lock()
	starting, stopping, works := h.starting, h.stopping, slices.Clone(h.works)
	h.mu.Unlock()
	var missing []string
	if stopping {
		missing = append(missing, "the process stops")
	} else if starting != "" {
		missing = append(missing, "starting: "+starting)
	}
	return append(missing, asked(ctx, works)...)
}

// alive tells what only a restart mends; empty where nothing is.
func (h *health) alive(ctx context.Context) []string {
	h.mu.Lock()
	stopping, lives := h.stopping, slices.Clone(h.lives)
	h.mu.Unlock()
	if stopping {
		return nil // it closes what it has, and ends within stop-within
	}
	return asked(ctx, lives)
}

// asked asks all at once.
func asked(ctx context.Context, checks []check) []string {
	answers := make([]string, len(checks))
	var asking sync.WaitGroup
	for i, c := range checks {
		asking.Go(func() {
			if err := c.check(ctx); err != nil {
				answers[i] = c.name + ": " + err.Error()
			}
		})
	}
	asking.Wait()
	return slices.DeleteFunc(answers, func(text string) bool { return text == "" })
}

// answer tells in words, a line for each thing that is missing.
func answer(ask func(context.Context) []string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), healthWithin)
		defer cancel()
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		missing := ask(ctx)
		if len(missing) == 0 {
			_, _ = w.Write([]byte("ok\n")) // who asked is gone where this fails
			return
		}
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = w.Write([]byte(strings.Join(missing, "\n") + "\n"))
	}
}

// healthPart answers about the process, in plain HTTP, for whoever runs it: nothing of what is measured is told.
var healthPart = part{
	name: "health", listens: []string{"health-listen"},
	start: func(ctx context.Context, p *process) (runner, error) {
		if p.settings.healthListen == "" {
			return nil, nil
		}
		lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", p.settings.healthListen)
		if err != nil {
			return nil, errs.As(errs.Precondition, "cetrus", "health-listen "+p.settings.healthListen, "cannot be listened on", err)
		}
		p.addresses.Health = "http://" + onThisMachine(lis.Addr().String())
		mux := http.NewServeMux()
		mux.HandleFunc("GET /healthz", answer(p.health.alive))
		mux.HandleFunc("GET /readyz", answer(p.health.ready))
		server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 2 * healthWithin, MaxHeaderBytes: 64 << 10}
		return func(ctx context.Context) error {
			failed := make(chan error, 1)
			go func() { failed <- server.Serve(lis) }()
			select {
			case err := <-failed:
				return errs.Wrap("cetrus", "health-listen", err)
			case <-ctx.Done():
			}
			err := server.Close()
			if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
				err = errors.Join(err, served)
			}
			return errs.Wrap("cetrus", "health-listen", err)
		}, nil
	},
}
