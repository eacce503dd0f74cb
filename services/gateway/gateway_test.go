package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/gateway"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/rpc"
)

const someID = "0198f2aa-0000-4000-8000-000000000001"

// backend is a metering service that answers a few methods; the others say that
// they are not implemented, which proves that they were reached.
type backend struct {
	meteringv1.UnimplementedApplicationServiceServer
	meteringv1.UnimplementedSettingsServiceServer
	meteringv1.UnimplementedExpenseToProjectServiceServer
	meteringv1.UnimplementedUsageServiceServer
	meteringv1.UnimplementedReportServiceServer
	meteringv1.UnimplementedExportServiceServer
	meteringv1.UnimplementedSavedReportServiceServer
	meteringv1.UnimplementedReportFileServiceServer
	meteringv1.UnimplementedAgentServiceServer
	meteringv1.UnimplementedPrincipalServiceServer
	identityv1.UnimplementedAccountServiceServer
	identityv1.UnimplementedLoginServiceServer
	identityv1.UnimplementedGroupServiceServer
	identityv1.UnimplementedApiKeyServiceServer
	identityv1.UnimplementedManagerServiceServer
	identityv1.UnimplementedEnrollmentTokenServiceServer
	identityv1.UnimplementedAgentAdmissionServiceServer
	identityv1.UnimplementedSignInServiceServer
	identityv1.UnimplementedLinkServiceServer
	identityv1.UnimplementedAuditServiceServer
	identityv1.UnimplementedPasskeyServiceServer
	identityv1.UnimplementedSingleSignOnServiceServer
	identityv1.UnimplementedProvisioningServiceServer
	live chan *meteringv1.StreamLiveUsageResponse
	// origins, where it is set, takes from where calls come.
	origins chan authn.Origin
	// liveErr ends the stream at once, where set.
	liveErr error
}

func (b *backend) Register(r grpc.ServiceRegistrar) {
	meteringv1.RegisterApplicationServiceServer(r, b)
	meteringv1.RegisterSettingsServiceServer(r, b)
	meteringv1.RegisterExpenseToProjectServiceServer(r, b)
	meteringv1.RegisterUsageServiceServer(r, b)
	meteringv1.RegisterReportServiceServer(r, b)
	meteringv1.RegisterExportServiceServer(r, b)
	meteringv1.RegisterSavedReportServiceServer(r, b)
	meteringv1.RegisterReportFileServiceServer(r, b)
	meteringv1.RegisterAgentServiceServer(r, b)
	meteringv1.RegisterPrincipalServiceServer(r, b)
	identityv1.RegisterAccountServiceServer(r, b)
	identityv1.RegisterLoginServiceServer(r, b)
	identityv1.RegisterGroupServiceServer(r, b)
	identityv1.RegisterApiKeyServiceServer(r, b)
	identityv1.RegisterManagerServiceServer(r, b)
	identityv1.RegisterEnrollmentTokenServiceServer(r, b)
	identityv1.RegisterAgentAdmissionServiceServer(r, b)
	identityv1.RegisterSignInServiceServer(r, b)
	identityv1.RegisterLinkServiceServer(r, b)
	identityv1.RegisterAuditServiceServer(r, b)
	identityv1.RegisterPasskeyServiceServer(r, b)
	identityv1.RegisterSingleSignOnServiceServer(r, b)
	identityv1.RegisterProvisioningServiceServer(r, b)
}

func (b *backend) GetApplication(ctx context.Context, req *meteringv1.GetApplicationRequest) (*meteringv1.GetApplicationResponse, error) {
	b.tellOrigin(ctx)
	if req.GetApplicationId() != someID {
		return nil, errs.New(errs.NotFound, "test", "application "+req.GetApplicationId(), "is not there")
	}
	return &meteringv1.GetApplicationResponse{Application: &meteringv1.Application{
		ApplicationId: someID, DisplayName: "Editor", Timeout: durationpb.New(90 * time.Second),
		CreateTime: timestamppb.New(time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)),
	}}, nil
}

func (b *backend) SummarizeUsage(ctx context.Context, req *meteringv1.SummarizeUsageRequest) (*meteringv1.SummarizeUsageResponse, error) {
	return &meteringv1.SummarizeUsageResponse{TimeZone: req.GetTimeZone(), Counting: req.GetCounting(), Groups: make([]*meteringv1.UsageGroup, len(req.GetGroupBy()))}, nil
}

func (b *backend) CreateApplication(ctx context.Context, req *meteringv1.CreateApplicationRequest) (*meteringv1.CreateApplicationResponse, error) {
	return &meteringv1.CreateApplicationResponse{Application: req.GetApplication()}, nil
}

