package authn_test

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

func bootstrap(t *testing.T) (dir string, keys *authn.Keys, key string) {
	t.Helper()
	dir = t.TempDir()
	keys, key, err := authn.Bootstrap(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return dir, keys, key
}

func TestBootstrapOnce(t *testing.T) {
	dir, keys, key := bootstrap(t)
	if !strings.HasPrefix(key, authn.KeyPrefix) || keys.Account().IsZero() {
		t.Fatalf("got %q, %s", key, keys.Account())
	}
	again, fresh, err := authn.Bootstrap(dir, time.Now())
	if err != nil || fresh != "" || again.Account() != keys.Account() {
		t.Errorf("again: %v %q %v", again, fresh, err)
	}
	caller, err := again.Authenticate(t.Context(), key)
	if err != nil || caller.Account != keys.Account() || !strings.HasPrefix(caller.Actor, "key:") || strings.Contains(key[16:], strings.TrimPrefix(caller.Actor, "key:")) {
		t.Errorf("got %+v, %v", caller, err)
	}
	if !caller.Operator || caller.Privileges != authn.AllPrivileges() || caller.Reach != authzv1.Reach_REACH_UNSPECIFIED {
		t.Errorf("the bootstrap key is of the operator's account and has all privileges: %+v", caller)
	}
	for _, name := range []string{authn.KeyFile, authn.AccountFile} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, authn.AccountFile))
	if err != nil || strings.Contains(string(text), key) || strings.Contains(string(text), strings.Split(key, "_")[2]) {
		t.Errorf("the account file holds the key: %v", err)
	}
}

func TestOtherKeysAreRefused(t *testing.T) {
	_, keys, key := bootstrap(t)
	_, _, other := bootstrap(t)
	last := byte('a')
	if key[len(key)-1] == last {
		last = 'b'
	}
	for _, k := range []string{"", "cetrus_", other, strings.ToUpper(key), key + "a", key[:len(key)-1], key[:len(key)-1] + string(last), " " + key, strings.Repeat("x", 1<<16)} {
		_, err := keys.Authenticate(t.Context(), k)
		if !errs.Is(errs.Unauthenticated, err) || errs.PublicOf(err).Reason != authn.ReasonInvalidKey {
			t.Errorf("%.80q: %v", k, err)
		}
		if k != "" && strings.Contains(err.Error(), strings.TrimSpace(k)) {
			t.Errorf("the error tells the key: %v", err)
		}
	}
}

func TestDamagedAccountFileIsKept(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "not JSON": "{", "version": `{"version":2}`, "account": `{"version":1,"account_id":"x"}`,
		"zero account": `{"version":1,"account_id":"00000000-0000-0000-0000-000000000000"}`,
		"hash":         `{"version":1,"account_id":"fdae86fb-b5fd-4db5-871e-b20980f928dc","keys":[{"id":"00000000","sha256":"00"}]}`,
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, authn.AccountFile)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := authn.Bootstrap(dir, time.Now())
		if !errs.Is(errs.Precondition, err) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "backup") {
			t.Errorf("%s: %v", name, err)
		}
		if got, _ := os.ReadFile(path); string(got) != text {
			t.Errorf("%s: the file was changed", name)
		}
	}
	if _, err := authn.Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

type lines chan string

func (l lines) Write(text []byte) (int, error) {
	l <- string(text)
	return len(text), nil
}

// await waits for a line that holds the words.
func (l lines) await(t *testing.T, words string) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case text := <-l:
			if strings.Contains(text, words) {
				return
			}
		case <-timeout:
			t.Fatalf("nothing was said of %q", words)
		}
	}
}

