package metering

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog"
)

// TestWhatIsMadeAheadIsAnswered: whatever is prepared, came late or was merged, what was made before anybody asked is answered
// as the intervals say it, and of whole days that are prepared nothing is made again.
func TestWhatIsMadeAheadIsAnswered(t *testing.T) {
	s := newService(t, Config{})
	reports, usage := &reportAPI{service: s}, &usageAPI{service: s}
	checkTables(t, func(t *rapid.T) {
		ctx := context.Background()
		w := drawWorld(t)
		p := newUsageProjection(agentlog.NewDecoder(agentlog.Config{}))
		w.keepPlaces(ctx, t, s.stores, p)
		w.usage = rapid.Permutation(w.usage).Draw(t, "order")
		late := rapid.IntRange(0, min(3, len(w.usage))).Draw(t, "late")
		applyInTurn(ctx, t, s.stores, p, &agentlog.Facts{Usage: w.usage[late:]})
		s.memory = newMemory(memoryBytes)
		last := int32(dayOf(w.to)) + 2
		makeAll := func() {
			a, err := s.readAhead(ctx, s.serving.Load(), w.account, last, memoryBytes)
			for more := true; more && err == nil; {
				more, err = a.step(ctx, last)
			}
			if err != nil {
				t.Fatal(err)
			}
			a.touch()
		}
		if rapid.Bool().Draw(t, "made before") {
			w.prepare(ctx, t, s.stores, p)
			makeAll()
		}
		applyInTurn(ctx, t, s.stores, p, &agentlog.Facts{Usage: w.usage[:late]})
		whole := rapid.Bool().Draw(t, "prepared")
		if whole {
			if _, err := preparerOf(s.stores, p).prepare(ctx, w.account, int32(dayOf(w.from))-1, last); err != nil {
				t.Fatal(err)
			}
		}
		makeAll()
		from := rapid.Int64Range(dayOf(w.from), dayOf(w.to)).Draw(t, "from") * dayMillis
		to := from + rapid.Int64Range(1, 40).Draw(t, "days")*dayMillis
		if rapid.IntRange(0, 3).Draw(t, "parts of days") == 0 {
			whole = false
			from, to = from+rapid.Int64Range(0, 95).Draw(t, "quarter")*quarterMillis, to+rapid.Int64Range(0, 95).Draw(t, "to quarter")*quarterMillis
		}
		start, end := timestamppb.New(time.UnixMilli(from)), timestamppb.New(time.UnixMilli(to))
		var of *meteringv1.UsageFilter
		if rapid.Bool().Draw(t, "one application") {
			of = &meteringv1.UsageFilter{ApplicationIds: []string{pick(t, "application", w.apps).String()}}
		}
		var slider []*durationpb.Duration
		for _, after := range minutesAhead() {
			slider = append(slider, durationpb.New(time.Duration(after)*time.Millisecond))
		}
		atLeast := durationpb.New(time.Duration(rapid.IntRange(0, 90).Draw(t, "at least")) * time.Minute)
		by := meteringv1.SessionGroupBy(rapid.IntRange(1, 4).Draw(t, "sessions by"))
		persons := pick(t, "persons by", [][]meteringv1.GroupBy{
			{meteringv1.GroupBy_GROUP_BY_PRINCIPAL},
			{meteringv1.GroupBy_GROUP_BY_APPLICATION},
			{meteringv1.GroupBy_GROUP_BY_MACHINE},
			{meteringv1.GroupBy_GROUP_BY_GROUP},
			{meteringv1.GroupBy_GROUP_BY_DAY, meteringv1.GroupBy_GROUP_BY_APPLICATION},
			{meteringv1.GroupBy_GROUP_BY_WEEK, meteringv1.GroupBy_GROUP_BY_GROUP},
		})
		zone := ""
		if persons[0] == meteringv1.GroupBy_GROUP_BY_DAY || persons[0] == meteringv1.GroupBy_GROUP_BY_WEEK {
			zone = "America/New_York"
			whole = false // its days are no days of UTC
		}
		unusedBy := meteringv1.UnusedBy(rapid.IntRange(1, 3).Draw(t, "unused by"))
		rows := meteringv1.TimelineRowBy(rapid.IntRange(2, 4).Draw(t, "rows by"))
		asked := as(ctx, w.account)
		answers := func() (all []proto.Message) {
			for _, ask := range []func() (proto.Message, error){
				func() (proto.Message, error) {
					return reports.QueryDemand(asked, &meteringv1.QueryDemandRequest{StartTime: start, EndTime: end, Filter: of, HeatMap: true})
				},
				func() (proto.Message, error) {
					return reports.QueryLicencesNeeded(asked, &meteringv1.QueryLicencesNeededRequest{StartTime: start, EndTime: end, Filter: of, GiveBackAfter: slider})
				},
				func() (proto.Message, error) {
					return usage.QueryConcurrency(asked, &meteringv1.QueryConcurrencyRequest{StartTime: start, EndTime: end, Filter: of, Step: durationpb.New(time.Hour)})
				},
				func() (proto.Message, error) {
					return reports.QueryIdle(asked, &meteringv1.QueryIdleRequest{StartTime: start, EndTime: end, Filter: of, AtLeast: atLeast, Longest: 20})
				},
				func() (proto.Message, error) {
					return reports.SummarizeSessions(asked, &meteringv1.SummarizeSessionsRequest{StartTime: start, EndTime: end, Filter: of, GroupBy: by})
				},
				func() (proto.Message, error) {
					return reports.ListUnused(asked, &meteringv1.ListUnusedRequest{
						StartTime: start, EndTime: end, Filter: of, By: unusedBy, BusyLessThan: durationpb.New(time.Hour), NotFor: durationpb.New(36 * time.Hour),
					})
				},
				func() (proto.Message, error) {
					return usage.GetDataQuality(asked, &meteringv1.GetDataQualityRequest{StartTime: start, EndTime: end, Filter: of})
				},
				func() (proto.Message, error) {
					return reports.QueryTimeline(asked, &meteringv1.QueryTimelineRequest{StartTime: start, EndTime: end, Filter: of, RowBy: rows, Resolution: durationpb.New(time.Hour), PageSize: 2})
				},
				func() (proto.Message, error) {
					return usage.SummarizeUsage(asked, &meteringv1.SummarizeUsageRequest{StartTime: start, EndTime: end, Filter: of, GroupBy: persons, TimeZone: zone, Counting: meteringv1.Counting_COUNTING_PERSON_TIME})
				},
			} {
				answer, err := ask()
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, answer)
			}
			return all
		}
		var otherwise int
		if err := s.stores.Views.Projector.QueryRow(ctx, `SELECT count(*) FROM principal_application AS k FULL JOIN
			(SELECT account_id, principal_id, application_id, machine_id, max(quarter) AS last_quarter FROM cell WHERE level = 3 GROUP BY 1, 2, 3, 4) AS c
			USING (account_id, principal_id, application_id, machine_id, last_quarter) WHERE k.account_id IS NULL OR c.account_id IS NULL`).Scan(&otherwise); err != nil || otherwise > 0 {
			t.Errorf("%d rows of who has opened what are not as the cells say, %v", otherwise, err)
		}
		before := s.memory.size
		got := answers()
		if latest := last - int32(dayOf(from)); whole && of == nil && latest < aheadDays && atLeast.AsDuration() >= idleAtLeast && s.memory.size > before {
			t.Errorf("%d bytes were made of days that all was made of before", s.memory.size-before)
		}
		if _, err := s.stores.Views.Projector.Exec(ctx, "INSERT INTO unprepared_day SELECT account_id, day, application_id FROM prepared_day WHERE account_id = $1 ON CONFLICT DO NOTHING", w.account); err != nil {
			t.Fatal(err)
		}
		for i, want := range answers() {
			if proto.Equal(want, got[i]) {
				continue
			}
			if diff := gocmp.Diff(want, got[i], protocmp.Transform()); diff != "" {
				t.Fatalf("of [%v, %v) (-intervals +ahead):\n%s", start.AsTime(), end.AsTime(), diff)
			}
		}
	})
}

