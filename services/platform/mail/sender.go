package mail

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net"
	netmail "net/mail"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	gomail "github.com/wneessen/go-mail"

	"github.com/cetrus/cetrus/services/platform/errs"
)

const op = "mail"

// ErrRefused means that the server takes this mail from nobody: the recipient does not
// exist, or the mail is against its rules. Another attempt is of no use.
var ErrRefused = errors.New("the mail server refuses it for good")

// Schemes of the server's URL.
const (
	// SchemeStartTLS begins in the clear and goes on only once that is encrypted.
	SchemeStartTLS = "smtp"
	// SchemeTLS is encrypted from the first byte on.
	SchemeTLS = "smtps"
	// SchemePlain is never encrypted: for a server of the same machine, or of a network
	// that is trusted with links to new passwords.
	SchemePlain = "smtp+plain"
)

// Config says through which server, and in whose name.
type Config struct {
	// URL of the server: scheme://[user@]host[:port].
	URL string
	// Password of the user.
	Password string
	// From is the sender: "Cetrus <cetrus@example.com>".
	From string
	// PublicURL tells where people reach Cetrus; links lead below it. It is asked for each
	// mail, as an address may be known only once everything has started.
	PublicURL func() (string, error)
	// Timeout of one mail, from the connection to the server's answer; default 20 s.
	Timeout time.Duration
	// RootCAs that the server's certificate must come from; nil: those of the system.
	RootCAs *x509.CertPool
}

// Deps of a sender.
type Deps struct {
	// Logger; slog.Default() if nil.
	Logger *slog.Logger
}

// Recipient is whom a mail is for.
type Recipient struct {
	// Name of the person, as they are addressed.
	Name string
	// Address is an address alone: ada@example.com.
	Address string
	// Account is the name of the account that the mail is about.
	Account string
}

// Mail is one mail to one person.
type Mail struct {
	// ID is that of the event that the mail tells of.
	ID      string
	To      Recipient
	Content Content
	// File comes with it; nil: none does.
	File *File
}

// File is what comes with a mail.
type File struct {
	// Name is what it is called, without folders.
	Name, ContentType string
	Content           []byte
}

