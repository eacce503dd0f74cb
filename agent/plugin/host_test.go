package plugin_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cetrus/cetrus/agent/plugin"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	pluginv1 "github.com/cetrus/cetrus/proto/cetrus/plugin/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

const (
	example = "opening-counter"
	keyID   = "test-2026"
	running = agentv1.PluginState_PLUGIN_STATE_RUNNING
	failed  = agentv1.PluginState_PLUGIN_STATE_FAILED
	refused = agentv1.PluginState_PLUGIN_STATE_REFUSED
)

// builtExample names, in the environment, an example that was built already: where there is
// no Go, as under Wine.
const builtExample = "CETRUS_TEST_PLUGIN"

// program builds the example once, as another repository would: alone.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "cetrus-plugin-")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, example+".exe")
	if built := os.Getenv(builtExample); built != "" {
		text, err := os.ReadFile(built)
		if err != nil {
			return "", err
		}
		return file, os.WriteFile(file, text, 0o700)
	}
	command := exec.Command("go", "build", "-o", file, ".")
	command.Dir = "example"
	command.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
	if out, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return file, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if file, err := program(); err == nil {
		_ = os.RemoveAll(filepath.Dir(file))
	}
	os.Exit(code)
}

// folder is a folder with the example, its list and its signature.
type folder struct {
	t    *testing.T
	dir  string
	key  ed25519.PrivateKey
	keys plugin.Keys
}

func newFolder(t *testing.T) *folder {
	t.Helper()
	built, err := program()
	if err != nil {
		t.Fatalf("build the example: %v", err)
	}
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	f := &folder{t: t, dir: t.TempDir(), key: private, keys: plugin.Keys{keyID: public}}
	text, err := os.ReadFile(built)
	if err != nil {
		t.Fatal(err)
	}
	f.write(example+".exe", text)
	sum := sha256.Sum256(text)
	f.list(plugin.List{Plugins: []plugin.Entry{{Name: example, File: example + ".exe", SHA256: hex.EncodeToString(sum[:]), MemoryBytes: 64 << 20}}}, keyID)
	return f
}

func (f *folder) write(name string, text []byte) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.dir, name), text, 0o700); err != nil {
		f.t.Fatal(err)
	}
}

func (f *folder) list(l plugin.List, signedWith string) {
	f.t.Helper()
	text, err := json.Marshal(l)
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(plugin.ListFile, text)
	signature, err := json.Marshal(plugin.Sign(text, signedWith, f.key))
	if err != nil {
		f.t.Fatal(err)
	}
	f.write(plugin.SignatureFile, signature)
}

// hosted is a host that runs.
type hosted struct {
	*plugin.Host
	t     *testing.T
	stop  func()
	mu    sync.Mutex
	facts []*pluginv1.ReportResponse
	tried map[string]error // by the program's SHA-256
}

func host(t *testing.T, f *folder, settings string, builtIn map[string]plugin.Plugin) *hosted {
	t.Helper()
	h := &hosted{t: t, tried: map[string]error{}}
	config := plugin.Config{
		StateDir: t.TempDir(), CallTimeout: time.Second, Heartbeat: 50 * time.Millisecond,
		FirstPause: 50 * time.Millisecond, LastPause: 200 * time.Millisecond, Queue: 5000, ListLook: 20 * time.Millisecond,
		TrialFor: 300 * time.Millisecond,
	}
	if f != nil {
		config.Dir, config.Keys = f.dir, f.keys
	}
	if strings.Contains(settings, `"memory"`) {
		config.CallTimeout = 30 * time.Second // to eat takes its time on a busy machine, within one call
	}
	h.Host = plugin.New(config, plugin.Deps{
		BuiltIn: builtIn,
		Tell: func(_ context.Context, _ string, r *pluginv1.ReportResponse) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.facts = append(h.facts, r)
			return nil
		},
		Tried: func(_ context.Context, entry plugin.Entry, err error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.tried[entry.SHA256] = err
		},
	})
	h.Configure(&pluginv1.ConfigureRequest{}, []*policyv1.PluginPolicy{{Name: example, Settings: []byte(settings)}})
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { h.Run(ctx) })
	h.stop = sync.OnceFunc(func() { cancel(); done.Wait() })
	t.Cleanup(h.stop)
	return h
}

func (h *hosted) health(name string) *agentv1.PluginHealth {
	for _, p := range h.Health() {
		if p.GetName() == name {
			return p
		}
	}
	return nil
}

func (h *hosted) until(what string, holds func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("waited in vain until %s; health is %v", what, h.Health())
		}
	}
}

