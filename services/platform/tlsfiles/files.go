package tlsfiles

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/cetrus/cetrus/services/platform/errs"
)

// The names of the files in a folder.
const (
	CertificateFile = "tls.crt"
	KeyFile         = "tls.key"
	AuthorityFile   = "ca.crt"
)

const (
	// lookEvery is how often the files are looked at. A kubelet takes a minute to bring what has changed.
	lookEvery = 5 * time.Second
	// warnEvery is how often it is told that a certificate ends soon.
	warnEvery = time.Hour
	// endsSoon is how little of a certificate's life, in hundredths, may be left until that is told: whoever
	// renews certificates does it with a third of their life left.
	endsSoon = 15
)

// Files are the files of a folder. Settings that it gives follow what the files become.
type Files struct {
	dir string
	log *slog.Logger
	now func() time.Time
	// others tells that connections are mutual: both ends are known by ca.crt.
	others bool

	used atomic.Pointer[material]

	// What was seen and could not be used: told when it is seen twice, as files that are replaced
	// one after the other do not fit for a moment.
	refused content
	told    bool
	warned  time.Time
}

// content is what stands in the files.
type content struct{ certificate, key, authority []byte }

func (c content) equal(other content) bool {
	return bytes.Equal(c.certificate, other.certificate) && bytes.Equal(c.key, other.key) && bytes.Equal(c.authority, other.authority)
}

// material is what was made of it.
type material struct {
	content
	pair   tls.Certificate
	roots  *x509.CertPool
	server *tls.Config
}

// Open reads the files of a folder that holds all three. It fails where they cannot be used: where one is
// missing or damaged, where the certificate is not of that key, not of these authorities, not for both
// ends of a connection, or not valid now.
func Open(dir string, log *slog.Logger) (*Files, error) { return open(dir, true, log, time.Now) }

// OpenPublic reads the files of a server to which anybody may connect: who comes shows no certificate,
// and ca.crt is not looked at.
func OpenPublic(dir string, log *slog.Logger) (*Files, error) { return open(dir, false, log, time.Now) }

func open(dir string, others bool, log *slog.Logger, now func() time.Time) (*Files, error) {
	f := &Files{dir: dir, others: others, log: log, now: now}
	found, err := f.read()
	if err != nil {
		return nil, err
	}
	m, err := f.understand(found)
	if err != nil {
		return nil, err
	}
	f.used.Store(m)
	return f, nil
}

// Follow uses what the files become, until ctx ends.
func (f *Files) Follow(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f.look(ctx)
		}
	}
}

// look uses the files if they are not what they were.
func (f *Files) look(ctx context.Context) {
	defer f.warn(ctx)
	found, err := f.read()
	if err == nil && found.equal(f.used.Load().content) {
		f.refused, f.told = content{}, false
		return
	}
	var m *material
	if err == nil {
		m, err = f.understand(found)
	}
	switch {
	case err == nil:
		f.used.Store(m)
		f.refused, f.told, f.warned = content{}, false, time.Time{}
		f.log.InfoContext(ctx, "the certificate was renewed", "folder", f.dir, "until", m.pair.Leaf.NotAfter)
	case !found.equal(f.refused):
		f.refused, f.told = found, false
	case !f.told:
		f.told = true
		f.log.ErrorContext(ctx, "new TLS files cannot be used, and the former stay", "folder", f.dir, "error", err)
	}
}

// warn tells that the certificate in use ends soon, or has ended.
func (f *Files) warn(ctx context.Context) {
	leaf, now := f.used.Load().pair.Leaf, f.now()
	left, life := leaf.NotAfter.Sub(now), leaf.NotAfter.Sub(leaf.NotBefore)
	if left > life*endsSoon/100 || now.Sub(f.warned) < warnEvery {
		return
	}
	f.warned = now
	if left <= 0 {
		f.log.ErrorContext(ctx, "the certificate has expired: others refuse this part until it is renewed", "folder", f.dir, "until", leaf.NotAfter)
		return
	}
	f.log.WarnContext(ctx, "the certificate ends soon and was not renewed", "folder", f.dir, "until", leaf.NotAfter)
}

// NotAfter is until when the certificate in use is valid.
func (f *Files) NotAfter() time.Time { return f.used.Load().pair.Leaf.NotAfter }

// Server is for a server. After Open it takes TLS 1.3, and clients that show a certificate of the
// authorities; after OpenPublic TLS 1.2 and 1.3, and clients that show none. nextProtos are the protocols
// (ALPN) that it offers, the most wanted first.
func (f *Files) Server(nextProtos ...string) *tls.Config {
	config := f.used.Load().server.Clone() // what looks at a field of it sees what a handshake will use
	config.NextProtos = nextProtos
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := f.used.Load().server.Clone()
		now.NextProtos = nextProtos
		return now, nil
	}
	return config
}

