package agentlog_test

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/agentlog"
	"github.com/cetrus/cetrus/services/platform/agentlog/agentlogtest"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/projection"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

func TestMain(m *testing.M) { platformtest.Main(m) }

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func store(t testing.TB) *postgres.Store {
	return platformtest.Store(t, postgres.Config{Service: "agentlog", Version: 1, Migrations: []postgres.Migrations{agentlog.Migrations()}})
}

type fataler interface {
	Helper()
	Fatal(args ...any)
}

// decode decodes in a transaction of its own, and copies what the Decoder keeps.
func decode(t fataler, s *postgres.Store, d *agentlog.Decoder, commit bool, batch ...projection.Message) agentlog.Facts {
	t.Helper()
	facts, err := transact(s, commit, func(ctx context.Context, tx pgx.Tx) (agentlog.Facts, error) { return d.Decode(ctx, tx, batch) })
	if err != nil {
		t.Fatal(err)
	}
	return facts
}

func transact(s *postgres.Store, commit bool, work func(context.Context, pgx.Tx) (agentlog.Facts, error)) (agentlog.Facts, error) {
	ctx, ended := projection.WithHooks(context.Background())
	committed := false
	defer func() { ended(committed) }()
	tx, err := s.Projector.Begin(ctx)
	if err != nil {
		return agentlog.Facts{}, err
	}
	defer tx.Rollback(ctx)
	facts, err := work(ctx, tx)
	if err != nil {
		return facts, err
	}
	if commit {
		if err := tx.Commit(ctx); err != nil {
			return facts, err
		}
		committed = true
	}
	facts.Usage, facts.Choices = slices.Clone(facts.Usage), slices.Clone(facts.Choices)
	facts.Bindings, facts.Names = slices.Clone(facts.Bindings), slices.Clone(facts.Names)
	facts.Machines, facts.Receptions = slices.Clone(facts.Machines), slices.Clone(facts.Receptions)
	return facts, nil
}

type quarantined struct {
	Reason  string
	Size    int
	Count   int64
	Records string
}

