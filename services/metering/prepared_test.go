package metering

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// usedPlainly is an instance's use of a period as it matters: within the period, and when it was last
// busy before it.
type usedPlainly struct {
	Application, Principal, Machine, Session contract.ID
	Opened, BusyBefore                       int64
	Uses                                     [][4]int64
}

func allPlainly(all []used, from, to int64, fine bool) map[contract.ID]usedPlainly {
	out := make(map[contract.ID]usedPlainly)
	for _, n := range all {
		p := usedPlainly{n.application, n.principal, n.machine, n.session, n.opened, math.MinInt64, nil}
		var kept, moments []use
		for _, u := range n.uses {
			if u.busy && u.from < from {
				p.BusyBefore = max(p.BusyBefore, min(u.to, from))
			}
			switch {
			case u.before(from) || u.from >= to:
			case u.from < u.to:
				u.from, u.to = max(u.from, from), min(u.to, to)
				kept = appendUse(kept, 0, false, u, fine)
			case u.busy: // before or behind what begins there, as the table has them
				moments = append(moments, u)
			}
		}
		// A moment at which another use is busy, or has just been, adds nothing to it.
		moments = slices.DeleteFunc(moments, func(m use) bool {
			return slices.ContainsFunc(kept, func(u use) bool {
				return u.busy && u.timedOut == m.timedOut && u.from <= m.from && m.from <= u.to
			})
		})
		slices.SortFunc(moments, func(a, b use) int { return cmp.Compare(a.from, b.from) })
		kept = append(kept, moments...)
		if len(kept) == 0 {
			continue
		}
		for _, u := range kept {
			plain := [4]int64{u.from, u.to}
			if u.busy {
				plain[2] = 1
			}
			if u.timedOut {
				plain[2] += 2
			}
			if fine {
				plain[3] = int64(u.attention)
			}
			p.Uses = append(p.Uses, plain)
		}
		// A use that goes on from before the period says itself when it was busy.
		if first := kept[0]; first.busy && first.from == from {
			p.BusyBefore = math.MinInt64
		}
		out[n.instance] = p
	}
	return out
}

var errCrash = errors.New("the process ends here")