func (b *backend) StreamLiveUsage(req *meteringv1.StreamLiveUsageRequest, s grpc.ServerStreamingServer[meteringv1.StreamLiveUsageResponse]) error {
	b.tellOrigin(s.Context())
	if b.liveErr != nil {
		return b.liveErr
	}
	for {
		select {
		case m, ok := <-b.live:
			if !ok {
				return errs.New(errs.Unavailable, "test", "", "gone")
			}
			if err := s.Send(m); err != nil {
				return err
			}
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

type fixture struct {
	t       testing.TB
	url     string
	key     string
	backend *backend
	stop    func() error
}

func start(t testing.TB, change ...func(*gateway.Config, *gateway.Deps)) *fixture {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	keys, key, err := authn.Bootstrap(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{live: make(chan *meteringv1.StreamLiveUsageResponse, 10)}
	srv, err := rpc.New(rpc.Config{StopTimeout: time.Second}, rpc.Deps{Authenticator: keys, Logger: log, Services: []rpc.Service{b}})
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	cfg := gateway.Config{Listen: "127.0.0.1:0", MaxBodyBytes: 4096, Heartbeat: time.Minute, StopTimeout: time.Second}
	deps := gateway.Deps{Metering: conn, Identity: conn, Authenticator: keys, Logger: log}
	for _, c := range change {
		c(&cfg, &deps)
	}
	gw, err := gateway.New(t.Context(), cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	rpcDone, gwDone := make(chan error, 1), make(chan error, 1)
	go func() { rpcDone <- srv.Serve(ctx, lis) }()
	gwCtx, gwCancel := context.WithCancel(ctx)
	go func() { gwDone <- gw.Run(gwCtx) }()
	stopGateway := func() error { gwCancel(); err := <-gwDone; gwDone <- err; return err }
	t.Cleanup(func() {
		if err := stopGateway(); err != nil {
			t.Error(err)
		}
		_ = conn.Close()
		cancel()
		if err := <-rpcDone; err != nil {
			t.Error(err)
		}
	})
	return &fixture{t: t, url: "http://" + gw.Addr().String(), key: key, backend: b, stop: stopGateway}
}

type reply struct {
	code   int
	header http.Header
	text   string
	json   map[string]any
}

func (f *fixture) do(method, path, body string, header ...string) reply {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.t.Context(), method, f.url+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+f.key)
	for i := 0; i+1 < len(header); i += 2 {
		if header[i+1] == "" {
			req.Header.Del(header[i])
		} else {
			req.Header.Set(header[i], header[i+1])
		}
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	r := reply{code: resp.StatusCode, header: resp.Header, text: string(text)}
	_ = json.Unmarshal(text, &r.json)
	return r
}

// wantStatus checks that an answer is an error in the one shape of all errors.
func (r reply) wantStatus(t *testing.T, httpCode int, code float64, reason string, says ...string) {
	t.Helper()
	if r.code != httpCode || r.json["code"] != code || r.header.Get("Content-Type") != "application/json" {
		t.Errorf("got HTTP %d, code %v (%s), want %d and %v: %s", r.code, r.json["code"], r.header.Get("Content-Type"), httpCode, code, r.text)
	}
	var found bool
	details, _ := r.json["details"].([]any)
	for _, d := range details {
		m, _ := d.(map[string]any)
		if m["@type"] == "type.googleapis.com/google.rpc.ErrorInfo" {
			found = true
			if m["reason"] != reason || m["domain"] != "cetrus" {
				t.Errorf("got reason %v, want %s: %s", m["reason"], reason, r.text)
			}
		}
	}
	if !found {
		t.Errorf("no ErrorInfo: %s", r.text)
	}
	for _, s := range says {
		if !strings.Contains(r.text, s) {
			t.Errorf("does not say %q: %s", s, r.text)
		}
	}
}

// document reads the OpenAPI document as a client does.
func (f *fixture) document() map[string]any {
	f.t.Helper()
	r := f.do("GET", "/openapi.json", "", "Authorization", "")
	if r.code != 200 || r.json == nil {
		f.t.Fatalf("openapi.json: %d", r.code)
	}
	return r.json
}

// everyOperation calls visit with each operation of the document, its parameters
// filled with values that are valid.
func (f *fixture) everyOperation(visit func(id, method, path, body string)) {
	for path, item := range f.document()["paths"].(map[string]any) {
		for verb, o := range item.(map[string]any) {
			op := o.(map[string]any)
			url, body := path, ""
			var query []string
			params, _ := op["parameters"].([]any)
			for _, p := range params {
				param := p.(map[string]any)
				name := param["name"].(string)
				switch {
				case param["in"] == "path":
					url = strings.ReplaceAll(url, "{"+name+"}", someID)
				case param["required"] == true && strings.HasSuffix(name, "_month"):
					query = append(query, name+"=2026-01")
				case param["required"] == true:
					query = append(query, name+"=2026-01-31T12:00:00Z")
				}
			}
			if op["operationId"] == "ExportService_ExportReport" {
				query = append(query, "report.instances.open_only=true") // one of its questions is required
			}
			if op["requestBody"] != nil {
				body = sampleBody(f.t, op["operationId"].(string), path)
				if strings.Contains(url, "pplications") {
					body = `{"display_name":"X","rules":[{"executable":"x"}]}`
				}
				if op["operationId"] == "ReportFileService_CreateReportFile" {
					body = `{"report":{"instances":{"open_only":true}}}`
				}
				if strings.HasSuffix(url, ":testRules") {
					body = `{"rules":[{"executable":"x"}]}`
				}
			}
			if query != nil {
				url += "?" + strings.Join(query, "&")
			}
			visit(op["operationId"].(string), strings.ToUpper(verb), url, body)
		}
	}
}

// sampleBody is the least body that the contract allows for an operation.
func sampleBody(t testing.TB, id, path string) string {
	t.Helper()
	service, method, _ := strings.Cut(id, "_")
	for _, context := range []string{"metering", "identity"} {
		found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName("cetrus." + context + ".v1." + service))
		if err != nil {
			continue
		}
		m := found.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(method))
		message := m.Input()
		if body := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule).GetBody(); body != "*" {
			message = message.Fields().ByName(protoreflect.Name(body)).Message()
		}
		text, err := json.Marshal(sampleOf(message, path))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	t.Fatalf("no service of %s", id)
	return ""
}

func sampleOf(m protoreflect.MessageDescriptor, path string) map[string]any {
	sample := map[string]any{}
	for i := range m.Fields().Len() {
		field := m.Fields().Get(i)
		behavior, _ := proto.GetExtension(field.Options(), annotations.E_FieldBehavior).([]annotations.FieldBehavior)
		if !slices.Contains(behavior, annotations.FieldBehavior_REQUIRED) || strings.Contains(path, "{"+string(field.Name())+"}") {
			continue
		}
		var value any
		switch rules, _ := proto.GetExtension(field.Options(), validate.E_Field).(*validate.FieldRules); {
		case field.Kind() == protoreflect.MessageKind:
			value = sampleOf(field.Message(), path)
		case rules.GetString().GetUuid():
			value = someID
		default:
			value = strings.Repeat("x", max(1, int(rules.GetString().GetMinLen())))
		}
		if field.IsList() {
			value = []any{value}
		}
		sample[string(field.Name())] = value
	}
	return sample
}

// openTo are the operations of which the document says that they are open to somebody.
func (f *fixture) openTo(whom ...string) map[string]bool {
	all := map[string]bool{}
	for _, item := range f.document()["paths"].(map[string]any) {
		for _, o := range item.(map[string]any) {
			_, says, _ := strings.Cut(o.(map[string]any)["description"].(string), "Who may call it: ")
			if slices.ContainsFunc(whom, func(w string) bool { return strings.Contains(says, w) }) {
				all[o.(map[string]any)["operationId"].(string)] = true
			}
		}
	}
	return all
}

func TestEveryMethodOfTheDocumentIsReached(t *testing.T) {
	f := start(t)
	close(f.backend.live)
	count := 0
	f.everyOperation(func(id, method, path, body string) {
		count++
		r := f.do(method, path, body)
		_, name, _ := strings.Cut(id, "_")
		switch {
		case r.code == http.StatusOK:
		case id == "UsageService_StreamLiveUsage":
			r.wantStatus(t, 503, 14, "UNAVAILABLE", "gone")
		default:
			r.wantStatus(t, 501, 12, "UNIMPLEMENTED", "method "+name+" not implemented")
		}
	})
	if count < 15 {
		t.Errorf("only %d operations in the document", count)
	}
}

func TestNothingOfTheAPIAnswersWithoutAKey(t *testing.T) {
	f := start(t)
	keyless := f.openTo("whoever asks")
	f.everyOperation(func(id, method, path, body string) {
		r := f.do(method, path, body, "Authorization", "")
		if keyless[id] {
			r.wantStatus(t, 501, 12, "UNIMPLEMENTED")
			return
		}
		r.wantStatus(t, 401, 16, "API_KEY_MISSING", "Authorization: Bearer cetrus_")
		if r.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: no WWW-Authenticate", id)
		}
		f.do(method, path, body, "Authorization", "Bearer cetrus_00000000_"+strings.Repeat("a", 52)).wantStatus(t, 401, 16, "API_KEY_INVALID")
	})
	f.do("GET", "/v1/applications", "", "Authorization", "Basic Zm9vOmJhcg==").wantStatus(t, 401, 16, "API_KEY_MISSING")
	f.do("GET", "/v1/nowhere", "", "Authorization", "").wantStatus(t, 401, 16, "API_KEY_MISSING")
	f.do("GET", "/v1/applications", "", "X-API-Key", "cetrus_other").wantStatus(t, 401, 16, "API_KEY_INVALID", "two different")
	if r := f.do("GET", "/v1/applications/"+someID, "", "Authorization", "", "X-API-Key", f.key); r.code != 200 {
		t.Errorf("X-API-Key: %d %s", r.code, r.text)
	}
}

// A page of another site speaks for nobody: what a browser sends by itself is no credential, no
// answer lets another site read it, and none leaves a cookie behind that a page could have planted.
func TestAnotherSitesPageSpeaksForNobody(t *testing.T) {
	f := start(t)
	keyless := f.openTo("whoever asks")
	var cookies []string
	for _, name := range []string{"Authorization", "X-API-Key", "api_key", "access_token", "session", "cetrus-access", "cetrus-refresh", "__Host-cetrus-access", "__Host-cetrus-refresh"} {
		cookies = append(cookies, name+"="+f.key)
	}
	f.everyOperation(func(id, method, path, body string) {
		query := "?"
		if strings.Contains(path, "?") {
			query = "&"
		}
		for _, asked := range []string{path, path + query + "access_token=" + f.key, path + query + "key=" + f.key} {
			r := f.do(method, asked, body, "Authorization", "", "Cookie", strings.Join(cookies, "; "), "Origin", "https://evil.example", "Content-Type", "text/plain", "Sec-Fetch-Site", "cross-site")
			if !keyless[id] && r.code != http.StatusUnauthorized {
				t.Errorf("%s %s without a header: %d %s", method, asked, r.code, r.text)
			}
			preflight := f.do(http.MethodOptions, asked, "", "Authorization", "", "Origin", "https://evil.example", "Access-Control-Request-Method", method, "Access-Control-Request-Headers", "authorization")
			for name := range r.header {
				if strings.HasPrefix(name, "Access-Control-") || name == "Set-Cookie" {
					t.Errorf("%s %s answers with %s: %q", method, asked, name, r.header[name])
				}
			}
			for name := range preflight.header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("OPTIONS %s answers with %s", asked, name)
				}
			}
		}
	})
}

