package metering

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/cetrus/cetrus/proto/contract"
)

// copyBuffer holds rows in PostgreSQL's binary COPY format. It is kept from batch
// to batch; encoding a row by hand costs a tenth of pgx's general way.
type copyBuffer struct {
	b    []byte
	rows int
}

var copyHeader = []byte("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x00")

func (c *copyBuffer) reset() { c.b, c.rows = append(c.b[:0], copyHeader...), 0 }

// row begins a row of so many fields.
func (c *copyBuffer) row(fields int) {
	c.rows++
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

// into sends the rows to a table: "name (column, …)".
func (c *copyBuffer) into(ctx context.Context, tx pgx.Tx, table string) error {
	if c.rows == 0 {
		return nil
	}
	b := binary.BigEndian.AppendUint16(c.b, 0xffff)
	tag, err := tx.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(b), "COPY "+table+" FROM STDIN (FORMAT binary)")
	if err != nil {
		return fmt.Errorf("metering: copy %s: %w", table, err)
	}
	if int(tag.RowsAffected()) != c.rows {
		return fmt.Errorf("metering: copy %s: %d rows of %d arrived", table, tag.RowsAffected(), c.rows)
	}
	return nil
}
