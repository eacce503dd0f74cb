package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/services/platform/tlsfiles"
)

// apiServer is as much of the API of Kubernetes as `cetrus secrets` uses, with its conflicts.
type apiServer struct {
	mu      sync.Mutex
	secrets map[string]*corev1.Secret
	version int
	// forbidden names a verb that is answered 403.
	forbidden string
}

const secretsPath = "/api/v1/namespaces/site/secrets"

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	name := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, secretsPath), "/")
	fail := func(code int, reason metav1.StatusReason) {
		a.say(w, code, &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(code), Reason: reason})
	}
	var sent corev1.Secret
	if r.Body != nil && (r.Method == http.MethodPost || r.Method == http.MethodPut) {
		if err := json.NewDecoder(r.Body).Decode(&sent); err != nil {
			fail(http.StatusBadRequest, metav1.StatusReasonBadRequest)
			return
		}
		name = sent.Name
	}
	there := a.secrets[name]
	switch {
	case r.Method == a.forbidden:
		fail(http.StatusForbidden, metav1.StatusReasonForbidden)
	case !strings.HasPrefix(r.URL.Path, secretsPath):
		fail(http.StatusNotFound, metav1.StatusReasonNotFound)
	case r.Method == http.MethodPost && there != nil:
		fail(http.StatusConflict, metav1.StatusReasonAlreadyExists)
	case r.Method != http.MethodPost && there == nil:
		fail(http.StatusNotFound, metav1.StatusReasonNotFound)
	case r.Method == http.MethodPut && sent.ResourceVersion != there.ResourceVersion:
		fail(http.StatusConflict, metav1.StatusReasonConflict)
	case r.Method == http.MethodPost || r.Method == http.MethodPut:
		a.version++
		sent.ResourceVersion = strconv.Itoa(a.version)
		sent.TypeMeta = metav1.TypeMeta{Kind: "Secret", APIVersion: "v1"}
		a.secrets[name] = &sent
		a.say(w, http.StatusOK, &sent)
	case r.Method == http.MethodDelete:
		delete(a.secrets, name)
		a.say(w, http.StatusOK, &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess})
	default:
		a.say(w, http.StatusOK, there)
	}
}

func (a *apiServer) say(w http.ResponseWriter, code int, what any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(what)
}

// eachStore runs a test on secrets in a folder, and in a cluster.
func eachStore(t *testing.T, test func(t *testing.T, open func() secretStore, server *apiServer)) {
	t.Run("folder", func(t *testing.T) {
		dir := secretFolder(filepath.Join(t.TempDir(), "secrets"))
		test(t, func() secretStore { return dir }, nil)
	})
	t.Run("cluster", func(t *testing.T) {
		server := &apiServer{secrets: map[string]*corev1.Secret{}}
		listening := httptest.NewServer(server)
		t.Cleanup(listening.Close)
		test(t, func() secretStore {
			c, err := newCluster(&rest.Config{Host: listening.URL}, "site", "r")
			if err != nil {
				t.Fatal(err)
			}
			return c
		}, server)
	})
}

// installation is what one run of `cetrus secrets` has to do with.
type installation struct {
	t        *testing.T
	settings secretsSettings
	open     func() secretStore
	now      time.Time
}

func newInstallation(t *testing.T, open func() secretStore) *installation {
	return &installation{t: t, open: open, now: time.Now(), settings: secretsSettings{
		namespace: "site", prefix: "r", tls: true, tlsLife: 90 * 24 * time.Hour, postgresHost: "r-postgres.site.svc", tlsNames: []string{"metering=10.0.0.7"},
	}}
}

// try runs it, and answers what it said.
func (i *installation) try() (string, error) {
	i.t.Helper()
	var out bytes.Buffer
	m := &secretMaker{secretsSettings: i.settings, store: i.open(), out: &out, now: i.now}
	do := m.makeAll
	if i.settings.remove {
		do = m.removeAll
	}
	err := do(i.t.Context())
	return out.String(), err
}

func (i *installation) run() string {
	i.t.Helper()
	said, err := i.try()
	if err != nil {
		i.t.Fatal(err)
	}
	return said
}