// clerk has a key and a privilege that few methods ask for.
type clerk struct{}

func (clerk) Authenticate(context.Context, string) (authn.Caller, error) {
	return authn.Caller{Account: contract.ID{1}, Login: contract.ID{2}, Actor: "login:2", Privileges: authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_FINANCIAL)}, nil
}

func TestWhoMayNotCallIsRefusedBeforeTheBodyIsRead(t *testing.T) {
	f := start(t, func(_ *gateway.Config, d *gateway.Deps) { d.Authenticator = clerk{} })
	everybody := f.openTo("whoever asks", "everybody who is signed in", "Financial")
	f.everyOperation(func(id, method, path, body string) {
		if r := f.do(method, path, body); !everybody[id] {
			r.wantStatus(t, 403, 7, "PRIVILEGE_MISSING", "dministrator")
		} else if r.code == 403 {
			t.Errorf("%s is open, and is refused: %s", id, r.text)
		}
	})
	f.do("POST", "/v1/applications", strings.Repeat("x", 5000)).wantStatus(t, 403, 7, "PRIVILEGE_MISSING")
	f.do("GET", "/v1/nowhere", "").wantStatus(t, 404, 5, "NOT_FOUND")
}

func TestTheDocumentTellsWhoMayCall(t *testing.T) {
	paths := start(t).document()["paths"].(map[string]any)
	for path, says := range map[string]string{
		"/v1/agents":          "Who may call it: Account Administrator (all of the account).",
		"/v1/usage:summarize": "Who may call it: Account Administrator or Report (all of the account); Application User (what is their own).",
	} {
		get := paths[path].(map[string]any)["get"].(map[string]any)
		if text, _ := get["description"].(string); !strings.HasSuffix(text, "\n\n"+says) {
			t.Errorf("%s: %q", path, text)
		}
	}
}

