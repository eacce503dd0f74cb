package enroll

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/enrollment"

	"github.com/cetrus/cetrus/manager/internal/arrivals"
)

const (
	bookFile = "enrolled"
	// renewableFor is how long an expired certificate still renews itself.
	renewableFor = 180 * 24 * time.Hour
	// authorityExpiresSoon is how long before the authority's end that is an alarm.
	authorityExpiresSoon = 365 * 24 * time.Hour
	maxHostName          = 255
	// refusalsAtOnce are told in the log, and beyond that one in refusalEvery.
	refusalsAtOnce = 20
	refusalEvery   = 10 * time.Second
)

// Config is what a Service needs to know.
type Config struct {
	// Dir is the folder of the authority and the book; made where it is missing.
	Dir string
	Log *slog.Logger
	// Now is the Manager's clock; time.Now by default.
	Now func() time.Time
}

// Service enrols agents, and tells who calls. Make it with New.
type Service struct {
	agentv1.UnimplementedEnrollmentServiceServer

	now  func() time.Time
	log  *slog.Logger
	site *succession
	book *book

	// told bounds what the log says of those who get nothing, since anybody may ask; refusals counts all.
	told     *rate.Limiter
	refusals atomic.Uint64

	mu     sync.Mutex
	server *tls.Certificate
}

// New opens the authority and the book, or makes them.
func New(config Config) (*Service, error) {
	if config.Log == nil {
		config.Log = slog.Default()
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	s := &Service{now: config.Now, log: config.Log.With("part", "enroll"), told: rate.NewLimiter(rate.Every(refusalEvery), refusalsAtOnce)}
	var err error
	if s.site, err = openSuccession(config.Dir, s.now(), s.log); err != nil {
		return nil, fmt.Errorf("enroll: %w", err)
	}
	if s.book, err = openBook(filepath.Join(config.Dir, bookFile), s.log); err != nil {
		return nil, fmt.Errorf("enroll: %w", err)
	}
	if _, err := s.certificate(); err != nil {
		return nil, errors.Join(fmt.Errorf("enroll: %w", err), s.book.close())
	}
	return s, nil
}

// Close closes the book.
func (s *Service) Close() error { return s.book.close() }

// certificate is what this Manager shows. It is signed anew at half of its life.
func (s *Service) certificate() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	all := s.site.all(now)
	if s.server != nil && now.Before(s.server.Leaf.NotAfter.Add(-LeafLife/2)) && now.After(s.server.Leaf.NotBefore) && shows(s.server, all) {
		return s.server, nil
	}
	next, err := all[0].server(all[1:], now)
	if err == nil {
		s.server = next
	}
	return s.server, err
}

// shows tells whether a certificate goes with these authorities.
func shows(c *tls.Certificate, all []*Authority) bool {
	return slices.EqualFunc(c.Certificate[1:], all, func(der []byte, a *Authority) bool { return bytes.Equal(der, a.certificate.Raw) })
}

// Options are those of a gRPC server whose callers have to say who they are: TLS 1.3, and
// which calls are for whom.
func (s *Service) Options() []grpc.ServerOption {
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.certificate() },
		// Who has none may only enrol; one that has expired is good for its renewal only.
		ClientAuth: tls.RequestClientCert, VerifyConnection: s.verify,
		// Whoever comes back shows its certificate anew.
		SessionTicketsDisabled: true,
	}
	return []grpc.ServerOption{
		grpc.Creds(arrivals.InTurn(credentials.NewTLS(config))),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, r any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := s.may(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return next(ctx, r)
		}),
		grpc.ChainStreamInterceptor(func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := s.may(stream.Context(), info.FullMethod); err != nil {
				return err
			}
			return next(server, stream)
		}),
	}
}

// verify ends the handshake of who shows a certificate of somebody else's.
func (s *Service) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return nil
	}
	_, err := s.site.agentOf(state.PeerCertificates[0], s.now())
	return err
}

// Register adds the calls of this service to a server.
func (s *Service) Register(server *grpc.Server) { agentv1.RegisterEnrollmentServiceServer(server, s) }

// may tells whether a caller may make a call.
func (s *Service) may(ctx context.Context, method string) error {
	var err error
	switch method {
	case agentv1.EnrollmentService_Enroll_FullMethodName:
		return nil // what admits the caller is in the request
	case agentv1.EnrollmentService_Renew_FullMethodName:
		_, err = s.shown(ctx, renewableFor)
	default:
		_, err = s.shown(ctx, 0)
	}
	return err
}

