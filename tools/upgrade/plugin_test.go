//go:build linux

package upgrade

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent"
	"github.com/cetrus/cetrus/agent/desktop"
	"github.com/cetrus/cetrus/agent/desktop/scripted"
	"github.com/cetrus/cetrus/agent/plugin"
	"github.com/cetrus/cetrus/manager/releases"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	"github.com/cetrus/cetrus/proto/release"
	"github.com/cetrus/cetrus/tools/stack"
)

// counter is the example of a plug-in.
const counter = "opening-counter"

// plugin is a plug-in as its Manager knows it: how it runs, and how its releases stand.
func (s *site) plugin(name string) (runs *agentv1.PluginHealth, stands *agentv1.ReleaseReport) {
	for _, a := range s.server.Agents() {
		for _, p := range a.Plugins {
			if p.GetName() == name {
				runs = p
			}
		}
		for _, r := range a.PluginReleases.GetPlugins() {
			if r.GetName() == name {
				stands = r
			}
		}
	}
	return runs, stands
}

func (s *site) untilPlugin(what, name string, holds func(*agentv1.PluginHealth, *agentv1.ReleaseReport) bool) {
	s.t.Helper()
	if err := stack.Wait(s.t.Context(), 3*time.Minute, what, func() error {
		if runs, stands := s.plugin(name); !holds(runs, stands) {
			return fmt.Errorf("it is %v and stands so: %v; releases: %+v", runs, stands, s.releases.List())
		}
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
}

// current tells whether a number runs and is through its trial.
func current(number uint64) func(*agentv1.PluginHealth, *agentv1.ReleaseReport) bool {
	return func(runs *agentv1.PluginHealth, stands *agentv1.ReleaseReport) bool {
		return runs.GetState() == agentv1.PluginState_PLUGIN_STATE_RUNNING && stands.GetNumber() == number &&
			stands.GetState() == agentv1.ReleaseState_RELEASE_STATE_CURRENT
	}
}

// refused tells whether one number runs, and another was refused for a reason.
func refused(number, target uint64, reason string) func(*agentv1.PluginHealth, *agentv1.ReleaseReport) bool {
	return func(runs *agentv1.PluginHealth, stands *agentv1.ReleaseReport) bool {
		return stands.GetNumber() == number && stands.GetTarget() == target &&
			stands.GetState() == agentv1.ReleaseState_RELEASE_STATE_REFUSED && strings.Contains(stands.GetMessage(), reason) &&
			(number == 0 || runs.GetState() == agentv1.PluginState_PLUGIN_STATE_RUNNING)
	}
}

// tamper changes the last byte of a release that the Manager keeps, as somebody could who
// may write its folder.
func tamper(t *testing.T, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		text[len(text)-1] ^= 1
		err = os.WriteFile(file, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A plug-in comes from the Manager, is tried, and is replaced by the next; what is broken,
// another's or tampered with is refused, by the Manager or, after it, by the agent, and the
// one before goes on; and all of it outlives the agent.
func TestPluginsComeFromTheManager(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), counter)
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".")
	build.Dir, build.Env = filepath.Join("..", "..", "agent", "plugin", "example"), append(os.Environ(), "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, machine{system: runtime.GOOS, folder: t.TempDir()})
	run := s.runAgent()
	version := func(n int) []byte { return fmt.Appendf(bytes.Clone(program), "#%d", n) }
	s.add(counter, 1, version(1))
	s.untilPlugin("the first is through its trial", counter, current(1))
	s.add(counter, 2, version(2))
	s.untilPlugin("the second is through its trial", counter, current(2))
	s.add(counter, 3, []byte("this cannot be started"))
	s.untilPlugin("the third is refused", counter, refused(2, 3, "start"))
	s.add("other", 1, version(4))
	s.untilPlugin("what calls itself something else is refused", "other", refused(0, 1, "calls itself"))
	if list := s.releases.List(); slices.ContainsFunc(list, func(r releases.Release) bool { return (r.Number == 3 || r.Name == "other") != (r.Held != "") }) {
		t.Errorf("not just those that failed are held: %+v", list)
	}
	run.stop()
	tamper(t, s.add(counter, 5, version(5)))
	run = s.runAgent()
	s.untilPlugin("the Manager holds what was tampered with on its disk", counter, func(runs *agentv1.PluginHealth, stands *agentv1.ReleaseReport) bool {
		return runs.GetState() == agentv1.PluginState_PLUGIN_STATE_RUNNING && stands.GetNumber() == 2 &&
			slices.ContainsFunc(s.releases.List(), func(r releases.Release) bool { return r.Number == 5 && r.Damaged })
	})
	s.add(counter, 6, s.spoil(version(6)))
	s.untilPlugin("the agent refuses what was tampered with on the way", counter, refused(2, 6, "not the one that was signed"))
	run.stop()

	// Whom the agent does not trust, its Manager cannot make it believe; and what somebody
	// signed who is not trusted any more runs no longer.
	s.trust()
	run = s.runAgent()
	s.untilPlugin("a stranger's is refused", counter, func(runs *agentv1.PluginHealth, stands *agentv1.ReleaseReport) bool {
		return runs == nil && stands.GetNumber() == 0 && strings.Contains(stands.GetMessage(), "not what the key")
	})
	run.stop()
}

// trust has the site's agent trust another key under the name of the one that signs.
func (s *site) trust() {
	s.t.Helper()
	public, _, err := release.NewKey()
	if err != nil {
		s.t.Fatal(err)
	}
	text, err := json.Marshal(map[string]any{"keys": map[string][]byte{"test": public}})
	if err == nil {
		err = os.WriteFile(filepath.Join(s.folder, "keys.json"), text, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// running is an agent of this process.
type running struct{ stop func() }

// runAgent runs an agent on the site's folder until it is stopped. It trusts the site's
// first key.
func (s *site) runAgent() *running {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.folder, "keys.json"))
	if err != nil {
		s.t.Fatal(err)
	}
	keys, err := release.ParseKeys(text)
	if err != nil {
		s.t.Fatal(err)
	}
	begin := time.Now()
	desk := scripted.New(scripted.Config{
		Host: desktop.Host{Name: "plugged", OperatingSystem: "script"}, Begin: begin, Booted: time.Minute, Pace: scripted.Since(begin), Endless: true,
	})
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	a, err := agent.New(agent.Config{
		DataDir: filepath.Join(s.folder, "data"), Managers: []string{s.address}, ControlSocket: agent.NoControl,
		Plugins: &agent.PluginsConfig{
			Releases: &agent.PluginReleasesConfig{Keys: keys, System: runtime.GOOS, Architecture: runtime.GOARCH, BytesPerSecond: 1 << 30},
			Host:     plugin.Config{TrialFor: time.Second, Heartbeat: 200 * time.Millisecond, FirstPause: 100 * time.Millisecond},
		},
	}, agent.Deps{Desktop: desk, Log: log})
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := a.Run(ctx); err != nil {
			s.t.Errorf("the agent: %v", err)
		}
		desk.Close()
	})
	r := &running{stop: sync.OnceFunc(func() {
		cancel()
		done.Wait()
	})}
	s.t.Cleanup(r.stop)
	return r
}
