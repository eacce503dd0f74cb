package keyring

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/platformtest"
)

// transitEngine answers as the documentation of Vault's transit engine says.
type transitEngine struct {
	*httptest.Server
	mu     sync.Mutex
	key    Key
	status int // 0: serves
	asked  int
}

func newTransitEngine(t *testing.T) (*transitEngine, *Transit) {
	t.Helper()
	e := &transitEngine{key: NewKey()}
	e.Server = httptest.NewServer(e)
	t.Cleanup(e.Close)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("s.right\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	transit, err := NewTransit(TransitConfig{URL: e.URL + "/transit/cetrus", TokenFile: token})
	if err != nil {
		t.Fatal(err)
	}
	return e, transit
}

func (e *transitEngine) set(status int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status = status
}

func (e *transitEngine) questions() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked
}

func (e *transitEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked++
	refuse := func(status int, why string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]any{"errors": []string{why}})
	}
	var question struct {
		Plaintext  []byte `json:"plaintext"` // base64 in JSON, as []byte is
		Ciphertext string `json:"ciphertext"`
	}
	switch {
	case e.status != 0:
		refuse(e.status, "Vault is sealed")
		return
	case r.Header.Get("X-Vault-Token") != "s.right":
		refuse(http.StatusForbidden, "permission denied")
		return
	case r.Method != http.MethodPost || json.NewDecoder(r.Body).Decode(&question) != nil:
		refuse(http.StatusBadRequest, "bad request")
		return
	}
	switch r.URL.Path {
	case "/v1/transit/encrypt/cetrus":
		_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"ciphertext": "vault:v1:" + base64Of(e.key.seal(question.Plaintext, nil)), "key_version": 1}})
	case "/v1/transit/decrypt/cetrus":
		sealed, found := strings.CutPrefix(question.Ciphertext, "vault:v1:")
		plain, err := e.key.open(bytesOf(sealed), nil)
		if !found || err != nil {
			refuse(http.StatusBadRequest, "cipher: message authentication failed")
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]any{"plaintext": plain}})
	default:
		refuse(http.StatusNotFound, "no handler for route")
	}
}

func base64Of(b []byte) string {
	text, _ := json.Marshal(b)
	return strings.Trim(string(text), `"`)
}

func bytesOf(text string) (b []byte) {
	_ = json.Unmarshal([]byte(`"`+text+`"`), &b)
	return b
}

// A contract of both ways to write a key-encryption key.
func TestWrappers(t *testing.T) {
	_, transit := newTransitEngine(t)
	for _, by := range []Wrapper{InClear{}, transit} {
		key := NewKey()
		text, err := by.Wrap(t.Context(), key)
		if err != nil || strings.ContainsAny(text, " \n") {
			t.Fatalf("%s: %q, %v", by.Kind(), text, err)
		}
		if got, err := by.Unwrap(t.Context(), text); err != nil || got != key {
			t.Errorf("%s: %v", by.Kind(), err)
		}
		if _, err := by.Unwrap(t.Context(), text[:len(text)-8]); err == nil {
			t.Errorf("%s: what is damaged opens", by.Kind())
		}
	}
}

