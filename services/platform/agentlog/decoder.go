package agentlog

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	_ "embed"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/postgres"
	"github.com/cetrus/cetrus/services/platform/projection"
)

//go:embed migrations/*.sql
var migrations embed.FS

var (
	//go:embed sql/journals.sql
	journalsSQL string
	//go:embed sql/bindings.sql
	bindingsSQL string
	//go:embed sql/marks.sql
	marksSQL string
	//go:embed sql/marks_by_second.sql
	marksBySecondSQL string
	//go:embed sql/put_journals.sql
	putJournalsSQL string
	//go:embed sql/put_bindings.sql
	putBindingsSQL string
	//go:embed sql/put_marks.sql
	putMarksSQL string
	//go:embed sql/put_quarantine.sql
	putQuarantineSQL string
	//go:embed sql/take_quarantine.sql
	takeQuarantineSQL string
	//go:embed sql/room_in_quarantine.sql
	roomInQuarantineSQL string
	//go:embed sql/known_in_quarantine.sql
	knownInQuarantineSQL string
)

// mostCached bounds the journals that are kept in memory: some 500 bytes each.
const mostCached = 200_000

// mostLinks bounds the traces that a batch's span names.
const mostLinks = 32

// Migrations make the tables that a Decoder keeps, in the schema of the
// projection that it decodes for.
func Migrations() postgres.Migrations {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the directory is embedded
	}
	return postgres.Migrations{Name: "agentlog", Files: files}
}

// Config of a Decoder; the zero Config is a sensible one.
type Config struct {
	// MaxFuture is how far beyond the time at which the stream took its message
	// a record may stand; default 48 h.
	MaxFuture time.Duration
	// MaxPast is how far before it; default 5 years.
	MaxPast time.Duration
	// MaxQuarantine and MaxQuarantineBytes bound what is kept of an account's bad
	// payloads; default 10,000 and 256 MiB. What comes beyond is counted by reason,
	// and not kept.
	MaxQuarantine      int
	MaxQuarantineBytes int64
	// Conflict hears of each epoch in which an agent sent two contents, as often as it
	// does; not of what is replayed. It must not wait. May be nil.
	Conflict func(account, agent contract.ID, epoch uint64)
	// Logger for what is quarantined; default slog.Default().
	Logger *slog.Logger
}

// Decoder turns messages of the AGENT stream into facts. It belongs to one
// projection and is not for concurrent use; Predecode is.
type Decoder struct {
	cfg         Config
	log         *slog.Logger
	quarantined metric.Int64Counter
	overflowed  metric.Int64Counter
	duplicates  metric.Int64Counter

	// What the tables hold, as of the last commit that is known of, and what the
	// transaction under way adds. Emptied when that fails.
	journals map[key]*journal
	epochs   map[laneKey][]keyed // the journals of each agent's lane, one an epoch
	bindings map[aliasKey]contract.ID
	known    map[agentKey]struct{} // agents whose journals and bindings are all here

	facts Facts
}

type agentKey struct{ account, agent contract.ID }

type laneKey struct {
	agentKey
	lane uint8
}

func (k key) of() laneKey { return laneKey{agentKey{k.account, k.agent}, k.lane} }

type aliasKey struct{ account, agent, alias contract.ID }

// NewDecoder makes a Decoder.
func NewDecoder(cfg Config) *Decoder {
	if cfg.MaxFuture == 0 {
		cfg.MaxFuture = 48 * time.Hour
	}
	if cfg.MaxPast == 0 {
		cfg.MaxPast = 5 * 365 * 24 * time.Hour
	}
	if cfg.MaxQuarantine == 0 {
		cfg.MaxQuarantine = 10_000
	}
	if cfg.MaxQuarantineBytes == 0 {
		cfg.MaxQuarantineBytes = 256 << 20
	}
	d := &Decoder{cfg: cfg, log: cfg.Logger}
	if d.log == nil {
		d.log = slog.Default()
	}
	meter := otel.Meter("github.com/cetrus/cetrus/services/platform/agentlog")
	// A meter that cannot make a counter hands out one that counts nothing.
	d.quarantined, _ = meter.Int64Counter("cetrus.agentlog.quarantined", metric.WithDescription("Records, frames and messages set aside, by reason."))
	d.overflowed, _ = meter.Int64Counter("cetrus.agentlog.quarantine.overflowed", metric.WithDescription("Of those, what the quarantine had no room for, by reason."))
	d.duplicates, _ = meter.Int64Counter("cetrus.agentlog.duplicates", metric.WithDescription("Records that had been received before."))
	// Told from the start: Prometheus does not see a figure grow that comes into being with the first record.
	for _, reason := range reasons() {
		d.quarantined.Add(context.Background(), 0, ofReason(reason))
		d.overflowed.Add(context.Background(), 0, ofReason(reason))
	}
	d.Forget()
	return d
}

