//go:build linux

package upgrade

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	"github.com/cetrus/cetrus/tools/stack"
	"github.com/cetrus/cetrus/tools/wine"
)

// A service of Windows takes a release of itself, and refuses one that cannot run. The
// service manager sees one process all the time; helpers run what the service runs; and when
// the service stops nothing of it is left.
func TestServiceUpgradesOnWindows(t *testing.T) {
	t.Parallel()
	w := wine.Start(t)
	const name = "cetrus-agent.exe"
	agent := w.Build("agent", "./cmd/cetrus-agent", name, false, "-X main.releaseNumber=1", "-X main.version=v1")
	m := machine{system: "windows", folder: w.C(), path: func(name string) string { return `C:\` + name }}
	m.read(t, w.C(name))
	s := open(t, m)
	wait := func(what string, holds func() error) {
		t.Helper()
		if err := stack.Wait(t.Context(), 3*time.Minute, what, holds); err != nil {
			t.Fatal(err)
		}
	}
	runs := func(number, refused uint64) {
		t.Helper()
		wait(fmt.Sprintf("number %d to run with %d refused", number, refused), func() error {
			agents := s.server.Agents()
			if len(agents) == 1 && agents[0].Connected && agents[0].Release.GetNumber() == number &&
				agents[0].Release.GetRefused() == refused && agents[0].Release.GetState() != 4 { // on trial
				return nil
			}
			return fmt.Errorf("agents: %+v", agents)
		})
	}
	// helper waits until the only helper is of a program whose path holds a word.
	helper := func(word string) {
		t.Helper()
		wait("a helper of "+word, func() error {
			if of, all := w.Running(word+" session-helper"), w.Running("session-helper"); of != 1 || all != 1 {
				return fmt.Errorf("%d helpers, %d of them of %s", all, of, word)
			}
			return nil
		})
	}
	w.Run(time.Minute, agent, "install", "--manager", s.address, "--data-dir", `C:\data`, "--release-keys", s.path("keys.json"), "--plugin-keys", s.path("keys.json"))
	w.Run(time.Minute, agent, "start")
	runs(1, 0)
	helper(name)
	if n := w.Running(name + " run"); n != 1 {
		t.Errorf("%d processes of the service without a release", n)
	}

	tailed := func(number uint64) []byte { return fmt.Appendf(nil, "%s\n#%d", m.program, number) }
	s.offer(2, "", tailed(2))
	runs(2, 0)
	sum := sha256.Sum256(tailed(2))
	release := hex.EncodeToString(sum[:])
	helper(release)
	for of, words := range map[string]string{"guardian": name + " run", "release": release + " run", "helper": release + " session-helper"} {
		written, resident, err := w.Memory(words)
		if err != nil || written == 0 {
			t.Errorf("memory of the %s: %d, %v", of, written, err)
		}
		t.Logf("the %s has written %.1f MB, %.1f MB are resident, Wine in both", of, float64(written)/1e6, float64(resident)/1e6)
	}
	s.offer(3, "", []byte("this cannot be started"))
	runs(2, 3)
	helper(release)
	s.offer(4, "", tailed(4))
	wait("number 4 to run", func() error {
		if a := s.server.Agents(); len(a) != 1 || a[0].Release.GetNumber() != 4 || a[0].Release.GetState() != 1 {
			return fmt.Errorf("agents: %+v", a)
		}
		return nil
	})

	// A plug-in comes the same way, and one that was tampered with is refused.
	w.Build("agent/plugin/example", ".", counter+".exe", false)
	plugged, err := os.ReadFile(w.C(counter + ".exe"))
	if err != nil {
		t.Fatal(err)
	}
	s.add(counter, 1, plugged)
	s.untilPlugin("the plug-in runs", counter, func(runs *agentv1.PluginHealth, stands *agentv1.ReleaseReport) bool {
		return runs.GetState() == agentv1.PluginState_PLUGIN_STATE_RUNNING && stands.GetNumber() == 1
	})
	s.add(counter, 2, s.spoil(append(plugged, '2')))
	s.untilPlugin("what was tampered with is refused", counter, refused(1, 2, "not the one that was signed"))

	if said := w.Run(time.Minute, agent, "start"); !strings.Contains(said, "runs already") {
		t.Errorf("the service manager has lost the service: %s", said)
	}
	programs := 0
	entries, err := os.ReadDir(w.C("data", "releases"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if len(e.Name()) == 64 {
			programs++
		}
	}
	if programs != 1 {
		t.Errorf("%d programs are kept, one runs: %v", programs, entries)
	}
	w.Run(time.Minute, agent, "stop")
	wait("everything to end", func() error {
		if n := w.Running(name) + w.Running("session-helper") + w.Running("releases"); n != 0 {
			return fmt.Errorf("%d processes", n)
		}
		return nil
	})
}
