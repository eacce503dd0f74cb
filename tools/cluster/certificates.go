package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// certificatesLast is for how long those of a cluster are good: longer than anybody keeps one.
const certificatesLast = 90 * 24 * time.Hour

// authority signs all certificates of one cluster.
type authority struct {
	dir         string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

// newAuthority makes one, and leaves it in dir as ca.crt and ca.key.
func newAuthority(dir string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: "kubernetes"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	a := &authority{dir: dir, certificate: template, key: key}
	der, err := a.sign(template, key)
	if err != nil {
		return nil, err
	}
	if a.certificate, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	a.pem = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if _, err := a.keep("ca", a.pem, key); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *authority) sign(template *x509.Certificate, key *ecdsa.PrivateKey) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(certificatesLast)
	return x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
}

// keep writes NAME.crt and NAME.key, and tells what the latter holds.
func (a *authority) keep(name string, certificate []byte, key *ecdsa.PrivateKey) ([]byte, error) {
	// Of this form the API server takes the public half, too.
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	encoded := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	if err := os.WriteFile(filepath.Join(a.dir, name+".key"), encoded, 0o600); err != nil {
		return nil, err
	}
	if certificate == nil {
		return encoded, nil
	}
	return encoded, os.WriteFile(filepath.Join(a.dir, name+".crt"), certificate, 0o644)
}

// issue makes a certificate by which somebody, of a group if one is given, calls others, and is
// called by these names and addresses.
func (a *authority) issue(file, name, group string, names []string, addresses ...netip.Addr) (certificate, key []byte, err error) {
	made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: names, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	if group != "" {
		template.Subject.Organization = []string{group}
	}
	for _, address := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.IP(address.AsSlice()))
	}
	der, err := a.sign(template, made)
	if err != nil {
		return nil, nil, err
	}
	certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	key, err = a.keep(file, certificate, made)
	return certificate, key, err
}

// kubeconfig makes a certificate for somebody, and the file by which they call the API.
func (a *authority) kubeconfig(path, server, file, name, group string) error {
	certificate, key, err := a.issue(file, name, group, nil)
	if err != nil {
		return err
	}
	in := base64.StdEncoding.EncodeToString
	return os.WriteFile(path, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: cetrus
  cluster:
    server: %s
    certificate-authority-data: %s
users:
- name: %s
  user:
    client-certificate-data: %s
    client-key-data: %s
contexts:
- name: cetrus
  context: {cluster: cetrus, user: %q}
current-context: cetrus
`, server, in(a.pem), name, in(certificate), in(key), name), 0o600)
}

// credentials makes everything by which the parts of a cluster know each other.
func credentials(dir string, at Addresses) error {
	keys := filepath.Join(dir, "keys")
	if err := os.MkdirAll(keys, 0o700); err != nil {
		return err
	}
	a, err := newAuthority(keys)
	if err != nil {
		return err
	}
	tokens, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if _, err := a.keep("service-accounts", nil, tokens); err != nil {
		return err
	}
	local := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if _, _, err := a.issue("apiserver", "kube-apiserver", "", []string{
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost",
	}, local, at.Node, at.API); err != nil {
		return err
	}
	if _, _, err := a.issue("apiserver-kubelet", "kube-apiserver", "system:masters", nil); err != nil {
		return err
	}
	for _, part := range []struct{ file, name, group string }{
		{"controller-manager", "system:kube-controller-manager", ""},
		{"scheduler", "system:kube-scheduler", ""},
		{"kubelet", "system:node:" + NodeName, "system:nodes"},
		{"kube-proxy", "system:kube-proxy", ""},
		{"node", "cetrus-cluster", "system:masters"},
	} {
		path := filepath.Join(keys, part.file+".kubeconfig")
		if err := a.kubeconfig(path, "https://127.0.0.1:6443", part.file, part.name, part.group); err != nil {
			return err
		}
	}
	return a.kubeconfig(filepath.Join(dir, "kubeconfig"), fmt.Sprintf("https://%s:6443", at.Node), "admin", "admin", "system:masters")
}
