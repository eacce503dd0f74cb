package metering

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// Settings hold for all of an account's agents and reports.
type Settings struct {
	// TimeZone is the IANA zone in which the account's days begin.
	TimeZone string
	// PauseAllowed says whether people may pause the agent.
	PauseAllowed bool
	// SightingsWanted says whether agents tell the names of programs that belong
	// to no application.
	SightingsWanted bool
	// Paused stops recording for everybody.
	Paused bool
	// Person is what people at the desktops are told and asked; nil: nothing of the
	// account's own.
	Person *policyv1.PersonPolicy
	// Managers are where agents find the account's Managers; none: that is not said.
	Managers []string
	// ViewReasonRequired says whether whoever looks at the use of named people must say why.
	ViewReasonRequired bool
	// Keep is for how long what was measured is kept.
	Keep Keep
	// SmallestGroup is how many people must be behind a figure that is told to who sees nobody's use
	// but their own.
	SmallestGroup int32
}

// equal tells whether two settings say the same.
func (s Settings) equal(o Settings) bool {
	return s.TimeZone == o.TimeZone && s.PauseAllowed == o.PauseAllowed && s.SightingsWanted == o.SightingsWanted &&
		s.Paused == o.Paused && s.ViewReasonRequired == o.ViewReasonRequired && s.Keep == o.Keep && s.SmallestGroup == o.SmallestGroup && proto.Equal(s.Person, o.Person) && slices.Equal(s.Managers, o.Managers)
}

// DefaultSettings hold until somebody changes them.
func DefaultSettings() Settings {
	return Settings{TimeZone: "UTC", PauseAllowed: true, SmallestGroup: smallestGroup}
}

// Decide returns what follows from wanting the settings to be so: an event, or
// nothing where they are so already.
func (s Settings) Decide(want Settings) ([]proto.Message, error) {
	if _, err := loadZone(want.TimeZone); err != nil {
		return nil, errs.InvalidFields("metering.UpdateSettings", "", errs.Field{Path: "settings.time_zone", Description: err.Error()})
	}
	if problem := checkPerson(want.Person); problem != nil {
		return nil, problem
	}
	for i, address := range want.Managers {
		if err := contract.CheckAddress(address); err != nil {
			return nil, errs.InvalidFields("metering.UpdateSettings", "", errs.Field{Path: fmt.Sprintf("settings.managers[%d]", i), Description: err.Error()})
		}
	}
	if problem := want.Keep.problem(); problem != nil {
		return nil, problem
	}
	if want.SmallestGroup == 0 {
		want.SmallestGroup = smallestGroup
	}
	if want.equal(s) {
		return nil, nil
	}
	return []proto.Message{&meteringv1.MeteringSettingsChanged{
		TimeZone: want.TimeZone, PauseAllowed: want.PauseAllowed,
		SightingsWanted: want.SightingsWanted, Paused: want.Paused, Person: want.Person, Managers: want.Managers,
		ViewReasonRequired: want.ViewReasonRequired,
		InstanceDays:       want.Keep.Instances, PersonDays: want.Keep.Persons, TotalDays: want.Keep.Totals,
		SmallestGroup: want.SmallestGroup,
	}}, nil
}

// Apply returns the settings after an event.
func (s Settings) Apply(event proto.Message) (Settings, error) {
	e, ok := event.(*meteringv1.MeteringSettingsChanged)
	if !ok {
		return s, fmt.Errorf("metering: %T is no event of the settings", event)
	}
	return Settings{
		TimeZone: e.GetTimeZone(), PauseAllowed: e.GetPauseAllowed(), SightingsWanted: e.GetSightingsWanted(), Paused: e.GetPaused(), Person: e.GetPerson(), Managers: e.GetManagers(),
		ViewReasonRequired: e.GetViewReasonRequired(), Keep: Keep{Instances: e.GetInstanceDays(), Persons: e.GetPersonDays(), Totals: e.GetTotalDays()},
		SmallestGroup: cmp.Or(e.GetSmallestGroup(), smallestGroup),
	}, nil
}

// checkPerson tells what no agent could do.
func checkPerson(p *policyv1.PersonPolicy) error {
	codes := map[string]bool{}
	for i, reason := range p.GetPauseReasons() {
		if codes[reason.GetCode()] {
			return errs.InvalidFields("metering.UpdateSettings", "", errs.Field{
				Path: fmt.Sprintf("settings.person.pause_reasons[%d].code", i), Description: fmt.Sprintf("%q is there twice", reason.GetCode()),
			})
		}
		codes[reason.GetCode()] = true
	}
	if p.GetPauseReasonRequired() && len(codes) == 0 {
		return errs.InvalidFields("metering.UpdateSettings", "", errs.Field{
			Path: "settings.person.pause_reason_required", Description: "a reason is required, and pause_reasons has none to choose from",
		})
	}
	return nil
}

// loadZone finds an IANA zone. "Local" is not one: it would mean the server's.
func loadZone(name string) (*time.Location, error) {
	if name == "" || name == "Local" {
		return nil, fmt.Errorf("%q is not an IANA time zone such as Europe/Vienna", name)
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("%q is not an IANA time zone such as Europe/Vienna", name)
	}
	return zone, nil
}
