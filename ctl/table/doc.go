// Package table writes rows to a terminal or into CSV: columns in line whatever letters stand in
// them, shortened where the terminal is narrow, and with nothing in them that a terminal or a
// spreadsheet would obey, since names come from other people's desktops.
package table
