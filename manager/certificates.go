package manager

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// TLSConfig names PEM files with which a Manager speaks TLS 1.3 to its agents. They are
// looked at for each new connection, so renewed ones need no restart, and connections that
// are there go on. The zero TLSConfig is plain.
type TLSConfig struct {
	Certificate, Key string
	// ClientCA holds the authorities of agents' certificates: with it an agent must show one.
	ClientCA string
}

func (c TLSConfig) check() error {
	switch {
	case (c.Certificate == "") != (c.Key == ""):
		return errors.New("tls_certificate and tls_key go together: give both or neither")
	case c.ClientCA != "" && c.Certificate == "":
		return errors.New("tls_client_ca is set without tls_certificate: agents show certificates under TLS only")
	}
	return nil
}

// expiresSoon is how long before its end a certificate is an alarm.
const expiresSoon = 14 * 24 * time.Hour

// certificates are the files as they were last read whole.
type certificates struct {
	files TLSConfig
	log   *slog.Logger

	mu      sync.Mutex
	seen    [3]stamp
	config  *tls.Config
	leaf    *x509.Certificate
	trouble string
}

// stamp tells a file from the one that took its place.
type stamp struct {
	size     int64
	modified time.Time
}

// openCertificates reads the files; nil where none are named.
func openCertificates(files TLSConfig, log *slog.Logger) (*certificates, error) {
	if files.Certificate == "" {
		return nil, nil //nolint:nilnil // The Manager speaks plain.
	}
	c := &certificates{files: files, log: log}
	if _, err := c.current(); err != nil {
		return nil, err
	}
	return c, nil
}

// current is what a new connection is to be spoken to with. Where renewed files cannot be
// read, as while they are being written, the ones before hold, and an alarm says why.
func (c *certificates) current() (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var seen [3]stamp
	for i, name := range []string{c.files.Certificate, c.files.Key, c.files.ClientCA} {
		if info, err := os.Stat(name); err == nil { //nolint:gosec // A file that whoever runs the Manager names.
			seen[i] = stamp{info.Size(), info.ModTime()}
		}
	}
	if c.config != nil && seen == c.seen && c.trouble == "" {
		return c.config, nil
	}
	config, leaf, err := c.read()
	switch {
	case err != nil && c.config == nil:
		return nil, err
	case err != nil:
		if c.trouble != err.Error() {
			c.log.Error("renewed certificates cannot be used; the ones before hold", "error", err)
		}
		c.trouble = err.Error()
		return c.config, nil
	}
	if c.config != nil {
		c.log.Info("certificates were renewed", "valid_until", leaf.NotAfter)
	}
	c.config, c.leaf, c.seen, c.trouble = config, leaf, seen, ""
	return config, nil
}

func (c *certificates) read() (*tls.Config, *x509.Certificate, error) {
	own, err := tls.LoadX509KeyPair(c.files.Certificate, c.files.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("tls_certificate %s with tls_key %s: %w", c.files.Certificate, c.files.Key, err)
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, Certificates: []tls.Certificate{own},
		// Whoever comes back shows its certificate anew.
		SessionTicketsDisabled: true,
	}
	if c.files.ClientCA != "" {
		text, err := os.ReadFile(c.files.ClientCA) //nolint:gosec // As above.
		if err != nil {
			return nil, nil, fmt.Errorf("tls_client_ca: %w", err)
		}
		config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !config.ClientCAs.AppendCertsFromPEM(text) {
			return nil, nil, fmt.Errorf("tls_client_ca %s holds no certificate in PEM", c.files.ClientCA)
		}
	}
	leaf, err := x509.ParseCertificate(own.Certificate[0])
	if err != nil {
		return nil, nil, fmt.Errorf("tls_certificate %s: %w", c.files.Certificate, err)
	}
	return config, leaf, nil
}

// server is the configuration of a server that asks for the current one each time.
func (c *certificates) server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current() },
	}
}

// tend looks at the files though nobody may connect, for the sake of the alarm.
func (c *certificates) tend(ctx context.Context) {
	if c == nil {
		return
	}
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_, _ = c.current() // there is one, and the alarm says what is wrong
		}
	}
}

// alarm is what a person should see to.
func (c *certificates) alarm(now time.Time) (Alarm, bool) {
	if c == nil {
		return Alarm{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	until := c.leaf.NotAfter.UTC().Format(time.RFC3339)
	renew := fmt.Sprintf("put a renewed one into %s and %s; no restart is needed", c.files.Certificate, c.files.Key)
	switch {
	case c.trouble != "":
		return Alarm{"CERTIFICATE", "renewed certificates cannot be used, and the ones before hold: " + c.trouble}, true
	case now.After(c.leaf.NotAfter):
		return Alarm{"CERTIFICATE", fmt.Sprintf("this Manager's certificate has expired (%s), and no agent can connect: %s", until, renew)}, true
	case now.Before(c.leaf.NotBefore):
		return Alarm{"CERTIFICATE", fmt.Sprintf("this Manager's certificate is not valid before %s, and no agent can connect: set the clock, or %s", c.leaf.NotBefore.UTC().Format(time.RFC3339), renew)}, true
	case c.leaf.NotAfter.Sub(now) < expiresSoon:
		return Alarm{"CERTIFICATE", fmt.Sprintf("this Manager's certificate expires on %s: %s", until, renew)}, true
	}
	return Alarm{}, false
}
