// Package recount adds a company's use up again, straight from what its agents told: the plain
// re-computation that every report is compared with.
//
// It shares nothing with metering but the contract. Where metering keeps quarter-hour cells and
// sweeps over edges, this goes through all that ever was for each question, cuts at every
// quarter-hour, joins and subtracts lists of spans, and counts in maps. It is slow, and meant to be
// read: where the two differ, docs/usage.md and docs/reports.md say who is right.
//
// The package's test asks all reports of a real platform about a company of 60 people and 400 days,
// at random, and wants each figure to the millisecond. RECOUNT_QUESTIONS asks so many of each
// report, RECOUNT_SEED others. A bench asks the same of 1,000 people and a year, and measures by how
// much metering is faster.
package recount
