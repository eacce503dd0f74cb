package console

import (
	"embed"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/rpc"
)

//go:embed templates
var templateFiles embed.FS

// Deps of a console; all are needed but Now.
type Deps struct {
	// Metering and Identity are the connections to the services of these names.
	Metering, Identity grpc.ClientConnInterface
	// Authenticator tells from an access token whose it is. The services judge it again.
	Authenticator rpc.Authenticator
	Logger        *slog.Logger
	// Now is the time; default: the clock's.
	Now func() time.Time
}

// Service is the console.
type Service struct {
	deps         Deps
	usage        meteringv1.UsageServiceClient
	reports      meteringv1.ReportServiceClient
	programs     meteringv1.ApplicationServiceClient
	agents       meteringv1.AgentServiceClient
	signIn       identityv1.SignInServiceClient
	logins       identityv1.LoginServiceClient
	accounts     identityv1.AccountServiceClient
	managers     identityv1.ManagerServiceClient
	links        identityv1.LinkServiceClient
	groupsAPI    identityv1.GroupServiceClient
	apiKeys      identityv1.ApiKeyServiceClient
	sso          identityv1.SingleSignOnServiceClient
	provisioning identityv1.ProvisioningServiceClient
	passkeys     identityv1.PasskeyServiceClient
	auditing     identityv1.AuditServiceClient
	enrolments   identityv1.EnrollmentTokenServiceClient
	admissions   identityv1.AgentAdmissionServiceClient
	principals   meteringv1.PrincipalServiceClient
	settings     meteringv1.SettingsServiceClient
	templates    *templateSets
	assets       *assets
	renewals     *renewals
	// submissions are the forms that were sent lately.
	submissions *submissions
	typed       *typed
	zones       *zones
	// savable are the pages whose report can be saved, by their paths.
	savable  map[string]*page
	savedAPI meteringv1.SavedReportServiceClient
	filesAPI meteringv1.ReportFileServiceClient
	handler  http.Handler
	// stopping ends the streams, which would otherwise outlast every stop.
	stopping chan struct{}
}

// New makes a console.
func New(deps Deps) (*Service, error) {
	if deps.Now == nil {
		deps.Now = time.Now
	}
	s := &Service{
		deps:         deps,
		usage:        meteringv1.NewUsageServiceClient(deps.Metering),
		reports:      meteringv1.NewReportServiceClient(deps.Metering),
		programs:     meteringv1.NewApplicationServiceClient(deps.Metering),
		agents:       meteringv1.NewAgentServiceClient(deps.Metering),
		signIn:       identityv1.NewSignInServiceClient(deps.Identity),
		logins:       identityv1.NewLoginServiceClient(deps.Identity),
		accounts:     identityv1.NewAccountServiceClient(deps.Identity),
		managers:     identityv1.NewManagerServiceClient(deps.Identity),
		links:        identityv1.NewLinkServiceClient(deps.Identity),
		groupsAPI:    identityv1.NewGroupServiceClient(deps.Identity),
		apiKeys:      identityv1.NewApiKeyServiceClient(deps.Identity),
		sso:          identityv1.NewSingleSignOnServiceClient(deps.Identity),
		provisioning: identityv1.NewProvisioningServiceClient(deps.Identity),
		passkeys:     identityv1.NewPasskeyServiceClient(deps.Identity),
		auditing:     identityv1.NewAuditServiceClient(deps.Identity),
		enrolments:   identityv1.NewEnrollmentTokenServiceClient(deps.Identity),
		admissions:   identityv1.NewAgentAdmissionServiceClient(deps.Identity),
		principals:   meteringv1.NewPrincipalServiceClient(deps.Metering),
		settings:     meteringv1.NewSettingsServiceClient(deps.Metering),
		savedAPI:     meteringv1.NewSavedReportServiceClient(deps.Metering),
		filesAPI:     meteringv1.NewReportFileServiceClient(deps.Metering),
		submissions:  newSubmissions(deps.Now),
		typed:        newTyped(deps.Now),
		zones:        newZones(deps.Now),
		stopping:     make(chan struct{}),
	}
	s.savable = map[string]*page{}
	for i := range pages {
		if exported[pages[i].path] != nil && !strings.Contains(pages[i].path, "{") {
			s.savable[pages[i].path] = &pages[i]
		}
	}
	s.renewals = newRenewals(s.signIn, deps.Now)
	var err error
	if s.assets, err = loadAssets(); err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	parsed, err := parseTemplates(s.assets)
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	s.templates = newTemplateSets(parsed)
	s.handler = s.routes()
	return s, nil
}

