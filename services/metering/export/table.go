package export

import (
	"math"
	"strconv"
	"time"
)

// Kind is what the cells of a column are.
type Kind int

// The kinds of cells.
const (
	// Text is anything that people or machines have named.
	Text Kind = iota
	// Time is a moment; files show it in the table's zone.
	Time
	// Date is a day of the table's zone.
	Date
	// Duration is exact to the millisecond.
	Duration
	// Count is a whole number.
	Count
	// Money is an amount in the smallest unit of the table's currency.
	Money
	// Share is a part of a whole, 1 for all of it.
	Share
)

// Column is one column of a table.
type Column struct {
	Title string
	Kind  Kind
}

// Table is what a writer knows before the first row.
type Table struct {
	// Title is the name of the sheet.
	Title   string
	Columns []Column
	// Zone is where times and dates are shown.
	Zone *time.Location
	// Currency and Digits are of columns of money: ISO 4217, and how many digits stand behind
	// the point.
	Currency string
	Digits   int
}

// Fact is something that was asked, or is to be known of the table.
type Fact struct{ Name, Value string }

// Value is the content of one cell. Its zero value is an empty one.
type Value struct {
	there  bool
	text   string
	number int64
	share  float64
	at     time.Time
}

// OfText is a text; an empty one is an empty cell.
func OfText(text string) Value { return Value{there: text != "", text: text} }

// OfTime is a moment or, in a column of dates, the day that it lies in.
func OfTime(at time.Time) Value { return Value{there: true, at: at} }

// OfDuration is a length of time.
func OfDuration(d time.Duration) Value { return Value{there: true, number: d.Milliseconds()} }

// OfNumber is a whole number, or an amount of money.
func OfNumber(n int64) Value { return Value{there: true, number: n} }

// OfShare is a part of a whole.
func OfShare(share float64) Value {
	return Value{there: !math.IsNaN(share) && !math.IsInf(share, 0), share: share}
}

// Writer writes one file. After an error it is of no further use but to be closed.
type Writer interface {
	// Row writes one row, a value for each column.
	Row(values ...Value) error
	// Finish ends the file and tells what was asked, where the kind of file has a place for it.
	Finish(facts []Fact) error
	// Close gives back what the writer holds, finished or not.
	Close() error
}

// seconds are milliseconds as a decimal number of seconds.
func seconds(millis int64) string { return Decimal(millis, 3) }

// Decimal is a number with so many digits behind the point.
func Decimal(n int64, digits int) string {
	text := strconv.FormatInt(n, 10)
	sign := ""
	if n < 0 {
		sign, text = "-", text[1:]
	}
	for len(text) <= digits {
		text = "0" + text
	}
	if digits == 0 {
		return sign + text
	}
	return sign + text[:len(text)-digits] + "." + text[len(text)-digits:]
}
