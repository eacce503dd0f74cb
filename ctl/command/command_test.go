package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// against runs a line against a server of the test's own.
func against(t *testing.T, handler http.HandlerFunc, line string) (out, problems string, code int) {
	t.Helper()
	server := httptest.NewServer(handler)
	defer server.Close()
	var o, p bytes.Buffer
	code = Run(t.Context(), World{In: strings.NewReader(""), Out: &o, Err: &p, Now: time.Now, Env: func(name string) string {
		return map[string]string{"CETRUS_SERVER": server.URL, "CETRUS_API_KEY": "x"}[name]
	}}, words(line))
	return o.String(), p.String(), code
}

func TestEnrolmentIsReadyToPaste(t *testing.T) {
	const manager = "0198c7a0-0000-7000-8000-000000000001"
	site := func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "GET /v1/managers":
			fmt.Fprint(w, `{"managers":[{"manager_id":"`+manager+`","display_name":"Prague","enroll_time":"2026-01-01T00:00:00Z"},{"manager_id":"gone","revoke_time":"2026-01-01T00:00:00Z"}]}`)
		case "GET /v1/meteringSettings":
			fmt.Fprint(w, `{"managers":["m.example.com:10041"]}`)
		case "GET /v1/usage:summarize":
			fmt.Fprint(w, `{"time_zone":"Europe/Prague"}`)
		case "POST /v1/managers/" + manager + "/enrollmentTokens":
			fmt.Fprint(w, `{"enrollment_token":{"max_uses":50,"expire_time":"2026-03-01T12:00:00Z"},"token":"ct_secret"}`)
		default:
			t.Errorf("asked %s %s", r.Method, r.URL)
		}
	}
	out, problems, code := against(t, site, "enrol create --uses 50")
	if code != 0 || !strings.Contains(problems, "A token of Prague for 50 agents, until 2026-03-01 13:00.") {
		t.Errorf("%d: %s", code, problems)
	}
	for _, want := range []string{"# Windows, PowerShell.", "MANAGER=m.example.com:10041 ENROLLMENT_TOKEN=ct_secret", "sudo apt-get install ./cetrus-agent_*_amd64.deb\nprintf 'manager: [m.example.com:10041]\\n'", "printf '%s' 'ct_secret' | sudo cetrus-agent enroll", "# RHEL, SUSE."} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing:\n%s", want, out)
		}
	}
	if out, _, code := against(t, site, "enrol create --token-only"); code != 0 || out != "ct_secret\n" {
		t.Errorf("%d: %q", code, out)
	}
}

