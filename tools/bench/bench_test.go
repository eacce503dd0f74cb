package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/tools/figure"
	"github.com/cetrus/cetrus/tools/stack"
)

// TestGeneratorAndLimit: the load generator gets every frame acknowledged by the
// pass-through, and counts what it sent.
func TestGeneratorAndLimit(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := t.TempDir()
	serving, stop := context.WithCancel(ctx)
	var server sync.WaitGroup
	server.Go(func() {
		if err := (PassThrough{Dir: dir, Size: 64 << 10, Window: 2}).Serve(serving); err != nil {
			t.Error(err)
		}
	})
	defer server.Wait()
	defer stop()
	load := Load{Raw: true, Streams: 8, Window: 2, MinRecords: 1, MaxRecords: 3, Frames: 30, Span: 30 * time.Second, Out: filepath.Join(dir, "loaded")}
	err := stack.Wait(ctx, 20*time.Second, "the pass-through", func() error {
		text, err := os.ReadFile(filepath.Join(dir, "address"))
		load.Address = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := load.Generate(ctx); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(load.Out)
	if err != nil {
		t.Fatal(err)
	}
	var loaded Loaded
	if err := json.Unmarshal(text, &loaded); err != nil {
		t.Fatal(err)
	}
	// The first frame of a stream, of one event, warms up and is not counted.
	if want := int64(8 * (30*2 - 1)); loaded.Events != want || loaded.Frames != 8*29 || loaded.P99 < loaded.P50 || loaded.P50 <= 0 {
		t.Errorf("%+v, want %d events", loaded, want)
	}
}

// TestEmployeesKeepTheirJournal: what the company did is one chain a person, with
// intervals that join.
func TestEmployeesKeepTheirJournal(t *testing.T) {
	begin := time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)
	e := newEmployee(3, begin)
	chain, seq, days := contract.Hash{}, uint64(0), 0
	for {
		f, err := e.next()
		if err != nil {
			t.Fatal(err)
		}
		if f == nil {
			break
		}
		days++
		if f.frame.GetFirstSeq() != seq+1 || !bytes.Equal(f.frame.GetChainBefore(), chain[:]) {
			t.Fatalf("day %d begins at %d, behind %d", days, f.frame.GetFirstSeq(), seq)
		}
		for _, record := range f.frame.GetRecords() {
			chain = contract.Chain(chain, record)
			seq++
		}
		if !bytes.Equal(f.frame.GetChainAfter(), chain[:]) {
			t.Fatalf("day %d ends in another chain", days)
		}
	}
	if days != 65 || seq < 2000 {
		t.Errorf("%d days, %d events", days, seq)
	}
}

// TestCompare: an answer that lacks a group or a millisecond is found out.
func TestCompare(t *testing.T) {
	q := &meteringv1.SummarizeUsageRequest{GroupBy: []meteringv1.GroupBy{meteringv1.GroupBy_GROUP_BY_APPLICATION}}
	answer := func(millis ...int64) *meteringv1.SummarizeUsageResponse {
		a, sum := &meteringv1.SummarizeUsageResponse{}, int64(0)
		for i, m := range millis {
			sum += m
			a.Groups = append(a.Groups, &meteringv1.UsageGroup{ApplicationId: string(rune('a' + i)), Totals: &meteringv1.UsageTotals{Busy: durationpb.New(time.Duration(m) * time.Millisecond)}})
		}
		a.Totals = &meteringv1.UsageTotals{Busy: durationpb.New(time.Duration(sum) * time.Millisecond)}
		return a
	}
	s := &scanned{rows: map[string]*row{" application a": {millis: [8]int64{5: 7}}, " application b": {millis: [8]int64{5: 9}}}, total: [8]int64{5: 16}}
	for name, c := range map[string]struct {
		answer *meteringv1.SummarizeUsageResponse
		differ bool
	}{
		"equal": {answer(7, 9), false}, "a group less": {answer(7), true}, "a group more": {answer(7, 9, 0), true}, "a millisecond": {answer(7, 10), true}, "swapped": {answer(9, 7), true},
	} {
		if err := s.compare(q, c.answer); (err != nil) != c.differ {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWhatTrustCosts: what judges callers is measured against its limits; the figures of a
// small run say nothing, but that they are there.
func TestWhatTrustCosts(t *testing.T) {
	var lines bytes.Buffer
	if err := Run(t.Context(), Config{Only: []string{"token_check", "signin"}, Scale: Small, Lines: &lines, Progress: io.Discard}); err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(&lines)
	for _, name := range []string{"token_check", "signin"} {
		var line figure.Line
		if err := decoder.Decode(&line); err != nil || line.Name != name || line.Value <= 0 || line.Limit <= 0 || line.Ratio <= 0 {
			t.Errorf("%s: %+v, %v", name, line, err)
		}
		t.Logf("%+v", line)
	}
}

// asCrowd in the environment makes this binary the process of light agents that a bench starts.
const asCrowd = "CETRUS_BENCH_CROWD"

func TestMain(m *testing.M) {
	if os.Getenv(asCrowd) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var c Crowd
	err := json.Unmarshal([]byte(os.Args[len(os.Args)-1]), &c)
	if err == nil {
		err = c.Be(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestManyAgents: the benches of many agents work with few: all that is promised is measured, agents come
// back to a Manager that began anew, and nothing is lost on the way. How long anything takes is nobody's
// promise here.
func TestManyAgents(t *testing.T) {
	t.Setenv(asCrowd, "yes") // for processes that are started from here
	var lines bytes.Buffer
	err := Run(t.Context(), Config{
		Only: []string{"ten_thousand_agents", "offline_backlog", "many_seats"}, Scale: Small, Self: []string{os.Args[0]}, Lines: &lines, Progress: t.Output(),
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	decoder := json.NewDecoder(&lines)
	for decoder.More() {
		var line figure.Line
		if err := decoder.Decode(&line); err != nil {
			t.Fatal(err)
		}
		names = append(names, line.Name)
		if lost := strings.HasSuffix(line.Name, "_lost"); lost != (line.Value == 0) {
			t.Errorf("%+v", line)
		}
	}
	if want := []string{
		"ten_thousand_agents_memory", "ten_thousand_agents_cpu", "ten_thousand_agents_acknowledged", "ten_thousand_agents_live", "ten_thousand_agents_final",
		"ten_thousand_agents_restart_sigterm", "ten_thousand_agents_restart_sigkill", "ten_thousand_agents_lost",
		"offline_backlog_live", "offline_backlog_counted", "offline_backlog_lost", "offline_backlog_bytes", "many_seats_300", "many_seats_lost",
	}; !slices.Equal(names, want) {
		t.Errorf("it has measured %v", names)
	}
}

func TestWrongNames(t *testing.T) {
	for _, c := range []Config{{Only: []string{"speed"}, Scale: Small}, {Scale: "large"}} {
		if err := Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "small") && !strings.Contains(err.Error(), "summarize") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
