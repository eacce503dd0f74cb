package identity

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/enrollment"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// told applies decisions to a Manager.
func (m *Manager) told(t *testing.T, events []proto.Message, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range events {
		if *m, err = m.Apply(e); err != nil {
			t.Fatal(err)
		}
	}
}

// A token makes one key that of its Manager, once, and only until it expires, another takes
// its place, or the Manager is revoked.
func TestAManagersTokenIsGoodOnce(t *testing.T) {
	t.Parallel()
	id, now := contract.ID{1}, time.Now()
	hash := func() (h [32]byte) { _, _ = rand.Read(h[:]); return h }
	first, second := hash(), hash()
	var m Manager
	denied := func(what string, token [32]byte, key string, at time.Time) {
		t.Helper()
		if events, err := m.DecideEnroll("test", token, key, at); !errs.Is(errs.Denied, err) || len(events) > 0 {
			t.Errorf("%s: %v, %v", what, events, err)
		}
	}
	denied("before there is a Manager", [32]byte{}, "U1", now)
	events, err := m.DecideCreate("test", id, " Berlin ", first, now)
	m.told(t, events, err)
	if m.ID != id || m.DisplayName != "Berlin" || m.PublicKey != "" {
		t.Errorf("created: %+v", m)
	}
	if _, err := m.DecideCreate("test", id, "again", second, now); !errs.Is(errs.AlreadyExists, err) {
		t.Errorf("created again: %v", err)
	}
	denied("another token", second, "U1", now)
	denied("expired", first, "U1", now.Add(managerTokenLife+time.Second))
	events, err = m.DecideEnroll("test", first, "U1", now)
	m.told(t, events, err)
	denied("replayed with another key", first, "U2", now)
	if events, err := m.DecideEnroll("test", first, "U1", now.Add(time.Hour)); err != nil || len(events) > 0 {
		t.Errorf("asked again with its key: %v, %v", events, err)
	}
	events, err = m.DecideRenewToken("test", id, second, now)
	m.told(t, events, err)
	if m.PublicKey != "U1" {
		t.Error("a token that is not used yet has taken the key away")
	}
	denied("the token of before", first, "U1", now)
	events, err = m.DecideEnroll("test", second, "U2", now)
	m.told(t, events, err)
	if m.PublicKey != "U2" {
		t.Errorf("its key is %s", m.PublicKey)
	}
	events, err = m.DecideRevoke("test", id)
	m.told(t, events, err)
	denied("revoked", second, "U2", now)
	if _, err := m.DecideRenewToken("test", id, hash(), now); !errs.Is(errs.Precondition, err) {
		t.Errorf("revoked, and a token: %v", err)
	}
	if events, err := m.DecideRevoke("test", id); err != nil || len(events) > 0 {
		t.Errorf("revoked twice: %v, %v", events, err)
	}
	if _, err := (Manager{}).DecideRevoke("test", id); !errs.Is(errs.NotFound, err) {
		t.Errorf("nobody is revoked: %v", err)
	}
}

// An administrator makes Managers and sees them. Two accounts have none of the same id, since
// that is where a Manager hears its answers.
func TestAnAdministratorMakesManagers(t *testing.T) {
	s := running(t)
	api := &managerAPI{service: s}
	ours, theirs := as(t.Context(), newAccountOf(t, s, "Acme")), as(t.Context(), newAccountOf(t, s, "Umbrella"))
	made, err := api.CreateManager(ours, &identityv1.CreateManagerRequest{Manager: &identityv1.Manager{DisplayName: "Berlin"}})
	if err != nil || made.GetManager().GetDisplayName() != "Berlin" || made.GetToken() == "" {
		t.Fatal(made, err)
	}
	id := made.GetManager().GetManagerId()
	for name, ctx := range map[string]context.Context{"the same account": ours, "another account": theirs} {
		if _, err := api.CreateManager(ctx, &identityv1.CreateManagerRequest{Manager: &identityv1.Manager{ManagerId: id}}); !errs.Is(errs.AlreadyExists, err) {
			t.Errorf("%s makes one of the same id: %v", name, err)
		}
	}
	if _, err := api.GetManager(theirs, &identityv1.GetManagerRequest{ManagerId: id}); !errs.Is(errs.NotFound, err) {
		t.Errorf("another account sees it: %v", err)
	}
	if gone, err := api.RevokeManager(ours, &identityv1.RevokeManagerRequest{ManagerId: id}); err != nil || gone.GetManager().GetRevokeTime() == nil {
		t.Errorf("revoked: %v, %v", gone, err)
	}
	if list, err := api.ListManagers(ours, &identityv1.ListManagersRequest{}); err != nil || len(list.GetManagers()) != 1 {
		t.Errorf("listed: %v, %v", list, err)
	}
}

