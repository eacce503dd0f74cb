package metering

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"buf.build/go/protovalidate"
	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// TestRequestIDBelongsToOneRequest: the same request again has the same answer, any
// other with its id is refused and changes nothing.
func TestRequestIDBelongsToOneRequest(t *testing.T) {
	account := resource.NewID()
	s := newService(t, Config{Accounts: []contract.ID{account}})
	start(t, s)
	ctx := as(t.Context(), account)
	api, settings := &applicationAPI{service: s}, &settingsAPI{service: s}
	refused := func(what string, err error) {
		t.Helper()
		if p := errs.PublicOf(err); err == nil || p.Kind != errs.AlreadyExists || p.Reason != "REQUEST_ID_REUSED" || !strings.Contains(p.Message, "give each request an id of its own") {
			t.Errorf("%s: %v", what, err)
		}
	}
	request := resource.NewID().String()
	create := func(name string) (*meteringv1.Application, error) {
		m := xterm()
		m.DisplayName = name
		resp, err := api.CreateApplication(ctx, &meteringv1.CreateApplicationRequest{Application: m, RequestId: request})
		return resp.GetApplication(), err
	}
	first, err := create("Twice")
	if err != nil {
		t.Fatal(err)
	}
	again, err := create("Twice")
	if diff := cmp.Diff(first, again, protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("the same request again: %v\n%s", err, diff)
	}
	_, err = create("Other")
	refused("another name", err)
	_, err = api.DeleteApplication(ctx, &meteringv1.DeleteApplicationRequest{ApplicationId: first.GetApplicationId(), RequestId: request})
	refused("another method", err)

	rename := resource.NewID().String()
	update := func(name string) error {
		_, err := api.UpdateApplication(ctx, &meteringv1.UpdateApplicationRequest{
			Application: &meteringv1.Application{ApplicationId: first.GetApplicationId(), DisplayName: name},
			UpdateMask:  &fieldmaskpb.FieldMask{Paths: []string{"display_name"}}, RequestId: rename,
		})
		return err
	}
	for range 2 {
		if err := update("Renamed"); err != nil {
			t.Fatal(err)
		}
	}
	refused("another update", update("Renamed again"))

	zone := resource.NewID().String()
	set := func(to string) error {
		_, err := settings.UpdateSettings(ctx, &meteringv1.UpdateSettingsRequest{
			Settings: &meteringv1.Settings{TimeZone: to}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"time_zone"}}, RequestId: zone,
		})
		return err
	}
	for range 2 {
		if err := set("Europe/Berlin"); err != nil {
			t.Fatal(err)
		}
	}
	refused("another zone", set("Europe/Paris"))

	list, err := api.ListApplications(ctx, &meteringv1.ListApplicationsRequest{})
	if err != nil || len(list.GetApplications()) != 1 || list.GetApplications()[0].GetDisplayName() != "Renamed" {
		t.Errorf("in the end there are %v, %v", list, err)
	}
}

