package trial

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// host is where people and Managers reach the platform. The cluster's own names know it as well.
const host = "cetrus.front.test"

// ingressSecret has the certificate of that host, as a customer brings it.
const ingressSecret = "cetrus-front-test"

// authority is the customer's own: whoever trusts it trusts the Ingress.
type authority struct {
	// file holds its certificate, for programs; roots are the same.
	file  string
	roots *x509.CertPool
}

// certify makes an authority, and the Secret with the certificate that it gave for the Ingress.
func (t *trial) certify(ctx context.Context) (authority, error) {
	now := time.Now()
	template := func(serial int64, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
			NotBefore: now.Add(-24 * time.Hour), NotAfter: now.Add(7 * 24 * time.Hour), BasicConstraintsValid: true,
		}
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	root := template(1, "the customer's authority")
	root.IsCA, root.KeyUsage = true, x509.KeyUsageCertSign
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	if err != nil {
		return authority{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	own := template(2, host)
	own.DNSNames, own.KeyUsage, own.ExtKeyUsage = []string{host}, x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	ownDER, err := x509.CreateCertificate(rand.Reader, own, root, key.Public(), rootKey)
	if err != nil {
		return authority{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return authority{}, err
	}
	text := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	rootPEM := text("CERTIFICATE", rootDER)
	if _, err := t.kube.CoreV1().Secrets(namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: ingressSecret}, Type: corev1.SecretTypeTLS,
		Data: map[string][]byte{corev1.TLSCertKey: text("CERTIFICATE", ownDER), corev1.TLSPrivateKeyKey: text("PRIVATE KEY", keyDER)},
	}, metav1.CreateOptions{}); err != nil {
		return authority{}, fmt.Errorf("the Ingress's certificate: %w", err)
	}
	a := authority{file: filepath.Join(t.Dir, "authority.pem"), roots: x509.NewCertPool()}
	a.roots.AppendCertsFromPEM(rootPEM)
	return a, os.WriteFile(a.file, rootPEM, 0o644)
}