// Whoever names a key that is another's Manager's takes nothing from it.
func TestAKeyIsTheManagersThatCameWithItFirst(t *testing.T) {
	t.Parallel()
	first, second := AdmittedManager{contract.ID{2}, contract.ID{0xa}, "U1"}, AdmittedManager{contract.ID{1}, contract.ID{0xb}, "U1"}
	known, enrolled := make(map[string]Manager), make(map[string]arrival)
	for i, m := range []AdmittedManager{first, second} {
		subject := managerSubject(m.Account, m.Manager)
		known[subject], enrolled[subject] = Manager{ID: m.Manager, PublicKey: m.PublicKey}, arrival{uint64(i + 7), uint64(i + 7)}
	}
	if list := admitted(known, enrolled, nil); !slices.Equal(list, []AdmittedManager{first}) {
		t.Errorf("admitted: %+v", list)
	}
	known[managerSubject(first.Account, first.Manager)] = Manager{ID: first.Manager, PublicKey: first.PublicKey, Revoked: true}
	if list := admitted(known, enrolled, nil); !slices.Equal(list, []AdmittedManager{second}) {
		t.Errorf("admitted once the first was revoked: %+v", list)
	}
}

// Whoever enrols a Manager of another account's id is not let in: it would hear the other one's answers.
func TestAnIDIsTheManagersThatEnrolledFirst(t *testing.T) {
	t.Parallel()
	id := contract.ID{0xa}
	own, foreign := managerSubject(contract.ID{2}, id), managerSubject(contract.ID{1}, id)
	known := map[string]Manager{own: {ID: id, PublicKey: "U1"}, foreign: {ID: id, PublicKey: "U2"}}
	enrolled := map[string]arrival{own: {first: 7, key: 9}, foreign: {first: 8, key: 8}} // its key was renewed since
	if list := admitted(known, enrolled, nil); !slices.Equal(list, []AdmittedManager{{contract.ID{2}, id, "U1"}}) {
		t.Errorf("admitted: %+v", list)
	}
	known[own] = Manager{ID: id, PublicKey: "U1", Revoked: true}
	if list := admitted(known, enrolled, nil); len(list) > 0 {
		t.Errorf("admitted once it was revoked: %+v", list)
	}
}

