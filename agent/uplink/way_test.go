package uplink_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"google.golang.org/grpc"

	"github.com/cetrus/cetrus/agent/uplink"
	"github.com/cetrus/cetrus/agent/uplink/uplinktest"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.cert, a.key = a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	})
	a.file = filepath.Join(t.TempDir(), "ca.pem")
	a.write(a.file, "CERTIFICATE", a.cert.Raw)
	return a
}

func (a *authority) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(raw)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) write(file, kind string, raw []byte) {
	a.t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// issue writes a certificate for a name or address, valid from now for so long.
func (a *authority) issue(dir, name string, valid time.Duration) (certFile, keyFile string) {
	a.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(valid),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	cert, key := a.sign(template)
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	a.write(certFile, "CERTIFICATE", cert.Raw)
	a.write(keyFile, "PRIVATE KEY", raw)
	return certFile, keyFile
}

// front speaks TLS before a Manager that does not.
type front struct {
	address string
	mu      sync.Mutex
	config  *tls.Config
	shown   []string // serial numbers of agents' certificates
}

func (f *front) set(change func(*tls.Config)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.config = f.config.Clone()
	change(f.config)
}

func before(t *testing.T, m *uplinktest.Manager) func(certFile, keyFile string) *front {
	return func(certFile, keyFile string) *front { return newFront(t, m, certFile, keyFile) }
}

func newFront(t *testing.T, m *uplinktest.Manager, certFile, keyFile string) *front {
	t.Helper()
	own, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{config: &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{own}, NextProtos: []string{"h2"}}}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.config, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	f.address = listener.Addr().String()
	relay(t, listener, func(conn net.Conn) (net.Conn, error) {
		secured := conn.(*tls.Conn)
		if err := secured.Handshake(); err != nil {
			return nil, err
		}
		f.mu.Lock()
		for _, c := range secured.ConnectionState().PeerCertificates {
			f.shown = append(f.shown, c.SerialNumber.String())
		}
		f.mu.Unlock()
		return net.Dial("tcp", m.Address())
	})
	return f
}

// relay copies between what it accepts and what behind gives for it.
func relay(t *testing.T, listener net.Listener, behind func(net.Conn) (net.Conn, error)) {
	t.Helper()
	var all sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		_ = listener.Close()
		all.Wait()
	})
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
				other, err := behind(conn)
				if err != nil || other == nil {
					return
				}
				defer other.Close()
				all.Go(func() {
					_, _ = io.Copy(other, conn)
					_ = other.Close()
				})
				_, _ = io.Copy(conn, other)
			})
		}
	})
}

func (r *rig) delivers(t *testing.T, n int) {
	t.Helper()
	r.append(n)
	until(t, "all is acknowledged", func() bool { return r.journal.waiting() == 0 })
}

func (r *rig) tells(t *testing.T, words ...string) {
	t.Helper()
	until(t, fmt.Sprintf("the status tells %q", words), func() bool {
		problem := r.uplink.Status().Problem
		for _, w := range words {
			if !strings.Contains(problem, w) {
				return false
			}
		}
		return true
	})
}

func TestSpeaksTLS(t *testing.T) {
	t.Parallel()
	m, ca := manager(t, 1), newAuthority(t)
	f := before(t, m)(ca.issue(t.TempDir(), "127.0.0.1", time.Hour))
	config := quick(f.address)
	config.TLS.CA = ca.file
	start(t, config).delivers(t, 20)
}

