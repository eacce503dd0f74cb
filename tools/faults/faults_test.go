package faults_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/spf13/pflag"

	"github.com/cetrus/cetrus/tools/faults"
	"github.com/cetrus/cetrus/tools/faults/network"
)

// asAgents in the environment makes this binary a process of agents that a run
// can kill.
const asAgents = "CETRUS_FAULTS_AGENTS"

func TestMain(m *testing.M) {
	if os.Getenv(asAgents) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var h faults.Hosted
	flags := pflag.NewFlagSet("agents", pflag.ExitOnError)
	h.Flags(flags)
	_ = flags.Parse(os.Args[1:]) // exits on an error
	if err := faults.RunAgents(ctx, h, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestNothingLostNothingTwice is a short run; `make faults` does a long one. Set
// FAULTS_SEED to replay.
func TestNothingLostNothingTwice(t *testing.T) {
	if testing.Short() {
		t.Skip("a run takes minutes")
	}
	seed := rand.Uint64()
	if text := os.Getenv("FAULTS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("FAULTS_SEED: %v", err)
		}
	}
	dir, err := os.MkdirTemp("", "cetrus-faults-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	bin, err := faults.Build(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	machines := 3
	if err := network.Available(); err != nil {
		t.Logf("%v: all parts share this one", err)
		machines = 0
	}
	result, err := faults.Run(t.Context(), faults.Config{
		Dir: dir, Bin: bin, Agents: 20, Faults: 24, AtOnce: 3, Machines: machines, Seed: seed, Kinds: short(),
		Host: []string{self}, HostEnv: []string{asAgents + "=1"}, Out: t.Output(),
		History: filepath.Join(dir, "history.jsonl"),
	})
	if err != nil {
		t.Fatalf("seed %d, files kept in %s: %v", seed, dir, err)
	}
	v := result.Verdict
	t.Logf("%d events, %d (instance, attention) compared; faults injected %d, lost %d ms, doubled %d ms, reordered %d, resurrected %d; seed %d",
		result.Events, v.Keys, result.Total(), v.LostMillis, v.DoubledMillis, v.Reordered, v.Resurrected, seed)
	if err := result.Err(); err != nil {
		t.Fatalf("seed %d, files kept in %s: %v", seed, dir, err)
	}
	if result.Keys < 100 {
		t.Errorf("only %d (instance, attention) were compared", result.Keys)
	}
	_ = os.RemoveAll(dir)
}

// short are the kinds of the short run. Those that wear disks out are of the long one.
func short() []faults.Kind {
	return slices.DeleteFunc(faults.Kinds(), func(kind faults.Kind) bool {
		return kind == faults.DiskErrors || kind == faults.DiskReadOnly
	})
}
