package inbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
	"golang.org/x/sync/errgroup"
)

// Config of an inbox. Zero values mean the defaults told.
type Config struct {
	// SMTPListen and WebListen are addresses of loopback; default 127.0.0.1:0.
	SMTPListen, WebListen string
	// Keep is how many mails are kept, the newest; default 200.
	Keep int
	// MaxBytes is the greatest mail that is taken; default 8 MiB.
	MaxBytes int64
	// Take, where it is set, is asked before a mail is taken: what it returns is the
	// server's answer. It is how a test lets the server refuse or be slow.
	Take func(ctx context.Context, recipient string) error
}

// Inbox is a mail server that delivers to nobody.
type Inbox struct {
	cfg       Config
	smtp, web net.Listener

	mu      sync.Mutex
	mails   []Mail // oldest first
	arrived int
	more    chan struct{} // closed at each arrival
}

// New listens, so that the addresses are known; Run answers.
func New(ctx context.Context, cfg Config) (*Inbox, error) {
	const anywhere = "127.0.0.1:0"
	if cfg.SMTPListen == "" {
		cfg.SMTPListen = anywhere
	}
	if cfg.WebListen == "" {
		cfg.WebListen = anywhere
	}
	if cfg.Keep == 0 {
		cfg.Keep = 200
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 8 << 20
	}
	i := &Inbox{cfg: cfg, more: make(chan struct{})}
	var err error
	if i.smtp, err = listen(ctx, cfg.SMTPListen); err != nil {
		return nil, err
	}
	if i.web, err = listen(ctx, cfg.WebListen); err != nil {
		return nil, errors.Join(err, i.smtp.Close())
	}
	return i, nil
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("inbox: %w", err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("inbox: %s is not on loopback, and whoever reaches it reads links to new passwords: use 127.0.0.1:port", address)
	}
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("inbox: %w", err)
	}
	return lis, nil
}

// SMTPURL is where mails are sent to, as the setting smtp-url wants it.
func (i *Inbox) SMTPURL() string { return "smtp+plain://" + i.smtp.Addr().String() }

// WebURL is where its page is.
func (i *Inbox) WebURL() string { return "http://" + i.web.Addr().String() + "/" }

// Run answers until ctx ends, and closes the listeners.
func (i *Inbox) Run(ctx context.Context) error {
	mails := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return &session{inbox: i, ctx: ctx}, nil }))
	mails.Domain = "inbox.localhost"
	mails.MaxMessageBytes = i.cfg.MaxBytes
	mails.MaxRecipients = 50
	mails.ReadTimeout, mails.WriteTimeout = 30*time.Second, 30*time.Second
	mails.EnableSMTPUTF8 = true
	mails.ErrorLog = silent{}
	page := &http.Server{Handler: i.handler(), ReadHeaderTimeout: 10 * time.Second}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return unless(mails.Serve(i.smtp), smtp.ErrServerClosed, net.ErrClosed) })
	group.Go(func() error { return unless(page.Serve(i.web), http.ErrServerClosed) })
	group.Go(func() error {
		<-ctx.Done()
		// A server that was not serving yet does not know its listener.
		return unless(errors.Join(mails.Close(), page.Close(), unless(i.smtp.Close(), net.ErrClosed), unless(i.web.Close(), net.ErrClosed)), smtp.ErrServerClosed)
	})
	return group.Wait()
}

// unless is err, or nil where it is one of those that say that all is well.
func unless(err error, fine ...error) error {
	if slices.ContainsFunc(fine, func(f error) bool { return errors.Is(err, f) }) {
		return nil
	}
	return err
}

// silent drops what the mail server says of connections that broke.
type silent struct{}

func (silent) Printf(string, ...any) {}
func (silent) Println(...any)        {}

// session is one connection.
type session struct {
	inbox *Inbox
	ctx   context.Context // of Run: go-smtp hands none over
	from  string
	to    []string
}

func (s *session) Reset()        { s.from, s.to = "", nil }
func (s *session) Logout() error { return nil }

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	s.from = from
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if s.inbox.cfg.Take != nil {
		if err := s.inbox.cfg.Take(s.ctx, to); err != nil {
			return err
		}
	}
	s.to = append(s.to, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.inbox.add(read(s.from, s.to, raw, time.Now()))
	return nil
}

func (i *Inbox) add(m Mail) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.arrived++
	m.Number = i.arrived
	i.mails = append(i.mails, m)
	if over := len(i.mails) - i.cfg.Keep; over > 0 {
		i.mails = slices.Delete(i.mails, 0, over)
	}
	close(i.more)
	i.more = make(chan struct{})
}

// Mails are those that are kept, the oldest first.
func (i *Inbox) Mails() []Mail {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.mails)
}

// Wait returns the first mail kept that is wanted, as soon as there is one.
func (i *Inbox) Wait(ctx context.Context, wanted func(Mail) bool) (Mail, error) {
	for {
		i.mu.Lock()
		at, more := slices.IndexFunc(i.mails, wanted), i.more
		if at >= 0 {
			defer i.mu.Unlock()
			return i.mails[at], nil
		}
		i.mu.Unlock()
		select {
		case <-ctx.Done():
			return Mail{}, fmt.Errorf("inbox: no such mail came: %w", ctx.Err())
		case <-more:
		}
	}
}
