package gateway

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
	"strings"
)

//go:embed password.html
var passwordPage string

// passwordPaths are where mailed links lead; services/platform/mail has the same.
var passwordPaths = [...]string{"/reset-password", "/accept-invitation"}

// passwords is the page behind a mailed link, where a new password is chosen and there is no console. It runs its own
// script alone, which takes the link's secret out of the address at once, and sends it to
// nobody but this gateway.
func passwords() http.Handler {
	_, script, _ := strings.Cut(passwordPage, "<script>")
	script, _, _ = strings.Cut(script, "</script>")
	hash := sha256.Sum256([]byte(script))
	policy := "default-src 'none'; script-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'; style-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	page := static("text/html; charset=utf-8", []byte(passwordPage))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		page.ServeHTTP(w, r)
	})
}
