package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/gateway"
	"github.com/cetrus/cetrus/services/identity"
	"github.com/cetrus/cetrus/services/identity/scim"
	"github.com/cetrus/cetrus/services/identity/sso"
	"github.com/cetrus/cetrus/services/metering"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/rpc"
)

// may is who may call a method: with which of the privileges (U Application User, A Account
// Administrator, R Report, P Purchasing, F Financial, V Provisioning; * none, but signed in) how far. It is
// written from what the product promises, not from the contract that it is compared with.
type may struct {
	self, many, account, platform string
	anybody                       bool
}

// The kinds of rules that the product knows.
var (
	// "Purchasing (new products …)": whoever buys must know how many are needed, of nobody in particular.
	seesUseOfMany = may{account: "AR", many: "P"}
	// What they may ask they may save, and have sent to themselves.
	saves = may{account: "AR", self: "UP"}
	// "Application User (own use), Account Administrator (… all use), Report (sees everybody's use)".
	seesUse = may{account: "AR", self: "U"}
	// "Account Administrator (users, applications …)": what the account has set up.
	administers = may{account: "A"}
	// The same, and whoever makes reports must know what stands in them.
	administersOrReports = may{account: "AR"}
	// Everybody's own: the login, its sessions, its keys, its second factor; what is others' is the
	// administrators'.
	ownOrAdministers = may{account: "A", self: "*"}
	own              = may{self: "*"}
	// Whoever runs the platform has accounts made and sees which there are.
	operates = may{platform: "A"}
	// Before signing in.
	open = may{anybody: true}
)

