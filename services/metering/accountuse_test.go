package metering

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// asBuyer is a context in which somebody asks who sees what many did together.
func asBuyer(ctx context.Context, account contract.ID) context.Context {
	return authn.WithCaller(ctx, authn.Caller{Account: account, Login: resource.NewID(), Actor: "test", Reach: authzv1.Reach_REACH_AGGREGATE, Privileges: authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_PURCHASING)})
}

// plainUse adds up what a world did with an application in a month, by people as who counts.
func plainUse(w *world, application contract.ID, from, to int64, who func(contract.ID) contract.ID, busyOnly bool) *meteringv1.AccountUseFigures {
	type piece struct {
		person   contract.ID
		from, to int64
	}
	var pieces []piece
	people := make(map[contract.ID]bool)
	var length int64
	for _, u := range w.usage {
		a, b := max(from, u.FromUTCMillis), min(to, u.ToUTCMillis)
		if !u.HasClosed || !u.Document.IsZero() || u.Application != application || a >= b || busyOnly && u.ClosedAttention != agentlog.Busy {
			continue
		}
		pieces = append(pieces, piece{who(u.Principal), a, b})
		people[who(u.Principal)] = true
		length += b - a
	}
	if len(people) == 0 {
		return nil
	}
	var peak int64
	for _, p := range pieces {
		now := make(map[contract.ID]bool)
		for _, other := range pieces {
			if other.from <= p.from && p.from < other.to {
				now[other.person] = true
			}
		}
		peak = max(peak, int64(len(now)))
	}
	return &meteringv1.AccountUseFigures{People: int64(len(people)), Time: durationpb.New(time.Duration(length) * time.Millisecond), Peak: peak}
}

