package table

import (
	"strings"
	"testing"

	"github.com/mattn/go-runewidth"
	"pgregory.net/rapid"
)

func TestColumnsStandInLine(t *testing.T) {
	var out strings.Builder
	w := New(&out, 30, true, []Column{{Title: "NAME", Flex: true}, {Title: "BUSY", Right: true}, {Title: "FILE", Flex: true}})
	if err := w.Write([][]string{{"無題 ドキュメント", "1:12:40", "Pier 3.FCStd"}, {"a\x1b[31mb\nc", "9", ""}}); err != nil {
		t.Fatal(err)
	}
	want := "NAME          BUSY  FILE\n無題 ド…   1:12:40  Pier 3.FC…\na�[31mb c        9\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

// TestNoLineIsTooWideOrObeyed: no line is wider than the terminal as long as columns can give way, and
// none holds what a terminal would obey.
func TestNoLineIsTooWideOrObeyed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		columns := make([]Column, rapid.IntRange(1, 6).Draw(t, "columns"))
		for i := range columns {
			columns[i] = Column{Title: "T", Flex: true, Right: rapid.Bool().Draw(t, "right")}
		}
		width := rapid.IntRange(len(columns)*(narrowest+len(gap)), 200).Draw(t, "width")
		var out strings.Builder
		w := New(&out, width, true, columns)
		for range rapid.IntRange(1, 3).Draw(t, "batches") {
			var rows [][]string
			for range rapid.IntRange(0, 5).Draw(t, "rows") {
				rows = append(rows, rapid.SliceOfN(rapid.String(), len(columns), len(columns)).Draw(t, "row"))
			}
			if err := w.Write(rows); err != nil {
				t.Fatal(err)
			}
		}
		for line := range strings.Lines(out.String()) {
			line = strings.TrimSuffix(line, "\n")
			if got := runewidth.StringWidth(line); got > width {
				t.Fatalf("%d columns in a terminal of %d: %q", got, width, line)
			}
			if Clean(line) != line {
				t.Fatalf("%q", line)
			}
		}
	})
}

func TestCSVIsNoFormula(t *testing.T) {
	var out strings.Builder
	w := NewCSV(&out, true, []Column{{Title: "LAST SEEN"}, {Title: "ID"}})
	if err := w.Write([][]string{{"=1+1", "-12.5"}, {"@x", `a"b,c`}, {"-x", "+1-2"}}); err != nil {
		t.Fatal(err)
	}
	if want := "last_seen,id\r\n'=1+1,-12.5\r\n'@x,\"a\"\"b,c\"\r\n'-x,'+1-2\r\n"; out.String() != want {
		t.Errorf("got %q", out.String())
	}
}
