// Package office is an office of 25 that does not exist: people with machines,
// programs and habits. It says what each of them does at the desk, moment by
// moment; the scripted desktop and the real agent turn that into usage.
//
// Benches record their corpus from it, and tests let some of it work by package
// desks. The same seed gives the same office, day for day. The company that
// `make run DEMO=1` shows is another one: package firm.
package office