// TestNoFigureIsOfFewerPeopleThanTheFloor: who sees nobody's use is told what a plain re-computation finds, of
// which each figure is of as many people as the account says, and nothing else; who sees all is told all.
func TestNoFigureIsOfFewerPeopleThanTheFloor(t *testing.T) {
	s := newService(t, Config{})
	api := &reportAPI{service: s}
	shown, held := 0, 0
	checkTables(t, func(t *rapid.T) {
		w := drawWorld(t)
		for range rapid.IntRange(0, 5).Draw(t, "more people") {
			w.persons = append(w.persons, resource.NewID())
		}
		for range rapid.IntRange(0, 20).Draw(t, "more instances") {
			w.drawInstance(t)
		}
		const back = int64(731 * 86_400_000) // all months have ended whatever the day is
		w.from, w.to = w.from-back, w.to-back
		for i := range w.usage {
			u := &w.usage[i]
			u.AtUTCMillis -= back
			if u.HasClosed {
				u.FromUTCMillis, u.ToUTCMillis = u.FromUTCMillis-back, u.ToUTCMillis-back
			}
		}
		w.applyBatches(t.Context(), t, s.stores)
		// Two principals of one login are one of the people.
		one, other, login := pick(t, "one", w.persons), pick(t, "the same", w.persons), resource.NewID()
		for _, p := range []contract.ID{w.person(one), w.person(other)} {
			if _, err := s.stores.Views.Projector.Exec(t.Context(), `INSERT INTO principal (account_id, principal_id, login_id) VALUES ($1, $2, $3)
				ON CONFLICT (account_id, principal_id) DO UPDATE SET login_id = excluded.login_id`, w.account, p, login); err != nil {
				t.Fatal(err)
			}
		}
		who := func(principal contract.ID) contract.ID {
			if p := w.person(principal); p == w.person(one) || p == w.person(other) {
				return login
			}
			return w.person(principal)
		}
		floor := rapid.Int32Range(3, 5).Draw(t, "floor")
		zone, err := time.LoadLocation(pick(t, "zone", testZones))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.stores.Views.Projector.Exec(t.Context(), `INSERT INTO settings (account_id, time_zone, pause_allowed, sightings_wanted, paused, smallest_group)
			VALUES ($1, $2, true, false, false, $3)`, w.account, zone.String(), floor); err != nil {
			t.Fatal(err)
		}
		req := &meteringv1.QueryAccountUseRequest{FirstMonth: time.UnixMilli(w.from).In(zone).Format(monthLayout), LastMonth: time.UnixMilli(w.to).In(zone).AddDate(0, 1, 0).Format(monthLayout)}
		if rapid.Bool().Draw(t, "some applications") {
			req.ApplicationIds = []string{pick(t, "app", w.apps).String()}
		}
		all := &meteringv1.QueryAccountUseResponse{TimeZone: zone.String(), SmallestGroup: 1}
		few := &meteringv1.QueryAccountUseResponse{TimeZone: zone.String(), SmallestGroup: floor}
		apps := slices.Clone(w.apps)
		slices.SortFunc(apps, func(a, b contract.ID) int { return strings.Compare(a.String(), b.String()) })
		first, err := time.ParseInLocation(monthLayout, req.GetFirstMonth(), zone)
		if err != nil {
			t.Fatal(err)
		}
		for at := first; at.Format(monthLayout) <= req.GetLastMonth(); at = at.AddDate(0, 1, 0) {
			for _, app := range slices.Compact(apps) {
				if len(req.GetApplicationIds()) > 0 && req.GetApplicationIds()[0] != app.String() {
					continue
				}
				use := &meteringv1.AccountUse{Month: at.Format(monthLayout), ApplicationId: app.String()}
				use.Open = plainUse(w, app, at.UnixMilli(), at.AddDate(0, 1, 0).UnixMilli(), who, false)
				use.Busy = plainUse(w, app, at.UnixMilli(), at.AddDate(0, 1, 0).UnixMilli(), who, true)
				if use.GetOpen() == nil {
					continue
				}
				all.Uses = append(all.Uses, use)
				if use.GetOpen().GetPeople() < int64(floor) {
					few.Withheld++
					held++
					continue
				}
				shown++
				told := &meteringv1.AccountUse{Month: use.GetMonth(), ApplicationId: use.GetApplicationId(), Open: use.GetOpen()}
				if use.GetBusy().GetPeople() >= int64(floor) {
					told.Busy = use.GetBusy()
				}
				few.Uses = append(few.Uses, told)
			}
		}
		for name, c := range map[string]struct {
			ctx  context.Context
			want *meteringv1.QueryAccountUseResponse
		}{"who buys": {asBuyer(t.Context(), w.account), few}, "who sees all": {as(t.Context(), w.account), all}} {
			got, err := api.QueryAccountUse(c.ctx, req)
			if err != nil {
				t.Fatal(name, err)
			}
			if diff := cmp.Diff(c.want, got, protocmp.Transform(), protocmp.IgnoreFields(got, "position")); diff != "" {
				t.Fatalf("%s, floor %d (-events +answer):\n%s", name, floor, diff)
			}
		}
		// The reach opens nothing by itself: any other method answers as of one's own, which is nothing.
		resp, err := (&usageAPI{service: s}).SummarizeUsage(asBuyer(t.Context(), w.account), &meteringv1.SummarizeUsageRequest{
			StartTime: timestamppb.New(first.UTC().Truncate(24 * time.Hour)), EndTime: timestamppb.New(first.UTC().Truncate(24*time.Hour).AddDate(0, 6, 0)),
		})
		if err != nil || resp.GetTotals().GetOpen().AsDuration() != 0 || len(resp.GetGroups()) != 0 {
			t.Fatalf("who buys is told %v, %v", resp, err)
		}
	})
	if shown == 0 || held == 0 {
		t.Fatalf("%d figures were told and %d withheld: the test proves little", shown, held)
	}
}

func TestMonthsThatMayBeAsked(t *testing.T) {
	vienna, err := time.LoadLocation("Europe/Vienna")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 4, 1, 0, 0, 0, 0, vienna)
	months, err := monthsOf("test", accountQuestion{first: "2026-02", last: "2026-03"}, vienna, now)
	if err != nil || len(months) != 2 || months[1].to-months[1].from != 31*96-4 || !months[1].to.time().Equal(now) || months[0].to != months[1].from {
		t.Errorf("February and March are %v, %v", months, err)
	}
	for name, c := range map[string]struct {
		first, last string
		now         time.Time
	}{
		"a month that goes on": {"2026-03", "2026-03", now.Add(-time.Second)},
		"a month to come":      {"2026-03", "2027-03", now},
		"backwards":            {"2026-03", "2026-02", now},
		"too many":             {"2024-01", "2026-03", now},
		"no month":             {"2026-13", "2026-03", now},
	} {
		if months, err := monthsOf("test", accountQuestion{first: c.first, last: c.last}, vienna, c.now); !errs.Is(errs.Invalid, err) {
			t.Errorf("%s: %v, %v", name, months, err)
		}
	}
}
