package main

import (
	"bytes"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cetrus/cetrus/services/platform/archive"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// TestSecretsOfABackup: an installation that a backup is put back into has the keys of the backup, and passwords and
// certificates of its own; without the key of backups it has nothing.
func TestSecretsOfABackup(t *testing.T) {
	eachStore(t, func(t *testing.T, open func() secretStore, _ *apiServer) {
		where := "file://" + filepath.Join(t.TempDir(), "backups")
		store, err := archive.OpenStore(where)
		if err != nil {
			t.Fatal(err)
		}
		keyFile := archive.NewKeyFile()
		keys, err := archive.ParseKeys(archive.KeyFile, keyFile)
		if err != nil {
			t.Fatal(err)
		}
		made := map[string]string{} // by backup, what its files hold
		for n, at := range []time.Time{time.Now().Add(-time.Hour), time.Now()} {
			backup := archive.NewBackup(store, keys, at)
			content := backup.Name() + ", its own"
			var about backedUp
			for _, name := range []string{authn.AccountFile, nameKeyFile, signInKeyFile, managersFile} {
				about.KeyFiles = append(about.KeyFiles, name)
				if err := backup.Add(t.Context(), "file/"+name, func(w io.Writer) error {
					_, err := io.WriteString(w, name+" of "+content)
					return err
				}); err != nil {
					t.Fatal(err)
				}
			}
			if err := backup.Finish(t.Context(), about); err != nil {
				t.Fatal(err)
			}
			made[[]string{"first", "latest"}[n]] = backup.Name()
		}
		i := newInstallation(t, open)
		i.settings.backups = where
		if _, err := i.try(); err == nil || !strings.Contains(err.Error(), "r-archive-key") || i.get("r-account") != nil {
			t.Fatalf("without the key: %v", err)
		}
		if err := open().create(t.Context(), "r-archive-key", map[string][]byte{archive.KeyFile: archive.NewKeyFile()}, false); err != nil {
			t.Fatal(err)
		}
		if _, err := i.try(); err == nil || i.get("r-account") != nil {
			t.Fatalf("with another key: %v", err)
		}
		changed := open()
		if _, err := changed.get(t.Context(), "r-archive-key"); err != nil {
			t.Fatal(err)
		}
		if err := changed.update(t.Context(), "r-archive-key", map[string][]byte{archive.KeyFile: keyFile}); err != nil {
			t.Fatal(err)
		}
		i.run()
		for secret, file := range map[string]string{"r-account": authn.AccountFile, "r-name-key": nameKeyFile, "r-sign-in-key": signInKeyFile} {
			if got := string(i.get(secret)[file]); got != file+" of "+made["latest"]+", its own" {
				t.Errorf("%s is %q", secret, got)
			}
		}
		if users := i.get("r-nats-users")[managersFile]; len(users) == 0 || strings.Contains(string(users), "of "+made["latest"]) {
			t.Errorf("the users of NATS are those of the backup: %s", users)
		}
		if i.get("r-first-login") != nil {
			t.Error("a first login was made for an account that has logins")
		}
		before := i.all()
		if said := i.run(); said != "" || !same(before, i.all()) {
			t.Errorf("the second run changed something: %q", said)
		}

		dir := secretFolder(filepath.Join(t.TempDir(), "secrets"))
		other := newInstallation(t, func() secretStore { return dir })
		other.settings.backups, other.settings.backup = where, made["first"]
		if err := dir.create(t.Context(), "r-archive-key", map[string][]byte{archive.KeyFile: keyFile}, false); err != nil {
			t.Fatal(err)
		}
		other.run()
		if got := other.get("r-account")[authn.AccountFile]; !bytes.Contains(got, []byte(made["first"])) {
			t.Errorf("of the backup that was named: %s", got)
		}

		// Of a backup without keys new ones would open nothing.
		bare := archive.NewBackup(store, keys, time.Now().Add(time.Hour))
		if err := bare.Add(t.Context(), "file/"+authn.AccountFile, func(w io.Writer) error { _, err := io.WriteString(w, "an account"); return err }); err != nil {
			t.Fatal(err)
		}
		if err := bare.Finish(t.Context(), backedUp{KeyFiles: []string{authn.AccountFile}}); err != nil {
			t.Fatal(err)
		}
		lacking := secretFolder(filepath.Join(t.TempDir(), "secrets"))
		third := newInstallation(t, func() secretStore { return lacking })
		third.settings.backups = where
		for _, secret := range []string{"archive-key", "name-key", "sign-in-key"} {
			if _, err := third.try(); err == nil || third.get("r-account") != nil {
				t.Errorf("without %s: %v", secret, err)
			}
			content := []byte("a copy")
			if secret == "archive-key" {
				content = keyFile
			}
			if err := lacking.create(t.Context(), "r-"+secret, map[string][]byte{secret: content}, false); err != nil {
				t.Fatal(err)
			}
		}
		third.run()
	})
}