// fileName is the name of a file as a mail may hold it.
func (f File) fileName() string {
	return strings.NewReplacer("/", "_", `\`, "_", `"`, "_").Replace(oneLine(f.Name))
}

// contentType is what the file is; what is no type is bytes.
func (f File) contentType() gomail.ContentType {
	if kind, parameters, err := mime.ParseMediaType(f.ContentType); err == nil {
		if written := mime.FormatMediaType(kind, parameters); written != "" {
			return gomail.ContentType(written)
		}
	}
	return gomail.TypeAppOctetStream
}

// Sender sends mails.
type Sender struct {
	server    server
	password  string
	tls       *tls.Config
	from      netmail.Address
	domain    string
	public    func() (string, error)
	timeout   time.Duration
	templates *templates
	log       *slog.Logger
}

// New checks the configuration; it speaks to nobody yet.
func New(config Config, deps Deps) (*Sender, error) {
	if deps.Logger == nil {
		deps.Logger = slog.Default()
	}
	if config.Timeout == 0 {
		config.Timeout = 20 * time.Second
	}
	if config.PublicURL == nil {
		return nil, errors.New("mail: Config.PublicURL is needed")
	}
	s := &Sender{timeout: config.Timeout, public: config.PublicURL, log: deps.Logger.With("component", "mail")}
	var err error
	if s.from, s.domain, err = parseFrom(config.From); err != nil {
		return nil, err
	}
	if s.templates, err = loadTemplates(); err != nil {
		return nil, err
	}
	if s.server, err = parseServer(config.URL, config.Password); err != nil {
		return nil, err
	}
	s.password = config.Password
	s.tls = &tls.Config{ServerName: s.server.host, MinVersion: tls.VersionTLS12, RootCAs: config.RootCAs}
	return s, nil
}

// client is for one mail: what it dials is cut as soon as ctx ends, which go-mail by itself
// heeds only until the connection is made.
func (s *Sender) client(ctx context.Context, hold func(net.Conn)) (*gomail.Client, error) {
	var dialer net.Dialer
	dial := dialer.DialContext
	options := []gomail.Option{
		gomail.WithPort(s.server.port), gomail.WithTimeout(s.timeout), gomail.WithHELO(s.domain), gomail.WithoutNoop(), gomail.WithTLSConfig(s.tls),
	}
	switch s.server.scheme {
	case SchemeTLS:
		dial = (&tls.Dialer{NetDialer: &dialer, Config: s.tls}).DialContext
		options = append(options, gomail.WithSSL())
	case SchemePlain:
		options = append(options, gomail.WithTLSPolicy(gomail.NoTLS))
	default:
		options = append(options, gomail.WithTLSPolicy(gomail.TLSMandatory))
	}
	options = append(options, gomail.WithDialContextFunc(func(_ context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err == nil {
			hold(conn)
		}
		return conn, err
	}))
	if s.server.user != "" {
		options = append(options, gomail.WithOpportunisticSMTPAuth(gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthPlain, gomail.SMTPAuthLogin),
			gomail.WithUsername(s.server.user), gomail.WithPassword(s.password))
	}
	return gomail.NewClient(s.server.host, options...)
}

// server is a server's URL taken apart.
type server struct {
	scheme, host, user string
	port               int
}

// CheckServer tells what is wrong with the URL of a server, or with giving it this password.
func CheckServer(text, password string) error {
	_, err := parseServer(text, password)
	return err
}

func parseServer(text, password string) (server, error) {
	wrong := func(why string) (server, error) {
		return server{}, errs.New(errs.Invalid, op, "mail server", why)
	}
	u, err := url.Parse(text)
	if err != nil || u.Opaque != "" {
		return wrong("is no URL: write smtp://user@mail.example.com:587")
	}
	s := server{scheme: u.Scheme, host: u.Hostname()}
	ports := map[string]int{SchemeStartTLS: 587, SchemeTLS: 465, SchemePlain: 25}
	standard, known := ports[u.Scheme]
	switch {
	case !known:
		return wrong("must begin with smtp:// (encrypted by STARTTLS), smtps:// (encrypted from the start) or smtp+plain:// (not encrypted)")
	case s.host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || strings.ContainsFunc(s.host, notInHost):
		return wrong("must name a host, and nothing behind its port: smtp://user@mail.example.com:587")
	}
	s.port = standard
	if u.Port() != "" {
		if s.port, err = strconv.Atoi(u.Port()); err != nil || s.port < 1 || s.port > 65535 {
			return wrong("has no port from 1 to 65535")
		}
	}
	if u.User != nil {
		if _, inside := u.User.Password(); inside {
			return wrong("must not hold the password, since others may read it there: give it in the file of the password")
		}
		s.user = u.User.Username()
	}
	switch {
	case (s.user == "") != (password == ""):
		return wrong("needs both a user, before the @ of the URL, and a password, or neither")
	case s.user != "" && s.scheme == SchemePlain:
		return wrong("would be sent the password for everybody on the way to read: use smtp:// or smtps://")
	}
	return s, nil
}

func notInHost(r rune) bool { return r <= ' ' || r >= 0x7f }

// CheckPublicURL tells what is wrong with the URL that links begin with.
func CheckPublicURL(text string) error {
	_, err := parsePublicURL(text)
	return err
}

func parsePublicURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errs.New(errs.Invalid, op, "public URL", "must be where people reach Cetrus, as https://cetrus.example.com")
	}
	return u, nil
}

// CheckFrom tells what is wrong with a sender.
func CheckFrom(text string) error {
	_, _, err := parseFrom(text)
	return err
}

func parseFrom(text string) (from netmail.Address, domain string, err error) {
	a, err := netmail.ParseAddress(text)
	if err == nil {
		if domain, err = domainOf(a.Address); err == nil {
			return netmail.Address{Name: displayName(a.Name), Address: a.Address}, domain, nil
		}
	}
	return from, "", errs.As(errs.Invalid, op, "sender of mails", "must be an address, as Cetrus <cetrus@example.com>", err)
}

