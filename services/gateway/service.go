package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/openapi"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/rpc"
)

// Config of a gateway. Zero values mean the defaults told.
type Config struct {
	// Listen is the address for HTTP; port 0 takes a free one. Needed.
	Listen string
	// MaxBodyBytes is the greatest size of a request's body; default 1 MiB.
	MaxBodyBytes int64
	// StopTimeout is how long requests under way may take to end; default 3 s.
	StopTimeout time.Duration
	// TLS encrypts; nil where a proxy before it does, or nothing.
	TLS *tls.Config
	// Heartbeat is the time after which a silent stream of server-sent events
	// shows that it lives; default 15 s.
	Heartbeat time.Duration
}

// Deps of a gateway; all are needed but Console and Ready.
type Deps struct {
	// Metering and Identity are the connections to the services of these names.
	Metering, Identity grpc.ClientConnInterface
	// Authenticator judges keys before anything else is read of a request. The
	// services judge them again.
	Authenticator rpc.Authenticator
	Logger        *slog.Logger
	// Console answers for every path that is none of the gateway's; nil where there is none.
	Console http.Handler
	// Ready tells why requests could not be answered now; nil where they can.
	Ready func(context.Context) error
}

// Service is the gateway.
type Service struct {
	cfg  Config
	deps Deps
	lis  net.Listener
	http *http.Server
	ops  map[string]*operation
	// stopping ends the streams, which would otherwise outlast every stop.
	stopping chan struct{}
}

// New makes a gateway and takes its address, so that a port that is taken is
// told at once. It answers from Run on.
func New(ctx context.Context, cfg Config, deps Deps) (*Service, error) {
	if cfg.MaxBodyBytes == 0 {
		cfg.MaxBodyBytes = 1 << 20
	}
	if cfg.StopTimeout == 0 {
		cfg.StopTimeout = 3 * time.Second
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = 15 * time.Second
	}
	s := &Service{cfg: cfg, deps: deps, stopping: make(chan struct{})}
	handler, err := s.routes(ctx)
	if err != nil {
		return nil, err
	}
	s.http = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(deps.Logger.Handler(), slog.LevelDebug),
		TLSConfig:         cfg.TLS,
	}
	if s.lis, err = (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen); err != nil {
		return nil, errs.As(errs.Precondition, "gateway.New", "address "+cfg.Listen, "cannot be listened on", err)
	}
	return s, nil
}

// Addr is the address that it listens on.
func (s *Service) Addr() net.Addr { return s.lis.Addr() }

// Run answers requests until ctx ends; then streams end, and requests under way
// may end within StopTimeout.
func (s *Service) Run(ctx context.Context) error {
	failed := make(chan error, 1)
	go func() { failed <- serve(s.http, s.lis) }()
	select {
	case err := <-failed:
		return fmt.Errorf("gateway: serve %s: %w", s.lis.Addr(), err)
	case <-ctx.Done():
	}
	close(s.stopping)
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.StopTimeout)
	defer cancel()
	if err := s.http.Shutdown(bounded); err != nil {
		s.deps.Logger.WarnContext(ctx, "requests under way were cut at stop", "waited", s.cfg.StopTimeout)
		_ = s.http.Close()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("gateway: serve %s: %w", s.lis.Addr(), err)
	}
	return nil
}

// serve serves encrypted where the server has settings for it.
func serve(server *http.Server, lis net.Listener) error {
	if server.TLSConfig != nil {
		return server.ServeTLS(lis, "", "")
	}
	return server.Serve(lis)
}

