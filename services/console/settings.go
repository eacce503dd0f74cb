package console

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// settingsActions are what is done with the account and what it measures.
var settingsActions = []action{
	{path: "/account-settings/name", page: "/account-settings", may: administers, do: (*Service).renameAccount, taken: "name"},
	{path: "/account-settings", page: "/account-settings", may: administers, do: (*Service).updateSettings},
}

// settingsPage is the account's settings.
type settingsPage struct {
	Name, Update *form
	Account      *identityv1.Account
	// Since is from when on there is what is kept; nil where nothing was removed.
	Since *meteringv1.RetainedSince
	Zone  *time.Location
}

// etagOf stands in for an etag where the API has none for something: it changes when that does.
func etagOf(m proto.Message) string {
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// unchanged refuses what was filled in from something that was changed meanwhile.
func unchanged(f *sent, now proto.Message) error {
	if f.etag() != etagOf(now) {
		return errs.New(errs.Conflict, "console.form", "", "it was changed since you read it")
	}
	return nil
}

func boxed(on bool) []string {
	if on {
		return []string{"yes"}
	}
	return nil
}

func days(n int32) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(int(n))
}

func (s *Service) accountSettings(v *visit) (any, error) {
	of, err := s.accounts.GetAccount(v.ctx, &identityv1.GetAccountRequest{})
	if err != nil {
		return nil, err
	}
	got, err := s.settings.GetSettings(v.ctx, &meteringv1.GetSettingsRequest{})
	if err != nil {
		return nil, err
	}
	set := got.GetSettings()
	zone, err := time.LoadLocation(set.GetTimeZone())
	if err != nil {
		zone = time.UTC // the reader's own is shown anyway
	}
	var reasons []string
	for _, r := range set.GetPerson().GetPauseReasons() {
		reasons = append(reasons, r.GetLabel())
	}
	return settingsPage{
		Account: of.GetAccount(), Name: v.form("/account-settings/name", url.Values{"name": {of.GetAccount().GetName()}}, of.GetAccount().GetEtag()),
		Update: v.form("/account-settings", url.Values{
			"time_zone": {set.GetTimeZone()}, "pause_allowed": boxed(set.GetPauseAllowed()), "paused": boxed(set.GetPaused()),
			"sightings_wanted": boxed(set.GetSightingsWanted()), "view_reason_required": boxed(set.GetViewReasonRequired()),
			"notice": {set.GetPerson().GetNotice()}, "pause_reasons": {strings.Join(reasons, "\n")}, "pause_reason_required": boxed(set.GetPerson().GetPauseReasonRequired()),
			"managers": {strings.Join(set.GetManagers(), "\n")}, "instance_days": {days(set.GetRetention().GetInstanceDays())},
			"person_days": {days(set.GetRetention().GetPersonDays())}, "total_days": {days(set.GetRetention().GetTotalDays())},
			"smallest_group": {strconv.Itoa(int(set.GetSmallestGroup()))},
		}, etagOf(set)),
		Since: set.GetRetainedSince(), Zone: zone,
	}, nil
}

func (s *Service) renameAccount(v *visit, f *sent) (outcome, error) {
	_, err := s.accounts.UpdateAccount(v.ctx, &identityv1.UpdateAccountRequest{
		Account: &identityv1.Account{Name: f.text("name"), Etag: f.etag()}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"name"}}, RequestId: f.requestID,
	})
	return outcome{next: "/account-settings", notice: "The account has another name: people sign in with that from now on."}, err
}

// lines are the lines of a text that say something.
func lines(text string) (all []string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	return all
}

var notInCode = regexp.MustCompile(`[^a-z0-9]+`)

// pauseReasons are those of the form; one that was there keeps its code.
func pauseReasons(labels []string, before []*policyv1.PauseReason) (all []*policyv1.PauseReason) {
	codes := map[string]string{}
	taken := map[string]bool{}
	for _, r := range before {
		codes[r.GetLabel()], taken[r.GetCode()] = r.GetCode(), true
	}
	for i, label := range labels {
		code := codes[label]
		if code == "" {
			code = cut(strings.Trim(notInCode.ReplaceAllString(strings.ToLower(label), "-"), "-"), 24)
			code = strings.TrimSuffix(code, "…")
			if code == "" || taken[code] {
				code = fmt.Sprintf("%.24s-%d", code, i+1)
			}
			code = strings.TrimPrefix(code, "-")
			taken[code] = true
		}
		all = append(all, &policyv1.PauseReason{Code: code, Label: label})
	}
	return all
}

func (s *Service) updateSettings(v *visit, f *sent) (outcome, error) {
	got, err := s.settings.GetSettings(v.ctx, &meteringv1.GetSettingsRequest{})
	if err != nil {
		return outcome{}, err
	}
	if err := unchanged(f, got.GetSettings()); err != nil {
		return outcome{}, err
	}
	retention := &meteringv1.Retention{}
	for name, into := range map[string]*int32{"instance_days": &retention.InstanceDays, "person_days": &retention.PersonDays, "total_days": &retention.TotalDays} {
		if *into, err = f.number(name); err != nil {
			return outcome{}, err
		}
	}
	smallest, err := f.number("smallest_group")
	if err != nil {
		return outcome{}, err
	}
	_, err = s.settings.UpdateSettings(v.ctx, &meteringv1.UpdateSettingsRequest{
		Settings: &meteringv1.Settings{
			TimeZone: f.text("time_zone"), PauseAllowed: f.is("pause_allowed"), Paused: f.is("paused"), SightingsWanted: f.is("sightings_wanted"),
			ViewReasonRequired: f.is("view_reason_required"), Managers: lines(f.text("managers")), Retention: retention, SmallestGroup: smallest,
			Person: &policyv1.PersonPolicy{
				Notice: f.text("notice"), PauseReasonRequired: f.is("pause_reason_required"),
				PauseReasons: pauseReasons(lines(f.text("pause_reasons")), got.GetSettings().GetPerson().GetPauseReasons()),
			},
		},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"time_zone", "pause_allowed", "paused", "sightings_wanted", "view_reason_required", "managers", "retention", "person", "smallest_group"}},
		RequestId:  f.requestID,
	})
	return outcome{next: "/account-settings", notice: "The settings are changed. Reports show another zone within a minute."}, err
}
