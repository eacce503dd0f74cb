package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/resource"
)

var someTime = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// onBoth runs a test with the logs of some writers: all on one server, and on a cluster of three,
// each writer at the next one.
func onBoth(t *testing.T, test func(t *testing.T, logs []eventlog.Log)) {
	t.Run("one server", func(t *testing.T) {
		nc := platformtest.NATS(t)
		test(t, []eventlog.Log{eventlog.NewJetStream(nc, contract.EventStream)})
	})
	t.Run("three servers", func(t *testing.T) {
		cluster, err := natsserver.StartCluster(t.Context(), t.TempDir(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cluster.Stop)
		var logs []eventlog.Log
		for i, server := range cluster.Servers {
			nc, err := nats.Connect(server.URL())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(nc.Close)
			if i == 0 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if err := natsserver.EnsureStreams(ctx, nc, natsserver.Streams{Replicas: 3}); err != nil {
					t.Fatal(err)
				}
			}
			logs = append(logs, eventlog.NewJetStream(nc, contract.EventStream))
		}
		test(t, logs)
	})
}

// patiently repeats a command for as long as the log is too busy to say what became of it.
func patiently(command func() error) error {
	for {
		if err := command(); !isBusy(err) {
			return err
		}
	}
}

func isBusy(err error) bool {
	return errs.Is(errs.Unavailable, err) || errs.Is(errs.Conflict, err) || errors.Is(err, context.DeadlineExceeded)
}

// TestOneOwnerOfAName: of a thousand who want one name at once, for accounts and for logins, one
// gets it.
func TestOneOwnerOfAName(t *testing.T) {
	const rivals = 1000
	onBoth(t, func(t *testing.T, logs []eventlog.Log) {
		account := resource.NewID()
		secrets := newSecrets(account)
		_, err := commandsOn(logs[0], secrets).createAccount(t.Context(), "test", eventlog.Command{}, newAccount{
			id: account, administrator: resource.NewID(), name: "Firm", administratorWish: LoginWish{Name: ref("admin")},
		})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var owners []contract.ID
		var all sync.WaitGroup
		// Each has a command id, so that a repetition is not a second try.
		for i := range rivals {
			all.Go(func() {
				c := commandsOn(logs[i%len(logs)], secrets)
				id := resource.NewID()
				command := eventlog.Command{ID: id.String()}
				err := patiently(func() error {
					_, err := c.createLogin(t.Context(), "test", command, account, id, LoginWish{Name: ref([]string{"ada", "Ada", "ADA"}[i%3])})
					return err
				})
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					owners = append(owners, id)
				case !errs.Is(errs.AlreadyExists, err) || errs.PublicOf(err).Reason != "NAME_TAKEN":
					t.Errorf("a rival was told %v", err)
				}
			})
		}
		all.Wait()
		if len(owners) != 1 {
			t.Fatalf("%d own the name", len(owners))
		}
		c := commandsOn(logs[0], secrets)
		for _, log := range logs {
			// A replica that lags may not know it yet; the leader does.
			nameID := secrets.names[account].ID(loginNames, "ada")
			if last, err := log.Last(t.Context(), nameSubject(account, nameID)); err != nil || last == 0 {
				t.Errorf("the reservation: %d, %v", last, err)
			}
		}
		// A command that changes nothing reads what the leader has.
		if err := patiently(func() error {
			_, err := c.createLogin(t.Context(), "test", eventlog.Command{}, account, resource.NewID(), LoginWish{Name: ref("aDa")})
			return err
		}); !errs.Is(errs.AlreadyExists, err) {
			t.Errorf("the name is free: %v", err)
		}
	})
}

// TestChangesAtOnceLoseNone: each of several administrators adds a privilege and takes an application away,
// reading and writing with an etag; at the end all of it holds.
func TestChangesAtOnceLoseNone(t *testing.T) {
	const each = 4
	onBoth(t, func(t *testing.T, logs []eventlog.Log) {
		account, login := resource.NewID(), resource.NewID()
		secrets := newSecrets(account)
		c := commandsOn(logs[0], secrets)
		if _, err := c.createAccount(t.Context(), "test", eventlog.Command{}, newAccount{
			id: account, administrator: resource.NewID(), name: "Firm", administratorWish: LoginWish{Name: ref("admin")},
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.createLogin(t.Context(), "test", eventlog.Command{}, account, login, LoginWish{Name: ref("ada")}); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for i, privilege := range authn.AllPrivileges().List() {
			all.Go(func() {
				c := commandsOn(logs[i%len(logs)], secrets)
				for n := range each {
					if err := addWithEtag(t.Context(), c, account, login, privilege, contract.ID{byte(i + 1), byte(n + 1)}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		// The leader's state, by a wish that is fulfilled.
		if err := patiently(func() error {
			_, err := c.changeLogin(t.Context(), "test", eventlog.Command{}, account, login, LoginWish{Privileges: ref(authn.AllPrivileges())})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		got, _, err := c.logins.Load(t.Context(), loginSubject(account, login))
		if err != nil || got.Privileges != authn.AllPrivileges() || len(got.Denied) != each*len(authn.AllPrivileges().List()) {
			t.Errorf("the login has %v and lacks %d applications; %v", got.Privileges.List(), len(got.Denied), err)
		}
	})
}

// addWithEtag reads a login and writes it with one privilege and one application more, until nobody
// else has written in between; whether it was written before does not matter.
func addWithEtag(ctx context.Context, c *commands, account, login contract.ID, privilege authzv1.Privilege, application contract.ID) error {
	for ctx.Err() == nil {
		before, _, err := c.logins.Load(ctx, loginSubject(account, login))
		if isBusy(err) {
			continue
		}
		if err != nil {
			return err
		}
		_, err = c.changeLogin(ctx, "test", eventlog.Command{}, account, login, LoginWish{
			Etag: before.Etag(), Privileges: ref(before.Privileges | authn.PrivilegesOf(privilege)), Denied: ref(append(before.Denied, application)),
		})
		if !isBusy(err) {
			return err
		}
	}
	return ctx.Err()
}

// TestOneAdministratorStays: two administrators who disable each other at once do not both succeed.
func TestOneAdministratorStays(t *testing.T) {
	onBoth(t, func(t *testing.T, logs []eventlog.Log) {
		for round := range 20 {
			account := resource.NewID()
			pair := [2]contract.ID{resource.NewID(), resource.NewID()}
			secrets := newSecrets(account)
			c := commandsOn(logs[0], secrets)
			if _, err := c.createAccount(t.Context(), "test", eventlog.Command{}, newAccount{id: account, administrator: pair[0], name: fmt.Sprintf("Firm %d", round), administratorWish: LoginWish{Name: ref("ada")}}); err != nil {
				t.Fatal(err)
			}
			if _, err := c.createLogin(t.Context(), "test", eventlog.Command{}, account, pair[1], LoginWish{Name: ref("bob"), Privileges: ref(authn.AllPrivileges())}); err != nil {
				t.Fatal(err)
			}
			var failures [2]error
			var both sync.WaitGroup
			for i, victim := range pair {
				both.Go(func() {
					c := commandsOn(logs[i%len(logs)], secrets)
					failures[i] = patiently(func() error {
						_, err := c.changeLogin(t.Context(), "test", eventlog.Command{}, account, victim, LoginWish{Disabled: ref(true)})
						return err
					})
				})
			}
			both.Wait()
			if (failures[0] == nil) == (failures[1] == nil) || !errs.Is(errs.Precondition, errors.Join(failures[0], failures[1])) {
				t.Fatalf("round %d: %v; %v", round, failures[0], failures[1])
			}
		}
	})
}
