package metering

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/projection"
	"github.com/cetrus/cetrus/services/platform/resource"
)

func TestMain(m *testing.M) {
	if os.Getenv(replicaOf) != "" {
		fmt.Fprintln(os.Stderr, "replica:", replicaMain(os.Args[1:], os.Stdout))
		os.Exit(1)
	}
	platformtest.Main(m)
}

// checkTables checks a property that fills tables for every case: half as many cases as of one
// that does not.
func checkTables(t *testing.T, property func(*rapid.T)) {
	t.Helper()
	checks := flag.Lookup("rapid.checks").Value
	usual := checks.String()
	n, err := strconv.Atoi(usual)
	if err == nil {
		err = checks.Set(strconv.Itoa((n + 1) / 2))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := checks.Set(usual); err != nil {
			t.Error(err)
		}
	}()
	rapid.Check(t, property)
}

// openStores opens the service's tables in a database of the test's own.
func openStores(t testing.TB) *Stores {
	t.Helper()
	stores, err := OpenStores(t.Context(), platformtest.Database(t), platformtest.Logger(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stores.Close)
	return stores
}

// newService makes a service that is not running.
func newService(t testing.TB, cfg Config) *Service {
	t.Helper()
	s, err := New(cfg, Deps{NATS: platformtest.NATS(t), Stores: openStores(t), Logger: platformtest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// as is a context in which an account's administrator asks.
func as(ctx context.Context, account contract.ID) context.Context {
	return authn.WithCaller(ctx, authn.Caller{Account: account, Actor: "test", Reach: authzv1.Reach_REACH_ACCOUNT, Privileges: authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR)})
}

// failer is what rapid's T and testing's T have in common.
type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// apply has facts added up in one transaction.
func apply(ctx context.Context, t failer, stores *Stores, p *usageProjection, facts *agentlog.Facts) {
	t.Helper()
	err := pgx.BeginFunc(ctx, stores.Views.Projector, func(tx pgx.Tx) error { return p.apply(ctx, tx, facts) })
	if err != nil {
		t.Fatal(err)
	}
}

// world is a small office that rapid fills with plausible use.
type world struct {
	account                            contract.ID
	persons, machines, apps, documents []contract.ID
	from, to                           int64
	usage                              []agentlog.Usage
	// merged are principals that are another's, each into a later one of persons.
	merged merged
	// groups are those that people may be in, the last of which was deleted; bound says by which login's
	// groups each principal is in which.
	groups []contract.ID
	bound  map[contract.ID][]contract.ID
	// sites are those that there are; siteOf says of which each machine is, if of any.
	sites  []contract.ID
	siteOf map[contract.ID]contract.ID
	// sessions are the last of each person at each machine.
	sessions map[[2]contract.ID]contract.ID
	seq      uint64
}

func drawIDs(t *rapid.T, n int) []contract.ID {
	out := make([]contract.ID, n)
	for i := range out {
		out[i] = drawID(t)
	}
	return out
}

func drawID(t *rapid.T) contract.ID {
	b := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id")
	id := contract.ID(b)
	id[15] |= 1
	return id
}

// drawWorld draws instances over some days around a change of the clocks.
func drawWorld(t *rapid.T) *world {
	w := &world{account: resource.NewID(), sessions: make(map[[2]contract.ID]contract.ID)}
	w.persons = drawIDs(t, rapid.IntRange(1, 4).Draw(t, "persons"))
	w.machines = drawIDs(t, rapid.IntRange(1, 3).Draw(t, "machines"))
	w.apps = drawIDs(t, rapid.IntRange(1, 3).Draw(t, "apps"))
	w.documents = drawIDs(t, 3)
	begin := time.Date(2026, 3, rapid.IntRange(1, 28).Draw(t, "day"), 0, 0, 0, 0, time.UTC)
	w.from = begin.UnixMilli()
	w.to = begin.AddDate(0, 0, rapid.IntRange(1, 80).Draw(t, "days")).UnixMilli()
	w.merged = merged{}
	for i := range w.persons[1:] {
		if rapid.IntRange(0, 3).Draw(t, "is another's") == 0 {
			w.merged[w.persons[i]] = w.persons[rapid.IntRange(i+1, len(w.persons)-1).Draw(t, "whose")]
		}
	}
	for range rapid.IntRange(1, 12).Draw(t, "instances") {
		w.drawInstance(t)
	}
	w.drawPlaces(t)
	return w
}

// drawPlaces draws who is in which group, and where machines are.
func (w *world) drawPlaces(t *rapid.T) {
	w.groups, w.sites = []contract.ID{resource.NewID(), resource.NewID(), resource.NewID()}, []contract.ID{resource.NewID(), resource.NewID()}
	w.bound, w.siteOf = make(map[contract.ID][]contract.ID), make(map[contract.ID]contract.ID)
	for _, person := range w.persons {
		w.bound[person] = rapid.SliceOfNDistinct(rapid.SampledFrom(w.groups), 0, 3, func(id contract.ID) contract.ID { return id }).Draw(t, "groups")
	}
	for _, machine := range w.machines {
		if rapid.IntRange(0, 2).Draw(t, "is of a site") > 0 {
			w.siteOf[machine] = pick(t, "site", w.sites)
		}
	}
}

// groupsOf are the groups that a person is in, by any of their principals; a deleted one is none.
func (w *world) groupsOf(principal contract.ID) []contract.ID {
	var in []contract.ID
	for other, groups := range w.bound {
		for _, group := range groups {
			if w.person(other) == w.person(principal) && group != w.groups[len(w.groups)-1] && !slices.Contains(in, group) {
				in = append(in, group)
			}
		}
	}
	return in
}

// keepPlaces writes what identity decided, and through which Managers agents were heard of: each
// machine's first through another, and told late.
func (w *world) keepPlaces(ctx context.Context, t *rapid.T, stores *Stores, p *usageProjection) {
	exec := func(sql string, args ...any) {
		if _, err := stores.Views.Projector.Exec(ctx, sql+" ON CONFLICT DO NOTHING", args...); err != nil {
			t.Fatal(err)
		}
	}
	for _, group := range w.groups[:len(w.groups)-1] {
		exec("INSERT INTO group_name (account_id, group_id, display_name) VALUES ($1, $2, $3)", w.account, group, "of "+group.String())
	}
	for principal, groups := range w.bound {
		into, merged := w.merged[principal]
		if login := principal; merged {
			exec("INSERT INTO principal (account_id, principal_id, merged_into, login_id) VALUES ($1, $2, $3, $4)", w.account, principal, into, login)
		} else {
			exec("INSERT INTO principal (account_id, principal_id, login_id) VALUES ($1, $2, $3)", w.account, principal, login)
		}
		for _, group := range groups {
			exec("INSERT INTO login_group (account_id, login_id, group_id) VALUES ($1, $2, $3)", w.account, principal, group)
		}
	}
	var now, late []agentlog.Reception
	for machine, site := range w.siteOf {
		now = append(now, agentlog.Reception{Account: w.account, Manager: site, Agent: machine, Machine: machine, ReceivedUTCMillis: w.to})
		late = append(late, agentlog.Reception{Account: w.account, Manager: w.sites[0], Agent: w.sites[0], Machine: machine, ReceivedUTCMillis: w.from})
	}
	apply(ctx, t, stores, p, &agentlog.Facts{Receptions: now})
	for _, r := range late {
		r.Agent[0] ^= r.Machine[0] // an agent that was on it before
		apply(ctx, t, stores, p, &agentlog.Facts{Receptions: []agentlog.Reception{r}})
	}
}

func pick[E any](t *rapid.T, what string, from []E) E {
	return from[rapid.IntRange(0, len(from)-1).Draw(t, what)]
}

func (w *world) drawInstance(t *rapid.T) {
	base := agentlog.Usage{
		Account: w.account, Agent: resource.NewID(), Epoch: 1, Instance: resource.NewID(), Session: resource.NewID(),
		Application: pick(t, "app", w.apps), Principal: pick(t, "person", w.persons), Machine: pick(t, "machine", w.machines),
	}
	// Often it runs beside another in one desktop session.
	if at := [2]contract.ID{base.Principal, base.Machine}; w.sessions[at].IsZero() || rapid.IntRange(0, 2).Draw(t, "session of its own") == 0 {
		w.sessions[at] = base.Session
	} else {
		base.Session = w.sessions[at]
	}
	at := rapid.Int64Range(w.from, w.to-1).Draw(t, "opened")
	w.drawLife(t, base, at, rapid.IntRange(0, 8).Draw(t, "intervals"))
	// What one document did within its instance never overlaps; it may be opened again later.
	ended := map[contract.ID]int64{}
	for range rapid.IntRange(0, 3).Draw(t, "documents") {
		base.Document = pick(t, "document", w.documents)
		opened := at
		if end, is := ended[base.Document]; is {
			opened = end + rapid.Int64Range(1, 3_600_000).Draw(t, "opened again after")
		}
		ended[base.Document] = w.drawLife(t, base, opened, rapid.IntRange(0, 3).Draw(t, "intervals"))
	}
}

// drawLife draws the events of an instance or document: opened, then intervals
// that join without a gap, some of no length, then perhaps closed. It returns the last one's time.
func (w *world) drawLife(t *rapid.T, base agentlog.Usage, at int64, intervals int) int64 {
	emit := func(u agentlog.Usage) {
		w.seq++
		u.Seq, u.Event, u.Position = w.seq, resource.NewID(), w.seq
		w.usage = append(w.usage, u)
	}
	opened := base
	opened.Transition, opened.AtUTCMillis = agentlog.Opened, at
	emit(opened)
	longest := int64(rapid.SampledFrom([]time.Duration{time.Minute, time.Hour, 100 * time.Hour}).Draw(t, "longest") / time.Millisecond)
	for i := range intervals {
		u := base
		u.FromUTCMillis = at
		at += rapid.Int64Range(0, longest).Draw(t, "length")
		u.ToUTCMillis, u.AtUTCMillis, u.HasClosed = at, at, true
		u.ClosedAttention = agentlog.Attention(rapid.IntRange(1, attentions).Draw(t, "attention"))
		u.ClosedState = agentlog.Inactive
		if u.ClosedAttention == agentlog.Busy {
			u.ClosedState = agentlog.Active
		} else if rapid.Bool().Draw(t, "timed out") {
			u.ClosedState = agentlog.Timeout
		}
		u.Transition = rapid.SampledFrom([]agentlog.Transition{agentlog.Changed, agentlog.Cut, agentlog.TimedOut}).Draw(t, "transition")
		if i == intervals-1 && rapid.Bool().Draw(t, "closed") {
			u.Transition = agentlog.Closed
		}
		emit(u)
	}
	return at
}

// applyBatches adds up the world's events in batches of drawn size, and prepares some days after
// some of them.
func (w *world) applyBatches(ctx context.Context, t *rapid.T, stores *Stores) {
	p := newUsageProjection(agentlog.NewDecoder(agentlog.Config{}))
	w.keepPlaces(ctx, t, stores, p)
	for rest := w.usage; len(rest) > 0; {
		n := rapid.IntRange(1, len(rest)).Draw(t, "batch")
		applyInTurn(ctx, t, stores, p, &agentlog.Facts{Usage: rest[:n]})
		rest = rest[n:]
		if len(rest) == 0 || rapid.IntRange(0, 3).Draw(t, "prepares") == 0 {
			w.prepare(ctx, t, stores, p)
		}
	}
}

// prepare prepares a drawn part of the world's days.
func (w *world) prepare(ctx context.Context, t *rapid.T, stores *Stores, p *usageProjection) {
	// The longest instances last for a month, and are opened on the last day.
	first, last := int32(dayOf(w.from)), int32(dayOf(w.to))+40
	switch rapid.IntRange(0, 3).Draw(t, "prepared") {
	case 0:
		return
	case 1:
		first = rapid.Int32Range(first, last).Draw(t, "first day")
		last = rapid.Int32Range(first, last).Draw(t, "last day")
	}
	if _, err := preparerOf(stores, p).prepare(ctx, w.account, first, last); err != nil {
		t.Fatal(err)
	}
}

// preparerOf prepares in tables that no Runner keeps.
func preparerOf(stores *Stores, p *usageProjection) *preparer {
	return &preparer{pool: stores.Views.Projector, do: inTurn(stores), forget: p.forgetUnprepared}
}

// inTurn runs a transaction as a Runner does that keeps the tables.
func inTurn(stores *Stores) func(context.Context, func(context.Context, pgx.Tx) error) error {
	return func(ctx context.Context, work func(context.Context, pgx.Tx) error) error {
		hooked, ended := projection.WithHooks(ctx)
		err := pgx.BeginFunc(ctx, stores.Views.Projector, func(tx pgx.Tx) error { return work(hooked, tx) })
		ended(err == nil)
		return err
	}
}

// applyInTurn has facts added up as a Runner has it, so that the projection remembers what it has written.
func applyInTurn(ctx context.Context, t failer, stores *Stores, p *usageProjection, facts *agentlog.Facts) {
	t.Helper()
	if err := inTurn(stores)(ctx, func(ctx context.Context, tx pgx.Tx) error { return p.apply(ctx, tx, facts) }); err != nil {
		t.Fatal(err)
	}
}

// person is whose a principal is, by following who was merged into whom.
func (w *world) person(principal contract.ID) contract.ID {
	for {
		into, ok := w.merged[principal]
		if !ok {
			return principal
		}
		principal = into
	}
}

func attentionOf(u *agentlog.Usage) usagev1.Attention { return usagev1.Attention(u.ClosedAttention) }
