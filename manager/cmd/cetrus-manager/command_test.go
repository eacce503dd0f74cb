package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func TestLaterSourcesWin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "manager.yaml")
	if err := os.WriteFile(path, []byte("account_id: from-file\ndata_dir: /from-file\nkeep_forwarded: 5h\nmax_buffer_bytes: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CETRUS_MANAGER_DATA_DIR", "/from-environment")
	t.Setenv("CETRUS_MANAGER_MAX_BUFFER_BYTES", "8")
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	defineFlags(flags)
	if err := flags.Parse([]string{"--config", path, "--max-buffer-bytes", "9"}); err != nil {
		t.Fatal(err)
	}
	s, err := load(flags)
	if err != nil {
		t.Fatal(err)
	}
	if s.AccountID != "from-file" || s.DataDir != "/from-environment" || s.MaxBufferBytes != 9 || s.KeepForwarded != 5*time.Hour || s.StatusAddress != "127.0.0.1:10042" {
		t.Errorf("settings: %+v", s)
	}
}

// The addresses of Managers are several, wherever they are said.
func TestAddressesOfManagers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "manager.yaml")
	if err := os.WriteFile(path, []byte("agents_managers: [a:1, b:2]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args        []string
		environment string
	}{
		{[]string{"--config", path}, ""},
		{[]string{"--config", os.DevNull}, "a:1,b:2"},
		{[]string{"--config", path, "--agents-managers", "a:1,b:2"}, "c:3"},
	} {
		if c.environment != "" {
			t.Setenv("CETRUS_MANAGER_AGENTS_MANAGERS", c.environment)
		}
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		defineFlags(flags)
		if err := flags.Parse(c.args); err != nil {
			t.Fatal(err)
		}
		if s, err := load(flags); err != nil || !slices.Equal(s.AgentsManagers, []string{"a:1", "b:2"}) {
			t.Errorf("by %q and the environment's %q: %q, %v", c.args, c.environment, s.AgentsManagers, err)
		}
	}
}

// A service is run with what it was installed with.
func TestAServiceIsRunWithItsSettings(t *testing.T) {
	c := &cobra.Command{Use: "install"}
	defineFlags(c.Flags())
	if err := c.Flags().Parse([]string{"--config", os.DevNull, "--agents-managers", "a:1,b:2", "--keep-forwarded", "5h", "--plugin-keys", "keys.json", "--tls-key", ""}); err != nil {
		t.Fatal(err)
	}
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	defineFlags(flags)
	if err := flags.Parse(serviceConfig(c).Arguments[1:]); err != nil {
		t.Fatal(err)
	}
	if s, err := load(flags); err != nil || !slices.Equal(s.AgentsManagers, []string{"a:1", "b:2"}) || s.KeepForwarded != 5*time.Hour || !filepath.IsAbs(s.PluginKeys) || s.TLSKey != "" {
		t.Errorf("settings: %+v, %v", s, err)
	}
}

func TestBadCommandLinesSayWhatIsWrong(t *testing.T) {
	unknown := filepath.Join(t.TempDir(), "manager.yaml")
	if err := os.WriteFile(unknown, []byte("acount_id: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"run", "--data-dir", t.TempDir()}, "account_id is missing"},
		{[]string{"run", "--account-id", "x"}, "is not a UUID"},
		{[]string{"run", "--config", "/nowhere"}, "/nowhere"},
		{[]string{"run", "--config", unknown}, `no setting "acount_id"`},
		{[]string{"install", "--status-address", "0.0.0.0:1"}, "loopback"},
		{[]string{"status", "--status-address", "127.0.0.1:1"}, "no Manager answers"},
		{[]string{"acknowledge", "--data-dir", "/nowhere"}, "no Manager runs on /nowhere"},
		{[]string{"dance"}, "dance"},
	} {
		var out, errOut bytes.Buffer
		if code := execute(test.args, &out, &errOut); code != 1 || !strings.Contains(errOut.String(), test.want) {
			t.Errorf("%v: exit code %d, said %q", test.args, code, errOut.String())
		}
	}
}