// addressPattern is an address that every server takes: letters, digits and a few signs,
// no quoting, no comments; the domain in its ASCII form.
var addressPattern = regexp.MustCompile(`^[A-Za-z0-9!#$%&'*+/=?^_{|}~.\x60-]{1,64}@([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// domainOf also tells whether it is an address.
func domainOf(address string) (string, error) {
	if len(address) > 254 || !addressPattern.MatchString(address) || strings.Contains(address, "..") || strings.HasPrefix(address, ".") || strings.Contains(address, ".@") {
		return "", errors.New("it is no mail address")
	}
	return address[strings.LastIndexByte(address, '@')+1:], nil
}

// displayName is a name as it stands before an address. net/mail leaves a backslash in an
// encoded word, where no reader of an address expects one.
func displayName(name string) string { return strings.ReplaceAll(oneLine(name), `\`, "/") }

var idPattern = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

// compose makes the message.
func (s *Sender) compose(m Mail, now time.Time) (*gomail.Msg, error) {
	if m.Content == nil || !idPattern.MatchString(m.ID) || len(m.ID) > 100 {
		return nil, fmt.Errorf("mail: %q says nothing, or is no id of a mail", m.ID)
	}
	if _, err := domainOf(m.To.Address); err != nil {
		return nil, fmt.Errorf("mail: mail %s: its recipient's address cannot be used: %w: %w", m.ID, err, ErrRefused)
	}
	address, err := s.public()
	if err != nil {
		return nil, errs.Wrap(op, "mail "+m.ID, err)
	}
	public, err := parsePublicURL(address)
	if err != nil {
		return nil, err
	}
	words, err := s.templates.render(public, m.To, m.Content)
	if err != nil {
		return nil, err
	}
	msg := gomail.NewMsg(gomail.WithCharset(gomail.CharsetUTF8), gomail.WithEncoding(gomail.EncodingQP), gomail.WithNoDefaultUserAgent())
	msg.FromMailAddress(&s.from)
	msg.ToMailAddress(&netmail.Address{Name: displayName(m.To.Name), Address: m.To.Address})
	msg.Subject(words.subject)
	msg.SetDateWithValue(now)
	msg.SetMessageIDWithValue(m.ID + "@" + s.domain)
	// RFC 3834: no holiday notice is to answer it.
	msg.SetGenHeader("Auto-Submitted", "auto-generated")
	msg.SetBodyString(gomail.TypeTextPlain, words.text)
	msg.AddAlternativeString(gomail.TypeTextHTML, words.html)
	if m.File != nil {
		if err := msg.AttachReader(m.File.fileName(), bytes.NewReader(m.File.Content), gomail.WithFileContentType(m.File.contentType())); err != nil {
			return nil, fmt.Errorf("mail: mail %s: %w", m.ID, err)
		}
	}
	return msg, nil
}

// Send sends a mail, and returns nil once the server has taken it.
func (s *Sender) Send(ctx context.Context, m Mail) error {
	msg, err := s.compose(m, time.Now())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var cut func() bool
	client, err := s.client(ctx, func(conn net.Conn) {
		cut = context.AfterFunc(ctx, func() { _ = conn.Close() })
	})
	if err != nil {
		return fmt.Errorf("mail: %w", err)
	}
	err = client.DialAndSendWithContext(ctx, msg)
	if cut != nil {
		cut()
	}
	if msg.IsDelivered() {
		if err != nil {
			s.log.DebugContext(ctx, "the mail server took the mail and then failed", "mail", m.ID)
		}
		return nil
	}
	return failure(m.ID, err)
}

// failure says what went wrong without the server's words and without the recipient.
func failure(id string, err error) error {
	var refused *gomail.SendError
	if !errors.As(err, &refused) {
		return errs.As(errs.Unavailable, op, "mail "+id, "the mail server could not be spoken to", err)
	}
	code := strings.TrimSpace(fmt.Sprint(refused.ErrorCode()) + " " + refused.EnhancedStatusCode())
	what := fmt.Sprintf("the mail server answered %s when %s", code, refused.Reason)
	if refused.ErrorCode() < 500 {
		return errs.New(errs.Unavailable, op, "mail "+id, what)
	}
	return fmt.Errorf("mail: mail %s: %s: %w", id, what, ErrRefused)
}
