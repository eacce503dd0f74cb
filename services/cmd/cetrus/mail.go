package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/cetrus/cetrus/services/platform/config"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/mail"
)

// mailSettings say how mail is sent; without a server none is.
type mailSettings struct {
	smtpURL          string
	smtpPasswordFile string
	mailFrom         string
	publicURL        string
}

func (s *mailSettings) flags(fs *pflag.FlagSet) {
	fs.StringVar(&s.smtpURL, "smtp-url", "", "mail server: smtp://user@host:587 (encrypted by STARTTLS), smtps://user@host:465 (encrypted from the start) or smtp+plain://host:25; without it no mail is sent")
	fs.StringVar(&s.smtpPasswordFile, "smtp-password-file", "", "file of the password of the mail server's user")
	fs.StringVar(&s.mailFrom, "mail-from", "", "sender of mails, as `Cetrus <cetrus@example.com>`; needed with smtp-url")
	fs.StringVar(&s.publicURL, "public-url", "", "URL under which people reach Cetrus, for the links in mails; passkeys are bound to its host name; default: where the gateway listens")
}

func (s *mailSettings) validate() error {
	var problems []error
	problem := func(setting, value string, err error) {
		if err != nil {
			problems = append(problems, config.Problem(setting, value, errs.PublicOf(err).Message))
		}
	}
	if s.publicURL != "" {
		problem("public-url", s.publicURL, mail.CheckPublicURL(s.publicURL))
	}
	if s.smtpURL != "" {
		password, err := s.password()
		problem("smtp-password-file", s.smtpPasswordFile, err)
		if err == nil {
			// Not the URL itself: somebody may have written a password into it.
			problem("smtp-url", "", mail.CheckServer(s.smtpURL, password))
		}
		problem("mail-from", s.mailFrom, mail.CheckFrom(s.mailFrom))
	}
	return errors.Join(problems...)
}

func (s *mailSettings) password() (string, error) {
	if s.smtpPasswordFile == "" {
		return "", nil
	}
	text, err := os.ReadFile(s.smtpPasswordFile)
	return strings.TrimRight(string(text), "\r\n"), errs.As(errs.Invalid, "cetrus", "", "cannot be read; name a file that holds the password alone", err)
}

// sender is nil where no mail is to be sent.
func (s *mailSettings) sender(public func() (string, error), log *slog.Logger) (*mail.Sender, error) {
	if s.smtpURL == "" {
		return nil, nil
	}
	password, err := s.password()
	if err != nil {
		return nil, err
	}
	return mail.New(mail.Config{URL: s.smtpURL, Password: password, From: s.mailFrom, PublicURL: public}, mail.Deps{Logger: log})
}

// mailPart is how the parts after it send mail.
var mailPart = part{
	name: "mail",
	start: func(ctx context.Context, p *process) (_ runner, err error) {
		if p.mails, err = p.settings.mail.sender(p.publicURL, p.log); err == nil && p.mails == nil {
			p.log.WarnContext(ctx, "no mail is sent: nobody can get a new password or hear of a new sign-in; set smtp-url and mail-from")
		}
		return nil, err
	},
}

// publicURL is where people reach Cetrus: as set, or where the gateway of this process or
// of the same data directory listens.
func (p *process) publicURL() (string, error) {
	if p.settings.mail.publicURL != "" {
		return p.settings.mail.publicURL, nil
	}
	for _, target := range []string{p.target.name, "gateway"} {
		if a, err := addressesOf(p.settings.dataDir, target); err != nil || a.REST != "" {
			return a.REST, err
		}
	}
	return "", errs.New(errs.Unavailable, "cetrus", "setting public-url", "is not set, and no gateway runs yet whose address could stand for it")
}
