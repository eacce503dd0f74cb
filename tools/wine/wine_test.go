//go:build linux

package wine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The test sets of the agent's packages, as Windows programs.
func TestPackagesOfTheAgent(t *testing.T) {
	t.Parallel()
	w := Start(t)
	// There is no Go there to build a plug-in.
	w.Env = append(w.Env, "CETRUS_TEST_PLUGIN="+w.Build("agent/plugin/example", ".", "example.exe", false))
	for _, c := range []struct {
		name, pkg string
		args      []string
	}{
		{"activity", "./activity", []string{"-test.short"}},
		{"agent", ".", []string{"-test.run", "^TestControl(Knows|Passes)"}},
		{"evidence", "./evidence", nil},
		// What touches the system: appending, syncing, replacing, removing, tearing.
		{"journal", "./journal", []string{"-test.short", "-rapid.checks=5"}},
		{"durable", "./durable", nil},
		{"desktop", "./desktop", nil},
		{"owned", "./owned", nil},
		{"plugin", "./plugin", []string{"-test.short"}},
		{"release", "./release", []string{"-rapid.checks=20"}},
		// One case reads a source file, which is not there.
		{"uplink", "./uplink", []string{"-test.short", "-test.skip", "/no_PEM"}},
		{"cetrus-agent", "./cmd/cetrus-agent", []string{"-test.run", "^Test(Conversation|ShutDown)"}},
		{"fingerprint", "./fingerprint", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			program := w.Build("agent", c.pkg, c.name+".test.exe", true)
			out, err := w.Try(5*time.Minute, program, append(c.args, "-test.v", "-test.timeout", "290s")...)
			passed := len(regexp.MustCompile(`(?m)^--- PASS`).FindAllString(out, -1))
			if err != nil || passed == 0 {
				failed := regexp.MustCompile(`(?m)^\s*(--- FAIL|panic:|\w+_test\.go:\d+:).*`).FindAllString(out, -1)
				t.Errorf("%v\n%s\n%s", err, strings.Join(failed, "\n"), tail(out, 60))
			}
			t.Logf("%d tests passed as a Windows program", passed)
		})
	}
}

// The agent is installed, started, asked, stopped and removed as a service, and works
// through a helper while it runs.
func TestLifeAsAService(t *testing.T) {
	t.Parallel()
	w := Start(t)
	agent := w.Build("agent", "./cmd/cetrus-agent", "cetrus-agent.exe", false)
	const data = `C:\agent data`
	// What anybody may write is not what the system's own service runs.
	for _, name := range []string{"plug-ins", "anybody's data"} {
		if err := errors.Join(os.Mkdir(w.C(name), 0o700), os.WriteFile(w.C(name, "something"), nil, 0o600), os.Chmod(w.C(name), 0o777)); err != nil {
			t.Fatal(err)
		}
	}
	for setting, folder := range map[string]string{"--plugin-dir": "plug-ins", "--data-dir": "anybody's data"} {
		refuses(t, w, strings.TrimPrefix(setting, "--")+`: C:\`+folder, agent, "install", "--manager", "127.0.0.1:1", "--data-dir", data, setting, `C:\`+folder)
	}
	w.Run(time.Minute, agent, "install", "--manager", "127.0.0.1:1", "--data-dir", data)
	if out, err := w.Try(time.Minute, agent, "install", "--manager", "127.0.0.1:1", "--data-dir", data); err == nil {
		t.Errorf("installed twice: %s", out)
	}
	for range 2 {
		w.Run(time.Minute, agent, "start")
		eventually(t, time.Minute, "the service to answer", func() (string, bool) {
			out, err := w.Try(20*time.Second, agent, "status", "--data-dir", data)
			return out, err == nil && strings.Contains(out, "127.0.0.1:1") && !blind(out)
		})
		eventually(t, time.Minute, "a helper to look into the session", func() (string, bool) {
			n := w.Running("cetrus-agent.exe session-helper")
			return fmt.Sprint(n, " helpers"), n == 1
		})
		refuses(t, w, "another agent uses", agent, "run", "--data-dir", data, "--manager", "127.0.0.1:1")
		w.Run(time.Minute, agent, "stop")
		eventually(t, 30*time.Second, "service and helper to end", func() (string, bool) {
			n := w.Running("cetrus-agent.exe")
			return fmt.Sprint(n, " processes"), n == 0
		})
	}
	w.Run(time.Minute, agent, "uninstall")
	if found, _ := filepath.Glob(w.C("agent data", "usage", "*.seg")); len(found) == 0 {
		t.Error("what was recorded has not outlived the service")
	}
	// The helper serves nobody who is not its service.
	refuses(t, w, "no pipe of the agent", agent, "session-helper", `\\.\pipe\somebody`)
}

// refuses waits until a program refuses what it is told to do and says why: Wine now and then
// loses what a program says that ends at once.
func refuses(t *testing.T, w *Wine, says, program string, args ...string) {
	t.Helper()
	eventually(t, time.Minute, fmt.Sprintf("%v to be refused", args), func() (string, bool) {
		out, err := w.Try(20*time.Second, program, args...)
		if err == nil {
			t.Fatalf("%v was done: %s", args, out)
		}
		return out, strings.Contains(out, says)
	})
}

// blind tells whether status says that the session is not seen. Wine 8 lets nobody follow a
// trace, which the service does without, and says.
func blind(status string) bool {
	untold := false
	for line := range strings.Lines(status) {
		said := strings.Contains(line, "are not seen: ")
		untold = untold || said
		if strings.HasPrefix(line, "Not told by this desktop") && !said {
			return true
		}
	}
	return !untold
}

func eventually(t *testing.T, limit time.Duration, what string, holds func() (string, bool)) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		said, ok := holds()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s; last: %s", limit, what, said)
		}
		<-time.After(200 * time.Millisecond)
	}
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