func TestAnswersAreWrittenAsTheContractSays(t *testing.T) {
	f := start(t)
	r := f.do("GET", "/v1/applications/"+someID, "")
	if r.json["create_time"] != "2026-01-31T12:00:00Z" || r.json["timeout"] != "90s" || r.json["display_name"] != "Editor" || r.json["documents"] != false {
		t.Errorf("got %s", r.text)
	}
	r = f.do("GET", "/v1/usage:summarize?start_time=2026-01-31T12:00:00Z&end_time=2026-02-01T12:00:00%2B01:00&group_by=application&group_by=principal&counting=person_time&time_zone=Asia/Kathmandu", "")
	if r.code != 200 || len(r.json["groups"].([]any)) != 2 || r.json["counting"] != "COUNTING_PERSON_TIME" || r.json["time_zone"] != "Asia/Kathmandu" {
		t.Errorf("short names: %d %s", r.code, r.text)
	}
	r = f.do("GET", "/v1/usage:summarize?startTime=2026-01-31T12:00:00Z&endTime=2026-02-01T12:00:00Z&groupBy=GROUP_BY_DAY", "")
	if r.code != 200 || len(r.json["groups"].([]any)) != 1 {
		t.Errorf("camelCase and full names: %d %s", r.code, r.text)
	}
}

