package metering

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// removerOf removes from tables that no Runner keeps.
func removerOf(stores *Stores, account contract.ID, p *usageProjection) *remover {
	return &remover{account: account, pool: stores.Views.Projector, forget: p.forgetPairs, do: inTurn(stores)}
}

// behind counts what stands behind horizons.
func behind(ctx context.Context, stores *Stores, account contract.ID, h horizons) (text string, err error) {
	for _, q := range []struct {
		sql    string
		before int64
	}{
		{"SELECT count(*) FROM instance WHERE account_id = $1::uuid AND last_day < $2", dayOf(h.instances)},
		{"SELECT count(*) FROM interval WHERE account_id = $1::uuid AND to_ms <= $2", h.instances},
		{"SELECT count(*) FROM document AS d WHERE account_id = $1::uuid AND NOT EXISTS (SELECT FROM instance AS n WHERE n.account_id = d.account_id AND n.instance_id = d.instance_id) AND $2::int8 > 0", h.instances},
		{"SELECT count(*) FROM cell WHERE account_id = $1::uuid AND quarter < $2", int64(quarterOf(h.persons))},
		{"SELECT count(*) FROM document_cell WHERE account_id = $1::uuid AND quarter < $2", int64(quarterOf(h.persons))},
		{"SELECT count(*) FROM application_cell WHERE account_id = $1::uuid AND quarter < $2", int64(quarterOf(h.totals))},
		{`SELECT count(*) FROM principal_machine AS p WHERE account_id = $1::uuid AND $2::int8 > 0
			AND NOT EXISTS (SELECT FROM cell AS c WHERE c.account_id = p.account_id AND c.principal_id = p.principal_id AND c.machine_id = p.machine_id)`, h.persons},
		{"SELECT count(*) FROM principal_application WHERE account_id = $1::uuid AND last_quarter < $2", int64(quarterOf(h.persons))},
	} {
		if q.before == 0 {
			continue
		}
		var n int
		if err := stores.Views.Projector.QueryRow(ctx, q.sql, account, q.before).Scan(&n); err != nil {
			return "", err
		}
		if n > 0 {
			text += fmt.Sprintf("%d: %s\n", n, q.sql)
		}
	}
	return text, nil
}

// Whatever is removed of one tier, all tiers answer as if the question had begun at their own
// horizon, and say so: after it, and when more has come late that is not removed yet.
func TestRetentionIsAsIfAskedFromTheHorizonOn(t *testing.T) {
	s := newService(t, Config{})
	api := &usageAPI{service: s}
	checkTables(t, func(t *rapid.T) {
		ctx := t.Context()
		w := drawWorld(t)
		days := rapid.SampledFrom([]int32{7, 20, 40})
		keep := Keep{Instances: days.Draw(t, "instances")}
		if rapid.Bool().Draw(t, "persons too") {
			keep.Persons = keep.Instances + days.Draw(t, "persons")
			if rapid.Bool().Draw(t, "totals too") {
				keep.Totals = keep.Persons + days.Draw(t, "totals")
			}
		}
		if err := keep.problem(); err != nil {
			t.Fatal(err)
		}
		h := keep.horizonsAt(time.UnixMilli(rapid.Int64Range(w.from, w.to+100*86_400_000).Draw(t, "now")))
		if _, err := s.stores.Views.Projector.Exec(ctx, "INSERT INTO retention VALUES ($1, $2, $3, $4)", w.account, h.instances, h.persons, h.totals); err != nil {
			t.Fatal(err)
		}
		late := rapid.IntRange(0, len(w.usage)).Draw(t, "late")
		early := *w
		early.usage = w.usage[:len(w.usage)-late]
		early.applyBatches(ctx, t, s.stores)
		p := newUsageProjection(agentlog.NewDecoder(agentlog.Config{}))
		check := func(world *world, when string) {
			req := drawSummary(t, world)
			req.PageSize = 10000 // pages are another test's
			q, err := summaryOf(ctx, req)
			if err != nil {
				t.Fatal(err)
			}
			horizon := q.horizon(h)
			clipped := proto.CloneOf(req)
			if req.GetStartTime().AsTime().UnixMilli() < horizon {
				clipped.StartTime = timestamppb.New(time.UnixMilli(horizon))
			}
			wantGroups, wantTotal := map[string]Totals{}, Totals{}
			if clipped.GetStartTime().AsTime().Before(req.GetEndTime().AsTime()) {
				wantGroups, wantTotal = scan(world, clipped)
			}
			first, err := api.SummarizeUsage(as(ctx, w.account), proto.CloneOf(req))
			if err != nil {
				t.Fatal(err)
			}
			if said, is := first.GetDataSinceTime(), req.GetStartTime().AsTime().UnixMilli() < horizon; (said != nil) != is || is && said.AsTime().UnixMilli() != horizon {
				t.Fatalf("%s: the answer says %v, the horizon is %d", when, said, horizon)
			}
			groups, total := ask(t, s, world, req)
			if diff := cmp.Diff(wantGroups, groups); diff != "" {
				t.Fatalf("%s: %v, %+v\ngroups (-scan +answer):\n%s", when, req, h, diff)
			}
			if diff := cmp.Diff(wantTotal, total); diff != "" {
				t.Fatalf("%s: %v, %+v\ntotals (-scan +answer):\n%s", when, req, h, diff)
			}
			listed, err := api.ListInstances(as(ctx, w.account), &meteringv1.ListInstancesRequest{PageSize: 1000})
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range listed.GetInstances() {
				if n.GetDecidedTime().AsTime().UnixMilli() < h.instances {
					t.Fatalf("%s: %v is behind %d", when, n, h.instances)
				}
				intervals, err := api.ListIntervals(as(ctx, w.account), &meteringv1.ListIntervalsRequest{InstanceId: n.GetInstanceId(), PageSize: 1000})
				if err != nil {
					t.Fatal(err)
				}
				if opened := n.GetOpenTime().AsTime().UnixMilli(); (intervals.GetDataSinceTime() != nil) != (opened < h.instances) {
					t.Fatalf("%s: an instance opened at %d, intervals say %v, the horizon is %d", when, opened, intervals.GetDataSinceTime(), h.instances)
				}
			}
		}
		remove := func(when string) {
			if err := removerOf(s.stores, w.account, p).remove(ctx, h); err != nil {
				t.Fatal(err)
			}
			if left, err := behind(ctx, s.stores, w.account, h); err != nil || left != "" {
				t.Fatalf("%s: %v, left behind %+v:\n%s", when, err, h, left)
			}
		}
		remove("after")
		check(&early, "after")
		apply(ctx, t, s.stores, p, &agentlog.Facts{Usage: w.usage[len(w.usage)-late:]})
		check(w, "late") // nothing of it is removed yet
		remove("late and after")
	})
}

