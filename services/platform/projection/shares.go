package projection

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/resource"
)

const (
	// shareLife is for how long a process is believed to live that is not heard of, and
	// shareEvery how often it is heard of: its successor is at work within the two, and what it takes to
	// begin.
	shareLife  = 5 * time.Second
	shareEvery = time.Second
	// shareWithin bounds one word of it.
	shareWithin = 3 * time.Second
)

// Whole is the set of partitions of a stream that is not shared by partition.
const Whole = 1

// set is a set of partitions; contract.Partitions are not more than it has bits.
type set uint64

func setOf(partitions []int32) (s set) {
	for _, p := range partitions {
		s |= 1 << p
	}
	return s
}

func (s set) has(partition int) bool { return s>>partition&1 == 1 }
func (s set) size() int              { return bits.OnesCount64(uint64(s)) }

// all lists the set in order.
func (s set) all() (list []int) {
	for ; s != 0; s &= s - 1 {
		list = append(list, bits.TrailingZeros64(uint64(s)))
	}
	return list
}

// SharesConfig says between whom what is shared.
type SharesConfig struct {
	// Pool is the projector's pool of the schema whose projections are shared.
	Pool *pgxpool.Pool
	// Instance is this process's name, which no other of the same service has at a time; default: the
	// host's. What it held when it died it has again at once when it comes back with it.
	Instance string
	// Partitions is Whole, where one process at a time reads all, or contract.Partitions.
	Partitions int
	// Reads tells whether the stream can be read; while it cannot, others take over. May be nil.
	Reads func() bool
	// Logger; default slog.Default().
	Logger *slog.Logger
}

// Shares shares the partitions of the streams between the processes that keep one schema: each
// holds its fair share, and takes over from one that is not heard of. What it says saves work only:
// nothing that two processes do at once is applied twice, since each transaction moves the
// checkpoints that it read.
type Shares struct {
	cfg SharesConfig
	id  contract.ID // of this start of the process
	log *slog.Logger

	mu sync.Mutex
	// held may be read; used are what Runners read at the moment.
	held    set
	used    map[*Runner]set
	changed chan struct{} // closed, and replaced, when held changes
	// taken is true once all was taken for good.
	taken bool
	poke  chan struct{}
}

// NewShares makes what shares; nothing is held before Start.
func NewShares(cfg SharesConfig) (*Shares, error) {
	if cfg.Pool == nil || cfg.Partitions != Whole && cfg.Partitions != contract.Partitions {
		return nil, fmt.Errorf("projection: shares: Config.Pool is needed, and %d or %d partitions", Whole, contract.Partitions)
	}
	if cfg.Instance == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("projection: the host's name, by which its partitions are held: %w", err)
		}
		cfg.Instance = host
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Shares{
		cfg: cfg, id: resource.NewID(), log: cfg.Logger.With("instance", cfg.Instance),
		used: make(map[*Runner]set), changed: make(chan struct{}), poke: make(chan struct{}, 1),
	}, nil
}

// Start holds a fair share, beyond the end of ctx too, until end is called, which gives it away: it is to be called
// when the Runners have ended.
func (s *Shares) Start(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var group sync.WaitGroup
	group.Go(func() { s.run(ctx) })
	return func() {
		cancel()
		group.Wait()
	}
}

// Keep runs Runners that share so until ctx ends or one fails.
func (s *Shares) Keep(ctx context.Context, runners ...*Runner) error {
	defer s.Start(ctx)()
	group, ctx := errgroup.WithContext(ctx)
	for _, r := range runners {
		group.Go(func() error { return r.Run(ctx) })
	}
	return group.Wait()
}

