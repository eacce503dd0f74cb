//go:build linux

package packages

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tools skips the test where what it needs is not installed.
func tools(t *testing.T, commands ...string) {
	t.Helper()
	for _, command := range commands {
		if _, err := exec.LookPath(command); err != nil {
			t.Skipf("NOT TESTED: %s is missing; tools/bootstrap.sh test packages installs it", command)
		}
	}
}

// build makes packages of a kind in a folder; their files by name and kind.
func build(t *testing.T, out, kind string, env ...string) map[string]string {
	t.Helper()
	_ = os.Getenv("CETRUS_SOURCES") // so that a change of them undoes Go's memory of this test's result
	cmd := exec.Command("../packages.sh", strings.Fields(kind)...)
	cmd.Env = append(append(os.Environ(), "CETRUS_OUT="+out, "SOURCE_DATE_EPOCH=1700000000"), env...)
	var said strings.Builder
	cmd.Stderr = &said
	lines, err := cmd.Output()
	if err != nil {
		t.Fatalf("tools/packages.sh %s: %v\n%s", kind, err, said.String())
	}
	made := make(map[string]string)
	for file := range strings.Lines(string(lines)) {
		file = strings.TrimSpace(file)
		name, _, _ := strings.Cut(filepath.Base(file), "_")
		if kind == "msi" {
			name = kind
		}
		made[name] = file
	}
	return made
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Error(err)
	}
	return string(text)
}

func eventually(t *testing.T, limit time.Duration, what string, holds func() (string, bool)) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; <-time.After(200 * time.Millisecond) {
		said, ok := holds()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s; last: %s", limit, what, said)
		}
	}
}
