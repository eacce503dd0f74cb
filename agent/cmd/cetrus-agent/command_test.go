package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kardianos/service"
	"github.com/spf13/pflag"
)

// quiet takes the machine's own settings out of the way.
func quiet(t *testing.T) string {
	t.Helper()
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); strings.HasPrefix(name, envPrefix) {
			t.Setenv(name, "")
			_ = os.Unsetenv(name)
		}
	}
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CETRUS_AGENT_CONFIG", file)
	return file
}

func loaded(t *testing.T, args ...string) (*settings, error) {
	t.Helper()
	s := new(settings)
	f := pflag.NewFlagSet("cetrus-agent", pflag.ContinueOnError)
	s.flags(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	return s, s.load(f)
}

func TestFlagsBeforeEnvironmentBeforeFile(t *testing.T) {
	file := quiet(t)
	if err := os.WriteFile(file, []byte("manager:\n  - a.example:10041\n  - b.example:10041\nlog-level: warn\ndata-dir: /from/file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CETRUS_AGENT_LOG_LEVEL", "error")
	t.Setenv("CETRUS_AGENT_DATA_DIR", "/from/environment")
	s, err := loaded(t, "--data-dir", "/from/flag")
	if err != nil {
		t.Fatal(err)
	}
	if s.dataDir != "/from/flag" || s.logLevel != "error" || strings.Join(s.managers, " ") != "a.example:10041 b.example:10041" {
		t.Errorf("settings are %+v", s)
	}
}

func TestBadSettingsAreNamedAllAtOnce(t *testing.T) {
	file := quiet(t)
	if err := os.WriteFile(file, []byte("managers: a:1\nlog-format: xml\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CETRUS_AGENT_COLOUR", "red")
	_, err := loaded(t, "--manager", "nowhere", "--journal-bytes", "-1", "--log-level", "loud")
	if err == nil {
		t.Fatal("bad settings are taken")
	}
	for _, part := range []string{`no setting "managers"`, "xml", "CETRUS_AGENT_COLOUR", `"nowhere"`, "10041", "journal-bytes", "loud"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not speak of %s: %v", part, err)
		}
	}
	if err := os.WriteFile(file, []byte("\t: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loaded(t); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a file that is no YAML: %v", err)
	}
	if _, err := loaded(t, "--config", file+".missing"); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("a file that is missing: %v", err)
	}
}

func TestStatusWithoutAgentSaysSo(t *testing.T) {
	quiet(t)
	var out, errs bytes.Buffer
	if code := run([]string{"status", "--data-dir", t.TempDir()}, &out, &errs); code == 0 || !strings.Contains(errs.String(), "no agent runs") {
		t.Errorf("exit code %d, %s", code, errs.String())
	}
}

// systemService stands for what a service manager knows of the agent.
type systemService struct {
	service.Service
	status service.Status
	err    error
	fails  error
	asked  []string
}

func (s *systemService) Status() (service.Status, error) { return s.status, s.err }

func (s *systemService) Start() error {
	s.asked = append(s.asked, "start")
	s.status = service.StatusRunning
	return s.fails
}

func (s *systemService) Stop() error { s.asked = append(s.asked, "stop"); return nil }

func (s *systemService) Uninstall() error { s.asked = append(s.asked, "uninstall"); return nil }

func TestVerbsOfAServiceThatIsNotThere(t *testing.T) {
	for _, verb := range []string{"start", "stop", "uninstall"} {
		missing := &systemService{err: service.ErrNotInstalled}
		var out bytes.Buffer
		err := order(missing, verb, 0, &out)
		if err == nil || !strings.Contains(err.Error(), "not installed") || strings.Contains(err.Error(), "cetrus-agent install") == (verb == "uninstall") || len(missing.asked) > 0 {
			t.Errorf("%s of what is not installed: %v, asked for %v", verb, err, missing.asked)
		}
	}
	vague := &systemService{err: errors.New("exit status 4"), fails: errors.New("exit status 1")}
	if err := order(vague, "start", 0, io.Discard); err == nil || !strings.Contains(err.Error(), "cetrus-agent install") {
		t.Errorf("start of what nobody knows: %v", err)
	}
	for _, c := range []struct {
		verb, says, asked string
		status            service.Status
		err               error
	}{
		{"start", "started", "start", service.StatusStopped, nil},
		{"start", "runs already", "", service.StatusRunning, nil},
		{"stop", "stopped", "stop", service.StatusRunning, nil},
		{"stop", "does not run", "", service.StatusStopped, nil},
		{"uninstall", "removed", "stop uninstall", service.StatusRunning, nil},
		{"uninstall", "removed", "uninstall", service.StatusStopped, nil},
		{"start", "started", "start", service.StatusUnknown, errors.New("service in failed state")},
	} {
		there := &systemService{status: c.status, err: c.err}
		var out bytes.Buffer
		if err := order(there, c.verb, 0, &out); err != nil || !strings.Contains(out.String(), c.says) || strings.Join(there.asked, " ") != c.asked {
			t.Errorf("%s in status %v: %q, %v, asked for %v", c.verb, c.status, out.String(), err, there.asked)
		}
	}
}

func TestVerbs(t *testing.T) {
	quiet(t)
	var out, errs bytes.Buffer
	if code := run([]string{"--help"}, &out, &errs); code != 0 {
		t.Fatalf("exit code %d, %s", code, errs.String())
	}
	for _, verb := range []string{"install", "uninstall", "start", "stop", "run", "status", "pause", "resume"} {
		if !strings.Contains(out.String(), "\n  "+verb+" ") {
			t.Errorf("help does not name %s", verb)
		}
	}
}

func FuzzSettingsFile(f *testing.F) {
	f.Add([]byte("manager: [a:1, b:2]\n"))
	f.Add([]byte("manager: {a: 1}\nlog-level: [x]\n"))
	f.Add([]byte("- 1\n"))
	f.Add([]byte("data-dir:\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file := filepath.Join(t.TempDir(), "agent.yaml")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		_, _ = loaded(t, "--config", file)
	})
}
