package enroll

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/enrollment"

	"github.com/cetrus/cetrus/manager/internal/durable"
)

const (
	authorityYears = 20
	// LeafLife is how long a certificate is good that the authority signs.
	LeafLife = 30 * 24 * time.Hour
	// backdated is how much earlier than now certificates begin, for clocks that are slow.
	backdated = 48 * time.Hour
	// authorityFile holds the authority's certificate and key: what a second Manager of the
	// site is given before its first start.
	authorityFile = "authority.pem"
	// successorFile holds the authority that follows it, in the same form.
	successorFile = "successor.pem"
	// succeedsAfter is after how much of an authority's life, in hundredths, its successor is made.
	succeedsAfter = 80

	pemCertificate, pemKey = "CERTIFICATE", "PRIVATE KEY"
)

// Authority signs for a site.
type Authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// openAuthority reads the authority of a file, or makes it where there is none.
func openAuthority(file string, now time.Time) (*Authority, error) {
	a, err := readAuthority(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return a, err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return nil, fmt.Errorf("the site's authority: %w", err)
	}
	content, err := newAuthority(now)
	if err == nil {
		err = durable.Replace(file, content)
	}
	if err != nil {
		return nil, fmt.Errorf("make the site's authority, %s: %w", file, err)
	}
	return parseAuthority(content)
}

// readAuthority reads one that is there.
func readAuthority(file string) (*Authority, error) {
	content, err := durable.Read(file)
	if errors.Is(err, durable.ErrDamaged) {
		// One that a person has put there has no checksum; the signature below tells.
		content, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, fmt.Errorf("the site's authority: %w", err)
	}
	a, err := parseAuthority(content)
	if err != nil {
		return nil, fmt.Errorf("the site's authority, %s: %w: put the file back from a backup; without it every agent has to be enrolled anew", file, err)
	}
	return a, nil
}

func newAuthority(now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	about := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Cetrus site"},
		// A Manager whose clock ran ahead at its first start is still good when it is set.
		NotBefore: now.AddDate(-1, 0, 0), NotAfter: now.AddDate(authorityYears, 0, 0),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: secret})...), nil
}

func parseAuthority(content []byte) (*Authority, error) {
	a := new(Authority)
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		var err error
		switch block.Type {
		case pemCertificate:
			a.certificate, err = x509.ParseCertificate(block.Bytes)
		case pemKey:
			var key any
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
			a.key, _ = key.(*ecdsa.PrivateKey)
		}
		if err != nil {
			return nil, err
		}
	}
	switch {
	case a.certificate == nil || a.key == nil:
		return nil, errors.New("it lacks its certificate, or its ECDSA key")
	case !a.key.PublicKey.Equal(a.certificate.PublicKey):
		return nil, errors.New("its key is that of another certificate")
	case !a.certificate.IsCA:
		return nil, errors.New("its certificate is none of an authority")
	}
	if err := a.certificate.CheckSignatureFrom(a.certificate); err != nil {
		return nil, fmt.Errorf("it is damaged: %w", err)
	}
	return a, nil
}

// succeeds tells whether it is time for a successor.
func (a *Authority) succeeds(now time.Time) bool {
	life := a.certificate.NotAfter.Sub(a.certificate.NotBefore)
	return !now.Before(a.certificate.NotBefore.Add(life / 100 * succeedsAfter))
}

// server signs for a Manager of the site, with a key that nothing keeps. others are shown along.
func (a *Authority) server(others []*Authority, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	leaf, err := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: enrollment.ServerName}, DNSNames: []string{enrollment.ServerName}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, &key.PublicKey, now)
	if err != nil {
		return nil, err
	}
	// The authority goes along, for agents that know no more of it than its hash.
	shown := &tls.Certificate{Certificate: [][]byte{leaf.Raw, a.certificate.Raw}, PrivateKey: key, Leaf: leaf}
	for _, other := range others {
		shown.Certificate = append(shown.Certificate, other.certificate.Raw)
	}
	return shown, nil
}

// agent signs for an agent.
func (a *Authority) agent(id contract.ID, key *ecdsa.PublicKey, now time.Time) (*x509.Certificate, error) {
	return a.sign(&x509.Certificate{Subject: enrollment.Subject(id), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, key, now)
}

func (a *Authority) sign(about *x509.Certificate, key *ecdsa.PublicKey, now time.Time) (*x509.Certificate, error) {
	about.SerialNumber, about.KeyUsage = serial(), x509.KeyUsageDigitalSignature
	about.NotBefore, about.NotAfter = now.Add(-backdated), now.Add(LeafLife)
	if about.NotAfter.After(a.certificate.NotAfter) {
		about.NotAfter = a.certificate.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, about, a.certificate, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

func serial() *big.Int {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw)
	raw[0] &= 0x7f // positive, in 16 bytes
	return new(big.Int).SetBytes(raw)
}
