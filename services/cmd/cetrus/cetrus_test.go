package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/ports"
)

// instance is `cetrus all` on free ports.
type instance struct {
	t      testing.TB
	dir    string
	key    string
	out    bytes.Buffer
	rest   string
	cancel context.CancelFunc
	done   chan error
}

// testDir is a data directory that the user of PostgreSQL can reach.
func testDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cetrus-all-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func testSettings(t testing.TB, dir string, args ...string) settings {
	t.Helper()
	var s settings
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	s.flags(fs)
	free := []string{
		"--data-dir", dir, "--rest-listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0",
		"--manager-agents-listen", "127.0.0.1:0", "--manager-status-listen", "127.0.0.1:0",
	}
	if err := fs.Parse(append(free, args...)); err != nil {
		t.Fatal(err)
	}
	if err := s.validate(); err != nil {
		t.Fatal(err)
	}
	return s
}

func startAll(t *testing.T, dir string, args ...string) *instance {
	t.Helper()
	return startTarget(t, "all", dir, args...)
}

func startTarget(t *testing.T, name, dir string, args ...string) *instance {
	t.Helper()
	return startLogged(t, slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn})), name, dir, args...)
}

func startLogged(t testing.TB, log *slog.Logger, name, dir string, args ...string) *instance {
	t.Helper()
	i := &instance{t: t, dir: dir, done: make(chan error, 1)}
	p, err := newProcess(testSettings(t, dir, args...), targetNamed(t, name), log, &i.out)
	if err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, i.cancel = context.WithCancel(context.Background())
	ready := make(chan struct{})
	go func() { i.done <- p.run(ctx, func() { p.announce(); close(ready) }) }()
	select {
	case <-ready:
	case err := <-i.done:
		i.cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() { i.cancel(); i.done <- <-i.done })
	key, err := os.ReadFile(filepath.Join(dir, authn.KeyFile))
	if err != nil {
		t.Fatal(err)
	}
	i.key = strings.TrimSpace(string(key))
	a, err := addressesOf(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	i.rest = a.REST
	return i
}

func targetNamed(t testing.TB, name string) target {
	t.Helper()
	for _, known := range targets {
		if known.name == name {
			return known
		}
	}
	t.Fatalf("there is no target %s", name)
	return target{}
}

// stop stops the instance and says how long that took.
func (i *instance) stop() time.Duration {
	i.t.Helper()
	began := time.Now()
	i.cancel()
	err := <-i.done
	i.done <- err
	if err != nil {
		i.t.Errorf("stop: %v", err)
	}
	return time.Since(began)
}

func (i *instance) do(method, path, body, key string) (int, map[string]any) {
	i.t.Helper()
	req, err := http.NewRequestWithContext(i.t.Context(), method, i.rest+path, strings.NewReader(body))
	if err != nil {
		i.t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("X-API-Key", key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		i.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		i.t.Fatal(err)
	}
	var answer map[string]any
	document := strings.HasPrefix(resp.Header.Get("Content-Disposition"), "attachment") // a file is no JSON
	if err := json.Unmarshal(text, &answer); err != nil && !document {
		i.t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, text)
	}
	return resp.StatusCode, answer
}

// askEverything asks each method of the document that reads: all are served by
// the real services, and answer with what was asked for, or that it is not there.
func (i *instance) askEverything() {
	i.t.Helper()
	_, document := i.do("GET", "/openapi.json", "", "")
	asked := 0
	for path, item := range document["paths"].(map[string]any) {
		get, reads := item.(map[string]any)["get"].(map[string]any)
		if !reads || strings.HasSuffix(path, ":live") {
			continue
		}
		// The key is no login's.
		id, _ := get["operationId"].(string)
		service, _, _ := strings.Cut(id, "_")
		if id == "LoginService_GetMyLogin" || slices.Contains([]string{"SignInService", "PasskeyService", "LinkService"}, service) {
			continue
		}
		named := strings.Contains(path, "{")
		path = regexp.MustCompile(`{[^}]*}`).ReplaceAllString(path, "0198f2aa-0000-4000-8000-000000000001")
		params, _ := get["parameters"].([]any)
		for n, p := range params {
			if p := p.(map[string]any); p["required"] == true && p["in"] == "query" {
				name, value := p["name"].(string), []string{"2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"}[min(n, 1)]
				if strings.HasSuffix(name, "_month") {
					value = value[:len("2026-01")]
				}
				path += []string{"?", "&"}[min(n, 1)] + name + "=" + value
			}
		}
		if id == "ExportService_ExportReport" {
			path += "?report.instances.open_only=true" // one of its questions is required
		}
		code, answer := i.do("GET", path, "", i.key)
		want := map[bool]int{false: 200, true: 404}[named]
		if id == "ReportService_ForecastDemand" {
			want = 400 // nothing was used that it could go by
		}
		if code != want {
			i.t.Errorf("GET %s: %d %v", path, code, answer)
		}
		asked++
	}
	if asked < 8 {
		i.t.Errorf("only %d methods were asked", asked)
	}
}

// changeKeys has the running platform get a new key, whose file was lost, and
// forget the old one.
func (i *instance) changeKeys() {
	i.t.Helper()
	file := filepath.Join(i.dir, authn.KeyFile)
	if err := os.Remove(file); err != nil {
		i.t.Fatal(err)
	}
	var out, problems bytes.Buffer
	if code := run([]string{"key", "new", "--revoke-others", "--data-dir", i.dir}, &out, &problems); code != 0 || !strings.Contains(out.String(), `"revoked":1`) {
		i.t.Fatalf("cetrus key new: %d %s%s", code, out.String(), problems.String())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		i.t.Fatal(err)
	}
	old := i.key
	i.key = strings.TrimSpace(string(text))
	for deadline := time.Now().Add(20 * time.Second); ; {
		code, _ := i.do("GET", "/v1/applications", "", i.key)
		if code == 200 {
			break
		}
		if time.Now().After(deadline) {
			i.t.Fatalf("the new key: %d", code)
		}
	}
	if code, _ := i.do("GET", "/v1/applications", "", old); code != 401 {
		i.t.Errorf("a revoked key: %d", code)
	}
	out.Reset()
	if code := run([]string{"key", "list", "--data-dir", i.dir}, &out, &problems); code != 0 || strings.Count(out.String(), "\n") != 2 || !strings.Contains(out.String(), strings.Split(i.key, "_")[1]) {
		i.t.Errorf("cetrus key list: %d %s%s", code, out.String(), problems.String())
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func TestAllInOne(t *testing.T) {
	dir := testDir(t)
	first := startAll(t, dir)
	if said := first.out.String(); strings.Contains(said, first.key) || !strings.Contains(said, filepath.Join(dir, "api-key")) {
		t.Errorf("the output has the key, which logs must not, or not the file that it is in: %s", said)
	}
	if code, answer := first.do("GET", "/v1/applications", "", ""); code != 401 || answer["code"] != 16.0 {
		t.Errorf("without a key: %d %v", code, answer)
	}
	if code, answer := first.do("GET", "/v1/applications", "", first.key); code != 200 || len(answer["applications"].([]any)) != 0 {
		t.Errorf("at first: %d %v", code, answer)
	}
	code, created := first.do("POST", "/v1/applications", `{"display_name":"Editor","rules":[{"executable":"xed"}]}`, first.key)
	if code != 200 || created["application_id"] == "" {
		t.Fatalf("create: %d %v", code, created)
	}
	if code, _ := first.do("GET", "/readyz", "", ""); code != 200 {
		t.Errorf("readyz: %d", code)
	}
	first.askEverything()
	if took := first.stop(); took > stopWithin {
		t.Errorf("stopping took %s", took)
	}

	began := time.Now()
	second := startAll(t, dir)
	if took := time.Since(began); took > 40*time.Second {
		t.Errorf("the warm start took %s", took)
	}
	if second.key != first.key {
		t.Error("the key was made again")
	}
	code, answer := second.do("GET", "/v1/applications", "", first.key)
	if list, _ := answer["applications"].([]any); code != 200 || len(list) != 1 || list[0].(map[string]any)["application_id"] != created["application_id"] {
		t.Errorf("after the restart: %d %v", code, answer)
	}

	for _, order := range []struct{ args, says string }{
		{"rebuild metering", "b1 answers now."},
		{"quarantine list", "REASON"},
		{"quarantine replay", "0 payloads tried"},
		{"audit verify", "is as the event log has it"},
	} {
		var out, problems bytes.Buffer
		if code := run(append(strings.Fields(order.args), "--data-dir", dir), &out, &problems); code != 0 || !strings.Contains(out.String(), order.says) {
			t.Errorf("cetrus %s: %d, %s%s", order.args, code, out.String(), problems.String())
		}
	}
	second.auditTells(created["application_id"])
	second.changeKeys()
	if code, answer := second.do("GET", "/v1/applications", "", second.key); code != 200 || len(answer["applications"].([]any)) != 1 {
		t.Errorf("after the rebuild: %d %v", code, answer)
	}

	p, err := newProcess(testSettings(t, dir), targetNamed(t, "all"), slog.New(slog.DiscardHandler), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.run(t.Context(), func() {}); !errs.Is(errs.Precondition, err) || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "cetrus all") || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("a second instance: %v", err)
	}
	if took := second.stop(); took > stopWithin {
		t.Errorf("stopping took %s", took)
	}
	var problems bytes.Buffer
	if code := run([]string{"rebuild", "metering", "--data-dir", dir}, io.Discard, &problems); code != 1 || !strings.Contains(problems.String(), "no platform runs") {
		t.Errorf("an order to nobody: %d, %s", code, problems.String())
	}
}

// The same parts, each started alone on one data directory, are the same platform;
// and the gateway outlives a restart of metering.
func TestTargetsApart(t *testing.T) {
	dir := testDir(t)
	startTarget(t, "nats", dir)
	startTarget(t, "postgres", dir)
	startTarget(t, "keyring", dir)
	held, err := ports.Hold(1)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	address := held.Addresses()[0]
	startTarget(t, "identity", dir)
	metering := startTarget(t, "metering", dir, "--grpc-listen", address)
	gateway := startTarget(t, "gateway", dir)
	if code, answer := gateway.do("GET", "/v1/applications", "", gateway.key); code != 200 {
		t.Fatalf("%d %v", code, answer)
	}
	if took := metering.stop(); took > stopWithin {
		t.Errorf("stopping took %s", took)
	}
	if code, answer := gateway.do("GET", "/v1/applications", "", gateway.key); code != 503 || answer["code"] != 14.0 {
		t.Errorf("without metering: %d %v", code, answer)
	}
	if code, _ := gateway.do("GET", "/readyz", "", ""); code != 503 {
		t.Errorf("readyz without metering: %d", code)
	}
	startTarget(t, "metering", dir, "--grpc-listen", address)
	deadline := time.Now().Add(20 * time.Second)
	for code := 0; code != 200; {
		if code, _ = gateway.do("GET", "/readyz", "", ""); time.Now().After(deadline) {
			t.Fatalf("the gateway does not find metering again: %d", code)
		}
	}

	for _, missing := range []string{"keyring", "identity", "metering", "gateway"} {
		p, err := newProcess(testSettings(t, testDir(t)), targetNamed(t, missing), slog.New(slog.DiscardHandler), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.run(t.Context(), func() { t.Error("ready") }); err == nil || !strings.Contains(err.Error(), "on the same data directory") {
			t.Errorf("%s alone: %v", missing, err)
		}
	}
	p, err := newProcess(testSettings(t, dir), targetNamed(t, "all"), slog.New(slog.DiscardHandler), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.run(t.Context(), func() { t.Error("ready") }); err == nil || !strings.Contains(err.Error(), "cetrus postgres") {
		t.Errorf("all beside its own parts: %v", err)
	}
}

func TestPortInUseIsToldBeforeAnythingStarts(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	dir := testDir(t)
	p, err := newProcess(testSettings(t, dir, "--nats-listen", lis.Addr().String(), "--rest-listen", lis.Addr().String()), targetNamed(t, "all"), slog.New(slog.DiscardHandler), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	err = p.run(t.Context(), func() { t.Error("ready") })
	for _, says := range []string{lis.Addr().String(), "--nats-listen", "CETRUS_NATS_LISTEN", "--rest-listen", "in use"} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("does not say %q: %v", says, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "nats")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was started: %v", err)
	}
}

// An address that was free at first, and is taken by the time that its part starts,
// is told in the same words.
func TestPortTakenMeanwhile(t *testing.T) {
	held, err := ports.Hold(1)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	address := held.Addresses()[0]
	thief := part{name: "thief", start: func(context.Context, *process) (runner, error) {
		lis, err := net.Listen("tcp", address)
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) error { <-ctx.Done(); return lis.Close() }, nil
	}}
	for _, late := range []struct {
		setting string
		part    part
	}{{"nats-listen", natsPart}, {"grpc-listen", grpcPart}} {
		p, err := newProcess(testSettings(t, testDir(t), "--"+late.setting, address), target{name: "test", parts: []part{thief, late.part}}, slog.New(slog.DiscardHandler), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.run(t.Context(), func() { t.Error("ready") }); err == nil || !strings.Contains(err.Error(), address) || !strings.Contains(err.Error(), "is in use by another program") || !strings.Contains(err.Error(), "--"+late.setting) {
			t.Errorf("%s: %v", late.setting, err)
		}
	}
}

func TestStopWhileStarting(t *testing.T) {
	p, err := newProcess(testSettings(t, testDir(t)), targetNamed(t, "all"), slog.New(slog.DiscardHandler), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	_ = p.run(ctx, func() {}) // may have become ready, or not
	if took := time.Since(began); took > 200*time.Millisecond+stopWithin {
		t.Errorf("took %s", took)
	}
}

func TestPartThatFailsStopsTheOthersLastFirst(t *testing.T) {
	var stopped []string
	beside := func(name string) part {
		return part{name: name, start: func(context.Context, *process) (runner, error) {
			return func(ctx context.Context) error { <-ctx.Done(); stopped = append(stopped, name); return nil }, nil
		}}
	}
	broken := part{name: "broken", start: func(context.Context, *process) (runner, error) {
		return func(context.Context) error { return errors.New("out of luck") }, nil
	}}
	p, err := newProcess(testSettings(t, testDir(t)), target{name: "test", parts: []part{beside("a"), beside("b"), broken, beside("c")}}, slog.New(slog.DiscardHandler), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	err = p.run(t.Context(), func() {})
	if err == nil || !strings.Contains(err.Error(), "broken: out of luck") || strings.Join(stopped, " ") != "c b a" {
		t.Errorf("got %v; stopped %v", err, stopped)
	}
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--help"}, 0, "metering"},
		{[]string{"all", "--rest-listen", "nowhere"}, 1, "CETRUS_REST_LISTEN"},
		{[]string{"all", "--log-level", "loud"}, 1, "debug, info, warn, error"},
		{[]string{"rebuild", "nope", "--data-dir", "/nowhere"}, 1, `cetrus rebuild does not know "nope"; it knows: metering`},
		{[]string{"rebuild"}, 0, "cetrus rebuild [command]"},
		{[]string{"key", "new", "--data-dir", "/nowhere"}, 1, "cetrus: data directory /nowhere: "},
		{[]string{"key", "new", "--data-dir", "/nowhere"}, 1, "has no account yet"},
		{[]string{"al"}, 1, `unknown command "al"`},
		{[]string{"all", "--rest-lisen", "x"}, 1, "rest-lisen"},
		{[]string{"all", "--smtp-url", "mail.example.com", "--mail-from", "cetrus@example.com"}, 1, "smtps://"},
		{[]string{"all", "--smtp-url", "smtp://mail.example.com"}, 1, "CETRUS_MAIL_FROM"},
		{[]string{"all", "--public-url", "cetrus.example.com"}, 1, "CETRUS_PUBLIC_URL"},
		{[]string{"manager", "add", "--manager-id", "7", "--data-dir", "/nowhere"}, 1, "manager-id"},
	} {
		var out, errOut bytes.Buffer
		if code := run(c.args, &out, &errOut); code != c.code || !strings.Contains(out.String()+errOut.String(), c.says) || strings.Contains(errOut.String(), "cetrus: cetrus:") {
			t.Errorf("%v: %d %s%s", c.args, code, out.String(), errOut.String())
		}
	}
}

// order gives an order on the command line and returns what it prints.
func (i *instance) order(args ...string) string {
	i.t.Helper()
	var out, problems bytes.Buffer
	if code := run(append(args, "--data-dir", i.dir), &out, &problems); code != 0 {
		i.t.Fatalf("cetrus %s: %d %s%s", strings.Join(args, " "), code, out.String(), problems.String())
	}
	return out.String()
}

// eventually asks until the answer is the status that is wanted.
func (i *instance) eventually(want int, method, path, body, key string) map[string]any {
	i.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		code, answer := i.do(method, path, body, key)
		if code == want {
			return answer
		}
		if time.Now().After(deadline) {
			i.t.Fatalf("%s %s: %d %v, want %d", method, path, code, answer, want)
		}
	}
}

// signIn is told that a one-time password is right, and has to be changed.
func (i *instance) signIn(account, login, password string) {
	i.t.Helper()
	body, err := json.Marshal(map[string]string{"account_name": account, "login_name": login, "password": password})
	if err != nil {
		i.t.Fatal(err)
	}
	code, answer := i.do("POST", "/v1/sessions:signIn", string(body), "")
	if code != 200 || answer["outcome"] != "SIGN_IN_OUTCOME_NEW_PASSWORD_NEEDED" {
		i.t.Errorf("signing in as %s of %s: %d %v", login, account, code, answer)
	}
}

// A second account is made by order, gets a key, meters an application of its own, and neither account sees
// anything of the other.
func TestTwoAccountsLiveApart(t *testing.T) {
	i := startAll(t, testDir(t))
	if said := i.order("admin", "create-account", "Acme Ltd", "--administrator", "boss", "--mail-address", "boss@example.org"); !strings.Contains(said, "Account Acme Ltd: ") || !strings.Contains(said, "One-time password") {
		t.Errorf("create-account says %s", said)
	}
	i.order("admin", "create-login", "clerk", "--account", "acme ltd", "--privileges", "report,purchasing")
	theirs := strings.TrimSpace(i.order("admin", "create-key", "boss", "--account", "ACME LTD"))
	clerk := strings.TrimSpace(i.order("admin", "create-key", "clerk", "--account", "Acme Ltd", "--privileges", "report"))
	if said := i.order("admin", "accounts"); !strings.Contains(said, "Acme Ltd") || !strings.Contains(said, "operator") {
		t.Errorf("accounts says %s", said)
	}
	if said := i.order("admin", "logins", "--account", "Acme Ltd"); !strings.Contains(said, "boss") || !strings.Contains(said, "report,purchasing") {
		t.Errorf("logins says %s", said)
	}

	const application = `{"display_name":"Editor","rules":[{"executable":"xed"}]}`
	mine := i.eventually(200, "POST", "/v1/applications", application, i.key)
	other := i.eventually(200, "POST", "/v1/applications", application, theirs)
	for key, own := range map[string]map[string]any{i.key: mine, theirs: other, clerk: other} {
		answer := i.eventually(200, "GET", "/v1/applications", "", key)
		if list := answer["applications"].([]any); len(list) != 1 || list[0].(map[string]any)["application_id"] != own["application_id"] {
			t.Errorf("an account sees %v", list)
		}
	}
	i.eventually(404, "GET", "/v1/applications/"+other["application_id"].(string), "", i.key)
	i.eventually(404, "GET", "/v1/applications/"+mine["application_id"].(string), "", theirs)
	i.eventually(403, "POST", "/v1/applications", application, clerk)
	// All accounts are the operator's business alone.
	if answer := i.eventually(200, "GET", "/v1/accounts", "", i.key); len(answer["accounts"].([]any)) != 2 {
		t.Errorf("the operator sees %v", answer)
	}
	i.eventually(403, "GET", "/v1/accounts", "", theirs)
	account := i.eventually(200, "GET", "/v1/account", "", theirs)
	if account["name"] != "Acme Ltd" {
		t.Errorf("their account is %v", account)
	}
	var accounts []contract.ID
	for _, answer := range []map[string]any{account, i.eventually(200, "GET", "/v1/account", "", i.key)} {
		id, err := contract.ParseID(answer["account_id"].(string))
		if err != nil {
			t.Fatal(err)
		}
		accounts = append(accounts, id)
	}
	i.walled(t, accounts...)
	if answer := i.eventually(200, "GET", "/v1/myLogin", "", clerk); answer["name"] != "clerk" {
		t.Errorf("the clerk's login is %v", answer)
	}
	if said := i.order("admin", "reset-password", "clerk", "--account", "Acme Ltd"); !strings.Contains(said, "One-time password") {
		t.Errorf("reset-password says %s", said)
	}
	i.signIn("Acme Ltd", "clerk", strings.TrimSpace(i.order("admin", "reset-password", "clerk", "--account", "Acme Ltd")[len("One-time password, to be changed at the first sign-in: "):]))
	i.leaves("Acme Ltd", theirs)
	i.order("admin", "end-sessions", "clerk", "--account", "Acme Ltd")
	i.order("admin", "disable-login", "clerk", "--account", "Acme Ltd")
	i.eventually(401, "GET", "/v1/applications", "", clerk)
	i.eventually(200, "GET", "/v1/applications", "", theirs)

	for args, says := range map[string]string{
		"logins":                                       "account",
		"logins --account Nobody":                      `no account "Nobody"`,
		"disable-login boss --account Acme":            `no account "Acme"`,
		"create-key x --account operator":              `no login "x"`,
		"create-login y --account x --privileges king": "account-administrator",
		"create-account operator":                      "belongs to another",
		"reset-password admin --account elsewhere":     `no account "elsewhere"`,
	} {
		var problems bytes.Buffer
		if code := run(append(append([]string{"admin"}, strings.Fields(args)...), "--data-dir", i.dir), io.Discard, &problems); code != 1 || !strings.Contains(problems.String(), says) {
			t.Errorf("cetrus admin %s: %d %s", args, code, problems.String())
		}
	}
}
