package rpc

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/tlsfiles"
)

// certified are the files of a part, by a new authority.
func certified(t *testing.T) *tlsfiles.Files {
	t.Helper()
	authority, err := tlsfiles.NewAuthority("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue([]string{"part", "127.0.0.1"}, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, text := range map[string][]byte{
		tlsfiles.CertificateFile: pair.Certificate, tlsfiles.KeyFile: pair.Key, tlsfiles.AuthorityFile: authority.Certificate,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := tlsfiles.Open(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Parts know one another by their certificates, and a part is believed when it says for whom it asks, wherever
// it is. Who has none of that authority is not heard at all.
func TestPartsKnowOneAnother(t *testing.T) {
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	files, stranger := certified(t), certified(t)
	// Nobody is believed by their address.
	server, err := New(Config{TLS: files.Server("h2"), TrustedProxies: []netip.Prefix{}}, Deps{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, lis) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	ask := func(option grpc.DialOption) error {
		conn, err := grpc.NewClient(lis.Addr().String(), option)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
		return err
	}
	if err := ask(grpc.WithTransportCredentials(ClientTLS(files.Client))); err != nil {
		t.Error(err)
	}
	for who, option := range map[string]grpc.DialOption{
		"of another authority": grpc.WithTransportCredentials(ClientTLS(stranger.Client)),
		"in plain":             grpc.WithTransportCredentials(insecure.NewCredentials()),
	} {
		if err := ask(option); err == nil {
			t.Error(who, "is heard")
		}
	}

	for _, c := range []struct {
		tls  bool
		want string
	}{{true, "198.51.100.1"}, {false, "127.0.0.1"}} {
		if got := heardFrom(t, files, c.tls); got.Address.String() != c.want {
			t.Errorf("encrypted %v: the call is said to come from %s, not %s", c.tls, got.Address, c.want)
		}
	}
}

// heardFrom is from where a call comes that names another address, to a server that believes no address.
func heardFrom(t *testing.T, files *tlsfiles.Files, encrypted bool) (heard authn.Origin) {
	t.Helper()
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serves, calls := insecure.NewCredentials(), insecure.NewCredentials()
	if encrypted {
		serves, calls = credentials.NewTLS(files.Server("h2")), ClientTLS(files.Client)
	}
	server := grpc.NewServer(grpc.Creds(serves), grpc.UnaryInterceptor(originStep([]netip.Prefix{}).unary))
	healthv1.RegisterHealthServer(server, hearing{heard: &heard})
	go func() { _ = server.Serve(lis) }() // until it is stopped
	defer server.Stop()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(calls))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	ctx := metadata.AppendToOutgoingContext(t.Context(), forwardedFor, "198.51.100.1")
	if _, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	return heard
}

type hearing struct {
	healthv1.UnimplementedHealthServer

	heard *authn.Origin
}

func (h hearing) Check(ctx context.Context, _ *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	*h.heard = authn.OriginFrom(ctx)
	return &healthv1.HealthCheckResponse{}, nil
}