// matrix has one row for each method of the platform's services.
var matrix = map[string]may{
	"cetrus.metering.v1.AgentService/ListAgents":        administers,
	"cetrus.metering.v1.AgentService/ListManagerStates": administers,
	"cetrus.metering.v1.AgentService/GetAgent":          administers,
	"cetrus.metering.v1.AgentService/RemoveAgent":       administers,
	"cetrus.metering.v1.AgentService/GetPolicyRollout":  administers,

	"cetrus.metering.v1.ApplicationService/CreateApplication":             administers,
	"cetrus.metering.v1.ApplicationService/GetApplication":                seesUse, // "clear sight of what is recorded"
	"cetrus.metering.v1.ApplicationService/ListApplications":              seesUse,
	"cetrus.metering.v1.ApplicationService/UpdateApplication":             administers,
	"cetrus.metering.v1.ApplicationService/DeleteApplication":             administers,
	"cetrus.metering.v1.ApplicationService/ListApplicationTemplates":      administers,
	"cetrus.metering.v1.ApplicationService/GetApplicationTemplate":        administers,
	"cetrus.metering.v1.ApplicationService/CreateApplicationFromTemplate": administers,
	"cetrus.metering.v1.ApplicationService/TestRules":                     administers,
	"cetrus.metering.v1.ApplicationService/ListSeenPrograms":              administers,

	"cetrus.metering.v1.ExpenseToProjectService/GetExpenseToProject":    administers,
	"cetrus.metering.v1.ExpenseToProjectService/UpdateExpenseToProject": administers,
	"cetrus.metering.v1.SettingsService/GetSettings":                    administers,
	"cetrus.metering.v1.SettingsService/UpdateSettings":                 administers,

	"cetrus.metering.v1.UsageService/SummarizeUsage":     seesUse,
	"cetrus.metering.v1.UsageService/SearchFilterValues": seesUse,
	"cetrus.metering.v1.UsageService/ListInstances":      seesUse,
	"cetrus.metering.v1.UsageService/GetInstance":        seesUse,
	"cetrus.metering.v1.UsageService/ListIntervals":      seesUse,
	"cetrus.metering.v1.UsageService/ListDocuments":      seesUse,
	"cetrus.metering.v1.UsageService/QueryConcurrency":   seesUse,
	"cetrus.metering.v1.UsageService/StreamLiveUsage":    seesUse,
	"cetrus.metering.v1.UsageService/GetDataQuality":     administersOrReports,

	"cetrus.metering.v1.ReportService/QueryDemand":         seesUse,
	"cetrus.metering.v1.ReportService/QueryLicencesNeeded": seesUse,
	"cetrus.metering.v1.ReportService/RankUsage":           seesUse,
	"cetrus.metering.v1.ReportService/ListUnused":          seesUse,
	"cetrus.metering.v1.ReportService/QueryIdle":           seesUse,
	"cetrus.metering.v1.ReportService/ForecastDemand":      seesUse,
	"cetrus.metering.v1.ReportService/QueryTimeline":       seesUse,
	"cetrus.metering.v1.ReportService/SummarizeSessions":   seesUse,
	"cetrus.metering.v1.ReportService/ListSessionChanges":  seesUse,
	"cetrus.metering.v1.ReportService/QueryDistribution":   seesUse,
	"cetrus.metering.v1.ExportService/ExportReport":        {account: "AR", many: "P", self: "U"}, // what the reports show, by the rule of each
	"cetrus.metering.v1.ReportService/QueryAccountUse":     seesUseOfMany,

	"cetrus.metering.v1.SavedReportService/CreateSavedReport":  saves,
	"cetrus.metering.v1.SavedReportService/GetSavedReport":     saves,
	"cetrus.metering.v1.SavedReportService/ListSavedReports":   saves,
	"cetrus.metering.v1.SavedReportService/UpdateSavedReport":  saves,
	"cetrus.metering.v1.SavedReportService/DeleteSavedReport":  saves,
	"cetrus.metering.v1.SavedReportService/ResolveSavedReport": saves,
	"cetrus.metering.v1.SavedReportService/SendSavedReport":    saves,
	"cetrus.metering.v1.ReportFileService/CreateReportFile":    saves, // what the reports show, by the rule of each
	"cetrus.metering.v1.ReportFileService/GetReportFile":       saves,
	"cetrus.metering.v1.ReportFileService/ListReportFiles":     saves,
	"cetrus.metering.v1.ReportFileService/CancelReportFile":    saves,
	"cetrus.metering.v1.ReportFileService/DeleteReportFile":    saves,
	"cetrus.metering.v1.ReportFileService/DownloadReportFile":  saves,
	"cetrus.metering.v1.SavedReportService/ListReportRuns":     saves,

	"cetrus.metering.v1.PrincipalService/ListPrincipals":   administers,
	"cetrus.metering.v1.PrincipalService/BindLogin":        administers,
	"cetrus.metering.v1.PrincipalService/UnbindLogin":      administers,
	"cetrus.metering.v1.PrincipalService/MergePrincipal":   administers,
	"cetrus.metering.v1.PrincipalService/ForgetPrincipal":  administers,
	"cetrus.metering.v1.PrincipalService/ListCorrections":  administers,
	"cetrus.metering.v1.PrincipalService/GetMyData":        own, // "the person at the desktop can see what is recorded"
	"cetrus.metering.v1.PrincipalService/ExportMyData":     own,
	"cetrus.metering.v1.PrincipalService/AskForCorrection": own,

	"cetrus.identity.v1.AccountService/GetAccount":    {account: "*"},
	"cetrus.identity.v1.AccountService/UpdateAccount": administers,
	"cetrus.identity.v1.AccountService/ListAccounts":  operates,
	"cetrus.identity.v1.AccountService/CreateAccount": operates,

	"cetrus.identity.v1.LoginService/CreateLogin": administers,
	"cetrus.identity.v1.LoginService/GetLogin":    administers,
	"cetrus.identity.v1.LoginService/ListLogins":  administers,
	"cetrus.identity.v1.LoginService/UpdateLogin": administers,
	"cetrus.identity.v1.LoginService/DeleteLogin": administers,
	"cetrus.identity.v1.LoginService/GetMyLogin":  own,

	"cetrus.identity.v1.GroupService/CreateGroup": administers,
	"cetrus.identity.v1.GroupService/GetGroup":    administersOrReports,
	"cetrus.identity.v1.GroupService/ListGroups":  administersOrReports,
	"cetrus.identity.v1.GroupService/UpdateGroup": administers,
	"cetrus.identity.v1.GroupService/DeleteGroup": administers,

	"cetrus.identity.v1.ApiKeyService/CreateApiKey": ownOrAdministers,
	"cetrus.identity.v1.ApiKeyService/GetApiKey":    ownOrAdministers,
	"cetrus.identity.v1.ApiKeyService/ListApiKeys":  ownOrAdministers,
	"cetrus.identity.v1.ApiKeyService/RevokeApiKey": ownOrAdministers,

	"cetrus.identity.v1.AuditService/ListAuditEntries":   administers,
	"cetrus.identity.v1.AuditService/ExportAuditEntries": administers,

	// "an administrator creates a site's Manager with a one-time token".
	"cetrus.identity.v1.ManagerService/CreateManager":     administers,
	"cetrus.identity.v1.ManagerService/GetManager":        administers,
	"cetrus.identity.v1.ManagerService/ListManagers":      administers,
	"cetrus.identity.v1.ManagerService/RenewManagerToken": administers,
	"cetrus.identity.v1.ManagerService/RevokeManager":     administers,
	// "agents' tokens made at the platform", and "revocation takes effect at the Manager".
	"cetrus.identity.v1.EnrollmentTokenService/CreateEnrollmentToken": administers,
	"cetrus.identity.v1.EnrollmentTokenService/GetEnrollmentToken":    administers,
	"cetrus.identity.v1.EnrollmentTokenService/ListEnrollmentTokens":  administers,
	"cetrus.identity.v1.EnrollmentTokenService/RevokeEnrollmentToken": administers,
	"cetrus.identity.v1.AgentAdmissionService/RevokeAgent":            administers,
	"cetrus.identity.v1.AgentAdmissionService/ReadmitAgent":           administers,
	"cetrus.identity.v1.AgentAdmissionService/GetAgentAdmission":      administers,
	"cetrus.identity.v1.AgentAdmissionService/ListAgentAdmissions":    administers,
	"cetrus.identity.v1.ManagerService/EnrollManager":                 open, // by its one-time token,
	"cetrus.identity.v1.SingleSignOnService/GetIdentityProvider":      administers,
	"cetrus.identity.v1.SingleSignOnService/UpdateIdentityProvider":   administers,
	"cetrus.identity.v1.SingleSignOnService/StartSingleSignOn":        open,
	"cetrus.identity.v1.SingleSignOnService/CompleteSingleSignOn":     open, // by what the browser kept and the provider says

	// Everybody's own passkeys; whoever has lost theirs asks an administrator to remove them.
	"cetrus.identity.v1.PasskeyService/BeginPasskeyRegistration":  own,
	"cetrus.identity.v1.PasskeyService/FinishPasskeyRegistration": own,
	"cetrus.identity.v1.PasskeyService/ListPasskeys":              ownOrAdministers,
	"cetrus.identity.v1.PasskeyService/UpdatePasskey":             own,
	"cetrus.identity.v1.PasskeyService/RemovePasskey":             ownOrAdministers,
	"cetrus.identity.v1.PasskeyService/BeginPasskeySignIn":        open,
	"cetrus.identity.v1.PasskeyService/SignInWithPasskey":         open, // by the passkey

	// "switch without signing in again".
	"cetrus.identity.v1.LinkService/LinkLogin":        own,
	"cetrus.identity.v1.LinkService/ListLinkedLogins": own,
	"cetrus.identity.v1.LinkService/UnlinkLogin":      own,
	"cetrus.identity.v1.LinkService/SwitchAccount":    own,
	// "creation by single sign-on or provisioning is off until one switches it on"; an identity
	// provider's key has the one privilege that it needs.
	"cetrus.identity.v1.ProvisioningService/GetProvisioning":    administers,
	"cetrus.identity.v1.ProvisioningService/UpdateProvisioning": administers,
	"cetrus.identity.v1.ProvisioningService/HandleScim":         {account: "V"},

	"cetrus.identity.v1.SignInService/SignIn":                open,
	"cetrus.identity.v1.SignInService/RefreshSession":        open, // by its own token
	"cetrus.identity.v1.SignInService/SignOut":               open, // by its own token
	"cetrus.identity.v1.SignInService/RequestPasswordReset":  open,
	"cetrus.identity.v1.SignInService/CompletePasswordReset": open, // by the mailed link
	"cetrus.identity.v1.SignInService/GetJwks":               open,
	"cetrus.identity.v1.SignInService/ListSessions":          ownOrAdministers,
	"cetrus.identity.v1.SignInService/EndSession":            ownOrAdministers,
	"cetrus.identity.v1.SignInService/ChangePassword":        own,
	"cetrus.identity.v1.SignInService/SetOneTimePassword":    administers,
	"cetrus.identity.v1.SignInService/GetSecondFactor":       ownOrAdministers,
	"cetrus.identity.v1.SignInService/EnrolTotp":             own,
	"cetrus.identity.v1.SignInService/ConfirmTotp":           own,
	"cetrus.identity.v1.SignInService/RemoveSecondFactor":    ownOrAdministers,
	"cetrus.identity.v1.SignInService/RenewRecoveryCodes":    own,
	"cetrus.identity.v1.SignInService/GetSignInPolicy":       administers,
	"cetrus.identity.v1.SignInService/UpdateSignInPolicy":    administers,
}

