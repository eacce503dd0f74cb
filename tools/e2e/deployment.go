package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cetrus/cetrus/tools/api"
	"github.com/cetrus/cetrus/tools/stack"
)

// deployment is the platform, a Manager and one agent, each as its own program.
type deployment struct {
	t        *testing.T
	binaries string
	platform string // data directory
	agent    string // data directory
	manager  string // address for agents
	api      *api.Client
}

// built is the folder of the binaries, which all tests of a process share: to
// link them anew takes longer than some of the tests.
var built struct {
	once sync.Once
	dir  string
	err  error
}

// build makes the binaries that a person would install.
func build(t *testing.T) string {
	t.Helper()
	built.once.Do(func() { built.dir, built.err = buildAll() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir
}

func buildAll() (string, error) {
	dir, err := os.MkdirTemp("", "cetrus-e2e-bin-")
	if err != nil {
		return "", err
	}
	for _, program := range []string{"services/cmd/cetrus", "agent/cmd/cetrus-agent", "manager/cmd/cetrus-manager"} {
		if _, err := stack.Build(context.Background(), dir, program); err != nil {
			return dir, err
		}
	}
	return dir, nil
}

// startPlatform starts `cetrus all` on free ports and waits until it answers.
func startPlatform(t *testing.T) *deployment {
	t.Helper()
	s := &deployment{t: t, binaries: build(t), platform: filepath.Join(publicTempDir(t), "platform"), agent: filepath.Join(t.TempDir(), "agent")}
	log := filepath.Join(t.ArtifactDir(), "cetrus.log")
	p, err := stack.StartPlatform(t.Context(), filepath.Join(s.binaries, "cetrus"), s.platform, log, append(stack.Anywhere().Listen(), stack.Plaintext, "--allow-short-gaps")...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(20 * time.Second); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("the platform said:\n%s", tail(p.Said(), 60))
		}
	})
	s.manager, s.api = p.ManagerAgents, p.API
	return s
}

// startAgent starts the agent on a desktop.
func (s *deployment) startAgent(d *xdesktop) {
	s.t.Helper()
	cmd := exec.Command(filepath.Join(s.binaries, "cetrus-agent"), "run", "--data-dir", s.agent, "--manager", s.manager, "--display", d.display)
	cmd.Env = d.env
	startChild(s.t, cmd)
}

// ask runs a command of the agent, such as status.
func (s *deployment) ask(args ...string) ([]byte, error) {
	cmd := exec.Command(filepath.Join(s.binaries, "cetrus-agent"), append(args, "--data-dir", s.agent)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("cetrus-agent %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return out, nil
}

// agentStatus is what the test needs of `cetrus-agent status --json`.
type agentStatus struct {
	Recording    bool     `json:"recording"`
	Problem      string   `json:"problem"`
	Paused       bool     `json:"paused"`
	Applications []string `json:"applications"`
	Journal      struct {
		Unacknowledged uint64 `json:"unacknowledged"`
	} `json:"journal"`
}

func (s *deployment) status() (agentStatus, error) {
	return parseStatus(s.ask("status", "--json"))
}

// parseStatus reads what the agent said, behind whatever was said before.
func parseStatus(out []byte, err error) (status agentStatus, _ error) {
	if err != nil {
		return status, fmt.Errorf("%w\n%s", err, out)
	}
	return status, json.Unmarshal(out[max(0, bytes.IndexByte(out, '{')):], &status)
}

// publicTempDir is a directory that the unprivileged user of PostgreSQL can reach.
func publicTempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cetrus-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
