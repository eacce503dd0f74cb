package inbox

import (
	"embed"
	"html/template"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

//go:embed page.html
var pageFile embed.FS

var page = template.Must(template.ParseFS(pageFile, "page.html"))

// Of what a mail holds nothing runs and nothing is loaded: it could be anybody's.
const (
	ownPolicy  = "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	mailPolicy = "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'"
)

func (i *Inbox) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		mails := i.Mails()
		slices.Reverse(mails)
		show(w, "list", struct {
			Mails []Mail
			Keep  int
		}{mails, i.cfg.Keep})
	})
	mux.HandleFunc("GET /mails/{number}", i.one(func(w http.ResponseWriter, m Mail) { show(w, "mail", m) }))
	mux.HandleFunc("GET /mails/{number}/html", i.one(func(w http.ResponseWriter, m Mail) {
		w.Header().Set("Content-Security-Policy", mailPolicy)
		// Its links open beside it, not within its frame, where they are refused.
		answer(w, "text/html; charset=utf-8", []byte(strings.Replace(m.HTML, "<head>", `<head><base target="_blank">`, 1)))
	}))
	mux.HandleFunc("GET /mails/{number}/raw", i.one(func(w http.ResponseWriter, m Mail) {
		answer(w, "text/plain; charset=utf-8", m.Raw)
	}))
	return onlyLoopback(mux)
}

// onlyLoopback refuses requests under another name than loopback's: a page of the web
// whose name was made to point here could read the mails otherwise.
func onlyLoopback(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "this inbox is read under 127.0.0.1 only", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (i *Inbox) one(show func(http.ResponseWriter, Mail)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		number, err := strconv.Atoi(r.PathValue("number"))
		mails := i.Mails()
		at := slices.IndexFunc(mails, func(m Mail) bool { return m.Number == number })
		if err != nil || at < 0 {
			http.Error(w, "this mail is not here, or not any more", http.StatusNotFound)
			return
		}
		show(w, mails[at])
	}
}

func show(w http.ResponseWriter, name string, data any) {
	w.Header().Set("Content-Security-Policy", ownPolicy)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	_ = page.ExecuteTemplate(w, name, data) // fails where the reader has gone
}

func answer(w http.ResponseWriter, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Referrer-Policy", "no-referrer")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(body) // as above
}