// reasons are those for which something is set aside.
func reasons() []string {
	return []string{
		contract.ReasonMalformed, contract.ReasonUnknownVersion, contract.ReasonTooLarge, contract.ReasonBrokenChain, contract.ReasonConflict,
		contract.ReasonForeignAccount, contract.ReasonForeignManager, contract.ReasonClockOutOfRange, contract.ReasonUnknownAnchor,
	}
}

func ofReason(reason string) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String("reason", reason))
}

// Forget drops what is remembered of the tables, to be read again. It is meant as
// projection.Config.Forget.
func (d *Decoder) Forget() {
	d.journals = make(map[key]*journal)
	d.bindings = make(map[aliasKey]contract.ID)
	d.known = make(map[agentKey]struct{})
	d.epochs = make(map[laneKey][]keyed)
}

// Predecode does what needs no tables - decoding, chains, anchors - ahead of
// Decode. It is meant as projection.Config.Decode.
func (d *Decoder) Predecode(m *projection.Message) { m.Decoded = d.decode(m) }

// Decode checks the messages and tells the facts that are new, having noted in
// tx what was received, bound and quarantined. An error is Postgres's; nothing
// that an agent or a Manager sends makes one.
//
// Within a projection's Runner what the tables hold is remembered from one call
// to the next, and forgotten when a transaction fails. The tables' rows of a
// Decoder are written by nobody else.
func (d *Decoder) Decode(ctx context.Context, tx pgx.Tx, batch []projection.Message) (Facts, error) {
	return d.apply(ctx, tx, batch, nil)
}

// Poison is meant as projection.Config.Poison: it quarantines a message that
// the projection's own code failed on, as MALFORMED with the failure.
func (d *Decoder) Poison(ctx context.Context, tx pgx.Tx, m projection.Message, cause error) error {
	d.Forget()
	account, _, _, err := contract.ParseAgentSubject(m.Subject)
	if err != nil {
		account = contract.ID{}
	}
	f := fault{reason: contract.ReasonMalformed, detail: "the projection failed on it: " + cause.Error(), size: 1, payload: m.Data}
	d.report(ctx, map[string]*tally{f.reason: {count: 1, detail: f.detail}})
	var b pgx.Batch
	if err := d.quarantine(ctx, tx, &b, []located{{account, &m, f}}, nil); err != nil {
		return err
	}
	return closeBatch(tx.SendBatch(ctx, &b))
}

// Cursor is how far a replay of the quarantine has come; zero is its beginning.
type Cursor struct {
	stored      time.Time
	account, id contract.ID
}

// Replay takes quarantined payloads behind a cursor, the oldest first, of one
// account or of all where account is zero, and decodes them again, as after an
// upgrade that knows more versions. What fails again stays quarantined, before the
// cursor that comes back. taken counts the payloads; none means that there are no
// more. Receptions are told of none: each was told when it came.
//
// Like Decode, Replay is for the one writer of the projection.
func (d *Decoder) Replay(ctx context.Context, tx pgx.Tx, account contract.ID, behind Cursor, limit int) (facts Facts, next Cursor, taken int, err error) {
	var of any
	if !account.IsZero() {
		of = account
	}
	rows, err := tx.Query(ctx, takeQuarantineSQL, of, limit, behind.stored, behind.account, behind.id, overflowType)
	if err != nil {
		return Facts{}, behind, 0, err
	}
	next = behind
	counts := make(map[contract.ID]int64)
	var batch []projection.Message
	var id contract.ID
	var count, position int64
	var kind string
	var row contract.ID
	var m projection.Message
	if _, err := pgx.ForEachRow(rows, []any{&row, &id, &count, &m.Subject, &kind, &position, &m.Stored, &m.Data}, func() error {
		m.Position = uint64(position)
		m.Header = projection.Header{contract.HeaderType: {kind}}
		batch = append(batch, m)
		counts[id] = count
		m.Data = nil
		if at := (Cursor{m.Stored, row, id}); at.compare(next) > 0 {
			next = at
		}
		return nil
	}); err != nil {
		return Facts{}, behind, 0, err
	}
	facts, err = d.apply(ctx, tx, batch, counts)
	facts.Receptions = nil
	return facts, next, len(batch), err
}