// TestMinPositionIsWaitedFor: what the log has is waited for while the call lasts, and
// what it has not is refused at once.
func TestMinPositionIsWaitedFor(t *testing.T) {
	account := resource.NewID()
	nc := platformtest.NATS(t)
	s, err := New(Config{}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ack, err := js.Publish(t.Context(), contract.AgentSubject(account, resource.NewID(), usagev1.Lane_LANE_USAGE), nil)
	if err != nil {
		t.Fatal(err)
	}
	api := &usageAPI{service: s}
	ask := func(ctx context.Context, position string) (*meteringv1.SummarizeUsageResponse, error) {
		return api.SummarizeUsage(as(ctx, account), &meteringv1.SummarizeUsageRequest{
			StartTime: timestamppb.New(time.Unix(0, 0)), EndTime: timestamppb.New(time.Unix(900, 0)), MinPosition: position,
		})
	}
	stored := fmt.Sprint(ack.Sequence)

	// Nothing counts yet.
	short, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := ask(short, stored); !errs.Is(errs.Unavailable, err) || !strings.Contains(errs.PublicOf(err).Message, "position "+stored+" is not counted yet, only 0 is") {
		t.Errorf("what is not counted: %v", err)
	}
	if short.Err() != nil {
		t.Error("nobody was left to hear the answer")
	}
	start(t, s)
	resp, err := ask(t.Context(), stored)
	if err != nil || resp.GetPosition() != stored {
		t.Errorf("what is counted soon: %v, %v", resp, err)
	}
	began := time.Now()
	if _, err := ask(t.Context(), "99999999"); !errs.Is(errs.Invalid, err) || !strings.Contains(errs.PublicOf(err).Message, "min_position: 99999999 is no position yet: the log ends at "+stored) {
		t.Errorf("what the log does not have: %v", err)
	}
	if waited := time.Since(began); waited > maxPositionWait/2 {
		t.Errorf("refused after %v", waited)
	}
	if _, err := ask(t.Context(), "soon"); !errs.Is(errs.Invalid, err) {
		t.Errorf("no position: %v", err)
	}
}

// TestAgentsTogether: two agents that tell of one machine, or of one host, at the same
// time are told of each other; one that has gone, or is elsewhere, is not.
func TestAgentsTogether(t *testing.T) {
	s := newService(t, Config{})
	account, now := resource.NewID(), time.UnixMilli(1_800_000_000_000)
	machine, session := resource.NewID(), resource.NewID()
	tell := func(agent, machine, session contract.ID, host string, ended bool) {
		s.live.take(account, &usagev1.LiveSnapshot{
			AgentId: agent[:], MachineId: machine[:], SessionId: session[:], RunId: 1, Serial: uint64(len(host)) + 1,
			ValidMillis: 90_000, Ended: ended, Machine: &usagev1.MachineName{HostName: host},
		}, now)
	}
	a, b, c, d, e := resource.NewID(), resource.NewID(), resource.NewID(), resource.NewID(), resource.NewID()
	tell(a, machine, session, "Desk", false)
	tell(b, resource.NewID(), resource.NewID(), "desk", false) // another data directory
	tell(c, machine, resource.NewID(), "renamed", false)       // the same machine
	tell(d, resource.NewID(), resource.NewID(), "elsewhere", false)
	tell(e, machine, resource.NewID(), "desk", true) // has gone
	tell(d, resource.NewID(), resource.NewID(), "", false)
	tell(e, resource.NewID(), resource.NewID(), "", false) // no name is no common name

	sorted := func(ids ...contract.ID) []string {
		if strings.Compare(ids[0].String(), ids[1].String()) > 0 {
			ids[0], ids[1] = ids[1], ids[0]
		}
		return []string{ids[0].String(), ids[1].String()}
	}
	want := map[string][]string{a.String(): sorted(b, c), b.String(): {a.String()}, c.String(): {a.String()}}
	if diff := cmp.Diff(want, s.live.together(account)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	s.live.expire(now.Add(2 * time.Minute))
	if left := s.live.together(account); len(left) != 0 {
		t.Errorf("silent agents are together: %v", left)
	}
}

func TestWhatIsSaidOfDurationsAndTokens(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "0s", time.Hour: "3600s", -500 * time.Millisecond: "-0.500s", maxGiveBack: "34560000s"} {
		if got := inSeconds(d); got != want {
			t.Errorf("%v is told as %q, not %q", d, got, want)
		}
	}
	s := newService(t, Config{})
	account := resource.NewID()
	api, ctx := &usageAPI{service: s}, as(t.Context(), account)
	first, second := timestamppb.New(time.Unix(900, 0)), timestamppb.New(time.Unix(1800, 0))
	_, err := api.ListInstances(ctx, &meteringv1.ListInstancesRequest{PageToken: "garbage"})
	says(t, err, "is no page token")
	_, err = api.ListInstances(ctx, &meteringv1.ListInstancesRequest{PageToken: markToken("another", 1, resource.NewID())})
	says(t, err, "belongs to another question")
	remote := &meteringv1.ListInstancesRequest{SessionAccess: usagev1.SessionAccess_SESSION_ACCESS_REMOTE}
	token := markToken(questionOf(account, remote), 1, resource.NewID())
	_, err = api.ListInstances(ctx, &meteringv1.ListInstancesRequest{PageToken: token})
	says(t, err, "belongs to another question")
	remote.PageToken = token
	if _, err = api.ListInstances(ctx, remote); err != nil {
		t.Errorf("with the token of its own answer: %v", err)
	}
	_, err = api.SummarizeUsage(ctx, &meteringv1.SummarizeUsageRequest{StartTime: first, EndTime: second, PageToken: "garbage"})
	says(t, err, "is no page token")
	_, err = api.SummarizeUsage(ctx, &meteringv1.SummarizeUsageRequest{StartTime: second, EndTime: first})
	says(t, err, "is not after start_time")
	_, err = api.QueryConcurrency(ctx, &meteringv1.QueryConcurrencyRequest{StartTime: first, EndTime: second, GiveBackAfter: seconds(-1)})
	says(t, err, "is not within 0s to 34560000s")
	for field, limit := range map[string]func(*meteringv1.Application, int64){
		"activity_gap": func(a *meteringv1.Application, n int64) { a.ActivityGap = seconds(n) },
		"timeout":      func(a *meteringv1.Application, n int64) { a.Timeout = seconds(n) },
	} {
		for _, n := range []int64{1, 7200} {
			request := &meteringv1.CreateApplicationRequest{Application: &meteringv1.Application{DisplayName: "c", Rules: xterm().GetRules()}}
			limit(request.GetApplication(), n)
			// The contract leaves it to metering, which alone knows the range that holds here.
			if err := protovalidate.Validate(request); err != nil {
				t.Error(err)
			}
			_, err = (&applicationAPI{service: s}).CreateApplication(ctx, request)
			says(t, err, fmt.Sprintf("application.%s: %ds is not within 30s to 3600s", field, n))
		}
	}
}

func says(t *testing.T, err error, what string) {
	t.Helper()
	if !errs.Is(errs.Invalid, err) || !strings.Contains(errs.PublicOf(err).Message, what) {
		t.Errorf("%v, not %q", err, what)
	}
}
