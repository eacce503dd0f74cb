package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cetrus/cetrus/manager"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/enrollment"
)

// Tokens are made, listed and revoked by the command line, which tells a token once; what it
// cannot do it says, with the way out.
func TestTokensByTheCommandLine(t *testing.T) {
	dir := t.TempDir()
	run := func(config manager.Config) func() {
		t.Helper()
		config.DataDir, config.AccountID, config.AgentsAddress, config.StatusAddress = dir, contract.ID{1}, "127.0.0.1:0", "127.0.0.1:0"
		m, err := manager.New(config, manager.Deps{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- m.Run(ctx) }()
		for late := time.Now().Add(time.Minute); ; <-time.After(5 * time.Millisecond) {
			var out bytes.Buffer
			if execute([]string{"token", "list", "--data-dir", dir}, &out, &out) == 0 || strings.Contains(out.String(), "agents_security") {
				break
			}
			if time.Now().After(late) {
				t.Fatalf("the Manager does not answer: %s", out.String())
			}
		}
		return func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	tell := func(code int, want string, args ...string) string {
		t.Helper()
		var out, errOut bytes.Buffer
		if got := execute(append(args, "--data-dir", dir), &out, &errOut); got != code || !strings.Contains(out.String()+errOut.String(), want) {
			t.Errorf("%v: exit code %d, said %q %q, want %q", args, got, out.String(), errOut.String(), want)
		}
		return out.String()
	}
	stop := run(manager.Config{})
	tell(0, "ok", "status", "--alive")
	text := tell(0, enrollment.Prefix, "token", "create", "--uses", "3", "--valid", "2h", "--label", "Berlin")
	token, err := enrollment.ParseToken(text)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	id := token.String()[len("token "):]
	if list := tell(0, "0 of 3", "token", "list"); strings.Contains(list, strings.TrimSpace(text)) || !strings.Contains(list, id) || !strings.Contains(list, "Berlin") {
		t.Errorf("listed are %s", list)
	}
	tell(0, "revoked: token "+id, "token", "revoke", id)
	tell(1, "there is no token", "token", "revoke", "x")
	tell(1, "1 to 100000", "token", "create", "--uses", "0")
	tell(1, "valid for", "token", "create", "--valid", "99999h")
	tell(1, "a line of at most", "token", "create", "--label", strings.Repeat("x", 200))
	tell(0, "AGENT", "agent", "list")
	tell(1, "is not a UUID", "agent", "revoke", "x")
	tell(1, "there is no agent", "agent", "readmit", contract.ID{5}.String())
	tell(0, "revoked: "+contract.ID{5}.String(), "agent", "revoke", contract.ID{5}.String())
	tell(0, "readmitted: "+contract.ID{5}.String(), "agent", "readmit", contract.ID{5}.String())
	tell(0, "is for 1 agent, until", "token", "create")
	if first, again := tell(0, "good until", "authority", "succeed"), tell(0, "good until", "authority", "succeed"); first != again {
		t.Errorf("two successors, %q and %q", first, again)
	}
	stop()
	tell(1, "no Manager runs", "token", "create")
	tell(1, "no Manager runs", "status", "--alive")

	stop = run(manager.Config{AgentsSecurity: manager.Plaintext})
	tell(1, "agents_security is plaintext", "token", "create")
	tell(1, "agents_security is plaintext", "authority", "succeed")
	stop()
}

// How agents are known is said so that nothing is open by mistake.
func TestSecurityIsChecked(t *testing.T) {
	files := []string{"--tls-certificate", "c", "--tls-key", "k"}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--agents-security", "plaintext", "--agents-address", "0.0.0.0:10041"}, "is for agents of this machine"},
		{[]string{"--agents-security", "plain"}, "say enrollment, files or plaintext"},
		{[]string{"--agents-security", "files"}, "needs tls_certificate"},
		{append([]string{"--agents-security", "enrollment"}, files...), "goes without tls_certificate"},
		{append([]string{"--agents-security", "plaintext"}, files...), "goes without tls_certificate"},
	} {
		var out bytes.Buffer
		args := append([]string{"run", "--data-dir", t.TempDir(), "--account-id", contract.ID{1}.String()}, c.args...)
		if code := execute(args, &out, &out); code != 1 || !strings.Contains(out.String(), c.want) {
			t.Errorf("%v: exit code %d, %s", c.args, code, out.String())
		}
	}
}

func TestEnrollingAtThePlatformSaysWhatIsWrong(t *testing.T) {
	token := enrollment.NewManagerToken(contract.ID{1}, contract.ID{2}).Text()
	for _, c := range []struct{ api, token, want string }{
		{"https://platform.invalid", "x", "begins with"},
		{"https://platform.invalid", token[:40], "not whole"},
		{"", token, "is no address"},
		{"http://platform.example.com", token, "https://"},
		{"http://127.0.0.1:1", token, "cannot be reached"},
	} {
		var out bytes.Buffer
		if code := execute([]string{"enroll", "--data-dir", t.TempDir(), "--api", c.api, "--proxy", "none", c.token}, &out, &out); code != 1 || !strings.Contains(out.String(), c.want) || strings.Contains(out.String(), token) {
			t.Errorf("%s: exit code %d, %s", c.want, code, out.String())
		}
	}
}

// What runs before each start enrols once; then it needs neither the token nor the platform.
func TestEnrollingOnce(t *testing.T) {
	asked, takes, keys := 0, false, make(map[string]int)
	platform := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		var wish struct {
			Key string `json:"public_key"`
		}
		if err := json.NewDecoder(r.Body).Decode(&wish); err != nil {
			t.Error(err)
		}
		keys[wish.Key]++
		if !takes {
			http.Error(w, `{"message":"not yet"}`, http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(platform.Close)
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(enrollment.NewManagerToken(contract.ID{1}, contract.ID{2}).Text()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	enrol := func(code int, want string) {
		t.Helper()
		var out bytes.Buffer
		if got := execute([]string{"enroll", "--once", "--data-dir", dir, "--api", platform.URL, "--proxy", "none", "--token-file", file}, &out, &out); got != code || !strings.Contains(out.String(), want) {
			t.Errorf("exit code %d, %s; want %q", got, out.String(), want)
		}
	}
	enrol(1, "not yet")
	takes = true
	enrol(0, "is enrolled, for account")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	enrol(0, "is enrolled already")
	if asked != 2 {
		t.Errorf("the platform was asked %d times", asked)
	}
	// Its token was renewed, since the key was damaged: that it is asked for does not make it known.
	if err := os.Remove(filepath.Join(dir, "platform-key")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(enrollment.NewManagerToken(contract.ID{1}, contract.ID{2}).Text()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	takes = false
	enrol(1, "not yet")
	enrol(1, "not yet")
	takes = true
	enrol(0, "is enrolled, for account")
	if len(keys) != 2 { // asked again, it shows the key that the platform may have heard of
		t.Errorf("the platform was asked to know %v", keys)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	enrol(1, "the token: open")
}
