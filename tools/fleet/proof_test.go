package fleet

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/cetrus/cetrus/agent/enroll"
	managerenroll "github.com/cetrus/cetrus/manager/enroll"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	"github.com/cetrus/cetrus/proto/contract"
)

// clock is one that a test sets.
type clock struct{ shift atomic.Int64 }

func (c *clock) now() time.Time { return time.Now().Add(time.Duration(c.shift.Load())) }

func (c *clock) set(ahead time.Duration) { c.shift.Store(int64(ahead)) }

// signing is a Manager's service on a port.
type signing struct {
	t       *testing.T
	service *managerenroll.Service
	address string
	clock   clock
}

func startSigning(t *testing.T, dir string) *signing {
	t.Helper()
	s := &signing{t: t}
	var err error
	if s.service, err = managerenroll.New(managerenroll.Config{Dir: dir, Log: slog.New(slog.DiscardHandler), Now: s.clock.now}); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = listener.Addr().String()
	server := grpc.NewServer(s.service.Options()...)
	s.service.Register(server)
	agentv1.RegisterAgentServiceServer(server, agentv1.UnimplementedAgentServiceServer{})
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
		if err := s.service.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *signing) token() string {
	s.t.Helper()
	text, _, err := s.service.CreateToken("", 1, time.Hour)
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

func (s *signing) connect(config *tls.Config) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+s.address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
}

// proven tells whether an agent gets through to a Manager, and under which certificate.
func (s *signing) proven(identity *enroll.Identity) (certificate string, err error) {
	s.t.Helper()
	config, err := identity.TLS(s.t.Context(), s.connect)
	if err != nil || config == nil {
		return "", errors.Join(err, s.t.Context().Err())
	}
	conn, err := s.connect(config)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_, err = agentv1.NewAgentServiceClient(conn).FetchRelease(s.t.Context(), &agentv1.FetchReleaseRequest{})
	if status.Code(err) == codes.Unimplemented {
		err = nil
	}
	return config.Certificates[0].Leaf.SerialNumber.String(), err
}

// An agent renews its certificate at half of its life, whatever its clock says, with hours
// or weeks of difference to the Manager's.
func TestRenewalsOverlapUnderWrongClocks(t *testing.T) {
	t.Parallel()
	for _, skew := range []time.Duration{0, -20 * time.Hour, 20 * time.Hour, -40 * time.Hour, 40 * time.Hour} {
		dir, s := t.TempDir(), startSigning(t, t.TempDir())
		var own clock
		own.set(skew)
		identity := enroll.New(enroll.Config{Dir: dir, AgentID: contract.ID{7}, Token: s.token(), Now: own.now})
		before, err := s.proven(identity)
		if err != nil {
			t.Fatalf("%v: %v", skew, err)
		}
		renewed := 0
		for days := range 100 {
			ahead := time.Duration(days+1) * 24 * time.Hour
			s.clock.set(ahead)
			own.set(ahead + skew)
			// Started anew each time, as nothing of it is kept but the files.
			now, err := s.proven(enroll.New(enroll.Config{Dir: dir, AgentID: contract.ID{7}, Now: own.now}))
			if err != nil {
				t.Fatalf("%v, on day %d: %v", skew, days+1, err)
			}
			if now != before {
				before, renewed = now, renewed+1
			}
		}
		if renewed < 5 || renewed > 7 {
			t.Errorf("%v: renewed %d times in 100 days", skew, renewed)
		}
	}
}

// A connection that lasts has its certificate renewed on the way.
func TestAConnectionThatLastsRenews(t *testing.T) {
	t.Parallel()
	dir, s := t.TempDir(), startSigning(t, t.TempDir())
	var own clock
	identity := enroll.New(enroll.Config{Dir: dir, AgentID: contract.ID{7}, Token: s.token(), Now: own.now})
	config, err := identity.TLS(t.Context(), s.connect)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, enroll.CertificateFile)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := s.connect(config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	own.set(20 * 24 * time.Hour)
	ctx, stop := context.WithCancel(t.Context())
	var keeping sync.WaitGroup
	keeping.Go(func() { identity.Keep(ctx, conn) })
	defer keeping.Wait()
	defer stop()
	(&site{t: t}).await("it is renewed", func() error {
		now, err := os.ReadFile(file)
		if err == nil && bytes.Equal(now, before) {
			err = errors.New("it is the one of before")
		}
		return err
	})
}

// Expired by the agent's clock and the Manager's, it is renewed before anything else is said;
// with the Manager away the agent says which of the two it lacks.
func TestAnAgentComesBackAfterWeeks(t *testing.T) {
	t.Parallel()
	dir, s := t.TempDir(), startSigning(t, t.TempDir())
	var own clock
	if _, err := s.proven(enroll.New(enroll.Config{Dir: dir, AgentID: contract.ID{7}, Token: s.token(), Now: own.now})); err != nil {
		t.Fatal(err)
	}
	const away = 60 * 24 * time.Hour
	s.clock.set(away)
	own.set(away)
	back := enroll.New(enroll.Config{Dir: dir, AgentID: contract.ID{7}, Now: own.now})
	if _, err := back.TLS(t.Context(), func(*tls.Config) (*grpc.ClientConn, error) { return nil, errAway }); !errors.Is(err, errAway) || !strings.Contains(err.Error(), "has expired") {
		t.Errorf("with nobody there: %v", err)
	}
	config, err := back.TLS(t.Context(), s.connect)
	if err != nil {
		t.Fatal(err)
	}
	if until := config.Certificates[0].Leaf.NotAfter; until.Before(own.now()) {
		t.Errorf("it is good until %v", until)
	}
}

