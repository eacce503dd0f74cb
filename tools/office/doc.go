// Package office is a company of 25 that does not exist: people with machines,
// programs and habits. It says what each of them does at the desk, moment by
// moment; the scripted desktop and the real agent turn that into usage.
//
// Run lets them work, each with a real agent over the scripted desktop, and loads
// their past through the same pipeline.
//
// `make run` shows it where a machine has no desktop, loads thirty days of its
// past, and the benches record their corpus from it. The same seed gives the
// same office, day for day.
package office
