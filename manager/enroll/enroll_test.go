package enroll_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/cetrus/cetrus/manager/enroll"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/enrollment"
)

const patience = 30 * time.Second

// site is a Manager's service on a port, under a clock of the test's.
type site struct {
	t       *testing.T
	dir     string
	service *enroll.Service
	address string
	shift   atomic.Int64 // of the clock
	close   func()
}

func (s *site) now() time.Time { return time.Now().Add(time.Duration(s.shift.Load())) }

func (s *site) pass(d time.Duration) { s.shift.Add(int64(d)) }

func open(t *testing.T, dir string) *site {
	t.Helper()
	s := &site{t: t, dir: dir}
	var err error
	if s.service, err = enroll.New(enroll.Config{Dir: dir, Log: slog.New(slog.DiscardHandler), Now: s.now}); err != nil {
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
	s.close = sync.OnceFunc(func() {
		server.Stop()
		serving.Wait()
		if err := s.service.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(s.close)
	return s
}

func (s *site) token(uses int, valid time.Duration) enrollment.Token {
	s.t.Helper()
	text, _, err := s.service.CreateToken("test", uses, valid)
	if err != nil {
		s.t.Fatal(err)
	}
	token, err := enrollment.ParseToken(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// caller is an agent, or who says to be one.
type caller struct {
	id          contract.ID
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
	version     uint16
}

func newCaller(t *testing.T, n byte) *caller {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &caller{id: contract.ID{1, n}, key: key}
}

func (c *caller) request(t *testing.T) []byte {
	t.Helper()
	raw, err := enrollment.Request(c.id, c.key)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// speak connects to a site with the certificate that the caller has, whatever the site thinks of it.
func (c *caller) speak(t *testing.T, s *site) *grpc.ClientConn {
	t.Helper()
	config := &tls.Config{InsecureSkipVerify: true, MaxVersion: c.version, MinVersion: tls.VersionTLS12} // an attacker checks nothing
	if c.certificate != nil {
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &tls.Certificate{Certificate: [][]byte{c.certificate.Raw}, PrivateKey: c.key}, nil
		}
	}
	conn, err := grpc.NewClient("passthrough:///"+s.address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (c *caller) take(t *testing.T, credential *agentv1.Credential) {
	t.Helper()
	certificate, err := x509.ParseCertificate(credential.GetCertificate())
	if err != nil {
		t.Fatal(err)
	}
	c.certificate = certificate
}

func (c *caller) enroll(t *testing.T, s *site, token []byte) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answer, err := agentv1.NewEnrollmentServiceClient(c.speak(t, s)).Enroll(ctx, &agentv1.EnrollRequest{SigningRequest: c.request(t), Token: token, HostName: "ws"})
	if err == nil {
		c.take(t, answer.GetCredential())
	}
	return err
}

func (c *caller) renew(t *testing.T, s *site) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answer, err := agentv1.NewEnrollmentServiceClient(c.speak(t, s)).Renew(ctx, &agentv1.RenewRequest{SigningRequest: c.request(t)})
	if err == nil {
		c.take(t, answer.GetCredential())
	}
	return err
}

// served tells whether the caller reaches the calls of agents, which this site does not
// implement: that says so.
func (c *caller) served(t *testing.T, s *site) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	client := agentv1.NewAgentServiceClient(c.speak(t, s))
	_, err := client.FetchRelease(ctx, &agentv1.FetchReleaseRequest{})
	stream, errStream := client.Connect(ctx)
	if errStream == nil {
		_, errStream = stream.Recv()
	}
	if status.Code(err) != status.Code(errStream) {
		t.Errorf("one call says %v, the other %v", err, errStream)
	}
	if status.Code(err) == codes.Unimplemented {
		return nil
	}
	return err
}

func wants(t *testing.T, what string, err error, code codes.Code, words string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), words) {
		t.Errorf("%s: %v, want %v with %q", what, err, code, words)
	}
}

func TestWhoIsEnrolledIsServed(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	a := newCaller(t, 1)
	wants(t, "without a certificate", a.served(t, s), codes.Unauthenticated, "enrolment token")
	wants(t, "renewing without one", a.renew(t, s), codes.Unauthenticated, "enrolment token")
	wants(t, "enrolling with nothing", a.enroll(t, s, nil), codes.Unauthenticated, "enrolment token")
	if err := a.enroll(t, s, s.token(1, time.Hour).Credential()); err != nil {
		t.Fatal(err)
	}
	if err := a.served(t, s); err != nil {
		t.Error(err)
	}
	a.version = tls.VersionTLS12
	wants(t, "TLS 1.2", a.served(t, s), codes.Unavailable, "protocol version")
}

func TestTokensThatAdmitNobody(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	once := s.token(1, time.Hour)
	first := newCaller(t, 1)
	if err := first.enroll(t, s, once.Credential()); err != nil {
		t.Fatal(err)
	}
	// The answer may have been lost: asked again, it is the same agent.
	if err := first.enroll(t, s, once.Credential()); err != nil {
		t.Errorf("the same agent asks again: %v", err)
	}
	wants(t, "used up", newCaller(t, 2).enroll(t, s, once.Credential()), codes.PermissionDenied, "used up")
	stolen := newCaller(t, 1)
	wants(t, "under another's id, used up", stolen.enroll(t, s, once.Credential()), codes.PermissionDenied, "used up")
	more := s.token(5, time.Hour)
	wants(t, "under another's id", stolen.enroll(t, s, more.Credential()), codes.PermissionDenied, "enrolled already")

	guessed := more
	guessed.Secret[3] ^= 1
	wants(t, "a wrong secret", newCaller(t, 3).enroll(t, s, guessed.Credential()), codes.PermissionDenied, "does not know")
	wants(t, "of another site", newCaller(t, 3).enroll(t, s, open(t, t.TempDir()).token(1, time.Hour).Credential()), codes.PermissionDenied, "does not know")
	wants(t, "too short", newCaller(t, 3).enroll(t, s, more.Credential()[:20]), codes.InvalidArgument, "bytes")
	wants(t, "too long", newCaller(t, 3).enroll(t, s, append(more.Credential(), 1)), codes.InvalidArgument, "bytes")

	if err := s.service.RevokeToken(s.service.Tokens()[0].ID); err != nil {
		t.Fatal(err)
	}
	wants(t, "revoked", newCaller(t, 4).enroll(t, s, more.Credential()), codes.PermissionDenied, "revoked")
	short := s.token(5, time.Minute)
	s.pass(2 * time.Minute)
	wants(t, "expired", newCaller(t, 5).enroll(t, s, short.Credential()), codes.PermissionDenied, "expired")

	// What is known of tokens after a restart is the same.
	s.close()
	again := open(t, s.dir)
	wants(t, "used up before", newCaller(t, 2).enroll(t, again, once.Credential()), codes.PermissionDenied, "used up")
	wants(t, "revoked before", newCaller(t, 4).enroll(t, again, more.Credential()), codes.PermissionDenied, "revoked")
	if err := first.served(t, again); err != nil {
		t.Errorf("who was enrolled before: %v", err)
	}
}

func TestTokensAreNotKept(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	token := s.token(1, time.Hour)
	s.close()
	names, err := os.ReadDir(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		file := filepath.Join(s.dir, n.Name())
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(content), string(token.Secret[:])) || strings.Contains(string(content), token.Text()) {
			t.Errorf("%s holds a token", n.Name())
		}
		if info, err := os.Stat(file); err == nil && runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s can be read by others: %v", n.Name(), info.Mode())
		}
	}
}