// A new key is known to whoever follows the file; the others only until they are
// revoked, and a damaged file or another account's changes nothing.
func TestKeysAreReplacedWhileTheyAreUsed(t *testing.T) {
	dir, keys, first := bootstrap(t)
	ctx, stop := context.WithCancel(t.Context())
	followed, told := make(chan struct{}), make(lines, 16)
	go func() {
		defer close(followed)
		keys.Follow(ctx, slog.New(slog.NewTextHandler(told, nil)))
	}()
	defer func() { stop(); <-followed }()
	knows := func(key string) bool {
		_, err := keys.Authenticate(ctx, key)
		return err == nil
	}
	issue := func(revokeOthers bool, want int) string {
		t.Helper()
		key, revoked, err := authn.Issue(dir, revokeOthers, time.Now())
		kept, readErr := os.ReadFile(filepath.Join(dir, authn.KeyFile))
		if err != nil || readErr != nil || revoked != want || strings.TrimSpace(string(kept)) != key {
			t.Fatalf("issue: %d %v %v", revoked, err, readErr)
		}
		told.await(t, "have changed")
		if !knows(key) {
			t.Fatal("the new key is not known")
		}
		return key
	}
	second := issue(false, 0)
	if !knows(first) || len(keys.List()) != 2 {
		t.Errorf("the first key is gone; %v", keys.List())
	}
	_, _, other := bootstrap(t)
	third := issue(true, 2)
	if knows(first) || knows(second) || knows(other) || !knows(third) || len(keys.List()) != 1 {
		t.Errorf("after revoking: %v", keys.List())
	}
	if err := os.WriteFile(filepath.Join(dir, authn.AccountFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := authn.Issue(dir, true, time.Now()); !errs.Is(errs.Precondition, err) {
		t.Errorf("a damaged file: %v", err)
	}
	told.await(t, "stay as they are")
	if !knows(third) {
		t.Error("a damaged file revoked a key")
	}
}

func TestKeyFromHeaders(t *testing.T) {
	for _, c := range []struct {
		name        string
		auth, xkey  []string
		want, fails string
	}{
		{"bearer", []string{"Bearer k"}, nil, "k", ""},
		{"any case", []string{"bearer   k "}, nil, "k", ""},
		{"own header", nil, []string{"k"}, "k", ""},
		{"both the same", []string{"Bearer k"}, []string{"k"}, "k", ""},
		{"none", nil, nil, "", authn.ReasonNoKey},
		{"empty", []string{"Bearer "}, nil, "", authn.ReasonNoKey},
		{"basic", []string{"Basic eDp5"}, nil, "", authn.ReasonNoKey},
		{"two", []string{"Bearer k", "Bearer l"}, nil, "", authn.ReasonInvalidKey},
		{"two headers", []string{"Bearer k"}, []string{"l"}, "", authn.ReasonInvalidKey},
	} {
		got, err := authn.KeyFromHeaders(c.auth, c.xkey)
		if got != c.want && err == nil || (c.fails != "") != (err != nil) || err != nil && errs.PublicOf(err).Reason != c.fails {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
}

func TestNoCallerIsNoRight(t *testing.T) {
	if _, err := authn.CallerFrom(t.Context()); !errs.Is(errs.Unauthenticated, err) {
		t.Errorf("got %v", err)
	}
	if _, err := authn.CallerFrom(authn.WithCaller(t.Context(), authn.Caller{Actor: "x"})); !errs.Is(errs.Unauthenticated, err) {
		t.Errorf("a caller without account: %v", err)
	}
	if _, err := authn.CallerFrom(authn.WithCaller(t.Context(), authn.Caller{Account: contract.ID{1}, Actor: "x"})); !errs.Is(errs.Internal, err) {
		t.Errorf("a caller that nobody authorized: %v", err)
	}
	want := authn.Caller{Account: contract.ID{1}, Actor: "key:1", Reach: authzv1.Reach_REACH_SELF}
	if got, err := authn.CallerFrom(authn.WithCaller(t.Context(), want)); err != nil || got != want {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestPrivileges(t *testing.T) {
	set := authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_REPORT, authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR, 0, -3, 4000)
	if got := set.List(); !slices.Equal(got, []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR, authzv1.Privilege_PRIVILEGE_REPORT}) {
		t.Errorf("got %v", got)
	}
	if set.Has(0) || set.Has(-3) || set.Has(4000) || set.Has(authzv1.Privilege_PRIVILEGE_FINANCIAL) || !set.Has(authzv1.Privilege_PRIVILEGE_REPORT) {
		t.Errorf("%b holds what it was not given", set)
	}
	if name := authn.PrivilegeName(authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR); name != "Account Administrator" {
		t.Error(name)
	}
}

func FuzzAuthenticate(f *testing.F) {
	f.Add("cetrus_00000000_" + strings.Repeat("a", 52))
	f.Add("cetrus__")
	f.Add("\x00")
	keys, key, err := authn.Bootstrap(f.TempDir(), time.Now())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, k string) {
		if _, err := keys.Authenticate(context.Background(), k); (err == nil) != (k == key) {
			t.Errorf("%q: %v", k, err)
		}
		_, _ = authn.KeyFromHeaders([]string{k}, []string{k})
	})
}

func FuzzAccountFile(f *testing.F) {
	f.Add([]byte(`{"version":1,"account_id":"fdae86fb-b5fd-4db5-871e-b20980f928dc","keys":[{"id":"00000000","sha256":"00"}]}`))
	f.Add([]byte(`{"version":1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), authn.AccountFile)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		keys, err := authn.Load(path)
		if (err == nil) == (keys == nil) || err == nil && keys.Account().IsZero() {
			t.Errorf("%q: %v, %v", text, keys, err)
		}
	})
}