func (i *installation) get(name string) map[string][]byte {
	i.t.Helper()
	files, err := i.open().get(i.t.Context(), name)
	if err != nil {
		i.t.Fatal(err)
	}
	return files
}

func (i *installation) all() map[string]map[string][]byte {
	i.t.Helper()
	all := make(map[string]map[string][]byte)
	names := []string{"r-account", "r-first-login", "r-sign-in-key", "r-name-key", "r-archive-key", "r-nats-users", "r-postgres", "r-tls-ca"}
	for _, role := range natsserver.Roles() {
		names = append(names, "r-nats-"+role)
	}
	for _, workload := range []string{"nats", "identity", "metering", "keyring", "gateway", "archive", "postgres"} {
		names = append(names, "r-tls-"+workload)
	}
	for _, name := range names {
		all[name] = i.get(name)
	}
	return all
}

func same(a, b map[string]map[string][]byte) bool {
	return maps.EqualFunc(a, b, func(x, y map[string][]byte) bool { return maps.EqualFunc(x, y, bytes.Equal) })
}

func TestSecretsAreMadeOnce(t *testing.T) {
	eachStore(t, func(t *testing.T, open func() secretStore, server *apiServer) {
		i := newInstallation(t, open)
		said := i.run()
		made := i.all()
		for name, files := range made {
			if len(files) == 0 || !strings.Contains(said, name+": made\n") {
				t.Errorf("%s has %d files; said was %q", name, len(files), said)
			}
			for file, text := range files {
				if secret := strings.TrimSpace(string(text)); secret == "" || strings.Contains(said, secret) {
					t.Errorf("%s of %s is empty, or was said", file, name)
				}
			}
		}
		if said := i.run(); said != "" || !same(made, i.all()) {
			t.Errorf("the second run changed something: %q", said)
		}

		// The API key opens the account; the URL, the users of NATS and the certificates fit one another.
		dir := t.TempDir()
		account := filepath.Join(dir, authn.AccountFile)
		if err := os.WriteFile(account, made["r-account"][authn.AccountFile], 0o600); err != nil {
			t.Fatal(err)
		}
		keys, err := authn.Load(account)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := keys.Authenticate(t.Context(), strings.TrimSpace(string(made["r-first-login"][authn.KeyFile]))); err != nil {
			t.Error(err)
		}
		if url := string(made["r-postgres"]["url"]); !strings.Contains(url, string(made["r-postgres"]["password"])+"@r-postgres.site.svc:5432/cetrus?sslmode=verify-full") {
			t.Error("the URL of PostgreSQL is " + url)
		}
		book := managerBook{account: keys.Account()}
		if err := book.read(made["r-nats-users"][managersFile]); err != nil || !book.complete() {
			t.Errorf("users of NATS: %v", err)
		}
		for _, role := range natsserver.Roles() {
			if got := strings.TrimSpace(string(made["r-nats-"+role][natsPasswordFile])); got != book.part(role).Password {
				t.Errorf("%s has another password than NATS knows", role)
			}
		}
		for file, text := range made["r-tls-metering"] {
			if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		files, err := tlsfiles.Open(dir, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		shown, _ := files.Certificate()
		for _, host := range []string{"r-metering", "r-metering.site.svc", "r-metering-0.r-metering.site.svc", "10.0.0.7", "localhost"} {
			if err := shown.Leaf.VerifyHostname(host); err != nil {
				t.Error(err)
			}
		}
		if err := shown.Leaf.VerifyHostname("r-nats.site.svc"); err == nil {
			t.Error("metering's certificate is good for NATS")
		}
		if server != nil {
			if got := server.secrets["r-tls-nats"]; got.Type != corev1.SecretTypeTLS || got.Labels["app.kubernetes.io/instance"] != "r" {
				t.Errorf("the Secret is %s with %v", got.Type, got.Labels)
			}
		}

		i.settings.remove = true
		if _, err := i.try(); err != nil {
			t.Fatal(err)
		}
		for name, files := range i.all() {
			if files != nil {
				t.Errorf("%s was not removed", name)
			}
		}
		if _, err := i.try(); err != nil {
			t.Errorf("removing what is gone: %v", err)
		}
	})
}

// Interrupted anywhere, the next run goes on, and what was made stays.
func TestSecretsAfterAnInterruption(t *testing.T) {
	eachStore(t, func(t *testing.T, open func() secretStore, _ *apiServer) {
		i := newInstallation(t, open)
		made := map[string]map[string][]byte{}
		for steps := 0; ; steps++ {
			broken := &breaking{secretStore: open(), after: 1} // one more each time
			m := &secretMaker{secretsSettings: i.settings, store: broken, out: &bytes.Buffer{}, now: i.now}
			err := m.makeAll(t.Context())
			now := i.all()
			for name, files := range made {
				if files != nil && !maps.EqualFunc(files, now[name], bytes.Equal) {
					t.Errorf("%s was changed", name)
				}
			}
			made = now
			if err == nil {
				break
			}
			if steps > 40 {
				t.Fatal(err)
			}
		}
		login := strings.TrimSpace(string(made["r-first-login"][authn.KeyFile]))
		id := strings.Split(login, "_")[1]
		if !strings.Contains(string(made["r-account"][authn.AccountFile]), id) {
			t.Error("the account does not know the key of the first login")
		}
	})
}

// breaking fails when it has made so many.
type breaking struct {
	secretStore
	after int
}

var errBroken = errors.New("broken")

func (b *breaking) create(ctx context.Context, name string, files map[string][]byte, tls bool) error {
	if b.after == 0 {
		return errBroken
	}
	b.after--
	return b.secretStore.create(ctx, name, files, tls)
}

func TestSecretsStay(t *testing.T) {
	eachStore(t, func(t *testing.T, open func() secretStore, server *apiServer) {
		i := newInstallation(t, open)
		i.run()
		store := open()
		// Somebody has read the first login and removed it.
		if err := store.remove(t.Context(), "r-first-login"); err != nil {
			t.Fatal(err)
		}
		// An earlier release did not know the operator.
		var users managersText
		users0 := i.get("r-nats-users")
		if err := json.Unmarshal(users0[managersFile], &users); err != nil {
			t.Fatal(err)
		}
		delete(users.Parts, natsserver.Operator)
		text, err := json.Marshal(users)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.get(t.Context(), "r-nats-users"); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(store.update(t.Context(), "r-nats-users", map[string][]byte{managersFile: text}), store.remove(t.Context(), "r-nats-operator")); err != nil {
			t.Fatal(err)
		}
		before := i.all()
		if said := i.run(); said != "r-nats-users: new parts were added\nr-nats-operator: made\n" {
			t.Errorf("said: %q", said)
		}
		after := i.all()
		for _, added := range []string{"r-nats-users", "r-nats-operator"} {
			delete(before, added)
			delete(after, added)
		}
		if !same(before, after) {
			t.Error("something else was changed")
		}
		var again managersText
		if err := json.Unmarshal(i.get("r-nats-users")[managersFile], &again); err != nil {
			t.Fatal(err)
		}
		for role, password := range users.Parts {
			if again.Parts[role] != password {
				t.Errorf("%s has another password", role)
			}
		}
		if server != nil {
			server.forbidden = http.MethodGet
			if _, err := i.try(); !errs.Is(errs.Denied, err) || !strings.Contains(err.Error(), "Role") {
				t.Errorf("without rights: %v", err)
			}
		}
	})
}

func TestCertificatesAreRenewed(t *testing.T) {
	eachStore(t, func(t *testing.T, open func() secretStore, _ *apiServer) {
		i := newInstallation(t, open)
		i.run()
		// Somebody else's is in the place of one.
		strangers, err := tlsfiles.NewAuthority("strangers", i.now)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := strangers.Issue([]string{"r-gateway"}, time.Hour, i.now)
		if err != nil {
			t.Fatal(err)
		}
		store := open()
		if _, err := store.get(t.Context(), "r-tls-gateway"); err != nil {
			t.Fatal(err)
		}
		if err := store.update(t.Context(), "r-tls-gateway", map[string][]byte{tlsfiles.CertificateFile: theirs.Certificate, tlsfiles.KeyFile: theirs.Key, tlsfiles.AuthorityFile: strangers.Certificate}); err != nil {
			t.Fatal(err)
		}
		before := i.all()
		i.now = i.now.Add(59 * 24 * time.Hour)
		if said := i.run(); said != "" {
			t.Errorf("with more than a third left: %q", said)
		}
		i.now = i.now.Add(2 * 24 * time.Hour)
		said := i.run()
		for name, files := range i.all() {
			renewed := strings.HasPrefix(name, "r-tls-") && name != "r-tls-ca" && name != "r-tls-gateway"
			if renewed == maps.EqualFunc(before[name], files, bytes.Equal) || renewed != strings.Contains(said, name+": renewed\n") {
				t.Errorf("%s: renewed is not %v; said: %q", name, renewed, said)
			}
			if !renewed {
				continue
			}
			if pair, err := tls.X509KeyPair(files[tlsfiles.CertificateFile], files[tlsfiles.KeyFile]); err != nil || pair.Leaf.NotAfter.Before(i.now.Add(89*24*time.Hour)) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// One file of a renewed certificate came, and the other did not: a part could not start with them.
func TestAnInterruptedRenewalIsDoneAgain(t *testing.T) {
	eachStore(t, func(t *testing.T, open func() secretStore, _ *apiServer) {
		i := newInstallation(t, open)
		i.run()
		for _, came := range []string{tlsfiles.CertificateFile, tlsfiles.KeyFile} {
			store := open()
			if _, err := store.get(t.Context(), "r-tls-gateway"); err != nil {
				t.Fatal(err)
			}
			if err := store.update(t.Context(), "r-tls-gateway", map[string][]byte{came: i.get("r-tls-metering")[came]}); err != nil {
				t.Fatal(err)
			}
			if said := i.run(); said != "r-tls-gateway: renewed\n" {
				t.Errorf("%s came alone: %q", came, said)
			}
			is := i.get("r-tls-gateway")
			if _, err := tls.X509KeyPair(is[tlsfiles.CertificateFile], is[tlsfiles.KeyFile]); err != nil {
				t.Errorf("%s came alone: %v", came, err)
			}
		}
	})
}

// Where somebody supplies certificates, no authority is made beside theirs.
func TestSuppliedCertificates(t *testing.T) {
	eachStore(t, func(t *testing.T, open func() secretStore, _ *apiServer) {
		i := newInstallation(t, open)
		i.run()
		store := open()
		if err := errors.Join(store.remove(t.Context(), "r-tls-ca"), store.remove(t.Context(), "r-tls-nats")); err != nil {
			t.Fatal(err)
		}
		if _, err := i.try(); !errs.Is(errs.Precondition, err) || !strings.Contains(err.Error(), "r-tls-ca") || !strings.HasSuffix(err.Error(), "supply those of nats too") {
			t.Errorf("one is missing: %v", err)
		}
		i.settings.tls = false
		if said := i.run(); said != "" || i.get("r-tls-ca") != nil {
			t.Errorf("without tls: %q", said)
		}
	})
}

func TestSecretsSettingsAreChecked(t *testing.T) {
	for says, args := range map[string][]string{
		"--output":                          {},
		"--tls-life":                        {"--output", "x", "--tls-life", "1s"},
		"must be PART=NAME; the parts are ": {"--output", "x", "--tls-name", "printer=10.0.0.1"},
	} {
		var problems bytes.Buffer
		if code := run(append([]string{"secrets"}, args...), &bytes.Buffer{}, &problems); code != 1 || !strings.Contains(problems.String(), says) {
			t.Errorf("%v: %d %s", args, code, problems.String())
		}
	}
	dir := filepath.Join(t.TempDir(), "new")
	var out bytes.Buffer
	if code := run([]string{"secrets", "--output", dir}, &out, &out); code != 0 {
		t.Fatal(out.String())
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	if !slices.Contains(names, "account") || slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, ".") }) {
		t.Errorf("there is %v", names)
	}
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("others may read %s", path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}