// elsewhere are the packages whose services agents and Managers serve, by certificates.
var elsewhere = []protoreflect.FullName{"cetrus.agent.v1", "cetrus.plugin.v1"}

// letters are the privileges in the order of their numbers in the contract.
const letters = "UARPFV"

// of tells whether a set of privileges meets what a row asks for.
func of(privileges authn.Privileges, wanted string) bool {
	for i, letter := range letters {
		if strings.ContainsRune(wanted, letter) && privileges.Has(authzv1.Privilege(i+1)) {
			return true
		}
	}
	return wanted == "*"
}

// reach is how far a caller who is let in sees; unspecified: they are not.
func (m may) reach(privileges authn.Privileges, operator bool) authzv1.Reach {
	switch {
	case operator && of(privileges, m.platform):
		return authzv1.Reach_REACH_PLATFORM
	case of(privileges, m.account):
		return authzv1.Reach_REACH_ACCOUNT
	case of(privileges, m.many):
		return authzv1.Reach_REACH_AGGREGATE
	case of(privileges, m.self):
		return authzv1.Reach_REACH_SELF
	}
	return authzv1.Reach_REACH_UNSPECIFIED
}

// caller is one way to come with a set of privileges.
type caller struct {
	name       string
	credential string
	account    contract.ID // zero: the credential is good for nothing
	operator   bool
	privileges authn.Privileges
}

