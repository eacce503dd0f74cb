package e2e

import (
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
)

// stack is the platform, a Manager and one agent, each as its own program.
type stack struct {
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
	root, err := filepath.Abs("../..")
	if err != nil {
		return dir, err
	}
	for module, command := range map[string]string{"services": "./cmd/cetrus", "agent": "./cmd/cetrus-agent", "manager": "./cmd/cetrus-manager"} {
		cmd := exec.Command("go", "build", "-o", dir+"/", command)
		cmd.Dir = filepath.Join(root, module)
		if out, err := cmd.CombinedOutput(); err != nil {
			return dir, fmt.Errorf("go build %s in %s: %w\n%s", command, module, err, out)
		}
	}
	return dir, nil
}

// startPlatform starts `cetrus all` on free ports and waits until it answers.
func startPlatform(t *testing.T) *stack {
	t.Helper()
	s := &stack{t: t, binaries: build(t), platform: filepath.Join(publicTempDir(t), "platform"), agent: filepath.Join(t.TempDir(), "agent")}
	cmd := exec.Command(filepath.Join(s.binaries, "cetrus"), "all", "--data-dir", s.platform, "--allow-short-gaps",
		"--rest-listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0",
		"--manager-agents-listen", "127.0.0.1:0", "--manager-status-listen", "127.0.0.1:0")
	startChild(t, cmd)
	var where struct {
		REST          string `json:"rest"`
		ManagerAgents string `json:"manager_agents"`
	}
	eventually(t, time.Minute, "the platform to say where it listens", func() error {
		text, err := os.ReadFile(filepath.Join(s.platform, "addresses.json"))
		if err != nil {
			return err
		}
		return json.Unmarshal(text, &where)
	})
	key, err := os.ReadFile(filepath.Join(s.platform, "api-key"))
	if err != nil {
		t.Fatal(err)
	}
	s.manager = where.ManagerAgents
	s.api = api.New(where.REST, strings.TrimSpace(string(key)))
	eventually(t, time.Minute, "the API to answer", func() error {
		_, err := s.api.Applications(t.Context())
		return err
	})
	return s
}

// startAgent starts the agent on a desktop.
func (s *stack) startAgent(d *xdesktop) {
	s.t.Helper()
	cmd := exec.Command(filepath.Join(s.binaries, "cetrus-agent"), "run", "--data-dir", s.agent, "--manager", s.manager, "--display", d.display)
	cmd.Env = d.env
	startChild(s.t, cmd)
}

// ask runs a command of the agent, such as status.
func (s *stack) ask(args ...string) ([]byte, error) {
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

func (s *stack) status() (agentStatus, error) {
	var status agentStatus
	out, err := s.ask("status", "--json")
	if err != nil {
		return status, err
	}
	return status, json.Unmarshal(out, &status)
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
