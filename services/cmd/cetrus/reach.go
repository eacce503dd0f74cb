package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/rpc"
	"github.com/cetrus/cetrus/services/platform/tlsfiles"
)

// natsPasswordFile is the file among the credentials of a part that holds its password for NATS.
const natsPasswordFile = "nats-password"

// encryption is how this process is known to others, and others to it; all nil where nothing is encrypted.
type encryption struct {
	// parts is for the other parts of the platform, people for those who come to REST.
	parts, people *tlsfiles.Files
}

// openEncryption reads the files that the settings name.
func (p *process) openEncryption() (err error) {
	s := p.settings
	if s.tlsDir != "" {
		if p.tls.parts, err = tlsfiles.Open(s.tlsDir, p.log); err != nil {
			return err
		}
	}
	if dir := cmp.Or(s.restTLSDir, s.tlsDir); dir != "" {
		p.tls.people, err = tlsfiles.OpenPublic(dir, p.log)
	}
	return err
}

// encryptionPart uses what certificates are renewed to.
var encryptionPart = part{
	name: "encryption",
	start: func(_ context.Context, p *process) (runner, error) {
		figures, err := p.tls.measureCertificates()
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context) error {
			var following sync.WaitGroup
			for _, files := range []*tlsfiles.Files{p.tls.parts, p.tls.people} {
				if files != nil {
					following.Go(func() { files.Follow(ctx) })
				}
			}
			<-ctx.Done()
			following.Wait()
			return figures.Unregister()
		}, nil
	},
}

// serverTLS is for the gRPC server; nil where nothing is encrypted.
func (e encryption) serverTLS() *tls.Config {
	if e.parts == nil {
		return nil
	}
	return e.parts.Server("h2")
}

// restTLS is for REST; nil where nothing is encrypted.
func (e encryption) restTLS() *tls.Config {
	if e.people == nil {
		return nil
	}
	return e.people.Server("h2", "http/1.1")
}

// clientCredentials are for calls to other parts.
func (e encryption) clientCredentials() credentials.TransportCredentials {
	if e.parts == nil {
		return insecure.NewCredentials() // loopback, or a mesh that encrypts
	}
	return rpc.ClientTLS(e.parts.Client)
}

// nats are the options of a client of NATS.
func (e encryption) nats() []nats.Option {
	if e.parts == nil {
		return nil
	}
	return []nats.Option{
		nats.Secure(&tls.Config{MinVersion: tls.VersionTLS13}),
		nats.ClientTLSConfig(e.parts.Certificate, e.parts.Roots),
	}
}

// natsOptions are those of a client with the rights of a role: encrypted as the settings say, and where the
// URL names no user, with the password that is given to the part. That is read for each connection, so that
// it may be changed.
func (s *settings) natsOptions(role string, encrypted encryption) ([]nats.Option, error) {
	options := encrypted.nats()
	if s.natsURL == "" {
		return options, nil // that of the same data directory, whose URL names the user
	}
	named := false
	for one := range strings.SplitSeq(s.natsURL, ",") {
		parsed, err := url.Parse(strings.TrimSpace(one))
		if err != nil || parsed.Host == "" {
			return nil, config.Problem("nats-url", "", "must be nats://HOST:PORT or tls://HOST:PORT, with USER:PASSWORD@ before the host where no credentials-dir has the password; several with commas") // not the text: it may hold a password
		}
		named = named || parsed.User != nil
	}
	path := filepath.Join(s.credentials(), natsPasswordFile)
	if named {
		return options, nil
	}
	if _, err := readCredential(path); err != nil {
		if s.credentialsDir == "" && errors.Is(err, fs.ErrNotExist) {
			return options, nil // a server that asks for no password
		}
		return nil, err
	}
	return append(options, nats.UserInfoHandler(func() (string, string) {
		password, err := readCredential(path)
		if err != nil {
			return role, "" // refused, told, and tried again
		}
		return role, password
	})), nil
}

// readCredential reads a file of one secret alone.
func readCredential(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", missingCredential(path, err)
	}
	if secret := strings.TrimSpace(string(text)); secret != "" {
		return secret, nil
	}
	return "", errs.New(errs.Precondition, "cetrus", path, "is empty: `cetrus secrets` makes it")
}

// missingCredential says who makes the file.
func missingCredential(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errs.As(errs.Precondition, "cetrus", path, "is missing, and is not made where credentials-dir is set: `cetrus secrets` makes what a new installation needs", err)
	}
	return errs.As(errs.Precondition, "cetrus", path, "cannot be read", err)
}

// toldOnce tells a part's errors of its connection to NATS, each once until it is another or the connection
// is there again.
func (p *process) toldOnce(name string) []nats.Option {
	var mu sync.Mutex
	said := ""
	told := func(nc *nats.Conn, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err == nil || err.Error() == said || nc.IsClosed() {
			return
		}
		said = err.Error()
		p.log.Warn("NATS cannot be reached, and is tried again", "part", name, "error", err)
	}
	return []nats.Option{
		nats.DisconnectErrHandler(told),
		nats.ReconnectErrHandler(told),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			mu.Lock()
			defer mu.Unlock()
			if said != "" {
				said = ""
				p.log.Info("NATS is reached again", "part", name, "server", nc.ConnectedUrlRedacted())
			}
		}),
	}
}

// reached waits until a client has reached its server.
func reached(ctx context.Context, nc *nats.Conn) error {
	changed := nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer nc.RemoveStatusListener(changed)
	for !nc.IsConnected() {
		if nc.IsClosed() {
			return errs.As(errs.Unavailable, "cetrus", "NATS", "cannot be reached as nats-url says", cmp.Or(nc.LastError(), nats.ErrConnectionClosed))
		}
		select {
		case <-ctx.Done():
			return errs.Wrap("cetrus", "NATS", ctx.Err())
		case <-changed:
		}
	}
	return nil
}

// patiently does again what is not available yet, until ctx ends.
func (p *process) patiently(ctx context.Context, what string, do func() error) error {
	for {
		err := do()
		if !errs.Is(errs.Unavailable, err) || ctx.Err() != nil {
			return err
		}
		p.log.WarnContext(ctx, "waiting for "+what, "error", err)
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Second):
		}
	}
}

// natsPatience keeps a client trying for as long as its process runs.
func natsPatience() []nats.Option {
	return []nats.Option{
		nats.MaxReconnects(-1), nats.ReconnectWait(250 * time.Millisecond), nats.RetryOnFailedConnect(true),
		// A password may be given to the server a moment later than to the part.
		nats.IgnoreAuthErrorAbort(),
	}
}
