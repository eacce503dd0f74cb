package projection

import (
	"context"
	"embed"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
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

// checkpoint is how far a projection has come in a stream.
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

// load reads the checkpoint, or makes the first one.
func (r *Runner) load(ctx context.Context, created time.Time) (checkpoint, error) {
	c := checkpoint{created: created.UnixNano()}
	for {
		var stream string
		var createdNanos, position int64
		err := r.cfg.Pool.QueryRow(ctx, loadSQL, r.cfg.Name, r.cfg.Partitions).Scan(&stream, &createdNanos, &position, &c.stored, &c.turn)
		if errors.Is(err, pgx.ErrNoRows) {
			if _, err := r.cfg.Pool.Exec(ctx, beginSQL, r.cfg.Name, r.cfg.Partitions, r.cfg.Stream, c.created); err != nil {
				return c, err
			}
			continue
		}
		if err != nil {
			return c, err
		}
		if stream != r.cfg.Stream || createdNanos != c.created {
			return c, fmt.Errorf("%w: it was built from %s, created %s, and finds %s, created %s; rebuild it under a new version, or restore the stream",
				ErrOtherStream, stream, time.Unix(0, createdNanos).UTC().Format(time.RFC3339Nano), r.cfg.Stream, created.UTC().Format(time.RFC3339Nano))
		}
		c.position = uint64(position)
		return c, nil
	}
}

// sameMessage fails where the stream holds another message at the checkpoint than
// the one that was applied. One that the stream no longer holds says nothing.
func (c checkpoint) sameMessage(ctx context.Context, stream jetstream.Stream) error {
	if c.position == 0 || c.position < stream.CachedInfo().State.FirstSeq {
		return nil
	}
	m, err := stream.GetMsg(ctx, c.position)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the message at position %d: %w", c.position, err)
	}
	if m.Time.UnixNano() != c.stored {
		return fmt.Errorf("%w: that at position %d was stored at %s, the one that was applied at %s; restore the stream, or rebuild the projection", ErrReplaced, c.position,
			m.Time.UTC().Format(time.RFC3339Nano), time.Unix(0, c.stored).UTC().Format(time.RFC3339Nano))
	}
	return nil
}

// Tables are where a checkpoint lies: a pool, or a transaction that reads more as of the
// same moment.
type Tables interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Position reads a projection's checkpoint from its tables: what a process that
// does not run it can know. Their search_path is the projection's schema.
func Position(ctx context.Context, tables Tables, name, partitions string) (uint64, error) {
	var stream string
	var created, position, stored, turn int64
	err := tables.QueryRow(ctx, loadSQL, name, partitions).Scan(&stream, &created, &position, &stored, &turn)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("projection: %s: %w", name, err)
	}
	return uint64(position), nil
}