// TestASavedReportIsAskedAsItWasSaved: tables go by what was saved, not by flags that nobody gave; what was sent
// is waited for, and what failed is an error.
func TestASavedReportIsAskedAsItWasSaved(t *testing.T) {
	const id = "0198c7a0-0000-7000-8000-000000000001"
	states := []string{"UNDER_WAY", "SENT"}
	site := func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "GET /v1/savedReports":
			fmt.Fprint(w, `{"saved_reports":[{"saved_report_id":"`+id+`","display_name":"CAD","shared":true,"period":{"kind":"KIND_LAST_DAYS","days":30},"report":{"licences_needed":{}},"last_run":{"state":"STATE_FAILED"}},{"saved_report_id":"x","display_name":"New","report":{}}]}`)
		case "GET /v1/savedReports/" + id + ":resolve":
			fmt.Fprint(w, `{"report":{"licences_needed":{"start_time":"2026-01-01T00:00:00Z","end_time":"2026-02-01T00:00:00Z","compare":true,"bought":"7","price_minor_units":"12000","currency_code":"EUR"}}}`)
		case "GET /v1/savedReports/x:resolve":
			fmt.Fprint(w, `{"report":{"of_a_later_release":{}}}`)
		case "GET /v1/reports:licencesNeeded":
			if q := r.URL.Query(); q.Get("bought") != "7" || q.Get("reason") != "audit" {
				t.Errorf("asked %s", r.URL.RawQuery)
			}
			fmt.Fprint(w, `{"kept":{"needed":"9","surplus":"-2","cost_minor_units":"108000"},"currency_code":"EUR","compare":{"kept":{"needed":"8"}}}`)
		case "POST /v1/savedReports/" + id + ":send":
			fmt.Fprint(w, `{"run_id":"r","state":"STATE_UNDER_WAY"}`)
		case "GET /v1/savedReports/" + id + "/runs":
			fmt.Fprint(w, `{"runs":[{"run_id":"other","state":"STATE_FAILED"},{"run_id":"r","state":"STATE_`+states[0]+`","sent":2,"file_name":"cad.xlsx","attached":true,"message":"no mail server","missed":[{"login_id":"l","problem":"RECIPIENT_PROBLEM_NO_ADDRESS"}]}]}`)
			states = states[min(1, len(states)-1):]
		case "GET /v1/usage:summarize":
			fmt.Fprint(w, `{"time_zone":"UTC"}`)
		default:
			t.Errorf("asked %s %s", r.Method, r.URL)
		}
	}
	if out, _, code := against(t, site, "get saved-reports --no-headers"); code != 0 || strings.Join(strings.Fields(out), " ") != "CAD licences last 30 days yes failed New as saved" {
		t.Errorf("%d: %q", code, out)
	}
	out, problems, code := against(t, site, "report saved cad --reason audit")
	for _, want := range []string{"SURPLUS", "-2", "1080.00 EUR", "NEEDED BEFORE"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("%d: %q is missing: %s%s", code, want, out, problems)
		}
	}
	if _, problems, code := against(t, site, "report saved New"); code != ExitError || !strings.Contains(problems, "get a later one") {
		t.Errorf("%d: %s", code, problems)
	}
	if _, problems, code := against(t, site, "send CAD --wait"); code != 0 || problems != "cetrusctl: login l got none: no address\nIt was sent to 2 logins, with cad.xlsx.\n" {
		t.Errorf("%d: %q", code, problems)
	}
	states = []string{"FAILED"}
	if _, problems, code := against(t, site, "send CAD --wait"); code != ExitError || !strings.Contains(problems, "it was not sent: no mail server") {
		t.Errorf("%d: %q", code, problems)
	}
	states = []string{"UNDER_WAY"}
	if _, problems, code := against(t, site, "send CAD --wait --wait-for 1ms"); code != ExitError || !strings.Contains(problems, "still under way") {
		t.Errorf("%d: %q", code, problems)
	}
	// Each report of the contract has a table.
	tables := map[string]bool{}
	for _, p := range allReports() {
		tables[p.name] = true
	}
	questions := (&meteringv1.ReportQuestion{}).ProtoReflect().Descriptor().Fields()
	for i := range questions.Len() {
		if name := reportNames[questions.Get(i).Name()]; !tables[name] {
			t.Errorf("a saved %s is called %q, which is no report", questions.Get(i).Name(), name)
		}
	}
}

// TestMembersJoinBeforeGroupsGo: a login cannot be said to be in a group that is gone, so whoever changes groups does
// so before.
func TestMembersJoinBeforeGroupsGo(t *testing.T) {
	file := filepath.Join(t.TempDir(), "groups.yaml")
	if err := os.WriteFile(file, []byte("kind: Group\nname: New\nmembers: [ada]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var changed []string
	_, problems, code := against(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "GET /v1/applications":
			fmt.Fprint(w, `{}`)
		case "GET /v1/groups":
			fmt.Fprint(w, `{"groups":[{"group_id":"old","display_name":"Old"}]}`)
		case "GET /v1/logins":
			fmt.Fprint(w, `{"logins":[{"login_id":"ada","name":"ada","group_ids":["old"],"etag":"1"}]}`)
		default:
			changed = append(changed, r.Method+" "+r.URL.Path)
			fmt.Fprint(w, `{"group_id":"new"}`)
		}
	}, "apply -y --prune groups -f "+file)
	if got := strings.Join(changed, ", "); code != 0 || got != "POST /v1/groups, PATCH /v1/logins/ada, DELETE /v1/groups/old" {
		t.Errorf("%d: %s%s", code, got, problems)
	}
}

// TestAFileThatBreaksOffIsAnError: half a file is never taken for a whole one.
func TestAFileThatBreaksOffIsAnError(t *testing.T) {
	dir := t.TempDir()
	_, problems, code := against(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/usage:summarize" {
			fmt.Fprint(w, `{"time_zone":"UTC"}`)
			return
		}
		w.WriteHeader(http.StatusOK)
		fmt.Fprint(w, "name,busy\r\n")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}, "report use -f "+dir+"/use.csv")
	if code != ExitError || !strings.Contains(problems, "broke off after 11 bytes") {
		t.Errorf("%d: %s", code, problems)
	}
	if _, _, code := against(t, func(http.ResponseWriter, *http.Request) {}, "diff -f "+dir); code != ExitError {
		t.Errorf("a file was left: %d", code)
	}
}