// routes is every path that the gateway answers.
func (s *Service) routes(ctx context.Context) (http.Handler, error) {
	services := []protoreflect.ServiceDescriptor{
		meteringv1.File_cetrus_metering_v1_application_proto.Services().ByName("ApplicationService"),
		meteringv1.File_cetrus_metering_v1_settings_proto.Services().ByName("SettingsService"),
		meteringv1.File_cetrus_metering_v1_expense_proto.Services().ByName("ExpenseToProjectService"),
		meteringv1.File_cetrus_metering_v1_usage_proto.Services().ByName("UsageService"),
		meteringv1.File_cetrus_metering_v1_report_proto.Services().ByName("ReportService"),
		meteringv1.File_cetrus_metering_v1_export_proto.Services().ByName("ExportService"),
		meteringv1.File_cetrus_metering_v1_savedreport_proto.Services().ByName("SavedReportService"),
		meteringv1.File_cetrus_metering_v1_reportfile_proto.Services().ByName("ReportFileService"),
		meteringv1.File_cetrus_metering_v1_agent_proto.Services().ByName("AgentService"),
		meteringv1.File_cetrus_metering_v1_principal_proto.Services().ByName("PrincipalService"),
		identityv1.File_cetrus_identity_v1_account_proto.Services().ByName("AccountService"),
		identityv1.File_cetrus_identity_v1_login_proto.Services().ByName("LoginService"),
		identityv1.File_cetrus_identity_v1_group_proto.Services().ByName("GroupService"),
		identityv1.File_cetrus_identity_v1_apikey_proto.Services().ByName("ApiKeyService"),
		identityv1.File_cetrus_identity_v1_manager_proto.Services().ByName("ManagerService"),
		identityv1.File_cetrus_identity_v1_enrollmenttoken_proto.Services().ByName("EnrollmentTokenService"),
		identityv1.File_cetrus_identity_v1_agentadmission_proto.Services().ByName("AgentAdmissionService"),
		identityv1.File_cetrus_identity_v1_signin_proto.Services().ByName("SignInService"),
		identityv1.File_cetrus_identity_v1_passkey_proto.Services().ByName("PasskeyService"),
		identityv1.File_cetrus_identity_v1_link_proto.Services().ByName("LinkService"),
		identityv1.File_cetrus_identity_v1_audit_proto.Services().ByName("AuditService"),
		identityv1.File_cetrus_identity_v1_sso_proto.Services().ByName("SingleSignOnService"),
		identityv1.File_cetrus_identity_v1_provisioning_proto.Services().ByName("ProvisioningService"),
	}
	var err error
	if s.ops, err = operationsOf(services...); err != nil {
		return nil, err
	}
	document, err := completeOpenAPI(openapi.YAML, s.ops)
	if err != nil {
		return nil, err
	}
	rest, err := s.rest(ctx)
	if err != nil {
		return nil, err
	}

	mux := http.NewServeMux()
	mux.Handle("/v1/", rest)
	mux.Handle("/.well-known/jwks.json", rest)
	mux.Handle(singleSignOnStart, forBrowsers(s.startSingleSignOn))
	mux.Handle(singleSignOnCallback, forBrowsers(s.completeSingleSignOn))
	scim, err := s.scim()
	if err != nil {
		return nil, err
	}
	mux.Handle(scimBase+"/", scim)
	mux.Handle("/openapi.json", readOnly(static("application/json", document)))
	mux.Handle("/docs/", readOnly(docs()))
	mux.Handle("/docs", readOnly(http.RedirectHandler("/docs/", http.StatusMovedPermanently)))
	mux.Handle("/healthz", readOnly(http.HandlerFunc(s.healthz)))
	mux.Handle("/readyz", readOnly(http.HandlerFunc(s.readyz)))
	if s.deps.Console != nil {
		mux.Handle("/", s.deps.Console)
	} else {
		for _, path := range passwordPaths { // the console has pages of its own there
			mux.Handle(path, readOnly(passwords()))
		}
		mux.Handle("/{$}", readOnly(http.RedirectHandler("/docs/", http.StatusFound)))
		mux.HandleFunc("/", notFound)
	}
	return s.observed(asWritten(mux))
}

