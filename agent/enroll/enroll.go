package enroll

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cetrus/cetrus/agent/durable"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/enrollment"
)

// Files in the agent's folder.
const (
	// CertificateFile holds the key, the certificate and the site's authority.
	CertificateFile = "certificate.json"
	// VoucherFile is that of the agent that this machine is a copy of; it vouches for this
	// one until that is enrolled itself.
	VoucherFile = "voucher.json"
	// KeyFile is the key that a certificate is asked for; asking again is then no other request.
	KeyFile = "certificate-key.json"
	// TokenFile holds a token that was put there; it is removed once it was used.
	TokenFile = "enrollment-token"
)

const (
	// callPatience is how long a Manager may take to sign.
	callPatience = 30 * time.Second
	// maxAuthorities is how many authorities of a site are known at a time.
	maxAuthorities = 8
	// againAfter is when a renewal that failed is tried again, and the longest time between
	// two looks at the clock, which may be set meanwhile.
	againAfter = time.Hour
	// maxTokenBytes is more than a token has.
	maxTokenBytes = 1024
)

// Config says for whom, and where.
type Config struct {
	Dir     string
	AgentID contract.ID
	// Token is that of the settings; empty: only the file counts.
	Token string
	// HostName is what people know the machine by.
	HostName func() string
	// Now is the machine's clock; time.Now by default.
	Now func() time.Time
	Log *slog.Logger
}

// Identity is one agent's. Its methods may be called from any goroutine.
type Identity struct {
	config Config

	// offered: a Manager of the site has shown an authority that is not known here yet.
	offered atomic.Bool

	mu    sync.Mutex // held while the file is read or written, or a Manager asked
	known *credential
}

// Connect makes a connection to the Manager that is spoken to.
type Connect = func(*tls.Config) (*grpc.ClientConn, error)

// New makes an Identity of what the folder holds; that is read when it is needed.
func New(config Config) *Identity {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.HostName == nil {
		config.HostName = func() string { return "" }
	}
	return &Identity{config: config}
}

// credential is a certificate with all that belongs to it.
type credential struct {
	kept
	own tls.Certificate
	// authorities are those that are trusted, the one that signed first.
	authorities []*x509.Certificate
}

// trusts tells whether an authority is one of the site's, by its hash.
func (c *credential) trusts(pin [32]byte) bool {
	return slices.ContainsFunc(c.authorities, func(a *x509.Certificate) bool { return enrollment.Pin(a) == pin })
}

// kept is a credential as it lies in its file. Parts are DER.
type kept struct {
	Key         []byte `json:"key"`
	Certificate []byte `json:"certificate"`
	Authority   []byte `json:"authority"`
	// Authorities are others that the site has or had, as the successor of one that ends.
	Authorities [][]byte `json:"authorities,omitempty"`
	// Obtained is when the certificate came, by this machine's clock: what its life is
	// measured from, since the Manager's clock may be another.
	Obtained time.Time `json:"obtained"`
}

func (k kept) parse() (*credential, error) {
	c := &credential{kept: k}
	var err error
	for _, der := range append([][]byte{k.Authority}, k.Authorities...) {
		authority, err := x509.ParseCertificate(der)
		if err == nil && !authority.IsCA {
			err = errors.New("it is none")
		}
		if err != nil {
			return nil, fmt.Errorf("the authority: %w", err)
		}
		c.authorities = append(c.authorities, authority)
	}
	if c.own.Leaf, err = x509.ParseCertificate(k.Certificate); err != nil {
		return nil, fmt.Errorf("the certificate: %w", err)
	}
	key, err := parseKey(k.Key)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(c.own.Leaf.PublicKey) {
		return nil, errors.New("the certificate is for another key")
	}
	if err := c.own.Leaf.CheckSignatureFrom(c.authorities[0]); err != nil {
		return nil, fmt.Errorf("the certificate is not signed by the authority: %w", err)
	}
	c.own.Certificate, c.own.PrivateKey = [][]byte{k.Certificate}, key
	return c, nil
}

func parseKey(der []byte) (*ecdsa.PrivateKey, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("the key: %w", err)
	}
	own, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the key is of type %T", key)
	}
	return own, nil
}

// agent is whom the certificate is of.
func (c *credential) agent() (contract.ID, error) { return enrollment.AgentOf(c.own.Leaf.Subject) }

