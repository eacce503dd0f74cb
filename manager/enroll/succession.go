package enroll

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/enrollment"

	"github.com/cetrus/cetrus/manager/internal/durable"
)

// succession is the authorities of a site: the one that it has, and, in the last part of its life,
// its successor. Both are trusted on both sides; the successor signs what the other one would
// outlive. Its methods may be called from any goroutine.
type succession struct {
	dir string
	log *slog.Logger

	mu      sync.Mutex
	current *Authority
	// next is nil before there is a successor.
	next *Authority
}

func openSuccession(dir string, now time.Time, log *slog.Logger) (*succession, error) {
	s := &succession{dir: dir, log: log}
	var err error
	if s.current, err = openAuthority(filepath.Join(dir, authorityFile), now); err != nil {
		return nil, err
	}
	if s.next, err = readAuthority(filepath.Join(dir, successorFile)); errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return s, err
}

// at brings the succession to a moment: makes the successor when it is time, and has it take the
// place of one that has ended for so long that nothing of it renews itself any more. What fails is
// tried again at the next call.
func (s *succession) at(now time.Time) (current, next *Authority) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next == nil && s.current.succeeds(now) {
		if _, err := s.makeNext(now); err != nil {
			s.log.Error("the successor of the site's authority cannot be made", "error", err)
		}
	}
	if s.next != nil && now.After(s.current.certificate.NotAfter.Add(renewableFor)) {
		err := os.Rename(filepath.Join(s.dir, successorFile), filepath.Join(s.dir, authorityFile))
		if err != nil {
			s.log.Error("the site's new authority cannot take the place of the one that has ended", "error", err)
		} else {
			s.current, s.next = s.next, nil
		}
	}
	return s.current, s.next
}

// makeNext makes the successor; it is called with the lock held.
func (s *succession) makeNext(now time.Time) (*Authority, error) {
	file := filepath.Join(s.dir, successorFile)
	content, err := newAuthority(now)
	if err == nil {
		err = durable.Replace(file, content)
	}
	if err == nil {
		s.next, err = parseAuthority(content)
	}
	if err != nil {
		return nil, fmt.Errorf("make the successor of the site's authority, %s: %w", file, err)
	}
	s.log.Info("the site's authority has a successor; agents hear of it as they connect", "until", s.current.certificate.NotAfter, "successor_until", s.next.certificate.NotAfter)
	return s.next, nil
}

// succeed makes the successor before its time; one that is there stays.
func (s *succession) succeed(now time.Time) (*Authority, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil {
		return s.next, nil
	}
	return s.makeNext(now)
}

// all are the authorities that are trusted, the one first by which Managers are known now: the
// successor no earlier than it must, since not all agents know it.
func (s *succession) all(now time.Time) []*Authority {
	switch current, next := s.at(now); {
	case next == nil:
		return []*Authority{current}
	case now.Before(current.certificate.NotAfter.Add(-backdated)):
		return []*Authority{current, next}
	default:
		return []*Authority{next, current}
	}
}

// signer is who signs for agents: the successor as soon as the other one's certificates would be cut
// short.
func (s *succession) signer(now time.Time) *Authority {
	current, next := s.at(now)
	if next != nil && now.Add(LeafLife).After(current.certificate.NotAfter) {
		return next
	}
	return current
}

// agentOf is the agent that a certificate is of, expired or not.
func (s *succession) agentOf(c *x509.Certificate, now time.Time) (contract.ID, error) {
	pool := x509.NewCertPool()
	for _, a := range s.all(now) {
		pool.AddCert(a.certificate)
	}
	_, err := c.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: c.NotAfter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return contract.ID{}, fmt.Errorf("the certificate was not signed by this site's authority for an agent: %w", err)
	}
	return enrollment.AgentOf(c.Subject)
}
