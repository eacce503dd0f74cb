package keyring

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// From where somebody called stands sealed, opens while the person is known, and never again
// once they are forgotten. What is no origin opens as none.
func TestOrigins(t *testing.T) {
	keys, _ := running(t)
	account, principal := contract.ID{1}, contract.ID{2}
	want := authn.Origin{Address: netip.MustParseAddr("2001:db8::1"), UserAgent: "Firefox"}
	header, err := keys.SealOrigin(t.Context(), account, principal, want)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(header, "2001") || !strings.HasPrefix(header, principal.String()+":") {
		t.Errorf("the header is %s", header)
	}
	got, err := keys.OpenOrigins(t.Context(), account, []string{"", header, "x", header[:40], header + "!", contract.ID{3}.String() + header[36:]})
	if err != nil || len(got) != 6 || got[1] != want {
		t.Fatalf("%v: %v", got, err)
	}
	for i, o := range got {
		if i != 1 && o != (authn.Origin{}) {
			t.Errorf("%d: %v", i, o)
		}
	}
	if err := keys.Forget(t.Context(), account, principal); err != nil {
		t.Fatal(err)
	}
	if got, err := keys.OpenOrigins(t.Context(), account, []string{header}); err != nil || got[0] != (authn.Origin{}) {
		t.Errorf("of a forgotten person: %v: %v", got, err)
	}
	if _, err := keys.SealOrigin(t.Context(), account, principal, want); err == nil {
		t.Error("it is sealed for a forgotten person")
	}
}
