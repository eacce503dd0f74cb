// Package dryrun holds the test of rules that are tried on what agents see: a real
// agent on a scripted desktop, a real Manager, real NATS with its walls, and
// metering with PostgreSQL, in one process so that metering alone can be restarted.
package dryrun