// tls is how to speak to Managers of the site, and to nobody else.
func (i *Identity) tls(c *credential) *tls.Config {
	pool := x509.NewCertPool()
	for _, authority := range c.authorities {
		pool.AddCert(authority)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, RootCAs: pool, ServerName: enrollment.ServerName, Certificates: []tls.Certificate{c.own}, Time: i.config.Now,
		// A Manager of the site shows all of its authorities. One that is not known is not believed
		// for that: it is a reason to renew, which tells of it.
		VerifyConnection: func(state tls.ConnectionState) error {
			for _, shown := range state.PeerCertificates[1:] {
				if shown.IsCA && !c.trusts(enrollment.Pin(shown)) {
					i.offered.Store(true)
				}
			}
			return nil
		},
	}
}

// renewable tells whether the half of the certificate's life is over, or the clock was put
// back behind its beginning, so that nobody knows.
func (c *credential) renewable(now time.Time) bool {
	return now.Before(c.Obtained.Add(-time.Hour)) || !now.Before(c.renewAt())
}

// renewable tells whether the certificate is to be renewed, be it to hear of an authority.
func (i *Identity) renewable() bool { return i.offered.Load() || i.known.renewable(i.config.Now()) }

func (c *credential) renewAt() time.Time {
	signed := c.own.Leaf.NotAfter.Sub(c.own.Leaf.NotBefore)
	return c.Obtained.Add(signed / 2)
}

// read reads a credential; nil where there is none.
func (i *Identity) read(name string) (*credential, error) {
	content, err := os.ReadFile(filepath.Join(i.config.Dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // Most agents have no voucher, and new ones no certificate.
	}
	var k kept
	if err == nil {
		err = json.Unmarshal(content, &k)
	}
	if err != nil {
		return nil, err
	}
	return k.parse()
}

// TLS is how to speak to the Manager to which connect connects: with a certificate, which is
// asked for first where there is none, or renewed where it is time. nil: this agent has
// neither a certificate nor what it could get one for.
func (i *Identity) TLS(ctx context.Context, connect Connect) (*tls.Config, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := i.load(); err != nil {
		return nil, err
	}
	token, wanted, laid, unusable := i.token()
	if unusable != nil && i.known != nil {
		i.config.Log.Warn("the enrolment token cannot be used; this agent has a certificate, and goes on with that", "reason", unusable)
	}
	anew := false
	if i.known != nil && laid && i.known.trusts(token.Authority) {
		// Somebody has laid it there though there is a certificate, or its removal was cut
		// short: it is needed where the Manager takes the certificate no more.
		switch err := i.renewOver(ctx, connect); status.Code(err) {
		case codes.OK:
			i.dropToken()
		case codes.PermissionDenied, codes.Unauthenticated:
			anew = true
		default:
			return nil, err
		}
	}
	if i.known != nil && !anew && (!wanted || i.known.trusts(token.Authority)) {
		if i.renewable() {
			if err := i.renewOver(ctx, connect); err != nil {
				if i.config.Now().After(i.known.own.Leaf.NotAfter) {
					return nil, fmt.Errorf("this agent's certificate has expired on %s and is not renewed: %w", i.known.own.Leaf.NotAfter.Format(time.RFC3339), err)
				}
				i.config.Log.Warn("this agent's certificate is not renewed; the one before still holds", "until", i.known.own.Leaf.NotAfter, "reason", err)
			}
		}
		return i.tls(i.known), nil
	}
	voucher, err := i.read(VoucherFile)
	if err != nil {
		i.config.Log.Error("the certificate of the agent that this one is a copy of cannot be used", "reason", err)
	}
	if voucher != nil && (!wanted || voucher.trusts(token.Authority)) {
		err := i.enroll(ctx, i.tls(voucher), voucher, nil, connect)
		if err == nil {
			return i.tls(i.known), nil
		}
		if code := status.Code(err); !wanted || code != codes.PermissionDenied && code != codes.Unauthenticated {
			return nil, err
		}
	}
	if !wanted {
		return nil, unusable // nil: certificates come from files, or there are none
	}
	if err := i.enroll(ctx, pinned(token, i.config.Now), byToken(token), token.Credential(), connect); err != nil {
		return nil, err
	}
	return i.tls(i.known), nil
}

// Problem says why the token that was given cannot be used; empty where it can, or there is none.
func (i *Identity) Problem() string {
	if _, _, _, err := i.token(); err != nil {
		return err.Error()
	}
	return ""
}

// load reads the certificate, once there is one.
func (i *Identity) load() error {
	if i.known != nil {
		return nil
	}
	c, err := i.read(CertificateFile)
	if c != nil {
		var of contract.ID
		if of, err = c.agent(); err == nil && of != i.config.AgentID {
			err = fmt.Errorf("it is of agent %s", of)
		}
	}
	if err != nil {
		return fmt.Errorf("this agent's certificate, %s, cannot be used: %w: remove the file, have `cetrus-manager agent readmit %s` said, and give the agent a token again",
			filepath.Join(i.config.Dir, CertificateFile), err, i.config.AgentID)
	}
	i.known = c
	return nil
}

// token is the one that was given: a file, which was laid there later, goes before the setting.
func (i *Identity) token() (t enrollment.Token, given, laid bool, err error) {
	text, from := i.config.Token, "enrollment-token"
	file := filepath.Join(i.config.Dir, TokenFile)
	switch content, err := os.ReadFile(file); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return t, false, false, fmt.Errorf("the enrolment token: %w", err)
	case len(content) > maxTokenBytes:
		return t, false, false, fmt.Errorf("%s holds no enrolment token: it has %d bytes", file, len(content))
	default:
		text, from, laid = string(content), file, true
	}
	if text == "" {
		return t, false, false, nil
	}
	if t, err = enrollment.ParseToken(text); err != nil {
		return t, false, false, fmt.Errorf("%s: %w", from, err)
	}
	return t, true, laid, nil
}

