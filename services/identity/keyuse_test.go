package identity

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/authn/follow"
	"github.com/cetrus/cetrus/services/platform/platformtest"
)

// When a key was used is told by whoever judges keys, and of no key that was not; with its login
// it is forgotten.
func TestWhenAKeyWasUsedIsTold(t *testing.T) {
	nc := platformtest.NATS(t)
	s := newService(t, nc)
	start(t, s)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	directory := authn.NewDirectory(authn.NewTokens(authn.Issuer(s.cfg.Operator), time.Now), time.Now)
	operators, _, err := authn.Bootstrap(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	judge := &authn.Authenticator{Keys: operators, Directory: directory}
	ctx, cancel := context.WithCancel(context.Background())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return follow.New(js, s.cfg.Operator, directory, platformtest.Logger(t)).Run(ctx) })
	group.Go(func() error {
		return follow.TellUses(ctx, nc, directory, 10*time.Millisecond, platformtest.Logger(t))
	})
	t.Cleanup(func() {
		cancel()
		if err := group.Wait(); err != nil {
			t.Error(err)
		}
	})

	admin := as(t.Context(), s.cfg.Operator)
	login, err := (&loginAPI{service: s}).CreateLogin(admin, &identityv1.CreateLoginRequest{Login: &identityv1.Login{Name: "ada", Privileges: []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_REPORT}}})
	if err != nil {
		t.Fatal(err)
	}
	api := &apiKeyAPI{service: s}
	keys := make([]*identityv1.CreateApiKeyResponse, 2)
	for i := range keys {
		if keys[i], err = api.CreateApiKey(admin, &identityv1.CreateApiKeyRequest{ApiKey: &identityv1.ApiKey{LoginId: login.GetLogin().GetLoginId()}}); err != nil {
			t.Fatal(err)
		}
		if keys[i].GetApiKey().GetLastUseTime() != nil {
			t.Errorf("%v was used before it was there", keys[i].GetApiKey())
		}
	}
	before := time.Now().Truncate(time.Second)
	eventually(t, "the used key to say so", func() bool {
		_, _ = judge.Authenticate(t.Context(), keys[0].GetKey()) // again, until the directory has heard of it
		got, err := api.GetApiKey(admin, &identityv1.GetApiKeyRequest{ApiKeyId: keys[0].GetApiKey().GetApiKeyId()})
		if err != nil {
			t.Fatal(err)
		}
		used := got.GetApiKey().GetLastUseTime()
		return used != nil && !used.AsTime().Before(before) && !used.AsTime().After(time.Now())
	})
	list, err := api.ListApiKeys(admin, &identityv1.ListApiKeysRequest{LoginId: login.GetLogin().GetLoginId()})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range list.GetApiKeys() {
		if used := key.GetLastUseTime() != nil; used != (key.GetApiKeyId() == keys[0].GetApiKey().GetApiKeyId()) {
			t.Errorf("%v: used %v", key, used)
		}
	}
}
