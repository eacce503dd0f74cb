package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"buf.build/go/protovalidate"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/proto"

	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

const (
	// siteEvery is how often what one Manager tells is noted at most, so that none fills the log.
	siteEvery = 5 * time.Second
	// maxSites bounds what waits to be noted.
	maxSites = 10_000
	siteTick = 250 * time.Millisecond
	// siteNotes bounds one note.
	siteNotes = 10 * time.Second
	siteRoom  = 1024
)

// site is a Manager of an account.
type site struct{ account, manager contract.ID }

// sites gathers what Managers tell of their sites, the last of each.
type sites struct {
	waiting map[site]SiteReport
	noted   map[site]time.Time
}

// due are those whose time to be noted has come; they wait no longer.
func (s *sites) due(now time.Time) map[site]SiteReport {
	due := make(map[site]SiteReport)
	for from, told := range s.waiting {
		if now.Sub(s.noted[from]) >= siteEvery {
			due[from] = told
			delete(s.waiting, from)
		}
	}
	for from, at := range s.noted {
		if now.Sub(at) >= siteEvery {
			delete(s.noted, from)
		}
	}
	return due
}

// readSite reads what a Manager tells.
func readSite(subject string, data []byte) (from site, told SiteReport, err error) {
	if from.account, from.manager, err = contract.ParseSiteSubject(subject); err != nil {
		return from, told, err
	}
	var m policyv1.SiteReport
	if err := proto.Unmarshal(data, &m); err != nil {
		return from, told, err
	}
	if err := protovalidate.Validate(&m); err != nil {
		return from, told, err
	}
	if named := contract.ID(m.GetManagerId()); named != from.manager {
		return from, told, fmt.Errorf("manager_id: it names Manager %s", named)
	}
	told = SiteReport{Position: eventlog.Position(m.GetAdmissionPosition()), Time: time.UnixMilli(m.GetAdmissionUtcMillis()).UTC(), Uses: make(map[contract.ID]int32)}
	if told.Time.Year() > 9999 || told.Time.Year() < 1970 {
		return from, told, errors.New("admission_utc_millis: is no time of an event")
	}
	for _, a := range m.GetAuthorities() {
		told.Authorities = append(told.Authorities, [sha256.Size]byte(a))
	}
	for _, use := range m.GetUses() {
		told.Uses[contract.ID(use.GetTokenId())] = use.GetUsed()
	}
	return from, told, nil
}

// hearSites notes what Managers tell of their sites, until ctx ends.
func (s *Service) hearSites(ctx context.Context) error {
	messages := make(chan *nats.Msg, siteRoom) // what it has no room for is told again
	subscription, err := s.nats.ChanSubscribe(contract.SiteSubjects, messages)
	if err != nil {
		return fmt.Errorf("identity: listen to %s: %w", contract.SiteSubjects, err)
	}
	defer func() { _ = subscription.Unsubscribe() }()
	connected := s.nats.StatusChanged(nats.CONNECTED)
	defer s.nats.RemoveStatusListener(connected)
	tick := time.NewTicker(siteTick)
	defer tick.Stop()
	ask := func() {
		if err := s.nats.Publish(contract.SiteAskSubject, nil); err != nil {
			s.log.Warn("Managers cannot be asked about their sites", "error", err)
		}
	}
	heard := sites{waiting: make(map[site]SiteReport), noted: make(map[site]time.Time)}
	ask()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-connected:
			ask()
		case m := <-messages:
			from, told, err := readSite(m.Subject, m.Data)
			switch {
			case err != nil:
				s.log.Warn("what a Manager tells of its site is not taken", "subject", m.Subject, "error", err)
			case len(heard.waiting) < maxSites:
				heard.waiting[from] = told
			}
		case now := <-tick.C:
			for from, told := range heard.due(now) {
				heard.noted[from] = now
				if err := s.noteSite(ctx, from, told); err != nil && ctx.Err() == nil {
					s.log.Warn("what a Manager tells of its site cannot be noted yet", "manager", from.manager.String(), "error", err)
					if _, newer := heard.waiting[from]; !newer {
						heard.waiting[from] = told
					}
				}
			}
		}
	}
}

func (s *Service) noteSite(ctx context.Context, from site, told SiteReport) error {
	ctx, cancel := context.WithTimeout(ctx, siteNotes)
	defer cancel()
	_, err := s.commands.managers.Execute(ctx, managerSubject(from.account, from.manager), eventlog.Command{Actor: "manager/" + from.manager.String()}, func(m Manager) ([]proto.Message, error) {
		return m.DecideReport(told), nil
	})
	return err
}
