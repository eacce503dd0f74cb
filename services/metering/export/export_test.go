package export

import (
	"bytes"
	"encoding/csv"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/xuri/excelize/v2"
	"pgregory.net/rapid"
)

// zoned is a zone with a shift of the clock and half hours.
func zoned(t testing.TB) *time.Location {
	t.Helper()
	zone, err := time.LoadLocation("Australia/Lord_Howe")
	if err != nil {
		t.Fatal(err)
	}
	return zone
}

func everyKind(t testing.TB) Table {
	return Table{Title: "Use", Zone: zoned(t), Currency: "EUR", Digits: 2, Columns: []Column{
		{"Name", Text}, {"From", Time}, {"Day", Date}, {"Busy", Duration}, {"Runs", Count}, {"Cost", Money}, {"Share", Share},
	}}
}

// texts are such that people and programs give things as names, the bad ones among them.
func texts() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.SampledFrom([]string{"", "Ada", "=1+1", "+49 30", "-5", "@SUM(A1)", "\tx", "\rx", "\nx", "'=1", "''=1", "'quoted'", `say "no"`, "a,b;c", "one\ntwo", "one\r\ntwo", "a;=1+1", `a;"=1`, "a;'=1", "one\n=2", "one\r\n-2", "a;b;", "＝1", "007", "1e5", "TRUE", " padded ", "_x0041_", "日本", "=cmd|' /C calc'!A0"}),
		rapid.StringMatching(`[=+\-@'" ,;\n]{0,5}[a-zäß<>&]{0,8}`),
	)
}

