package identity

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"buf.build/go/protovalidate"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/keyring"
	"github.com/cetrus/cetrus/services/platform/mail"
)

// sendReports sends the mails of saved reports that metering asks for, until ctx ends. Metering says
// to which login, and learns what became of it: addresses stay here.
func (s *Service) sendReports(ctx context.Context) error {
	questions := make(chan *nats.Msg, mailsWaiting)
	subscription, err := s.nats.ChanQueueSubscribe(contract.ReportMailSubject, contextName, questions)
	if err != nil {
		return fmt.Errorf("listen to %s: %w", contract.ReportMailSubject, err)
	}
	defer func() { _ = subscription.Unsubscribe() }()
	group := &errgroup.Group{}
	group.SetLimit(mailsAtOnce)
	for {
		select {
		case <-ctx.Done():
			return group.Wait()
		case question := <-questions:
			group.Go(func() error {
				outcome, err := s.sendReport(ctx, question.Data)
				if err != nil {
					s.log.WarnContext(ctx, "a report was not sent; metering asks again", "error", err)
				}
				answer, err := proto.Marshal(&identityv1.ReportMailAnswer{Outcome: outcome})
				if err == nil {
					err = question.Respond(answer)
				}
				if err != nil && ctx.Err() == nil {
					s.log.WarnContext(ctx, "metering does not hear what became of a report's mail; it asks again", "error", err)
				}
				return nil
			})
		}
	}
}

// sendReport sends one mail, unless it was sent. An error is of what may go well another time.
func (s *Service) sendReport(ctx context.Context, question []byte) (identityv1.ReportMailOutcome, error) {
	const again = identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_UNSPECIFIED
	var q identityv1.ReportMail
	err := proto.Unmarshal(question, &q)
	if err == nil {
		err = protovalidate.Validate(&q)
	}
	if err != nil {
		return again, fmt.Errorf("identity: a mail of a report is none: %w", err)
	}
	if s.mailer == nil {
		return identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_NO_MAIL, nil
	}
	m := s.mailer
	account, login, owner := contract.ID(q.GetAccountId()), contract.ID(q.GetLoginId()), contract.ID(q.GetOwnerLoginId())
	id := contract.ID(q.GetRunId()).String() + "." + login.String()
	if done, err := m.done(ctx, account, id); err != nil || done {
		return identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_SENT, err
	}
	recipient, _, err := m.commands.logins.Load(ctx, loginSubject(account, login))
	if err != nil {
		return again, fmt.Errorf("identity: login %s: %w", login, err)
	}
	switch {
	case !recipient.there():
		return identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_GONE, nil
	case recipient.Disabled:
		return identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_DISABLED, nil
	}
	content := mail.Report{
		Report: contract.ID(q.GetSavedReportId()).String(), Name: q.GetName(), Kind: q.GetKind(), Period: q.GetPeriod(),
		At: time.UnixMilli(q.GetAtUtcMillis()), ByHand: q.GetByHand(), TooLarge: q.GetTooLarge(),
	}
	to, ownerName, err := m.addressed(ctx, account, recipient, owner)
	if err != nil {
		return again, err
	}
	if to.Address == "" {
		return identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_NO_ADDRESS, nil
	}
	content.Owner = ownerName
	one := mail.Mail{ID: id, To: to}
	if len(q.GetContent()) > 0 {
		one.File = &mail.File{Name: q.GetFileName(), ContentType: q.GetContentType(), Content: q.GetContent()}
		content.File = q.GetFileName()
	}
	one.Content = content
	if err := m.mails.Send(ctx, one); err != nil {
		if errors.Is(err, mail.ErrRefused) {
			return identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_REFUSED, nil
		}
		return again, err
	}
	return identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_SENT, m.record(ctx, account, id, notice{login: login, became: mailSent})
}

// addressed is where a login's mail goes, and what the owner of what is sent is called; "" where that
// is the same login.
func (m *mailer) addressed(ctx context.Context, account contract.ID, login Login, owner contract.ID) (to mail.Recipient, ownerName string, err error) {
	of, _, err := m.commands.accounts.Load(ctx, accountSubject(account))
	if err != nil {
		return to, "", fmt.Errorf("identity: mail: account %s: %w", account, err)
	}
	from, _, err := m.commands.logins.Load(ctx, loginSubject(account, owner))
	if err != nil {
		return to, "", fmt.Errorf("identity: mail: login %s: %w", owner, err)
	}
	opened, err := m.keys.OpenTexts(ctx, account, []keyring.Text{
		{Principal: login.ID, What: whatName, Sealed: login.SealedName},
		{Principal: login.ID, What: whatDisplayName, Sealed: login.SealedDisplayName},
		{Principal: login.ID, What: whatMailAddress, Sealed: login.SealedMailAddress},
		{Principal: account, What: whatAccountName, Sealed: of.SealedName},
		{Principal: owner, What: whatName, Sealed: from.SealedName},
		{Principal: owner, What: whatDisplayName, Sealed: from.SealedDisplayName},
	})
	if err != nil {
		return to, "", fmt.Errorf("identity: mail: %w", err)
	}
	to = mail.Recipient{Name: cmp.Or(opened[1], opened[0]), Address: opened[2], Account: opened[3]}
	if owner != login.ID {
		ownerName = cmp.Or(opened[5], opened[4], "Somebody")
	}
	return to, ownerName, nil
}
