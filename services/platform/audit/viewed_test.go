package audit

import (
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// Each of many views at once of one viewer is in the log, with who, whose and why.
func TestEveryViewIsRecorded(t *testing.T) {
	log := eventlog.NewMemory()
	account, login, person := contract.ID{1}, contract.ID{2}, contract.ID{3}
	ctx := authn.WithCaller(t.Context(), authn.Caller{Account: account, Login: login, Actor: "login:x", Reach: authzv1.Reach_REACH_ACCOUNT})
	const views = 20
	var all sync.WaitGroup
	for range views {
		all.Go(func() {
			err := Viewed(ctx, log, View{Method: "m", Principals: []contract.ID{person}, Reason: "a complaint", From: time.Unix(1, 0)})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	events, _, err := log.Load(ctx, contract.EventSubject(account, "audit", "viewer", login.String()))
	if err != nil || len(events) != views {
		t.Fatalf("%d events: %v", len(events), err)
	}
	var got identityv1.UseViewed
	if err := proto.Unmarshal(events[0].Data, &got); err != nil {
		t.Fatal(err)
	}
	if events[0].Actor != "login:x" || events[0].Type != eventType || contract.ID(got.GetPrincipalIds()[0]) != person || got.GetReason() != "a complaint" || got.GetStartTime().AsTime().Unix() != 1 || got.GetEndTime() != nil {
		t.Errorf("%v %v", events[0], &got)
	}
	if err := Viewed(t.Context(), log, View{}); !errs.Is(errs.Unauthenticated, err) {
		t.Errorf("nobody's view: %v", err)
	}
}
