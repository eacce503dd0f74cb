package load

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/cetrus/cetrus/manager"
	"github.com/cetrus/cetrus/proto/contract"
)

// TestFleetAgainstAManager: the recorded corpus is what a real Manager accepts
// and acknowledges, all of it.
func TestFleetAgainstAManager(t *testing.T) {
	m, err := manager.New(manager.Config{
		DataDir: t.TempDir(), AccountID: contract.ID{1}, AgentsSecurity: manager.Plaintext, AgentsAddress: "127.0.0.1:0", StatusAddress: "127.0.0.1:0",
	}, manager.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() {
		if err := m.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	defer running.Wait()
	defer cancel()

	ledger := NewLedger()
	result, err := Run(ctx, Config{
		Address: m.AgentsAddress(), Streams: 40, EventsPerStream: 500, MinBatch: 1, MaxBatch: 200,
		Seed: 1, StartUTCMillis: time.Now().Add(-24 * time.Hour).UnixMilli(), Ledger: ledger, Prepared: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if result.Events != 40*500 || ledger.Events() != result.Events {
		t.Errorf("%d of %d events acknowledged", result.Events, ledger.Events())
	}
	t.Logf("%.0f events/s, p99 %v, %v of processor time in both", result.EventsPerSecond(), result.Percentile(0.99), result.CPU)
}