func TestBadRequestsAreRefusedByName(t *testing.T) {
	f := start(t)
	const period = "start_time=2026-01-31T12:00:00Z&end_time=2026-02-01T12:00:00Z"
	for _, c := range []struct {
		name, method, path, body string
		http                     int
		code                     float64
		reason                   string
		says                     []string
	}{
		{"unknown parameter", "GET", "/v1/usage:summarize?" + period + "&grop_by=application", "", 400, 3, "INVALID", []string{"grop_by", "group_by"}},
		{"parameter of a method that takes none", "GET", "/v1/meteringSettings?x=1", "", 400, 3, "INVALID", []string{"it takes none"}},
		{"parameter beside a whole body", "POST", "/v1/applications:testRules?x=1", `{"rules":[{"executable":"x"}]}`, 400, 3, "INVALID", []string{`"field":"x"`}},
		{"path parameter by query", "GET", "/v1/applications/" + someID + "?application_id=" + someID, "", 400, 3, "INVALID", []string{"application_id"}},
		{"time", "GET", "/v1/usage:summarize?start_time=yesterday&end_time=2026-02-01T12:00:00Z", "", 400, 3, "INVALID", []string{"start_time", "yesterday", "RFC 3339"}},
		{"enum", "GET", "/v1/usage:summarize?" + period + "&group_by=colour", "", 400, 3, "INVALID", []string{"colour", "application, principal, machine"}},
		{"number", "GET", "/v1/applications?page_size=many", "", 400, 3, "INVALID", []string{"page_size", "whole number"}},
		{"twice", "GET", "/v1/applications?page_size=1&page_size=2", "", 400, 3, "INVALID", []string{"one value"}},
		{"twice by two names", "GET", "/v1/applications?page_size=1&pageSize=2", "", 400, 3, "INVALID", []string{"given twice"}},
		{"all at once", "GET", "/v1/applications?page_size=x&foo=1", "", 400, 3, "INVALID", []string{"page_size", "foo"}},
		{"malformed query", "GET", "/v1/applications?page_size=%zz", "", 400, 3, "INVALID", []string{"malformed"}},
		{"rule of the contract", "GET", "/v1/applications?page_size=5000", "", 400, 3, "INVALID", []string{"page_size", "google.rpc.BadRequest"}},
		{"missing", "GET", "/v1/usage:summarize", "", 400, 3, "INVALID", []string{"start_time", "end_time"}},
		{"path", "GET", "/v1/applications/seven", "", 400, 3, "INVALID", []string{"application_id", "UUID"}},
		{"not JSON", "POST", "/v1/applications", `{`, 400, 3, "INVALID", nil},
		{"misspelt field", "POST", "/v1/applications", `{"display_nam":"x"}`, 400, 3, "INVALID", []string{"display_nam"}},
		{"misspelt field, and all others", "PATCH", "/v1/applications/" + someID, `{"display_nam":"x","instance_scope":"FOO","timeout":"5 minutes","documents":"maybe","rules":[{"titel":"x","priority":"high"},7]}`, 400, 3, "INVALID", []string{
			`"field":"application.display_nam"`, "display_name", `"field":"application.instance_scope"`, "INSTANCE_SCOPE_WINDOW", `"field":"application.timeout"`, "90s",
			`"field":"application.documents"`, "true or false", `"field":"application.rules[0].titel"`, `"field":"application.rules[0].priority"`, `"field":"application.rules[1]"`,
		}},
		{"a value that is none", "PATCH", "/v1/applications/" + someID, `{"instance_scope":99}`, 400, 3, "INVALID", []string{"application.instance_scope", "INSTANCE_SCOPE_WINDOW"}},
		{"a group that says nothing", "GET", "/v1/usage:summarize?" + period + "&group_by=0", "", 400, 3, "INVALID", []string{"group_by[0]", "takes one of", "GROUP_BY_DAY"}},
		{"no object", "POST", "/v1/applications", `[]`, 400, 3, "INVALID", []string{"(body)", "display_name"}},
		{"a list that is none", "POST", "/v1/applications:testRules", `{"rules":{}}`, 400, 3, "INVALID", []string{`"field":"rules"`, "list"}},
		{"a path that is not clean", "GET", "/v1//applications", "", 404, 5, "NOT_FOUND", nil},
		{"no text", "GET", "/v1/applications?page_token=%ff", "", 400, 3, "INVALID", []string{"UTF-8"}},
		{"a NUL", "GET", "/v1/applications?page_token=%00", "", 400, 3, "INVALID", []string{"NUL"}},
		{"no text in the path", "GET", "/v1/applications/%ff", "", 400, 3, "INVALID", []string{"UTF-8"}},
		{"no text without a key", "GET", "/v1/singleSignOn:start?account_name=%ff", "", 400, 3, "INVALID", []string{"UTF-8"}},
		{"empty body", "POST", "/v1/applications", ``, 400, 3, "INVALID", []string{"application"}},
		{"rule inside", "POST", "/v1/applications", `{"display_name":"X","rules":[{"priority":1}]}`, 400, 3, "INVALID", []string{"application.rules[0]", "at least one of executable"}},
		{"body where none belongs", "GET", "/v1/applications", `{}`, 400, 3, "INVALID", []string{"no body"}},
		{"too large", "POST", "/v1/applications", `{"display_name":"` + strings.Repeat("x", 5000) + `"}`, 413, 8, "BODY_TOO_LARGE", []string{"4096"}},
		{"no such path", "GET", "/v1/nowhere", "", 404, 5, "NOT_FOUND", []string{"/openapi.json"}},
		{"no such verb", "GET", "/v1/usage:sumarize", "", 404, 5, "NOT_FOUND", nil},
		{"no such page", "GET", "/nowhere", "", 404, 5, "NOT_FOUND", nil},
		{"no such method", "PUT", "/v1/applications", "", 405, 12, "UNIMPLEMENTED", []string{"no such method"}},
		{"writing a page", "POST", "/openapi.json", "", 405, 12, "UNIMPLEMENTED", nil},
		{"not there", "GET", "/v1/applications/0198f2aa-0000-4000-8000-00000000ffff", "", 404, 5, "NOT_FOUND", []string{"00000000ffff", "is not there"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.do(c.method, c.path, c.body).wantStatus(t, c.http, c.code, c.reason, c.says...)
		})
	}
}

