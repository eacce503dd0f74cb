package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/cetrus/cetrus/tools/figure"
)

// Scale is how much a run measures.
type Scale string

// Scales. Figures of Small prove that the bench works, and nothing else; of Middle only the company that the console
// is asked about is smaller than of Full.
const (
	Small  Scale = "small"
	Middle Scale = "middle"
	Full   Scale = "full"
)

// Config says what to measure.
type Config struct {
	// Only names the benches to run, in their own order; empty: all.
	Only  []string
	Scale Scale
	// Rounds is how often what is compared is measured in turns; 0: as many as the
	// bench thinks right.
	Rounds int
	// Lines takes the results, a JSON object a line.
	Lines io.Writer
	// Progress takes words for people.
	Progress io.Writer
	// Self is how this program is started as a helper process: its path and the
	// words before the role (see Serve and Generate).
	Self []string
	// Profiles is a directory for CPU profiles of what runs in this process; empty:
	// none are taken.
	Profiles string
}

// Names of all benches, in the order in which they run.
func Names() []string {
	var names []string
	for _, b := range benches() {
		names = append(names, b.name)
	}
	return names
}

type bench struct {
	name string
	run  func(ctx context.Context, r *run) error
}

func benches() []bench {
	return []bench{
		{"manager_ingest_backlog", ingestBacklog},
		{"manager_ingest_trickle", ingestTrickle},
		{"metering_projection", meteringProjection},
		{"rebuild", rebuild},
		{"freshness_live", func(ctx context.Context, r *run) error { return freshness(ctx, r, "freshness_live") }},
		{"freshness_final", func(ctx context.Context, r *run) error { return freshness(ctx, r, "freshness_final") }},
		{"agent_cost", agentCost},
		{"summarize", summarize},
		{"rls", rls},
		{"token_check", tokenCheck},
		{"signin", signingIn},
		{"pages", pages},
		{"slider", slider},
		{"first_page", firstPage},
		{"report_speed", reportSpeed},
		{"rows", rows},
		{"ten_thousand_agents", tenThousandAgents},
		{"offline_backlog", offlineBacklog},
		{"many_seats", manySeats},
	}
}

// run is one run of several benches.
type run struct {
	Config
	dir  string // of this run, removed at its end
	name string // of the bench under way
	log  *slog.Logger
	// fresh keeps both results of the one run that measures freshness.
	fresh   map[string]figure.Line
	started int // processes so far
	// console is shared by the benches of the console; nil before the first of them.
	console       *consoled
	consoleFailed error
	// site is shared by the benches of many agents; nil before the first of them.
	site *site
}

// Run measures, one bench after the other. A bench that fails is told at the end,
// after the others have run.
func Run(ctx context.Context, config Config) (err error) {
	for _, name := range config.Only {
		if !slices.Contains(Names(), name) {
			return fmt.Errorf("bench: there is no %q; there are %s", name, strings.Join(Names(), ", "))
		}
	}
	if config.Scale != Small && config.Scale != Middle && config.Scale != Full {
		return fmt.Errorf("bench: scale %q is none of %s, %s and %s", config.Scale, Small, Middle, Full)
	}
	dir, err := os.MkdirTemp("", "cetrus-bench-")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	r := &run{Config: config, dir: dir, log: slog.New(slog.NewTextHandler(config.Progress, &slog.HandlerOptions{Level: slog.LevelError}))}
	defer func() {
		if r.console != nil {
			err = errors.Join(err, r.console.close())
		}
		if r.site != nil {
			err = errors.Join(err, r.site.close())
		}
	}()
	var failed []string
	for _, b := range benches() {
		if len(config.Only) > 0 && !slices.Contains(config.Only, b.name) {
			continue
		}
		r.name = b.name
		r.say("begins; the machine's load is %s", loadAverage())
		began := time.Now()
		if err := b.run(ctx, r); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			r.say("failed: %v", err)
			failed = append(failed, fmt.Sprintf("%s: %v", b.name, err))
			continue
		}
		r.say("took %v; the machine's load is %s", time.Since(began).Round(time.Second), loadAverage())
	}
	if len(failed) > 0 {
		return fmt.Errorf("bench: %s", strings.Join(failed, "; "))
	}
	return nil
}

func (r *run) say(format string, args ...any) {
	_, _ = fmt.Fprintf(r.Progress, "%s %s: %s\n", time.Now().Format(time.TimeOnly), r.name, fmt.Sprintf(format, args...))
}

// emit writes a result, with the load of the machine beside it.
func (r *run) emit(line figure.Line) error {
	if line.More == nil {
		line.More = map[string]any{}
	}
	line.More["scale"], line.More["load_average"] = r.Scale, loadAverage()
	for _, f := range []*float64{&line.Value, &line.Limit, &line.Ratio} {
		*f = rounded(*f)
	}
	for name, value := range line.More {
		if f, ok := value.(float64); ok {
			line.More[name] = rounded(f)
		}
	}
	return line.Write(r.Lines)
}

// rounded keeps what a measurement is good for: four figures, no long tail.
func rounded(f float64) float64 {
	switch {
	case f >= 1000 || f <= -1000:
		return float64(int64(f))
	default:
		return float64(int64(f*10000)) / 10000
	}
}

// sized is one of two values by scale.
func sized[T any](r *run, small, full T) T {
	if r.Scale == Small {
		return small
	}
	return full
}

// rounds is how often to measure in turns.
func (r *run) rounds() int {
	if r.Rounds > 0 {
		return r.Rounds
	}
	return sized(r, 1, 3)
}

// folder makes a directory of this run that PostgreSQL's user can reach.
func (r *run) folder(name string) (string, error) {
	dir, err := os.MkdirTemp(r.dir, name+"-")
	if err != nil {
		return "", fmt.Errorf("bench: %w", err)
	}
	return dir, os.Chmod(dir, 0o755)
}

// profile takes a CPU profile of this process until the answer is called.
func (r *run) profile(part string) func() {
	if r.Profiles == "" {
		return func() {}
	}
	file, err := os.Create(filepath.Join(r.Profiles, r.name+part+".pprof"))
	if err == nil {
		err = pprof.StartCPUProfile(file)
	}
	if err != nil {
		r.say("no profile: %v", err)
		return func() {}
	}
	return func() {
		pprof.StopCPUProfile()
		_ = file.Close()
	}
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	fields := strings.Fields(string(text))
	return strings.Join(fields[:min(3, len(fields))], " ")
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	values = slices.Sorted(slices.Values(values))
	return values[len(values)/2]
}

// at is the duration that the share p of all did not exceed, in milliseconds.
func at(p float64, all []time.Duration) float64 {
	if len(all) == 0 {
		return 0
	}
	all = slices.Sorted(slices.Values(all))
	return millis(all[min(len(all)-1, int(p*float64(len(all))))])
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
