package export

import (
	"bufio"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

const byteOrderMark = "\ufeff"

// csvWriter writes RFC 4180. It is not that of encoding/csv, which changes line breaks inside a
// text where lines end in CRLF.
type csvWriter struct {
	out   *bufio.Writer
	table Table
}

// NewCSV begins a file with a line of the columns' names.
func NewCSV(w io.Writer, table Table) (Writer, error) {
	c := &csvWriter{out: bufio.NewWriterSize(w, 64<<10), table: table}
	if _, err := c.out.WriteString(byteOrderMark); err != nil {
		return nil, err
	}
	for i, column := range table.Columns {
		title := column.Title
		switch column.Kind {
		case Duration:
			title += " (s)"
		case Money:
			title += " (" + table.Currency + ")"
		case Text, Time, Date, Count, Share:
		}
		c.cell(i, Harmless(title))
	}
	return c, c.end()
}

func (c *csvWriter) Row(values ...Value) error {
	for i, v := range values {
		c.cell(i, c.text(c.table.Columns[i].Kind, v))
	}
	return c.end()
}

func (c *csvWriter) text(kind Kind, v Value) string {
	if !v.there {
		return ""
	}
	switch kind {
	case Time:
		return v.at.In(c.table.Zone).Format("2006-01-02T15:04:05.000Z07:00")
	case Date:
		return v.at.In(c.table.Zone).Format("2006-01-02")
	case Duration:
		return seconds(v.number)
	case Count:
		return strconv.FormatInt(v.number, 10)
	case Money:
		return Decimal(v.number, c.table.Digits)
	case Share:
		return strconv.FormatFloat(v.share, 'f', -1, 64)
	case Text:
	}
	return Harmless(v.text)
}

// cell writes one cell; bufio keeps the first error until end.
func (c *csvWriter) cell(place int, text string) {
	if place > 0 {
		_ = c.out.WriteByte(',')
	}
	if !strings.ContainsAny(text, ",\"\r\n") {
		_, _ = c.out.WriteString(text)
		return
	}
	_ = c.out.WriteByte('"')
	_, _ = c.out.WriteString(strings.ReplaceAll(text, `"`, `""`))
	_ = c.out.WriteByte('"')
}

func (c *csvWriter) end() error {
	_, err := c.out.WriteString("\r\n")
	return err
}

func (c *csvWriter) Finish([]Fact) error { return c.out.Flush() }

func (c *csvWriter) Close() error { return nil }

// begins are what a formula begins with, as spreadsheets in any language take it.
const begins = "=+-@\t＝＋－＠"

// Harmless keeps spreadsheets from taking a text for a formula: one that begins with what begins
// a formula gets an apostrophe before it, and so does one that has such apostrophes already, so
// that taking one away always gives the text again. Where numbers have a decimal comma, Excel parts
// a file that is opened by a click at semicolons instead of commas, and lets quotation marks hold
// nothing together that a semicolon did not open: there a new cell begins inside of a text, after a
// semicolon or a line break, so that the same is done to each such part.
func Harmless(text string) string {
	var out strings.Builder
	ignored, bad := "'", begins+"\r\n"
	for text != "" {
		part := text
		if end := strings.IndexAny(text, ";\r\n"); end >= 0 {
			part = text[:end+1]
		}
		if begin := strings.TrimLeft(part, ignored); begin != "" {
			if first, _ := utf8.DecodeRuneInString(begin); strings.ContainsRune(bad, first) {
				out.WriteByte('\'')
			}
		}
		out.WriteString(part)
		text, ignored, bad = text[len(part):], `'"`, begins
	}
	return out.String()
}