// TestAFileIsMadeInTheBackground: it is waited for, written, and removed where it was made; what failed is an error
// that says why, and leaves nothing.
func TestAFileIsMadeInTheBackground(t *testing.T) {
	states, removed := []string{"WAITING", "READY"}, 0
	site := func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.Path {
		case "GET /v1/usage:summarize":
			fmt.Fprint(w, `{"time_zone":"UTC"}`)
		case "POST /v1/reportFiles":
			var asked struct{ Format string }
			if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || asked.Format != "EXPORT_FORMAT_CSV" {
				t.Errorf("asked %v: %v", asked, err)
			}
			fmt.Fprint(w, `{"report_file_id":"f","state":"STATE_WAITING"}`)
		case "GET /v1/reportFiles/f":
			fmt.Fprint(w, `{"report_file_id":"f","state":"STATE_`+states[0]+`","message":"it is too large"}`)
			states = states[min(1, len(states)-1):]
		case "GET /v1/reportFiles/f:download":
			w.Header().Set("Content-Disposition", "attachment; filename=use.csv")
			fmt.Fprint(w, "name,busy\r\n")
		case "DELETE /v1/reportFiles/f":
			removed++
			fmt.Fprint(w, `{}`)
		default:
			t.Errorf("asked %s %s", r.Method, r.URL)
		}
	}
	if out, problems, code := against(t, site, "report use --background -o csv"); code != 0 || out != "name,busy\r\n" || problems != "" || removed != 1 {
		t.Errorf("%d: %q, %q; removed %d times", code, out, problems, removed)
	}
	states = []string{"FAILED"}
	dir := t.TempDir()
	if _, problems, code := against(t, site, "report use --background -f "+dir+"/use.csv"); code != ExitError || !strings.Contains(problems, "it is too large") || removed != 1 {
		t.Errorf("%d: %q; removed %d times", code, problems, removed)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v is left, %v", left, err)
	}
	if _, problems, code := against(t, site, "report use --background"); code != ExitUsage || !strings.Contains(problems, "makes files") {
		t.Errorf("%d: %q", code, problems)
	}
}

func TestErrorsNameTheField(t *testing.T) {
	_, problems, code := against(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"code":3,"message":"2 fields are wrong\u001b[31m","details":[{"@type":"type.googleapis.com/google.rpc.BadRequest","field_violations":[{"field":"a.b","description":"is empty"},{"field":"c","description":"is long"}]}]}`)
	}, "get applications")
	if want := "cetrusctl: 2 fields are wrong�[31m\n  a.b: is empty\n  c: is long\n"; code != ExitError || problems != want {
		t.Errorf("%d: %q", code, problems)
	}
	_, problems, _ = against(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"code":7,"message":"you may not"}`)
	}, "get applications")
	if problems != "cetrusctl: you may not (called with the API key of CETRUS_API_KEY)\n" {
		t.Errorf("%q", problems)
	}
}

func TestPagesEndAtTheLimit(t *testing.T) {
	asked := ""
	out, problems, code := against(t, func(w http.ResponseWriter, r *http.Request) {
		asked += r.URL.RawQuery + " "
		fmt.Fprint(w, `{"applications":[{"display_name":"A"},{"display_name":"B"}],"next_page_token":"t"}`)
	}, "get applications --limit 3 -o csv --no-headers")
	if code != 0 || strings.Count(out, "\n") != 3 || asked != "page_size=3 page_size=1&page_token=t " {
		t.Errorf("%d: %s%s; asked %s", code, out, problems, asked)
	}
}

func TestMoney(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		code := rapid.SampledFrom([]string{"EUR", "JPY", "KWD", "CZK"}).Draw(t, "currency")
		units := rapid.Int64Range(0, 999_999_999).Draw(t, "units")
		text := strings.TrimSuffix(money(units, code), " "+code)
		if got, err := minorUnits(text, code); err != nil || got != units {
			t.Fatalf("%d of %s is %q, which is read %d, %v", units, code, text, got, err)
		}
	})
	for text, want := range map[string]int32{"0.5": 5000, "1": 10000, "100%": 1_000_000, "0.0001": 1} {
		if got, err := millionths("refused", text); err != nil || got != want {
			t.Errorf("%s is %d, %v", text, got, err)
		}
	}
}

