package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

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

// TestInventedPeopleStayAmongThemselves: a simulated office and real measurements never
// share a folder, and a refusal says the way out.
func TestInventedPeopleStayAmongThemselves(t *testing.T) {
	t.Chdir(t.TempDir())
	const nowhere = ":4095"
	for _, c := range []struct {
		name     string
		settings settings
		display  string
		holds    string // a folder that is there before, in "d"
		wantDir  string
		wantErr  string
	}{
		{"asked for", settings{demo: true}, "", "", ".data-demo", ""},
		{"no desktop", settings{}, "", "", ".data-demo", ""},
		{"a dead desktop", settings{}, nowhere, "", ".data-demo", ""},
		{"a folder of its own", settings{demo: true, dataDir: "d"}, "", "", "d", ""},
		{"the same again", settings{demo: true, dataDir: "d"}, "", companyDir, "d", ""},
		{"the office of before", settings{demo: true, dataDir: "d"}, "", officeDir, "", "an earlier release"},
		{"among real people", settings{demo: true, dataDir: "d"}, "", agentDir, "", "was measured on this machine"},
		{"no desktop, among real people", settings{dataDir: "d"}, "", agentDir, "", "DISPLAY is not set"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if c.holds != "" {
				if err := os.MkdirAll(filepath.Join("d", c.holds), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			s := c.settings
			err := s.settle(c.display)
			if c.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantErr) || !strings.Contains(err.Error(), "set DATA") {
					t.Errorf("the refusal is %v", err)
				}
				return
			}
			if err != nil || filepath.Base(s.dataDir) != c.wantDir || !s.demo || !strings.Contains(s.notMeasured(), "nothing of this machine is measured") {
				t.Errorf("%v; %+v", err, s)
			}
		})
	}
}