func (c Cursor) compare(o Cursor) int {
	return cmp.Or(c.stored.Compare(o.stored), bytes.Compare(c.account[:], o.account[:]), bytes.Compare(c.id[:], o.id[:]))
}

// tally counts what was set aside for one reason.
type tally struct {
	count  int
	detail string
}

// apply is Decode; counts holds how often replayed payloads had come.
func (d *Decoder) apply(ctx context.Context, tx pgx.Tx, batch []projection.Message, counts map[contract.ID]int64) (Facts, error) {
	if len(d.journals) > mostCached {
		d.Forget()
	}
	if !projection.AfterTx(ctx, func(committed bool) {
		if !committed {
			d.Forget()
		}
	}) {
		d.Forget()
	}
	facts := &d.facts
	*facts = Facts{
		Usage: facts.Usage[:0], Choices: facts.Choices[:0], Bindings: facts.Bindings[:0], Names: facts.Names[:0],
		Machines: facts.Machines[:0], Receptions: facts.Receptions[:0],
	}
	decoded := make([]*message, len(batch))
	for i := range batch {
		var ok bool
		if decoded[i], ok = batch[i].Decoded.(*message); !ok {
			decoded[i] = d.decode(&batch[i])
		}
	}
	if err := d.read(ctx, tx, decoded); err != nil {
		d.Forget()
		return Facts{}, fmt.Errorf("agentlog: reading what was received: %w", err)
	}
	var w writes
	span := trace.SpanFromContext(ctx)
	links := 0
	tallies := make(map[string]*tally)
	for i, m := range decoded {
		for _, f := range m.frames {
			if span.IsRecording() && links < mostLinks && projection.Link(span, f.traceparent) {
				links++
			}
			d.frame(facts, &w, m, f, &batch[i])
		}
		for _, f := range m.faults {
			w.faults = append(w.faults, located{m.account, &batch[i], f})
		}
		facts.Names = append(facts.Names, m.names...)
		facts.Machines = append(facts.Machines, m.machines...)
	}
	for _, f := range w.faults {
		facts.Quarantined += f.size
		t := tallies[f.reason]
		if t == nil {
			t = &tally{detail: f.detail}
			tallies[f.reason] = t
		}
		t.count += f.size
		if f.reason == contract.ReasonConflict && counts == nil && d.cfg.Conflict != nil {
			d.cfg.Conflict(f.account, f.agent, f.epoch)
		}
	}
	if err := d.send(ctx, tx, &w, counts); err != nil {
		d.Forget()
		return Facts{}, fmt.Errorf("agentlog: noting what was received: %w", err)
	}
	d.report(ctx, tallies)
	if facts.Duplicates > 0 {
		d.duplicates.Add(ctx, int64(facts.Duplicates))
	}
	return *facts, nil
}

