package postgres

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// What the server says because it was told to stop is no alarm; anything else that
// is fatal is.
func TestStoppingIsNoAlarm(t *testing.T) {
	var out bytes.Buffer
	l := &lines{log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn})), tail: &tail{}}
	said := "LOG:  received fast shutdown request\n" +
		"FATAL:  terminating connection due to administrator command\n" +
		"FATAL:  the database system is shutting down\n"
	if _, err := l.Write([]byte(said)); err != nil || out.Len() > 0 {
		t.Fatalf("%v: logged %s", err, out.String())
	}
	if _, err := l.Write([]byte("PANIC:  could not write to file\n")); err != nil || !strings.Contains(out.String(), "could not write") {
		t.Fatalf("%v: logged %q", err, out.String())
	}
}
