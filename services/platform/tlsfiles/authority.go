package tlsfiles

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"

	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	authorityLife = 20 * 365 * 24 * time.Hour
	// backdated is how much earlier than now certificates begin, for clocks that are slow.
	backdated = time.Hour
	// renewedAt is the share of a certificate's life, one in so many, that is left when it is renewed.
	renewedAt = 3
)

// Pair is a certificate and its key in PEM, as tls.crt and tls.key hold them.
type Pair struct{ Certificate, Key []byte }

// Authority signs the certificates of one installation.
type Authority struct {
	Pair

	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// NewAuthority makes one, of the name, for 20 years.
func NewAuthority(name string, now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, errs.Wrap("tlsfiles.NewAuthority", name, err)
	}
	about := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdated), NotAfter: now.Add(authorityLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	pair, err := sign(about, about, key, key)
	if err != nil {
		return nil, errs.Wrap("tlsfiles.NewAuthority", name, err)
	}
	return ParseAuthority(pair)
}

// ParseAuthority is one made before.
func ParseAuthority(pair Pair) (*Authority, error) {
	read, err := tls.X509KeyPair(pair.Certificate, pair.Key)
	if err != nil {
		return nil, errs.As(errs.Precondition, "tlsfiles.ParseAuthority", "the authority", "is no certificate and its key", err)
	}
	key, ok := read.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !read.Leaf.IsCA {
		return nil, errs.New(errs.Precondition, "tlsfiles.ParseAuthority", "the authority", "is not one that Cetrus made: no authority, or no ECDSA key")
	}
	return &Authority{Pair: pair, certificate: read.Leaf, key: key}, nil
}

// Issue signs for a server and client that is called by names: host names, "*.…" for those of one level,
// or IP addresses; the first is also its own name. Its life ends with the authority's at the latest.
func (a *Authority) Issue(names []string, life time.Duration, now time.Time) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, errs.Wrap("tlsfiles.Issue", names[0], err)
	}
	about := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: names[0]},
		NotBefore: now.Add(-backdated), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			about.IPAddresses = append(about.IPAddresses, ip)
		} else {
			about.DNSNames = append(about.DNSNames, name)
		}
	}
	if about.NotAfter.After(a.certificate.NotAfter) {
		about.NotAfter = a.certificate.NotAfter
	}
	pair, err := sign(about, a.certificate, key, a.key)
	return pair, errs.Wrap("tlsfiles.Issue", names[0], err)
}

// Renews tells whether a certificate is this authority's and has less than a third of its life left, or is
// not of its key, as where a renewal was interrupted between the two files.
func (a *Authority) Renews(pair Pair, now time.Time) (bool, error) {
	block, _ := pem.Decode(pair.Certificate)
	if block == nil {
		return false, errs.New(errs.Precondition, "tlsfiles.Renews", CertificateFile, "holds no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return false, errs.As(errs.Precondition, "tlsfiles.Renews", CertificateFile, "holds no certificate", err)
	}
	ours := leaf.CheckSignatureFrom(a.certificate) == nil // who made another renews it
	late := leaf.NotAfter.Sub(now) < leaf.NotAfter.Sub(leaf.NotBefore)/renewedAt
	return ours && (late || !pair.fits()), nil
}

// fits tells whether the key is that of the certificate.
func (p Pair) fits() bool {
	_, err := tls.X509KeyPair(p.Certificate, p.Key)
	return err == nil
}

func sign(about, by *x509.Certificate, key, with *ecdsa.PrivateKey) (Pair, error) {
	der, err := x509.CreateCertificate(rand.Reader, about, by, key.Public(), with)
	if err != nil {
		return Pair{}, fmt.Errorf("sign a certificate: %w", err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	}, nil
}

func serial() *big.Int {
	raw := make([]byte, 16)
	rand.Read(raw) // never fails: crypto/rand ends the process instead
	raw[0] &= 0x7f // positive, in 16 bytes
	return new(big.Int).SetBytes(raw)
}
