package console

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// crowdedServices are of an account with more logins than a page of any list has.
type crowdedServices struct {
	fullServices
	logins []*identityv1.Login
}

const (
	anApplication = "00000000-0000-4000-8000-0000000000a1"
	aGroup        = "00000000-0000-4000-8000-0000000000b1"
	aGoneLogin    = "00000000-0000-4000-8000-0000000000c1"
)

func (s *crowdedServices) login(n int) string { return s.logins[n].GetLoginId() }

func (s *crowdedServices) Invoke(ctx context.Context, method string, args, reply any, options ...grpc.CallOption) error {
	switch answer := reply.(type) {
	case *identityv1.ListLoginsResponse:
		req := args.(*identityv1.ListLoginsRequest)
		if ids := req.GetLoginIds(); len(ids) > 0 {
			for _, l := range s.logins {
				if slices.Contains(ids, l.GetLoginId()) {
					answer.Logins = append(answer.Logins, l)
				}
			}
			return nil
		}
		from := 0
		_, _ = fmt.Sscan(req.GetPageToken(), &from)
		to := min(from+int(req.GetPageSize()), len(s.logins))
		if answer.Logins = s.logins[from:to]; to < len(s.logins) {
			answer.NextPageToken = fmt.Sprint(to)
		}
	case *meteringv1.SearchFilterValuesResponse:
		for id, name := range map[string]string{anApplication: "AutoCAD", aGroup: "Drafting"} {
			if slices.Contains(args.(*meteringv1.SearchFilterValuesRequest).GetIds(), id) {
				answer.Values = append(answer.Values, &meteringv1.FilterValue{Id: id, Name: name})
			}
		}
	case *identityv1.ListApiKeysResponse:
		req := args.(*identityv1.ListApiKeysRequest)
		answer.ApiKeys = []*identityv1.ApiKey{{ApiKeyId: "k", DisplayName: "Payroll", Prefix: "3f9a", LoginId: s.login(2999)}}
		if p := req.GetPrefixes(); len(p) > 0 && !slices.Contains(p, "3f9a") {
			answer.ApiKeys = nil
		}
	case *meteringv1.ListCorrectionsResponse:
		answer.Corrections = []*meteringv1.Correction{{LoginId: s.login(2999), Text: "not mine"}}
	case *identityv1.ListAuditEntriesResponse:
		if actor := args.(*identityv1.ListAuditEntriesRequest).GetActor(); actor != "" && actor != "login:"+s.login(2999) {
			return nil
		}
		answer.AuditEntries = []*identityv1.AuditEntry{
			{Actor: "login:" + s.login(2999), Type: "cetrus.identity.login.groups_set.v1", Aggregate: "login", AggregateId: s.login(2500), Changes: []*identityv1.FieldChange{
				{Field: "group_ids", Before: "null", After: `["` + aGroup + `"]`}, {Field: "privileges", After: `["PRIVILEGE_ACCOUNT_ADMINISTRATOR"]`},
			}},
			{Actor: "key:3f9a", Type: "cetrus.metering.application.changed.v1", Aggregate: "application", AggregateId: "all", Changes: []*identityv1.FieldChange{
				{Field: "application_id", After: `"` + anApplication + `"`}, {Field: "timeout", Before: `"1800s"`, After: `"2700s"`},
			}},
			{Actor: "login:" + s.login(2999), Type: "cetrus.identity.group.changed.v1", Aggregate: "group", AggregateId: aGroup, Changes: []*identityv1.FieldChange{
				{Field: "denied_application_ids", After: manyIDs()},
			}},
			{Actor: "login:" + aGoneLogin, Type: "cetrus.identity.login.disabled.v1", AggregateId: aGoneLogin},
		}
	default:
		return s.fullServices.Invoke(ctx, method, args, reply, options...)
	}
	return nil
}

// manyIDs are more than are named at once, all of them before those of logins in the alphabet.
func manyIDs() string {
	ids := make([]string, 2*namesAtOnce)
	for n := range ids {
		ids[n] = fmt.Sprintf(`"00000000-0000-4000-8000-%012d"`, n)
	}
	return "[" + strings.Join(ids, ",") + "]"
}

// Whatever an account holds, pages name what they show: logins far down the list, keys, groups, applications.
func TestIDsAreNamed(t *testing.T) {
	s := &crowdedServices{}
	for n := range 3000 {
		s.logins = append(s.logins, &identityv1.Login{LoginId: fmt.Sprintf("00000000-0000-4000-9000-%012d", n), Name: fmt.Sprintf("user%04d", n), DisplayName: fmt.Sprintf("Person %04d", n)})
	}
	s.privileges = authn.AllPrivileges()
	console, err := New(Deps{Metering: s, Identity: s, Authenticator: s, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	show := func(path string) (int, string) {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.AddCookie(&http.Cookie{Name: current.access, Value: "good"})
		w := httptest.NewRecorder()
		console.ServeHTTP(w, r)
		return w.Code, part(w.Body.String())
	}
	for path, wants := range map[string][]string{
		"/audit-log": {
			">Person 2999</a>", "<strong>Person 2500</strong>", "<dt>groups</dt>", "<del>nothing</del> <ins>Drafting</ins>", "<ins>Account Administrator</ins>",
			">Payroll (API key)</a>", "<dt>application</dt>", "<ins>AutoCAD</ins>", "<del>30 min</del> <ins>45 min</ins>", ">a login that is gone</a>",
		},
		"/audit-log?actor=person+2999":                {">Person 2999</a>", `value="Person 2999"`, "No longer only who Person 2999"},
		"/audit-log?about=" + s.login(2500):           {"No longer only about Person 2500", `<input type="hidden" name="about"`},
		"/api-keys":                                   {"<td>Person 2999</td>"},
		"/corrections":                                {">Person 2999</th>"},
		"/audit-log?actor=user299":                    {"Who</a>: several are called so; write one of user2990,", `value="user299"`},
		"/audit-log?actor=somebody":                   {"Who</a>: no login is called “somebody”."},
		"/audit-log/export?actor=somebody&format=csv": {"Who</a>: no login is called “somebody”."},
	} {
		code, body := show(path)
		for _, want := range wants {
			if !strings.Contains(body, want) {
				t.Errorf("%s is answered %d and does not hold %q: %s", path, code, want, body)
			}
		}
	}
}
