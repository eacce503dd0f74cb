package main

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cetrus/cetrus/manager"
	"github.com/cetrus/cetrus/proto/contract"
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
		{[]string{"status", "--data-dir", "/nowhere"}, "no Manager runs on /nowhere"},
		{[]string{"acknowledge", "--data-dir", "/nowhere"}, "no Manager runs on /nowhere"},
		{[]string{"release", "list", "--data-dir", "/nowhere"}, "no Manager runs on /nowhere"},
		{[]string{"acknowledge", "--data-dir", "/nowhere", "--status-address", "127.0.0.1:1"}, "name its folder with --data-dir"},
		{[]string{"dance"}, "dance"},
	} {
		var out, errOut bytes.Buffer
		if code := execute(test.args, &out, &errOut); code != 1 || !strings.Contains(errOut.String(), test.want) {
			t.Errorf("%v: exit code %d, said %q", test.args, code, errOut.String())
		}
	}
}

// An order goes to the Manager of the folder that it names, wherever that listens, and to no
// other that may stand there.
func TestOrdersFindTheManagerOfAFolder(t *testing.T) {
	tell := func(args ...string) (int, string) {
		var said bytes.Buffer
		code := execute(args, &said, &said)
		return code, said.String()
	}
	start := func(dir string) (m *manager.Manager, stop func()) {
		t.Helper()
		m, err := manager.New(manager.Config{DataDir: dir, AccountID: contract.ID{1}, AgentsAddress: "127.0.0.1:0", StatusAddress: "127.0.0.1:0"},
			manager.Deps{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- m.Run(ctx) }()
		stop = sync.OnceFunc(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
		t.Cleanup(stop)
		look, late := time.NewTicker(5*time.Millisecond), time.After(time.Minute)
		defer look.Stop()
		for {
			_, said := tell("status", "--data-dir", dir)
			if strings.Contains(said, m.ID().String()) {
				return m, stop
			}
			select {
			case <-look.C:
			case <-late:
				t.Fatalf("the Manager of %s is not found: %s", dir, said)
			}
		}
	}
	first, second := t.TempDir(), t.TempDir()
	one, stop := start(first)
	two, _ := start(second)
	if code, said := tell("acknowledge", "--data-dir", second); code != 0 {
		t.Errorf("acknowledge: %d, %q", code, said)
	}
	if _, said := tell("status", "--data-dir", first, "--status-address", two.StatusAddress()); !strings.Contains(said, two.ID().String()) {
		t.Errorf("the address that was named is not asked: %q", said)
	}
	if code, said := tell("acknowledge", "--data-dir", first, "--status-address", two.StatusAddress()); code == 0 || !strings.Contains(said, "token") {
		t.Errorf("another folder's token was taken: %d, %q", code, said)
	}
	stop()
	if code, said := tell("status", "--data-dir", first); code != 1 || !strings.Contains(said, "no Manager runs on "+first) {
		t.Errorf("after its end: %d, %q", code, said)
	}

	// One that was killed has left where it listened, and another may listen there by now.
	if _, err := call(t.Context(), settings{DataDir: first}, 0, two.StatusAddress(), one.ID().String(), "GET", "/api/v1/status", "", nil); err == nil || !strings.Contains(err.Error(), "something else answers") {
		t.Errorf("another Manager's answer was taken: %v", err)
	}
}