func TestClock(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0:00", 9 * time.Second: "0:09", 38*time.Minute + 7*time.Second: "38:07", 72*time.Minute + 40*time.Second: "1:12:40", -90 * time.Second: "-1:30"} {
		if got := clock(d); got != want {
			t.Errorf("%v is %s", d, got)
		}
	}
	for d, want := range map[time.Duration]string{0: "0", 1500 * time.Millisecond: "1.500", -time.Second: "-1"} {
		if got := seconds(d); got != want {
			t.Errorf("%v is %s", d, got)
		}
	}
}

func TestLiveTellsWhatChanges(t *testing.T) {
	instance := func(id string, state usagev1.State) *meteringv1.LiveInstance {
		return &meteringv1.LiveInstance{InstanceId: id, ApplicationName: id, State: state, SinceTime: timestamppb.Now()}
	}
	v := newLiveView()
	take := func(m *meteringv1.StreamLiveUsageResponse) string {
		var told []string
		for _, c := range v.take(m) {
			word := liveState(c.row)
			if c.gone {
				word = "gone"
			}
			told = append(told, c.row.session.GetSessionId()+c.row.instance.GetInstanceId()+" "+word)
		}
		return strings.Join(told, "; ")
	}
	both := &meteringv1.LiveSession{SessionId: "s", PrincipalName: "Ada", Instances: []*meteringv1.LiveInstance{instance("a", usagev1.State_STATE_ACTIVE), instance("b", usagev1.State_STATE_INACTIVE)}}
	for _, step := range []struct {
		m    *meteringv1.StreamLiveUsageResponse
		want string
	}{
		{&meteringv1.StreamLiveUsageResponse{Complete: true, Sessions: []*meteringv1.LiveSession{both}}, "sa Active; sb Inactive"},
		{&meteringv1.StreamLiveUsageResponse{Sessions: []*meteringv1.LiveSession{both}}, ""},
		{&meteringv1.StreamLiveUsageResponse{Sessions: []*meteringv1.LiveSession{{SessionId: "s", Instances: []*meteringv1.LiveInstance{instance("b", usagev1.State_STATE_ACTIVE)}}}}, "sb Active; sa gone"},
		{&meteringv1.StreamLiveUsageResponse{Complete: true, Sessions: []*meteringv1.LiveSession{{SessionId: "t", Instances: both.GetInstances()}}}, "ta Active; tb Inactive; sb gone"},
		{&meteringv1.StreamLiveUsageResponse{EndedSessionIds: []string{"t", "u"}}, "ta gone; tb gone"},
	} {
		if got := take(step.m); got != step.want {
			t.Errorf("told %q, not %q", got, step.want)
		}
	}
}

// The key that the platform made for itself belongs to no login, and says so.
func TestWhoamiByAKeyOfNobody(t *testing.T) {
	out, problems, code := against(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/account" {
			fmt.Fprint(w, `{"name":"operator"}`)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"code":5,"message":"the key that was sent belongs to the account and to no login"}`)
	}, "whoami")
	if code != 0 || !strings.Contains(out, "account     operator\nlogin       none: this key belongs to the account itself") || !strings.Contains(out, "privileges  all\n") {
		t.Errorf("%d: %s%s", code, out, problems)
	}
}

// What is offered begins as was typed.
func TestCompletionIsNarrowed(t *testing.T) {
	programs := func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"applications":[{"application_id":"a","display_name":"Firefox"},{"application_id":"b","display_name":"FreeCAD"},{"application_id":"c","display_name":"Éditeur"}]}`)
	}
	for word, want := range map[string]string{"": "Firefox FreeCAD Éditeur", "f": "Firefox FreeCAD", "FIRE": "Firefox", "é": "Éditeur", "x": ""} {
		out, problems, code := against(t, programs, "__complete report use --application '"+word+"'")
		offered, _, _ := strings.Cut(out, ":")
		if code != 0 || strings.Join(strings.Fields(offered), " ") != want {
			t.Errorf("%q: %d, %s, %s", word, code, out, problems)
		}
	}
}