// Caller is the agent that speaks on a connection, as long as its certificate is good.
func (s *Service) Caller(ctx context.Context) (agent contract.ID, err error) {
	return s.shown(ctx, 0)
}

// shown is the agent whose certificate the caller shows, where that has not expired for
// longer than grace, and the agent is not revoked.
func (s *Service) shown(ctx context.Context, grace time.Duration) (agent contract.ID, err error) {
	c := shownBy(ctx)
	if c == nil {
		return agent, status.Error(codes.Unauthenticated, "this Manager serves agents that show a certificate of its site: give this one an enrolment token (`cetrus-manager token create`)")
	}
	if agent, err = enrollment.AgentOf(c.Subject); err != nil { // whose signature it has verify has seen
		return agent, status.Error(codes.Unauthenticated, err.Error())
	}
	if s.book.revoked(agent, c.NotBefore.Add(backdated)) {
		return agent, status.Error(codes.PermissionDenied, errRevoked.Error())
	}
	switch now := s.now(); {
	case now.Before(c.NotBefore):
		return agent, status.Errorf(codes.Unauthenticated, "the agent's certificate is not valid before %s, and here it is %s: set this Manager's clock",
			c.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case now.After(c.NotAfter.Add(grace)):
		return agent, status.Errorf(codes.Unauthenticated, "the agent's certificate has expired on %s, and here it is %s: %s",
			c.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), wayOut(grace))
	}
	return agent, nil
}

func wayOut(grace time.Duration) string {
	if grace > 0 {
		return "give the agent an enrolment token again, once `cetrus-manager agent readmit` lets it in"
	}
	return "the agent is to renew it"
}

func shownBy(ctx context.Context) *x509.Certificate {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return nil
	}
	return info.State.PeerCertificates[0]
}

// Enroll implements agentv1.EnrollmentServiceServer.
func (s *Service) Enroll(ctx context.Context, r *agentv1.EnrollRequest) (*agentv1.EnrollResponse, error) {
	var by contract.ID
	var token enrollment.Token
	var err error
	if len(r.GetToken()) == 0 {
		if by, err = s.shown(ctx, renewableFor); err != nil {
			return nil, err
		}
	} else {
		if token, err = enrollment.ParseCredential(r.GetToken()); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		// Who knows no token makes the Manager check no signature.
		s.book.mu.Lock()
		_, err = s.book.known(token)
		s.book.mu.Unlock()
		if err != nil {
			return nil, s.refused(ctx, "enrol", err)
		}
	}
	credential, err := s.issue(r.GetSigningRequest(), r.GetHostName(), func(id contract.ID, key []byte, host string, until, now time.Time) error {
		if len(r.GetToken()) > 0 {
			return s.book.admit(token, id, key, host, until, now)
		}
		if id == by {
			return refuse("agent %s is enrolled: it renews its certificate", id)
		}
		return s.book.admitCopy(by, id, key, host, until, now)
	})
	if err != nil {
		return nil, s.refused(ctx, "enrol", err)
	}
	return &agentv1.EnrollResponse{Credential: credential}, nil
}

// Renew implements agentv1.EnrollmentServiceServer.
func (s *Service) Renew(ctx context.Context, r *agentv1.RenewRequest) (*agentv1.RenewResponse, error) {
	by, err := s.shown(ctx, renewableFor)
	if err != nil {
		return nil, err
	}
	credential, err := s.issue(r.GetSigningRequest(), r.GetHostName(), func(id contract.ID, key []byte, host string, until, now time.Time) error {
		if id != by {
			return refuse("the certificate is of agent %s, and the request is for agent %s", by, id)
		}
		return s.book.renew(id, key, host, until, now)
	})
	if err != nil {
		return nil, s.refused(ctx, "renew", err)
	}
	return &agentv1.RenewResponse{Credential: credential}, nil
}

// issue signs what is asked for, once allow has written it down.
func (s *Service) issue(request []byte, host string, allow func(id contract.ID, key []byte, host string, until, now time.Time) error) (*agentv1.Credential, error) {
	id, key, err := enrollment.ParseRequest(request)
	if err != nil {
		return nil, &refusedError{err.Error()}
	}
	if len(host) > maxHostName || strings.ContainsFunc(host, unicode.IsControl) {
		return nil, refuse("host_name is longer than %d bytes, or no line", maxHostName)
	}
	now := s.now()
	signer := s.site.signer(now)
	leaf, err := signer.agent(id, key, now)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(leaf.RawSubjectPublicKeyInfo)
	if err := allow(id, digest[:], host, leaf.NotAfter, now); err != nil {
		return nil, err
	}
	s.log.Info("signed for an agent", "agent", id, "host", host, "valid_until", leaf.NotAfter)
	given := &agentv1.Credential{Certificate: leaf.Raw, Authority: signer.certificate.Raw, UtcMillis: now.UnixMilli()}
	for _, a := range s.site.all(now) {
		given.Authorities = append(given.Authorities, a.certificate.Raw)
	}
	return given, nil
}

