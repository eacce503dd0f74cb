package metering

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/proto/contract"
)

// copyBuffer writes rows in PostgreSQL's binary COPY format. It is kept from batch
// to batch; encoding a row by hand costs a tenth of pgx's general way.
type copyBuffer struct{ b []byte }

var copyHeader = []byte("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00")

// copyChunk is how much is encoded ahead of what PostgreSQL has taken.
const copyChunk = 64 << 10

// row begins a row of so many fields.
func (c *copyBuffer) row(fields int) {
	c.b = binary.BigEndian.AppendUint16(c.b, uint16(fields))
}

func (c *copyBuffer) id(id contract.ID) {
	c.b = binary.BigEndian.AppendUint32(c.b, uint32(len(id)))
	c.b = append(c.b, id[:]...)
}

func (c *copyBuffer) int8(v int64) {
	c.b = binary.BigEndian.AppendUint32(c.b, 8)
	c.b = binary.BigEndian.AppendUint64(c.b, uint64(v))
}

func (c *copyBuffer) int4(v int32) {
	c.b = binary.BigEndian.AppendUint32(c.b, 4)
	c.b = binary.BigEndian.AppendUint32(c.b, uint32(v))
}

func (c *copyBuffer) int2(v int16) {
	c.b = binary.BigEndian.AppendUint32(c.b, 2)
	c.b = binary.BigEndian.AppendUint16(c.b, uint16(v))
}

func (c *copyBuffer) bool(v bool) {
	c.b = binary.BigEndian.AppendUint32(c.b, 1)
	if v {
		c.b = append(c.b, 1)
	} else {
		c.b = append(c.b, 0)
	}
}

func (c *copyBuffer) null() { c.b = binary.BigEndian.AppendUint32(c.b, 0xffffffff) }

func (c *copyBuffer) totals(t *Totals) {
	for _, ms := range t.Millis {
		c.int8(ms)
	}
	c.int8(t.Timeouts)
	c.int8(t.Instances)
}

// into copies as many rows to a table: "name (column, …)". write appends one of
// them; it is called while PostgreSQL is at work on the rows before.
func (c *copyBuffer) into(ctx context.Context, tx pgx.Tx, table string, rows int, write func(i int)) error {
	if rows == 0 {
		return nil
	}
	c.b = append(c.b[:0], copyHeader...)
	r := &copyReader{buffer: c, rows: rows, write: write}
	tag, err := tx.Conn().PgConn().CopyFrom(ctx, r, "COPY "+table+" FROM STDIN (FORMAT binary)")
	// Where the server dies, CopyFrom does not wait for the goroutine that reads.
	if failed := r.stop(); failed != nil {
		return fmt.Errorf("metering: copy %s: %w", table, failed)
	}
	if err != nil {
		return fmt.Errorf("metering: copy %s: %w", table, err)
	}
	if int(tag.RowsAffected()) != rows {
		return fmt.Errorf("metering: copy %s: %d rows of %d arrived", table, tag.RowsAffected(), rows)
	}
	return nil
}

// errCopyEnded is for a reader that outlives its COPY: what it would encode from is
// somebody else's by then.
var errCopyEnded = errors.New("the copy has ended")

// copyReader encodes rows as they are read, in a goroutine of pgx's.
type copyReader struct {
	mu     sync.Mutex
	buffer *copyBuffer
	read   int // of the buffer, by the call before
	next   int
	rows   int
	write  func(i int)
	ended  bool
	failed error // the encoding panicked
	over   bool  // stop was called
}

// stop has every later Read fail, waits for one that is under way, and tells whether
// the encoding has panicked.
func (r *copyReader) stop() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	return r.failed
}

// Read implements io.Reader. A panic is an error here: nobody else could recover it.
func (r *copyReader) Read(p []byte) (n int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return 0, errCopyEnded
	}
	defer func() {
		if cause := recover(); cause != nil {
			r.failed = fmt.Errorf("row %d cannot be encoded: %v", r.next, cause)
			n, err = 0, r.failed
		}
	}()
	c := r.buffer
	c.b, r.read = append(c.b[:0], c.b[r.read:]...), 0
	for ; r.next < r.rows && len(c.b) < copyChunk; r.next++ {
		r.write(r.next)
	}
	if r.next == r.rows && !r.ended {
		r.ended = true
		c.b = binary.BigEndian.AppendUint16(c.b, 0xffff)
	}
	if len(c.b) == 0 {
		return 0, io.EOF
	}
	r.read = copy(p, c.b)
	return r.read, nil
}
