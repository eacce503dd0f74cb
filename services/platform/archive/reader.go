package archive

import (
	"context"
	"fmt"
	"time"

	"github.com/cetrus/cetrus/services/platform/projection"
)

// Reader reads the archive of a stream for projections.
type Reader struct {
	store  Store
	keys   *Keys
	stream string
}

// NewReader names the stream; which one of that name is said when it is read.
func NewReader(store Store, keys *Keys, stream string) *Reader {
	return &Reader{store: store, keys: keys, stream: stream}
}

// Begins implements projection.Archive. It is asked for what has gone out of the stream, and so an archive of nothing
// is none: a folder that is not mounted, or another one.
func (r *Reader) Begins(ctx context.Context, created time.Time, from uint64) (uint64, error) {
	first, last, err := New(r.store, r.keys, r.stream, created).Range(ctx)
	if err != nil {
		return 0, err
	}
	if first == 0 {
		return 0, fmt.Errorf("%w: the archive in %s holds nothing of stream %s, and %d is asked for: is it the one?", ErrGap, r.store.Where(), r.stream, from)
	}
	if last < from {
		return 0, nil
	}
	return max(first, from), nil
}

// Read implements projection.Archive.
func (r *Reader) Read(ctx context.Context, created time.Time, from uint64, take func(projection.Message) error) (uint64, error) {
	return New(r.store, r.keys, r.stream, created).Read(ctx, from, func(m Message) error {
		return take(projection.Message{Subject: m.Subject, Position: m.Sequence, Stored: m.Stored, Header: m.Header, Data: m.Data})
	})
}

// Holds tells why the archive does not hold what the stream had from a sequence to another.
func (r *Reader) Holds(ctx context.Context, created time.Time, from, until uint64) error {
	first, last, err := New(r.store, r.keys, r.stream, created).Range(ctx)
	if err != nil {
		return err
	}
	if first == 0 || first > from || last < until {
		return fmt.Errorf("%w: the archive in %s holds %d to %d of stream %s, and %d to %d are asked for", ErrGap, r.store.Where(), first, last, r.stream, from, until)
	}
	return nil
}