// callers are all of them: each set of privileges of the own account and of another one,
// expired, revoked, and nobody at all.
type callers struct {
	auth *authn.Authenticator
	own  contract.ID // the operator's
	all  []caller
}

func newCallers(t *testing.T) *callers {
	t.Helper()
	now := time.Now()
	keys, _, err := authn.Bootstrap(t.TempDir(), now)
	if err != nil {
		t.Fatal(err)
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := authn.NewSigner(authn.Issuer(keys.Account()), private)
	if err != nil {
		t.Fatal(err)
	}
	directory := authn.NewDirectory(authn.NewTokens(authn.Issuer(keys.Account()), time.Now), time.Now)
	c := &callers{auth: &authn.Authenticator{Keys: keys, Directory: directory}, own: keys.Account()}
	directory.SigningKeyPublished(public)
	directory.Level()
	directory.Hears(true)
	sign := func(account, login, session contract.ID, issued time.Time) string {
		text, err := signer.Sign(authn.AccessToken{Account: account, Login: login, Session: session, Issued: issued, Privileges: authn.AllPrivileges()})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	other := contract.ID{0xee}
	for set := range 1 << len(letters) {
		privileges := authn.Privileges(set << 1)
		login, session, ended := contract.ID{1, byte(set)}, contract.ID{2, byte(set)}, contract.ID{3, byte(set)}
		for _, account := range []contract.ID{c.own, other} {
			directory.LoginPrivileges(account, login, privileges)
		}
		directory.SessionEnded(ended, now)
		// The other account's logins come with API keys, the own one's with tokens.
		prefix, key := authn.NewKey()
		directory.KeyCreated(other, login, contract.ID{4, byte(set)}, sha256.Sum256([]byte(key)), prefix, authn.AllPrivileges(), now.Add(time.Hour))
		name := ""
		for i, letter := range letters {
			if privileges.Has(authzv1.Privilege(i + 1)) {
				name += string(letter)
			}
		}
		c.all = append(c.all,
			caller{name + " of the own account", sign(c.own, login, session, now.Truncate(time.Second)), c.own, true, privileges},
			caller{name + " of another account", key, other, false, privileges},
			caller{name + " of no account", "", contract.ID{}, false, privileges},
			caller{name + ", expired", sign(c.own, login, session, now.Add(-authn.TokenLife-time.Second)), contract.ID{}, false, privileges},
			caller{name + ", revoked", sign(c.own, login, ended, now.Truncate(time.Second)), contract.ID{}, false, privileges},
		)
	}
	return c
}

// methodsOf are all methods of the contract that the platform serves.
func methodsOf() map[string]protoreflect.MethodDescriptor {
	methods := map[string]protoreflect.MethodDescriptor{}
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(file.Package()), "cetrus.") || slices.Contains(elsewhere, file.Package()) {
			return true
		}
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				methods[string(service.FullName())+"/"+string(method.Name())] = method
			}
		}
		return true
	})
	return methods
}