// asWritten refuses addresses that hold no text, which nothing behind could carry, and has a path
// that is not clean (//, /../) told as one that does not exist: http.ServeMux would redirect it, in
// HTML, to another question than was asked.
func asWritten(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		query, err := url.QueryUnescape(r.URL.RawQuery)
		if text := r.URL.Path + query; err == nil && (!utf8.ValidString(text) || strings.Contains(text, "\x00")) {
			writeError(w, 0, errs.New(errs.Invalid, "gateway.asWritten", "", "the address holds bytes that are no UTF-8 text, or a NUL: write text, with %XX for special characters"))
			return
		}
		if clean := path.Clean(r.URL.Path); clean != r.URL.Path && clean+"/" != r.URL.Path {
			notFound(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// rest is grpc-gateway with the checks of this package in front of each method.
func (s *Service) rest(ctx context.Context) (http.Handler, error) {
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, documents{&runtime.JSONPb{
			MarshalOptions: marshaling,
			// A misspelt field is an error, never an ignored wish.
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: false},
		}}),
		runtime.WithForwardResponseOption(nameDocument),
		runtime.WithErrorHandler(onError),
		runtime.WithRoutingErrorHandler(s.onRoutingError),
		runtime.WithIncomingHeaderMatcher(incomingHeader),
		runtime.WithOutgoingHeaderMatcher(noHeader),
		runtime.WithOutgoingTrailerMatcher(noHeader),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithMiddlewares(s.checked),
	)
	for _, err := range []error{
		meteringv1.RegisterApplicationServiceHandlerClient(ctx, mux, meteringv1.NewApplicationServiceClient(s.deps.Metering)),
		meteringv1.RegisterSettingsServiceHandlerClient(ctx, mux, meteringv1.NewSettingsServiceClient(s.deps.Metering)),
		meteringv1.RegisterExpenseToProjectServiceHandlerClient(ctx, mux, meteringv1.NewExpenseToProjectServiceClient(s.deps.Metering)),
		meteringv1.RegisterUsageServiceHandlerClient(ctx, mux, meteringv1.NewUsageServiceClient(s.deps.Metering)),
		meteringv1.RegisterReportServiceHandlerClient(ctx, mux, meteringv1.NewReportServiceClient(s.deps.Metering)),
		meteringv1.RegisterExportServiceHandlerClient(ctx, mux, meteringv1.NewExportServiceClient(s.deps.Metering)),
		meteringv1.RegisterSavedReportServiceHandlerClient(ctx, mux, meteringv1.NewSavedReportServiceClient(s.deps.Metering)),
		meteringv1.RegisterReportFileServiceHandlerClient(ctx, mux, meteringv1.NewReportFileServiceClient(s.deps.Metering)),
		meteringv1.RegisterAgentServiceHandlerClient(ctx, mux, meteringv1.NewAgentServiceClient(s.deps.Metering)),
		meteringv1.RegisterPrincipalServiceHandlerClient(ctx, mux, meteringv1.NewPrincipalServiceClient(s.deps.Metering)),
		identityv1.RegisterAccountServiceHandlerClient(ctx, mux, identityv1.NewAccountServiceClient(s.deps.Identity)),
		identityv1.RegisterLoginServiceHandlerClient(ctx, mux, identityv1.NewLoginServiceClient(s.deps.Identity)),
		identityv1.RegisterGroupServiceHandlerClient(ctx, mux, identityv1.NewGroupServiceClient(s.deps.Identity)),
		identityv1.RegisterApiKeyServiceHandlerClient(ctx, mux, identityv1.NewApiKeyServiceClient(s.deps.Identity)),
		identityv1.RegisterManagerServiceHandlerClient(ctx, mux, identityv1.NewManagerServiceClient(s.deps.Identity)),
		identityv1.RegisterEnrollmentTokenServiceHandlerClient(ctx, mux, identityv1.NewEnrollmentTokenServiceClient(s.deps.Identity)),
		identityv1.RegisterAgentAdmissionServiceHandlerClient(ctx, mux, identityv1.NewAgentAdmissionServiceClient(s.deps.Identity)),
		identityv1.RegisterSignInServiceHandlerClient(ctx, mux, identityv1.NewSignInServiceClient(s.deps.Identity)),
		identityv1.RegisterLinkServiceHandlerClient(ctx, mux, identityv1.NewLinkServiceClient(s.deps.Identity)),
		identityv1.RegisterAuditServiceHandlerClient(ctx, mux, identityv1.NewAuditServiceClient(s.deps.Identity)),
		identityv1.RegisterPasskeyServiceHandlerClient(ctx, mux, identityv1.NewPasskeyServiceClient(s.deps.Identity)),
		identityv1.RegisterSingleSignOnServiceHandlerClient(ctx, mux, identityv1.NewSingleSignOnServiceClient(s.deps.Identity)),
		identityv1.RegisterProvisioningServiceHandlerClient(ctx, mux, identityv1.NewProvisioningServiceClient(s.deps.Identity)),
	} {
		if err != nil {
			return nil, fmt.Errorf("gateway: %w", err)
		}
	}
	for _, op := range s.ops {
		if !op.method.IsStreamingServer() {
			continue
		}
		if op.Verb != http.MethodGet || op.Body != "" {
			return nil, fmt.Errorf("gateway: %s streams, but is no GET", op.id)
		}
		// Handlers registered later go first: this one replaces the generated.
		if err := mux.HandlePath(op.Verb, op.Template, s.stream(op, s.deps.Metering)); err != nil {
			return nil, fmt.Errorf("gateway: %s: %w", op.Template, err)
		}
	}
	return mux, nil
}

// marshaling is how answers are written: names as in the contract, and zeros
// written out, so that a reader sees what it can rely on.
var marshaling = protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}

func (s *Service) healthz(w http.ResponseWriter, r *http.Request) {
	static("application/json", []byte(`{"status":"ok"}`+"\n")).ServeHTTP(w, r)
}

func (s *Service) readyz(w http.ResponseWriter, r *http.Request) {
	if s.deps.Ready != nil {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if err := s.deps.Ready(ctx); err != nil {
			s.deps.Logger.DebugContext(ctx, "not ready", "error", err)
			writeError(w, 0, errs.As(errs.Unavailable, "gateway.readyz", "", "not ready: "+reason(err), err))
			return
		}
	}
	s.healthz(w, r)
}

// reason is what may be told of why the platform is not ready, without a key.
func reason(err error) string {
	var e *errs.Error
	if errors.As(err, &e) && e.Kind != errs.Internal && e.Subject != "" {
		return e.Subject
	}
	return "a part of the platform does not answer"
}
