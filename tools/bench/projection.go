package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/metering"
	"github.com/cetrus/cetrus/tools/figure"
	"github.com/cetrus/cetrus/tools/load"
)

// The stream that metering reads: so many machines, whose frames of so many events
// come in turns.
const (
	projectionMachines = 1000
	projectionFrame    = 25
)

// fill makes a stream of at least so many events out of the recorded corpus.
func (r *run) fill(ctx context.Context, events int) (*stream, error) {
	s, err := r.newStream(ctx)
	if err != nil {
		return nil, err
	}
	corpus, err := load.Recorded()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	machines := min(projectionMachines, max(10, events/200))
	sources := make([]*load.Source, machines)
	for i := range sources {
		sources[i] = load.NewSource(corpus, load.SourceConfig{Number: i, Seed: uint64(events), StartUTCMillis: began.Add(-60 * 24 * time.Hour).UnixMilli()})
	}
	made, turn := 0, 0
	err = s.publish(ctx, contract.ID{1}, contract.ID{2}, func() (*received, error) {
		if made >= events {
			return nil, nil
		}
		source := sources[turn%machines]
		turn++
		frame, err := source.Next(projectionFrame)
		if err != nil {
			return nil, err
		}
		made += projectionFrame
		alias, err := contract.IDFrom(source.Person().GetPrincipalAlias())
		principal := alias
		principal[0] ^= 0xff
		return &received{frame: frame, alias: alias, principal: principal, utcMillis: source.UTCMillis()}, err
	})
	if err != nil {
		s.close()
		return nil, err
	}
	r.say("%d events of %d machines in the stream after %v", s.events, machines, time.Since(began).Round(time.Second))
	return s, nil
}

// counted is one reading of a stream from its start into empty tables.
type counted struct {
	took, cpu time.Duration
	stores    *metering.Stores
	drop      func() error
}

// count lets metering count all of a stream.
func (r *run) count(ctx context.Context, d *database, s *stream) (c counted, err error) {
	if c.stores, c.drop, err = d.stores(ctx, r); err != nil {
		return c, err
	}
	cpu, began := meteringCPU(d), time.Now()
	m, err := r.meter(ctx, s, c.stores)
	if err == nil {
		err = m.service.WaitForUsage(ctx, s.messages)
		c.took, c.cpu = time.Since(began), meteringCPU(d)-cpu
		err = errors.Join(err, m.close())
	}
	if err == nil {
		err = r.allCounted(ctx, s, c.stores)
	}
	if err != nil {
		return c, errors.Join(err, c.drop())
	}
	return c, nil
}

// allCounted makes sure that nothing was quarantined: an event that is set aside
// is counted fast.
func (r *run) allCounted(ctx context.Context, s *stream, stores *metering.Stores) error {
	var events int64
	if err := stores.Views.Projector.QueryRow(ctx, "SELECT coalesce(sum(events), 0)::int8 FROM agent").Scan(&events); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if events != int64(s.events) {
		return fmt.Errorf("bench: %d of %d events were counted", events, s.events)
	}
	return nil
}

// meteringCPU is what this process and PostgreSQL have used: unlike the clock, it
// says nearly the same on a machine that others use too.
func meteringCPU(d *database) time.Duration { return ownCPU() + treeCPU(d.server.Pid()) }

// treeCPU is the processor time of a process, its children, and those of them that
// have ended.
func treeCPU(pid int) time.Duration {
	const tick = 10 * time.Millisecond
	var sum time.Duration
	fields := statOf(pid)
	for _, i := range []int{11, 12, 13, 14} { // utime, stime, and those of children that ended
		if i < len(fields) {
			n, _ := strconv.ParseInt(fields[i], 10, 64)
			sum += time.Duration(n) * tick
		}
	}
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // each thread has those that it started
	for _, path := range threads {
		children, _ := os.ReadFile(path)
		for _, text := range strings.Fields(string(children)) {
			if n, err := strconv.Atoi(text); err == nil {
				sum += treeCPU(n)
			}
		}
	}
	return sum
}

// statOf are the fields of a process behind its name.
func statOf(pid int) []string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return strings.Fields(rest)
}