// A clock that is wrong by more than certificates bear is told, with a token and with a
// certificate; once it is set, all is well.
func TestAWrongClockIsTold(t *testing.T) {
	t.Parallel()
	for _, wrong := range []time.Duration{-60 * 24 * time.Hour, 60 * 24 * time.Hour} {
		dir, s := t.TempDir(), startSigning(t, t.TempDir())
		var own clock
		identity := enroll.New(enroll.Config{Dir: dir, AgentID: contract.ID{7}, Token: s.token(), Now: own.now})
		for _, has := range []string{"a token", "a certificate"} {
			own.set(wrong)
			if _, err := s.proven(identity); err == nil || !strings.Contains(err.Error(), "expired or is not yet valid: current time "+own.now().UTC().Format(time.DateOnly)) {
				t.Errorf("with %s, and a clock that is wrong by %v: %v", has, wrong, err)
			}
			own.set(0)
			if _, err := s.proven(identity); err != nil {
				t.Errorf("with %s, and the clock set: %v", has, err)
			}
		}
	}
}

// Whoever is not of the token's site is told neither the token nor anything else.
func TestATokenIsForItsSiteOnly(t *testing.T) {
	t.Parallel()
	right, wrong := startSigning(t, t.TempDir()), startSigning(t, t.TempDir())
	token := right.token()
	identity := enroll.New(enroll.Config{Dir: t.TempDir(), AgentID: contract.ID{7}, Token: token})
	if _, err := identity.TLS(t.Context(), wrong.connect); err == nil || !strings.Contains(err.Error(), "no Manager of the site") || strings.Contains(err.Error(), token) {
		t.Errorf("another site's Manager: %v", err)
	}
	// An agent's certificate of the right site makes no Manager.
	if _, err := right.proven(identity); err != nil {
		t.Fatal(err)
	}
	config, err := identity.TLS(t.Context(), right.connect)
	if err != nil {
		t.Fatal(err)
	}
	posing, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Certificates: config.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer posing.Close()
	heard := make(chan string, 64)
	serving.Go(func() {
		for {
			conn, err := posing.Accept()
			if err != nil {
				return
			}
			said := make([]byte, 1024)
			if n, _ := conn.Read(said); n > 0 {
				heard <- string(said[:n])
			}
			_ = conn.Close()
		}
	})
	fake := &signing{t: t, address: posing.Addr().String()}
	for what, posed := range map[string]*enroll.Identity{
		"an enrolled agent": identity, "one with a token": enroll.New(enroll.Config{Dir: t.TempDir(), AgentID: contract.ID{8}, Token: right.token()}),
	} {
		if _, err := fake.proven(posed); err == nil || status.Code(err) == codes.Unimplemented {
			t.Errorf("%s believes an agent that poses as a Manager: %v", what, err)
		}
	}
	select {
	case said := <-heard:
		t.Errorf("it heard %q", said)
	default:
	}
}

// A certificate that is damaged makes no agent speak in plain, or as somebody else.
func TestADamagedCertificateIsTold(t *testing.T) {
	t.Parallel()
	dir, s := t.TempDir(), startSigning(t, t.TempDir())
	if _, err := s.proven(enroll.New(enroll.Config{Dir: dir, AgentID: contract.ID{7}, Token: s.token()})); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, enroll.CertificateFile)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{"empty": nil, "half": good[:len(good)/2], "nothing in it": []byte("{}")} {
		if err := os.WriteFile(file, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if config, err := enroll.New(enroll.Config{Dir: dir, AgentID: contract.ID{7}}).TLS(t.Context(), s.connect); err == nil || config != nil || !strings.Contains(err.Error(), "readmit") {
			t.Errorf("%s: %v, %v", name, config, err)
		}
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := enroll.New(enroll.Config{Dir: dir, AgentID: contract.ID{8}}).TLS(t.Context(), s.connect); err == nil || !strings.Contains(err.Error(), "it is of agent") {
		t.Errorf("another agent's: %v", err)
	}
}

// What an agent says it is must be what its certificate says, for a bequest as well.
func TestAnAgentIsWhoItsCertificateSays(t *testing.T) {
	t.Parallel()
	m, s, _ := enrolling(t)
	identity := enroll.New(enroll.Config{Dir: t.TempDir(), AgentID: contract.ID{7}, Token: m.newToken(1)})
	connect := func(config *tls.Config) (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///"+s.agents, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	}
	config, err := identity.TLS(t.Context(), connect)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := connect(config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	greet := func(id contract.ID, bequest bool) (*agentv1.ConnectResponse, error) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		stream, err := agentv1.NewAgentServiceClient(conn).Connect(ctx)
		if err != nil {
			return nil, err
		}
		if err := stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Hello{Hello: &agentv1.Hello{
			ProtocolVersion: 1, AgentId: id[:], MachineId: make([]byte, 16), UtcMillis: time.Now().UnixMilli(), Bequest: bequest,
		}}}); err != nil {
			return nil, err
		}
		return stream.Recv()
	}
	for _, c := range []struct {
		id      contract.ID
		bequest bool
		reason  string
	}{{contract.ID{7}, false, ""}, {contract.ID{7}, true, ""}, {contract.ID{8}, false, contract.ReasonForeignAgent}, {contract.ID{8}, true, contract.ReasonForeignAgent}} {
		answer, err := greet(c.id, c.bequest)
		if err != nil || answer.GetRefusal().GetReason() != c.reason {
			t.Errorf("as %s, bequest %v: %v, %v", c.id, c.bequest, answer, err)
		}
	}
}
