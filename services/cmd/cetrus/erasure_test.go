package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/credential"
	"github.com/cetrus/cetrus/services/platform/mail/inbox"
	"github.com/cetrus/cetrus/services/platform/natsserver"
)

// leaver is a person who will be forgotten, and what must not be found of her afterwards.
type leaver struct {
	*instance
	box       *inbox.Inbox
	addresses addresses
	login     string
	access    string
}

const (
	leaversWord    = "Unverwechselbar" // is in her name, mail address, reasons and what her programs call themselves
	leaversAddress = "203.0.113.77"
	leaversAgent   = "Mozilla/5.0 UnverwechselbarBrowser/1.0"
)

// traces are the byte strings to look for, in the forms in which text stands in tables and files.
func traces() (all [][]byte) {
	for _, text := range []string{leaversWord, strings.ToLower(leaversWord), leaversAddress} {
		all = append(all, []byte(text), []byte(hex.EncodeToString([]byte(text))))
		for shift := range 3 { // base64 writes three bytes at a time, from wherever the text begins
			encoded := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), text...))
			all = append(all, []byte(encoded[[]int{0, 2, 3}[shift]:len(encoded)-2]))
		}
	}
	return all
}

func has(b []byte) bool {
	return slices.ContainsFunc(traces(), func(trace []byte) bool { return bytes.Contains(b, trace) })
}

