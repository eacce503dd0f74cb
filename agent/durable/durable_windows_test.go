package durable_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/windows"

	"github.com/cetrus/cetrus/agent/durable"
)

// A file that somebody else has open for a moment is replaced once they let go of it.
func TestReplaceWaitsForWhoHasItOpen(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "settings.json")
	if err := os.WriteFile(file, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	name, err := windows.UTF16PtrFromString(file)
	if err != nil {
		t.Fatal(err)
	}
	held, err := windows.CreateFile(name, windows.GENERIC_READ, windows.FILE_SHARE_READ, nil, windows.OPEN_EXISTING, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	// It is let go of once the other file lies beside it, so after the first attempt or
	// just before.
	let := make(chan error, 1)
	go func() {
		for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); <-time.After(time.Millisecond) {
			if _, err := os.Stat(file + ".new"); err == nil {
				break
			}
		}
		let <- windows.CloseHandle(held)
	}()
	if err := durable.Replace(file, []byte("after")); err != nil {
		t.Error(err)
	}
	if err := <-let; err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "after" {
		t.Errorf("%q, %v", text, err)
	}
}
