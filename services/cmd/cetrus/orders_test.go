package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cetrus/cetrus/services/platform/archive"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// An order that is given beside a NATS server which listens everywhere, as in its pod, reaches it by a name that its
// certificate is for.
func TestOrdersBesideAServerThatListensEverywhere(t *testing.T) {
	dir, tlsDir := testDir(t), newTLSDir(t)
	startTarget(t, "nats", dir, "--nats-listen", ":0", "--nats-websocket-listen", ":0", "--health-listen", ":0", "--tls-dir", tlsDir)
	a, err := addressesOf(dir, "nats")
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{a.NATS, a.NATSWebSocket, a.Health} {
		if !strings.Contains(address, "://localhost:") {
			t.Errorf("%s is told", address)
		}
	}
	for _, order := range [][]string{{"quarantine", "list"}, {"rebuild", "metering"}} {
		var out, problems bytes.Buffer
		code := run(append(order, "--data-dir", dir, "--tls-dir", tlsDir), &out, &problems)
		if code != 1 || !strings.Contains(problems.String(), "no metering service runs here") {
			t.Errorf("%v: %d %s%s", order, code, out.String(), problems.String())
		}
	}
}

// What a backup needs is looked for before anything is copied, and not for ever.
func TestBackupLooksForAllFirst(t *testing.T) {
	dir, to := testDir(t), t.TempDir()
	startTarget(t, "nats", dir)
	for says, url := range map[string]string{
		"cannot be read": "postgres://cetrus:secret@127.0.0.1:port/cetrus",
		"the database cetrus of 127.0.0.1:1 cannot be reached": "postgres://cetrus:secret@127.0.0.1:1/cetrus",
	} {
		var said, logged bytes.Buffer
		s := testSettings(t, dir, "--postgres-url", url)
		s.postgresWithin = 2 * time.Second
		err := s.backUp(t.Context(), &said, slog.New(slog.NewTextHandler(&logged, nil)), "file://"+to, false)
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "CETRUS_POSTGRES_URL") || strings.Contains(err.Error()+logged.String(), "secret") || said.Len() > 0 {
			t.Errorf("backup from %s: %v %s%s", url, err, said.String(), logged.String())
		}
		if waits := strings.Contains(says, "reached"); strings.Contains(logged.String(), "waiting for PostgreSQL") != waits {
			t.Errorf("backup from %s has logged: %s", url, logged.String())
		}
		if made, err := os.ReadDir(to); err != nil || len(made) > 0 {
			t.Errorf("a part of a backup is there: %v %v", made, err)
		}
	}
}

// What stands in the way of a restoration is named, with the way out.
func TestRestoreSaysWhatIsMissing(t *testing.T) {
	dir, from := t.TempDir(), t.TempDir()
	restore := func() string {
		var out, problems bytes.Buffer
		if code := run([]string{"restore", "--data-dir", dir, "--from", "file://" + from, "--backup", "20260102T030405.678Z"}, &out, &problems); code != 1 {
			t.Errorf("a restoration of nothing: %d", code)
		}
		return out.String() + problems.String()
	}
	key := filepath.Join(dir, archive.KeyFile)
	if said := restore(); !strings.Contains(said, key) || !strings.Contains(said, "--archive-key-file") {
		t.Errorf("without a key: %s", said)
	}
	keys, _, err := archive.EnsureKeys(key)
	if err != nil {
		t.Fatal(err)
	}
	store, err := archive.OpenStore("file://" + from)
	if err != nil {
		t.Fatal(err)
	}
	another := archive.NewBackup(store, keys, time.Now())
	if err := another.Finish(t.Context(), backedUp{}); err != nil {
		t.Fatal(err)
	}
	if said := restore(); !strings.Contains(said, "backup 20260102T030405.678Z") || !strings.Contains(said, another.Name()) {
		t.Errorf("of a backup that is not there: %s", said)
	}
}

// What cannot be listened on is told by its setting, before anything is made.
func TestNATSAddressesAreLookedAtFirst(t *testing.T) {
	for setting, args := range map[string][]string{
		"CETRUS_NATS_LISTEN":           {"--nats-listen", "0.0.0.0:4222"},
		"CETRUS_NATS_CLUSTER_LISTEN":   {"--nats-cluster-listen", "0.0.0.0:6222", "--nats-routes", "a:6222"},
		"CETRUS_NATS_WEBSOCKET_LISTEN": {"--nats-websocket-listen", ":8443"},
		"CETRUS_NATS_ROUTES":           {"--nats-cluster-listen", "127.0.0.1:6222", "--nats-routes", "a"},
	} {
		dir := filepath.Join(t.TempDir(), "data")
		var out, problems bytes.Buffer
		if code := run(append([]string{"nats", "--data-dir", dir}, args...), &out, &problems); code != 1 || !strings.Contains(problems.String(), setting) || strings.Contains(problems.String(), "natsserver") {
			t.Errorf("%v: %d %s", args, code, problems.String())
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%v leaves %s", args, dir)
		}
	}
}

// Passwords of all parts that others may read are none; their group may, as that of a mounted Secret.
func TestPasswordsThatOthersMayReadAreRefused(t *testing.T) {
	dir := testDir(t)
	keys, _, err := authn.Bootstrap(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	book, err := openManagers(dir, keys.Account())
	if err != nil {
		t.Fatal(err)
	}
	for mode, refused := range map[os.FileMode]bool{0o777: true, 0o604: true, 0o660: true, 0o440: false, 0o400: false, 0o600: false} {
		if err := os.Chmod(book.path, mode); err != nil {
			t.Fatal(err)
		}
		for name, s := range map[string]settings{"made": {dataDir: dir}, "given": {credentialsDir: dir}} {
			if _, err := s.openManagers(keys.Account()); (err != nil) != refused || refused && !strings.Contains(err.Error(), "chmod 600 "+book.path) {
				t.Errorf("%s, %04o: %v", name, mode, err)
			}
		}
	}
}