// holding is a keyring with some keys of principals.
func holding(t *testing.T, by Wrapper, n int) (k *Keyring, account contract.ID, keys map[contract.ID]Key) {
	t.Helper()
	k, err := New(t.Context(), Config{KeyFile: filepath.Join(t.TempDir(), "name-key"), Wrapper: by}, Deps{Store: platformtest.Store(t, StoreConfig()), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	account, keys = newID(), map[contract.ID]Key{}
	var entries []entry
	for range n {
		e := entry{newID(), NewKey()}
		entries, keys[e.principal] = append(entries, e), e.key
	}
	if err := k.deposit(t.Context(), account, newID(), entries); err != nil {
		t.Fatal(err)
	}
	return k, account, keys
}

func (k *Keyring) check(t *testing.T, account contract.ID, want map[contract.ID]Key) {
	t.Helper()
	k.cache = newCache(cacheSize)
	for principal, key := range want {
		if got, err := k.KeyOf(t.Context(), account, principal); err != nil || got != key {
			t.Fatalf("%s: %v", principal, err)
		}
	}
}

// The key that protects all others is replaced while processes run that read its file: they
// go on, also where the new one is wrapped by a key-management service and the old one was not;
// when the old one is gone, nothing needs it.
func TestRotation(t *testing.T) {
	for _, way := range []string{"in clear", "to transit", "in transit"} {
		t.Run(way, func(t *testing.T) {
			_, transit := newTransitEngine(t)
			from, to := Wrapper(InClear{}), Wrapper(InClear{})
			if way == "to transit" {
				to = transit
			}
			if way == "in transit" {
				from = transit
			}
			k, account, keys := holding(t, from, rewrapped+7)
			k.wrapping.by = transit // what runs knows the service already
			config := Config{KeyFile: k.wrapping.path, Wrapper: to}
			if way == "in transit" {
				config.Wrapper = transit // to a new key of the same service
			}
			before, err := k.wrapping.get(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			operator, err := New(t.Context(), config, k.deps)
			if err != nil {
				t.Fatal(err)
			}
			done, err := operator.Rotate(t.Context())
			if err != nil || done.Rewrapped != len(keys) || done.Former != 1 {
				t.Fatalf("%+v, %v", done, err)
			}
			k.check(t, account, keys)
			more := newID()
			key, err := k.KeyOf(t.Context(), account, more)
			if err != nil {
				t.Fatal(err)
			}
			keys[more] = key
			if done, err := operator.Rewrap(t.Context()); err != nil || done.Rewrapped != 0 || done.Former != 1 {
				t.Fatalf("too early the former key is forgotten, or the new one does not wrap: %+v, %v", done, err)
			}
			later := time.Now().Add(2 * retireAfter)
			operator.now = func() time.Time { return later }
			if done, err := operator.Rewrap(t.Context()); err != nil || done.Former != 0 {
				t.Fatalf("%+v, %v", done, err)
			}
			operator.check(t, account, keys)
			k.check(t, account, keys)
			if after, err := k.wrapping.get(t.Context()); err != nil || len(after) != 1 || after[0] == before[0] {
				t.Fatalf("%d keys, %v", len(after), err)
			}
		})
	}
}

// Of rotations at once each keeps what the others' keys wrap.
func TestRotationsAtOnce(t *testing.T) {
	const rotations = 6
	k, account, keys := holding(t, InClear{}, 20)
	var operators []*Keyring
	for range rotations {
		operator, err := New(t.Context(), Config{KeyFile: k.wrapping.path}, k.deps)
		if err != nil {
			t.Fatal(err)
		}
		operators = append(operators, operator)
	}
	var all sync.WaitGroup
	for _, operator := range operators {
		all.Go(func() {
			if _, err := operator.Rotate(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	k.check(t, account, keys)
	if written, err := readKeyFile(k.wrapping.path, false); err != nil || len(written) != rotations+1 {
		t.Errorf("%d keys are in the file, %v", len(written), err)
	}
}

// onUnwrap does something each time after a key was unwrapped.
type onUnwrap struct {
	Wrapper
	do func()
}

func (w onUnwrap) Unwrap(ctx context.Context, text string) (Key, error) {
	key, err := w.Wrapper.Unwrap(ctx, text)
	w.do()
	return key, err
}

// A process starts while its key-encryption key is replaced: it has read the file of before, and
// finds in the database what the new key wraps.
func TestStartWhileTheKeyIsReplaced(t *testing.T) {
	_, transit := newTransitEngine(t)
	operator, account, keys := holding(t, transit, 3)
	rotate := sync.OnceFunc(func() {
		if done, err := operator.Rotate(t.Context()); err != nil || done.Rewrapped != len(keys) {
			t.Errorf("%+v, %v", done, err)
		}
	})
	k, err := New(t.Context(), Config{KeyFile: operator.wrapping.path, Wrapper: onUnwrap{transit, rotate}}, operator.deps)
	if err != nil {
		t.Fatal(err)
	}
	k.check(t, account, keys)
}

// Where the key-management service is lost, names are read for as long as its answer may be
// used, and then not at all; when it is back, as before.
func TestTheKeyManagementServiceIsLost(t *testing.T) {
	engine, transit := newTransitEngine(t)
	k, account, keys := holding(t, transit, 3)
	now := time.Now()
	k.wrapping.now = func() time.Time { return now }
	k.check(t, account, keys)
	asked := engine.questions()
	k.check(t, account, keys)
	if n := engine.questions(); n != asked {
		t.Errorf("it was asked %d times more, within the time for which it had answered", n-asked)
	}
	engine.set(http.StatusServiceUnavailable)
	now = now.Add(unwrappedFor * 3 / 4)
	k.check(t, account, keys)
	now = now.Add(unwrappedFor / 2)
	k.cache = newCache(cacheSize)
	for principal := range keys {
		if _, err := k.KeyOf(t.Context(), account, principal); !errs.Is(errs.Unavailable, err) || !strings.Contains(errs.PublicOf(err).Message, "key-management service") {
			t.Fatalf("it is lost: %v", err)
		}
	}
	engine.set(0)
	now = now.Add(askAgain)
	k.check(t, account, keys)

	// The right to use it was taken away: that is no matter of waiting.
	engine.set(http.StatusForbidden)
	now = now.Add(2 * unwrappedFor)
	k.cache = newCache(cacheSize)
	if _, err := k.KeyOf(t.Context(), account, newID()); !errs.Is(errs.Precondition, err) {
		t.Fatalf("it refuses: %v", err)
	}
	if _, err := New(t.Context(), Config{KeyFile: k.wrapping.path}, k.deps); !errs.Is(errs.Precondition, err) || !strings.Contains(err.Error(), "name-key-kms") {
		t.Fatalf("started without its setting: %v", err)
	}
}

func TestAddressesOfTransit(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://vault.example:8200/transit/cetrus": true, "https://vault.example/a/b/cetrus": true, "http://127.0.0.1:8200/transit/cetrus": true, "http://localhost:8200/transit/cetrus/": true,
		"http://vault.example:8200/transit/cetrus": false, "https://vault.example:8200/cetrus": false, "https://vault.example:8200": false, "": false, "vault": false,
		"https://u:p@vault.example/transit/cetrus": false, "https://vault.example/transit/cetrus?a=b": false, "ftp://vault.example/transit/cetrus": false,
	} {
		if _, err := NewTransit(TransitConfig{URL: url, TokenFile: "token"}); (err == nil) != ok {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func FuzzKeyFile(f *testing.F) {
	f.Add(keyFileHead + "\nAAAA\n")
	f.Add(keysFileHead + "\ntransit vault:v1:abc 2026-11-01T00:00:00Z\nclear AAAA 2026-10-01T00:00:00Z\n")
	f.Fuzz(func(t *testing.T, content string) {
		keys, ok := parseKeyFile(content)
		if !ok {
			return
		}
		again, ok := parseKeyFile(string(formatKeyFile(keys)))
		if !ok || len(again) != len(keys) {
			t.Fatalf("%q is read as %v and written as %q", content, keys, formatKeyFile(keys))
		}
	})
}
