package identity

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// Metering names a login and a run: the login is sent one mail of it, with the file as it was, or it is
// told why not; and nothing else of the login is told.
func TestReportsAreMailed(t *testing.T) {
	m := newMailbox(t)
	m.start(m.sender)
	ada := m.person("ada@example.org")
	m.service.mailer = &mailer{mails: m.sender, commands: m.service.commands, keys: m.keys, origins: m.keys, secrets: m.stores.Secrets, log: platformtest.Logger(t), now: time.Now}
	m.background(m.service.sendReports)
	file := bytes.Repeat([]byte("PK\x03\x04 \r\n.\r\n\x00\xff"), 300_000)[:contract.MaxAttachedBytes-4096]
	id, run := resource.NewID(), resource.NewID()
	ask := func(login, run contract.ID) identityv1.ReportMailOutcome {
		t.Helper()
		question, err := proto.Marshal(&identityv1.ReportMail{
			AccountId: m.account[:], LoginId: login[:], OwnerLoginId: ada[:], SavedReportId: id[:], RunId: run[:],
			Name: "Idle\r\nBcc: thief@evil.example", Kind: "Idle", Period: "2026-10-01 to 2026-10-31, UTC", AtUtcMillis: 1_793_500_000_000, FileName: "idle.xlsx", ContentType: "application/x\r\ny", Content: file,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), mailPatience)
		defer cancel()
		answer, err := m.nc.RequestWithContext(ctx, contract.ReportMailSubject, question)
		for errors.Is(err, nats.ErrNoResponders) && ctx.Err() == nil { // it may not be listening yet
			answer, err = m.nc.RequestWithContext(ctx, contract.ReportMailSubject, question)
		}
		if err != nil {
			t.Fatal(err)
		}
		var a identityv1.ReportMailAnswer
		if err := proto.Unmarshal(answer.Data, &a); err != nil {
			t.Fatal(err)
		}
		return a.GetOutcome()
	}
	refuse := func(err error) {
		take := func(string) error { return err }
		m.take.Store(&take)
	}
	refuse(&smtp.SMTPError{Code: 451, Message: "try later"})
	if got := ask(ada, run); got != identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_UNSPECIFIED {
		t.Errorf("the server does not take it now: %s", got)
	}
	refuse(&smtp.SMTPError{Code: 550, Message: "no such ada@example.org"})
	if got := ask(ada, run); got != identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_REFUSED {
		t.Errorf("the server never takes it: %s", got)
	}
	m.take.Store(nil)
	for range 3 {
		if got := ask(ada, run); got != identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_SENT {
			t.Errorf("it is not sent: %s", got)
		}
	}
	got := m.wait("Report: Idle")
	if len(got.Files) != 1 || got.Files[0].Name != "idle.xlsx" || !bytes.Equal(got.Files[0].Content, file) || got.Header.Get("Bcc") != "" || len(got.Recipients) != 1 {
		t.Errorf("the mail to %v has %d files, %v", got.Recipients, len(got.Files), got.Header)
	}
	count := 0
	for _, one := range m.box.Mails() {
		if one.Subject == got.Subject {
			count++
		}
	}
	if count != 1 {
		t.Errorf("%d mails of one run", count)
	}
	if got := ask(resource.NewID(), run); got != identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_GONE {
		t.Errorf("to nobody: %s", got)
	}
	if outcome, err := m.service.sendReport(t.Context(), []byte("\xff")); err == nil || outcome != identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_UNSPECIFIED {
		t.Errorf("bytes that are no question: %s, %v", outcome, err)
	}
	m.service.mailer = nil
	if got := ask(ada, resource.NewID()); got != identityv1.ReportMailOutcome_REPORT_MAIL_OUTCOME_NO_MAIL {
		t.Errorf("where no mails are sent: %s", got)
	}
}
