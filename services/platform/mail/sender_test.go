package mail

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	netmail "net/mail"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"

	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/mail/inbox"
)

// patience is how long a test waits for what happens at once on an idle machine.
const patience = time.Minute

func startInbox(t *testing.T, cfg inbox.Config) *inbox.Inbox {
	t.Helper()
	box, err := inbox.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- box.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return box
}

func newSender(t *testing.T, cfg Config) *Sender {
	t.Helper()
	if cfg.From == "" {
		cfg.From = "Cetrus für alle <cetrus@example.com>"
	}
	cfg.PublicURL = public
	s, err := New(cfg, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A mail arrives whole, in both forms, with names in UTF-8 and an id that follows from
// the event's; sent again it is the same mail.
func TestArrives(t *testing.T) {
	box := startInbox(t, inbox.Config{})
	s := newSender(t, Config{URL: box.SMTPURL()})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for range 2 {
		if err := s.Send(ctx, Mail{ID: "0198-event", To: person, Content: samples["password-reset"]}); err != nil {
			t.Fatal(err)
		}
	}
	words := render(t, person, samples["password-reset"])
	mails := box.Mails()
	if len(mails) != 2 {
		t.Fatalf("%d mails", len(mails))
	}
	for _, m := range mails {
		if m.Broken != nil || m.Subject != words.subject || lines(m.Text) != lines(words.text) || lines(m.HTML) != lines(words.html) {
			t.Errorf("broken: %v\nsubject %q\n%s\n%s", m.Broken, m.Subject, m.Text, m.HTML)
		}
		if id := m.Header.Get("Message-Id"); id != "<0198-event@example.com>" {
			t.Errorf("Message-ID %s", id)
		}
		to, err := m.Header.AddressList("To")
		if err != nil || len(to) != 1 || to[0].Name != person.Name || to[0].Address != person.Address {
			t.Errorf("to %v: %v", to, err)
		}
		from, err := m.Header.AddressList("From")
		if err != nil || len(from) != 1 || from[0].Name != "Cetrus für alle" {
			t.Errorf("from %v: %v", from, err)
		}
		if m.Header.Get("Auto-Submitted") != "auto-generated" {
			t.Error("a holiday notice may answer")
		}
	}
}

func public() (string, error) { return "https://cetrus.example.com", nil }

func lines(s string) string { return strings.TrimSpace(strings.ReplaceAll(s, "\r\n", "\n")) }

// What the server refuses for good, and only that, is ErrRefused; no error names whom the
// mail was for, though the server does.
func TestRefusals(t *testing.T) {
	answers := map[string]*smtp.SMTPError{
		"gone@example.com": {Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "gone@example.com: no such user"},
		"full@example.com": {Code: 452, EnhancedCode: smtp.EnhancedCode{4, 2, 2}, Message: "full@example.com: mailbox full"},
	}
	box := startInbox(t, inbox.Config{Take: func(_ context.Context, to string) error { return answers[to] }})
	s := newSender(t, Config{URL: box.SMTPURL(), Timeout: patience})
	for address := range answers {
		err := s.Send(t.Context(), Mail{ID: "e1", To: Recipient{Address: address}, Content: Maintenance{}})
		if err == nil || errors.Is(err, ErrRefused) != strings.HasPrefix(address, "gone") {
			t.Errorf("%s: %v", address, err)
		}
		if err != nil && strings.Contains(err.Error(), address) {
			t.Errorf("the error names the recipient: %v", err)
		}
	}
	if err := s.Send(t.Context(), Mail{ID: "e1", To: Recipient{Address: "no address"}, Content: Maintenance{}}); !errors.Is(err, ErrRefused) {
		t.Errorf("no address: %v", err)
	}
	if n := len(box.Mails()); n != 0 {
		t.Errorf("%d mails came", n)
	}
}

// A server that is down, or answers too late, or not before the caller gives up, is worth
// another attempt.
func TestServerDownOrSlow(t *testing.T) {
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mute := "smtp+plain://" + lis.Addr().String() // takes connections, and says nothing
	box := startInbox(t, inbox.Config{Take: func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }})
	gone, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := "smtp+plain://" + gone.Addr().String()
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	for name, url := range map[string]string{"down": down, "mute": mute, "slow": box.SMTPURL()} {
		s := newSender(t, Config{URL: url, Timeout: 300 * time.Millisecond})
		ended := make(chan error, 1)
		go func() { ended <- s.Send(t.Context(), Mail{ID: "e1", To: person, Content: Maintenance{}}) }()
		select {
		case err := <-ended:
			if !errs.Is(errs.Unavailable, err) || errors.Is(err, ErrRefused) {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(patience):
			t.Fatalf("%s: Send does not come back", name)
		}
	}
	// The caller's end ends it too.
	s := newSender(t, Config{URL: box.SMTPURL(), Timeout: 10 * patience})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.Send(ctx, Mail{ID: "e1", To: person, Content: Maintenance{}}) }()
	select {
	case err := <-ended:
		if err == nil {
			t.Error("it was sent")
		}
	case <-time.After(patience):
		t.Fatal("Send goes on though its context has ended")
	}
}

// secure is a mail server with a certificate, which lets one user in.
type secure struct {
	config *tls.Config
	roots  *x509.CertPool
	mails  chan []byte
}

func (b *secure) NewSession(*smtp.Conn) (smtp.Session, error) { return &secureSession{secure: b}, nil }

type secureSession struct {
	*secure
	in bool
}

func (s *secureSession) Reset()                   {}
func (s *secureSession) Logout() error            { return nil }
func (s *secureSession) AuthMechanisms() []string { return []string{sasl.Plain} }
func (s *secureSession) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if user != "cetrus@example.com" || password != "päss word" {
			return smtp.ErrAuthFailed
		}
		s.in = true
		return nil
	}), nil
}

