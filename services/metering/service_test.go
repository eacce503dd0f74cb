package metering

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog/agentlogtest"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// start runs the service for the test.
func start(t *testing.T, s *Service) {
	t.Helper()
	begin(t, s)
}

// begin has a service run until the test ends, or stop is called.
func begin(t *testing.T, s *Service) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func seconds(n int64) *durationpb.Duration { return durationpb.New(time.Duration(n) * time.Second) }

func xterm() *meteringv1.Application {
	return &meteringv1.Application{DisplayName: "Terminal", Rules: []*meteringv1.Rule{{Executable: "xterm"}}}
}

func TestApplicationsAndPolicy(t *testing.T) {
	account := resource.NewID()
	nc := platformtest.NATS(t)
	s, err := New(Config{Accounts: []contract.ID{account}}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	policies := policiesOf(t, nc, account)
	start(t, s)
	ctx := as(t.Context(), account)
	api, settings := &applicationAPI{service: s}, &settingsAPI{service: s}

	first := <-policies
	if first.GetRevision() != 0 || len(first.GetApplications()) != 0 || !first.GetPauseAllowed() || len(first.GetDocumentKey()) != 32 {
		t.Fatalf("the first policy is %v", first)
	}

	request := resource.NewID().String()
	created, err := api.CreateApplication(ctx, &meteringv1.CreateApplicationRequest{Application: xterm(), RequestId: request})
	if err != nil {
		t.Fatal(err)
	}
	app := created.GetApplication()
	if app.GetActivityGap().AsDuration() != 30*time.Second || app.GetTimeout().AsDuration() != 30*time.Minute || app.GetEtag() == "" || app.GetRules()[0].GetRuleId() == "" {
		t.Fatalf("created %v", app)
	}
	again, err := api.CreateApplication(ctx, &meteringv1.CreateApplicationRequest{Application: xterm(), RequestId: request})
	if err != nil || again.GetApplication().GetApplicationId() != app.GetApplicationId() {
		t.Fatalf("the same request again: %v, %v", again, err)
	}
	second := <-policies
	if second.GetRevision() == 0 || len(second.GetApplications()) != 1 || string(second.GetDocumentKey()) != string(first.GetDocumentKey()) {
		t.Fatalf("the policy of the application is %v", second)
	}

	_, err = api.CreateApplication(ctx, &meteringv1.CreateApplicationRequest{Application: &meteringv1.Application{DisplayName: " TERMINAL ", Rules: xterm().GetRules()}})
	if !errs.Is(errs.AlreadyExists, err) {
		t.Fatalf("a name that is taken: %v", err)
	}
	for name, bad := range map[string]*meteringv1.Application{
		"no rule":            {DisplayName: "a"},
		"bad expression":     {DisplayName: "b", Rules: []*meteringv1.Rule{{Title: "("}}},
		"gap too short":      {DisplayName: "c", Rules: xterm().GetRules(), ActivityGap: seconds(29)},
		"timeout below gap":  {DisplayName: "d", Rules: xterm().GetRules(), ActivityGap: seconds(61), Timeout: seconds(60)},
		"timeout too long":   {DisplayName: "e", Rules: xterm().GetRules(), Timeout: seconds(3601)},
		"blank name":         {DisplayName: "  ", Rules: xterm().GetRules()},
		"control characters": {DisplayName: "x\x00y", Rules: xterm().GetRules()},
	} {
		if _, err := api.CreateApplication(ctx, &meteringv1.CreateApplicationRequest{Application: bad}); !errs.Is(errs.Invalid, err) {
			t.Errorf("%s: %v", name, err)
		}
	}

	updated, err := api.UpdateApplication(ctx, &meteringv1.UpdateApplicationRequest{
		Application: &meteringv1.Application{ApplicationId: app.GetApplicationId(), DisplayName: "Shell", Etag: app.GetEtag()},
		UpdateMask:  &fieldmaskpb.FieldMask{Paths: []string{"display_name"}},
	})
	if err != nil || updated.GetApplication().GetDisplayName() != "Shell" || updated.GetApplication().GetRules()[0].GetRuleId() != app.GetRules()[0].GetRuleId() {
		t.Fatalf("updated %v, %v", updated, err)
	}
	<-policies
	_, err = api.UpdateApplication(ctx, &meteringv1.UpdateApplicationRequest{
		Application: &meteringv1.Application{ApplicationId: app.GetApplicationId(), DisplayName: "Late", Etag: app.GetEtag()},
		UpdateMask:  &fieldmaskpb.FieldMask{Paths: []string{"display_name"}},
	})
	if !errs.Is(errs.Conflict, err) {
		t.Fatalf("an old etag: %v", err)
	}
	if _, err := settings.UpdateSettings(ctx, &meteringv1.UpdateSettingsRequest{Settings: &meteringv1.Settings{TimeZone: "Mars/Olympus"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"time_zone"}}}); !errs.Is(errs.Invalid, err) {
		t.Fatalf("a zone that is none: %v", err)
	}
	changed, err := settings.UpdateSettings(ctx, &meteringv1.UpdateSettingsRequest{
		Settings: &meteringv1.Settings{TimeZone: "Asia/Kathmandu", Paused: true}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"time_zone", "paused"}},
	})
	if err != nil || changed.GetSettings().GetTimeZone() != "Asia/Kathmandu" || !changed.GetSettings().GetPauseAllowed() {
		t.Fatalf("settings %v, %v", changed, err)
	}
	person := &policyv1.PersonPolicy{PauseReasonRequired: true, Notice: "Agreed with the works council."}
	tell := func() (*meteringv1.UpdateSettingsResponse, error) {
		return settings.UpdateSettings(ctx, &meteringv1.UpdateSettingsRequest{
			Settings: &meteringv1.Settings{Person: person}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"person"}},
		})
	}
	if _, err := tell(); !errs.Is(errs.Invalid, err) {
		t.Fatalf("a reason is required and there is none: %v", err)
	}
	person.PauseReasons = []*policyv1.PauseReason{{Code: "break", Label: "A break"}, {Code: "break", Label: "Another"}}
	if _, err := tell(); !errs.Is(errs.Invalid, err) {
		t.Fatalf("a code is there twice: %v", err)
	}
	person.PauseReasons = person.PauseReasons[:1]
	if p := <-policies; !p.GetPaused() || p.GetApplications()[0].GetDisplayName() != "Shell" {
		t.Fatalf("the policy of the settings is %v", p)
	}

	if told, err := tell(); err != nil || !proto.Equal(told.GetSettings().GetPerson(), person) || told.GetSettings().GetTimeZone() != "Asia/Kathmandu" {
		t.Fatalf("what people are told: %v, %v", told, err)
	}
	if p := <-policies; !proto.Equal(p.GetPerson(), person) {
		t.Fatalf("the policy tells people %v", p.GetPerson())
	}
	move := func(managers ...string) (*meteringv1.UpdateSettingsResponse, error) {
		return settings.UpdateSettings(ctx, &meteringv1.UpdateSettingsRequest{
			Settings: &meteringv1.Settings{Managers: managers}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"managers"}},
		})
	}
	if _, err := move("manager.example.com"); !errs.Is(errs.Invalid, err) {
		t.Fatalf("a Manager without a port: %v", err)
	}
	if moved, err := move("manager.example.com:10041", "[::1]:1"); err != nil || len(moved.GetSettings().GetManagers()) != 2 || !proto.Equal(moved.GetSettings().GetPerson(), person) {
		t.Fatalf("the account's Managers: %v, %v", moved, err)
	}
	if p := <-policies; len(p.GetManagers()) != 2 || p.GetManagers()[0] != "manager.example.com:10041" {
		t.Fatalf("the policy names the Managers %q", p.GetManagers())
	}

	if _, err := api.DeleteApplication(ctx, &meteringv1.DeleteApplicationRequest{ApplicationId: app.GetApplicationId()}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.GetApplication(ctx, &meteringv1.GetApplicationRequest{ApplicationId: app.GetApplicationId()}); !errs.Is(errs.NotFound, err) {
		t.Fatalf("a deleted application: %v", err)
	}
	if p := <-policies; len(p.GetApplications()) != 0 {
		t.Fatalf("the policy after the deletion is %v", p)
	}
	if _, err := api.GetApplication(as(t.Context(), resource.NewID()), &meteringv1.GetApplicationRequest{ApplicationId: app.GetApplicationId()}); !errs.Is(errs.NotFound, err) {
		t.Fatalf("another account's application: %v", err)
	}
}

