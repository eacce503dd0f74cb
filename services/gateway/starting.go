package gateway

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	// startingTries is in how many seconds a browser asks again while the platform starts.
	startingTries = 2
	// startingPage is for people; it asks again by itself.
	startingPage = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<meta http-equiv="refresh" content="%d"><title>Cetrus is starting</title></head>
<body><main><h1>Cetrus is starting</h1>
<p>This page opens by itself as soon as it is ready. After a power cut, or when it was killed, it first reads back what was being written: that may take a minute or two. Nothing is lost meanwhile: agents and Managers keep what they measure.</p></main></body></html>
`
)

// AnswerStarting answers on the gateway's address that the platform is starting, until what it returns is called:
// else people would find nobody there, and not know whether to wait. The gateway can listen there then. It is encrypted
// as the gateway will be.
func AnswerStarting(ctx context.Context, listen string, encrypted *tls.Config) (stop func(), err error) {
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return nil, errs.As(errs.Precondition, "gateway.AnswerStarting", "address "+listen, "cannot be listened on", err)
	}
	server := &http.Server{Handler: http.HandlerFunc(starting), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, MaxHeaderBytes: 64 << 10, TLSConfig: encrypted}
	server.SetKeepAlivesEnabled(false) // the next request is another's
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = serve(server, lis) // until it is closed
	}()
	return func() {
		_ = server.Close()
		<-ended
	}, nil
}

func starting(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet || !strings.Contains(r.Header.Get("Accept"), "text/html") {
		writeError(w, http.StatusServiceUnavailable, errs.New(errs.Unavailable, "gateway", "", "Cetrus is starting: repeat this in a moment"))
		return
	}
	w.Header().Set("Retry-After", strconv.Itoa(startingTries))
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	w.WriteHeader(http.StatusServiceUnavailable)
	_, _ = fmt.Fprintf(w, startingPage, startingTries) // the browser is gone where this fails
}