// Public is for a server whose clients are known otherwise than by a certificate: none is asked for, and
// TLS 1.2 is taken too.
func (f *Files) Public(nextProtos ...string) *tls.Config {
	public := func(mutual *tls.Config) *tls.Config {
		mutual.MinVersion, mutual.ClientAuth, mutual.ClientCAs = tls.VersionTLS12, tls.NoClientCert, nil
		return mutual
	}
	config := public(f.Server(nextProtos...))
	now := config.GetConfigForClient
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		mutual, err := now(hello)
		return public(mutual), err
	}
	return config
}

// Client is for one connection to a server, made soon: what the files become later is not in it. It takes
// TLS 1.3, shows the certificate, and knows the server by the authorities.
func (f *Files) Client() *tls.Config {
	m := f.used.Load()
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{m.pair}, RootCAs: m.roots, Time: f.now}
}

// Certificate is the certificate in use, with its key; it never fails (nats.TLSCertHandler).
func (f *Files) Certificate() (tls.Certificate, error) { return f.used.Load().pair, nil }

// Roots are the authorities in use; it never fails (nats.RootCAsHandler).
func (f *Files) Roots() (*x509.CertPool, error) { return f.used.Load().roots, nil }

// Peer is for both ends of a connection between equals whose software takes one setting for both and keeps
// it, as NATS servers do for their routes: it is Server where it is called, and where it calls it is Client
// that follows the files. It calls by host name only.
func (f *Files) Peer() *tls.Config {
	config := f.Server()
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &f.used.Load().pair, nil
	}
	// Where it calls, the authorities that crypto/tls would look at are those of the day on which this
	// setting was made. VerifyConnection judges by those of now; where it is called, GetConfigForClient
	// has put another setting in place of this one.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if state.ServerName == "" {
			return errors.New("the other end is called by its address: call it by the host name that its certificate is for")
		}
		between := x509.NewCertPool()
		for _, c := range state.PeerCertificates[1:] {
			between.AddCert(c)
		}
		_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
			DNSName: state.ServerName, Roots: f.used.Load().roots, Intermediates: between, CurrentTime: f.now(),
		})
		return err
	}
	return config
}

// read reads the files.
func (f *Files) read() (content, error) {
	var c content
	wanted := map[string]*[]byte{CertificateFile: &c.certificate, KeyFile: &c.key}
	if f.others {
		wanted[AuthorityFile] = &c.authority
	}
	var problems []error
	for name, to := range wanted {
		path := filepath.Join(f.dir, name)
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			err = errs.As(errs.Precondition, "tlsfiles", path, "is missing: the folder needs tls.crt, tls.key and, for connections between parts of the platform, ca.crt", err)
		}
		problems = append(problems, errs.As(errs.Precondition, "tlsfiles", path, "cannot be read", err))
		*to = text
	}
	return c, errors.Join(problems...)
}

// understand makes of the files what TLS needs.
func (f *Files) understand(c content) (*material, error) {
	bad := func(file, message string, err error) error {
		return errs.As(errs.Precondition, "tlsfiles", filepath.Join(f.dir, file), message, err)
	}
	pair, err := tls.X509KeyPair(c.certificate, c.key)
	if err != nil {
		return nil, bad(CertificateFile, "and "+KeyFile+" are no certificate and its key", err)
	}
	now := f.now()
	switch leaf := pair.Leaf; {
	case now.After(leaf.NotAfter):
		return nil, errs.New(errs.Precondition, "tlsfiles", filepath.Join(f.dir, CertificateFile), "expired at "+leaf.NotAfter.Format(time.RFC3339)+": renew it")
	case now.Before(leaf.NotBefore):
		return nil, errs.New(errs.Precondition, "tlsfiles", filepath.Join(f.dir, CertificateFile), "is valid from "+leaf.NotBefore.Format(time.RFC3339)+" only: is this machine's clock right?")
	}
	m := &material{content: c, pair: pair}
	m.server = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, Time: f.now}
	if !f.others {
		return m, nil
	}
	m.roots = x509.NewCertPool()
	if !m.roots.AppendCertsFromPEM(c.authority) {
		return nil, errs.New(errs.Precondition, "tlsfiles", filepath.Join(f.dir, AuthorityFile), "holds no certificate")
	}
	between := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		if parsed, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(parsed)
		}
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		_, err := pair.Leaf.Verify(x509.VerifyOptions{
			Roots: m.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
		})
		if err != nil {
			return nil, bad(CertificateFile, "is not one by the authorities of "+AuthorityFile+" that serves both ends of a connection (usages: server auth and client auth)", err)
		}
	}
	m.server.MinVersion = tls.VersionTLS13
	m.server.ClientAuth, m.server.ClientCAs = tls.RequireAndVerifyClientCert, m.roots
	// A ticket would let a client in that was known by authorities of before.
	m.server.SessionTicketsDisabled = true
	return m, nil
}
