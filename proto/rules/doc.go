// Package rules decides which application a program belongs to, and what its
// document is called. It is pure: a compiled policy in, an answer out. The agent
// matches with it, and the platform's dry run does, so that both agree.
//
// Cost does not grow with the number of rules: rules are indexed by executable,
// and answers are kept per program (bounded), so that what is on a desktop for
// long is looked up once.
package rules