// Renewed files hold from the next connection on, and the one that is there goes on.
func TestRenewedCertificates(t *testing.T) {
	t.Parallel()
	m, ca, next := manager(t, 1), newAuthority(t), newAuthority(t)
	f := before(t, m)(ca.issue(t.TempDir(), "127.0.0.1", time.Hour))
	own := t.TempDir()
	config := quick(f.address)
	config.TLS = uplink.TLSFiles{CA: filepath.Join(own, "manager-ca.pem")}
	config.TLS.Certificate, config.TLS.Key = ca.issue(own, "agent", time.Hour)
	copyTo := func(from string) {
		text, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(config.TLS.CA, text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	copyTo(ca.file)
	clients := x509.NewCertPool()
	clients.AddCert(ca.cert)
	clients.AddCert(next.cert)
	f.set(func(c *tls.Config) { c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, clients })
	r := start(t, config)
	r.delivers(t, 5)

	// The site changes its authority: new files on both sides, none restarted.
	copyTo(next.file)
	next.issue(own, "agent", time.Hour)
	renewed, err := tls.LoadX509KeyPair(next.issue(t.TempDir(), "127.0.0.1", time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	f.set(func(c *tls.Config) { c.Certificates = []tls.Certificate{renewed} })
	r.delivers(t, 5)
	if s := r.uplink.Status(); s.Reconnects != 0 {
		t.Errorf("renewing has cut %d connections", s.Reconnects)
	}
	m.CutAll()
	until(t, "it connects again", func() bool { return len(m.Hellos()) == 2 })
	r.delivers(t, 5)
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.shown) != 2 || f.shown[0] == f.shown[1] {
		t.Errorf("the certificates %v were shown, want the first and the renewed", f.shown)
	}
}

// What is wrong with certificates is said with the way out, and mended without a restart.
func TestTellsWhatIsWrongWithCertificates(t *testing.T) {
	t.Parallel()
	ca, other := newAuthority(t), newAuthority(t)
	good := func() (string, string) { return ca.issue(t.TempDir(), "127.0.0.1", time.Hour) }
	for name, c := range map[string]struct {
		server func() (string, string)
		files  func(*uplink.TLSFiles)
		wants  bool // a client's certificate
		words  []string
	}{
		"unknown authority": {func() (string, string) { return other.issue(t.TempDir(), "127.0.0.1", time.Hour) }, nil, false, []string{"signed by no authority of " + ca.file, "manager-ca"}},
		"expired":           {func() (string, string) { return ca.issue(t.TempDir(), "127.0.0.1", -time.Minute) }, nil, false, []string{"not valid now", "renew the Manager's certificate"}},
		"another name":      {func() (string, string) { return ca.issue(t.TempDir(), "manager.example", time.Hour) }, nil, false, []string{"is for manager.example, not for \"127.0.0.1\""}},
		"no CA file":        {good, func(f *uplink.TLSFiles) { f.CA = filepath.Join(t.TempDir(), "none.pem") }, false, []string{"none.pem", "cannot be read"}},
		"no PEM":            {good, func(f *uplink.TLSFiles) { f.CA = "tls.go" }, false, []string{"tls.go holds no certificate"}},
		"plain to TLS":      {good, func(f *uplink.TLSFiles) { f.CA = "" }, false, []string{"if it has a certificate from elsewhere, give its CA"}},
		"none is shown":     {good, nil, true, []string{"client-certificate"}},
		"a stranger's":      {good, func(f *uplink.TLSFiles) { f.Certificate, f.Key = other.issue(t.TempDir(), "agent", time.Hour) }, true, []string{"client_ca"}},
		"one of its own that is expired": {
			good, func(f *uplink.TLSFiles) { f.Certificate, f.Key = ca.issue(t.TempDir(), "agent", -time.Minute) }, true,
			[]string{"this agent's certificate", "is not valid now"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := manager(t, 1)
			f := before(t, m)(c.server())
			if c.wants {
				pool := x509.NewCertPool()
				pool.AddCert(ca.cert)
				f.set(func(config *tls.Config) { config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, pool })
			}
			config := quick(f.address)
			config.TLS.CA = ca.file
			if c.files != nil {
				c.files(&config.TLS)
			}
			r := start(t, config)
			r.append(3)
			r.tells(t, c.words...)
			if m.Count() != 0 {
				t.Error("it has sent all the same")
			}
		})
	}
}

func TestTellsThatAManagerIsPlain(t *testing.T) {
	t.Parallel()
	m, ca := manager(t, 1), newAuthority(t)
	config := quick(m.Address())
	config.TLS.CA = ca.file
	start(t, config).tells(t, "does not speak TLS", "manager-ca")
}

// Health names what keeps the agent from the Manager that it prefers.
func TestTellsWhyNotThePreferredManager(t *testing.T) {
	t.Parallel()
	m, ca := manager(t, 1), newAuthority(t)
	f := before(t, m)(ca.issue(t.TempDir(), "127.0.0.1", time.Hour))
	expired := before(t, m)(ca.issue(t.TempDir(), "127.0.0.1", -time.Minute))
	config := quick(expired.address, f.address)
	config.TLS.CA = ca.file
	r := start(t, config)
	r.delivers(t, 3)
	if s := r.uplink.Status(); s.Problem != "" || !strings.Contains(s.Preferred, expired.address) || !strings.Contains(s.Preferred, "not valid now") {
		t.Errorf("status is %+v", s)
	}
}

// proxy answers CONNECT as a real one does; it wants credentials where they are given.
func proxy(t *testing.T, credentials string) (address string, served *atomic.Int64) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served = new(atomic.Int64)
	relay(t, listener, func(conn net.Conn) (net.Conn, error) {
		request, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return nil, err
		}
		answer := func(status string) { _, _ = io.WriteString(conn, "HTTP/1.1 "+status+"\r\n\r\n") }
		switch {
		case request.Method != http.MethodConnect:
			answer("405 Method Not Allowed")
			return nil, nil
		case credentials != "" && request.Header.Get("Proxy-Authorization") != "Basic "+base64.StdEncoding.EncodeToString([]byte(credentials)):
			answer("407 Proxy Authentication Required")
			return nil, nil
		}
		other, err := net.Dial("tcp", request.Host)
		if err != nil {
			answer("502 Bad Gateway")
			return nil, err
		}
		served.Add(1)
		answer("200 Connection established")
		return other, nil
	})
	return listener.Addr().String(), served
}

func TestGoesThroughAProxy(t *testing.T) {
	t.Parallel()
	m, ca := manager(t, 1), newAuthority(t)
	f := before(t, m)(ca.issue(t.TempDir(), "127.0.0.1", time.Hour))
	address, served := proxy(t, "anna:p@ss:word")
	config := quick(f.address)
	config.TLS.CA, config.Proxy = ca.file, "http://anna:p%40ss%3Aword@"+address
	r := start(t, config)
	r.delivers(t, 20)
	if served.Load() != 1 {
		t.Errorf("the proxy was used %d times, want once", served.Load())
	}
	if !r.uplink.AnyReachable(t.Context()) {
		t.Error("a Manager behind a proxy is not reachable")
	}
}

func TestTellsWhatIsWrongWithTheProxy(t *testing.T) {
	t.Parallel()
	m := manager(t, 1)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	signing, _ := proxy(t, "anna:right")
	open, _ := proxy(t, "")
	for _, c := range []struct {
		proxy, manager string
		words          []string
	}{
		{"http://" + closed.Addr().String(), m.Address(), []string{closed.Addr().String(), "cannot be reached"}},
		{"http://" + signing, m.Address(), []string{"wants a user and a password"}},
		{"http://anna:wrong@" + signing, m.Address(), []string{"does not take the user and password"}},
		{"http://" + open, closed.Addr().String(), []string{"does not connect to " + closed.Addr().String(), "502"}},
	} {
		config := quick(c.manager)
		config.Proxy = c.proxy
		r := start(t, config)
		r.tells(t, c.words...)
		if r.uplink.AnyReachable(t.Context()) {
			t.Errorf("%s is reachable by %s", c.manager, c.proxy)
		}
		if problem := r.uplink.Status().Problem; strings.Contains(problem, "wrong") {
			t.Errorf("the password is told: %s", problem)
		}
	}
	config := quick(m.Address())
	for _, wrong := range []string{"socks5://proxy:1080", "proxy:3128", "http://", "http://user:secret@%zz"} {
		config.Proxy = wrong
		if _, err := uplink.New(config, uplink.Deps{}); err == nil || !strings.Contains(err.Error(), "http://[user:password@]host:port") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", wrong, err)
		}
	}
}

