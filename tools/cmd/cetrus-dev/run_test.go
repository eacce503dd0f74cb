package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestOpenLeavesClosedFolders(t *testing.T) {
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	wanted := filepath.Join(closed, "checkout", ".data")
	if dir, moved := open(wanted, 0); !moved || dir == wanted {
		t.Errorf("root keeps its data in %s, where nobody else gets", dir)
	}
	if dir, moved := open(wanted, 1000); moved {
		t.Errorf("somebody else is moved to %s", dir)
	}
	if dir, moved := open("/var/lib/somewhere/.data", 0); moved {
		t.Errorf("moved to %s without need", dir)
	}
}

func TestASecondRunnerIsTurnedAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock(path); err == nil {
		t.Error("two runners in one folder")
	}
	unlock()
	again, err := lock(path)
	if err != nil {
		t.Fatal(err)
	}
	again()
}
