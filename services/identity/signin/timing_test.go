package signin

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/credential"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/platformtest"
)

// timings are how long calls of some kinds took, asked in turns whose order is drawn anew each
// time: what else the machine does then falls on all kinds alike.
type timings map[string][]time.Duration

func measure(rounds int, kinds map[string]func()) timings {
	rnd := rand.New(rand.NewPCG(1, 2))
	var names []string
	for name := range kinds {
		names = append(names, name)
	}
	slices.Sort(names)
	took := timings{}
	for range rounds {
		rnd.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		for _, name := range names {
			began := time.Now()
			kinds[name]()
			took[name] = append(took[name], time.Since(began))
		}
	}
	return took
}

func middle(list []time.Duration) time.Duration {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}

// tell says whether the times of two kinds tell them apart: whether one takes longer by half of
// what an effect costs, and does so nearly always. share is how often a call of a takes longer
// than one of b (Mann and Whitney's U by the number of pairs). Of 80 calls each of one and the
// same kind it is beyond 0.25 or 0.75, which are 5.4 standard deviations, not by chance, on
// however slow a machine; an effect that is left out moves it to nearly 0 or 1.
func (t timings) tell(a, b, effect string) (share float64, by time.Duration, apart bool) {
	for _, x := range t[a] {
		for _, y := range t[b] {
			switch {
			case x > y:
				share += 2
			case x == y:
				share++
			}
		}
	}
	share /= float64(2 * len(t[a]) * len(t[b]))
	by = middle(t[a]) - middle(t[b])
	return share, by, (share > 0.75 || share < 0.25) && by.Abs() > middle(t[effect])/2
}

func TestTheStatisticSeesWhatItShould(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	noisy := func(base time.Duration) (list []time.Duration) {
		for range timed {
			d := base + time.Duration(rnd.ExpFloat64()*float64(2*time.Millisecond))
			if rnd.IntN(10) == 0 {
				d += time.Duration(rnd.IntN(200)) * time.Millisecond // others had the processor
			}
			list = append(list, d)
		}
		return list
	}
	took := timings{"one": noisy(10 * time.Millisecond), "same": noisy(10 * time.Millisecond), "less": noisy(2 * time.Millisecond), "little less": noisy(9 * time.Millisecond), "effect": noisy(8 * time.Millisecond)}
	for other, want := range map[string]bool{"same": false, "little less": false, "less": true} {
		if share, by, apart := took.tell("one", other, "effect"); apart != want {
			t.Errorf("%s: %.2f, by %v: %t", other, share, by, apart)
		}
	}
}

// timed is how often each kind is timed.
const timed = 80

// What a refusal takes does not tell whether the login or the account is there, also within the
// step at whose end it leaves: whoever finds no hash computes one all the same.
func TestRefusalsTakeTheSameTimeByTheNumbers(t *testing.T) {
	f := start(t)
	f.cfg.PasswordCost, f.cfg.AnswerStep = credential.Cost{MemoryKiB: 4 << 10, Passes: 1, Lanes: 1}, time.Nanosecond
	f.restart()
	for _, l := range []Login{f.ada, f.bob} {
		if err := f.replacePassword(t.Context(), "test", "test", l.Account, l.ID, contract.ID{}, f.password, identityv1.PasswordSource_PASSWORD_SOURCE_LOGIN); err != nil {
			t.Fatal(err)
		}
	}
	f.people.change(f.bob.ID, func(l *Login) { l.Disabled = true })
	try := func(p proof) func() {
		return func() {
			f.clock.advance(2 * forgetAfter) // nobody waits for the failures before
			if _, err := f.try(p, at("198.51.100.7")); reason(err) != ReasonRefused {
				t.Error(err)
			}
			for len(f.later) > 0 {
				<-f.later
			}
		}
	}
	const there = "wrong password"
	others := map[string]func(){
		"no login":   try(proof{account: "works", login: "eve", password: "wrong"}),
		"no account": try(proof{account: "nowhere", login: "ada", password: "wrong"}),
		"disabled":   try(proof{account: "other", login: "bob", password: f.password}),
	}
	kinds := map[string]func(){
		there: try(proof{account: "works", login: "ada", password: "wrong"}),
		"a hash": func() {
			if _, err := f.hasher.Hash(t.Context(), "wrong"); err != nil {
				t.Error(err)
			}
		},
	}
	for name, ask := range others {
		kinds[name] = ask
	}
	took := measure(timed, kinds)
	for name := range others {
		share, by, apart := took.tell(there, name, "a hash")
		if apart {
			t.Errorf("%q takes %v less than %q (%.2f of the pairs; a hash takes %v)", name, by, there, share, middle(took["a hash"]))
		}
		t.Logf("%s: %.2f, by %v of %v; a hash %v", name, share, by, middle(took[name]), middle(took["a hash"]))
	}
}

// slowLog is a log whose disk takes its time.
type slowLog struct {
	eventlog.Log
	takes time.Duration
}

func (l slowLog) Append(ctx context.Context, subject string, expected eventlog.Position, events ...eventlog.Event) (eventlog.Position, error) {
	<-time.After(l.takes)
	return l.Log.Append(ctx, subject, expected, events...)
}

// Nor does it what asking for a link takes, though one for somebody is written to the log.
func TestAskingForALinkTakesTheSameTimeByTheNumbers(t *testing.T) {
	f := start(t)
	var err error
	f.Service, err = New(t.Context(), f.cfg, Deps{Log: slowLog{f.events, 10 * time.Millisecond}, Secrets: f.store, Directory: f.people, Origins: f.people, Logger: platformtest.Logger(nil)})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(login string) func() {
		return func() {
			f.clock.advance(2 * forgetAfter)
			if err := f.requestReset(t.Context(), "works", login, at("198.51.100.7")); err != nil {
				t.Error(err)
			}
		}
	}
	took := measure(timed, map[string]func(){"there": ask("ada"), "not there": ask("eve"), "a line in the log": func() {
		err := f.record(t.Context(), "test", "", f.ada.Account, f.ada.ID, &identityv1.PasswordResetRequested{LoginId: f.ada.ID[:]})
		if err != nil {
			t.Error(err)
		}
	}})
	share, by, apart := took.tell("there", "not there", "a line in the log")
	if apart {
		t.Errorf("asking for a link takes %v longer for a login that is there (%.2f of the pairs)", by, share)
	}
	t.Logf("%.2f, by %v of %v; a line in the log %v", share, by, middle(took["there"]), middle(took["a line in the log"]))
}