func (s *secureSession) Mail(string, *smtp.MailOptions) error {
	if !s.in {
		return smtp.ErrAuthRequired
	}
	return nil
}
func (s *secureSession) Rcpt(string, *smtp.RcptOptions) error { return nil }
func (s *secureSession) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	s.mails <- raw
	return err
}

func startSecure(t *testing.T, fromTheStart bool) (backend *secure, address string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mail"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	b := &secure{roots: x509.NewCertPool(), mails: make(chan []byte, 1), config: &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}}
	b.roots.AddCert(certificate)
	server := smtp.NewServer(b)
	server.ErrorLog = quiet{}
	server.TLSConfig = b.config
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address = lis.Addr().String()
	if fromTheStart {
		lis = tls.NewListener(lis, b.config)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(lis) // ends with Close
	}()
	t.Cleanup(func() {
		_, _ = server.Close(), lis.Close()
		<-done
	})
	return b, address
}

type quiet struct{}

func (quiet) Printf(string, ...any) {}
func (quiet) Println(...any)        {}

// With STARTTLS and with TLS from the start a mail arrives, for the user with the password
// and where the certificate is trusted; else it does not. A server without STARTTLS is
// told nothing.
func TestEncrypted(t *testing.T) {
	for scheme, fromTheStart := range map[string]bool{SchemeStartTLS: false, SchemeTLS: true} {
		t.Run(scheme, func(t *testing.T) {
			backend, address := startSecure(t, fromTheStart)
			good := Config{URL: scheme + "://cetrus%40example.com@" + address, Password: "päss word", RootCAs: backend.roots, Timeout: patience}
			if err := newSender(t, good).Send(t.Context(), Mail{ID: "e1", To: person, Content: Maintenance{}}); err != nil {
				t.Fatal(err)
			}
			<-backend.mails
			for name, change := range map[string]func(*Config){
				"another password":       func(c *Config) { c.Password = "other" },
				"an unknown certificate": func(c *Config) { c.RootCAs = x509.NewCertPool() },
			} {
				bad := good
				change(&bad)
				err := newSender(t, bad).Send(t.Context(), Mail{ID: "e1", To: person, Content: Maintenance{}})
				// Not refused for good: the configuration is wrong, not this mail.
				if err == nil || errors.Is(err, ErrRefused) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	box := startInbox(t, inbox.Config{})
	err := newSender(t, Config{URL: strings.Replace(box.SMTPURL(), SchemePlain, SchemeStartTLS, 1), Timeout: patience}).
		Send(t.Context(), Mail{ID: "e1", To: person, Content: Maintenance{}})
	if err == nil || len(box.Mails()) != 0 {
		t.Errorf("a server that does not encrypt got the mail: %v", err)
	}
}

// What is wrong with a setting is told.
func TestSettings(t *testing.T) {
	fine := Config{URL: "smtps://u@mail.example.com", Password: "p", From: "cetrus@example.com", PublicURL: public}
	if _, err := New(fine, Deps{}); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Config){
		"no scheme":             func(c *Config) { c.URL = "mail.example.com:25" },
		"web":                   func(c *Config) { c.URL = "https://u@mail.example.com" },
		"no host":               func(c *Config) { c.URL = "smtp://u@" },
		"path":                  func(c *Config) { c.URL += "/x" },
		"port":                  func(c *Config) { c.URL += ":0" },
		"password in URL":       func(c *Config) { c.URL = "smtps://u:p@mail.example.com" },
		"user without password": func(c *Config) { c.Password = "" },
		"password without user": func(c *Config) { c.URL = "smtps://mail.example.com" },
		"password in the clear": func(c *Config) { c.URL = "smtp+plain://u@mail.example.com" },
		"sender":                func(c *Config) { c.From = "Cetrus" },
		"two senders":           func(c *Config) { c.From = "a@example.com, b@example.com" },
	} {
		bad := fine
		change(&bad)
		if _, err := New(bad, Deps{}); !errs.Is(errs.Invalid, err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for text, good := range map[string]bool{
		"https://cetrus.example.com": true, "http://127.0.0.1:8080/cetrus": true,
		"": false, "cetrus.example.com": false, "javascript:alert(1)": false, "https://u:p@cetrus.example.com": false, "https://cetrus.example.com?x": false,
	} {
		if err := CheckPublicURL(text); (err == nil) != good {
			t.Errorf("public URL %q: %v", text, err)
		}
	}
}

// FuzzFields writes whatever comes into every field that a caller fills in: either the
// mail is refused, or it has the headers that it always has, each once, one recipient, and
// the parts that it always has.
func FuzzFields(f *testing.F) {
	for _, s := range []string{"", "Ada", "a\r\nBcc: evil@example.com", "a\nBcc: x", "\x00", "=?utf-8?q?a=0D=0ABcc:_x?=", "\u2028Bcc: x", "a@b, c@d", `"<x@y>`, strings.Repeat("ä", 5000), "\xff\xfe", "--boundary"} {
		f.Add(s, s+"@example.com", s, s, s, s)
		f.Add(s, "ada@example.com", s, s, "event-1", s)
	}
	s, err := New(Config{URL: "smtp://localhost", From: "Cetrus <cetrus@example.com>", PublicURL: public}, Deps{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name, address, account, login, id, other string) {
		for _, c := range []Content{
			PasswordReset{Login: login, Secret: other, From: Origin{Device: other}},
			Invitation{Login: login, Secret: other},
			PasswordChanged{Login: login, From: Origin{Device: other}},
			SecondFactorChanged{Login: login, What: other, From: Origin{Device: other}},
			SecondFactorChanged{Login: login, What: other, Removed: true, ByAdministrator: true},
			PasskeySuspended{Login: login, From: Origin{Device: other}},
			AddressChanged{Login: login},
			LoginsLinked{Login: login, OtherLogin: other, OtherAccount: login, From: Origin{Device: other}},
			LoginsLinked{Login: login, OtherLogin: other, OtherAccount: other, Ended: true, ByOther: true},
			NewDevice{Login: login, From: Origin{Device: other}},
			APIKeyMade{Login: login, Key: other, Privileges: []string{other, login}},
			PrivilegesChanged{Login: login, Given: []string{other}, Taken: []string{login, other}},
			Maintenance{What: other},
		} {
			msg, err := s.compose(Mail{ID: id, To: Recipient{Name: name, Address: address, Account: account}, Content: c}, at)
			if err != nil {
				continue
			}
			var raw bytes.Buffer
			if _, err := msg.WriteTo(&raw); err != nil {
				t.Fatal(err)
			}
			if err := wellFormed(raw.Bytes(), address); err != nil {
				t.Fatalf("%T: %v\n%s", c, err, raw.Bytes())
			}
			recipients, err := msg.GetRecipients()
			if err != nil || len(recipients) != 1 || recipients[0] != "<"+address+">" {
				t.Fatalf("recipients %q: %v", recipients, err)
			}
		}
	})
}

func wellFormed(raw []byte, address string) error {
	m, err := netmail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	allowed := map[string]bool{"From": true, "To": true, "Subject": true, "Date": true, "Message-Id": true, "Auto-Submitted": true, "Mime-Version": true, "Content-Type": true}
	for header, values := range m.Header {
		if !allowed[header] || len(values) != 1 {
			return fmt.Errorf("header %s: %q", header, values)
		}
	}
	to, err := m.Header.AddressList("To")
	if err != nil || len(to) != 1 || to[0].Address != address {
		return fmt.Errorf("to %v: %w", to, err)
	}
	if n := bytes.Count(raw, []byte("Content-Transfer-Encoding: quoted-printable")); n != 2 {
		return fmt.Errorf("%d parts", n)
	}
	return nil
}
