package command

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"

	"github.com/cetrus/cetrus/ctl/contexts"
	"github.com/cetrus/cetrus/ctl/rest"
)

// session is one run: its world, its flags, and once it is needed the connection.
type session struct {
	World
	flags struct {
		context, server, caFile, config string
		noColour                        bool
	}
	// key is the API key that is called with; at is the context, where it is not that.
	key string
	at  *contexts.Context

	once  sync.Once
	conn  *rest.Conn
	fault error
	zoned *time.Location
}

// open is the file of contexts.
func (s *session) open() (*contexts.File, error) {
	path := cmp.Or(s.flags.config, s.Env("CETRUS_CONFIG"))
	if path == "" {
		var err error
		if path, err = contexts.DefaultPath(); err != nil {
			return nil, err
		}
	}
	return contexts.Open(path), nil
}

// connection is the platform that is spoken to, as whom the person is there.
func (s *session) connection() (*rest.Conn, error) {
	s.once.Do(func() { s.conn, s.fault = s.connect() })
	return s.conn, s.fault
}

func (s *session) connect() (*rest.Conn, error) {
	server, caFile := cmp.Or(s.flags.server, s.Env("CETRUS_SERVER")), cmp.Or(s.flags.caFile, s.Env("CETRUS_CA_FILE"))
	name := cmp.Or(s.flags.context, s.Env("CETRUS_CONTEXT"))
	if s.key = strings.TrimSpace(s.Env("CETRUS_API_KEY")); s.key != "" && s.flags.context == "" {
		if server == "" {
			return nil, usagef("CETRUS_API_KEY is set, and no server: set CETRUS_SERVER too, or give --server")
		}
		base, client, err := s.client(server, caFile)
		if err != nil {
			return nil, err
		}
		return rest.New(base, client, userAgent(), rest.Key(s.key)), nil
	}
	s.key = ""
	file, err := s.open()
	if err != nil {
		return nil, err
	}
	state, err := file.Read()
	if err != nil {
		return nil, err
	}
	if name = cmp.Or(name, state.Current); name == "" {
		return nil, errors.New("not signed in anywhere: begin with `cetrusctl login https://cetrus.example.com`, or set CETRUS_SERVER and CETRUS_API_KEY")
	}
	if s.at = state.Context(name); s.at == nil {
		return nil, usagef("there is no context %q: `cetrusctl context list` lists them", name)
	}
	if server != "" && strings.TrimSuffix(server, "/") != s.at.Server {
		return nil, usagef("context %s is at %s, not at %s: leave --server and CETRUS_SERVER out, or set CETRUS_API_KEY", name, s.at.Server, server)
	}
	base, client, err := s.client(s.at.Server, cmp.Or(caFile, s.at.CAFile))
	if err != nil {
		return nil, err
	}
	refresh := identityv1.NewSignInServiceClient(rest.New(base, client, userAgent(), rest.Anonymous{}))
	return rest.New(base, client, userAgent(), contexts.CredentialsOf(file, s.at, refresh, s.Now)), nil
}

func userAgent() string { return "cetrusctl/" + Version() }

// whoAmI says in whose name was called, for a refusal.
func (s *session) whoAmI() string {
	switch {
	case s.key != "":
		return " (called with the API key of CETRUS_API_KEY)"
	case s.at != nil:
		return fmt.Sprintf(" (signed in as %s of %s)", s.at.Login, s.at.Account)
	}
	return ""
}