// frame applies one frame: binds, compares, drops duplicates.
func (d *Decoder) frame(facts *Facts, w *writes, m *message, f *frame, from *projection.Message) {
	k := key{m.account, f.agent, f.epoch, uint8(m.lane)}
	j := d.journals[k]
	facts.Receptions = append(facts.Receptions, Reception{
		Account: m.account, Manager: m.manager, Agent: f.agent, Machine: f.machine,
		ReceivedUTCMillis: min(f.received, from.Stored.UnixMilli()), SkewMillis: f.skew, Records: f.records, Position: from.Position,
	})
	if seq, conflict := j.conflict(f); conflict {
		w.faults = append(w.faults, located{m.account, from, fault{
			reason: contract.ReasonConflict, agent: f.agent, epoch: f.epoch, seqs: []seqRange{{f.first, f.last}}, size: f.records,
			detail:  fmt.Sprintf("frame: up to record %d the journal has another content than what came before under the same keys", max(seq, 1)),
			payload: payload(m, 3, f.raw),
		}})
		return
	}
	for _, b := range f.bindings {
		ak := aliasKey{m.account, f.agent, b.alias}
		if _, there := d.bindings[ak]; there {
			continue
		}
		d.bindings[ak] = b.principal
		facts.Bindings = append(facts.Bindings, Binding{Account: m.account, Agent: f.agent, Alias: b.alias, Principal: b.principal, Position: from.Position})
		w.bindings = append(w.bindings, facts.Bindings[len(facts.Bindings)-1])
	}
	again := j.overlaps(seqRange{f.first, f.last})
	resent := d.resent(k, f)
	isNew := func(seq uint64) bool {
		if again && j.received(seq) {
			return false
		}
		_, counted := resent[f.marks[seq-f.first].event]
		return !counted
	}
	before := len(facts.Usage) + len(facts.Choices)
	var alias, principal contract.ID
	resolve := func(a contract.ID) contract.ID {
		if a != alias || principal.IsZero() {
			alias, principal = a, a
			if p, bound := d.bindings[aliasKey{m.account, f.agent, a}]; bound {
				principal = p
			}
		}
		return principal
	}
	if again || len(resent) > 0 {
		for i := range f.usage {
			if isNew(f.usage[i].Seq) {
				facts.Usage = append(facts.Usage, f.usage[i])
			}
		}
		for i := range f.choices {
			if isNew(f.choices[i].Seq) {
				facts.Choices = append(facts.Choices, f.choices[i])
			}
		}
	} else {
		facts.Usage = append(facts.Usage, f.usage...)
		facts.Choices = append(facts.Choices, f.choices...)
	}
	fresh := len(facts.Usage) + len(facts.Choices) - before
	for i := len(facts.Usage) - 1; m.lane == laneUsage && i >= 0 && i >= len(facts.Usage)-fresh; i-- {
		facts.Usage[i].Principal = resolve(facts.Usage[i].Principal)
	}
	for i := len(facts.Choices) - 1; m.lane == laneChoice && i >= 0 && i >= len(facts.Choices)-fresh; i-- {
		facts.Choices[i].Principal = resolve(facts.Choices[i].Principal)
	}
	var bad []uint64
	for _, r := range f.faults {
		if isNew(r.seq) {
			bad = append(bad, r.seq)
		}
	}
	facts.Duplicates += f.records - fresh - len(bad)
	w.setAside(m, f, bad, from)
	if again && fresh == 0 && len(bad) == 0 && len(resent) == 0 {
		return // nothing new, and nothing to note
	}
	wasDirty := j.dirty
	j.take(f, bad)
	if !wasDirty {
		w.journals = append(w.journals, keyed{k, j})
	}
}

// resent are those of the frame's events that were counted from another epoch of
// the same agent: one that begins a new epoch sends again, under new numbers, what
// nobody had acknowledged. It is nil for almost every frame, since an agent with
// one epoch has no other, and events made after all of another epoch's are not in
// it.
func (d *Decoder) resent(k key, f *frame) map[event]struct{} {
	var events, found map[event]struct{}
	for _, other := range d.epochs[k.of()] {
		if other.epoch == k.epoch || !other.journal.reaches(f.least, f.most) {
			continue
		}
		if events == nil {
			events, found = make(map[event]struct{}, len(f.marks)), make(map[event]struct{})
			for _, m := range f.marks {
				if m.event != 0 {
					events[m.event] = struct{}{}
				}
			}
		}
		other.journal.counted(events, found)
	}
	return found
}