func (h *hosted) counted() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.facts) == 0 {
		return ""
	}
	return string(h.facts[len(h.facts)-1].GetInventory().GetSnapshot())
}

func opened(n byte) *pluginv1.Event {
	id := bytes.Repeat([]byte{n}, 16)
	return &pluginv1.Event{Kind: pluginv1.EventKind_EVENT_KIND_OPENED, InstanceId: id, ApplicationId: id, SessionId: id, PrincipalAlias: id, AtBootMillis: int64(n)}
}

func TestExampleHearsAndTells(t *testing.T) {
	t.Parallel()
	h := host(t, newFolder(t), `{"warn_after":2}`, nil)
	h.until("it runs", func() bool { return h.health(example).GetState() == running })
	h.Publish([]*pluginv1.Event{opened(1), opened(2), {Kind: pluginv1.EventKind_EVENT_KIND_CHANGED, InstanceId: opened(1).GetInstanceId()}})
	h.until("it has counted", func() bool { return h.counted() == "2" })
	h.Publish([]*pluginv1.Event{opened(3)})
	h.until("it says that this is too many", func() bool { return strings.Contains(h.health(example).GetMessage(), "3 openings") })
	// Settings change without a restart.
	h.Configure(&pluginv1.ConfigureRequest{}, nil)
	h.until("it is well", func() bool { return h.health(example).GetMessage() == "" })
	if got := h.health(example); got.GetRestarts() != 0 || got.GetVersion() != "1.0.0" || got.GetBuiltIn() {
		t.Errorf("health is %v", got)
	}
	h.stop()
}

// Each bad plug-in is ended and started again, and comes back with what is open now.
func TestBadPluginsAreContained(t *testing.T) {
	t.Parallel()
	for misbehave, reason := range map[string]string{
		"crash": "exit status 3", "hang": "DeadlineExceeded", "memory": "of memory", "lie": "did not describe",
	} {
		t.Run(misbehave, func(t *testing.T) {
			t.Parallel()
			if misbehave == "memory" && runtime.GOOS != "linux" {
				t.Skip("the reason is told on Linux only")
			}
			h := host(t, newFolder(t), fmt.Sprintf(`{"misbehave":%q}`, misbehave), nil)
			h.until("it runs", func() bool { return h.health(example).GetState() == running })
			h.Publish([]*pluginv1.Event{opened(1), opened(2), {Kind: pluginv1.EventKind_EVENT_KIND_CLOSED, InstanceId: opened(2).GetInstanceId()}})
			h.until("it has failed", func() bool { return h.health(example).GetState() == failed })
			got := h.health(example).GetMessage()
			// Of what eats fast, the kernel's limit may be quicker than the heartbeat.
			outOfMemory := misbehave == "memory" && strings.Contains(got, "exit status 2")
			if !strings.Contains(got, reason) && !outOfMemory {
				t.Errorf("the reason is %q, want one with %q", got, reason)
			}
			h.until("it was started again, twice", func() bool { return h.health(example).GetRestarts() >= 2 })
			h.Configure(&pluginv1.ConfigureRequest{}, nil)
			h.until("it runs and knows what is open", func() bool { return h.health(example).GetState() == running && h.counted() == "1" })
		})
	}
}

func TestTamperedIsRefused(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		tamper func(*folder)
		reason string
	}{
		"program": {func(f *folder) {
			text, err := os.ReadFile(filepath.Join(f.dir, example+".exe"))
			if err != nil {
				f.t.Fatal(err)
			}
			text[len(text)/2] ^= 1
			f.write(example+".exe", text)
		}, "not the one that was signed"},
		"missing program": {func(f *folder) { _ = os.Remove(filepath.Join(f.dir, example+".exe")) }, "cannot be read"},
		"list": {func(f *folder) {
			text, err := os.ReadFile(filepath.Join(f.dir, plugin.ListFile))
			if err != nil {
				f.t.Fatal(err)
			}
			f.write(plugin.ListFile, bytes.Replace(text, []byte(`"file"`), []byte(`"file" `), 1))
		}, "not what the key"},
		"no signature": {func(f *folder) { _ = os.Remove(filepath.Join(f.dir, plugin.SignatureFile)) }, "signature"},
		"strange key":  {func(f *folder) { f.list(plugin.List{}, "somebody") }, "does not trust"},
		"way out": {func(f *folder) {
			f.list(plugin.List{Plugins: []plugin.Entry{{Name: example, File: "../x", SHA256: strings.Repeat("00", 32)}}}, keyID)
		}, "a file of the same folder"},
		"another name": {func(f *folder) {
			text, err := os.ReadFile(filepath.Join(f.dir, example+".exe"))
			if err != nil {
				f.t.Fatal(err)
			}
			sum := sha256.Sum256(text)
			f.list(plugin.List{Plugins: []plugin.Entry{{Name: "other", File: example + ".exe", SHA256: hex.EncodeToString(sum[:])}}}, keyID)
		}, "calls itself"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFolder(t)
			c.tamper(f)
			h := host(t, f, "", map[string]plugin.Plugin{"monitor": &stub{name: "monitor"}})
			h.until("it is refused", func() bool {
				for _, p := range h.Health() {
					if p.GetState() == refused && strings.Contains(p.GetMessage(), c.reason) {
						return true
					}
				}
				return false
			})
			h.until("what is built in runs all the same", func() bool { return h.health("monitor").GetState() == running })
		})
	}
}

