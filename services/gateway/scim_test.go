package gateway_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/gateway"
	"github.com/cetrus/cetrus/services/platform/errs"
)

func (b *backend) HandleScim(_ context.Context, in *identityv1.HandleScimRequest) (*identityv1.HandleScimResponse, error) {
	if in.GetPath() == "/Broken" {
		return nil, errs.New(errs.Unavailable, "test", "", "repeat in a moment")
	}
	said := strings.Join([]string{in.GetMethod(), in.GetPath(), in.GetQuery(), in.GetIfMatch(), in.GetIfNoneMatch(), string(in.GetBody())}, "|")
	return &identityv1.HandleScimResponse{Status: 201, Etag: `W/"1"`, Location: "https://cetrus.example/scim/v2/Users/1", Body: []byte(said)}, nil
}

// What identity is to read comes to it as it was sent, and what it answers goes back.
func TestSCIMIsPassedOn(t *testing.T) {
	f := start(t)
	r := f.do("PATCH", "/scim/v2/Users/a%20b?filter=userName%20eq%20%22a%22&count=2", `{"Operations":[]}`, "If-Match", `W/"7"`, "If-None-Match", "*")
	if want := `PATCH|/Users/a b|filter=userName%20eq%20%22a%22&count=2|W/"7"|*|{"Operations":[]}`; r.code != 201 || r.text != want {
		t.Errorf("%d %s, not %s", r.code, r.text, want)
	}
	if r.header.Get("ETag") != `W/"1"` || r.header.Get("Location") != "https://cetrus.example/scim/v2/Users/1" || r.header.Get("Content-Type") != "application/scim+json" || r.header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers: %v", r.header)
	}
}

// Providers understand no errors but those of SCIM.
func TestErrorsOfSCIMAreItsOwn(t *testing.T) {
	f := start(t)
	refused := func(f *fixture, status, path, body string, header ...string) reply {
		t.Helper()
		r := f.do("POST", path, body, header...)
		schemas, _ := r.json["schemas"].([]any)
		if len(schemas) != 1 || schemas[0] != "urn:ietf:params:scim:api:messages:2.0:Error" || r.json["status"] != status || r.json["detail"] == "" || r.header.Get("Content-Type") != "application/scim+json" {
			t.Errorf("%s: %d %v %s", path, r.code, r.header, r.text)
		}
		return r
	}
	if r := refused(f, "401", "/scim/v2/Users", "{}", "Authorization", ""); r.code != http.StatusUnauthorized || r.header.Get("WWW-Authenticate") == "" {
		t.Errorf("no key: %d %v", r.code, r.header)
	}
	refused(f, "401", "/scim/v2/Users", "{}", "Authorization", "Bearer cetrus_00000000_"+strings.Repeat("a", 52))
	refused(f, "413", "/scim/v2/Users", strings.Repeat("x", 5000))
	refused(f, "503", "/scim/v2/Broken", "{}")
	clerks := start(t, func(_ *gateway.Config, d *gateway.Deps) { d.Authenticator = clerk{} })
	refused(clerks, "403", "/scim/v2/Users", strings.Repeat("x", 5000))
}
