package natsserver

import (
	"log/slog"
	"testing"
)

// TestSyncsBeforeItAnswers reads the setting back from the server: what it
// acknowledges must be on the disk, unless a test says otherwise.
func TestSyncsBeforeItAnswers(t *testing.T) {
	for _, unsynced := range []bool{false, true} {
		s, err := Start(t.Context(), Config{StoreDir: t.TempDir(), Unsynced: unsynced, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		if got := s.server.JetStreamConfig().SyncAlways; got == unsynced {
			t.Errorf("Unsynced %v: SyncAlways is %v", unsynced, got)
		}
		s.Stop()
	}
}