func meteringProjection(ctx context.Context, r *run) error {
	d, err := r.newDatabase(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = d.close(ctx) }()
	s, err := r.fill(ctx, sized(r, 20_000, 1_000_000))
	if err != nil {
		return err
	}
	defer s.close()
	var ours, bare, ratios, cpuRatios []float64
	more := map[string]any{}
	for round := range r.rounds() {
		stop := r.profile(strconv.Itoa(round))
		c, err := r.count(ctx, d, s)
		stop()
		if err != nil {
			return err
		}
		copied, err := r.copyAgain(ctx, d, c.stores)
		if err := errors.Join(err, c.drop()); err != nil {
			return err
		}
		events := float64(s.events)
		r.say("%.0f events/s; COPY of the %d rows %.0f events/s", events/c.took.Seconds(), copied.rows, events/copied.took.Seconds())
		ours, bare = append(ours, events/c.took.Seconds()), append(bare, events/copied.took.Seconds())
		ratios, cpuRatios = append(ratios, copied.took.Seconds()/c.took.Seconds()), append(cpuRatios, copied.cpu.Seconds()/c.cpu.Seconds())
		more["events"], more["rows"], more["written_rows"] = s.events, copied.rows, copied.written
		more["cpu_us_per_event"] = c.cpu.Seconds() / events * 1e6
	}
	more["cpu_ratio"], more["rounds"] = median(cpuRatios), len(ours)
	// The rows that are left are fewer than those written: a day's row is written
	// again by each batch that adds to it. The limit copies what is left only.
	more["ratio_by_written_rows"] = median(ratios) * float64(more["written_rows"].(int64)) / float64(more["rows"].(int64))
	return r.emit(figure.Line{Name: r.name, Value: median(ours), Unit: "events/s", Limit: median(bare), Ratio: median(ratios), More: more})
}

type copied struct {
	took, cpu     time.Duration
	rows, written int64
}

// copyAgain copies the rows that metering left behind, out and then into the same
// tables, emptied: with the same keys, each table in one COPY.
func (r *run) copyAgain(ctx context.Context, d *database, stores *metering.Stores) (c copied, err error) {
	conn, err := stores.Views.Projector.Acquire(ctx)
	if err != nil {
		return c, err
	}
	defer conn.Release()
	// The statistics lag a second behind unless they are asked to hurry.
	if _, err := conn.Exec(ctx, "SELECT pg_stat_force_next_flush(), pg_stat_clear_snapshot()"); err != nil {
		return c, err
	}
	if !pause(ctx, 1500*time.Millisecond) {
		return c, ctx.Err()
	}
	for _, table := range metering.Tables() {
		var rows bytes.Buffer
		tag, err := conn.Conn().PgConn().CopyTo(ctx, &rows, "COPY "+table+" TO STDOUT (FORMAT binary)")
		if err != nil {
			return c, err
		}
		var written int64
		if err := conn.QueryRow(ctx, "SELECT n_tup_ins + n_tup_upd FROM pg_stat_user_tables WHERE relid = $1::regclass", table).Scan(&written); err != nil {
			return c, err
		}
		c.rows, c.written = c.rows+tag.RowsAffected(), c.written+written
		if _, err := conn.Exec(ctx, "TRUNCATE "+table); err != nil {
			return c, err
		}
		began, cpu := time.Now(), meteringCPU(d)
		if _, err := conn.Conn().PgConn().CopyFrom(ctx, &rows, "COPY "+table+" FROM STDIN (FORMAT binary)"); err != nil {
			return c, err
		}
		c.took, c.cpu = c.took+time.Since(began), c.cpu+meteringCPU(d)-cpu
	}
	return c, nil
}

// rebuild reads a short and a long stream from their starts, in turns.
func rebuild(ctx context.Context, r *run) error {
	d, err := r.newDatabase(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = d.close(ctx) }()
	sizes := sized(r, []int{50_000, 250_000}, []int{1_000_000, 5_000_000})
	streams := make([]*stream, len(sizes))
	for i, events := range sizes {
		if streams[i], err = r.fill(ctx, events); err != nil {
			return err
		}
		defer streams[i].close()
	}
	rates, cpus := make([][]float64, len(sizes)), make([][]float64, len(sizes))
	for range r.rounds() {
		for i, s := range streams {
			c, err := r.count(ctx, d, s)
			if err != nil {
				return err
			}
			if err := c.drop(); err != nil {
				return err
			}
			rate := float64(s.events) / c.took.Seconds()
			r.say("%d events: %.0f events/s, %.1f µs of processor an event", s.events, rate, c.cpu.Seconds()/float64(s.events)*1e6)
			rates[i], cpus[i] = append(rates[i], rate), append(cpus[i], c.cpu.Seconds()/float64(s.events)*1e6)
		}
	}
	return r.emit(figure.Line{Name: r.name, Value: median(rates[1]), Unit: "events/s", Limit: median(rates[0]), More: map[string]any{
		"events": streams[1].events, "limit_events": streams[0].events, "rounds": len(rates[0]),
		"cpu_us_per_event": median(cpus[1]), "limit_cpu_us_per_event": median(cpus[0]),
	}})
}