func TestBackendOutOfReach(t *testing.T) {
	conn, err := grpc.NewClient("127.0.0.1:1", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	f := start(t, func(_ *gateway.Config, d *gateway.Deps) {
		d.Metering = conn
		d.Ready = func(context.Context) error { return errs.New(errs.Unavailable, "test", "metering", "secret") }
	})
	r := f.do("GET", "/v1/applications", "")
	r.wantStatus(t, 503, 14, "UNAVAILABLE")
	if strings.Contains(r.text, "127.0.0.1:1") || r.header.Get("Retry-After") == "" {
		t.Errorf("got %s", r.text)
	}
	f.do("GET", "/v1/usage:live", "").wantStatus(t, 503, 14, "UNAVAILABLE")
	f.do("GET", "/readyz", "", "Authorization", "").wantStatus(t, 503, 14, "UNAVAILABLE", "metering")
	if r := f.do("GET", "/healthz", "", "Authorization", ""); r.code != 200 {
		t.Errorf("healthz: %d", r.code)
	}
}

// open begins to read a stream.
func (f *fixture) open(accept string) (*http.Response, *bufio.Scanner) {
	f.t.Helper()
	req, _ := http.NewRequestWithContext(f.t.Context(), "GET", f.url+"/v1/usage:live", nil)
	req.Header.Set("Authorization", "Bearer "+f.key)
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp, bufio.NewScanner(resp.Body)
}

func TestLiveStreamAsLines(t *testing.T) {
	f := start(t)
	f.backend.live <- &meteringv1.StreamLiveUsageResponse{Complete: true, EndedSessionIds: []string{"a\nb"}}
	resp, lines := f.open("*/*")
	if resp.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("got %v", resp.Header)
	}
	var got struct {
		Result struct {
			Complete        bool     `json:"complete"`
			EndedSessionIDs []string `json:"ended_session_ids"`
		} `json:"result"`
	}
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &got) != nil || !got.Result.Complete || !slices.Equal(got.Result.EndedSessionIDs, []string{"a\nb"}) {
		t.Errorf("first line: %q", lines.Text())
	}
	close(f.backend.live)
	if !lines.Scan() || !strings.HasPrefix(lines.Text(), `{"error":{`) || !strings.Contains(lines.Text(), `"code":14`) {
		t.Errorf("last line: %q", lines.Text())
	}
}