func TestATokenAdmitsNoMoreThanItIsFor(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	token := s.token(7, time.Hour).Credential()
	var admitted atomic.Int64
	var all sync.WaitGroup
	for n := range 30 {
		all.Go(func() {
			if newCaller(t, byte(n)).enroll(t, s, token) == nil {
				admitted.Add(1)
			}
		})
	}
	all.Wait()
	if admitted.Load() != 7 || len(s.service.Agents()) != 7 || s.service.Tokens()[0].Used != 7 {
		t.Errorf("%d were admitted; %+v", admitted.Load(), s.service.Tokens())
	}
}

// Whoever asks in vain is counted, and does not fill the log.
func TestRefusalsDoNotFillTheLog(t *testing.T) {
	var log strings.Builder
	s, err := enroll.New(enroll.Config{Dir: t.TempDir(), Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const many = 500
	for range many {
		_, err := s.Enroll(t.Context(), &agentv1.EnrollRequest{Token: make([]byte, len(enrollment.Token{}.Credential()))})
		wants(t, "a token that nobody made", err, codes.PermissionDenied, "does not know")
	}
	if lines := strings.Count(log.String(), "gets no certificate"); lines == 0 || lines > many/2 || s.Refused() != many {
		t.Errorf("%d lines of %d refusals; counted are %d", lines, many, s.Refused())
	}
}

func TestStrangeRequests(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	token := s.token(100, time.Hour).Credential()
	a := newCaller(t, 1)
	ask := func(request []byte, host string) error {
		_, err := agentv1.NewEnrollmentServiceClient(a.speak(t, s)).Enroll(t.Context(), &agentv1.EnrollRequest{SigningRequest: request, Token: token, HostName: host})
		return err
	}
	tampered := a.request(t)
	tampered[len(tampered)-1] ^= 1
	wants(t, "tampered", ask(tampered, "ws"), codes.PermissionDenied, "request for a certificate")
	wants(t, "oversize", ask(make([]byte, 1<<20), "ws"), codes.PermissionDenied, "at most")
	wants(t, "a long host name", ask(a.request(t), strings.Repeat("x", 300)), codes.PermissionDenied, "host_name")
	wants(t, "a host name of two lines", ask(a.request(t), "a\nb"), codes.PermissionDenied, "host_name")
	wants(t, "a host name that gives a terminal orders", ask(a.request(t), "a\u009b2J"), codes.PermissionDenied, "host_name")
	if n := s.service.Tokens()[0].Used; n != 0 || len(s.service.Agents()) != 0 {
		t.Errorf("%d uses were counted for nothing", n)
	}
}

func TestAnotherSitesCertificate(t *testing.T) {
	t.Parallel()
	s, other := open(t, t.TempDir()), open(t, t.TempDir())
	a := newCaller(t, 1)
	if err := a.enroll(t, other, other.token(1, time.Hour).Credential()); err != nil {
		t.Fatal(err)
	}
	// The handshake ends for the caller before the Manager has judged it: whether it then reads why, or
	// finds the connection closed, is a race.
	wants(t, "calls", a.served(t, s), codes.Unavailable, "")
	wants(t, "renews", a.renew(t, s), codes.Unavailable, "")
	wants(t, "enrols", a.enroll(t, s, s.token(1, time.Hour).Credential()), codes.Unavailable, "")
	if n := len(s.service.Agents()); n != 0 {
		t.Errorf("%d agents are enrolled", n)
	}
}

func TestNobodyRenewsAnothersCertificate(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	token := s.token(2, time.Hour).Credential()
	a, b := newCaller(t, 1), newCaller(t, 2)
	for _, c := range []*caller{a, b} {
		if err := c.enroll(t, s, token); err != nil {
			t.Fatal(err)
		}
	}
	thief := &caller{id: a.id, key: b.key, certificate: b.certificate}
	wants(t, "another's", thief.renew(t, s), codes.PermissionDenied, "the request is for agent")
	wants(t, "as a copy under another's id", thief.enroll(t, s, nil), codes.PermissionDenied, "enrolled already")
}

// A laptop comes back after weeks: its certificate has expired, and is good for nothing but
// its renewal.
func TestCertificatesExpireAndAreRenewed(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	a := newCaller(t, 1)
	if err := a.enroll(t, s, s.token(1, time.Hour).Credential()); err != nil {
		t.Fatal(err)
	}
	s.pass(-40 * time.Hour) // a clock that is set back by less than two days does no harm
	if err := a.served(t, s); err != nil {
		t.Errorf("with the Manager's clock set back: %v", err)
	}
	s.pass(40*time.Hour - 3*24*time.Hour)
	wants(t, "set back further", a.served(t, s), codes.Unauthenticated, "set this Manager's clock")
	s.pass(3*24*time.Hour + enroll.LeafLife - time.Hour)
	if err := a.served(t, s); err != nil {
		t.Errorf("an hour before its end: %v", err)
	}
	s.pass(3 * time.Hour)
	wants(t, "expired", a.served(t, s), codes.Unauthenticated, "has expired on")
	s.pass(12 * 7 * 24 * time.Hour)
	if err := a.renew(t, s); err != nil {
		t.Fatalf("after twelve weeks: %v", err)
	}
	if err := a.served(t, s); err != nil {
		t.Errorf("renewed: %v", err)
	}
	s.pass(365 * 24 * time.Hour)
	wants(t, "after a year", a.renew(t, s), codes.Unauthenticated, "readmit")
}

func TestRevokedAgentsGetNothing(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	a, copied, copiedAgain, other := newCaller(t, 1), newCaller(t, 2), newCaller(t, 3), newCaller(t, 4)
	token := s.token(10, time.Hour).Credential()
	for _, c := range []*caller{a, other} {
		if err := c.enroll(t, s, token); err != nil {
			t.Fatal(err)
		}
	}
	vouched := func(by, c *caller) error {
		by = &caller{id: c.id, key: by.key, certificate: by.certificate}
		answer, err := agentv1.NewEnrollmentServiceClient(by.speak(t, s)).Enroll(t.Context(), &agentv1.EnrollRequest{SigningRequest: c.request(t)})
		if err == nil {
			c.take(t, answer.GetCredential())
		}
		return err
	}
	for _, c := range []struct{ by, next *caller }{{a, copied}, {copied, copiedAgain}} {
		if err := vouched(c.by, c.next); err != nil {
			t.Fatal(err)
		}
	}
	ended, err := s.service.RevokeAgent(a.id, true)
	if err != nil || len(ended) != 3 {
		t.Fatalf("revoked are %+v, %v", ended, err)
	}
	for _, c := range []*caller{a, copied, copiedAgain} {
		wants(t, "calls", c.served(t, s), codes.PermissionDenied, "revoked")
		wants(t, "renews", c.renew(t, s), codes.PermissionDenied, "revoked")
		wants(t, "vouches", vouched(c, newCaller(t, 9)), codes.PermissionDenied, "revoked")
	}
	wants(t, "enrols by a token", a.enroll(t, s, token), codes.PermissionDenied, "revoked")
	if err := other.served(t, s); err != nil {
		t.Errorf("another agent: %v", err)
	}
	s.close()
	again := open(t, s.dir)
	wants(t, "after a restart", a.served(t, again), codes.PermissionDenied, "revoked")

	// Readmitted it enrols anew, and what it had before stays worthless.
	if err := again.service.ReadmitAgent(a.id); err != nil {
		t.Fatal(err)
	}
	wants(t, "readmitted, with the certificate of before", a.served(t, again), codes.PermissionDenied, "revoked")
	again.pass(2 * time.Second)
	anew := newCaller(t, 1)
	if err := anew.enroll(t, again, token); err != nil {
		t.Fatal(err)
	}
	if err := anew.served(t, again); err != nil {
		t.Error(err)
	}
	wants(t, "the thief of the key of before", a.served(t, again), codes.PermissionDenied, "revoked")
	wants(t, "who enrols under its id once more", newCaller(t, 1).enroll(t, again, token), codes.PermissionDenied, "enrolled already")
}

func TestCopiesHaveABound(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	a := newCaller(t, 1)
	if err := a.enroll(t, s, s.token(1, time.Hour).Credential()); err != nil {
		t.Fatal(err)
	}
	conn := a.speak(t, s)
	for n := range 200 {
		c := newCaller(t, byte(n+2))
		answer, err := agentv1.NewEnrollmentServiceClient(conn).Enroll(t.Context(), &agentv1.EnrollRequest{SigningRequest: c.request(t)})
		if err != nil {
			wants(t, "one copy too many", err, codes.PermissionDenied, "generalize")
			if n != 64 {
				t.Errorf("%d copies were admitted", n)
			}
			return
		}
		if n%10 == 9 { // a copy of a copy counts
			c.take(t, answer.GetCredential())
			conn = c.speak(t, s)
		}
	}
	t.Error("there is no bound")
}

// The Manager's own certificate is signed anew before it ends, and by a slow or fast clock of
// an agent it is good all the same.
func TestTheManagersCertificate(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	authority := x509.NewCertPool()
	content, err := os.ReadFile(filepath.Join(s.dir, "authority.pem"))
	if err != nil || !authority.AppendCertsFromPEM(content) {
		t.Fatal(err)
	}
	look := func(skew time.Duration) error {
		conn, err := (&tls.Dialer{Config: &tls.Config{
			MinVersion: tls.VersionTLS13, RootCAs: authority, ServerName: enrollment.ServerName, Time: func() time.Time { return s.now().Add(skew) },
		}}).DialContext(t.Context(), "tcp", s.address)
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
	for range 10 {
		for _, skew := range []time.Duration{0, -36 * time.Hour, 36 * time.Hour} {
			if err := look(skew); err != nil {
				t.Errorf("with a clock that is wrong by %v: %v", skew, err)
			}
		}
		s.pass(12 * 24 * time.Hour)
	}
}

func TestADamagedAuthorityIsNotReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	s.close()
	file := filepath.Join(dir, "authority.pem")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	other := t.TempDir()
	open(t, other).close()
	others, err := os.ReadFile(filepath.Join(other, "authority.pem"))
	if err != nil {
		t.Fatal(err)
	}
	key := strings.Index(string(good), "-----BEGIN PRIVATE")
	for name, bad := range map[string]string{
		"empty": "", "half": string(good[:len(good)/2]), "without a key": string(good[:key]),
		"another's key": string(good[:key]) + string(others[strings.Index(string(others), "-----BEGIN PRIVATE"):]),
	} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if service, err := enroll.New(enroll.Config{Dir: dir, Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "backup") {
			t.Errorf("%s: %v", name, err)
			if err == nil {
				_ = service.Close()
			}
		}
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

// A book of many changes is written anew at a start, and says the same.
func TestALongBookIsShortened(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	a := newCaller(t, 1)
	if err := a.enroll(t, s, s.token(3, time.Hour).Credential()); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if err := s.service.ReadmitAgent(a.id); err != nil {
			t.Fatal(err)
		}
	}
	agents, tokens := s.service.Agents(), s.service.Tokens()
	s.close()
	size := func() int64 {
		info, err := os.Stat(filepath.Join(s.dir, "enrolled"))
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	before := size()
	again := open(t, s.dir)
	if after := size(); after*10 > before {
		t.Errorf("the book had %d bytes and has %d", before, after)
	}
	now := again.service.Agents()
	if len(now) != 1 || now[0].Text != agents[0].Text || !now[0].Readmitted || len(again.service.Tokens()) != 1 || again.service.Tokens()[0].Used != tokens[0].Used {
		t.Errorf("it said %+v, and says %+v", agents, now)
	}
	if err := newCaller(t, 2).enroll(t, again, again.token(1, time.Hour).Credential()); err != nil {
		t.Errorf("a shortened book takes nothing in: %v", err)
	}
}
