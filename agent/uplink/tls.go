package uplink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// TLSFiles are PEM files of a conversation under TLS 1.3. They are read for each new
// connection, so renewed ones hold from the next one on, and a connection that is there
// goes on. The zero TLSFiles is plain, and
// for Managers of the same machine only.
type TLSFiles struct {
	// CA holds the authorities that may have signed a Manager's certificate.
	CA string
	// Certificate and Key are what the agent shows of itself; empty: nothing.
	Certificate, Key string
	// Plain lets an agent without CA speak in plain to Managers elsewhere, too, as a test does
	// that has no other machine. No setting leads here.
	Plain bool
}

// Check tells what cannot work.
func (f TLSFiles) Check() error {
	switch {
	case (f.Certificate == "") != (f.Key == ""):
		return errors.New("a certificate and its key go together: give both or neither")
	case f.Certificate != "" && f.CA == "":
		return errors.New("a certificate of the agent is shown under TLS only: give the Manager's CA too")
	}
	return nil
}

// handshake is how the last handshake of a connection went: gRPC keeps no more of an
// error than its words.
type handshake struct {
	mu  sync.Mutex
	err error
}

func (h *handshake) failed() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// errNoCertificate is why an agent says nothing to a Manager elsewhere.
var errNoCertificate = errors.New("this agent has no certificate, and without it speaks in plain to Managers on its own machine only: lay a token of the Manager ready (`cetrus-manager token create` there, `cetrus-agent enroll` here), or set manager-ca")

// loopback tells whether an address is of this machine.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// credentials are what a connection to an address needs.
func (f TLSFiles) credentials(address string, last *handshake) (credentials.TransportCredentials, error) {
	if f.CA == "" {
		if !f.Plain && !loopback(address) {
			return nil, errNoCertificate
		}
		return insecure.NewCredentials(), nil
	}
	text, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, fmt.Errorf("the Manager's CA cannot be read: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: x509.NewCertPool()}
	if !config.RootCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM: give the CA that signed the Manager's certificate", f.CA)
	}
	if config.ServerName, _, err = net.SplitHostPort(address); err != nil {
		return nil, err
	}
	if f.Certificate != "" {
		own, err := tls.LoadX509KeyPair(f.Certificate, f.Key)
		if err != nil {
			return nil, fmt.Errorf("this agent's certificate %s with the key %s: %w", f.Certificate, f.Key, err)
		}
		if now := time.Now(); own.Leaf != nil && (now.Before(own.Leaf.NotBefore) || now.After(own.Leaf.NotAfter)) {
			return nil, fmt.Errorf("this agent's certificate %s is not valid now, %s: it is from %s to %s; renew it, or set the clock",
				f.Certificate, now.UTC().Format(time.RFC3339), own.Leaf.NotBefore.Format(time.RFC3339), own.Leaf.NotAfter.Format(time.RFC3339))
		}
		config.Certificates = []tls.Certificate{own}
	}
	return &telling{credentials.NewTLS(config), last}, nil
}

// telling keeps how the last handshake went.
type telling struct {
	credentials.TransportCredentials
	last *handshake
}

// ClientHandshake implements credentials.TransportCredentials.
func (t *telling) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := t.TransportCredentials.ClientHandshake(ctx, authority, conn)
	t.last.mu.Lock()
	t.last.err = err
	t.last.mu.Unlock()
	return secured, info, err
}

// Clone implements credentials.TransportCredentials.
func (t *telling) Clone() credentials.TransportCredentials {
	return &telling{t.TransportCredentials.Clone(), t.last}
}

// explain says what is wrong with a connection and what to do, where the handshake or the
// words of the other side tell; else it is err.
func (u *Uplink) explain(address string, enrolled bool, handshake, err error) error {
	if !enrolled {
		return u.config.TLS.explain(address, handshake, err)
	}
	var unknown x509.UnknownAuthorityError
	var plain tls.RecordHeaderError
	switch {
	case errors.As(handshake, &unknown):
		return fmt.Errorf("uplink: %s is no Manager of the site where this agent is enrolled: name one of that site, or give the agent a token of this one (`cetrus-agent enroll`): %w", address, handshake)
	case errors.As(handshake, &plain):
		return fmt.Errorf("uplink: %s does not speak TLS, and this agent is enrolled or has a token: name a Manager whose agents_security is enrollment: %w", address, handshake)
	case handshake != nil:
		return TLSFiles{}.explain(address, handshake, err)
	}
	return err
}

// explain is the same for certificates from files, or none.
func (f TLSFiles) explain(address string, handshake, err error) error {
	host, _, _ := net.SplitHostPort(address)
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	var plain tls.RecordHeaderError
	said := err.Error()
	switch {
	case errors.As(handshake, &unknown):
		return fmt.Errorf("uplink: the certificate of %s is signed by no authority of %s: give the CA that signed it as manager-ca: %w", address, f.CA, handshake)
	case errors.As(handshake, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("uplink: the certificate of %s is not valid now, %s: it is from %s to %s; renew the Manager's certificate, or set this machine's clock: %w", address,
			time.Now().UTC().Format(time.RFC3339), invalid.Cert.NotBefore.Format(time.RFC3339), invalid.Cert.NotAfter.Format(time.RFC3339), handshake)
	case errors.As(handshake, &name):
		return fmt.Errorf("uplink: the certificate of %s is for %s, not for %q: name the Manager as its certificate does, or give it a certificate for %q: %w", address,
			strings.Join(names(name.Certificate), ", "), host, host, handshake)
	case errors.As(handshake, &plain):
		return fmt.Errorf("uplink: %s does not speak TLS: give that Manager a certificate, or leave out manager-ca: %w", address, handshake)
	case handshake != nil:
		return fmt.Errorf("uplink: TLS with %s: %w", address, handshake)
	case f.CA == "" && strings.Contains(said, "server preface"):
		return fmt.Errorf("uplink: %s does not answer in plain; if its agents enrol, give this one a token as enrollment-token; if it has a certificate from elsewhere, give its CA as manager-ca: %w", address, err)
	case strings.Contains(said, "tls: certificate required"):
		return fmt.Errorf("uplink: %s wants a certificate of the agent: give client-certificate and client-key: %w", address, err)
	case strings.Contains(said, "remote error: tls:"):
		return fmt.Errorf("uplink: %s does not take the certificate %s: it must be valid now and signed by the Manager's client_ca: %w", address, f.Certificate, err)
	}
	return err
}

// names are those that a certificate is for.
func names(c *x509.Certificate) []string {
	if c == nil {
		return nil
	}
	list := c.DNSNames
	for _, ip := range c.IPAddresses {
		list = append(list, ip.String())
	}
	if len(list) == 0 {
		return []string{"nobody"}
	}
	return list
}