// stub is a built-in plug-in.
type stub struct {
	name   string
	mu     sync.Mutex
	heard  []*pluginv1.Event
	panics bool
	slow   chan struct{}
}

func (s *stub) Describe(context.Context) (*pluginv1.DescribeResponse, error) {
	return &pluginv1.DescribeResponse{Name: s.name, Version: "1", Events: []pluginv1.EventKind{pluginv1.EventKind_EVENT_KIND_OPENED}}, nil
}
func (s *stub) Configure(context.Context, *pluginv1.ConfigureRequest) error { return nil }
func (s *stub) Notify(ctx context.Context, events []*pluginv1.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.panics {
		s.panics = false
		panic("a fault")
	}
	if s.slow != nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.slow:
		}
	}
	s.heard = append(s.heard, events...)
	return nil
}

func (s *stub) Report(ctx context.Context, _ func(*pluginv1.ReportResponse) error) error {
	<-ctx.Done()
	return ctx.Err()
}

func (s *stub) Check(context.Context) (*pluginv1.Health, error) {
	return &pluginv1.Health{Well: true}, nil
}
func (s *stub) Stop(context.Context) error { return nil }

// What the agent observes reaches a plug-in through the monitor, which is one itself;
// a panic and an overflow of another part end no more than that part.
func TestBuiltInPlugins(t *testing.T) {
	t.Parallel()
	monitor, listener := plugin.NewMonitor("1"), &stub{name: "listener", panics: true}
	h := host(t, nil, "", map[string]plugin.Plugin{plugin.MonitorName: monitor, "listener": listener})
	h.until("both run", func() bool {
		return h.health("listener").GetState() == running && h.health(plugin.MonitorName).GetState() == running
	})
	id := bytes.Repeat([]byte{7}, 16)
	snapshot := func(a usagev1.Attention, open ...[]byte) []*usagev1.LiveSnapshot {
		s := &usagev1.LiveSnapshot{SessionId: id}
		for _, o := range open {
			s.Open = append(s.Open, &usagev1.OpenInstance{InstanceId: o, Attention: a, OpenedUtcMillis: 900})
		}
		return []*usagev1.LiveSnapshot{s}
	}
	at := plugin.Moment{BootMillis: 500, UTCMillis: 1000}
	kinds := func(events []*pluginv1.Event) (all []pluginv1.EventKind) {
		for _, e := range events {
			all = append(all, e.GetKind())
		}
		return all
	}
	const busy, idle = usagev1.Attention_ATTENTION_BUSY, usagev1.Attention_ATTENTION_IDLE
	first := monitor.Show(snapshot(busy, id), at)
	if len(first) != 1 || first[0].GetAtBootMillis() != 400 {
		t.Errorf("opened 100 ms before 500, and told as %v", first)
	}
	if again := monitor.Show(snapshot(busy, id), at); len(again) != 0 {
		t.Errorf("nothing happened, and was told as %v", again)
	}
	other := bytes.Repeat([]byte{8}, 16)
	if got := kinds(monitor.Show(snapshot(idle, id, other), at)); !slices.Equal(got, []pluginv1.EventKind{pluginv1.EventKind_EVENT_KIND_CHANGED, pluginv1.EventKind_EVENT_KIND_OPENED}) {
		t.Errorf("a change and an opening are told as %v", got)
	}
	if got := kinds(monitor.Show(snapshot(idle, id), at)); !slices.Equal(got, []pluginv1.EventKind{pluginv1.EventKind_EVENT_KIND_CLOSED}) {
		t.Errorf("a closing is told as %v", got)
	}
	h.until("it panicked and was started again", func() bool { return h.health("listener").GetRestarts() == 1 })
	heard := func() int {
		listener.mu.Lock()
		defer listener.mu.Unlock()
		return len(listener.heard)
	}
	h.until("it has heard of what is open", func() bool { return heard() == 1 })
	listener.mu.Lock()
	slow := make(chan struct{})
	listener.slow = slow
	listener.mu.Unlock()
	for n := range 6000 {
		h.Publish([]*pluginv1.Event{opened(byte(n))})
	}
	h.until("it did not keep up", func() bool { return h.health("listener").GetRestarts() >= 2 })
	close(slow)
	h.until("it runs again", func() bool { return h.health("listener").GetState() == running && heard() >= 256 })
}

