package export

import (
	"archive/zip"
	"fmt"
	"io"
	"time"

	"github.com/xuri/excelize/v2"
)

// sheetRows is how many rows a sheet of XLSX has, the head among them.
const sheetRows = 1 << 20

// Numbers of formats that every workbook knows.
const (
	formatPercent = 10 // 0.00%
	formatCount   = 1  // 0
)

// xlsxWriter gathers a workbook; what does not fit on one sheet goes on on the next.
type xlsxWriter struct {
	to     io.Writer
	table  Table
	file   *excelize.File
	sheet  *excelize.StreamWriter
	sheets int
	row    int
	// rows is how many a sheet may have.
	rows   int
	head   int
	styles []int
	cells  []any
}

// NewXLSX begins a workbook. It is written to w when it is finished.
func NewXLSX(w io.Writer, table Table) (Writer, error) { return newXLSX(w, table, sheetRows) }

func newXLSX(w io.Writer, table Table, rows int) (_ *xlsxWriter, err error) {
	x := &xlsxWriter{to: w, table: table, file: excelize.NewFile(), rows: rows, cells: make([]any, len(table.Columns))}
	// It would gather the whole compressed file in memory before it writes the first byte.
	x.file.SetZipWriter(func(io.Writer) excelize.ZipWriter { return zip.NewWriter(x.to) })
	defer func() {
		if err != nil {
			_ = x.Close() // the first error is the cause
		}
	}()
	if x.head, err = x.file.NewStyle(&excelize.Style{Font: &excelize.Font{Bold: true}, Alignment: &excelize.Alignment{WrapText: true, Vertical: "top"}}); err != nil {
		return nil, err
	}
	known := map[Kind]int{}
	for _, column := range table.Columns {
		style, ok := known[column.Kind]
		if !ok {
			if style, err = x.file.NewStyle(styleOf(column.Kind, table)); err != nil {
				return nil, err
			}
			known[column.Kind] = style
		}
		x.styles = append(x.styles, style)
	}
	return x, x.next()
}

func styleOf(kind Kind, table Table) *excelize.Style {
	custom := func(format string) *excelize.Style { return &excelize.Style{CustomNumFmt: &format} }
	switch kind {
	case Time:
		return custom("yyyy-mm-dd hh:mm:ss.000")
	case Date:
		return custom("yyyy-mm-dd")
	case Duration:
		return custom("[h]:mm:ss.000")
	case Money:
		return custom(Decimal(0, table.Digits))
	case Share:
		return &excelize.Style{NumFmt: formatPercent}
	case Count:
		return &excelize.Style{NumFmt: formatCount}
	case Text:
	}
	return custom("@")
}

// next begins a sheet.
func (x *xlsxWriter) next() error {
	if x.sheet != nil {
		if err := x.sheet.Flush(); err != nil {
			return err
		}
	}
	x.sheets++
	name := x.table.Title
	if x.sheets > 1 {
		name = fmt.Sprintf("%s %d", name, x.sheets)
	}
	var err error
	if x.sheet, err = x.newSheet(name, x.sheets == 1); err != nil {
		return err
	}
	for i, column := range x.table.Columns {
		width, title := 14.0, column.Title
		switch column.Kind {
		case Time:
			width, title = 24, title+" ("+x.table.Zone.String()+")"
		case Text:
			width = 30
		case Money:
			title += " (" + x.table.Currency + ")"
		case Date, Duration, Count, Share:
		}
		if err := x.sheet.SetColWidth(i+1, i+1, width); err != nil {
			return err
		}
		x.cells[i] = excelize.Cell{StyleID: x.head, Value: title}
	}
	if err := x.sheet.SetPanes(&excelize.Panes{Freeze: true, YSplit: 1, TopLeftCell: "A2", ActivePane: "bottomLeft"}); err != nil {
		return err
	}
	x.row = 1
	return x.sheet.SetRow("A1", x.cells)
}

// newSheet begins a sheet of a name; the first is the one that a new workbook has.
func (x *xlsxWriter) newSheet(name string, first bool) (*excelize.StreamWriter, error) {
	if first {
		if err := x.file.SetSheetName("Sheet1", name); err != nil {
			return nil, err
		}
	} else if _, err := x.file.NewSheet(name); err != nil {
		return nil, err
	}
	return x.file.NewStreamWriter(name)
}

func (x *xlsxWriter) Row(values ...Value) error {
	if x.row == x.rows {
		if err := x.next(); err != nil {
			return err
		}
	}
	x.row++
	for i, v := range values {
		x.cells[i] = nil
		if v.there {
			x.cells[i] = excelize.Cell{StyleID: x.styles[i], Value: x.value(x.table.Columns[i].Kind, v)}
		}
	}
	place, err := excelize.CoordinatesToCellName(1, x.row)
	if err != nil {
		return err
	}
	return x.sheet.SetRow(place, x.cells)
}

func (x *xlsxWriter) value(kind Kind, v Value) any {
	switch kind {
	case Time:
		return days(v.at.In(x.table.Zone))
	case Date:
		return float64(int64(days(v.at.In(x.table.Zone))))
	case Duration:
		return float64(v.number) / float64(24*time.Hour/time.Millisecond)
	case Count:
		return v.number
	case Money:
		unit := 1.0
		for range x.table.Digits {
			unit *= 10
		}
		return float64(v.number) / unit
	case Share:
		return v.share
	case Text:
	}
	return v.text
}

// epoch is the day before the first of spreadsheets, which count a 29 February 1900.
var epoch = time.Date(1899, 12, 30, 0, 0, 0, 0, time.UTC)

// days is what a clock on the wall shows, as spreadsheets count: they have no zones.
func days(t time.Time) float64 {
	_, offset := t.Zone()
	wall := t.UTC().Add(time.Duration(offset) * time.Second)
	return float64(wall.Sub(epoch).Milliseconds()) / float64(24*time.Hour/time.Millisecond)
}

// aboutSheet is the name of the sheet that tells what was asked.
const aboutSheet = "About"

func (x *xlsxWriter) Finish(facts []Fact) error {
	if err := x.sheet.Flush(); err != nil {
		return err
	}
	about, err := x.newSheet(aboutSheet, false)
	if err != nil {
		return err
	}
	if err := about.SetColWidth(1, 1, 30); err != nil {
		return err
	}
	if err := about.SetColWidth(2, 2, 100); err != nil {
		return err
	}
	for i, fact := range facts {
		if err := about.SetRow(fmt.Sprintf("A%d", i+1), []any{excelize.Cell{StyleID: x.head, Value: fact.Name}, fact.Value}); err != nil {
			return err
		}
	}
	if err := about.Flush(); err != nil {
		return err
	}
	_, err = x.file.WriteTo(x.to)
	return err
}

func (x *xlsxWriter) Close() error { return x.file.Close() }
