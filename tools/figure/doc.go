// Package figure is how what was measured is written down: one JSON object a line, in the files below
// out/, with the same fields whoever measured it (docs/performance.md). It touches nothing but those files.
package figure