func TestLiveStreamAsEventsLivesAndStopsWithTheGateway(t *testing.T) {
	f := start(t, func(cfg *gateway.Config, _ *gateway.Deps) { cfg.Heartbeat = 50 * time.Millisecond })
	resp, lines := f.open("text/event-stream")
	if resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("got %v", resp.Header)
	}
	if !lines.Scan() || lines.Text() != ": still here" {
		t.Errorf("no heartbeat: %q", lines.Text())
	}
	f.backend.live <- &meteringv1.StreamLiveUsageResponse{Complete: true}
	var data []string
	stopped := make(chan error, 1)
	for lines.Scan() {
		if d, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			data = append(data, d)
			if len(data) == 1 {
				go func() { stopped <- f.stop() }()
			}
		}
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if len(data) != 2 || !strings.HasPrefix(data[0], `{"result":`) || !strings.Contains(data[1], "stopping") {
		t.Errorf("got %q", data)
	}
}

func TestErrorBeforeTheFirstMessageIsAnOrdinaryError(t *testing.T) {
	f := start(t)
	f.backend.liveErr = errs.New(errs.Denied, "test", "", "not yours")
	f.do("GET", "/v1/usage:live", "", "Accept", "text/event-stream").wantStatus(t, 403, 7, "DENIED", "not yours")
	f.do("GET", "/v1/usage:live?filter.application_ids=x", "").wantStatus(t, 400, 3, "INVALID", "filter.application_ids[0]")
}

func TestDocument(t *testing.T) {
	f := start(t)
	doc := f.document()
	components := doc["components"].(map[string]any)
	schemes := components["securitySchemes"].(map[string]any)
	if schemes["bearer"].(map[string]any)["scheme"] != "bearer" || schemes["apiKey"].(map[string]any)["name"] != "X-API-Key" {
		t.Errorf("security schemes: %v", schemes)
	}
	if !strings.HasPrefix(doc["openapi"].(string), "3.") || len(doc["security"].([]any)) != 2 {
		t.Errorf("version %v, security %v", doc["openapi"], doc["security"])
	}
	schemas := components["schemas"].(map[string]any)
	rule := schemas["cetrus.metering.v1.Rule"].(map[string]any)["properties"].(map[string]any)
	if rule["executable"] == nil || rule["executable"].(map[string]any)["maxLength"] != 255.0 {
		t.Errorf("Rule: %v", rule)
	}
	get := doc["paths"].(map[string]any)["/v1/applications/{application_id}"].(map[string]any)["get"].(map[string]any)
	ok, _ := json.Marshal(get["responses"].(map[string]any)["200"])
	if !strings.Contains(string(ok), `"#/components/schemas/cetrus.metering.v1.Application"`) {
		t.Errorf("response_body is not followed: %s", ok)
	}
}

// TestDocumentIsOpenAPI3 keeps the rules of OpenAPI 3.0 that a generator of clients
// stumbles over.
func TestDocumentIsOpenAPI3(t *testing.T) {
	doc := start(t).document()
	tags := map[string]bool{}
	for _, tag := range doc["tags"].([]any) {
		tags[tag.(map[string]any)["name"].(string)] = true
	}
	variable := regexp.MustCompile(`\{([^{}]*)\}`)
	seen, ids := map[string]string{}, map[string]bool{}
	for template, item := range doc["paths"].(map[string]any) {
		if !strings.HasPrefix(template, "/") {
			t.Errorf("%s does not begin with a slash", template)
		}
		shape := variable.ReplaceAllString(template, "{}")
		if other, ok := seen[shape]; ok {
			t.Errorf("%s and %s are one path", template, other)
		}
		seen[shape] = template
		for verb, v := range item.(map[string]any) {
			op := v.(map[string]any)
			name := verb + " " + template
			if id, _ := op["operationId"].(string); id == "" || ids[id] {
				t.Errorf("%s: the operationId %q is none, or not its own", name, id)
			} else {
				ids[id] = true
			}
			if summary, _ := op["summary"].(string); summary == "" {
				t.Errorf("%s has no summary", name)
			}
			for _, tag := range op["tags"].([]any) {
				if !tags[tag.(string)] || strings.HasSuffix(tag.(string), "Service") {
					t.Errorf("%s: the tag %v is not declared, or is no word", name, tag)
				}
			}
			params, _ := op["parameters"].([]any)
			declared, inPath := map[string]bool{}, map[string]bool{}
			for _, p := range params {
				param := p.(map[string]any)
				in, named := param["in"].(string), param["name"].(string)
				if declared[in+" "+named] {
					t.Errorf("%s: %s is declared twice", name, named)
				}
				declared[in+" "+named] = true
				if param["schema"] == nil {
					t.Errorf("%s: %s has no schema", name, named)
				}
				if in == "path" {
					inPath[named] = true
					if param["required"] != true {
						t.Errorf("%s: %s is in the path and not required", name, named)
					}
				}
			}
			for _, m := range variable.FindAllStringSubmatch(template, -1) {
				if !inPath[m[1]] {
					t.Errorf("%s: {%s} is not declared", name, m[1])
				}
				delete(inPath, m[1])
			}
			for named := range inPath {
				t.Errorf("%s: %s is declared and not in the path", name, named)
			}
			responses := op["responses"].(map[string]any)
			if len(responses) == 0 {
				t.Errorf("%s answers nothing", name)
			}
			for code, r := range responses {
				if r.(map[string]any)["description"] == nil {
					t.Errorf("%s: %s has no description", name, code)
				}
			}
		}
	}
	var walk func(at string, node any)
	walk = func(at string, node any) {
		switch n := node.(type) {
		case map[string]any:
			if ref, ok := n["$ref"].(string); ok {
				if len(n) > 1 {
					t.Errorf("%s: something stands beside $ref", at)
				}
				var target any = doc
				rest, local := strings.CutPrefix(ref, "#/")
				for _, part := range strings.Split(rest, "/") {
					object, _ := target.(map[string]any)
					target = object[part]
				}
				if !local || target == nil {
					t.Errorf("%s: %s leads nowhere", at, ref)
				}
			}
			for key, child := range n {
				walk(at+"/"+key, child)
			}
		case []any:
			for i, child := range n {
				walk(fmt.Sprint(at, "/", i), child)
			}
		}
	}
	walk("#", doc)
}