// Stop ends what would go on for ever: pages that follow changes. It is called once.
func (s *Service) Stop() { close(s.stopping) }

// ServeHTTP answers for every path of the console.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// policy allows what this origin serves as files, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; " +
	"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

func (s *Service) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.admitted(s.home))
	for i := range pages {
		mux.HandleFunc("GET "+pages[i].path, s.admitted(s.page(&pages[i])))
	}
	for i := range actions {
		mux.HandleFunc("POST "+actions[i].path, s.admitted(s.act(&actions[i])))
		if actions[i].path != actions[i].page {
			mux.HandleFunc("GET "+actions[i].path, s.admitted(s.ask(&actions[i])))
		}
	}
	for _, d := range downloads {
		mux.HandleFunc("GET "+d.path, s.admitted(s.give(d.may, d.give)))
	}
	mux.HandleFunc("POST /me/passkeys/begin", s.admitted(s.beginPasskey))
	s.exportRoutes(mux)
	mux.HandleFunc("GET /saved-reports/{id}/open", s.admitted(s.openSaved))
	mux.HandleFunc("GET /files/{id}/download", s.admitted(s.downloadFile))
	mux.HandleFunc("GET /now/changes", s.admitted(s.nowChanges))
	mux.HandleFunc("POST /applications/{id}/draft", s.admitted(s.draft))
	mux.HandleFunc("GET /applications/rollout", s.admitted(s.showRollout))
	mux.HandleFunc("GET /applications/{id}/rollout", s.admitted(s.showRollout))
	mux.HandleFunc("GET /filter-matches", s.admitted(s.filterMatches))
	mux.HandleFunc("GET /quality/badge", s.admitted(s.qualityBadge))
	mux.HandleFunc("GET "+trendPath, s.admitted(s.useTrend))
	mux.HandleFunc("GET /sign-in", s.signInPage)
	mux.HandleFunc("POST /sign-in", s.signInStep)
	mux.HandleFunc("POST /sign-in/challenge", s.challenge)
	mux.HandleFunc("POST /sign-in/single-sign-on", s.beginSingleSignOn)
	// The gateway's own address, for the attempts that the console began.
	mux.HandleFunc("GET /v1/singleSignOn/{account_id}/callback", s.endSingleSignOn)
	mux.HandleFunc("GET /forgotten-password", s.forgottenPage)
	mux.HandleFunc("POST /forgotten-password", s.askForLink)
	for _, path := range []string{resetPath, invitePath} {
		mux.HandleFunc("GET "+path, s.choosingPage)
		mux.HandleFunc("POST "+path, s.setPassword)
	}
	mux.HandleFunc("POST /sign-out", s.signOut)
	mux.HandleFunc("GET /switch", s.admitted(s.switchMenu))
	mux.HandleFunc("POST /switch", s.admitted(s.switchAccount))
	mux.HandleFunc("GET "+assetsPath, s.assets.serve)
	mux.HandleFunc("/", s.lost)
	// A form or script of another site carries the person's cookies, and must change nothing.
	guard := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Referrer-Policy", "same-origin")
		w.Header().Set("Cache-Control", "no-store")
		guard.Handler(mux).ServeHTTP(w, r)
	})
}

// home sends whoever comes to the first page that they may see, or to the guide while there is
// nothing to see yet.
func (s *Service) home(v *visit) {
	if s.unready(v) {
		http.Redirect(v.w, v.r, "/start", http.StatusSeeOther)
		return
	}
	i := slices.IndexFunc(pages, func(p page) bool { return p.icon != "" && p.may(v.caller.Privileges) }) // everybody has their own
	http.Redirect(v.w, v.r, pages[i].path, http.StatusSeeOther)
}