// Of many who show one token at once a single key becomes the Manager's; whoever follows the
// log lets that one in, and nobody once it is revoked.
func TestManagersAreFollowed(t *testing.T) {
	nc := platformtest.NATS(t)
	s := newService(t, nc)
	api := &managerAPI{service: s}
	var mu sync.Mutex
	var now []AdmittedManager
	unread := make(chan string, 10)
	ctx, stop := context.WithCancel(t.Context())
	followed := make(chan error, 1)
	go func() {
		followed <- FollowManagers(ctx, nc, func(list []AdmittedManager) error {
			mu.Lock()
			defer mu.Unlock()
			now = list
			return nil
		}, func(subject string, _ error) { unread <- subject })
	}()
	defer func() {
		stop()
		if err := <-followed; err != nil {
			t.Error(err)
		}
	}()
	admits := func(what string, want ...AdmittedManager) {
		t.Helper()
		for late := time.Now().Add(time.Minute); ; <-time.After(10 * time.Millisecond) {
			mu.Lock()
			list := now
			mu.Unlock()
			if slices.Equal(list, want) {
				return
			}
			if time.Now().After(late) {
				t.Fatalf("%s: %+v, want %+v", what, list, want)
			}
		}
	}
	account, id := resource.NewID(), resource.NewID()
	token := enrollment.NewManagerToken(account, id)
	decide := func(decide func(Manager) ([]proto.Message, error)) {
		t.Helper()
		if _, err := s.commands.managers.Execute(t.Context(), managerSubject(account, id), eventlog.Command{Actor: "test"}, decide); err != nil {
			t.Fatal(err)
		}
	}
	decide(func(m Manager) ([]proto.Message, error) {
		return m.DecideCreate("test", id, "", token.Hash(), time.Now())
	})

	const many = 8
	var racing sync.WaitGroup
	results := make(chan error, many)
	keys := make(chan string, many)
	for range many {
		racing.Go(func() {
			key, err := nkeys.CreateUser()
			public := ""
			if err == nil {
				public, err = key.PublicKey()
			}
			if err == nil {
				_, err = api.EnrollManager(t.Context(), &identityv1.EnrollManagerRequest{Token: token.Text(), PublicKey: public})
			}
			if err == nil {
				keys <- public
			}
			results <- err
		})
	}
	racing.Wait()
	for range many {
		if err := <-results; err != nil && !errs.Is(errs.Denied, err) {
			t.Error(err)
		}
	}
	if len(keys) != 1 {
		t.Fatalf("%d keys are the Manager's", len(keys))
	}
	own := AdmittedManager{Account: account, Manager: id, PublicKey: <-keys}
	admits("enrolled", own)
	garble := func(subject, kind string, last eventlog.Position) {
		t.Helper()
		if _, err := s.commands.together.Log.Append(t.Context(), subject, last, eventlog.Event{Type: kind, Data: []byte{0xff}}); err != nil {
			t.Fatal(err)
		}
		select {
		case told := <-unread:
			if told != subject {
				t.Errorf("%s is told of, not %s", told, subject)
			}
		case <-time.After(time.Minute):
			t.Fatal("nobody is told of an event that is not understood")
		}
	}
	garble(managerSubject(account, resource.NewID()), "cetrus.identity.manager.moved.v1", 0)
	admits("another's is not understood", own)
	decide(func(m Manager) ([]proto.Message, error) { return m.DecideRevoke("test", id) })
	admits("revoked")

	// What is not understood may have revoked it.
	token = enrollment.NewManagerToken(account, resource.NewID())
	id = token.Manager
	decide(func(m Manager) ([]proto.Message, error) {
		return m.DecideCreate("test", id, "", token.Hash(), time.Now())
	})
	key, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.EnrollManager(t.Context(), &identityv1.EnrollManagerRequest{Token: token.Text(), PublicKey: public}); err != nil {
		t.Fatal(err)
	}
	admits("enrolled, too", AdmittedManager{Account: account, Manager: id, PublicKey: public})
	last, err := s.commands.together.Log.Last(t.Context(), managerSubject(account, id))
	if err != nil {
		t.Fatal(err)
	}
	garble(managerSubject(account, id), "cetrus.identity.manager.revoked.v2", last)
	admits("its own is not understood")

	for what, req := range map[string]*identityv1.EnrollManagerRequest{
		"no token":                 {Token: "x", PublicKey: "U"},
		"a key of another kind":    {Token: token.Text(), PublicKey: "ABJHLOVMPA4CI6R5KLNGOB4GSLNIY7IOUPAJC4YFNDLQVIOBYQGUWVLA"},
		"an account's, not a user": {Token: enrollment.NewManagerToken(account, resource.NewID()).Text(), PublicKey: ""},
	} {
		if _, err := api.EnrollManager(t.Context(), req); !errs.Is(errs.Invalid, err) && !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
