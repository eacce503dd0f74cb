package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	pluginv1 "github.com/cetrus/cetrus/proto/cetrus/plugin/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/authz"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/rpc"
)

// service does what its fields say.
type service struct {
	meteringv1.UnimplementedUsageServiceServer
	meteringv1.UnimplementedApplicationServiceServer
	unary  func(context.Context) error
	stream func(context.Context) error
}

func (s *service) Register(r grpc.ServiceRegistrar) {
	meteringv1.RegisterUsageServiceServer(r, s)
	meteringv1.RegisterApplicationServiceServer(r, s)
}

func (s *service) GetInstance(ctx context.Context, _ *meteringv1.GetInstanceRequest) (*meteringv1.GetInstanceResponse, error) {
	return &meteringv1.GetInstanceResponse{}, s.unary(ctx)
}

func (s *service) StreamLiveUsage(_ *meteringv1.StreamLiveUsageRequest, out grpc.ServerStreamingServer[meteringv1.StreamLiveUsageResponse]) error {
	return s.stream(out.Context())
}

const someID = "0198f2aa-0000-4000-8000-000000000001"

type fixture struct {
	*service
	client meteringv1.UsageServiceClient
	conn   *grpc.ClientConn
	keyed  context.Context
	keys   *authn.Keys
	log    *bytes.Buffer
	stop   func() error
}

func start(t testing.TB, cfg rpc.Config) *fixture { return startAs(t, cfg, nil) }

// startAs starts a server with an authenticator; nil: its keys.
func startAs(t testing.TB, cfg rpc.Config, auth rpc.Authenticator) *fixture {
	t.Helper()
	return startWith(t, cfg, rpc.Deps{Authenticator: auth})
}

func startWith(t testing.TB, cfg rpc.Config, deps rpc.Deps) *fixture {
	t.Helper()
	f := &fixture{service: &service{}, log: &bytes.Buffer{}}
	keys, key, err := authn.Bootstrap(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if deps.Authenticator == nil {
		deps.Authenticator = keys
	}
	deps.Logger, deps.Services = slog.New(slog.NewTextHandler(f.log, nil)), []rpc.Service{f.service}
	srv, err := rpc.New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, lis) }()
	f.stop = func() error { cancel(); err := <-done; done <- err; return err }
	t.Cleanup(func() {
		if err := f.stop(); err != nil {
			t.Error(err)
		}
	})
	if f.conn, err = grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.conn.Close() })
	f.client, f.keys = meteringv1.NewUsageServiceClient(f.conn), keys
	f.keyed = metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+key)
	return f
}

// call calls both kinds of methods and answers with their errors.
func (f *fixture) call(ctx context.Context) map[string]error {
	_, unary := f.client.GetInstance(ctx, &meteringv1.GetInstanceRequest{InstanceId: someID})
	return map[string]error{"unary": unary, "stream": f.callStream(ctx)}
}

func (f *fixture) callStream(ctx context.Context) error {
	s, err := f.client.StreamLiveUsage(ctx, &meteringv1.StreamLiveUsageRequest{})
	if err != nil {
		return err
	}
	if _, err = s.Recv(); errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func info(err error) *errdetails.ErrorInfo {
	for _, d := range status.Convert(err).Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok {
			return i
		}
	}
	return &errdetails.ErrorInfo{}
}

func TestWithoutAKeyNothingRuns(t *testing.T) {
	f := start(t, rpc.Config{})
	reached := func(context.Context) error { t.Error("the handler ran"); return nil }
	f.unary, f.stream = reached, reached
	for name, ctx := range map[string]context.Context{
		"none":  t.Context(),
		"wrong": metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer cetrus_nonsense"),
		"basic": metadata.AppendToOutgoingContext(t.Context(), "authorization", "Basic eDp5"),
		"two":   metadata.AppendToOutgoingContext(f.keyed, "x-api-key", "cetrus_other"),
	} {
		for kind, err := range f.call(ctx) {
			if status.Code(err) != codes.Unauthenticated || info(err).GetDomain() != rpc.Domain || !strings.HasPrefix(info(err).GetReason(), "API_KEY_") {
				t.Errorf("%s, %s: %v", name, kind, err)
			}
		}
	}
}

