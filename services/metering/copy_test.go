package metering

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"
)

// TestCopyReaderIsOneStream holds that rows encoded as they are read make the same
// bytes as rows encoded at once, whatever the sizes of rows and reads.
func TestCopyReaderIsOneStream(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.SliceOfN(rapid.IntRange(0, 3*copyChunk), 0, 8).Draw(t, "sizes of rows")
		most := rapid.IntRange(copyChunk/16, 2*copyChunk).Draw(t, "size of a read")
		encode := func(b *copyBuffer, i int) {
			b.row(1)
			for range rows[i] {
				b.b = append(b.b, byte(i))
			}
		}
		want := copyBuffer{b: append([]byte(nil), copyHeader...)}
		for i := range rows {
			encode(&want, i)
		}
		want.b = binary.BigEndian.AppendUint16(want.b, 0xffff)

		b := copyBuffer{b: append([]byte(nil), copyHeader...)}
		r := &copyReader{buffer: &b, rows: len(rows), write: func(i int) { encode(&b, i) }}
		var got []byte
		p := make([]byte, most)
		for {
			n, err := r.Read(p)
			got = append(got, p[:n]...)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil || n == 0 {
				t.Fatalf("a read gave %d bytes, %v", n, err)
			}
		}
		if string(got) != string(want.b) {
			t.Fatalf("%d bytes were read, not the %d that were to come", len(got), len(want.b))
		}
	})
}

// TestACopyThatHasEndedEncodesNoMore: pgx's goroutine may go on reading after CopyFrom
// has returned, when what it would encode from is of the next batch.
func TestACopyThatHasEndedEncodesNoMore(t *testing.T) {
	encoded := 0
	b := &copyBuffer{}
	r := &copyReader{buffer: b, rows: 1 << 20, write: func(int) { encoded++; b.row(0) }}
	p := make([]byte, 100)
	if _, err := r.Read(p); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	before := encoded
	if n, err := r.Read(p); n != 0 || err == nil || errors.Is(err, io.EOF) || encoded != before {
		t.Fatalf("it read %d bytes, %v, and encoded %d rows more", n, err, encoded-before)
	}
}

// TestACopyTellsOfAPanic: nobody recovers what pgx's goroutine does not.
func TestACopyTellsOfAPanic(t *testing.T) {
	stores := openStores(t)
	err := pgx.BeginFunc(t.Context(), stores.Views.Projector, func(tx pgx.Tx) error {
		return new(copyBuffer).into(t.Context(), tx, "interval", 1, func(int) { panic("no such attention") })
	})
	var pgErr *pgconn.PgError
	if err == nil || !strings.Contains(err.Error(), "no such attention") || errors.As(err, &pgErr) {
		t.Fatalf("a panic is told as %v", err)
	}
}

// TestBesideTellsOfAPanic: a message that the adding fails on must reach the Runner
// as an error, which sets it aside, and not end the program.
func TestBesideTellsOfAPanic(t *testing.T) {
	if err := beside(func() { panic("no such attention") })(); err == nil {
		t.Error("a panic went unnoticed")
	}
	if err := beside(func() {})(); err != nil {
		t.Error(err)
	}
}
