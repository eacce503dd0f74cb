package fleet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
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

// aging is a Manager's enrolment, and agents, under one clock that a test moves.
type aging struct {
	t       *testing.T
	dir     string
	began   time.Time
	at      atomic.Int64 // nanoseconds since
	service *managerenroll.Service
	address string
	stop    func()
}

func (a *aging) now() time.Time { return a.began.Add(time.Duration(a.at.Load())) }

func (a *aging) day(n int) { a.at.Store(int64(n) * int64(24*time.Hour)) }

// serve begins to serve, as after a restart.
func (a *aging) serve() {
	a.t.Helper()
	if a.stop != nil {
		a.stop()
	}
	var err error
	if a.service, err = managerenroll.New(managerenroll.Config{Dir: a.dir, Log: slog.New(slog.DiscardHandler), Now: a.now}); err != nil {
		a.t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		a.t.Fatal(err)
	}
	a.address = listener.Addr().String()
	server := grpc.NewServer(a.service.Options()...)
	a.service.Register(server)
	agentv1.RegisterAgentServiceServer(server, agentv1.UnimplementedAgentServiceServer{})
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	service := a.service
	a.stop = sync.OnceFunc(func() {
		server.Stop()
		serving.Wait()
		if err := service.Close(); err != nil {
			a.t.Error(err)
		}
	})
	a.t.Cleanup(a.stop)
}

func (a *aging) token() string {
	a.t.Helper()
	text, _, err := a.service.CreateToken("", 1, managerenroll.MaxValid)
	if err != nil {
		a.t.Fatal(err)
	}
	return text
}

// older is an agent whose folder stays while time passes.
type older struct {
	on    *aging
	dir   string
	id    contract.ID
	token string // stays in its settings
}

func (a *aging) agent(n byte, token string) *older {
	return &older{on: a, dir: a.t.TempDir(), id: contract.ID{1, n}, token: token}
}

// online starts the agent, connects, and goes off again when its certificate is as it should be. It
// is an error where the Manager does not serve it.
func (o *older) online() error {
	identity := enroll.New(enroll.Config{Dir: o.dir, AgentID: o.id, Token: o.token, Now: o.on.now})
	connect := func(config *tls.Config) (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///"+o.on.address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	}
	ctx, cancel := context.WithTimeout(o.on.t.Context(), patience)
	defer cancel()
	config, err := identity.TLS(ctx, connect)
	if err != nil {
		return err
	}
	conn, err := connect(config)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := agentv1.NewAgentServiceClient(conn).FetchRelease(ctx, &agentv1.FetchReleaseRequest{}); status.Code(err) != codes.Unimplemented {
		return err // whoever is served hears that this one has no releases
	}
	keeping, left := context.WithCancel(ctx)
	defer left()
	var kept sync.WaitGroup
	defer kept.Wait()
	defer left()
	kept.Go(func() { identity.Keep(keeping, conn) })
	for want := len(o.on.service.Report(contract.ID{}).GetAuthorities()); ; <-time.After(10 * time.Millisecond) {
		if known := o.knows(); known >= want {
			return nil
		} else if ctx.Err() != nil {
			return fmt.Errorf("it knows %d authorities, not %d", known, want)
		}
	}
}

// knows is how many authorities the agent trusts.
func (o *older) knows() int {
	var kept struct {
		Authorities [][]byte `json:"authorities"`
	}
	text, err := os.ReadFile(filepath.Join(o.dir, enroll.CertificateFile))
	if err == nil {
		err = json.Unmarshal(text, &kept)
	}
	if err != nil {
		return 0
	}
	return 1 + len(kept.Authorities)
}

// mortal puts an authority into a folder that lives for some days.
func mortal(t *testing.T, dir string, began time.Time, days int) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "Cetrus site"}, NotBefore: began, NotAfter: began.AddDate(0, 0, days),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...)
	if err := os.WriteFile(filepath.Join(dir, "authority.pem"), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A site's authority ends after 1000 days. At 800 it gets a successor; whoever was online once since
// then goes on after the end of the first, and who was not is told that it is another Manager.
func TestAnAuthorityHasASuccessor(t *testing.T) {
	t.Parallel()
	a := &aging{t: t, dir: t.TempDir(), began: time.Now().UTC().Truncate(time.Second)}
	mortal(t, a.dir, a.began, 1000)
	a.day(795)
	a.serve()
	first := a.service.Authority()
	once, absent := a.agent(1, a.token()), a.agent(2, a.token())
	for _, o := range []*older{once, absent} {
		if err := o.online(); err != nil || o.knows() != 1 {
			t.Fatalf("before there is a successor %d are known: %v", o.knows(), err)
		}
	}
	if n := len(a.service.Report(contract.ID{}).GetAuthorities()); n != 1 {
		t.Fatalf("%d authorities at 79.5 %% of the life of the first", n)
	}

	a.day(801) // too early for a renewal that is due
	if err := once.online(); err != nil || once.knows() != 2 {
		t.Fatalf("online once in the overlap, it knows %d: %v", once.knows(), err)
	}
	if a.service.Authority() != first {
		t.Error("Managers are known by the successor already, whom not all agents know")
	}
	late := a.agent(3, a.token())
	if err := late.online(); err != nil {
		t.Errorf("enrolled in the overlap: %v", err)
	}
	// Of a token that names the first nobody could make use after its end.
	if _, token, err := a.service.CreateToken("", 1, managerenroll.MaxValid); err != nil || token.Expires.After(a.began.AddDate(0, 0, 1000)) {
		t.Errorf("a token until %v: %v", token.Expires, err)
	}
	until, err := a.service.Succeed()
	if err != nil || until.Before(a.began.AddDate(0, 0, 801).AddDate(19, 0, 0)) {
		t.Errorf("the successor is good until %v: %v", until, err)
	}
	if n := len(a.service.Report(contract.ID{}).GetAuthorities()); n != 2 || a.service.Alarm() != "" {
		t.Errorf("%d authorities, and %q", n, a.service.Alarm())
	}

	a.day(1001)
	a.serve() // also after a restart
	if a.service.Authority() == first {
		t.Error("Managers are known by an authority that has ended")
	}
	for _, o := range []*older{once, late} {
		if err := o.online(); err != nil {
			t.Errorf("after the end of the first: %v", err)
		}
	}
	if err := absent.online(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("one that was not there in the overlap: %v", err)
	}
	fresh := a.agent(4, a.token())
	if err := fresh.online(); err != nil {
		t.Errorf("a new agent: %v", err)
	}

	a.day(1001 + 181)
	for _, o := range []*older{once, fresh} {
		if err := o.online(); err != nil {
			t.Errorf("when the first is not needed any more: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(a.dir, "successor.pem")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the successor has not taken its place: %v", err)
	}
	a.serve()
	if err := once.online(); err != nil {
		t.Errorf("after that, and a restart: %v", err)
	}
}
