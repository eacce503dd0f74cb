package manager

import (
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// Authorities are those by which the platform is known, from a PEM file; nil, which stands for the
// system's, where the file's name is empty.
func Authorities(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil //nolint:nilnil // The system's.
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("platform_ca_file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("platform_ca_file: %s holds no certificate in PEM", path)
	}
	return pool, nil
}

// ExplainTLS adds the way out to the error of a connection on which the platform is not known.
func ExplainTLS(err error) error {
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("the certificate shown is by no authority that is known here; name the platform's, or that of a proxy which looks into TLS, by platform_ca_file: %w", err)
	}
	return err
}
