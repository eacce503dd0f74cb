package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cetrus/cetrus/services/platform/ports"
	"github.com/cetrus/cetrus/tools/figure"
	"github.com/cetrus/cetrus/tools/stack"
)

func ingestBacklog(ctx context.Context, r *run) error {
	l := Load{
		Streams: sized(r, 50, 500), Window: 2, MinRecords: 1000, MaxRecords: 1000, Frames: sized(r, 8, 40),
		Span: sized(r, time.Second, 5*time.Second),
	}
	return ingest(ctx, r, l, nil)
}

func ingestTrickle(ctx context.Context, r *run) error {
	l := Load{
		Streams: sized(r, 200, 2000), Window: 1, MinRecords: 1, MaxRecords: 3, Frames: sized(r, 400, 1500),
		Span: sized(r, time.Second, 5*time.Second),
	}
	paced := l
	paced.Pace = time.Second
	return ingest(ctx, r, l, &paced)
}

// ingest compares the Manager with a pass-through, in turns, so that what else the
// machine does meets both. The pass-through's best message size and window are
// sought first.
func ingest(ctx context.Context, r *run, l Load, paced *Load) error {
	manager, err := r.build(ctx, "manager/cmd/cetrus-manager")
	if err != nil {
		return err
	}
	var best PassThrough
	bestRate := 0.0
	for _, p := range sized(r, []PassThrough{{Size: 1 << 20, Window: 2}},
		[]PassThrough{{Size: 256 << 10, Window: 2}, {Size: 1 << 20, Window: 2}, {Size: 2 << 20, Window: 3}, {Size: 4 << 20, Window: 3}}) {
		loaded, err := r.passThrough(ctx, l, p)
		if err != nil {
			return err
		}
		r.say("pass-through at %d KiB × %d: %.0f events/s", p.Size>>10, p.Window, loaded.rate())
		if loaded.rate() > bestRate {
			best, bestRate = p, loaded.rate()
		}
	}
	var ours, limits, ratios, p99, generatorCPU, limitGeneratorCPU, serverCPU, limitCPU []float64
	for range r.rounds() {
		limit, err := r.passThrough(ctx, l, best)
		if err != nil {
			return err
		}
		own, err := r.manager(ctx, l, manager)
		if err != nil {
			return err
		}
		r.say("Manager %.0f events/s, p99 %v; pass-through %.0f events/s, p99 %v", own.rate(), own.P99.Round(time.Millisecond), limit.rate(), limit.P99.Round(time.Millisecond))
		ours, limits, ratios = append(ours, own.rate()), append(limits, limit.rate()), append(ratios, own.rate()/limit.rate())
		p99 = append(p99, millis(own.P99))
		generatorCPU, limitGeneratorCPU = append(generatorCPU, own.CPU.Seconds()/own.Seconds), append(limitGeneratorCPU, limit.CPU.Seconds()/limit.Seconds)
		serverCPU, limitCPU = append(serverCPU, own.ServerCPU.Seconds()/float64(own.Events)*1e6), append(limitCPU, limit.ServerCPU.Seconds()/float64(limit.Events)*1e6)
	}
	line := figure.Line{Name: r.name, Value: median(ours), Unit: "events/s", Limit: median(limits), Ratio: median(ratios), More: map[string]any{
		"p99_ms": median(p99), "limit_message_kib": best.Size >> 10, "limit_window": best.Window,
		"generator_processors": median(generatorCPU), "limit_generator_processors": median(limitGeneratorCPU),
		"server_cpu_s_per_million": median(serverCPU), "limit_cpu_s_per_million": median(limitCPU), "rounds": len(ours),
	}}
	if paced != nil {
		loaded, err := r.manager(ctx, *paced, manager)
		if err != nil {
			return err
		}
		line.More["paced_events_per_s"], line.More["paced_p50_ms"], line.More["paced_p99_ms"] = loaded.rate(), millis(loaded.P50), millis(loaded.P99)
	}
	return r.emit(line)
}

// passThrough measures the limit once, in fresh processes on a fresh directory.
func (r *run) passThrough(ctx context.Context, l Load, p PassThrough) (Loaded, error) {
	var err error
	if p.Dir, err = r.folder("pass-through"); err != nil {
		return Loaded{}, err
	}
	defer func() { _ = os.RemoveAll(p.Dir) }()
	order, err := json.Marshal(p)
	if err != nil {
		return Loaded{}, err
	}
	server, err := r.start(nil, r.Self[0], append(r.Self[1:len(r.Self):len(r.Self)], "serve", string(order))...)
	if err != nil {
		return Loaded{}, err
	}
	defer server.stop()
	err = stack.Wait(ctx, 30*time.Second, "the pass-through", func() error {
		text, err := os.ReadFile(filepath.Join(p.Dir, "address"))
		l.Address = string(text)
		return errors.Join(err, server.Failure())
	})
	if err != nil {
		return Loaded{}, err
	}
	l.Raw = true
	return r.generate(ctx, l, server)
}

// manager measures a Manager once, in fresh processes on a fresh directory, its
// platform out of reach: everything stays in its buffer.
func (r *run) manager(ctx context.Context, l Load, path string) (Loaded, error) {
	dir, err := r.folder("manager")
	if err != nil {
		return Loaded{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	held, err := ports.Hold(2)
	if err != nil {
		return Loaded{}, err
	}
	defer held.Release()
	agents, status := held.Addresses()[0], held.Addresses()[1]
	server, err := r.start(nil, path, "run", "--data-dir", dir, "--account-id", "6d1bbd5c-1c4e-4d0b-9a45-0c3f4f0a2b11", "--agents-address", agents, "--agents-security", "plaintext", "--status-address", status)
	if err != nil {
		return Loaded{}, err
	}
	defer server.stop()
	err = stack.Wait(ctx, 30*time.Second, "the Manager", func() error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+status+"/api/v1/status", nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err == nil {
			err = response.Body.Close()
		}
		return errors.Join(err, server.Failure())
	})
	if err != nil {
		return Loaded{}, err
	}
	l.Address = agents
	return r.generate(ctx, l, server)
}

// generate drives a server from a process of its own.
func (r *run) generate(ctx context.Context, l Load, server *child) (loaded Loaded, err error) {
	l.Out = filepath.Join(r.dir, "loaded")
	_ = os.Remove(l.Out)
	order, err := json.Marshal(l)
	if err != nil {
		return loaded, err
	}
	before := server.cpu()
	generator, err := r.start(nil, r.Self[0], append(r.Self[1:len(r.Self):len(r.Self)], "generate", string(order))...)
	if err != nil {
		return loaded, err
	}
	select {
	case <-generator.Done():
	case <-server.Done():
		generator.stop()
		return loaded, server.Failure()
	case <-ctx.Done():
		generator.stop()
		return loaded, ctx.Err()
	}
	text, err := os.ReadFile(l.Out)
	if err != nil {
		return loaded, fmt.Errorf("bench: the generator: %s", strings.TrimSpace(generator.Said()))
	}
	err = json.Unmarshal(text, &loaded)
	loaded.ServerCPU = server.cpu() - before
	return loaded, err
}