// What was removed does not come back when the tables are built anew from the log, which still
// holds it; what is coarser stays as it was.
func TestARebuildBringsNothingBack(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	o := newOffice(rnd, 2, 200)
	nc := platformtest.NATS(t)
	s, err := New(Config{}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	start(t, s)
	if err := s.WaitForUsage(t.Context(), o.publish(t, nc, rnd, o.frames(rnd, 20), 10)); err != nil {
		t.Fatal(err)
	}
	ctx := as(t.Context(), o.account)
	totals := func() string {
		t.Helper()
		resp, err := (&usageAPI{service: s}).SummarizeUsage(ctx, &meteringv1.SummarizeUsageRequest{
			StartTime: timestamppb.New(o.booted.AddDate(0, 0, -30).Truncate(24 * time.Hour)), EndTime: timestamppb.New(o.booted.AddDate(0, 0, 60).Truncate(24 * time.Hour)),
			GroupBy: []meteringv1.GroupBy{meteringv1.GroupBy_GROUP_BY_APPLICATION, meteringv1.GroupBy_GROUP_BY_DAY}, PageSize: 10000,
		})
		if err != nil || resp.GetTotals().GetInstances() == 0 {
			t.Fatalf("%v, %v", resp, err)
		}
		return fmt.Sprint(resp.GetTotals(), resp.GetGroups(), resp.GetDataSinceTime())
	}
	before := totals()
	settings := &settingsAPI{service: s}
	if _, err := settings.UpdateSettings(ctx, &meteringv1.UpdateSettingsRequest{
		Settings:   &meteringv1.Settings{Retention: &meteringv1.Retention{InstanceDays: 7, PersonDays: 7}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"retention"}},
	}); err != nil {
		t.Fatal(err)
	}
	// Some other process may hold the tables for a moment: what failed is tried again, as the job does.
	later := time.Now().AddDate(0, 0, 90)
	eventually(t, "what is too old is removed", func() bool {
		err := s.retain(t.Context(), s.serving.Load(), later)
		if err != nil {
			t.Log(err)
		}
		return err == nil
	})
	told, err := settings.GetSettings(ctx, &meteringv1.GetSettingsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	since := told.GetSettings().GetRetainedSince()
	h := horizons{instances: since.GetInstancesTime().AsTime().UnixMilli(), persons: since.GetPersonsTime().AsTime().UnixMilli()}
	if h.instances < o.booted.UnixMilli() || h.persons < o.booted.UnixMilli() || since.GetTotalsTime() != nil {
		t.Fatalf("kept since %v", since)
	}
	check := func(when string) {
		t.Helper()
		stores := *s.stores
		stores.Views = s.serving.Load().store
		var rows int
		for _, table := range []string{"instance", "interval", "document", "cell", "document_cell", "principal_machine", "principal_application"} {
			if err := stores.Views.Projector.QueryRow(t.Context(), "SELECT count(*) FROM "+table).Scan(&rows); err != nil || rows > 0 {
				t.Errorf("%s: %d rows in %s, %v", when, rows, table, err)
			}
		}
		if left, err := behind(t.Context(), &stores, o.account, h); err != nil || left != "" {
			t.Errorf("%s: %v\n%s", when, err, left)
		}
		if diff := cmp.Diff(before, totals()); diff != "" {
			t.Errorf("%s: totals are others: %s", when, diff)
		}
	}
	check("removed")
	first := give(t, nc, OrderProgress).Serving
	give(t, nc, OrderRebuild)
	eventually(t, "the rebuild ends", func() bool { return give(t, nc, OrderProgress).Rebuilding == "" })
	if give(t, nc, OrderProgress).Serving == first {
		t.Fatal("the tables were not built anew")
	}
	check("rebuilt")

	// Days that grow again bring nothing back, and the account is told so.
	if _, err := settings.UpdateSettings(ctx, &meteringv1.UpdateSettingsRequest{Settings: &meteringv1.Settings{}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"retention"}}}); err != nil {
		t.Fatal(err)
	}
	if told, err = settings.GetSettings(ctx, &meteringv1.GetSettingsRequest{}); err != nil || !proto.Equal(told.GetSettings().GetRetainedSince(), since) {
		t.Fatalf("%v, %v", told, err)
	}
}

