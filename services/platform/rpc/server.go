package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"buf.build/go/protovalidate"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// Config of a server. Zero values mean the defaults told.
type Config struct {
	// UnaryTimeout caps how long a unary call may take, whatever deadline the
	// caller sent; default 30 s. Streams have the caller's deadline only.
	UnaryTimeout time.Duration
	// MaxRequestBytes is the greatest size of one request message; default 4 MiB.
	MaxRequestBytes int
	// JudgeStreamsEvery is how often it is looked whether the caller of a stream may still
	// have it; default 15 s.
	JudgeStreamsEvery time.Duration
	// StopTimeout is how long calls under way may take to end when the server
	// stops; then they are cut. Default 3 s.
	StopTimeout time.Duration
	// TrustedProxies are believed when they say for whom they ask; default
	// LoopbackProxies, where the gateway of the same machine is. So is whoever shows
	// a certificate that TLS asks for.
	TrustedProxies []netip.Prefix
	// TLS encrypts; nil where nothing does, as on one machine.
	TLS *tls.Config
}

// Authenticator judges an API key, given without "Bearer". Its errors are
// shown to the caller by their kind.
type Authenticator interface {
	Authenticate(ctx context.Context, key string) (authn.Caller, error)
}

// Principals tells which principals of usage a login is.
type Principals interface {
	PrincipalsOf(ctx context.Context, account, login contract.ID) ([]contract.ID, error)
}

// Service is what a server serves.
type Service interface {
	Register(grpc.ServiceRegistrar)
}

// Deps of a server; all but Principals and Origins are needed.
type Deps struct {
	Authenticator Authenticator
	// Principals tells what is a caller's own who sees nothing else; where it is nil,
	// nothing is.
	Principals Principals
	// Origins, where it is set, lets events say from where they were asked for.
	Origins  Origins
	Logger   *slog.Logger
	Services []Service
}

// Server is a gRPC server with health and reflection.
type Server struct {
	cfg    Config
	log    *slog.Logger
	grpc   *grpc.Server
	health *health.Server
}

// New makes a server. It listens to nothing before [Server.Serve]. It fails where a
// method does not say who may call it.
func New(cfg Config, deps Deps) (*Server, error) {
	if cfg.UnaryTimeout == 0 {
		cfg.UnaryTimeout = 30 * time.Second
	}
	if cfg.TrustedProxies == nil {
		cfg.TrustedProxies = LoopbackProxies()
	}
	if cfg.MaxRequestBytes == 0 {
		cfg.MaxRequestBytes = 4 << 20
	}
	if cfg.JudgeStreamsEvery == 0 {
		cfg.JudgeStreamsEvery = 15 * time.Second
	}
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = 3 * time.Second
	}
	validator, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("rpc: validator: %w", err)
	}

	rules, err := rulesOf(deps.Services)
	if err != nil {
		return nil, err
	}

	var unary []grpc.UnaryServerInterceptor
	var stream []grpc.StreamServerInterceptor
	for _, s := range steps(cfg, deps, rules, validator) {
		unary, stream = append(unary, s.unary), append(stream, s.stream)
	}
	transport := insecure.NewCredentials()
	if cfg.TLS != nil {
		transport = credentials.NewTLS(cfg.TLS)
	}
	s := &Server{
		cfg: cfg,
		log: deps.Logger,
		grpc: grpc.NewServer(
			grpc.Creds(transport),
			// Telemetry stands outside of all steps, so that it counts and times
			// what any of them refuses.
			grpc.StatsHandler(otelgrpc.NewServerHandler()),
			grpc.ChainUnaryInterceptor(unary...),
			grpc.ChainStreamInterceptor(stream...),
			grpc.MaxRecvMsgSize(cfg.MaxRequestBytes),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
			grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		),
		health: health.NewServer(),
	}
	for _, svc := range deps.Services {
		svc.Register(s.grpc)
	}
	healthv1.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	return s, nil
}

// Serve answers calls on the listener until ctx ends, then stops: no new calls,
// those under way may end within StopTimeout. It closes the listener.
func (s *Server) Serve(ctx context.Context, lis net.Listener) error {
	failed := make(chan error, 1)
	go func() { failed <- s.grpc.Serve(lis) }()
	for name := range s.grpc.GetServiceInfo() {
		s.health.SetServingStatus(name, healthv1.HealthCheckResponse_SERVING)
	}
	select {
	case err := <-failed:
		return fmt.Errorf("rpc: serve %s: %w", lis.Addr(), err)
	case <-ctx.Done():
	}

	s.health.Shutdown()
	stopped := make(chan struct{})
	go func() { s.grpc.GracefulStop(); close(stopped) }()
	timer := time.NewTimer(s.cfg.StopTimeout)
	defer timer.Stop()
	select {
	case <-stopped:
	case <-timer.C:
		s.log.WarnContext(ctx, "calls under way were cut at stop", "waited", s.cfg.StopTimeout)
		s.grpc.Stop()
		<-stopped
	}
	// A server that is stopped before it began to serve says so with
	// ErrServerStopped: that is what was asked for.
	if err := <-failed; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("rpc: serve %s: %w", lis.Addr(), err)
	}
	return nil
}
