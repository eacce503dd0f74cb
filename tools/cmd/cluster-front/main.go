// Command cluster-front plays the Ingress controller of a test cluster: it ends TLS with the
// certificates that Ingresses name, and hands requests, WebSockets among them, to their Services. Of
// annotations it knows the one of ingress-nginx that says that a Service speaks HTTPS.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
		fmt.Fprintln(os.Stderr, "cluster-front:", err)
		os.Exit(1)
	}
}
