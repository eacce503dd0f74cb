package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/errs"
)

type settings struct {
	listen string
	wait   time.Duration
	peers  []string
}

func flags(s *settings) *pflag.FlagSet {
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.AddFileFlag(fs)
	fs.StringVar(&s.listen, "rest-listen", "127.0.0.1:8080", "address for REST")
	fs.DurationVar(&s.wait, "wait", 3*time.Second, "how long to wait")
	fs.StringSliceVar(&s.peers, "peers", nil, "other servers")
	return fs
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cetrus.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLaterWins(t *testing.T) {
	path := write(t, "rest-listen: file:1\nwait: 5s\npeers: [a, b]\n")
	for _, c := range []struct {
		name string
		args []string
		env  map[string]string
		want settings
	}{
		{"default", nil, nil, settings{"127.0.0.1:8080", 3 * time.Second, nil}},
		{"file", []string{"--config", path}, nil, settings{"file:1", 5 * time.Second, []string{"a", "b"}}},
		{"env over file", []string{"--config", path}, map[string]string{"CETRUS_REST_LISTEN": "env:1", "CETRUS_PEERS": "c,d"}, settings{"env:1", 5 * time.Second, []string{"c", "d"}}},
		{"flag over env", []string{"--config", path, "--rest-listen", "flag:1"}, map[string]string{"CETRUS_REST_LISTEN": "env:1"}, settings{"flag:1", 5 * time.Second, []string{"a", "b"}}},
		{"file by env", nil, map[string]string{"CETRUS_CONFIG": path}, settings{"file:1", 5 * time.Second, []string{"a", "b"}}},
		{"foreign variable", nil, map[string]string{"CETRUS_AGENT_X": "1"}, settings{"127.0.0.1:8080", 3 * time.Second, nil}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			var got settings
			fs := flags(&got)
			if err := fs.Parse(c.args); err != nil {
				t.Fatal(err)
			}
			if err := config.Load(fs); err != nil {
				t.Fatal(err)
			}
			if got.listen != c.want.listen || got.wait != c.want.wait || strings.Join(got.peers, ",") != strings.Join(c.want.peers, ",") {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestErrorsNameTheSettingAndTheWayOut(t *testing.T) {
	for _, c := range []struct {
		name, file string
		env        map[string]string
		want       []string
	}{
		{"unknown key", "rest-lisen: x\n", nil, []string{"rest-lisen", "did you mean rest-listen?"}},
		{"wrong type in file", "wait: soon\n", nil, []string{"setting wait", `"soon"`, "duration", "how long to wait", "cetrus.yaml"}},
		{"wrong type in env", "", map[string]string{"CETRUS_WAIT": "x"}, []string{"CETRUS_WAIT", "setting wait"}},
		{"list for one", "rest-listen: [a]\n", nil, []string{"setting rest-listen"}},
		{"mapping for one", "rest-listen: {a: b}\n", nil, []string{"rest-listen"}},
		{"both told", "wait: soon\nnonsense-here: 1\n", nil, []string{"setting wait", "setting nonsense-here", "--help"}},
		{"not YAML", "{{{", nil, []string{"cannot be read as YAML"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for k, v := range c.env {
				t.Setenv(k, v)
			}
			var got settings
			fs := flags(&got)
			if err := fs.Parse([]string{"--config", write(t, c.file)}); err != nil {
				t.Fatal(err)
			}
			err := config.Load(fs)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
	t.Run("no such file", func(t *testing.T) {
		var got settings
		fs := flags(&got)
		_ = fs.Parse([]string{"--config", "/nowhere/x.yaml"})
		err := config.Load(fs)
		if !errs.Is(errs.Invalid, err) || !strings.Contains(err.Error(), "CETRUS_CONFIG") {
			t.Errorf("got %v", err)
		}
	})
}

func TestOneOf(t *testing.T) {
	if err := config.OneOf("log-format", "text", "text", "json"); err != nil {
		t.Error(err)
	}
	err := config.OneOf("log-format", "xml", "text", "json")
	if err == nil || !strings.Contains(err.Error(), "text, json") || !strings.Contains(err.Error(), "CETRUS_LOG_FORMAT") {
		t.Errorf("got %v", err)
	}
}
