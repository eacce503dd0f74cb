package manager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/internal/latest"
)

const (
	// siteEvery is how often the platform is told of this site at most, and siteAgain how often
	// though nothing has changed: what was told may have been lost.
	siteEvery, siteAgain = time.Second, time.Minute
)

// followAdmission carries out whom the platform admits, until the context ends. Without the platform
// the book goes on as it is.
func (m *Manager) followAdmission(ctx context.Context, nc *nats.Conn) error {
	if m.enrolled == nil {
		return nil
	}
	subject := contract.AdmissionSubject(m.config.AccountID)
	return latest.Follow(ctx, nc, subject, m.log, func(ctx context.Context) ([]byte, error) {
		body, err := latest.Read(ctx, nc, contract.PolicyStream, subject)
		if err != nil {
			return nil, err
		}
		if err := m.takeAdmission(body); err != nil {
			m.log.Error("whom the platform admits is not carried out", "error", err)
		}
		return body, nil
	})
}

func (m *Manager) takeAdmission(body []byte) error {
	var told policyv1.Admission
	if err := proto.Unmarshal(body, &told); err != nil {
		return fmt.Errorf("manager: %w", err)
	}
	if string(told.GetAccountId()) != string(m.config.AccountID[:]) {
		return errors.New("manager: it is about another account")
	}
	return m.enrolled.TakeAdmission(m.id, &told)
}

// tellSite tells the platform of this site, when there is something new, it asks, or the connection
// was made anew.
func (m *Manager) tellSite(ctx context.Context, nc *nats.Conn) error {
	if m.enrolled == nil {
		return nil
	}
	asked := make(chan *nats.Msg, 1)
	subscription, err := nc.ChanSubscribe(contract.SiteAskSubject, asked)
	if err != nil {
		return fmt.Errorf("manager: listen to %s: %w", contract.SiteAskSubject, err)
	}
	defer func() { _ = subscription.Unsubscribe() }()
	connected := nc.StatusChanged(nats.CONNECTED)
	defer nc.RemoveStatusListener(connected)
	again := time.NewTicker(siteAgain)
	defer again.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		report, err := proto.Marshal(m.enrolled.Report(m.id))
		if err != nil {
			return fmt.Errorf("manager: %w", err)
		}
		m.publish(contract.SiteSubject(m.config.AccountID, m.id), report) // one that is lost is told again
		select {
		case <-ctx.Done():
			return nil
		case <-m.enrolled.Changed():
		case <-asked:
		case <-connected:
		case <-again.C:
		}
		pause.Reset(siteEvery)
	}
}
