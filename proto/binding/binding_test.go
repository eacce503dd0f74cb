package binding

import (
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
)

// A method stands in REST as its rule says.
func TestOf(t *testing.T) {
	logins := identityv1.File_cetrus_identity_v1_login_proto.Services().ByName("LoginService").Methods()
	for name, want := range map[string]Binding{
		"ListLogins":  {Verb: "GET", Template: "/v1/logins"},
		"UpdateLogin": {Verb: "PATCH", Template: "/v1/logins/{login.login_id}", Body: "login", ResponseBody: "login"},
		"DeleteLogin": {Verb: "DELETE", Template: "/v1/logins/{login_id}"},
	} {
		if got, ok, err := Of(logins.ByName(protoreflect.Name(name))); err != nil || !ok || got != want {
			t.Errorf("%s is %+v, %v, %v", name, got, ok, err)
		}
	}
}
