package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cetrus/cetrus/services/platform/mail/inbox"
)

const inboxName = "the inbox"

// inboxPage is where its page is found again, unless another program listens there.
const inboxPage = "127.0.0.1:8025"

// startInbox takes the mails of the platform, so that whoever runs this sees what a person
// would receive. It is nil where the person named a mail server of their own.
func (s *settings) startInbox(ctx context.Context) (*inbox.Inbox, error) {
	own := func(arg string) bool { return strings.HasPrefix(arg, "--smtp-url") }
	if slices.ContainsFunc(s.forward, own) || os.Getenv("CETRUS_SMTP_URL") != "" {
		return nil, nil
	}
	box, err := inbox.New(ctx, inbox.Config{WebListen: inboxPage})
	if err != nil {
		if box, err = inbox.New(ctx, inbox.Config{}); err != nil {
			return nil, fmt.Errorf("%s: %w", inboxName, err)
		}
	}
	s.forward = append(s.forward, "--smtp-url="+box.SMTPURL(), "--mail-from=Cetrus <cetrus@localhost>")
	return box, nil
}