func TestDocsPage(t *testing.T) {
	f := start(t)
	for path, media := range map[string]string{
		"/docs/": "text/html", "/docs/page.js": "text/javascript", "/docs/page.css": "text/css",
		"/docs/swagger-ui/swagger-ui-bundle.js": "text/javascript", "/docs/swagger-ui/swagger-ui.css": "text/css",
	} {
		r := f.do("GET", path, "", "Authorization", "")
		if r.code != 200 || !strings.HasPrefix(r.header.Get("Content-Type"), media) || !strings.Contains(r.header.Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("%s: %d %v", path, r.code, r.header)
		}
	}
	page := f.do("GET", "/docs/", "", "Authorization", "")
	if strings.Contains(page.text, "http://") || strings.Contains(page.text, "https://") {
		t.Error("the page names another host")
	}
	f.do("GET", "/docs/swagger-ui/", "", "Authorization", "").wantStatus(t, 404, 5, "NOT_FOUND")
	if r := f.do("GET", "/docs", ""); r.code != 301 {
		t.Errorf("/docs: %d", r.code)
	}
}

func TestPortTaken(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	_, err = gateway.New(t.Context(), gateway.Config{Listen: lis.Addr().String()}, gateway.Deps{Logger: slog.New(slog.DiscardHandler)})
	if !errs.Is(errs.Precondition, err) || !strings.Contains(err.Error(), lis.Addr().String()) {
		t.Errorf("got %v", err)
	}
}

// Whatever a stranger with a key writes into path, query and body: an answer, and
// never a fault of ours.
func FuzzRequest(f *testing.F) {
	f.Add("GET", "/v1/usage:summarize", "start_time=2026-01-31T12:00:00Z&end_time=%zz&group_by=application", "")
	f.Add("POST", "/v1/applications", "request_id=", `{"display_name":"x","rules":[{"executable":"*"}]}`)
	f.Add("GET", "/v1/instances/%2e%2e/intervals", "filter.application_ids[a]=1&filter[x]=y", "")
	f.Add("PATCH", "/v1/meteringSettings", "updateMask=a,b", `{"time_zone":[[[[`)
	f.Add("GET", "/v1/applications:", "page_size=99999999999999999999", "\x00\xff")
	fx := start(f)
	close(fx.backend.live)
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		u := url.URL{Scheme: "http", Host: strings.TrimPrefix(fx.url, "http://"), Path: "/v1/" + strings.TrimPrefix(path, "/v1/"), RawQuery: query}
		req, err := http.NewRequestWithContext(t.Context(), method, u.String(), strings.NewReader(body))
		if err != nil || method == "CONNECT" {
			t.Skip()
		}
		req.Header.Set("Authorization", "Bearer "+fx.key)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Skip() // the client itself would not send it
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode == http.StatusInternalServerError {
			t.Errorf("%d %s (%v)", resp.StatusCode, text, err)
		}
		if method != "HEAD" && !json.Valid(text) && resp.Header.Get("Content-Type") == "application/json" {
			t.Errorf("no JSON: %s", text)
		}
	})
}
