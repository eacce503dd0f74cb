// Package export writes tables of typed cells as files: CSV for programs and any spreadsheet,
// XLSX for people who reckon on with the figures. It knows no report and asks nobody: whoever
// has rows gives them one after another, and a writer holds none of them longer than it takes
// to write it, so that a file of ten million rows needs no more memory than one of ten.
//
// What a file shows comes from outside: names of people, machines and documents may be anything.
// A text never becomes a formula, in either kind of file, also where a spreadsheet parts CSV at
// semicolons, and a number never becomes a text.
//
// CSV begins with a byte order mark: without one, Excel reads UTF-8 as the letters of the
// country it was sold in, and umlauts are lost in each file. Programs that mind it read
// "utf-8-sig", or take JSON.
//
// A workbook is gathered in a file of the system's temporary directory, about 1 GB for a million
// rows of fifteen columns, since its parts are written one after the other and it is compressed
// last; CSV needs none.
//
// It may use excelize and the standard library.
package export