// TestOneNameOneApplication: of people who take one name at once, one gets it.
func TestOneNameOneApplication(t *testing.T) {
	s := newService(t, Config{})
	start(t, s)
	ctx := as(t.Context(), resource.NewID())
	api := &applicationAPI{service: s}
	var wg sync.WaitGroup
	results := make([]error, 6)
	for i := range results {
		wg.Go(func() {
			_, results[i] = api.CreateApplication(ctx, &meteringv1.CreateApplicationRequest{Application: xterm()})
		})
	}
	wg.Wait()
	won := 0
	for _, err := range results {
		switch {
		case err == nil:
			won++
		case !errs.Is(errs.AlreadyExists, err):
			t.Error(err)
		}
	}
	if won != 1 {
		t.Fatalf("%d of %d got the name", won, len(results))
	}
}

// The log was put back, or made anew, and the stream of policies was not.
func TestAPolicyOfALogThatCountsFromLessIsPublishedAsTheNewerOne(t *testing.T) {
	account := resource.NewID()
	nc := platformtest.NATS(t)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	events, err := js.Stream(t.Context(), contract.EventStream)
	if err != nil {
		t.Fatal(err)
	}
	for _, created := range []int64{0, 1, events.CachedInfo().Created.UnixMilli()} {
		before := &policyv1.Policy{
			AccountId: account[:], Revision: 1 << 40, LogCreatedUtcMillis: created, PublishedUtcMillis: time.Now().Add(time.Hour).UnixMilli(),
		}
		data, err := proto.Marshal(before)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), contract.PolicySubject(account), data); err != nil {
			t.Fatal(err)
		}
		s, err := New(Config{Accounts: []contract.ID{account}}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		policies := policiesOf(t, nc, account)
		if err := s.policies.publish(t.Context(), account, 0, false); err != nil {
			t.Fatal(err)
		}
		select {
		case p := <-policies:
			if p.GetRevision() != 0 || p.GetPublishedUtcMillis() <= before.GetPublishedUtcMillis() || p.GetLogCreatedUtcMillis() != events.CachedInfo().Created.UnixMilli() {
				t.Errorf("published %v", p)
			}
		case <-time.After(time.Minute):
			t.Fatal("nothing is published")
		}
		if err := s.policies.publish(t.Context(), account, 0, false); err != nil {
			t.Fatal(err)
		}
		if err := nc.Flush(); err != nil || len(policies) > 0 {
			t.Errorf("it is published again: %v", err)
		}
	}
}

