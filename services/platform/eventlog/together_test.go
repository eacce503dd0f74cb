package eventlog_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// purse is an aggregate that holds coins.
type purse int64

func purses(log eventlog.Log) (*eventlog.Together, *eventlog.Repository[purse]) {
	registry := eventlog.NewRegistry(eventlog.Current[*wrapperspb.Int64Value]("test.coins.moved.v1"))
	return &eventlog.Together{Log: log, Registry: registry}, &eventlog.Repository[purse]{
		Log: log, Registry: registry, New: func() purse { return 0 },
		Apply: func(p purse, m proto.Message) (purse, error) {
			p += purse(m.(*wrapperspb.Int64Value).GetValue())
			if p < 0 {
				return p, errors.New("a purse holds no debts")
			}
			return p, nil
		},
	}
}

var errTooFew = errors.New("too few coins")

// move takes coins out of one purse and puts them into another.
func move(t testing.TB, all *eventlog.Together, each *eventlog.Repository[purse], command eventlog.Command, from, to string, coins int64) (eventlog.Position, error) {
	return all.Execute(t.Context(), command, func(u *eventlog.Unit) error {
		has, err := eventlog.Read(u, each, from)
		if err != nil {
			return err
		}
		if _, err := eventlog.Read(u, each, to); err != nil {
			return err
		}
		if int64(has) < coins {
			return errTooFew
		}
		if err := u.Append(from, wrapperspb.Int64(-coins)); err != nil {
			return err
		}
		return u.Append(to, wrapperspb.Int64(coins))
	})
}

func fill(t testing.TB, all *eventlog.Together, each *eventlog.Repository[purse], subject string, coins int64) {
	t.Helper()
	if _, err := all.Execute(t.Context(), eventlog.Command{}, func(u *eventlog.Unit) error {
		if _, err := eventlog.Read(u, each, subject); err != nil {
			return err
		}
		return u.Append(subject, wrapperspb.Int64(coins))
	}); err != nil {
		t.Fatal(err)
	}
}

func holds(t testing.TB, each *eventlog.Repository[purse], subject string) purse {
	t.Helper()
	p, _, err := each.Load(t.Context(), subject)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Coins that many move to and fro at once are never more nor fewer, and no purse is in debt.
func TestTogetherIsAllOrNone(t *testing.T) {
	all, each := purses(eventlog.NewMemory())
	fill(t, all, each, "purse.a", 20)
	fill(t, all, each, "purse.b", 20)
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			for n := range 10 {
				from, to := "purse.a", "purse.b"
				if (i+n)%2 == 0 {
					from, to = to, from
				}
				if _, err := move(t, all, each, eventlog.Command{}, from, to, int64(1+n%3)); err != nil && !errors.Is(err, errTooFew) {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	if a, b := holds(t, each, "purse.a"), holds(t, each, "purse.b"); a+b != 40 {
		t.Errorf("%d and %d coins, of 40", a, b)
	}
}

func TestTogetherHappensOncePerCommand(t *testing.T) {
	all, each := purses(eventlog.NewMemory())
	fill(t, all, each, "purse.a", 20)
	command := eventlog.Command{ID: "1", Digest: "seven"}
	first, err := move(t, all, each, command, "purse.a", "purse.b", 7)
	if err != nil {
		t.Fatal(err)
	}
	again, err := move(t, all, each, command, "purse.a", "purse.b", 7)
	if err != nil || again == 0 || again > first || holds(t, each, "purse.b") != 7 {
		t.Errorf("again at %d, then %d: %v; %d coins", first, again, err, holds(t, each, "purse.b"))
	}
	if _, err := move(t, all, each, eventlog.Command{ID: "1", Digest: "eight"}, "purse.a", "purse.b", 8); !errors.Is(err, eventlog.ErrCommandReused) {
		t.Errorf("another command of its id: %v", err)
	}
}

func TestTogetherRefusesGuesses(t *testing.T) {
	all, each := purses(eventlog.NewMemory())
	fill(t, all, each, "purse.a", 1)
	for says, decide := range map[string]func(*eventlog.Unit) error{
		"was not read": func(u *eventlog.Unit) error { return u.Append("purse.a", wrapperspb.Int64(1)) },
		"read twice": func(u *eventlog.Unit) error {
			_, first := eventlog.Read(u, each, "purse.a")
			_, second := eventlog.Read(u, each, "purse.a")
			return errors.Join(first, second)
		},
		"does not fit": func(u *eventlog.Unit) error {
			if _, err := eventlog.Read(u, each, "purse.a"); err != nil {
				return err
			}
			return u.Append("purse.a", wrapperspb.Int64(-2))
		},
	} {
		if _, err := all.Execute(t.Context(), eventlog.Command{}, decide); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	if holds(t, each, "purse.a") != 1 {
		t.Error("something was appended")
	}
}
