// Package expense holds what both ends must agree on of Expense-to-Project: what a field of the
// prompt takes, and which rule assigns a project to a file without asking. The platform
// compiles an account's settings by it before it accepts them, the agent's service chooses and
// checks by it, and the prompt says by it, while somebody types, what is wrong.
//
// It is pure: no clock, no file, no window.
package expense