// dropToken removes a token that is not needed any more. One in the settings is of whoever
// wrote them.
func (i *Identity) dropToken() {
	if err := durable.Remove(filepath.Join(i.config.Dir, TokenFile)); err != nil {
		i.config.Log.Warn("the enrolment token is used, and its file cannot be removed", "reason", err)
	}
}

// pinned speaks to whoever has a certificate of the authority that a token names.
func pinned(token enrollment.Token, now func() time.Time) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: enrollment.ServerName,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection verifies: the authority is known by its hash only.
		VerifyConnection: func(state tls.ConnectionState) error {
			pool := x509.NewCertPool()
			found := false
			for _, c := range state.PeerCertificates {
				if c.IsCA && enrollment.Pin(c) == token.Authority {
					pool.AddCert(c)
					found = true
				}
			}
			if !found || len(state.PeerCertificates) == 0 {
				return errors.New("it is no Manager of the site that the enrolment token is for: name that site's Manager, or take a token of this one")
			}
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
				Roots: pool, DNSName: enrollment.ServerName, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, CurrentTime: now(),
			})
			return err
		},
	}
}

// site is whom a Manager has proved to be of.
type site interface {
	trusts(pin [32]byte) bool
}

// byToken is the site that a token is for.
type byToken enrollment.Token

func (t byToken) trusts(pin [32]byte) bool { return pin == t.Authority }

// enroll gets the first certificate.
func (i *Identity) enroll(ctx context.Context, config *tls.Config, of site, token []byte, connect Connect) error {
	key, request, err := i.request()
	if err != nil {
		return fmt.Errorf("ask for a certificate: %w", err)
	}
	conn, err := connect(config)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	answer, err := agentv1.NewEnrollmentServiceClient(conn).Enroll(ctx, &agentv1.EnrollRequest{SigningRequest: request, Token: token, HostName: i.config.HostName()})
	if err != nil {
		return fmt.Errorf("this agent is not enrolled: %w", err)
	}
	if err := i.take(key, answer.GetCredential(), of); err != nil {
		return err
	}
	i.dropToken()
	if err := durable.Remove(filepath.Join(i.config.Dir, VoucherFile)); err != nil {
		i.config.Log.Warn("what vouched for this agent is not needed any more, and cannot be removed", "reason", err)
	}
	i.config.Log.Info("enrolled", "agent_id", i.config.AgentID, "certificate_until", i.known.own.Leaf.NotAfter)
	return nil
}

func (i *Identity) renewOver(ctx context.Context, connect Connect) error {
	conn, err := connect(i.tls(i.known))
	if err != nil {
		return err
	}
	defer conn.Close()
	return i.renew(ctx, conn)
}

