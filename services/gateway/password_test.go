package gateway_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/cetrus/cetrus/services/platform/mail"
)

// Where mailed links lead there is a page, for whoever has no key yet; nothing of others runs on
// it, and nobody frames it.
func TestMailedLinksLeadToAPage(t *testing.T) {
	f := start(t)
	for _, path := range []string{mail.PathPasswordReset, mail.PathInvitation} {
		r := f.do(http.MethodGet, path+"?token=x", "", "Authorization", "")
		policy := r.header.Get("Content-Security-Policy")
		if r.code != http.StatusOK || !strings.Contains(r.text, "completeReset") || !strings.Contains(policy, "default-src 'none'; script-src 'sha256-") ||
			!strings.Contains(policy, "frame-ancestors 'none'") || r.header.Get("Referrer-Policy") != "no-referrer" || r.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %v", path, r.code, r.header)
		}
	}
}