func (s *Shares) run(ctx context.Context) {
	tick := time.NewTicker(shareEvery)
	defer tick.Stop()
	heard, fresh, told := time.Now(), true, false
	for {
		err := s.keep(ctx, fresh)
		switch {
		case ctx.Err() != nil:
			s.leave(ctx)
			return
		case err == nil:
			heard, fresh, told = time.Now(), false, false
		case time.Since(heard) > shareLife && !told:
			told = true
			s.hold(0) // others have it by now
			s.log.Warn("no partition is read here: they cannot be held", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		case <-s.poke:
		}
	}
}

// keep tells that this process lives, and learns what it holds.
func (s *Shares) keep(ctx context.Context, fresh bool) error {
	if s.cfg.Reads != nil && !s.cfg.Reads() {
		return errors.New("the stream cannot be read")
	}
	ctx, cancel := context.WithTimeout(ctx, shareWithin)
	defer cancel()
	var held []int32
	var replaced []string
	var fair int
	var doubled bool
	err := s.cfg.Pool.QueryRow(ctx, "SELECT held, fair, replaced, doubled FROM keep_share($1, $2, $3, $4, $5)",
		s.cfg.Instance, s.id, fresh, s.cfg.Partitions, shareLife).Scan(&held, &fair, &replaced, &doubled)
	if err != nil {
		return err
	}
	if doubled {
		s.log.Error("another process of this service calls itself by the same name, and each undoes what the other does: give each its own (--instance)")
	}
	if len(replaced) > 0 {
		s.log.Warn("processes are not heard of any more, and what they read is read by others", "instances", replaced)
	}
	has := setOf(held)
	s.mu.Lock()
	taken := s.taken
	s.mu.Unlock()
	keep := has
	for keep.size() > fair && !taken {
		keep &^= 1 << (63 - bits.LeadingZeros64(uint64(keep)))
	}
	s.hold(keep)
	return s.release(ctx, has&^keep)
}

// hold says what may be read from now on.
func (s *Shares) hold(held set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == held {
		return
	}
	s.log.Info("partitions are read here", "count", held.size(), "before", s.held.size())
	s.held = held
	close(s.changed)
	s.changed = make(chan struct{})
}

// release gives partitions away that no Runner reads any more.
func (s *Shares) release(ctx context.Context, surplus set) error {
	s.mu.Lock()
	for _, used := range s.used {
		surplus &^= used
	}
	s.mu.Unlock()
	if surplus == 0 {
		return nil
	}
	_, err := s.cfg.Pool.Exec(ctx, "UPDATE projection_share SET holder = NULL WHERE holder = $1 AND partition = ANY ($2::int4[])", s.cfg.Instance, surplus.all())
	return err
}

// leave gives everything away at once, so that nobody waits for it.
func (s *Shares) leave(ctx context.Context) {
	s.mu.Lock()
	taken := s.taken
	s.mu.Unlock()
	if taken {
		return // for who comes with the other tables
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shareWithin)
	defer cancel()
	err := pgx.BeginFunc(ctx, s.cfg.Pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, "DELETE FROM projection_replica WHERE instance = $1 AND run = $2", s.cfg.Instance, s.id)
		if err != nil || tag.RowsAffected() == 0 {
			return err // another process has the name
		}
		_, err = tx.Exec(ctx, "UPDATE projection_share SET holder = NULL WHERE holder = $1", s.cfg.Instance)
		return err
	})
	if err != nil {
		s.log.Warn("what was read here is read by others only after a while", "error", err, "after", shareLife)
	}
}

// TakeAll has all partitions held here, whoever holds them, to put other tables in the place of
// these. There is no way back but the end of this process. Who has read the others still writes what
// it has begun, until Runner.Everywhere has ended.
func (s *Shares) TakeAll(ctx context.Context) error {
	s.mu.Lock()
	s.taken = true
	s.mu.Unlock()
	if _, err := s.cfg.Pool.Exec(ctx, "UPDATE projection_share SET holder = $1", s.cfg.Instance); err != nil {
		return fmt.Errorf("projection: taking all partitions: %w", err)
	}
	return nil
}

// of is what a Runner is to read, and when to ask again. It reads no more what it was told before.
func (s *Shares) of(r *Runner) (set, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if before := s.used[r]; before&^s.held != 0 {
		select {
		case s.poke <- struct{}{}:
		default:
		}
	}
	s.used[r] = s.held
	return s.held, s.changed
}

// ended tells that a Runner reads nothing any more.
func (s *Shares) ended(r *Runner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.used, r)
}

// Claim says that one process does something at a time.
type Claim struct {
	shares *Shares
	task   string
}