// TestNobodyIsMadeAheadOfOthers: of each account days are made in turn, the latest first, and none takes more of memory than
// its share and what others leave.
func TestNobodyIsMadeAheadOfOthers(t *testing.T) {
	s := newService(t, Config{})
	usage := someDays(3000)
	last := int32(dayOf(usage[len(usage)-1].AtUTCMillis))
	accounts := []contract.ID{usage[0].Account, idAt('o', 1)}
	small := idAt('o', 2)
	for _, account := range append(accounts, small) {
		p := newUsageProjection(agentlog.NewDecoder(agentlog.Config{}))
		theirs := slices.Clone(usage)
		if account == small {
			theirs = theirs[:20]
		}
		for i := range theirs {
			theirs[i].Account, theirs[i].Instance[0], theirs[i].Instance[1] = account, account[0], account[1]
		}
		applyInTurn(t.Context(), t, s.stores, p, &agentlog.Facts{Usage: theirs})
		if _, err := preparerOf(s.stores, p).prepare(t.Context(), account, 0, last); err != nil {
			t.Fatal(err)
		}
	}
	s.memory = newMemory(2 << 20)
	if err := s.makeAhead(t.Context(), s.serving.Load(), nil, time.UnixMilli(int64(last+2)*dayMillis)); err != nil {
		t.Fatal(err)
	}
	var most, least int
	for _, account := range accounts {
		size := s.memory.accounts[account].size
		if most = max(most, size); least == 0 || size < least {
			least = size
		}
	}
	if least < most*8/10 || most > s.memory.room*6/10 {
		t.Errorf("of %d bytes one account has %d, another %d", s.memory.room, most, least)
	}
	if share := s.memory.room / 100 * aheadShare / 3; least <= share+share/10 {
		t.Errorf("of %d bytes, which a small account leaves, one has %d", s.memory.room, least)
	}
}

// TestWhatAnotherProcessPreparedIsMadeAhead: nothing was prepared here, and what is missing is made all the same when it is
// looked for, of accounts that nobody has noted.
func TestWhatAnotherProcessPreparedIsMadeAhead(t *testing.T) {
	s := newService(t, Config{})
	account, day := idAt('o', 1), time.Now().UTC().Truncate(24*time.Hour).AddDate(0, 0, -3)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.runAhead(ctx) }()
	close(s.serving.Load().level)
	p := newUsageProjection(agentlog.NewDecoder(agentlog.Config{}))
	applyInTurn(ctx, t, s.stores, p, &agentlog.Facts{Usage: workday(rand.New(rand.NewPCG(1, 1)), account, 1, 5, day, 5, nil)})
	if _, err := preparerOf(s.stores, p).prepare(ctx, account, 0, lastOver(time.Now())); err != nil {
		t.Fatal(err)
	}
	s.preparing.prepared.soon()
	for late := time.Now().Add(time.Minute); s.memory.shared() == 0; <-time.After(5 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("nothing was made ahead")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