func TestWhatIsCoarserIsKeptAsLong(t *testing.T) {
	for _, c := range []struct {
		keep Keep
		path string // what is refused; empty: nothing
	}{
		{Keep{}, ""},
		{Keep{Instances: 7}, ""},
		{Keep{Instances: 30, Persons: 30, Totals: 31}, ""},
		{Keep{Instances: 6}, "instance_days"},
		{Keep{Persons: 100}, "person_days"},
		{Keep{Instances: 100, Persons: 99}, "person_days"},
		{Keep{Instances: 10, Totals: 99}, "total_days"},
		{Keep{Instances: 10, Persons: 100, Totals: 99}, "total_days"},
	} {
		settings := DefaultSettings()
		settings.Keep = c.keep
		events, err := DefaultSettings().Decide(settings)
		if c.path == "" {
			if err != nil || (len(events) > 0) != (c.keep != Keep{}) {
				t.Errorf("%+v: %v, %v", c.keep, events, err)
			}
			continue
		}
		if !errs.Is(errs.Invalid, err) || !strings.Contains(fmt.Sprint(errs.PublicOf(err)), c.path) {
			t.Errorf("%+v: %v", c.keep, err)
		}
	}
}

// Only names of documents of which nothing is left go.
func TestNamesOfDocumentsGoWithTheirUse(t *testing.T) {
	stores := openStores(t)
	p := newUsageProjection(agentlog.NewDecoder(agentlog.Config{}))
	account, person, machine, app := resource.NewID(), resource.NewID(), resource.NewID(), resource.NewID()
	old, both, unused := resource.NewID(), resource.NewID(), resource.NewID()
	first, second := time.Date(2026, 1, 5, 9, 0, 0, 0, time.UTC).UnixMilli(), time.Date(2026, 6, 5, 9, 0, 0, 0, time.UTC).UnixMilli()
	facts := &agentlog.Facts{}
	for i, u := range []struct {
		document contract.ID
		at       int64
	}{{old, first}, {both, first}, {both, second}} {
		facts.Usage = append(facts.Usage, agentlog.Usage{
			Account: account, Agent: machine, Epoch: 1, Seq: uint64(i + 1), Event: resource.NewID(), Instance: resource.NewID(), Session: machine,
			Application: app, Principal: person, Machine: machine, Document: u.document, Transition: agentlog.Changed, HasClosed: true,
			ClosedAttention: agentlog.Busy, ClosedState: agentlog.Active, FromUTCMillis: u.at, ToUTCMillis: u.at + 60_000, AtUTCMillis: u.at + 60_000,
		})
	}
	for _, document := range []contract.ID{old, both, unused, {}} {
		facts.Names = append(facts.Names, agentlog.SealedName{Account: account, Principal: person, Document: document, Sealed: []byte("sealed")})
	}
	apply(t.Context(), t, stores, p, facts)
	if err := removerOf(stores, account, p).remove(t.Context(), Keep{Instances: 10, Persons: 10}.horizonsAt(time.UnixMilli(second))); err != nil {
		t.Fatal(err)
	}
	rows, err := stores.Views.Projector.Query(t.Context(), "SELECT document_id FROM sealed_name WHERE account_id = $1", account)
	if err != nil {
		t.Fatal(err)
	}
	left, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
	if err != nil {
		t.Fatal(err)
	}
	names := map[contract.ID]bool{}
	for _, id := range left {
		names[id] = true
	}
	if names[old] || !names[both] || !names[unused] || !names[contract.ID{}] {
		t.Fatalf("left are old %t, both %t, unused %t, the person's %t", names[old], names[both], names[unused], names[contract.ID{}])
	}
}
