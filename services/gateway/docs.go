package gateway

import (
	"embed"
	"net/http"
)

// docsFiles are the page and swagger-ui-dist 5.35.0 (Apache-2.0), the files that
// the page needs, unchanged. To take a newer version: `npm pack
// swagger-ui-dist@<version>`, copy the same files, change this number, and run
// this package's tests.
//
//go:embed docs
var docsFiles embed.FS

// docsPolicy lets the page load from this host only, and run no inline script.
// Swagger UI sets style attributes, hence unsafe-inline for styles.
const docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// docs serves the page that shows the OpenAPI document.
func docs() http.Handler {
	files := http.FileServerFS(docsFiles)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/docs/", "/docs/page.js", "/docs/page.css", "/docs/swagger-ui/swagger-ui-bundle.js", "/docs/swagger-ui/swagger-ui.css", "/docs/swagger-ui/favicon-32x32.png":
			w.Header().Set("Content-Security-Policy", docsPolicy)
			w.Header().Set("Cache-Control", "no-cache")
			files.ServeHTTP(w, r)
		default:
			notFound(w, r)
		}
	})
}