// setAside quarantines those records of a frame that failed and are bad, by
// reason.
func (w *writes) setAside(m *message, f *frame, bad []uint64, from *projection.Message) {
	if len(bad) == 0 {
		return
	}
	byReason := make(map[string]*fault)
	var order []*fault
	for _, r := range f.faults {
		if _, isBad := slices.BinarySearch(bad, r.seq); !isBad {
			continue
		}
		b := byReason[r.reason]
		if b == nil {
			b = &fault{reason: r.reason, agent: f.agent, epoch: f.epoch, detail: fmt.Sprintf("record %d: %s", r.seq, r.detail)}
			byReason[r.reason] = b
			order = append(order, b)
		}
		b.size++
		if n := len(b.seqs); n > 0 && b.seqs[n-1].last+1 == r.seq {
			b.seqs[n-1].last = r.seq
		} else {
			b.seqs = append(b.seqs, seqRange{r.seq, r.seq})
		}
	}
	for _, b := range order {
		b.payload = payload(m, 3, f.raw)
		w.faults = append(w.faults, located{m.account, from, *b})
	}
}

// report says what was set aside, one line for each reason.
func (d *Decoder) report(ctx context.Context, tallies map[string]*tally) {
	for reason, t := range tallies {
		d.quarantined.Add(ctx, int64(t.count), ofReason(reason))
		d.log.Warn("quarantined what agents sent", "reason", reason, "count", t.count, "first", t.detail)
	}
}

// read loads what is not in memory of the journals and bindings concerned.
func (d *Decoder) read(ctx context.Context, tx pgx.Tx, messages []*message) error {
	var agents keys
	for _, m := range messages {
		for _, f := range m.frames {
			ak := agentKey{m.account, f.agent}
			if _, there := d.known[ak]; !there {
				d.known[ak] = struct{}{}
				agents.add(key{account: m.account, agent: f.agent})
			}
		}
	}
	if len(agents.agents) > 0 {
		var b pgx.Batch
		b.Queue(journalsSQL, agents.accounts, agents.agents).Query(func(rows pgx.Rows) error {
			var k key
			var epoch int64
			var lane int16
			var received string
			var links []byte
			_, err := pgx.ForEachRow(rows, []any{&k.account, &k.agent, &epoch, &lane, &received, &links}, func() error {
				k.epoch, k.lane = uint64(epoch), uint8(lane)
				j, err := decodeJournal(links, received)
				if err == nil {
					d.keep(k, j)
				}
				return err
			})
			return err
		})
		b.Queue(bindingsSQL, agents.accounts, agents.agents).Query(func(rows pgx.Rows) error {
			var ak aliasKey
			var principal contract.ID
			_, err := pgx.ForEachRow(rows, []any{&ak.account, &ak.agent, &ak.alias, &principal}, func() error {
				d.bindings[ak] = principal
				return nil
			})
			return err
		})
		if err := closeBatch(tx.SendBatch(ctx, &b)); err != nil {
			return err
		}
	}
	for _, m := range messages {
		for _, f := range m.frames {
			if k := (key{m.account, f.agent, f.epoch, uint8(m.lane)}); d.journals[k] == nil {
				d.keep(k, &journal{})
			}
		}
	}
	return d.readMarks(ctx, tx, messages)
}

func (d *Decoder) keep(k key, j *journal) {
	d.journals[k] = j
	d.epochs[k.of()] = append(d.epochs[k.of()], keyed{k, j})
}

// readMarks loads the marks within frames that repeat what was received, be it
// under the same numbers or in another epoch.
func (d *Decoder) readMarks(ctx context.Context, tx pgx.Tx, messages []*message) error {
	for _, m := range messages {
		for _, f := range m.frames {
			for _, j := range d.epochs[laneKey{agentKey{m.account, f.agent}, uint8(m.lane)}] {
				j.journal.made, j.journal.stored, j.journal.dirty = nil, nil, false
			}
		}
	}
	var k keys
	var first, last []int64
	var of []*journal
	var others overlapping
	for _, m := range messages {
		for _, f := range m.frames {
			id := key{m.account, f.agent, f.epoch, uint8(m.lane)}
			for _, other := range d.epochs[id.of()] {
				if other.epoch != id.epoch && other.journal.reaches(f.least, f.most) {
					others.add(other, f.least, f.most)
				}
			}
			j := d.journals[id]
			if j.overlaps(seqRange{f.first, f.last}) {
				k.add(id)
				first, last, of = append(first, int64(f.first)-longestSegment), append(last, int64(f.last)), append(of, j)
			}
		}
	}
	if err := storedMarks(ctx, tx, of, marksSQL, k.accounts, k.agents, k.epochs, k.lanes, first, last); err != nil {
		return err
	}
	o := &others
	return storedMarks(ctx, tx, o.journals, marksBySecondSQL, o.accounts, o.agents, o.epochs, o.lanes, o.least, o.most)
}