func newLeaver(t *testing.T) *leaver {
	t.Helper()
	box, err := inbox.New(t.Context(), inbox.Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- box.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	l := &leaver{box: box}
	l.instance = startAll(t, testDir(t), "--smtp-url", box.SMTPURL(), "--mail-from", "Cetrus <cetrus@example.com>")
	if l.addresses, err = addressesOf(l.dir, "all"); err != nil {
		t.Fatal(err)
	}
	return l
}

// say is a call that comes from her address, with her program; key is whose it is.
func (l *leaver) say(method, path, key string, body any) (int, []byte) {
	l.t.Helper()
	var raw []byte
	if body != nil {
		var err error
		if raw, err = json.Marshal(body); err != nil {
			l.t.Fatal(err)
		}
	}
	req, err := http.NewRequestWithContext(l.t.Context(), method, l.rest+path, bytes.NewReader(raw))
	if err != nil {
		l.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	if key == "" {
		req.Header.Del("Authorization")
	}
	if key != l.key {
		req.Header.Set("X-Forwarded-For", leaversAddress)
		req.Header.Set("User-Agent", leaversAgent)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return resp.StatusCode, answer
}

func (l *leaver) must(method, path, key string, body any) map[string]any {
	l.t.Helper()
	code, raw := l.say(method, path, key, body)
	var answer map[string]any
	if err := json.Unmarshal(raw, &answer); err != nil || code != 200 {
		l.t.Fatalf("%s %s: %d %s", method, path, code, raw)
	}
	return answer
}

// lives does all by which something of her comes to be kept.
func (l *leaver) lives() {
	l.t.Helper()
	type body map[string]any
	made := l.must("POST", "/v1/logins", l.key, body{
		"name": "grete.unverwechselbar", "display_name": "Grete " + leaversWord, "mail_address": "grete.unverwechselbar@example.org",
		"privileges": []string{"PRIVILEGE_REPORT", "PRIVILEGE_APPLICATION_USER"},
	})
	l.login = made["login_id"].(string)
	ctx, cancel := context.WithTimeout(l.t.Context(), 2*time.Minute)
	defer cancel()
	invitation, err := l.box.Wait(ctx, func(m inbox.Mail) bool { return strings.Contains(m.Text, "grete.unverwechselbar") })
	if err != nil {
		l.t.Fatal(err)
	}
	link := regexp.MustCompile(`[A-Za-z0-9_-]{80,}`).FindString(invitation.Text)
	const password = "correct horse battery staple"
	l.must("POST", "/v1/passwords:completeReset", "", body{"token": link, "new_password": password})
	signIn := func(more body) map[string]any {
		l.t.Helper()
		proof := body{"account_name": "operator", "login_name": "grete.unverwechselbar", "password": password}
		for k, v := range more {
			proof[k] = v
		}
		return l.must("POST", "/v1/sessions:signIn", "", proof)
	}
	tokens, _ := signIn(nil)["tokens"].(map[string]any)
	l.access, _ = tokens["access_token"].(string)
	if code, _ := l.say("POST", "/v1/sessions:signIn", "", body{"account_name": "operator", "login_name": "grete.unverwechselbar", "password": "wrong"}); code != 401 {
		l.t.Fatalf("a wrong password: %d", code)
	}
	enrolment := l.must("POST", "/v1/secondFactor:enrolTotp", l.access, body{"password": password})
	uri, err := url.Parse(fmt.Sprint(enrolment["uri"]))
	if err != nil {
		l.t.Fatal(err)
	}
	secret, err := credential.ParseTOTPSecret(uri.Query().Get("secret"))
	if err != nil {
		l.t.Fatalf("%v: %v", enrolment, err)
	}
	code, err := credential.TOTPCode(secret, time.Now())
	if err != nil {
		l.t.Fatal(err)
	}
	l.must("POST", "/v1/secondFactor:confirmTotp", l.access, body{"code": code})
	l.must("POST", "/v1/apiKeys", l.access, body{"display_name": leaversWord + " export"})
	if code, _ := l.say("POST", "/v1/passwords:requestReset", "", body{"account_name": "operator", "login_name": "grete.unverwechselbar"}); code != 200 {
		l.t.Fatalf("asking for a link: %d", code)
	}
	if _, err := l.box.Wait(ctx, func(m inbox.Mail) bool {
		return strings.Contains(m.Subject, "password") && m.Number > invitation.Number
	}); err != nil {
		l.t.Fatal(err)
	}
	l.must("GET", "/v1/usage:summarize?group_by=GROUP_BY_PRINCIPAL&start_time=2026-01-01T00:00:00Z&end_time=2026-01-02T00:00:00Z&reason=asked+by+"+leaversWord, l.access, nil)
	saved := l.must("POST", "/v1/savedReports", l.access, body{
		"display_name": leaversWord + "'s week", "shared": true, "period": body{"kind": "KIND_LAST_WEEK"},
		"report":   body{"usage": body{"group_by": []string{"GROUP_BY_PRINCIPAL"}, "reason": "saved by " + leaversWord}},
		"schedule": body{"recurrence": "RECURRENCE_DAILY", "time_of_day": "07:00", "delivery": body{"recipient_login_ids": []string{l.login}}},
	})
	l.must("POST", "/v1/savedReports/"+fmt.Sprint(saved["saved_report_id"])+":send", l.access, body{})
	l.must("POST", "/v1/reportFiles", l.access, body{"report": body{"usage": body{
		"group_by": []string{"GROUP_BY_PRINCIPAL"}, "start_time": "2026-01-01T00:00:00Z", "end_time": "2026-01-02T00:00:00Z", "reason": "kept by " + leaversWord,
	}}})
	report, err := l.box.Wait(ctx, func(m inbox.Mail) bool { return strings.HasPrefix(m.Subject, "Report: ") })
	if err != nil || !strings.Contains(report.Subject, leaversWord) {
		l.t.Fatalf("the report's mail: %q, %v", report.Subject, err)
	}
}

// told is whatever an administrator can ask that may tell of her.
func (l *leaver) told() map[string][]byte {
	l.t.Helper()
	all := map[string][]byte{}
	for _, path := range []string{
		"/v1/logins?page_size=1000", "/v1/logins/" + l.login, "/v1/sessions?login_id=" + l.login, "/v1/apiKeys?page_size=1000", "/v1/auditEntries?page_size=1000",
		"/v1/auditEntries:export?format=AUDIT_FORMAT_CSV", "/v1/auditEntries:export?format=AUDIT_FORMAT_JSON", "/v1/principals", "/v1/corrections", "/v1/savedReports",
		"/v1/usage:summarize?group_by=GROUP_BY_PRINCIPAL&start_time=2026-01-01T00:00:00Z&end_time=2026-01-02T00:00:00Z&reason=audit",
	} {
		_, all["GET "+path] = l.say("GET", path, l.key, nil)
	}
	return all
}

// kept is all that lies in any table of any schema, and in any stream.
func (l *leaver) kept() map[string][]byte {
	l.t.Helper()
	ctx := l.t.Context()
	all := map[string][]byte{}
	admin, err := pgx.Connect(ctx, l.addresses.PostgresURL)
	if err != nil {
		l.t.Fatal(err)
	}
	defer func() { _ = admin.Close(context.WithoutCancel(ctx)) }()
	rows, err := admin.Query(ctx, "SELECT format('%I.%I', table_schema, table_name) FROM information_schema.tables WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')")
	if err != nil {
		l.t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		l.t.Fatal(err)
	}
	for _, table := range tables {
		var text string
		if err := admin.QueryRow(ctx, "SELECT coalesce(string_agg(t::text, E'\n'), '') FROM "+table+" AS t").Scan(&text); err != nil {
			l.t.Fatal(err)
		}
		all["table "+table] = []byte(text)
	}
	nc, err := nats.Connect(l.addresses.NATSURLs[natsserver.Metering])
	if err != nil {
		l.t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, name := range []string{contract.AgentStream, contract.EventStream, contract.PolicyStream, contract.PoisonStream} {
		stream, err := js.Stream(ctx, name)
		if err != nil {
			l.t.Fatal(err)
		}
		state := stream.CachedInfo().State
		var text bytes.Buffer
		for seq := state.FirstSeq; seq <= state.LastSeq; seq++ {
			m, err := stream.GetMsg(ctx, seq)
			if err != nil {
				continue // a stream may have holes
			}
			fmt.Fprintf(&text, "%s %v ", m.Subject, m.Header)
			text.Write(m.Data)
		}
		all["stream "+name] = text.Bytes()
	}
	if len(all["stream EVENTS"]) == 0 {
		l.t.Fatal("EVENTS holds nothing")
	}
	return all
}

// files are those of the data directory, but for PostgreSQL's own: what was deleted lies in
// their old space until it is used again, as docs/privacy says.
func (l *leaver) files() map[string][]byte {
	l.t.Helper()
	all := map[string][]byte{}
	err := filepath.WalkDir(l.dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil //nolint:nilerr // NATS removes files while this looks
		case d.IsDir() && d.Name() == "postgres":
			return fs.SkipDir
		case !d.Type().IsRegular():
			return nil
		}
		if content, err := os.ReadFile(path); err == nil {
			all["file "+path] = content
		}
		return nil
	})
	if err != nil || len(all) < 5 {
		l.t.Fatalf("%d files, %v", len(all), err)
	}
	return all
}

func tracesIn(all map[string][]byte) (where []string) {
	for name, content := range all {
		if has(content) {
			where = append(where, name)
		}
	}
	slices.Sort(where)
	return where
}

// verified sees to it that the audit log is as the event log has it.
func (l *leaver) verified() {
	l.t.Helper()
	var out, problems bytes.Buffer
	if code := run([]string{"audit", "verify", "--data-dir", l.dir}, &out, &problems); code != 0 || !strings.Contains(out.String(), "is as the event log has it") {
		l.t.Errorf("cetrus audit verify: %d, %s%s", code, out.String(), problems.String())
	}
}

// After a login was deleted, no byte string of its person's name, mail address, or the address that they
// came from is found in any table of any schema, any stream, any answer or export, or the files
// beside PostgreSQL's; and the audit log is as whole as before.
func TestErasureOfALogin(t *testing.T) {
	l := newLeaver(t)
	l.lives()
	// What proves nothing where it finds nothing now.
	eventually(t, "the audit log does not tell why she looked, and from where", func() string {
		_, entries := l.say("GET", "/v1/auditEntries?page_size=1000", l.key, nil)
		if bytes.Contains(entries, []byte("asked by "+leaversWord)) && bytes.Contains(entries, []byte(leaversAddress)) {
			return ""
		}
		return string(entries)
	})
	if where := tracesIn(l.told()); len(where) < 7 {
		t.Errorf("before, she is told of in %v alone", where)
	}
	if where := tracesIn(l.kept()); !slices.ContainsFunc(where, func(name string) bool { return strings.HasSuffix(name, ".session") }) {
		t.Errorf("before, she is in %v alone", where)
	}
	l.verified()

	if code, answer := l.say("DELETE", "/v1/logins/"+l.login, l.key, nil); code != 200 {
		t.Fatalf("deleting: %d %s", code, answer)
	}
	eventually(t, "she is not forgotten", func() string {
		where := append(tracesIn(l.told()), tracesIn(l.kept())...)
		if where = append(where, tracesIn(l.files())...); len(where) == 0 {
			return ""
		}
		return "she is in " + strings.Join(where, ", ")
	})
	if code, _ := l.say("GET", "/v1/myLogin", l.access, nil); code != 401 {
		t.Errorf("her session: %d", code)
	}
	// What she did is there as before, by her id.
	_, entries := l.say("GET", "/v1/auditEntries?page_size=1000&actor=login:"+l.login, l.key, nil)
	for _, what := range []string{"cetrus.metering.view.named_use.v1", "cetrus.identity.credential.second_factor_added.v1"} {
		if !bytes.Contains(entries, []byte(what)) {
			t.Errorf("the audit log does not tell of %s any more", what)
		}
	}
	eventually(t, "the audit log does not tell that her session ended", func() string {
		_, entries := l.say("GET", "/v1/auditEntries?page_size=1000&type_prefix=cetrus.identity.session.ended", l.key, nil)
		if bytes.Contains(entries, []byte(l.login)) {
			return ""
		}
		return string(entries)
	})
	l.verified()
}

// eventually asks until nothing is wrong any more.
func eventually(t *testing.T, what string, wrong func() string) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; <-time.After(50 * time.Millisecond) {
		said := wrong()
		if said == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %s", what, said)
		}
	}
}