func TestTheCallerIsKnownToHandlers(t *testing.T) {
	f := start(t, rpc.Config{})
	check := func(ctx context.Context) error {
		caller, err := authn.CallerFrom(ctx)
		if err == nil && caller.Account != f.keys.Account() {
			err = errors.New("another account")
		}
		return err
	}
	f.unary, f.stream = check, check
	for kind, err := range f.call(f.keyed) {
		if err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// given authenticates whoever has any key as one caller.
type given authn.Caller

func (g given) Authenticate(context.Context, string) (authn.Caller, error) {
	return authn.Caller(g), nil
}

func TestWhoMayNotCallIsToldWhatIsMissing(t *testing.T) {
	caller := authn.Caller{Account: contract.ID{1}, Login: contract.ID{2}, Session: contract.ID{3}, Actor: "login:2", Privileges: authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_PURCHASING)}
	f := startAs(t, rpc.Config{}, given(caller))
	reached := func(context.Context) error { t.Error("the handler ran"); return nil }
	f.unary, f.stream = reached, reached
	for kind, err := range f.call(f.keyed) {
		if status.Code(err) != codes.PermissionDenied || info(err).GetReason() != authz.ReasonDenied ||
			!strings.Contains(err.Error(), "Account Administrator, Report or Application User: ask an administrator") {
			t.Errorf("%s: %v", kind, err)
		}
	}
	// What is wrong with a request is told only to those who may send it.
	if _, err := f.client.GetInstance(f.keyed, &meteringv1.GetInstanceRequest{InstanceId: "seven"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v", err)
	}
}

func TestTheFarthestReachCounts(t *testing.T) {
	user, report := authzv1.Privilege_PRIVILEGE_APPLICATION_USER, authzv1.Privilege_PRIVILEGE_REPORT
	for want, privileges := range map[authzv1.Reach]authn.Privileges{
		authzv1.Reach_REACH_SELF:    authn.PrivilegesOf(user),
		authzv1.Reach_REACH_ACCOUNT: authn.PrivilegesOf(user, report),
	} {
		// What authentication says of the reach counts for nothing.
		f := startAs(t, rpc.Config{}, given{Account: contract.ID{1}, Actor: "x", Privileges: privileges, Reach: authzv1.Reach_REACH_PLATFORM})
		check := func(ctx context.Context) error {
			if caller, err := authn.CallerFrom(ctx); err != nil || caller.Reach != want {
				t.Errorf("%b: %v, %v", privileges, caller.Reach, err)
			}
			return nil
		}
		f.unary, f.stream = check, check
		for kind, err := range f.call(f.keyed) {
			if err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		}
	}
}

// bound says who a login is.
type bound map[contract.ID][]contract.ID

func (b bound) PrincipalsOf(_ context.Context, _, login contract.ID) ([]contract.ID, error) {
	return b[login], nil
}

func TestWhatIsACallersOwn(t *testing.T) {
	me, principal := contract.ID{2}, contract.ID{7}
	for name, c := range map[string]struct {
		caller     authn.Caller
		principals rpc.Principals
		own        []contract.ID
		only       bool
	}{
		"a login that is bound":         {authn.Caller{Login: me, Privileges: authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_APPLICATION_USER)}, bound{me: {principal}}, []contract.ID{principal}, true},
		"a login that is not":           {authn.Caller{Login: me, Privileges: authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_APPLICATION_USER)}, bound{}, nil, true},
		"where nobody knows":            {authn.Caller{Login: me, Privileges: authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_APPLICATION_USER)}, nil, nil, true},
		"a key of nobody":               {authn.Caller{Privileges: authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_APPLICATION_USER)}, bound{{}: {principal}}, nil, true},
		"a login that sees all the use": {authn.Caller{Login: me, Privileges: authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_REPORT)}, bound{me: {principal}}, nil, false},
	} {
		c.caller.Account, c.caller.Actor = contract.ID{1}, "x"
		f := startWith(t, rpc.Config{}, rpc.Deps{Authenticator: given(c.caller), Principals: c.principals})
		check := func(ctx context.Context) error {
			if own, only := authn.OwnOnly(ctx); only != c.only || !slices.Equal(own, c.own) {
				t.Errorf("%s: %v, %t", name, own, only)
			}
			return nil
		}
		f.unary, f.stream = check, check
		for kind, err := range f.call(f.keyed) {
			if err != nil {
				t.Errorf("%s, %s: %v", name, kind, err)
			}
		}
	}
}

