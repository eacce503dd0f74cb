package identity

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

const (
	// maintenanceAggregate is what one login was told of maintenance.
	maintenanceAggregate = "maintenance"
	// longestMaintenance catches a wrong year.
	longestMaintenance = 14 * 24 * time.Hour
	// longestWhat is of what is done, in bytes.
	longestWhat = 300
)

func maintenanceSubject(account, login contract.ID) string {
	return contract.EventSubject(account, contextName, maintenanceAggregate, login.String())
}

// Announcements are those that one login was told.
type Announcements []*identityv1.MaintenanceAnnounced

// Decide tells the login, but once.
func (a Announcements) Decide(m *identityv1.MaintenanceAnnounced) []proto.Message {
	if slices.ContainsFunc(a, func(told *identityv1.MaintenanceAnnounced) bool { return proto.Equal(told, m) }) {
		return nil
	}
	return []proto.Message{m}
}

// Apply returns the announcements after an event.
func (a Announcements) Apply(event proto.Message) (Announcements, error) {
	m, ok := event.(*identityv1.MaintenanceAnnounced)
	if !ok {
		return a, fmt.Errorf("identity: %T is no announcement of maintenance", event)
	}
	return append(slices.Clone(a), m), nil
}

// announce tells the administrators of an account, or of all, when maintenance is. An order that
// is given again tells those that it had not reached.
func (s *Service) announce(ctx context.Context, op string, ask Ask, now time.Time) (Report, error) {
	problem := func(message string) error { return errs.New(errs.Invalid, op, "", message) }
	switch {
	case ask.Starts.IsZero() || ask.Ends.IsZero():
		return Report{}, problem("say from when and until when it is")
	case !ask.Starts.Before(ask.Ends):
		return Report{}, problem("it ends before it begins")
	case ask.Ends.Before(now):
		return Report{}, problem("it is over already")
	case ask.Ends.Sub(ask.Starts) > longestMaintenance:
		return Report{}, problem(fmt.Sprintf("it takes longer than %d days", int(longestMaintenance.Hours()/24)))
	case len(ask.What) > longestWhat:
		return Report{}, problem(fmt.Sprintf("what is done is told in more than %d bytes", longestWhat))
	}
	all, err := s.reportAccounts(ctx, op)
	if err != nil {
		return Report{}, err
	}
	accounts := all.Accounts
	if ask.Account != "" {
		id, err := s.accountNamed(ctx, op, ask.Account)
		if err != nil {
			return Report{}, err
		}
		accounts = slices.DeleteFunc(accounts, func(a AccountReport) bool { return a.ID != id.String() })
	}
	told := &identityv1.MaintenanceAnnounced{StartTime: timestamppb.New(ask.Starts.UTC()), EndTime: timestamppb.New(ask.Ends.UTC()), What: ask.What}
	var r Report
	for _, in := range accounts {
		account, err := contract.ParseID(in.ID)
		if err != nil {
			return r, errs.Wrap(op, "", err)
		}
		logins, err := s.reportLogins(ctx, op, account)
		if err != nil {
			return r, err
		}
		for _, l := range logins.Logins {
			if l.Disabled || !slices.Contains(l.Privileges, authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR) {
				continue
			}
			if !l.HasMailAddress {
				// Nor is it told in the log: once it has an address, the same order tells it.
				r.NoAddress = append(r.NoAddress, l.Name+" of "+in.Name)
				continue
			}
			login, err := contract.ParseID(l.ID)
			if err != nil {
				return r, errs.Wrap(op, "", err)
			}
			fresh := false
			if _, err := s.commands.announcements.Execute(ctx, maintenanceSubject(account, login), eventlog.Command{Actor: orderActor}, func(a Announcements) ([]proto.Message, error) {
				events := a.Decide(told)
				fresh = len(events) > 0
				return events, nil
			}); err != nil {
				return r, errs.Wrap(op, "", err)
			}
			if fresh {
				r.Told++
			} else {
				r.ToldBefore++
			}
		}
	}
	return r, nil
}