// TestPreparedDaysAnswerAsIntervalsDo: whatever is prepared when, whatever comes late, in which order and while a day is
// prepared, whoever turns out to be whose and whatever is removed: what is read with prepared days is what
// the intervals say.
func TestPreparedDaysAnswerAsIntervalsDo(t *testing.T) {
	s := newService(t, Config{})
	checkTables(t, func(t *rapid.T) {
		ctx := context.Background()
		w := drawWorld(t)
		p := newUsageProjection(agentlog.NewDecoder(agentlog.Config{}))
		w.keepPlaces(ctx, t, s.stores, p)
		w.usage = rapid.Permutation(w.usage).Draw(t, "order")
		rest := w.usage
		batch := func() {
			n := rapid.IntRange(0, min(len(rest), 20)).Draw(t, "batch")
			applyInTurn(ctx, t, s.stores, p, &agentlog.Facts{Usage: rest[:n]})
			rest = rest[n:]
		}
		for len(rest) > 0 {
			batch()
			switch rapid.IntRange(0, 5).Draw(t, "then") {
			case 0, 1:
				w.prepare(ctx, t, s.stores, p)
			case 2:
				// Something is counted while days are prepared, or the process ends meanwhile.
				between := preparerOf(s.stores, p)
				turns, crashes := 0, rapid.Bool().Draw(t, "crashes")
				between.do = func(ctx context.Context, work func(context.Context, pgx.Tx) error) error {
					if turns++; turns == 2 {
						if crashes {
							return errCrash
						}
						batch()
					}
					return inTurn(s.stores)(ctx, work)
				}
				if _, err := between.prepare(ctx, w.account, int32(dayOf(w.from)), int32(dayOf(w.to))); err != nil && !errors.Is(err, errCrash) {
					t.Fatal(err)
				}
				if crashes {
					p = newUsageProjection(agentlog.NewDecoder(agentlog.Config{}))
				}
			}
		}
		w.prepare(ctx, t, s.stores, p)
		if rapid.IntRange(0, 2).Draw(t, "binds") == 0 {
			alias, principal := pick(t, "alias", w.persons), pick(t, "principal", w.persons)
			applyInTurn(ctx, t, s.stores, p, &agentlog.Facts{Bindings: []agentlog.Binding{{Account: w.account, Alias: alias, Principal: principal}}})
		}
		if rapid.IntRange(0, 2).Draw(t, "removes") == 0 {
			h := horizons{instances: dayOf(rapid.Int64Range(w.from, w.to).Draw(t, "horizon")) * dayMillis}
			if _, err := s.stores.Views.Projector.Exec(ctx, "INSERT INTO retention VALUES ($1, $2, 0, 0)", w.account, h.instances); err != nil {
				t.Fatal(err)
			}
			if rapid.Bool().Draw(t, "removed") {
				if err := removerOf(s.stores, w.account, p).remove(ctx, h); err != nil {
					t.Fatal(err)
				}
			}
		}
		for range 4 {
			q := usedQuery{op: "test", account: w.account, fine: rapid.Bool().Draw(t, "fine"), people: w.merged.resolved()}
			q.from = rapid.Int64Range(w.from-dayMillis, w.to).Draw(t, "from")
			q.to = rapid.Int64Range(q.from+1, w.to+40*dayMillis).Draw(t, "to")
			if rapid.Bool().Draw(t, "of an application") {
				q.filter.applications = []contract.ID{pick(t, "application", w.apps)}
			}
			if rapid.IntRange(0, 2).Draw(t, "of somebody") == 0 {
				q.filter.principals = q.people.all([]contract.ID{pick(t, "person", w.persons)})
			}
			if rapid.IntRange(0, 2).Draw(t, "at a machine") == 0 {
				q.filter.machines = []contract.ID{pick(t, "machine", w.machines)}
			}
			err := s.inAccount(as(ctx, w.account), w.account, func(tx pgx.Tx) error {
				kept, err := readHorizons(ctx, tx, w.account)
				if err != nil {
					return err
				}
				q.from = max(q.from, kept.instances)
				if q.from >= q.to {
					return nil
				}
				got, err := readUsed(ctx, tx, q)
				if err != nil {
					return err
				}
				q.left = math.MaxInt
				plain, err := q.intervals(ctx, tx, q.from, q.to, intervalQuery{filter: filter{applications: q.filter.applications, machines: q.filter.machines}})
				if err != nil {
					return err
				}
				if len(q.filter.principals) > 0 {
					plain = slices.DeleteFunc(plain, func(n used) bool { return !slices.Contains(q.filter.principals, n.principal) })
				}
				for i := range plain {
					plain[i].principal = q.people.of(plain[i].principal)
				}
				if diff := gocmp.Diff(allPlainly(plain, q.from, q.to, q.fine), allPlainly(got, q.from, q.to, q.fine)); diff != "" {
					t.Fatalf("of [%d, %d), %+v (-intervals +prepared):\n%s", q.from, q.to, q.filter, diff)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

// drawDay draws instances as a day of theirs is prepared.
func drawDay(t *rapid.T, begin int64) []used {
	all := make([]used, rapid.IntRange(0, 5).Draw(t, "instances"))
	people := drawIDs(t, 2)
	for i := range all {
		n := &all[i]
		n.instance, n.principal, n.machine, n.session = drawID(t), pick(t, "person", people), pick(t, "machine", people), drawID(t)
		n.opened = begin + rapid.Int64Range(-100*dayMillis, dayMillis-1).Draw(t, "opened")
		if rapid.Bool().Draw(t, "busy before") {
			to := begin - rapid.Int64Range(0, 50*dayMillis).Draw(t, "before")
			n.uses = append(n.uses, use{from: to - rapid.Int64Range(1, dayMillis).Draw(t, "length"), to: to, busy: true, attention: usagev1.Attention_ATTENTION_BUSY})
		}
		for range rapid.IntRange(1, 6).Draw(t, "uses") {
			from := begin + rapid.Int64Range(0, dayMillis-1).Draw(t, "from")
			u := use{from: from, to: rapid.Int64Range(from, begin+dayMillis).Draw(t, "to"), attention: usagev1.Attention(rapid.IntRange(1, attentions).Draw(t, "attention"))}
			u.busy, u.timedOut = u.attention == usagev1.Attention_ATTENTION_BUSY, rapid.Bool().Draw(t, "timed out")
			n.uses = append(n.uses, u)
		}
	}
	return all
}

// TestADayIsReadAsItWasPrepared: what was encoded is decoded, overlapping uses too.
func TestADayIsReadAsItWasPrepared(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		begin := rapid.Int64Range(-3, 30_000).Draw(t, "day") * dayMillis
		want := drawDay(t, begin)
		got, err := decodeDay(encodeDay(begin, want), &dayPart{begin: begin, from: begin, to: begin + dayMillis, fine: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			n := &want[i]
			first := 0
			if n.uses[0].before(begin) {
				first = 1
			}
			uses := slices.Clone(n.uses[:first])
			for _, u := range n.uses[first:] {
				uses = appendUse(uses, 0, first == 1, u, true)
			}
			n.uses = uses
		}
		if len(want) == 0 {
			want = nil
		}
		if diff := gocmp.Diff(want, got, gocmp.AllowUnexported(used{}, use{})); diff != "" {
			t.Fatal(diff)
		}
	})
}

// TestAPartOfADay: of a part, a day tells the uses that are in it and when one was last busy before, whether it
// was prepared or read from the intervals, and though a clock was put back so that uses overlap.
func TestAPartOfADay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		begin := int64(20_000) * dayMillis
		all := drawDay(t, begin)
		from := begin + rapid.Int64Range(0, dayMillis-1).Draw(t, "part from")
		to := rapid.Int64Range(from+1, begin+dayMillis).Draw(t, "part to")
		want := []used{}
		for _, n := range all {
			before, in := []use{}, []use{}
			for _, u := range n.uses {
				switch {
				case u.from >= to:
				case !u.before(from):
					in = appendUse(in, 0, false, u, true)
				case u.busy && (len(before) == 0 || u.to > before[0].to):
					before = []use{u}
				}
			}
			if n.uses = append(before, in...); len(in) > 0 {
				want = append(want, n)
			}
		}
		got, err := decodeDay(encodeDay(begin, all), &dayPart{begin: begin, from: from, to: to, fine: true}, nil)
		if err != nil {
			t.Fatal(err)
		}
		clipped := []used{}
		for _, n := range all {
			if n.uses = slices.Clone(n.uses); n.clip(from, to) {
				first := 0
				if n.uses[0].before(from) {
					first = 1
				}
				uses := slices.Clone(n.uses[:first])
				for _, u := range n.uses[first:] {
					uses = appendUse(uses, 0, first == 1, u, true)
				}
				n.uses = uses
				clipped = append(clipped, n)
			}
		}
		for what, is := range map[string][]used{"prepared": got, "from the intervals": clipped} {
			if diff := gocmp.Diff(want, append([]used{}, is...), gocmp.AllowUnexported(used{}, use{})); diff != "" {
				t.Fatalf("%s, [%d, %d) (-want +got):\n%s", what, from-begin, to-begin, diff)
			}
		}
	})
}

// FuzzDecodeDay: bytes of any kind are either refused or read as instances that can be prepared again.
func FuzzDecodeDay(f *testing.F) {
	begin := int64(20_000) * dayMillis
	id := contract.ID{1}
	f.Add([]byte{})
	f.Add([]byte{dayFormat, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add(encodeDay(begin, nil))
	f.Add(encodeDay(begin, []used{{instance: id, principal: id, machine: id, session: id, opened: begin - 5, uses: []use{
		{from: begin - 3, to: begin - 2, busy: true, attention: usagev1.Attention_ATTENTION_BUSY},
		{from: begin, to: begin + 7, attention: usagev1.Attention_ATTENTION_IDLE},
		{from: begin + 9, to: begin + dayMillis, timedOut: true, attention: usagev1.Attention_ATTENTION_BACKGROUND},
	}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		part := &dayPart{begin: begin, from: begin, to: begin + dayMillis, fine: true}
		all, err := decodeDay(data, part, nil)
		if err != nil {
			return
		}
		again, err := decodeDay(encodeDay(begin, all), part, nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(all, again, gocmp.AllowUnexported(used{}, use{})); diff != "" {
			t.Fatal(diff)
		}
	})
}

// TestPreparedDaysAreWalledOff: another account reads none of them, and who sees only their own, not even of
// their own account, since a day tells of everybody.
func TestPreparedDaysAreWalledOff(t *testing.T) {
	s := newService(t, Config{})
	account := resource.NewID()
	begin := int64(20_000) * dayMillis
	u := agentlog.Usage{
		Account: account, Agent: resource.NewID(), Epoch: 1, Seq: 1, Event: resource.NewID(), Instance: resource.NewID(), Application: resource.NewID(), Principal: resource.NewID(),
		Machine: resource.NewID(), Session: resource.NewID(), FromUTCMillis: begin, ToUTCMillis: begin + 1000, AtUTCMillis: begin + 1000, HasClosed: true,
		ClosedAttention: agentlog.Busy, ClosedState: agentlog.Active, Transition: agentlog.Changed,
	}
	p := newUsageProjection(agentlog.NewDecoder(agentlog.Config{}))
	applyInTurn(t.Context(), t, s.stores, p, &agentlog.Facts{Usage: []agentlog.Usage{u}})
	if n, err := preparerOf(s.stores, p).prepare(t.Context(), account, 20_000, 20_000); err != nil || n != 1 {
		t.Fatalf("%d days were prepared, %v", n, err)
	}
	u.FromUTCMillis, u.ToUTCMillis, u.AtUTCMillis = u.FromUTCMillis+dayMillis, u.ToUTCMillis+dayMillis, u.AtUTCMillis+dayMillis
	applyInTurn(t.Context(), t, s.stores, p, &agentlog.Facts{Usage: []agentlog.Usage{u}})
	if err := s.stores.Views.CheckWalls(t.Context()); err != nil {
		t.Error(err)
	}
	own := authn.WithOwn(authn.WithCaller(t.Context(), authn.Caller{Account: account, Reach: authzv1.Reach_REACH_SELF}), []contract.ID{u.Principal})
	for _, table := range []string{"prepared_day", "unprepared_day"} {
		rows := func(ctx context.Context, of contract.ID) (n int, err error) {
			err = s.inAccount(ctx, of, func(tx pgx.Tx) error { return tx.QueryRow(ctx, "SELECT count(*) FROM "+table).Scan(&n) })
			return n, err
		}
		if n, err := rows(as(t.Context(), account), account); err != nil || n != 1 {
			t.Errorf("the account reads %d rows of %s, %v", n, table, err)
		}
		stranger := resource.NewID()
		if n, err := rows(as(t.Context(), stranger), stranger); err != nil || n != 0 {
			t.Errorf("another account reads %d rows of %s, %v", n, table, err)
		}
		if _, err := rows(own, account); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("who sees only their own reads %s: %v", table, err)
		}
	}
	// They are answered all the same.
	err := s.inAccount(own, account, func(tx pgx.Tx) error {
		all, err := readUsed(own, tx, usedQuery{account: account, from: begin, to: begin + 2*dayMillis, filter: filter{principals: []contract.ID{u.Principal}}})
		if err == nil && (len(all) != 1 || !bytes.Equal(all[0].instance[:], u.Instance[:])) {
			t.Errorf("their own use is %v", all)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