// What is on the way to another machine is never in plain: without a certificate nothing is
// said there.
func TestNothingIsSaidInPlainToOtherMachines(t *testing.T) {
	t.Parallel()
	start(t, quick("manager.invalid:10041"), grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
		t.Error("it connects")
		return nil, errors.New("no")
	})).tells(t, "cetrus-agent enroll", "manager-ca")
}

// The environment names a proxy too, with exceptions. A name is used that leads nowhere
// but through the proxy, since this machine itself is never an address behind one.
func TestProxyOfTheEnvironment(t *testing.T) {
	m := manager(t, 1)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan string, 64)
	relay(t, listener, func(conn net.Conn) (net.Conn, error) {
		request, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			return nil, err
		}
		asked <- request.Host
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		return net.Dial("tcp", m.Address())
	})
	t.Setenv("HTTPS_PROXY", "http://"+listener.Addr().String())
	t.Setenv("NO_PROXY", "direct.invalid")
	elsewhere := func(address string) uplink.Config {
		config := quick(address)
		config.TLS.Plain = true
		return config
	}
	start(t, elsewhere("manager.invalid:10041")).delivers(t, 5)
	if host := <-asked; host != "manager.invalid:10041" {
		t.Errorf("the proxy was asked for %s", host)
	}
	start(t, elsewhere("direct.invalid:10041")).tells(t, "direct.invalid")
	config := elsewhere("manager.invalid:10041")
	config.Proxy = "none"
	start(t, config).tells(t, "manager.invalid")
	if len(asked) != 0 {
		t.Errorf("the proxy was asked for %s too", <-asked)
	}
}