func quarantine(t testing.TB, s *postgres.Store, account contract.ID) []quarantined {
	t.Helper()
	rows, err := s.Projector.Query(t.Context(), "SELECT reason, size, count, coalesce(records::text, '') AS records FROM agent_quarantine WHERE account_id = $1 ORDER BY reason, records", account)
	if err != nil {
		t.Fatal(err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByName[quarantined])
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// office is one account with one Manager.
type office struct {
	rnd              *rand.Rand
	account, manager contract.ID
	position         uint64
}

func newOffice(seed uint64) *office {
	rnd := rand.New(rand.NewPCG(seed, 0))
	return &office{rnd: rnd, account: agentlogtest.ID(rnd), manager: agentlogtest.ID(rnd)}
}

func (o *office) message(lane usagev1.Lane, frames ...*usagev1.ReceivedFrame) projection.Message {
	o.position++
	return agentlogtest.Message(o.position, noon, lane, &usagev1.AgentBatch{AccountId: o.account[:], ManagerId: o.manager[:], Frames: frames})
}

func (o *office) frame(j *agentlogtest.Journal, first, last uint64) projection.Message {
	return o.message(j.Lane, agentlogtest.Received(j.Frame(first, last)))
}

// journal is a journal with n events of one person.
func (o *office) journal(n int) (*agentlogtest.Journal, *agentlogtest.Person) {
	j, p := agentlogtest.NewJournal(o.rnd, noon.Add(-24*time.Hour)), agentlogtest.NewPerson(o.rnd, 0)
	for range n {
		j.AppendUsage(p.Next(o.rnd))
	}
	return j, p
}

func TestFactsArePlacedInUTC(t *testing.T) {
	s, o := store(t), newOffice(1)
	j := agentlogtest.NewJournal(o.rnd, noon.Add(-time.Hour))
	p := agentlogtest.NewPerson(o.rnd, 0)
	p.Next(o.rnd) // the opening, which this journal leaves out
	event := p.Next(o.rnd)
	event.AtBootMillis, event.Closed.FromBootMillis, event.Closed.ToBootMillis = 60_000, 1000, 60_000
	document := agentlogtest.ID(o.rnd)
	event.DocumentId = document[:]
	event.Reason, event.Closed.Reason = usagev1.Reason_REASON_AGENT_CRASHED, usagev1.Reason_REASON_PAUSED_BY_PERSON
	j.AppendUsage(event)
	principal := agentlogtest.ID(o.rnd)
	r := agentlogtest.Received(j.Frame(1, 1), &usagev1.PrincipalBinding{PrincipalAlias: p.Alias[:], PrincipalId: principal[:]})
	r.ReceivedUtcMillis, r.SkewMillis = noon.UnixMilli(), -250
	m := o.message(usagev1.Lane_LANE_USAGE, r)
	got := decode(t, s, agentlog.NewDecoder(agentlog.Config{}), true, m)
	booted := noon.Add(-time.Hour).UnixMilli()
	want := agentlog.Facts{
		Usage: []agentlog.Usage{{
			Account: o.account, Agent: j.Agent, Epoch: j.Epoch, Seq: 1, Event: contract.ID(event.GetEventId()), Instance: p.Instance, Document: document,
			Application: p.Application, Rule: p.Rule, Principal: principal, Machine: j.Machine, Session: p.Session, Boot: j.Boot,
			Anchor: j.Anchor.GetAnchorId(), PolicyRevision: 7, Position: 1, AtUTCMillis: booted + 60_000, AtBootMillis: 60_000,
			FromUTCMillis: booted + 1000, ToUTCMillis: booted + 60_000, ZoneOffsetSeconds: 3600, Transition: agentlog.Changed,
			Attention: agentlog.Busy, State: agentlog.Active, Reason: agentlog.Reason(usagev1.Reason_REASON_AGENT_CRASHED), Source: 1,
			HasClosed: true, ClosedAttention: agentlog.Background, ClosedState: agentlog.Inactive,
			ClosedReason: agentlog.Reason(usagev1.Reason_REASON_PAUSED_BY_PERSON),
		}},
		Bindings:   []agentlog.Binding{{Account: o.account, Agent: j.Agent, Alias: p.Alias, Principal: principal, Position: 1}},
		Receptions: []agentlog.Reception{{Account: o.account, Manager: o.manager, Agent: j.Agent, Machine: j.Machine, ReceivedUTCMillis: noon.UnixMilli(), SkewMillis: -250, Records: 1, Position: 1}},
	}
	if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

// What told of a document is handed on where it is known; what is not known is not told.
func TestWhatToldOfADocument(t *testing.T) {
	s, o := store(t), newOffice(2)
	j, p := agentlogtest.NewJournal(o.rnd, noon.Add(-time.Hour)), agentlogtest.NewPerson(o.rnd, 0)
	document := agentlogtest.ID(o.rnd)
	for _, source := range []usagev1.DocumentSource{usagev1.DocumentSource_DOCUMENT_SOURCE_OPEN_FILE, 130} {
		event := p.Next(o.rnd)
		event.DocumentId, event.DocumentSource, event.DocumentUnsaved = document[:], source, true
		event.DocumentConfidence = usagev1.DocumentConfidence(source) - 1
		j.AppendUsage(event)
	}
	got := decode(t, s, agentlog.NewDecoder(agentlog.Config{}), true, o.frame(j, 1, 2)).Usage
	if len(got) != 2 || got[0].DocumentSource != 4 || got[0].DocumentConfidence != 3 || !got[0].DocumentUnsaved ||
		got[1].DocumentSource != 0 || got[1].DocumentConfidence != 0 || !got[1].DocumentUnsaved {
		t.Errorf("told is %+v", got)
	}
}

// Where a session was shown is handed on where it is known.
func TestWhereASessionWasShown(t *testing.T) {
	s, o := store(t), newOffice(2)
	j, p := agentlogtest.NewJournal(o.rnd, noon.Add(-time.Hour)), agentlogtest.NewPerson(o.rnd, 0)
	j.AppendUsage(p.Next(o.rnd)) // opens
	for _, access := range []usagev1.SessionAccess{0, usagev1.SessionAccess_SESSION_ACCESS_REMOTE, 200} {
		event := p.Next(o.rnd)
		event.GetClosed().SessionAccess = access
		j.AppendUsage(event)
	}
	var got []agentlog.SessionAccess
	for _, u := range decode(t, s, agentlog.NewDecoder(agentlog.Config{}), true, o.frame(j, 1, j.Next()-1)).Usage {
		if u.HasClosed {
			got = append(got, u.ClosedAccess)
		}
	}
	if !slices.Equal(got, []agentlog.SessionAccess{0, agentlog.SessionAccess(usagev1.SessionAccess_SESSION_ACCESS_REMOTE), 0}) {
		t.Errorf("told is %v", got)
	}
}

// P6: batching, duplication, reordering, delay, two Managers, restarts and
// failed transactions: each event is told once.
func TestP6EachEventOnce(t *testing.T) {
	s := store(t)
	checks := 0
	rapid.Check(t, func(t *rapid.T) {
		o := newOffice(rapid.Uint64().Draw(t, "seed"))
		checks++
		o.account = contract.ID{0: byte(checks), 1: byte(checks >> 8), 2: byte(checks >> 16), 15: 1} // the store is shared
		second := *o
		second.manager = agentlogtest.ID(o.rnd)
		d := agentlog.NewDecoder(agentlog.Config{})
		type eventKey struct {
			agent contract.ID
			seq   uint64
		}
		want, got := map[eventKey]string{}, map[eventKey]string{}
		var pool []projection.Message
		for range rapid.IntRange(1, 3).Draw(t, "journals") {
			n := rapid.IntRange(1, 90).Draw(t, "events")
			j, _ := o.journal(n)
			for seq := range n {
				want[eventKey{j.Agent, uint64(seq + 1)}] = string(j.Records[seq])
			}
			// Every record at least once, some again in other frames.
			for first := 1; first <= n; {
				last := min(n, first+rapid.IntRange(2, 70).Draw(t, "frame"))
				pool = append(pool, o.frame(j, uint64(first), uint64(last)))
				first = last + 1
			}
			for range rapid.IntRange(0, 4).Draw(t, "again") {
				first := rapid.IntRange(1, n).Draw(t, "first")
				pool = append(pool, second.frame(j, uint64(first), uint64(rapid.IntRange(first, n).Draw(t, "last"))))
			}
		}
		order := make([]int, len(pool))
		for i := range order {
			order[i] = i
		}
		shuffled := make([]projection.Message, len(pool))
		for i, from := range rapid.Permutation(order).Draw(t, "order") {
			shuffled[i] = pool[from]
		}
		pool = shuffled
		for len(pool) > 0 {
			n := rapid.IntRange(1, len(pool)).Draw(t, "batch")
			if rapid.IntRange(0, 3).Draw(t, "fails first") == 0 {
				decode(t, s, d, false, pool[:n]...)
			}
			if rapid.IntRange(0, 3).Draw(t, "restart") == 0 {
				d = agentlog.NewDecoder(agentlog.Config{})
			}
			batch := slices.Clone(pool[:n])
			if rapid.Bool().Draw(t, "ahead") {
				for i := range batch {
					d.Predecode(&batch[i])
				}
			}
			facts := decode(t, s, d, true, batch...)
			if facts.Quarantined > 0 {
				t.Fatalf("%d quarantined", facts.Quarantined)
			}
			for _, u := range facts.Usage {
				k := eventKey{u.Agent, u.Seq}
				if _, twice := got[k]; twice {
					t.Fatalf("event %d of %s is told twice", u.Seq, u.Agent)
				}
				got[k] = want[k]
			}
			pool = pool[n:]
		}
		if len(got) != len(want) {
			t.Fatalf("%d of %d events are told", len(got), len(want))
		}
	})
}

func TestTwoContents(t *testing.T) {
	s := store(t)
	for name, c := range map[string]struct {
		same        int    // records that both histories share
		first, last uint64 // of the other history, sent after records 1 to 200
	}{
		"the very frame":         {0, 1, 10},
		"a later part":           {100, 101, 140},
		"going on from a fork":   {150, 201, 210},
		"one record":             {77, 78, 78},
		"in the tail":            {195, 196, 197},
		"the end":                {199, 200, 200},
		"longer than the first":  {10, 11, 230},
		"the first half anew":    {0, 1, 100},
		"found by a later frame": {3, 250, 260},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(c.first<<32 | c.last<<16 | uint64(c.same))
			d := agentlog.NewDecoder(agentlog.Config{Logger: platformtest.Logger(nil)})
			j, p := o.journal(200)
			fork := j.Fork(c.same)
			for fork.Next() <= 300 {
				fork.AppendUsage(p.Next(o.rnd))
			}
			for first := uint64(1); first < 200; first += 10 {
				decode(t, s, d, true, o.frame(j, first, first+9))
			}
			told := 0
			d = agentlog.NewDecoder(agentlog.Config{Logger: platformtest.Logger(nil), Conflict: func(account, agent contract.ID, epoch uint64) {
				if told++; account != o.account || agent != j.Agent || epoch != j.Epoch {
					t.Errorf("told of epoch %d of agent %s of %s", epoch, agent, account)
				}
			}})
			facts := decode(t, s, d, true, o.frame(fork, c.first, c.last))
			if name == "found by a later frame" {
				// Nothing known lies beside it, so it is taken; what joins the two
				// histories cannot be.
				if len(facts.Usage) != 11 {
					t.Fatal("a frame beyond a gap was not taken")
				}
				facts = decode(t, s, d, true, o.frame(fork, 201, 249))
			}
			if len(facts.Usage) != 0 || facts.Quarantined == 0 {
				t.Fatalf("%d facts, %d quarantined", len(facts.Usage), facts.Quarantined)
			}
			q := quarantine(t, s, o.account)
			if len(q) != 1 || q[0].Reason != contract.ReasonConflict || q[0].Count != 1 {
				t.Fatalf("quarantine: %+v", q)
			}
			if told != 1 {
				t.Errorf("told %d times of the conflict", told)
			}
			// The true history goes on.
			for j.Next() <= 205 {
				j.AppendUsage(p.Next(o.rnd))
			}
			if facts := decode(t, s, d, true, o.frame(j, 195, 205)); name != "found by a later frame" && len(facts.Usage) != 5 {
				t.Fatalf("the true history goes on with %d facts, want 5", len(facts.Usage))
			}
		})
	}
}

// What an account's quarantine has no room for is counted under its reason, never
// forgotten, and does not come back by a replay; another account has its own room.
func TestAQuarantineIsBoundedAndCountsOn(t *testing.T) {
	s, o, other := store(t), newOffice(7), newOffice(8)
	bad := func(o *office, n byte) projection.Message {
		m := o.message(usagev1.Lane_LANE_USAGE)
		m.Data = []byte{0xff, n}
		return m
	}
	const malformed = contract.ReasonMalformed
	config := agentlog.Config{MaxQuarantine: 2, Logger: platformtest.Logger(nil)}
	for i, step := range []struct {
		batch []projection.Message
		want  []quarantined
	}{
		{[]projection.Message{bad(o, 1), bad(o, 2), bad(o, 3), bad(o, 1)}, []quarantined{{malformed, 1, 1, ""}, {malformed, 1, 1, ""}, {malformed, 1, 2, ""}}},
		// Another decoder finds the room in the table; what is there already is counted there.
		{[]projection.Message{bad(o, 3), bad(o, 4), bad(o, 2)}, []quarantined{{malformed, 1, 2, ""}, {malformed, 1, 2, ""}, {malformed, 1, 3, ""}}},
		{[]projection.Message{bad(other, 1)}, []quarantined{{malformed, 1, 2, ""}, {malformed, 1, 2, ""}, {malformed, 1, 3, ""}}},
	} {
		decode(t, s, agentlog.NewDecoder(config), true, step.batch...)
		got := quarantine(t, s, o.account)
		slices.SortFunc(got, func(a, b quarantined) int { return cmp.Compare(a.Count, b.Count) })
		if !slices.Equal(got, step.want) {
			t.Errorf("step %d: %+v", i+1, got)
		}
	}
	if got := quarantine(t, s, other.account); len(got) != 1 {
		t.Errorf("the other account: %+v", got)
	}
	var taken int
	if _, err := transact(s, true, func(ctx context.Context, tx pgx.Tx) (f agentlog.Facts, err error) {
		f, _, taken, err = agentlog.NewDecoder(config).Replay(ctx, tx, o.account, agentlog.Cursor{}, 10)
		return f, err
	}); err != nil || taken != 2 || len(quarantine(t, s, o.account)) != 3 {
		t.Errorf("replay: %v, %d payloads, then %+v", err, taken, quarantine(t, s, o.account))
	}
}

func TestBadRecordsAreSetAsideAndReplayed(t *testing.T) {
	s, o := store(t), newOffice(3)
	d := agentlog.NewDecoder(agentlog.Config{Logger: platformtest.Logger(nil)})
	j, p := o.journal(3)
	e := p.Next(o.rnd)
	e.SchemaVersion = 9
	j.AppendUsage(e) // 4
	early := p.Next(o.rnd)
	early.AtBootMillis += (73 * time.Hour).Milliseconds()
	j.AppendUsage(early) // 5, stands two days in the future of the stream
	j.AppendUsage(p.Next(o.rnd))
	m := o.frame(j, 1, 6)
	facts := decode(t, s, d, true, m)
	if len(facts.Usage) != 4 || facts.Quarantined != 2 {
		t.Fatalf("%d facts, %d quarantined", len(facts.Usage), facts.Quarantined)
	}
	again := decode(t, s, d, true, m, o.frame(j, 1, 6))
	if len(again.Usage) != 0 || again.Duplicates != 8 {
		t.Fatalf("again: %d facts, %d duplicates", len(again.Usage), again.Duplicates)
	}
	want := []quarantined{{contract.ReasonClockOutOfRange, 1, 3, "{[5,6)}"}, {contract.ReasonUnknownVersion, 1, 3, "{[4,5)}"}}
	if got := quarantine(t, s, o.account); !slices.Equal(got, want) {
		t.Fatalf("quarantine: %+v", got)
	}

	// A release that believes more: the clock's record comes through, the
	// version's stays, and nothing comes twice.
	wiser := agentlog.NewDecoder(agentlog.Config{MaxFuture: 100 * time.Hour})
	var taken int
	var cursor agentlog.Cursor
	facts, err := transact(s, true, func(ctx context.Context, tx pgx.Tx) (f agentlog.Facts, err error) {
		f, cursor, taken, err = wiser.Replay(ctx, tx, o.account, cursor, 10)
		return f, err
	})
	if err != nil || taken != 2 || len(facts.Usage) != 1 || facts.Usage[0].Seq != 5 {
		t.Fatalf("replay: %v, %d payloads, %d facts", err, taken, len(facts.Usage))
	}
	// What stayed is behind the cursor: a replay comes to an end.
	if _, err := transact(s, true, func(ctx context.Context, tx pgx.Tx) (f agentlog.Facts, err error) {
		f, _, taken, err = wiser.Replay(ctx, tx, o.account, cursor, 10)
		return f, err
	}); err != nil || taken != 0 {
		t.Fatalf("replay behind the cursor: %v, %d payloads", err, taken)
	}
	want = []quarantined{{contract.ReasonUnknownVersion, 1, 3, "{[4,5)}"}}
	got := quarantine(t, s, o.account)
	got[0].Count = min(got[0].Count, 3) // both payloads hold the record
	if !slices.Equal(got, want) {
		t.Fatalf("quarantine after the replay: %+v", got)
	}
	if facts := decode(t, s, agentlog.NewDecoder(agentlog.Config{}), true, o.frame(j, 1, 6)); len(facts.Usage) != 0 {
		t.Fatalf("after the replay %d facts come again", len(facts.Usage))
	}
}

// One agent's bytes never stop an account.
func TestTheRestGoesOn(t *testing.T) {
	s, o := store(t), newOffice(4)
	d := agentlog.NewDecoder(agentlog.Config{Logger: platformtest.Logger(nil)})
	good, _ := o.journal(5)
	broken := good.Fork(5)
	broken.Agent = agentlogtest.ID(o.rnd)
	wrong := agentlogtest.Received(good.Frame(1, 5))
	wrong.Frame[len(wrong.GetFrame())/2] ^= 1
	batch := o.message(usagev1.Lane_LANE_USAGE, wrong, &usagev1.ReceivedFrame{Frame: []byte("\x0ano")}, agentlogtest.Received(good.Frame(1, 5)), agentlogtest.Received(broken.Frame(1, 5)))
	garbage := batch
	garbage.Data = []byte{0xff}
	stranger := batch
	stranger.Subject = "agent.\xff\x00.b"
	facts := decode(t, s, d, true, garbage, batch, stranger)
	if len(facts.Usage) != 5 || facts.Usage[0].Agent != good.Agent {
		t.Fatalf("%d facts", len(facts.Usage))
	}
	reasons := map[string]int{}
	for _, q := range append(quarantine(t, s, o.account), quarantine(t, s, contract.ID{})...) {
		reasons[q.Reason]++
	}
	if reasons[contract.ReasonMalformed] < 3 {
		t.Errorf("quarantine holds %v", reasons)
	}
	var seen int
	if err := s.InAccount(t.Context(), agentlogtest.ID(o.rnd), func(tx pgx.Tx) error {
		return tx.QueryRow(t.Context(), "SELECT count(*) FROM agent_quarantine").Scan(&seen)
	}); err != nil || seen != 0 {
		t.Errorf("another account sees %d quarantined: %v", seen, err)
	}
}

func TestFirstBindingHolds(t *testing.T) {
	s, o := store(t), newOffice(5)
	j, p := o.journal(3)
	x, y := agentlogtest.ID(o.rnd), agentlogtest.ID(o.rnd)
	send := func(d *agentlog.Decoder, seq uint64, principal *contract.ID) agentlog.Facts {
		var bindings []*usagev1.PrincipalBinding
		if principal != nil {
			bindings = append(bindings, &usagev1.PrincipalBinding{PrincipalAlias: p.Alias[:], PrincipalId: principal[:]})
		}
		return decode(t, s, d, true, o.message(usagev1.Lane_LANE_USAGE, agentlogtest.Received(j.Frame(seq, seq), bindings...)))
	}
	d := agentlog.NewDecoder(agentlog.Config{})
	for i, c := range []struct {
		bind *contract.ID
		want contract.ID
		told int
	}{{nil, p.Alias, 0}, {&x, x, 1}, {&y, x, 0}} {
		facts := send(d, uint64(i+1), c.bind)
		if facts.Usage[0].Principal != c.want || len(facts.Bindings) != c.told {
			t.Errorf("event %d: principal %s, %d bindings told", i+1, facts.Usage[0].Principal, len(facts.Bindings))
		}
		d = agentlog.NewDecoder(agentlog.Config{}) // the table remembers
	}
}

func TestChoicesNamesAndMachines(t *testing.T) {
	s, o := store(t), newOffice(6)
	d := agentlog.NewDecoder(agentlog.Config{Logger: platformtest.Logger(nil)})
	j := agentlogtest.NewJournal(o.rnd, noon.Add(-time.Hour))
	j.Lane = usagev1.Lane_LANE_CHOICE
	id := func() []byte { id := agentlogtest.ID(o.rnd); return id[:] }
	choice := func() *usagev1.Choice {
		return &usagev1.Choice{
			ChoiceId: id(), ApplicationId: id(), PrincipalAlias: id(), SessionId: id(), InstanceId: id(), EffectiveFromBootMillis: 5,
			Chosen: &usagev1.Choice_NotChargeable{NotChargeable: true},
		}
	}
	j.AppendChoice(choice())
	nothing := choice()
	nothing.Chosen = nil
	j.AppendChoice(nothing)
	machine, document, principal := id(), id(), id()
	o.position++
	m := agentlogtest.Message(o.position, noon, usagev1.Lane_LANE_CHOICE, &usagev1.AgentBatch{
		AccountId: o.account[:], ManagerId: o.manager[:], Frames: []*usagev1.ReceivedFrame{agentlogtest.Received(j.Frame(1, 2))},
		Names: []*usagev1.SealedName{
			{Subject: &usagev1.SealedName_DocumentId{DocumentId: document}, PrincipalId: principal, Sealed: make([]byte, 50)},
			{Subject: &usagev1.SealedName_Person{Person: true}, PrincipalId: principal, Sealed: make([]byte, 50)},
			{Subject: &usagev1.SealedName_Person{Person: true}, PrincipalId: principal, Sealed: []byte("short")},
		},
		Machines: []*usagev1.MachineName{{MachineId: machine, HostName: "ws-1"}, {MachineId: machine, HostName: "ws\x00"}},
	})
	facts := decode(t, s, d, true, m)
	if len(facts.Choices) != 1 || facts.Choices[0].EffectiveFromUTCMillis != noon.Add(-time.Hour).UnixMilli()+5 || facts.Choices[0].Principal != contract.ID(facts.Choices[0].Said.GetPrincipalAlias()) {
		t.Errorf("choices: %+v", facts.Choices)
	}
	if len(facts.Names) != 2 || facts.Names[0].Document != contract.ID(document) || !facts.Names[1].Document.IsZero() {
		t.Errorf("names: %+v", facts.Names)
	}
	if len(facts.Machines) != 1 || facts.Machines[0].HostName != "ws-1" {
		t.Errorf("machines: %+v", facts.Machines)
	}
	if facts.Quarantined != 3 {
		t.Errorf("%d quarantined", facts.Quarantined)
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, perFrame := range []int{2, 20, 200} {
		b.Run(fmt.Sprintf("%d-a-frame", perFrame), func(b *testing.B) {
			s, o := store(b), newOffice(7)
			const agents, rounds = 500, 4
			var batches [][]projection.Message
			people := make([]*agentlogtest.Person, agents)
			journals := make([]*agentlogtest.Journal, agents)
			for i := range journals {
				journals[i], people[i] = agentlogtest.NewJournal(o.rnd, noon.Add(-24*time.Hour*30)), agentlogtest.NewPerson(o.rnd, 0)
			}
			for range rounds {
				var frames []*usagev1.ReceivedFrame
				var batch []projection.Message
				for i, j := range journals {
					first := j.Next()
					for range perFrame {
						j.AppendUsage(people[i].Next(o.rnd))
					}
					frames = append(frames, agentlogtest.Received(j.Frame(first, j.Next()-1)))
					if len(frames)*perFrame >= 1000 {
						batch = append(batch, o.message(usagev1.Lane_LANE_USAGE, frames...))
						frames = nil
					}
				}
				if frames != nil {
					batch = append(batch, o.message(usagev1.Lane_LANE_USAGE, frames...))
				}
				batches = append(batches, batch)
			}
			events := 0
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				if _, err := s.Projector.Exec(context.Background(), "TRUNCATE agent_epoch, agent_mark, agent_binding"); err != nil {
					b.Fatal(err)
				}
				d := agentlog.NewDecoder(agentlog.Config{})
				b.StartTimer()
				for _, batch := range batches {
					ctx, ended := projection.WithHooks(context.Background())
					tx, err := s.Projector.Begin(ctx)
					if err != nil {
						b.Fatal(err)
					}
					facts, err := d.Decode(ctx, tx, batch)
					if err != nil || facts.Quarantined+facts.Duplicates > 0 {
						b.Fatal(err, facts.Quarantined, facts.Duplicates)
					}
					events += len(facts.Usage)
					if err := tx.Commit(ctx); err != nil {
						b.Fatal(err)
					}
					ended(true)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(events), "ns/event")
		})
	}
}

// An agent that begins a new epoch sends again what nobody acknowledged, under
// new numbers. Whatever of it was received before, in whichever order the epochs
// come, over restarts of the reader too, each event is a fact once.
func TestAnEventIsCountedOnceOverEpochs(t *testing.T) {
	s := store(t)
	rapid.Check(t, func(t *rapid.T) {
		o := newOffice(rand.Uint64()) // other ids each time: the database is the same
		j, p := o.journal(rapid.IntRange(1, 150).Draw(t, "events"))
		journals := []*agentlogtest.Journal{j}
		for range rapid.IntRange(1, 2).Draw(t, "new epochs") {
			j = j.Renew(o.rnd, rapid.Uint64Range(1, j.Next()).Draw(t, "first not acknowledged"))
			for range rapid.IntRange(1, 40).Draw(t, "events after") {
				j.AppendUsage(p.Next(o.rnd))
			}
			journals = append(journals, j)
		}
		var frames []projection.Message
		for _, j := range journals {
			for first := uint64(1); first < j.Next(); {
				last := rapid.Uint64Range(first, min(j.Next()-1, first+70)).Draw(t, "last")
				frames = append(frames, o.frame(j, first, last))
				first = last + 1
			}
		}
		if rapid.Bool().Draw(t, "out of order") {
			ordered := slices.Clone(frames)
			for i, from := range rapid.Permutation(indexes(len(frames))).Draw(t, "order") {
				frames[i] = ordered[from]
			}
		}
		counted := make(map[contract.ID]int)
		d := agentlog.NewDecoder(agentlog.Config{})
		for len(frames) > 0 {
			n := rapid.IntRange(1, len(frames)).Draw(t, "batch")
			for _, u := range decode(t, s, d, true, frames[:n]...).Usage {
				counted[u.Event]++
			}
			frames = frames[n:]
			if rapid.Bool().Draw(t, "restart") {
				d = agentlog.NewDecoder(agentlog.Config{})
			}
		}
		all := make(map[contract.ID]bool)
		for _, j := range journals {
			for _, b := range j.Records {
				var r usagev1.Record
				if err := proto.Unmarshal(b, &r); err != nil {
					t.Fatal(err)
				}
				all[contract.ID(r.GetUsage().GetEventId())] = true
			}
		}
		if len(counted) != len(all) {
			t.Fatalf("%d of %d events were counted", len(counted), len(all))
		}
		for id, n := range counted {
			if n != 1 {
				t.Fatalf("event %s was counted %d times", id, n)
			}
		}
	})
}

func indexes(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// What was set aside in one epoch is no reason to drop it in another.
func TestAnEventSetAsideIsTakenFromAnotherEpoch(t *testing.T) {
	s, o := store(t), newOffice(77)
	j, _ := o.journal(3)
	without := j.Frame(1, 3)
	without.Anchors = nil
	d := agentlog.NewDecoder(agentlog.Config{})
	if got := decode(t, s, d, true, o.message(j.Lane, agentlogtest.Received(without))); len(got.Usage) != 0 || got.Quarantined != 3 {
		t.Fatalf("%d facts, %d set aside", len(got.Usage), got.Quarantined)
	}
	if got := decode(t, s, d, true, o.frame(j.Renew(o.rnd, 1), 1, 3)); len(got.Usage) != 3 {
		t.Fatalf("%d facts of 3 from the new epoch", len(got.Usage))
	}
	// The old ones can be read now, but they are counted.
	if got := decode(t, s, d, true, o.frame(j, 1, 3)); len(got.Usage) != 0 || got.Duplicates != 3 {
		t.Fatalf("%d facts, %d duplicates", len(got.Usage), got.Duplicates)
	}
}
