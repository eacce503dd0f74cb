package metering

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// TestGroupsAndSitesFollowIdentity: who is in which group is what identity has decided last, and a
// machine is of the site whose Manager brought its agent's frames.
func TestGroupsAndSitesFollowIdentity(t *testing.T) {
	rnd := rand.New(rand.NewPCG(51, 51))
	o := newOffice(rnd, 2, 60)
	o.managers[1] = o.managers[0]
	nc := platformtest.NATS(t)
	s, err := New(Config{}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	start(t, s)
	if err := s.WaitForUsage(t.Context(), o.publish(t, nc, rnd, o.frames(rnd, 20), 3)); err != nil {
		t.Fatal(err)
	}
	log, registry := eventlog.NewJetStream(nc, contract.EventStream), newPlaceRegistry()
	record := func(registry *eventlog.Registry, subject string, message proto.Message) {
		t.Helper()
		event, err := registry.Encode(message)
		if err != nil {
			t.Fatal(err)
		}
		event.ID = resource.NewID().String()
		last, err := log.Last(t.Context(), subject)
		if err != nil {
			t.Fatal(err)
		}
		position, err := log.Append(t.Context(), subject, last, event)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.waitForCatalog(t.Context(), o.account, position); err != nil {
			t.Fatal(err)
		}
	}
	decide := func(aggregate string, id contract.ID, message proto.Message) {
		t.Helper()
		record(registry, contract.EventSubject(o.account, "identity", aggregate, id.String()), message)
	}
	group, login := resource.NewID(), resource.NewID()
	person, err := contract.IDFrom(o.bindings[0][0].GetPrincipalId())
	if err != nil {
		t.Fatal(err)
	}
	decide("manager", o.managers[0], &identityv1.ManagerCreated{ManagerId: o.managers[0][:], DisplayName: "Vienna"})
	decide("group", group, &identityv1.GroupDefined{GroupId: group[:], DisplayName: "Draughtsmen"})
	decide("login", login, &identityv1.LoginGroupsChanged{GroupIds: [][]byte{group[:]}})
	record(s.registry, principalSubject(o.account, person), &meteringv1.LoginBound{PrincipalId: person[:], LoginId: login[:]})

	api := &usageAPI{service: s}
	ask := func(f *meteringv1.UsageFilter, by ...meteringv1.GroupBy) *meteringv1.SummarizeUsageResponse {
		t.Helper()
		resp, err := api.SummarizeUsage(as(t.Context(), o.account), &meteringv1.SummarizeUsageRequest{
			StartTime: timestamppb.New(o.booted.Add(-48 * time.Hour).Truncate(time.Hour)), EndTime: timestamppb.New(o.booted.Add(240 * time.Hour).Truncate(time.Hour)),
			Filter: f, GroupBy: by,
		})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	all := ask(nil).GetTotals()
	theirs := ask(&meteringv1.UsageFilter{PrincipalIds: []string{person.String()}}).GetTotals()
	if theirs.GetOpen().AsDuration() == 0 || all.GetOpen().AsDuration() == theirs.GetOpen().AsDuration() {
		t.Fatalf("the person has %v of %v: the test proves nothing", theirs.GetOpen(), all.GetOpen())
	}
	same := func(what string, want, got proto.Message) {
		t.Helper()
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got): %s", what, diff)
		}
	}
	inGroup := &meteringv1.UsageFilter{GroupIds: []string{group.String()}}
	same("of the group", theirs, ask(inGroup).GetTotals())
	site := ask(&meteringv1.UsageFilter{ManagerIds: []string{o.managers[0].String()}}, meteringv1.GroupBy_GROUP_BY_SITE)
	same("of the site", all, site.GetTotals())
	if len(site.GetGroups()) != 1 || site.GetGroups()[0].GetManagerName() != "Vienna" || site.GetGroups()[0].GetManagerId() != o.managers[0].String() {
		t.Errorf("by site there are %v", site.GetGroups())
	}
	if other := ask(&meteringv1.UsageFilter{ManagerIds: []string{resource.NewID().String()}}).GetTotals(); other.GetOpen().AsDuration() != 0 {
		t.Errorf("of a site without machines there is %v", other)
	}
	decide("group", group, &identityv1.GroupDefined{GroupId: group[:], DisplayName: "Designers"})
	groups := ask(nil, meteringv1.GroupBy_GROUP_BY_GROUP).GetGroups()
	if len(groups) != 2 || groups[0].GetGroupId() != "" || groups[1].GetGroupId() != group.String() || groups[1].GetGroupName() != "Designers" {
		t.Fatalf("by group there are %v", groups)
	}
	same("by group", theirs, groups[1].GetTotals())
	left := func(what string) {
		t.Helper()
		if now := ask(inGroup); now.GetTotals().GetOpen().AsDuration() != 0 || len(ask(nil, meteringv1.GroupBy_GROUP_BY_GROUP).GetGroups()) != 1 {
			t.Errorf("%s: %v is of the group", what, now.GetTotals())
		}
	}
	decide("login", login, &identityv1.LoginGroupsChanged{})
	left("the login has left")
	decide("login", login, &identityv1.LoginGroupsChanged{GroupIds: [][]byte{group[:]}})
	same("of the group, again", theirs, ask(inGroup).GetTotals())
	decide("group", group, &identityv1.GroupDeleted{GroupId: group[:]})
	left("the group was deleted")
	decide("group", group, &identityv1.GroupDefined{GroupId: group[:], DisplayName: "Designers"})
	decide("login", login, &identityv1.LoginDeleted{LoginId: login[:]})
	left("the login was deleted")
}
