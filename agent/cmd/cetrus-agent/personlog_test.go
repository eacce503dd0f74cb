package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// The log of an icon keeps the newest, and never takes more than twice its bound.
func TestABoundedLog(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "a", "tray.log")
	const most = 1000
	var all bytes.Buffer
	for run := range 5 { // each goes on with the same file
		l, err := openBoundedLog(name, most)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 100 {
			line := fmt.Appendf(nil, "line %d of run %d\n", n, run)
			all.Write(line)
			if _, err := l.Write(line); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	now, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(name + ".old")
	if err != nil {
		t.Fatal(err)
	}
	kept := append(old, now...)
	if len(now) > most || len(old) > most || len(kept) <= most || !bytes.HasSuffix(all.Bytes(), kept) {
		t.Errorf("%d and %d bytes are kept, which are not the last that was said", len(old), len(now))
	}
	// A line that is longer than the bound is not lost either.
	l, err := openBoundedLog(name, 10)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	long := bytes.Repeat([]byte("x"), 100)
	if _, err := l.Write(long); err != nil {
		t.Fatal(err)
	}
	if now, _ = os.ReadFile(name); !bytes.Equal(now, long) {
		t.Errorf("%d bytes of a long line are kept", len(now))
	}
}
