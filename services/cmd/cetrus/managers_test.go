package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/natsserver"
)

// A file that has one password for the whole platform gets one for each part; Managers keep theirs.
func TestEachPartGetsAPassword(t *testing.T) {
	dir, account := t.TempDir(), contract.ID{1}
	path := filepath.Join(dir, managersFile)
	manager := contract.ID{2}
	if err := os.WriteFile(path, []byte(`{"platform_password":"everything","managers":[{"manager_id":"`+manager.String()+`","password":"kept"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openManagers(dir, account); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "everything") {
		t.Errorf("the password of all is still there: %s", text)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	again, err := openManagers(dir, account)
	if err != nil {
		t.Fatal(err)
	}
	known := make(map[string]string)
	for _, u := range again.users() {
		if known[u.Name] = u.Password; u.Password == "" {
			t.Errorf("%s has no password", u.Name)
		}
	}
	if known["manager-"+manager.String()] != "kept" || len(known) != len(natsserver.Roles())+1 {
		t.Errorf("users are %d", len(known))
	}
	var kept managersText
	if err := json.Unmarshal(text, &kept); err != nil {
		t.Fatal(err)
	}
	drawn := make(map[string]bool)
	for _, name := range natsserver.Roles() {
		drawn[known[name]] = true
		if kept.Parts[name] != known[name] {
			t.Errorf("%s has another password at the next start", name)
		}
	}
	if len(drawn) != len(natsserver.Roles()) {
		t.Error("two parts have one password")
	}
}
