package metering

import (
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog"
)

// TestWhereSessionsWereShown: however events are batched, an instance lists where its
// session was shown while it was open, is found by that, and each interval says it; and the
// rows of applications that are remote clients say so.
func TestWhereSessionsWereShown(t *testing.T) {
	s := newService(t, Config{})
	api := &usageAPI{service: s}
	both, remote := 0, 0
	checkTables(t, func(rt *rapid.T) {
		w := drawWorld(rt)
		want := map[contract.ID]accesses{}
		byEvent := map[string]usagev1.SessionAccess{}
		for i := range w.usage {
			u := &w.usage[i]
			if u.HasClosed {
				u.ClosedAccess = agentlog.SessionAccess(rapid.IntRange(0, 2).Draw(rt, "access"))
			}
			access := usagev1.SessionAccess(u.ClosedAccess)
			want[u.Instance], byEvent[u.Event.String()] = want[u.Instance].with(access), access
		}
		clients := map[string]bool{}
		for i, app := range w.apps {
			clients[app.String()] = rapid.Bool().Draw(rt, "remote client")
			definition, err := proto.Marshal(&meteringv1.ApplicationDefined{ApplicationId: app[:], RemoteClient: clients[app.String()]})
			if err != nil {
				rt.Fatal(err)
			}
			if _, err := s.stores.Views.Projector.Exec(t.Context(), `INSERT INTO application (account_id, application_id, display_name, definition, revision, created, updated)
				VALUES ($1, $2, $3, $4, 1, $5, $5) ON CONFLICT DO NOTHING`, w.account, app, "app "+string(rune('A'+i)), definition, time.UnixMilli(w.from)); err != nil {
				rt.Fatal(err)
			}
		}
		w.applyBatches(t.Context(), rt, s.stores)
		ctx := as(t.Context(), w.account)
		for _, wanted := range []usagev1.SessionAccess{0, usagev1.SessionAccess_SESSION_ACCESS_CONSOLE, usagev1.SessionAccess_SESSION_ACCESS_REMOTE} {
			resp, err := api.ListInstances(ctx, &meteringv1.ListInstancesRequest{SessionAccess: wanted, PageSize: 1000})
			if err != nil {
				rt.Fatal(err)
			}
			expected := 0
			for _, a := range want {
				if wanted == 0 || slices.Contains(a.message(), wanted) {
					expected++
				}
			}
			if len(resp.GetInstances()) != expected {
				rt.Fatalf("%d instances were shown at %v, want %d", len(resp.GetInstances()), wanted, expected)
			}
			for _, n := range resp.GetInstances() {
				id, _ := contract.ParseID(n.GetInstanceId())
				if !slices.Equal(n.GetSessionAccesses(), want[id].message()) {
					rt.Fatalf("%v, want %v", n, want[id].message())
				}
				if len(n.GetSessionAccesses()) > 1 {
					both++
				}
				intervals, err := api.ListIntervals(ctx, &meteringv1.ListIntervalsRequest{InstanceId: n.GetInstanceId(), PageSize: 10000})
				if err != nil {
					rt.Fatal(err)
				}
				for _, interval := range intervals.GetIntervals() {
					if interval.GetSessionAccess() != byEvent[interval.GetEventId()] {
						rt.Fatalf("%v, want %v", interval, byEvent[interval.GetEventId()])
					}
				}
			}
		}
		resp, err := api.SummarizeUsage(ctx, &meteringv1.SummarizeUsageRequest{
			StartTime: millisStamp(w.from - w.from%900_000), EndTime: millisStamp(w.to - w.to%900_000 + 300*86_400_000),
			GroupBy: []meteringv1.GroupBy{meteringv1.GroupBy_GROUP_BY_APPLICATION, meteringv1.GroupBy_GROUP_BY_PRINCIPAL},
		})
		if err != nil {
			rt.Fatal(err)
		}
		for _, g := range resp.GetGroups() {
			if g.GetRemoteClient() != clients[g.GetApplicationId()] {
				rt.Fatalf("%v, want a remote client: %v", g, clients[g.GetApplicationId()])
			}
			if g.GetRemoteClient() {
				remote++
			}
		}
	})
	if both < 3 || remote < 3 {
		t.Errorf("%d instances were shown at both, %d rows are of remote clients", both, remote)
	}
}