// refused is the answer to who gets nothing.
func (s *Service) refused(ctx context.Context, what string, err error) error {
	count := s.refusals.Add(1)
	if s.told.Allow() {
		from := "unknown"
		if p, ok := peer.FromContext(ctx); ok {
			from = p.Addr.String()
		}
		s.log.Warn("an agent gets no certificate", "call", what, "from", from, "reason", err, "refused_since_start", count)
	}
	var refused *refusedError
	if errors.As(err, &refused) {
		return status.Error(codes.PermissionDenied, refused.text)
	}
	return status.Error(codes.Unavailable, "this Manager cannot write down who is enrolled; its log says why")
}

// Refused is how many requests for a certificate got none since the start; the log does not tell of all.
func (s *Service) Refused() uint64 { return s.refusals.Load() }

// CreateToken makes a token, which nobody can be told again.
func (s *Service) CreateToken(label string, uses int, valid time.Duration) (text string, t Token, err error) {
	now := s.now()
	all := s.site.all(now)
	// Whoever has no more than the token knows its authority alone.
	if left := all[0].certificate.NotAfter.Add(-backdated).Sub(now); left > 0 {
		valid = min(valid, left)
	}
	secret := enrollment.NewToken(all[0].certificate)
	t, err = s.book.createToken(secret, label, uses, valid, now)
	if err != nil {
		return "", Token{}, err
	}
	s.log.Info("an enrolment token was made", "token", t.ID, "label", label, "uses", uses, "expires", t.Expires)
	t.Hash = nil
	return secret.Text(), t, nil
}

// Tokens are those that are known.
func (s *Service) Tokens() []Token { return s.book.listTokens() }

// RevokeToken has a token admit nobody any more.
func (s *Service) RevokeToken(id string) error {
	err := s.book.revokeToken(id, s.now())
	if err == nil {
		s.log.Info("an enrolment token was revoked", "token", id)
	}
	return err
}

// Agents are those in the book.
func (s *Service) Agents() []Agent { return s.book.listAgents() }

// RevokeAgent ends an agent, with those that enrolled by its certificate where copies says so.
func (s *Service) RevokeAgent(id contract.ID, copies bool) ([]Agent, error) {
	ended, err := s.book.revoke(id, copies, s.now())
	if err != nil {
		return nil, err
	}
	for _, a := range ended {
		s.log.Info("an agent was revoked", "agent", a.Text, "host", a.HostName)
	}
	return ended, nil
}

// ReadmitAgent lets an agent enrol under its id again.
func (s *Service) ReadmitAgent(id contract.ID) error {
	err := s.book.readmit(id)
	if err == nil {
		s.log.Info("an agent may enrol again", "agent", id)
	}
	return err
}

// Alarm is what a person should see to of the authority; empty where that is nothing.
func (s *Service) Alarm() string {
	now := s.now()
	current, next := s.site.at(now)
	c := current.certificate
	switch {
	case next != nil:
		return "" // agents hear of it by themselves
	case now.After(c.NotAfter):
		return fmt.Sprintf("the site's authority has expired on %s, and no agent can connect: move %s away, start the Manager anew, and enrol all agents again", c.NotAfter.Format(time.DateOnly), authorityFile)
	case now.Before(c.NotBefore):
		return fmt.Sprintf("the site's authority is not valid before %s: set this Manager's clock", c.NotBefore.Format(time.DateOnly))
	case c.NotAfter.Sub(now) < authorityExpiresSoon:
		return fmt.Sprintf("the site's authority expires on %s, and its successor cannot be made: the log says why", c.NotAfter.Format(time.DateOnly))
	}
	return ""
}

// Authority is the SHA-256 by which tokens name the site's authority.
func (s *Service) Authority() string {
	pin := enrollment.Pin(s.site.all(s.now())[0].certificate)
	return fmt.Sprintf("%x", pin[:])
}

// Succeed makes the successor of the site's authority before its time, and returns until when it is
// good. One that is there stays.
func (s *Service) Succeed() (time.Time, error) {
	next, err := s.site.succeed(s.now())
	if err != nil {
		return time.Time{}, err
	}
	return next.certificate.NotAfter, nil
}