// Two Managers die in turns while records come: each record is at one of them, and
// the journal lets go of what was acknowledged and of nothing else.
func TestManagersDieInTurns(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		managers := []*uplinktest.Manager{manager(t, 1), manager(t, 2)}
		addresses := []string{managers[0].Address(), managers[1].Address()}
		config := quick(addresses...)
		config.AckTimeout, config.Window = 50*time.Millisecond, 3
		r := start(t, config)
		everywhere := map[uint64]int{}
		collect := func(m *uplinktest.Manager) {
			for _, records := range m.Records() {
				for seq := range records {
					everywhere[seq]++
				}
			}
		}
		total := 0
		for turn := range rapid.IntRange(1, 6).Draw(t, "turns") {
			dying := turn % 2
			n := rapid.IntRange(1, 300).Draw(t, "appended")
			total += n
			// The one that is about to die acknowledges in pieces, and loses some.
			managers[dying].SetFaults(uplinktest.Faults{DropAck: 300, SplitAck: 500, CutAfter: 100})
			r.append(n)
			if rapid.Bool().Draw(t, "waits") {
				until(t, "something has come", func() bool { return managers[dying].Count()+managers[1-dying].Count() > 0 })
			}
			managers[dying].Stop()
			noProblems(t, managers[dying])
			collect(managers[dying])
			again, err := uplinktest.Listen(addresses[dying], uint64(turn+3))
			if err != nil {
				t.Skip("its port was taken meanwhile")
			}
			t.Cleanup(again.Stop)
			managers[dying] = again
		}
		until(t, "all is acknowledged", func() bool { return r.journal.waiting() == 0 })
		r.stop()
		for _, m := range managers {
			m.Stop()
			noProblems(t, m)
			collect(m)
		}
		for seq := uint64(1); seq <= uint64(total); seq++ {
			if everywhere[seq] == 0 {
				t.Fatalf("record %d of %d was let go of, and no Manager has it", seq, total)
			}
		}
	})
}
