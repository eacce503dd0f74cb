package table

import (
	"encoding/csv"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/mattn/go-runewidth"
)

// Column is one column.
type Column struct {
	Title string
	// Right aligns its cells to the right, as figures are.
	Right bool
	// Flex lets it be shortened where the terminal is narrow.
	Flex bool
}

const (
	gap = "  "
	// narrowest is how short a column gets that can be shortened.
	narrowest = 8
	ellipsis  = "…"
)

// Writer writes a table in batches: each is in line, and later ones are at least as wide as those
// before.
type Writer struct {
	out     io.Writer
	columns []Column
	// width is the terminal's; 0: as wide as it gets.
	width  int
	header bool
	least  []int
}

// New writes to out, shortened to width where that is above 0.
func New(out io.Writer, width int, header bool, columns []Column) *Writer {
	return &Writer{out: out, columns: columns, width: width, header: header, least: make([]int, len(columns))}
}

// Write adds rows, each with a cell for each column.
func (w *Writer) Write(rows [][]string) error {
	all := make([][]string, 0, len(rows)+1)
	if w.header {
		w.header = false
		titles := make([]string, len(w.columns))
		for i, c := range w.columns {
			titles[i] = c.Title
		}
		all = append(all, titles)
	}
	for _, row := range rows {
		clean := make([]string, len(w.columns))
		for i := range clean {
			clean[i] = Clean(row[i])
		}
		all = append(all, clean)
	}
	widths := slices.Clone(w.least)
	for _, row := range all {
		for i, cell := range row {
			widths[i] = max(widths[i], runewidth.StringWidth(cell))
		}
	}
	w.shrink(widths)
	w.least = widths
	var text strings.Builder
	for _, row := range all {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 {
				line.WriteString(gap)
			}
			cell = runewidth.Truncate(cell, widths[i], ellipsis)
			pad := strings.Repeat(" ", widths[i]-runewidth.StringWidth(cell))
			if w.columns[i].Right {
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
		}
		text.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w.out, text.String())
	return err
}

// shrink makes the widest of the columns that may be shortened narrower, until the line fits or none
// can give any more.
func (w *Writer) shrink(widths []int) {
	if w.width <= 0 {
		return
	}
	total := len(gap) * (len(widths) - 1)
	for _, n := range widths {
		total += n
	}
	for ; total > w.width; total-- {
		widest := -1
		for i, n := range widths {
			if w.columns[i].Flex && n > narrowest && (widest < 0 || n > widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return
		}
		widths[widest]--
	}
}

// Clean is a text without what a terminal would obey: control characters, and those that turn the
// direction of what follows.
func Clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n', r == '\t', r == '\r':
			return ' '
		case unicode.Is(unicode.C, r): // control, format, surrogate, private use, unassigned
			return unicode.ReplacementChar
		}
		return r
	}, strings.ToValidUTF8(text, string(unicode.ReplacementChar)))
}

// CSV writes RFC 4180, with a line of names first where header says so.
type CSV struct {
	out    *csv.Writer
	header []string
}

// NewCSV writes to out.
func NewCSV(out io.Writer, header bool, columns []Column) *CSV {
	w := &CSV{out: csv.NewWriter(out)}
	w.out.UseCRLF = true
	for _, c := range columns {
		if header {
			w.header = append(w.header, strings.ToLower(strings.ReplaceAll(c.Title, " ", "_")))
		}
	}
	return w
}

// Write adds rows.
func (w *CSV) Write(rows [][]string) error {
	if w.header != nil {
		if err := w.out.Write(w.header); err != nil {
			return err
		}
		w.header = nil
	}
	for _, row := range rows {
		safe := make([]string, len(row))
		for i, cell := range row {
			safe[i] = inert(cell)
		}
		if err := w.out.Write(safe); err != nil {
			return err
		}
	}
	w.out.Flush()
	return w.out.Error()
}

// inert is a cell that no spreadsheet takes for a formula. Numbers stay as they are.
func inert(cell string) string {
	if cell == "" || !strings.ContainsAny(cell[:1], "=+-@\t\r") {
		return cell
	}
	if strings.Trim(cell, "+-.0123456789") == "" && strings.Count(cell, "-")+strings.Count(cell, "+") <= 1 {
		return cell
	}
	return "'" + cell
}
