package authn_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// What stands in an access token is a contract with whoever checks it: the bytes are
// read here without the library that wrote them.
func TestAccessTokenAsItIsWritten(t *testing.T) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	token := authn.Token{
		Account: contract.ID{1}, Login: contract.ID{2}, Session: contract.ID{3},
		Privileges: authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_REPORT, authzv1.Privilege_PRIVILEGE_APPLICATION_USER),
		Issued:     time.Unix(1000, 0), Expires: time.Unix(1600, 0),
	}
	text, err := authn.SignToken(token, "k1", private)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		t.Fatalf("got %q", text)
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || !ed25519.Verify(public, []byte(parts[0]+"."+parts[1]), signature) {
		t.Error("the signature is not that of the key")
	}
	for i, want := range []map[string]any{
		{"alg": "EdDSA", "typ": "at+jwt", "kid": "k1"},
		{
			"iss": "cetrus", "aud": []any{"cetrus"}, "sub": token.Login.String(), "acc": token.Account.String(), "ses": token.Session.String(),
			"prv": []any{1.0, 3.0}, "iat": 1000.0, "exp": 1600.0,
		},
	} {
		raw, err := base64.RawURLEncoding.DecodeString(parts[i])
		var got map[string]any
		if err == nil {
			err = json.Unmarshal(raw, &got)
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("part %d: %v, %v", i, got, err)
		}
	}
}
