package projection

import (
	"context"
	"embed"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/services/platform/postgres"
)

//go:embed migrations/*.sql
var migrations embed.FS

var (
	//go:embed sql/load.sql
	loadSQL string
	//go:embed sql/begin.sql
	beginSQL string
	//go:embed sql/move.sql
	moveSQL string
	//go:embed sql/hold.sql
	holdSQL string
	//go:embed sql/carry.sql
	carrySQL string
	//go:embed sql/level.sql
	levelSQL string
	//go:embed sql/position.sql
	positionSQL string
)

// Migrations make the table of checkpoints; every schema that a Runner writes
// needs them.
func Migrations() postgres.Migrations {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic(err) // the directory is embedded
	}
	return postgres.Migrations{Name: "projection", Files: files}
}

// Errors that stop a Runner: nothing that it could do would be right.
var (
	// ErrOtherStream means that the stream is not the one that the tables were
	// built from.
	ErrOtherStream = errors.New("the stream is not the one that this projection was built from")
	// ErrBehind means that the stream ends before the checkpoint: it has lost
	// messages whose effect the tables hold.
	ErrBehind = errors.New("the stream ends before the projection's checkpoint: it has lost messages")
	// ErrReplaced means that the stream holds another message at the checkpoint
	// than the one that was applied: it has lost its tail, and taken other messages
	// in at the same positions since.
	ErrReplaced = errors.New("the stream holds another message at the projection's checkpoint: it has lost messages, and others stand in their place")
)

// IsLogChanged tells the errors that say that the stream is no longer the one that
// the tables were built from: only tables built anew are right again.
func IsLogChanged(err error) bool {
	return errors.Is(err, ErrOtherStream) || errors.Is(err, ErrBehind) || errors.Is(err, ErrReplaced)
}

// errMoved means that another runner is at work on the same projection.
var errMoved = errors.New("another runner has moved the checkpoint")

// checkpoint is how far a projection has come in a partition of a stream.
type checkpoint struct {
	created  int64 // nanoseconds since 1970
	position uint64
	// stored is when the stream stored the message at position, in nanoseconds since
	// 1970; 0 before the first.
	stored int64
	// turn counts the transactions that have written the tables: whoever remembers
	// something of them knows by it that nobody else has written since.
	turn int64
}

// load reads the checkpoints of a set of partitions, or makes the first ones.
func (r *Runner) load(ctx context.Context, created time.Time, of set) (map[int]checkpoint, error) {
	names := r.rowNames(of)
	all := make(map[int]checkpoint, len(names))
	for attempt := range 3 {
		rows, err := r.cfg.Pool.Query(ctx, loadSQL, r.cfg.Name, names)
		if err != nil {
			return nil, err
		}
		var name, stream string
		var position int64
		var c checkpoint
		if _, err := pgx.ForEachRow(rows, []any{&name, &stream, &c.created, &position, &c.stored, &c.turn}, func() error {
			if stream != r.cfg.Stream || c.created != created.UnixNano() {
				return fmt.Errorf("%w: it was built from %s, created %s, and finds %s, created %s; rebuild it under a new version, or restore the stream",
					ErrOtherStream, stream, time.Unix(0, c.created).UTC().Format(time.RFC3339Nano), r.cfg.Stream, created.UTC().Format(time.RFC3339Nano))
			}
			c.position = uint64(position)
			partition := 0
			if r.partitions() != Whole {
				if partition, err = strconv.Atoi(name); err != nil {
					return err
				}
			}
			all[partition] = c
			return nil
		}); err != nil {
			return nil, err
		}
		if len(all) == len(names) {
			return all, nil
		}
		if attempt == 0 && r.partitions() != Whole {
			if _, err := r.cfg.Pool.Exec(ctx, carrySQL, r.cfg.Name, r.cfg.Stream, r.partitions()); err != nil {
				return nil, err
			}
		}
		if _, err := r.cfg.Pool.Exec(ctx, beginSQL, r.cfg.Name, names, r.cfg.Stream, created.UnixNano()); err != nil {
			return nil, err
		}
	}
	return nil, errors.New("the checkpoints were made, and are not there")
}

// mine fails where the tables say that others hold a partition: until then it is not written of.
func (r *Runner) mine(ctx context.Context, of set) error {
	if r.cfg.Shares == nil {
		return nil
	}
	var held int
	s := r.cfg.Shares
	if err := r.cfg.Pool.QueryRow(ctx, "SELECT count(*) FROM projection_share WHERE holder = $1 AND partition = ANY ($2::int4[])", s.cfg.Instance, of.all()).Scan(&held); err != nil {
		return err
	}
	if held < of.size() {
		return errMoved
	}
	return nil
}

// sameMessages fails where the stream holds another message at a checkpoint than
// the one that was applied. One that the stream no longer holds says nothing.
func sameMessages(ctx context.Context, stream jetstream.Stream, at map[int]checkpoint) error {
	seen := make(map[uint64]int64) // when it was stored, by position
	for _, c := range at {
		if c.position == 0 || c.position < stream.CachedInfo().State.FirstSeq {
			continue
		}
		stored, known := seen[c.position]
		if !known {
			m, err := stream.GetMsg(ctx, c.position)
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				continue
			}
			if err != nil {
				return fmt.Errorf("the message at position %d: %w", c.position, err)
			}
			stored = m.Time.UnixNano()
			seen[c.position] = stored
		}
		if stored != c.stored {
			return fmt.Errorf("%w: that at position %d was stored at %s, the one that was applied at %s; restore the stream, or rebuild the projection", ErrReplaced, c.position,
				time.Unix(0, stored).UTC().Format(time.RFC3339Nano), time.Unix(0, c.stored).UTC().Format(time.RFC3339Nano))
		}
	}
	return nil
}

// Tables are where a checkpoint lies: a pool, or a transaction that reads more as of the
// same moment.
type Tables interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// AllPartitions stands for each of them.
const AllPartitions = -1

// Position reads from its tables how far a projection has come in a partition, or in all of them, AllPartitions: what
// a process that does not run it can know. Everything up to there is applied. Their search_path is the projection's schema.
func Position(ctx context.Context, tables Tables, name string, partition int) (uint64, error) {
	var row *string
	if partition != AllPartitions {
		row = new(strconv.Itoa(partition))
	}
	var position int64
	if err := tables.QueryRow(ctx, positionSQL, name, row).Scan(&position); err != nil {
		return 0, fmt.Errorf("projection: %s: %w", name, err)
	}
	return uint64(position), nil
}
