// Package capacity says what a number of seats needs of machines, from figures that were measured.
//
// Each figure bears the command that measured it and when. The formula is code, the worked examples and the
// tables of docs/capacity.md are written by it, and a test fails when the page says something else:
// `go test ./capacity -update` writes it anew. What the office of the corpus does is counted from the corpus
// itself.
//
// It touches nothing but that page, and that in its test only.
package capacity