// write writes rows as a file.
func write(t failer, begin func(io.Writer, Table) (Writer, error), table Table, rows [][]Value) []byte {
	var out bytes.Buffer
	w, err := begin(&out, table)
	if err != nil {
		t.Fatalf("begin: %v", err)
	}
	for _, row := range rows {
		if err := w.Row(row...); err != nil {
			t.Fatalf("row: %v", err)
		}
	}
	if err := w.Finish([]Fact{{"Report", "=1+1"}}); err != nil {
		t.Fatalf("finish: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	return out.Bytes()
}

type failer interface {
	Fatalf(format string, args ...any)
}

// cells are what a spreadsheet may take for cells of their own: those that parts lines at semicolons too.
var cells = regexp.MustCompile(`[^;\r\n]*[;\r\n]?`)

// untamed takes away the apostrophes that keep a text from being a formula, all of which must be there.
func untamed(t failer, text string) string {
	var out strings.Builder
	for i, cell := range cells.FindAllString(text, -1) {
		bare, bad := strings.TrimLeft(cell, `'"`), "=+-@\t＝＋－＠"
		if i == 0 {
			bare, bad = strings.TrimLeft(cell, "'"), bad+"\r\n"
		}
		if first, _ := utf8.DecodeRuneInString(bare); bare != "" && strings.ContainsRune(bad, first) {
			if !strings.HasPrefix(cell, "'") {
				t.Fatalf("%q is taken for a formula in %q", cell, text)
			}
			cell = cell[1:]
		}
		out.WriteString(cell)
	}
	return out.String()
}

// Whatever things are called, a reader of CSV gets each name again, and none begins as a formula does.
func TestNamesSurviveCSV(t *testing.T) {
	table := Table{Title: "Names", Zone: time.UTC, Columns: []Column{{"Name", Text}, {"Other", Text}}}
	rapid.Check(t, func(t *rapid.T) {
		var rows [][]Value
		var want [][]string
		for range rapid.IntRange(1, 10).Draw(t, "rows") {
			row := []string{texts().Draw(t, "name"), texts().Draw(t, "other")}
			want = append(want, row)
			rows = append(rows, []Value{OfText(row[0]), OfText(row[1])})
		}
		file := write(t, NewCSV, table, rows)
		text, ok := bytes.CutPrefix(file, []byte(byteOrderMark))
		if !ok || !bytes.HasSuffix(text, []byte("\r\n")) {
			t.Fatalf("no byte order mark or no end of line: %q", file)
		}
		got, err := csv.NewReader(bytes.NewReader(text)).ReadAll()
		if err != nil {
			t.Fatalf("%v in %q", err, text)
		}
		for r, row := range got[1:] {
			for c, cell := range row {
				cell = untamed(t, cell)
				// The reader of Go makes one line break of two characters.
				if said := strings.ReplaceAll(want[r][c], "\r\n", "\n"); cell != said {
					t.Fatalf("%q became %q", said, cell)
				}
			}
		}
	})
}

// In a workbook names are texts, whatever they look like, and figures are numbers that add up to
// what was given, over all of its sheets.
func TestNamesAndFiguresSurviveXLSX(t *testing.T) {
	table := everyKind(t)
	rapid.Check(t, func(t *rapid.T) {
		var rows [][]Value
		var names []string
		var busy, runs, cost int64
		for range rapid.IntRange(0, 9).Draw(t, "rows") {
			name := texts().Draw(t, "name")
			at := time.UnixMilli(rapid.Int64Range(1_500_000_000_000, 1_900_000_000_000).Draw(t, "at"))
			b, n, c := rapid.Int64Range(0, 1<<40).Draw(t, "busy"), rapid.Int64Range(0, 1<<50).Draw(t, "runs"), rapid.Int64Range(-1<<40, 1<<40).Draw(t, "cost")
			names, busy, runs, cost = append(names, name), busy+b, runs+n, cost+c
			rows = append(rows, []Value{OfText(name), OfTime(at), OfTime(at), OfDuration(time.Duration(b) * time.Millisecond), OfNumber(n), OfNumber(c), OfShare(0.5)})
		}
		file := write(t, func(w io.Writer, table Table) (Writer, error) { return newXLSX(w, table, 4) }, table, rows)
		book, err := excelize.OpenReader(bytes.NewReader(file))
		if err != nil {
			t.Fatalf("%v", err)
		}
		defer func() { _ = book.Close() }()
		sheets := book.GetSheetList()
		if want := max(1, (len(rows)+2)/3) + 1; len(sheets) != want || sheets[len(sheets)-1] != aboutSheet {
			t.Fatalf("%d rows are on the sheets %v", len(rows), sheets)
		}
		var gotNames []string
		var gotBusy, gotRuns, gotCost int64
		for _, sheet := range sheets[:len(sheets)-1] {
			lines, err := book.GetRows(sheet, excelize.Options{RawCellValue: true})
			if err != nil {
				t.Fatalf("%v", err)
			}
			for _, cells := range lines[1:] {
				number := func(i int) float64 {
					n, err := strconv.ParseFloat(cells[i], 64)
					if err != nil {
						t.Fatalf("a figure is %q", cells[i])
					}
					return n
				}
				gotNames = append(gotNames, cells[0])
				gotBusy += int64(math.Round(number(3) * 86_400_000))
				gotRuns += int64(number(4))
				gotCost += int64(math.Round(number(5) * 100))
				if at := number(1); int64(at) != int64(number(2)) {
					t.Fatalf("%v is not on the day %v", at, number(2))
				}
			}
		}
		// XML has no other line break than \n.
		for i := range names {
			names[i] = strings.ReplaceAll(strings.ReplaceAll(names[i], "\r\n", "\n"), "\r", "\n")
			gotNames[i] = strings.ReplaceAll(strings.ReplaceAll(gotNames[i], "\r\n", "\n"), "\r", "\n")
		}
		if diff := cmp.Diff(names, gotNames); diff != "" {
			t.Fatalf("names changed: %s", diff)
		}
		if gotBusy != busy || gotRuns != runs || gotCost != cost {
			t.Fatalf("busy %d, runs %d, cost %d became %d, %d, %d", busy, runs, cost, gotBusy, gotRuns, gotCost)
		}
	})
}

// What a clock on the wall shows is what stands in the file, in the hour that a clock shows twice too.
func TestTimesAreOfTheZone(t *testing.T) {
	table := everyKind(t)
	table.Columns = []Column{{"From", Time}, {"Day", Date}}
	var rows [][]Value
	var want []string
	for at := time.Date(2026, 4, 4, 13, 0, 0, 0, time.UTC); at.Before(time.Date(2026, 4, 4, 17, 0, 0, 0, time.UTC)); at = at.Add(17 * time.Minute) {
		rows = append(rows, []Value{OfTime(at), OfTime(at)})
		want = append(want, at.In(table.Zone).Format("2006-01-02 15:04:05"))
	}
	book, err := excelize.OpenReader(bytes.NewReader(write(t, NewXLSX, table, rows)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = book.Close() }()
	lines, err := book.GetRows("Use", excelize.Options{RawCellValue: true})
	if err != nil {
		t.Fatal(err)
	}
	for i, cells := range lines[1:] {
		serial, err := strconv.ParseFloat(cells[0], 64)
		if err != nil {
			t.Fatal(err)
		}
		at, err := excelize.ExcelDateToTime(serial, false)
		if err != nil {
			t.Fatal(err)
		}
		if got := at.Round(time.Second).Format("2006-01-02 15:04:05"); got != want[i] {
			t.Errorf("%s became %s", want[i], got)
		}
	}
}

// A million rows need no more memory than a few thousand.
func TestAMillionRowsInConstantMemory(t *testing.T) {
	table := everyKind(t)
	at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		begin func(io.Writer, Table) (Writer, error)
		rows  int
	}{
		"CSV": {NewCSV, 1_000_000},
		// A row of a workbook costs ten times as much; its head and foot are the same.
		"XLSX": {func(w io.Writer, table Table) (Writer, error) { return newXLSX(w, table, 100_000) }, 250_000},
	} {
		t.Run(name, func(t *testing.T) {
			heap := func() uint64 {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				return m.HeapAlloc
			}
			before, most := heap(), uint64(0)
			w, err := c.begin(io.Discard, table)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = w.Close() }()
			for i := range c.rows {
				err := w.Row(OfText("Ada Lovelace"), OfTime(at), OfTime(at), OfDuration(time.Hour), OfNumber(int64(i)), OfNumber(1), OfShare(0.25))
				if err != nil {
					t.Fatal(err)
				}
				if i%50_000 == 0 {
					most = max(most, heap())
				}
			}
			if err := w.Finish(nil); err != nil {
				t.Fatal(err)
			}
			// excelize keeps the last 16 MiB of each sheet in memory, and has a buffer that may
			// be twice as large.
			if most = max(most, heap()); most > before+150<<20 {
				t.Errorf("%d rows hold %d MiB", c.rows, (most-before)>>20)
			}
		})
	}
}

// LibreOffice, which we did not write, reads a workbook as it is meant: it adds up to what was
// given, and nothing is a formula.
func TestLibreOfficeReadsAWorkbook(t *testing.T) {
	office, err := exec.LookPath("soffice")
	if err != nil {
		t.Fatal("LibreOffice is needed: tools/bootstrap.sh installs it")
	}
	table := everyKind(t)
	at := time.Date(2026, 7, 1, 12, 34, 56, 789_000_000, time.UTC)
	rows := [][]Value{
		{OfText("=1+1"), OfTime(at), OfTime(at), OfDuration(26*time.Hour + 1500*time.Millisecond), OfNumber(7), OfNumber(123456), OfShare(0.25)},
		{OfText("Ada, \"the\" first"), {}, {}, OfDuration(time.Hour), OfNumber(-2), OfNumber(-6), {}},
	}
	dir := t.TempDir()
	book := filepath.Join(dir, "use.xlsx")
	if err := os.WriteFile(book, write(t, NewXLSX, table, rows), 0o600); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), office, "-env:UserInstallation=file://"+filepath.Join(dir, "profile"), "--headless", "--convert-to", "csv:Text - txt - csv (StarCalc):44,34,76,1,,0,false,true", "--outdir", dir, book)
	if said, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	file, err := os.ReadFile(filepath.Join(dir, "use.csv"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(file, []byte(byteOrderMark)))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	want := [][]string{
		{"Name", "From (Australia/Lord_Howe)", "Day", "Busy", "Runs", "Cost (EUR)", "Share"},
		{"=1+1", "2026-07-01 23:04:56.789", "2026-07-01", "26:00:01.500", "7", "1234.56", "25.00%"},
		{`Ada, "the" first`, "", "", "1:00:00.000", "-2", "-0.06", ""},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// FuzzHarmless has whatever bytes a name is made of.
func FuzzHarmless(f *testing.F) {
	for _, text := range []string{"", "=", "'=", "a", "\xff=", "''", "＝", "a;=1", `a;"'=1`, "a\r\n+1", ";\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if again := untamed(t, Harmless(text)); again != text {
			t.Fatalf("%q became %q", text, again)
		}
	})
}

func BenchmarkTenMillionRows(b *testing.B) {
	for name, begin := range map[string]func(io.Writer, Table) (Writer, error){"CSV": NewCSV, "XLSX": NewXLSX} {
		b.Run(name, func(b *testing.B) {
			table := everyKind(b)
			at := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
			for b.Loop() {
				w, err := begin(io.Discard, table)
				if err != nil {
					b.Fatal(err)
				}
				for i := range 10_000_000 {
					if err := w.Row(OfText("Ada Lovelace"), OfTime(at), OfTime(at), OfDuration(time.Hour), OfNumber(int64(i)), OfNumber(1), OfShare(0.25)); err != nil {
						b.Fatal(err)
					}
				}
				if err := w.Finish(nil); err != nil {
					b.Fatal(err)
				}
				_ = w.Close()
				b.ReportMetric(10_000_000/b.Elapsed().Seconds()*float64(b.N), "rows/s")
			}
		})
	}
}