// Claim claims a task; nil where another process has it. It holds for as long as it is kept, and a
// few seconds more.
func (s *Shares) Claim(ctx context.Context, task string) (*Claim, error) {
	tag, err := s.cfg.Pool.Exec(ctx, `INSERT INTO projection_task AS t (task, holder, until) VALUES ($1, $2, now() + $3)
		ON CONFLICT (task) DO UPDATE SET holder = excluded.holder, until = excluded.until, note = '' WHERE t.holder = excluded.holder OR t.until < now()`,
		task, s.id.String(), shareLife)
	if err != nil {
		return nil, fmt.Errorf("projection: claiming %s: %w", task, err)
	}
	if tag.RowsAffected() == 0 {
		return nil, nil
	}
	return &Claim{s, task}, nil
}

// Keep keeps the claim, and notes how far its task is for all to read.
func (c *Claim) Keep(ctx context.Context, note string) error {
	tag, err := c.shares.cfg.Pool.Exec(ctx, "UPDATE projection_task SET until = now() + $3, note = $4 WHERE task = $1 AND holder = $2", c.task, c.shares.id.String(), shareLife, note)
	if err != nil {
		return fmt.Errorf("projection: keeping %s: %w", c.task, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("projection: keeping %s: another process has it", c.task)
	}
	return nil
}

// End gives the claim back.
func (c *Claim) End(ctx context.Context) error {
	_, err := c.shares.cfg.Pool.Exec(ctx, "DELETE FROM projection_task WHERE task = $1 AND holder = $2", c.task, c.shares.id.String())
	if err != nil {
		return fmt.Errorf("projection: ending %s: %w", c.task, err)
	}
	return nil
}

// Note is how far a task is that some process has claimed; false where none has.
func (s *Shares) Note(ctx context.Context, task string) (note string, under bool, err error) {
	err = s.cfg.Pool.QueryRow(ctx, "SELECT note FROM projection_task WHERE task = $1 AND until >= now()", task).Scan(&note)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("projection: how far %s is: %w", task, err)
	}
	return note, true, nil
}

// partitions is how many checkpoints a projection has.
func (r *Runner) partitions() int {
	if r.cfg.Shares == nil {
		return Whole
	}
	return r.cfg.Shares.cfg.Partitions
}

// share is what is to be read, and when to ask again.
func (r *Runner) share() (set, <-chan struct{}) {
	if r.cfg.Shares == nil {
		return 1, nil
	}
	return r.cfg.Shares.of(r)
}

// everything is the set of all partitions.
func (r *Runner) everything() set { return set(1)<<(r.partitions()-1)<<1 - 1 }

// rowName is how a partition's checkpoint is called.
func (r *Runner) rowName(partition int) string {
	if r.partitions() == Whole {
		return "all"
	}
	return strconv.Itoa(partition)
}

// rowNames names those of a set, in its order.
func (r *Runner) rowNames(of set) (names []string) {
	for _, p := range of.all() {
		names = append(names, r.rowName(p))
	}
	return names
}

// partitionOf is the partition of a subject <word>.<p>.…; what names none is of the first.
func (r *Runner) partitionOf(subject string) int {
	if r.partitions() == Whole {
		return 0
	}
	_, rest, _ := strings.Cut(subject, ".")
	token, _, _ := strings.Cut(rest, ".")
	if p, err := strconv.Atoi(token); err == nil && p >= 0 && p < r.partitions() {
		return p
	}
	return 0
}

// filters are the subjects of partitions, none where these are all that the stream holds.
func (r *Runner) filters(of set) (subjects []string) {
	if of == r.everything() {
		if r.cfg.WholeStream {
			return nil
		}
		return r.cfg.Subjects
	}
	for _, subject := range r.cfg.Subjects {
		tokens := strings.Split(subject, ".")
		for _, p := range of.all() {
			narrow := slices.Clone(tokens)
			if narrow[1] == ">" {
				narrow = append(narrow[:1], "", ">")
			}
			narrow[1] = strconv.Itoa(p)
			subjects = append(subjects, strings.Join(narrow, "."))
		}
	}
	return subjects
}