// policiesOf sends each policy of an account that is published from here on.
func policiesOf(t *testing.T, nc *nats.Conn, account contract.ID) <-chan *policyv1.Policy {
	t.Helper()
	policies := make(chan *policyv1.Policy, 64)
	sub, err := nc.Subscribe(contract.PolicySubject(account), func(m *nats.Msg) {
		p := new(policyv1.Policy)
		if err := proto.Unmarshal(m.Data, p); err == nil {
			policies <- p
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	return policies
}

// office is agents with journals, whose frames go to the stream in some way.
type office struct {
	account  contract.ID
	managers [2]contract.ID
	journals []*agentlogtest.Journal
	bindings [][]*usagev1.PrincipalBinding
	booted   time.Time
}

func newOffice(rnd *rand.Rand, agents, events int) *office {
	o := &office{account: agentlogtest.ID(rnd), managers: [2]contract.ID{agentlogtest.ID(rnd), agentlogtest.ID(rnd)}, booted: time.Now().Add(-72 * time.Hour).Truncate(time.Second)}
	applications := []contract.ID{agentlogtest.ID(rnd), agentlogtest.ID(rnd)}
	for range agents {
		j := agentlogtest.NewJournal(rnd, o.booted)
		var bindings []*usagev1.PrincipalBinding
		var persons []*agentlogtest.Person
		for range 2 {
			p := agentlogtest.NewPerson(rnd, rnd.Int64N(3_600_000))
			p.Application = applications[rnd.IntN(len(applications))]
			principal := agentlogtest.ID(rnd)
			bindings = append(bindings, &usagev1.PrincipalBinding{PrincipalAlias: p.Alias[:], PrincipalId: principal[:]})
			persons = append(persons, p)
		}
		for range events {
			e := persons[rnd.IntN(len(persons))].Next(rnd)
			if e.GetClosed() != nil && rnd.IntN(10) == 0 {
				e.Transition = usagev1.Transition_TRANSITION_TIMED_OUT
			}
			j.AppendUsage(e)
		}
		o.journals, o.bindings = append(o.journals, j), append(o.bindings, bindings)
	}
	return o
}

// frames cuts every journal into frames of random size.
func (o *office) frames(rnd *rand.Rand, longest int) (frames []*usagev1.ReceivedFrame) {
	for i, j := range o.journals {
		for first := uint64(1); first < j.Next(); {
			last := min(first+uint64(rnd.IntN(longest)), j.Next()-1)
			frames = append(frames, agentlogtest.Received(j.Frame(first, last), o.bindings[i]...))
			first = last + 1
		}
	}
	return frames
}

// publish sends frames in batches, by one of the Managers each, and returns the
// last position.
func (o *office) publish(t *testing.T, nc *nats.Conn, rnd *rand.Rand, frames []*usagev1.ReceivedFrame, perBatch int) uint64 {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	for batch := range slices.Chunk(frames, perBatch) {
		manager := o.managers[rnd.IntN(2)]
		data, err := proto.Marshal(&usagev1.AgentBatch{AccountId: o.account[:], ManagerId: manager[:], Frames: batch})
		if err != nil {
			t.Fatal(err)
		}
		ack, err := js.PublishMsg(t.Context(), &nats.Msg{
			Subject: contract.AgentSubject(o.account, manager, usagev1.Lane_LANE_USAGE), Data: data,
			Header: nats.Header{contract.HeaderType: {contract.AgentBatchType}},
		})
		if err != nil {
			t.Fatal(err)
		}
		last = ack.Sequence
	}
	return last
}

// picture is everything that the API tells of an office, without positions.
func picture(t *testing.T, s *Service, o *office) string {
	t.Helper()
	api := &usageAPI{service: s}
	ctx := as(t.Context(), o.account)
	start := timestamppb.New(o.booted.Add(-24 * time.Hour).Truncate(24 * time.Hour))
	end := timestamppb.New(o.booted.Add(40 * 24 * time.Hour).Truncate(24 * time.Hour))
	text := ""
	for _, by := range [][]meteringv1.GroupBy{{1, 2, 3}, {5, 1}, {6}} {
		for _, counting := range []meteringv1.Counting{1, 2} {
			resp, err := api.SummarizeUsage(ctx, &meteringv1.SummarizeUsageRequest{StartTime: start, EndTime: end, GroupBy: by, Counting: counting, TimeZone: "Asia/Kathmandu", PageSize: 10000})
			if err != nil {
				t.Fatal(err)
			}
			resp.Position = ""
			text += fmt.Sprintf("%v\n%v\n", resp.GetTotals(), resp.GetGroups())
		}
	}
	instances, err := api.ListInstances(ctx, &meteringv1.ListInstancesRequest{PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range instances.GetInstances() {
		text += fmt.Sprintf("%v\n", n)
		intervals, err := api.ListIntervals(ctx, &meteringv1.ListIntervalsRequest{InstanceId: n.GetInstanceId(), PageSize: 10000})
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range intervals.GetIntervals() {
			i.Position = 0
			text += fmt.Sprintf("%v\n", i)
		}
		documents, err := api.ListDocuments(ctx, &meteringv1.ListDocumentsRequest{InstanceId: n.GetInstanceId(), PageSize: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range documents.GetDocuments() {
			text += fmt.Sprintf("%v\n", d)
		}
	}
	demand, err := api.QueryConcurrency(ctx, &meteringv1.QueryConcurrencyRequest{StartTime: start, EndTime: end, Step: seconds(86400), GiveBackAfter: seconds(600)})
	if err != nil {
		t.Fatal(err)
	}
	return text + fmt.Sprint(demand)
}

// TestP6SameTotals: however events are batched, repeated, reordered, delayed and
// split between two Managers, the totals are the same.
func TestP6SameTotals(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	rnd := rand.New(rand.NewPCG(seed, 6))
	o := newOffice(rnd, 4, 150)
	want := ""
	for round := range 4 {
		nc := platformtest.NATS(t)
		s, err := New(Config{MaxBatchMessages: 1 + rnd.IntN(40)}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		start(t, s)
		frames := o.frames(rnd, []int{1000, 40, 7, 3}[round])
		if round > 0 {
			// The same journals again, cut elsewhere, and everything out of order.
			frames = append(frames, o.frames(rnd, 20)...)
			frames = append(frames, frames[:len(frames)/3]...)
			rnd.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })
		}
		last := o.publish(t, nc, rnd, frames, 1+rnd.IntN(20))
		if err := s.WaitForUsage(t.Context(), last); err != nil {
			t.Fatal(err)
		}
		got := picture(t, s, o)
		if round == 0 {
			want = got
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("round %d: %.4000s", round, diff)
		}
		quality, err := (&usageAPI{service: s}).GetDataQuality(as(t.Context(), o.account), &meteringv1.GetDataQualityRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if quality.GetEventsCounted() != 600 || quality.GetDuplicatesDropped() < 600 || len(quality.GetQuarantined()) != 0 || quality.GetPosition() != last {
			t.Fatalf("data quality: %v", quality)
		}
	}
}

// TestAliasBecomesPrincipal: what came before anybody said whose alias it is ends
// under the principal all the same.
func TestAliasBecomesPrincipal(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	o := newOffice(rnd, 2, 120)
	nc := platformtest.NATS(t)
	s, err := New(Config{MaxBatchMessages: 3}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	start(t, s)
	bindings := o.bindings
	o.bindings = make([][]*usagev1.PrincipalBinding, len(bindings))
	unbound := o.frames(rnd, 5)
	rnd.Shuffle(len(unbound), func(i, j int) { unbound[i], unbound[j] = unbound[j], unbound[i] })
	unbound = unbound[:len(unbound)/2]
	o.bindings = bindings
	rest := o.frames(rnd, 5)
	rnd.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] })
	if err := s.WaitForUsage(t.Context(), o.publish(t, nc, rnd, unbound, 3)); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitForUsage(t.Context(), o.publish(t, nc, rnd, rest, 3)); err != nil {
		t.Fatal(err)
	}
	got := picture(t, s, o)

	nc = platformtest.NATS(t)
	other, err := New(Config{}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	start(t, other)
	if err := other.WaitForUsage(t.Context(), o.publish(t, nc, rnd, rest, 3)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(picture(t, other, o), got); diff != "" {
		t.Fatalf("%.4000s", diff)
	}
}

// TestAliasIsPrincipal: a binding of an alias to itself moves nothing, and so loses
// nothing of what an earlier batch has counted.
func TestAliasIsPrincipal(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	rnd := rand.New(rand.NewPCG(seed, 3))
	o := newOffice(rnd, 2, 120)
	for _, bindings := range o.bindings {
		for _, b := range bindings {
			b.PrincipalId = b.GetPrincipalAlias()
		}
	}
	frames := o.frames(rnd, 5)
	var pictures []any
	for _, batch := range []int{1, 1000} {
		nc := platformtest.NATS(t)
		s, err := New(Config{MaxBatchMessages: batch}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		start(t, s)
		if err := s.WaitForUsage(t.Context(), o.publish(t, nc, rnd, frames, 1)); err != nil {
			t.Fatal(err)
		}
		pictures = append(pictures, picture(t, s, o))
	}
	if diff := cmp.Diff(pictures[1], pictures[0]); diff != "" {
		t.Fatalf("%.4000s", diff)
	}
}

// liveStream is the server's end of a stream in the same process.
type liveStream struct {
	grpc.ServerStream
	ctx  context.Context
	sent chan *meteringv1.StreamLiveUsageResponse
}

func (l *liveStream) Context() context.Context { return l.ctx }

func (l *liveStream) Send(m *meteringv1.StreamLiveUsageResponse) error {
	select {
	case l.sent <- m:
		return nil
	case <-l.ctx.Done():
		return l.ctx.Err()
	}
}

func TestLiveUsage(t *testing.T) {
	nc := platformtest.NATS(t)
	s, err := New(Config{}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	start(t, s)
	account, manager, session, application := resource.NewID(), resource.NewID(), resource.NewID(), resource.NewID()
	send := func(serial uint64, m *usagev1.LiveSnapshot) {
		m.SessionId, m.RunId, m.Serial, m.PrincipalId, m.MachineId = session[:], 7, serial, manager[:], manager[:]
		m.AgentId, m.PrincipalAlias = manager[:], manager[:]
		data, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := nc.Publish(contract.LiveSubject(account, manager), data); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(as(t.Context(), account))
	stream := &liveStream{ctx: ctx, sent: make(chan *meteringv1.StreamLiveUsageResponse)}
	ended := make(chan error, 1)
	go func() {
		ended <- (&usageAPI{service: s}).StreamLiveUsage(&meteringv1.StreamLiveUsageRequest{}, stream)
	}()
	if first := <-stream.sent; !first.GetComplete() || len(first.GetSessions()) != 0 {
		t.Fatalf("the first answer is %v", first)
	}
	open := []*usagev1.OpenInstance{{InstanceId: session[:], ApplicationId: application[:], Attention: usagev1.Attention_ATTENTION_BUSY}}
	// Until the service listens, what is published is nobody's.
	var answer *meteringv1.StreamLiveUsageResponse
	for serial := uint64(1); answer == nil; serial++ {
		send(serial, &usagev1.LiveSnapshot{ValidMillis: 60_000, Open: open})
		select {
		case answer = <-stream.sent:
		case <-time.After(50 * time.Millisecond):
		}
	}
	if answer.GetComplete() || len(answer.GetSessions()) != 1 || answer.GetSessions()[0].GetInstances()[0].GetApplicationId() != application.String() {
		t.Fatalf("a session began: %v", answer)
	}
	began := time.Now()
	send(1000, &usagev1.LiveSnapshot{ValidMillis: 60_000})
	for len(answer.GetSessions()) != 1 || len(answer.GetSessions()[0].GetInstances()) != 0 {
		answer = <-stream.sent
	}
	t.Log("a change was told after", time.Since(began))
	// What was overtaken on the way changes nothing; silence ends a session.
	send(999, &usagev1.LiveSnapshot{ValidMillis: 60_000, Open: open})
	send(1001, &usagev1.LiveSnapshot{ValidMillis: 1})
	for len(answer.GetEndedSessionIds()) == 0 {
		answer = <-stream.sent
		for _, x := range answer.GetSessions() {
			if len(x.GetInstances()) != 0 {
				t.Fatalf("an old snapshot came back: %v", answer)
			}
		}
	}
	if answer.GetEndedSessionIds()[0] != session.String() {
		t.Fatalf("ended: %v", answer)
	}
	if err := nc.Publish(contract.LiveSubject(account, manager), []byte("nonsense")); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

func TestAnUpdateOfNothingSaysWhatToChange(t *testing.T) {
	for path, want := range map[string]string{"": "nothing to change", "nonsense": `"nonsense"`, "displayName": "display_name"} {
		_, err := resource.MaskPaths("test", &fieldmaskpb.FieldMask{Paths: []string{path}}, &meteringv1.Application{}, "application_id", "etag")
		if text := fmt.Sprint(errs.PublicOf(err).Fields); !errs.Is(errs.Invalid, err) || !strings.Contains(text, want) ||
			!strings.Contains(text, "update_mask") || !strings.Contains(text, "display_name, rules") || strings.Contains(text, "etag") {
			t.Errorf("%q: %s", path, text)
		}
	}
}

// TestAnAccountHasAPolicyFromItsBeginning: no metering decision, nor a start of this service, has to
// come first.
func TestAnAccountHasAPolicyFromItsBeginning(t *testing.T) {
	account := resource.NewID()
	nc := platformtest.NATS(t)
	s, err := New(Config{}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	policies := policiesOf(t, nc, account)
	start(t, s)
	log := eventlog.NewJetStream(nc, contract.EventStream)
	subject := contract.EventSubject(account, "identity", "account", account.String())
	if _, err := log.Append(t.Context(), subject, 0, eventlog.Event{Type: "cetrus.identity.account.created.v1"}); err != nil {
		t.Fatal(err)
	}
	select {
	case p := <-policies:
		if string(p.GetAccountId()) != string(account[:]) || !p.GetPauseAllowed() || len(p.GetDocumentKey()) != 32 {
			t.Errorf("the policy is %v", p)
		}
	case <-time.After(time.Minute):
		t.Fatal("the account has no policy")
	}
	if _, err := (&applicationAPI{service: s}).CreateApplication(as(t.Context(), account), &meteringv1.CreateApplicationRequest{Application: xterm()}); err != nil {
		t.Fatal(err)
	}
	if p := <-policies; len(p.GetApplications()) != 1 {
		t.Errorf("the policy of its application is %v", p)
	}
}