// stubs are the platform's services without what they do: each call answers with who it was
// found to come from.
type stubs map[string]protoreflect.MethodDescriptor

func (s stubs) Register(r grpc.ServiceRegistrar) {
	services := map[string]*grpc.ServiceDesc{}
	for full, method := range s {
		name, _, _ := strings.Cut(full, "/")
		if services[name] == nil {
			services[name] = &grpc.ServiceDesc{ServiceName: name, HandlerType: (*any)(nil)}
		}
		if method.IsStreamingServer() {
			services[name].Streams = append(services[name].Streams, grpc.StreamDesc{
				StreamName: string(method.Name()), ServerStreams: true,
				Handler: func(_ any, stream grpc.ServerStream) error {
					stream.SetTrailer(found(stream.Context()))
					return status.Error(codes.Unimplemented, "a stub")
				},
			})
			continue
		}
		services[name].Methods = append(services[name].Methods, grpc.MethodDesc{
			MethodName: string(method.Name()),
			Handler: func(_ any, ctx context.Context, decode func(any) error, around grpc.UnaryServerInterceptor) (any, error) {
				request := &emptypb.Empty{} // whatever it says: it is about who may say it
				if err := decode(request); err != nil {
					return nil, err
				}
				return around(ctx, request, &grpc.UnaryServerInfo{FullMethod: "/" + full}, func(ctx context.Context, _ any) (any, error) {
					return nil, errors.Join(grpc.SetTrailer(ctx, found(ctx)), status.Error(codes.Unimplemented, "a stub"))
				})
			},
		})
	}
	for _, desc := range services {
		r.RegisterService(desc, s)
	}
}

// found tells who a call was found to come from.
func found(ctx context.Context) metadata.MD {
	c, err := authn.CallerFrom(ctx)
	if err != nil {
		return metadata.Pairs("found", "nobody")
	}
	return metadata.Pairs("found", c.Account.String()+" "+c.Reach.String())
}

// serveStubs serves them as the process serves the real ones.
func serveStubs(t *testing.T, c *callers, methods stubs) *grpc.ClientConn {
	t.Helper()
	server, err := rpc.New(rpc.Config{StopTimeout: time.Second}, rpc.Deps{Authenticator: c.auth, Logger: slog.New(slog.DiscardHandler), Services: []rpc.Service{methods}})
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, lis) }()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return conn
}

// ask calls a method and tells who was found, or the error's code.
func ask(ctx context.Context, conn *grpc.ClientConn, full string, method protoreflect.MethodDescriptor, credential string) string {
	if credential != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+credential)
	}
	var trailer metadata.MD
	var err error
	if method.IsStreamingServer() {
		var stream grpc.ClientStream
		if stream, err = conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/"+full); err == nil {
			err = errors.Join(stream.SendMsg(&emptypb.Empty{}), stream.CloseSend())
			if answer := stream.RecvMsg(&emptypb.Empty{}); answer != nil {
				err = answer
			}
			trailer = stream.Trailer()
		}
	} else {
		err = conn.Invoke(ctx, "/"+full, &emptypb.Empty{}, &emptypb.Empty{}, grpc.Trailer(&trailer))
	}
	if who := trailer.Get("found"); len(who) == 1 && status.Code(err) == codes.Unimplemented {
		return who[0]
	}
	return status.Code(err).String()
}

// want is what ask should tell.
func (m may) want(c caller) string {
	reach := m.reach(c.privileges, c.operator)
	switch {
	case m.anybody:
		return "nobody"
	case c.account.IsZero():
		return codes.Unauthenticated.String()
	case reach == authzv1.Reach_REACH_UNSPECIFIED:
		return codes.PermissionDenied.String()
	}
	return c.account.String() + " " + reach.String()
}