// changing authenticates as it is told at the moment.
type changing func() (authn.Caller, error)

func (c changing) Authenticate(context.Context, string) (authn.Caller, error) { return c() }

func TestStreamsEndWithWhatLetTheirCallerIn(t *testing.T) {
	all := authn.Caller{Account: contract.ID{1}, Login: contract.ID{2}, Actor: "login:2", Privileges: authn.AllPrivileges()}
	own := all
	own.Privileges = authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_APPLICATION_USER)
	none := all
	none.Privileges = 0
	ended := errs.New(errs.Unauthenticated, "test", "", "this session has ended").WithReason("CREDENTIAL_ENDED")
	for name, c := range map[string]struct {
		later authn.Caller
		err   error
		want  codes.Code
	}{
		"the session ended":        {err: ended, want: codes.Unauthenticated},
		"a privilege was taken":    {later: none, want: codes.PermissionDenied},
		"it sees less than it did": {later: own, want: codes.Unauthenticated},
		"nobody can tell now":      {err: errs.New(errs.Unavailable, "test", "", "not up to date"), want: codes.OK},
		"nothing changed":          {later: all, want: codes.OK},
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan struct{}, 100)
			var first sync.Once
			f := startAs(t, rpc.Config{JudgeStreamsEvery: time.Millisecond}, changing(func() (caller authn.Caller, err error) {
				caller, err = c.later, c.err
				first.Do(func() { caller, err = all, nil })
				asked <- struct{}{}
				return caller, err
			}))
			f.stream = func(ctx context.Context) error {
				for range 4 { // at the opening, and three times later
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-asked:
					}
				}
				return nil
			}
			if err := f.callStream(f.keyed); status.Code(err) != c.want || errors.Is(c.err, ended) && info(err).GetReason() != "CREDENTIAL_ENDED" {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

// silent is a service of a contract that says nothing of who may call it.
type silent struct {
	pluginv1.UnimplementedPluginServiceServer
}

func (s silent) Register(r grpc.ServiceRegistrar) { pluginv1.RegisterPluginServiceServer(r, s) }

func TestMethodsThatSayNothingAreNotServed(t *testing.T) {
	_, err := rpc.New(rpc.Config{}, rpc.Deps{Logger: slog.New(slog.DiscardHandler), Services: []rpc.Service{&service{}, silent{}}})
	if err == nil {
		t.Fatal("the server was made")
	}
	for _, says := range []string{"PluginService.Describe", "PluginService.Report", "cetrus.authz.v1.authorization"} {
		if !strings.Contains(err.Error(), says) {
			t.Errorf("the error does not say %q: %v", says, err)
		}
	}
	if strings.Contains(err.Error(), "UsageService") {
		t.Errorf("the error names methods that say who may call them: %v", err)
	}
}

func TestEveryKindHasItsCode(t *testing.T) {
	f := start(t, rpc.Config{})
	for kind, want := range map[errs.Kind]codes.Code{
		errs.Internal: codes.Internal, errs.Invalid: codes.InvalidArgument, errs.NotFound: codes.NotFound, errs.AlreadyExists: codes.AlreadyExists,
		errs.Conflict: codes.Aborted, errs.Precondition: codes.FailedPrecondition, errs.Unauthenticated: codes.Unauthenticated,
		errs.Denied: codes.PermissionDenied, errs.Unavailable: codes.Unavailable, errs.Exhausted: codes.ResourceExhausted,
		errs.DeadlineExceeded: codes.DeadlineExceeded, errs.Canceled: codes.Canceled, errs.Unimplemented: codes.Unimplemented,
	} {
		fail := func(context.Context) error {
			return errs.Wrap("outer", "", errs.New(kind, "op", "thing 7", "the way out"))
		}
		f.unary, f.stream = fail, fail
		for name, err := range f.call(f.keyed) {
			if status.Code(err) != want || info(err).GetReason() != kind.Reason() {
				t.Errorf("%s, %s: %v, reason %s", kind, name, err, info(err).GetReason())
			}
			shown := strings.Contains(status.Convert(err).Message(), "the way out")
			if shown != (kind != errs.Internal) {
				t.Errorf("%s: the message is %q", kind, status.Convert(err).Message())
			}
		}
	}
	if !strings.Contains(f.log.String(), "the way out") || strings.Count(f.log.String(), "level=ERROR") != 2 {
		t.Errorf("internal errors alone are logged with their cause: %s", f.log)
	}
}

func TestPanicIsOneFailedCall(t *testing.T) {
	f := start(t, rpc.Config{})
	f.unary = func(context.Context) error { panic("oh no, secret") }
	f.stream = f.unary
	for kind, err := range f.call(f.keyed) {
		if status.Code(err) != codes.Internal || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if !strings.Contains(f.log.String(), "oh no") || !strings.Contains(f.log.String(), "rpc_test.go") {
		t.Errorf("the log has no stack: %s", f.log)
	}
	f.unary = func(context.Context) error { return nil }
	if _, err := f.client.GetInstance(f.keyed, &meteringv1.GetInstanceRequest{InstanceId: someID}); err != nil {
		t.Errorf("after it: %v", err)
	}
}

func TestUnaryCallsEndAtTheCap(t *testing.T) {
	f := start(t, rpc.Config{UnaryTimeout: 30 * time.Millisecond})
	f.unary = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	_, err := f.client.GetInstance(f.keyed, &meteringv1.GetInstanceRequest{InstanceId: someID})
	if status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
	f.stream = func(ctx context.Context) error {
		if _, limited := ctx.Deadline(); limited {
			return errors.New("a stream has the cap of unary calls")
		}
		return nil
	}
	if err := f.callStream(f.keyed); err != nil {
		t.Error(err)
	}
}

func TestRulesOfTheContractAreKept(t *testing.T) {
	f := start(t, rpc.Config{})
	f.unary = func(context.Context) error { t.Error("the handler ran"); return nil }
	_, err := f.client.GetInstance(f.keyed, &meteringv1.GetInstanceRequest{InstanceId: "seven"})
	bad := false
	for _, d := range status.Convert(err).Details() {
		if b, ok := d.(*errdetails.BadRequest); ok && len(b.GetFieldViolations()) == 1 && b.GetFieldViolations()[0].GetField() == "instance_id" {
			bad = true
		}
	}
	if status.Code(err) != codes.InvalidArgument || !bad {
		t.Errorf("got %v, %v", err, status.Convert(err).Details())
	}
	s, err := f.client.StreamLiveUsage(f.keyed, &meteringv1.StreamLiveUsageRequest{Filter: &meteringv1.UsageFilter{MachineIds: []string{"x"}}})
	if err == nil {
		_, err = s.Recv()
	}
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "filter.machine_ids[0]") {
		t.Errorf("stream: %v", err)
	}
}

func TestWhatIsSaidOfLists(t *testing.T) {
	f := start(t, rpc.Config{})
	for says, groups := range map[string][]meteringv1.GroupBy{
		"group_by: has a value twice: name each once":    {meteringv1.GroupBy_GROUP_BY_DAY, meteringv1.GroupBy_GROUP_BY_DAY},
		"group_by[0]: takes one of GROUP_BY_APPLICATION": {77},
		"group_by[1]: takes one of GROUP_BY_APPLICATION": {1, 0},
		"group_by: must contain no more than 3 item(s)":  {1, 2, 3, 5},
	} {
		now := timestamppb.Now()
		_, err := f.client.SummarizeUsage(f.keyed, &meteringv1.SummarizeUsageRequest{StartTime: now, EndTime: now, GroupBy: groups})
		if status.Code(err) != codes.InvalidArgument || !strings.HasPrefix(status.Convert(err).Message(), says) {
			t.Errorf("%v: %v, not %q", groups, err, says)
		}
	}
}

func TestPartialUpdateNeedNotSayEverything(t *testing.T) {
	f := start(t, rpc.Config{})
	client := meteringv1.NewApplicationServiceClient(f.conn)
	for _, c := range []struct {
		name string
		app  *meteringv1.Application
		mask []string
		says string
	}{
		{"one field", &meteringv1.Application{ApplicationId: someID, DisplayName: "X"}, []string{"display_name"}, ""},
		{"named but missing", &meteringv1.Application{ApplicationId: someID, DisplayName: "X"}, []string{"display_name", "rules"}, "application.rules"},
		{"wrong value", &meteringv1.Application{ApplicationId: someID, DisplayName: strings.Repeat("x", 200)}, []string{"display_name"}, "application.display_name"},
		{"wrong, not named", &meteringv1.Application{ApplicationId: "seven", DisplayName: "X"}, []string{"display_name"}, "application.application_id"},
		{"inside a list", &meteringv1.Application{ApplicationId: someID, Rules: []*meteringv1.Rule{{}}}, []string{"rules"}, "application.rules[0]"},
		{"everything", &meteringv1.Application{ApplicationId: someID, DisplayName: "X"}, []string{"*"}, "application.rules"},
		{"no mask", &meteringv1.Application{ApplicationId: someID, DisplayName: "X"}, nil, "application.rules"},
		{"no resource", nil, []string{"display_name"}, "application"},
	} {
		_, err := client.UpdateApplication(f.keyed, &meteringv1.UpdateApplicationRequest{Application: c.app, UpdateMask: &fieldmaskpb.FieldMask{Paths: c.mask}})
		// The method is not implemented here: that says that validation let it pass.
		if code := status.Code(err); (c.says == "") != (code == codes.Unimplemented) || !strings.Contains(status.Convert(err).Message(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestHealthNeedsNoKey(t *testing.T) {
	f := start(t, rpc.Config{})
	for _, name := range []string{"", "cetrus.metering.v1.UsageService"} {
		answer, err := healthv1.NewHealthClient(f.conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: name})
		if err != nil || answer.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("%q: %v %v", name, answer, err)
		}
	}
}

func TestStopIsBounded(t *testing.T) {
	f := start(t, rpc.Config{StopTimeout: 50 * time.Millisecond})
	entered := make(chan struct{})
	f.stream = func(ctx context.Context) error { close(entered); <-ctx.Done(); return ctx.Err() }
	ended := make(chan error, 1)
	go func() { ended <- f.callStream(f.keyed) }()
	<-entered
	began := time.Now()
	if err := f.stop(); err != nil || time.Since(began) > 2*time.Second {
		t.Errorf("stopped after %s: %v", time.Since(began), err)
	}
	if err := <-ended; status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
}

// A process that is told to end while it starts has not failed: whichever of
// the two goroutines comes first, the stop is clean and the port is free again.
func TestStoppedBeforeItServes(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 200 {
		srv, err := rpc.New(rpc.Config{}, rpc.Deps{Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if err := srv.Serve(ended, lis); err != nil {
			t.Fatal(err)
		}
		if err := lis.Close(); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("the listener was left open: %v", err)
		}
	}
}

func TestRequestsTooLargeAreRefused(t *testing.T) {
	f := start(t, rpc.Config{MaxRequestBytes: 100})
	_, err := f.client.GetInstance(f.keyed, &meteringv1.GetInstanceRequest{InstanceId: strings.Repeat("x", 200)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v", err)
	}
}

// No text with a character of code zero comes in, wherever in a request it stands: PostgreSQL
// would not keep it, and whoever builds tables from the log would stop at it for ever.
func TestNoTextHasACharacterOfCodeZero(t *testing.T) {
	f := start(t, rpc.Config{})
	f.unary = func(context.Context) error { t.Error("the handler ran"); return nil }
	ask := func(path string, err error) {
		t.Helper()
		if status.Code(err) != codes.InvalidArgument || !strings.HasPrefix(status.Convert(err).Message(), path+": has a character of code zero") {
			t.Errorf("%s: %v", path, err)
		}
	}
	_, err := f.client.GetInstance(f.keyed, &meteringv1.GetInstanceRequest{InstanceId: "a\x00b"})
	ask("instance_id", err)
	_, err = f.client.ListInstances(f.keyed, &meteringv1.ListInstancesRequest{Filter: &meteringv1.UsageFilter{MachineIds: []string{someID, "\x00"}}})
	ask("filter.machine_ids[1]", err)
	_, err = meteringv1.NewApplicationServiceClient(f.conn).TestRules(f.keyed, &meteringv1.TestRulesRequest{Rules: []*meteringv1.Rule{{Executable: "x"}, {Title: "\x00"}}})
	ask("rules[1].title", err)
	s, err := f.client.StreamLiveUsage(f.keyed, &meteringv1.StreamLiveUsageRequest{Reason: "\x00"})
	if err == nil {
		_, err = s.Recv()
	}
	ask("reason", err)
}

// A stream's request that cannot be read is its sender's fault, and no line in our log, though
// grpc-go itself answers with a code of ours.
func TestWhatCannotBeReadIsItsSendersFault(t *testing.T) {
	f := start(t, rpc.Config{})
	s, err := f.conn.NewStream(f.keyed, &grpc.StreamDesc{ServerStreams: true}, meteringv1.UsageService_StreamLiveUsage_FullMethodName, grpc.ForceCodec(rawCodec{}))
	if err != nil {
		t.Fatal(err)
	}
	var answer rawBytes
	if err := errors.Join(s.SendMsg(rawBytes{0xff}), s.CloseSend()); err != nil {
		t.Fatal(err)
	}
	if err := s.RecvMsg(&answer); err == nil {
		t.Error("it was answered")
	}
	if err := f.stop(); err != nil || strings.Contains(f.log.String(), "call failed") {
		t.Errorf("%v; the log says %s", err, f.log)
	}
}

// Whatever bytes come instead of a request, and whatever key, the server answers
// with a status, and goes on.
func FuzzBytesInsteadOfARequest(f *testing.F) {
	f.Add([]byte{}, "Bearer x")
	f.Add([]byte{0xff, 0xff, 0xff}, "")
	f.Add([]byte("\x0a\x24"+someID), "Bearer cetrus_00000000_"+strings.Repeat("a", 52))
	fx := start(f, rpc.Config{})
	f.Fuzz(func(t *testing.T, b []byte, key string) {
		fx.unary = func(context.Context) error { return nil }
		for name, ctx := range map[string]context.Context{
			"known":    fx.keyed,
			"stranger": metadata.AppendToOutgoingContext(t.Context(), "authorization-bin", key),
		} {
			var answer rawBytes
			err := fx.conn.Invoke(ctx, meteringv1.UsageService_GetInstance_FullMethodName, rawBytes(b), &answer, grpc.ForceCodec(rawCodec{}))
			code := status.Code(err)
			if code == codes.Unknown || code == codes.Unavailable || name == "stranger" && code != codes.Unauthenticated && code != codes.Internal {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

type rawBytes []byte

// rawCodec sends bytes as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)      { return v.(rawBytes), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { *v.(*rawBytes) = data; return nil }
func (rawCodec) Name() string                       { return "proto" }