// client is how a server is spoken to: by https, but on this machine, and through the proxy that the
// environment names.
func (s *session) client(server, caFile string) (*url.URL, *http.Client, error) {
	base, err := url.Parse(server)
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
		return nil, nil, usagef("%q is no address of a platform: write it as https://cetrus.example.com", server)
	}
	if base.User != nil || base.RawQuery != "" || base.Fragment != "" || strings.Trim(base.Path, "/") != "" {
		return nil, nil, usagef("%q has more in it than a server: write it as https://cetrus.example.com", base.Redacted())
	}
	base.Path = ""
	if base.Scheme == "http" && !loopback(base.Hostname()) {
		return nil, nil, usagef("%s is not encrypted, and passwords and keys would cross the network in the clear: use https", server)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		text, err := os.ReadFile(caFile)
		if err != nil {
			return nil, nil, err
		}
		if !pool.AppendCertsFromPEM(text) {
			return nil, nil, fmt.Errorf("%s holds no certificate in PEM", caFile)
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	return base, &http.Client{Transport: transport, CheckRedirect: func(to *http.Request, _ []*http.Request) error {
		return fmt.Errorf("it sends to %s://%s: is that the platform's address?", to.URL.Scheme, to.URL.Host)
	}}, nil
}

// loopback tells of a host that is this machine.
func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// api is a client of each service.
type api struct {
	account      identityv1.AccountServiceClient
	logins       identityv1.LoginServiceClient
	groups       identityv1.GroupServiceClient
	keys         identityv1.ApiKeyServiceClient
	managers     identityv1.ManagerServiceClient
	enrolments   identityv1.EnrollmentTokenServiceClient
	admissions   identityv1.AgentAdmissionServiceClient
	signIn       identityv1.SignInServiceClient
	audit        identityv1.AuditServiceClient
	applications meteringv1.ApplicationServiceClient
	settings     meteringv1.SettingsServiceClient
	expense      meteringv1.ExpenseToProjectServiceClient
	usage        meteringv1.UsageServiceClient
	reports      meteringv1.ReportServiceClient
	export       meteringv1.ExportServiceClient
	saved        meteringv1.SavedReportServiceClient
	files        meteringv1.ReportFileServiceClient
	agents       meteringv1.AgentServiceClient
	principals   meteringv1.PrincipalServiceClient
}

func (s *session) api() (*api, error) {
	c, err := s.connection()
	if err != nil {
		return nil, err
	}
	return &api{
		account: identityv1.NewAccountServiceClient(c), logins: identityv1.NewLoginServiceClient(c), groups: identityv1.NewGroupServiceClient(c),
		keys: identityv1.NewApiKeyServiceClient(c), managers: identityv1.NewManagerServiceClient(c), enrolments: identityv1.NewEnrollmentTokenServiceClient(c),
		admissions: identityv1.NewAgentAdmissionServiceClient(c), signIn: identityv1.NewSignInServiceClient(c), audit: identityv1.NewAuditServiceClient(c),
		applications: meteringv1.NewApplicationServiceClient(c), settings: meteringv1.NewSettingsServiceClient(c), expense: meteringv1.NewExpenseToProjectServiceClient(c),
		usage: meteringv1.NewUsageServiceClient(c), reports: meteringv1.NewReportServiceClient(c), export: meteringv1.NewExportServiceClient(c),
		saved: meteringv1.NewSavedReportServiceClient(c), files: meteringv1.NewReportFileServiceClient(c), agents: meteringv1.NewAgentServiceClient(c), principals: meteringv1.NewPrincipalServiceClient(c),
	}, nil
}

// zone is the account's time zone, in which its days begin; this machine's where it may not be asked.
func (s *session) zone(ctx context.Context) *time.Location {
	if s.zoned != nil {
		return s.zoned
	}
	s.zoned = time.Local
	if a, err := s.api(); err == nil {
		end := s.Now().Truncate(time.Hour)
		answer, err := a.usage.SummarizeUsage(ctx, &meteringv1.SummarizeUsageRequest{StartTime: stamp(end.Add(-time.Hour)), EndTime: stamp(end)})
		if zone, unknown := time.LoadLocation(answer.GetTimeZone()); err == nil && unknown == nil {
			s.zoned = zone
		}
	}
	return s.zoned
}

// terminal tells whether a stream is one, and how wide it is.
func terminal(stream any) (width int, is bool) {
	if a, ok := stream.(*announced); ok {
		stream = a.Writer
	}
	file, ok := stream.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return 0, false
	}
	width, _, err := term.GetSize(int(file.Fd()))
	if err != nil {
		return 0, true
	}
	return width, true
}

// coloured tells whether colours may be written.
func (s *session) coloured() bool {
	_, is := terminal(s.Out)
	return is && !s.flags.noColour && s.Env("NO_COLOR") == "" && s.Env("TERM") != "dumb"
}

// note tells a person something beside the answer.
func (s *session) note(text string) { fmt.Fprintln(s.Err, "cetrusctl: "+cleanLines(text)) }