// TestAuthorizationMatrix asks each method as each caller, and compares what is decided with
// what the product promises.
func TestAuthorizationMatrix(t *testing.T) {
	methods := methodsOf()
	for full := range methods {
		if _, ok := matrix[full]; !ok {
			t.Errorf("%s has no row: write from the product who may call it", full)
		}
	}
	for full := range matrix {
		if _, ok := methods[full]; !ok {
			t.Errorf("the row %s is of no method", full)
		}
	}
	for _, full := range servedMethods() {
		if _, ok := methods[full]; !ok {
			t.Errorf("%s is served, and is not in the matrix", full)
		}
	}
	if t.Failed() {
		return
	}
	c := newCallers(t)
	conn := serveStubs(t, c, methods)
	cells, wrong := 0, 0
	for _, full := range slices.Sorted(maps.Keys(methods)) {
		for _, caller := range c.all {
			cells++
			if got, want := ask(t.Context(), conn, full, methods[full], caller.credential), matrix[full].want(caller); got != want {
				if wrong++; wrong <= 20 {
					t.Errorf("%s, %s: %s, not %s", full, caller.name, got, want)
				}
			}
		}
	}
	if want := len(methods) * (1 << len(letters)) * 5; cells != want {
		t.Errorf("%d cells, not %d", cells, want)
	}
	fmt.Printf("authorization matrix: %d cells, %d wrong\n", cells, wrong)
}

// registered gathers the services that are registered with it.
type registered []string

func (r *registered) RegisterService(desc *grpc.ServiceDesc, _ any) {
	for _, m := range desc.Methods {
		*r = append(*r, desc.ServiceName+"/"+m.MethodName)
	}
	for _, s := range desc.Streams {
		*r = append(*r, desc.ServiceName+"/"+s.StreamName)
	}
}

// servedMethods are those that the process registers today.
func servedMethods() []string {
	var served registered
	for _, service := range []rpc.Service{&metering.Service{}, &identity.Service{}, &sso.Service{}, &scim.Service{}} {
		service.Register(&served)
	}
	return served
}

var pathVariable = regexp.MustCompile(`\{[^}]*\}`)

// TestAuthorizationMatrixOfREST asks the same through the gateway, which judges by itself.
func TestAuthorizationMatrixOfREST(t *testing.T) {
	methods := methodsOf()
	c := newCallers(t)
	conn := serveStubs(t, c, methods)
	gw, err := gateway.New(t.Context(), gateway.Config{Listen: "127.0.0.1:0", StopTimeout: time.Second},
		gateway.Deps{Metering: conn, Identity: conn, Authenticator: c.auth, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- gw.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	call := func(verb, path, credential string) (int, []byte) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), verb, "http://"+gw.Addr().String()+path, strings.NewReader(""))
		if err != nil {
			t.Fatal(err)
		}
		if credential != "" {
			req.Header.Set("Authorization", "Bearer "+credential)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, body
	}
	_, document := call(http.MethodGet, "/openapi.json", "")
	var described struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(document, &described); err != nil {
		t.Fatal(err)
	}
	type operation struct{ verb, path string }
	operations := map[string]operation{}
	for path, verbs := range described.Paths {
		for verb, op := range verbs {
			operations[op.OperationID] = operation{strings.ToUpper(verb), pathVariable.ReplaceAllString(path, "x")}
		}
	}
	cells, wrong, reached := 0, 0, map[string]bool{}
	for _, full := range slices.Sorted(maps.Keys(methods)) {
		service := string(methods[full].Parent().Name())
		op, ok := operations[service+"_"+string(methods[full].Name())]
		if bound := proto.HasExtension(methods[full].Options(), annotations.E_Http); bound != ok && slices.Contains(servedMethods(), full) {
			t.Errorf("%s has a path: %t; the document has it: %t", full, bound, ok)
		}
		if !ok {
			continue
		}
		reached[full] = true
		for _, caller := range c.all {
			cells++
			code, body := call(op.verb, op.path, caller.credential)
			got := "let in"
			switch code {
			case http.StatusUnauthorized:
				got = codes.Unauthenticated.String()
			case http.StatusForbidden:
				got = codes.PermissionDenied.String()
			case http.StatusNotFound, http.StatusMethodNotAllowed:
				got = string(body)
			}
			want := matrix[full].want(caller)
			if want != codes.Unauthenticated.String() && want != codes.PermissionDenied.String() {
				want = "let in"
			}
			if got != want {
				if wrong++; wrong <= 20 {
					t.Errorf("%s %s, %s: %s, not %s", op.verb, op.path, caller.name, got, want)
				}
			}
		}
	}
	if len(reached) < 20 {
		t.Errorf("only %d methods were reached", len(reached))
	}
	fmt.Printf("authorization matrix of REST: %d cells, %d wrong\n", cells, wrong)
}