// renew gets another certificate for another key.
func (i *Identity) renew(ctx context.Context, conn grpc.ClientConnInterface) error {
	key, request, err := i.request()
	if err != nil {
		return fmt.Errorf("ask for a certificate: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	answer, err := agentv1.NewEnrollmentServiceClient(conn).Renew(ctx, &agentv1.RenewRequest{SigningRequest: request, HostName: i.config.HostName()})
	if err != nil {
		return err
	}
	if err := i.take(key, answer.GetCredential(), i.known); err != nil {
		return err
	}
	i.offered.Store(false)
	i.config.Log.Info("the certificate was renewed", "until", i.known.own.Leaf.NotAfter)
	return nil
}

// request is a request for the key that lies ready, or for one that is made.
func (i *Identity) request() (key, request []byte, err error) {
	file := filepath.Join(i.config.Dir, KeyFile)
	var ready struct {
		Key []byte `json:"key"`
	}
	var own *ecdsa.PrivateKey
	content, err := os.ReadFile(file)
	if err == nil {
		if err = json.Unmarshal(content, &ready); err == nil {
			own, err = parseKey(ready.Key)
		}
	}
	if err != nil { // there is none, or one that nobody can have signed
		if own, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, nil, err
		}
		if ready.Key, err = x509.MarshalPKCS8PrivateKey(own); err != nil {
			return nil, nil, err
		}
		if err = durable.ReplaceJSON(file, ready); err != nil {
			return nil, nil, err
		}
	}
	request, err = enrollment.Request(i.config.AgentID, own)
	return ready.Key, request, err
}

// take keeps a credential that is what was asked for.
func (i *Identity) take(key []byte, given *agentv1.Credential, of site) error {
	k := kept{Key: key, Certificate: given.GetCertificate(), Authority: given.GetAuthority(), Obtained: i.config.Now().UTC()}
	told := append([][]byte{given.GetAuthority()}, given.GetAuthorities()...)
	known := slices.Clone(told[1:])
	if was, ok := of.(*credential); ok { // a token of the site may name one that has ended
		for _, authority := range was.authorities {
			known = append(known, authority.Raw)
		}
	}
	for _, der := range known {
		if !slices.ContainsFunc(append(k.Authorities, k.Authority), func(other []byte) bool { return bytes.Equal(other, der) }) && len(k.Authorities) < maxAuthorities {
			k.Authorities = append(k.Authorities, der)
		}
	}
	c, err := k.parse()
	var who contract.ID
	if err == nil {
		who, err = c.agent()
	}
	switch {
	case err != nil:
	case who != i.config.AgentID:
		err = fmt.Errorf("it is of agent %s", who)
	case !slices.ContainsFunc(told, func(der []byte) bool { return of.trusts(sha256.Sum256(der)) }):
		err = errors.New("it is of another site")
	default:
		err = durable.ReplaceJSON(filepath.Join(i.config.Dir, CertificateFile), k)
	}
	if err != nil {
		return fmt.Errorf("the certificate that the Manager signed cannot be taken: %w", err)
	}
	i.known = c
	return durable.Remove(filepath.Join(i.config.Dir, KeyFile))
}

// Keep renews the certificate over a connection to a Manager when it is time, as long as ctx
// lasts. The connection goes on with the one before.
func (i *Identity) Keep(ctx context.Context, conn grpc.ClientConnInterface) {
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
		}
		look.Reset(i.keep(ctx, conn))
	}
}

// keep looks once, and tells when to look again.
func (i *Identity) keep(ctx context.Context, conn grpc.ClientConnInterface) time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.known == nil {
		return againAfter
	}
	if i.renewable() {
		if err := i.renew(ctx, conn); err != nil && ctx.Err() == nil {
			i.config.Log.Warn("this agent's certificate is not renewed; the one before holds", "until", i.known.own.Leaf.NotAfter, "reason", err)
			return againAfter
		}
	}
	return min(againAfter, max(time.Second, i.known.renewAt().Sub(i.config.Now())))
}

// PutToken lays a token ready for the agent of a folder.
func PutToken(dir, text string) error {
	if _, err := enrollment.ParseToken(text); err != nil {
		return err
	}
	return durable.Replace(filepath.Join(dir, TokenFile), []byte(text))
}