// overlapping are journals together with the seconds that are asked of each.
type overlapping struct {
	keys
	least, most []int64
	journals    []*journal
}

func (o *overlapping) add(j keyed, least, most int64) {
	if i := slices.Index(o.journals, j.journal); i >= 0 {
		o.least[i], o.most[i] = min(o.least[i], least), max(o.most[i], most)
		return
	}
	o.keys.add(j.key)
	o.least, o.most, o.journals = append(o.least, least), append(o.most, most), append(o.journals, j.journal)
}

// storedMarks reads segments of the journals.
func storedMarks(ctx context.Context, tx pgx.Tx, of []*journal, sql string, args ...any) error {
	if len(of) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	var i int
	var begins int64
	var marks []byte
	_, err = pgx.ForEachRow(rows, []any{&i, &begins, &marks}, func() error {
		m, err := decodeMarks(marks)
		of[i-1].stored = append(of[i-1].stored, segment{uint64(begins), m})
		return err
	})
	return err
}

// keys are columns of keys.
type keys struct {
	accounts, agents []contract.ID
	epochs           []int64
	lanes            []int16
}

func (k *keys) add(id key) {
	k.accounts = append(k.accounts, id.account)
	k.agents = append(k.agents, id.agent)
	k.epochs = append(k.epochs, int64(id.epoch))
	k.lanes = append(k.lanes, int16(id.lane))
}

type keyed struct {
	key
	journal *journal
}

type located struct {
	account contract.ID
	from    *projection.Message
	fault
}

// writes are what a batch changes in the Decoder's own tables.
type writes struct {
	journals []keyed
	bindings []Binding
	faults   []located
}

func (d *Decoder) send(ctx context.Context, tx pgx.Tx, w *writes, counts map[contract.ID]int64) error {
	var b pgx.Batch
	if len(w.journals) > 0 {
		var k, marked keys
		received, links := make([]string, 0, len(w.journals)), make([][]byte, 0, len(w.journals))
		var seqs, least, most []int64
		var marks [][]byte
		for _, j := range w.journals {
			k.add(j.key)
			received = append(received, multirange(j.journal.present()))
			links = append(links, j.journal.encode())
			for _, m := range j.journal.made {
				marked.add(j.key)
				from, to := m.seconds()
				seqs, least, most = append(seqs, int64(m.first)), append(least, from), append(most, to)
				marks = append(marks, appendMarks(nil, m.marks))
			}
		}
		b.Queue(putJournalsSQL, k.accounts, k.agents, k.epochs, k.lanes, received, links)
		if len(seqs) > 0 {
			b.Queue(putMarksSQL, marked.accounts, marked.agents, marked.epochs, marked.lanes, seqs, marks, least, most)
		}
	}
	if n := len(w.bindings); n > 0 {
		accounts, agents := make([]contract.ID, n), make([]contract.ID, n)
		aliases, principals := make([]contract.ID, n), make([]contract.ID, n)
		positions := make([]int64, n)
		for i, x := range w.bindings {
			accounts[i], agents[i], aliases[i], principals[i], positions[i] = x.Account, x.Agent, x.Alias, x.Principal, int64(x.Position)
		}
		b.Queue(putBindingsSQL, accounts, agents, aliases, principals, positions)
	}
	if err := d.quarantine(ctx, tx, &b, w.faults, counts); err != nil {
		return err
	}
	if b.Len() == 0 {
		return nil
	}
	return closeBatch(tx.SendBatch(ctx, &b))
}

// text makes a string that Postgres keeps.
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

func closeBatch(r pgx.BatchResults) error { return r.Close() }
