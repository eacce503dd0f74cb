package bench

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/cetrus/cetrus/services/metering/export"
	"github.com/cetrus/cetrus/tools/figure"
)

// Rows is an order for a process that writes rows as a file of CSV, and throws it away.
type Rows struct {
	Count int
	// Bare has the standard library write them, with texts that are ready: the least that any file costs.
	Bare bool
	// Out is the file that takes the Written, as JSON.
	Out string
}

// Written is what came of Rows.
type Written struct {
	Seconds float64
	// Peak is the greatest resident set of the process, in bytes.
	Peak  int64
	Bytes int64
}

// counter counts what is written.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// Write carries the order out.
func (o Rows) Write() error {
	began := time.Now()
	out := &counter{}
	write := o.table
	if o.Bare {
		write = o.bare
	}
	if err := write(out); err != nil {
		return err
	}
	text, err := json.Marshal(Written{Seconds: time.Since(began).Seconds(), Peak: peakMemory(os.Getpid()), Bytes: out.n})
	if err != nil {
		return err
	}
	return writeWhole(o.Out, string(text))
}

func (o Rows) table(out io.Writer) (err error) {
	zone, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	w, err := export.NewCSV(out, export.Table{Title: "Use", Zone: zone, Columns: []export.Column{
		{Title: "Name", Kind: export.Text}, {Title: "From", Kind: export.Time}, {Title: "Day", Kind: export.Date}, {Title: "Busy", Kind: export.Duration}, {Title: "Runs", Kind: export.Count},
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for n := range o.Count {
		moment := at.Add(time.Duration(n) * time.Second)
		if err := w.Row(export.OfText("Ada Lovelace"), export.OfTime(moment), export.OfTime(moment), export.OfDuration(time.Hour), export.OfNumber(int64(n))); err != nil {
			return err
		}
	}
	return w.Finish(nil)
}

func (o Rows) bare(out io.Writer) error {
	w := csv.NewWriter(bufio.NewWriter(out))
	for n := range o.Count {
		if err := w.Write([]string{"Ada Lovelace", "2026-03-01T00:00:00+01:00", "2026-03-01", "3600.000", strconv.Itoa(n)}); err != nil {
			return err
		}
	}
	w.Flush()
	return w.Error()
}

// rows writes ten million rows, and a few, each in a process of its own: the memory must be the same.
func rows(ctx context.Context, r *run) error {
	write := func(o Rows) (w Written, err error) {
		dir, err := r.folder("rows")
		if err != nil {
			return w, err
		}
		o.Out = filepath.Join(dir, "written")
		order, err := json.Marshal(o)
		if err != nil {
			return w, err
		}
		c, err := r.start(nil, r.Self[0], append(r.Self[1:len(r.Self):len(r.Self)], "rows", string(order))...)
		if err != nil {
			return w, err
		}
		defer c.stop()
		select {
		case <-c.Done():
		case <-ctx.Done():
			return w, ctx.Err()
		}
		text, err := os.ReadFile(o.Out)
		if err != nil {
			return w, errors.Join(fmt.Errorf("bench: the process that writes rows: %w", err), c.Failure())
		}
		return w, json.Unmarshal(text, &w)
	}
	count := sized(r, 300_000, 10_000_000)
	few, err := write(Rows{Count: 10_000})
	if err != nil {
		return err
	}
	many, err := write(Rows{Count: count})
	if err != nil {
		return err
	}
	bare, err := write(Rows{Count: count, Bare: true})
	if err != nil {
		return err
	}
	return r.emit(figure.Line{Name: r.name, Value: float64(count) / many.Seconds, Unit: "rows/s", Limit: float64(count) / bare.Seconds, More: map[string]any{
		"rows": count, "file_mb": float64(many.Bytes) / 1e6, "peak_rss_mb": float64(many.Peak) / 1e6, "peak_rss_of_10000_rows_mb": float64(few.Peak) / 1e6,
	}})
}