func FuzzList(f *testing.F) {
	public, private, err := ed25519.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{1}, 64)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"plugins":[{"name":"a","file":"a","sha256":"00"}]}`), []byte(`{"key_id":"k","ed25519":"AA=="}`), true)
	f.Add([]byte(`{"plugins":`), []byte(`{`), false)
	f.Fuzz(func(t *testing.T, list, signature []byte, sign bool) {
		if sign {
			signature, _ = json.Marshal(plugin.Sign(list, "k", private))
		}
		dir := t.TempDir()
		if os.WriteFile(filepath.Join(dir, plugin.ListFile), list, 0o600) != nil || os.WriteFile(filepath.Join(dir, plugin.SignatureFile), signature, 0o600) != nil {
			t.Fatal("write the list")
		}
		h := plugin.New(plugin.Config{Dir: dir, Keys: plugin.Keys{"k": public}, StateDir: t.TempDir()}, plugin.Deps{})
		for _, p := range h.Health() {
			if !sign && p.GetState() != refused {
				t.Fatalf("%v is there, though nobody has signed it", p)
			}
		}
	})
}

func TestRefusedErrorIsFound(t *testing.T) {
	t.Parallel()
	err := fmt.Errorf("x: %w", &plugin.RefusedError{Reason: "y"})
	var r *plugin.RefusedError
	if !errors.As(err, &r) || r.Reason != "y" {
		t.Error(err)
	}
}

// A new list is taken while the host runs: the numbers go only forward, and what stays the
// same goes on undisturbed.
func TestNewListIsTaken(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	text, err := os.ReadFile(filepath.Join(f.dir, example+".exe"))
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	entry := plugin.Entry{Name: example, File: example + ".exe", SHA256: hex.EncodeToString(sum[:]), MemoryBytes: 64 << 20}
	broken := plugin.Entry{Name: "broken", File: "broken", SHA256: entry.SHA256}
	f.list(plugin.List{Number: 2, Plugins: []plugin.Entry{entry}}, keyID)
	h := host(t, f, "{}", nil)
	runs := func() bool { return h.health(example).GetState() == running }
	h.until("it runs", runs)
	h.Publish([]*pluginv1.Event{opened(1)})
	h.until("it has counted", func() bool { return h.counted() == "1" })

	f.list(plugin.List{Number: 3, Plugins: []plugin.Entry{entry, broken}}, keyID)
	h.until("what is new is looked at", func() bool { return h.health("broken").GetState() == refused })
	h.Publish([]*pluginv1.Event{opened(2)})
	h.until("the first has gone on", func() bool { return h.counted() == "2" })

	for _, c := range []struct {
		list plugin.List
		key  string
		says string
	}{
		{plugin.List{Number: 2, Plugins: []plugin.Entry{}}, keyID, "number 3 was taken before"},
		{plugin.List{Plugins: []plugin.Entry{}}, keyID, "number 3 was taken before"},
		{plugin.List{Number: 3, Plugins: []plugin.Entry{}}, keyID, "another list of the number 3"},
		{plugin.List{Number: 4, Plugins: []plugin.Entry{}}, "stranger", "does not trust"},
	} {
		f.list(c.list, c.key)
		h.until("the list is refused: "+c.says, func() bool { return strings.Contains(h.health("list-of-plug-ins").GetMessage(), c.says) })
		if !runs() {
			t.Errorf("%s: what ran was stopped", c.says)
		}
	}
	f.list(plugin.List{Number: 4, Plugins: []plugin.Entry{entry}}, keyID)
	h.until("the list is taken", func() bool { return h.health("list-of-plug-ins") == nil && h.health("broken") == nil })
	if got := h.health(example); got.GetRestarts() != 0 || got.GetState() != running {
		t.Errorf("what stayed the same is %v", got)
	}
	smaller := entry
	smaller.MemoryBytes = 48 << 20
	told := func() int {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.facts)
	}
	before := told()
	f.list(plugin.List{Number: 5, Plugins: []plugin.Entry{smaller}}, keyID)
	h.until("the changed one has begun anew, with what is open", func() bool { return runs() && told() > before && h.counted() == "2" })
	f.list(plugin.List{Number: 6, Plugins: []plugin.Entry{}}, keyID)
	h.until("nothing runs", func() bool { return h.health(example) == nil })
	h.stop()
}

// A folder that was meant to hold plug-ins and holds no list is said to, as long as it does.
func TestAFolderWithoutAList(t *testing.T) {
	t.Parallel()
	f := &folder{dir: filepath.Join(t.TempDir(), "plug-ins")}
	h := host(t, f, "{}", nil)
	says := func(text string) {
		t.Helper()
		h.until(text, func() bool {
			said := h.health("list-of-plug-ins")
			return said.GetState() == refused && strings.Contains(said.GetMessage(), text)
		})
	}
	says("does not exist")
	if err := os.Mkdir(f.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	h.until("an empty folder is no mistake", func() bool { return h.health("list-of-plug-ins") == nil })
	if err := os.WriteFile(filepath.Join(f.dir, "counter"), nil, 0o700); err != nil {
		t.Fatal(err)
	}
	says("has counter but no plugins.json")
	// On Windows what somebody reads at that moment stays.
	h.until("the folder is removed", func() bool {
		return errors.Join(os.RemoveAll(filepath.Join(f.dir, "counter")), os.RemoveAll(f.dir)) == nil
	})
	says("does not exist")
	h.stop()
}

// A program that is given takes the place of the folder's of that name; one on trial has to
// show that it works, and is ended for good where it does not.
func TestAProgramIsTried(t *testing.T) {
	t.Parallel()
	f := newFolder(t)
	text, err := os.ReadFile(filepath.Join(f.dir, example+".exe"))
	if err != nil {
		t.Fatal(err)
	}
	h := host(t, f, "{}", map[string]plugin.Plugin{"monitor": &stub{name: "monitor"}})
	h.until("the folder's runs", func() bool { return h.health(example).GetState() == running })
	give := func(name string, content []byte, trial bool) string {
		t.Helper()
		sum := sha256.Sum256(content)
		file, dir := hex.EncodeToString(sum[:]), t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := h.Replace(name, &plugin.Program{Entry: plugin.Entry{Name: name, File: file, SHA256: file}, Dir: dir, Trial: trial}); err != nil {
			t.Fatal(err)
		}
		return file
	}
	tried := func(sum string) (err error, over bool) {
		h.mu.Lock()
		defer h.mu.Unlock()
		err, over = h.tried[sum]
		return err, over
	}
	good := give(example, append(bytes.Clone(text), "v2"...), true)
	h.until("the good one is through its trial", func() bool { err, over := tried(good); return over && err == nil })
	if got := h.health(example); got.GetState() != running {
		t.Errorf("after its trial it is %v", got)
	}
	for name, c := range map[string]struct {
		of, says string
		content  []byte
	}{
		"what cannot be started": {example, "start", []byte("no program")},
		"another's name":         {"other", "calls itself", append(bytes.Clone(text), "v3"...)},
	} {
		bad := give(c.of, c.content, true)
		h.until(name+" is refused", func() bool { err, over := tried(bad); return over && err != nil })
		if err, _ := tried(bad); !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		if err := h.Replace("other", nil); err != nil {
			t.Fatal(err)
		}
	}
	if got := h.health(example); got.GetState() != failed || got.GetRestarts() != 0 {
		t.Errorf("a trial that is over is tried again: %v", got)
	}
	// A program that says that it is not well at the end of its trial does not pass.
	h.Configure(&pluginv1.ConfigureRequest{}, []*policyv1.PluginPolicy{{Name: example, Settings: []byte(`{"warn_after":1}`)}})
	h.Publish([]*pluginv1.Event{opened(1), opened(2)})
	unwell := give(example, append(bytes.Clone(text), "v4"...), true)
	h.until("the one that is not well is refused", func() bool { err, over := tried(unwell); return over && err != nil })
	if err, _ := tried(unwell); !strings.Contains(err.Error(), "2 openings") {
		t.Errorf("%v", err)
	}
	if err := h.Replace(example, nil); err != nil {
		t.Fatal(err)
	}
	h.until("the folder's runs again", func() bool { return h.health(example).GetState() == running })
	if err := h.Replace("monitor", nil); err == nil {
		t.Error("a part of the agent is replaced")
	}
	h.stop()
	if err := h.Replace(example, nil); err != nil {
		t.Errorf("after the end: %v", err)
	}
}
