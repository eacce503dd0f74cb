// Package load makes many light agents: they speak the agents' protocol to a
// Manager as real agents do, with records that the real state machine made, but
// they keep what is not acknowledged in memory instead of on disk.
//
// The benches use it to measure a Manager, the fault harness to know the truth:
// a Ledger holds, for each (instance, attention), the milliseconds that were
// journalled, and compares them one by one with what an API reports, so that a
// loss here cannot hide a doubling there.
//
// A Corpus is recorded from the real agent code and kept in the repository, so
// that figures of different days compare. A Source turns it into the endless
// history of one machine, with its own ids, epoch and hash chain. A Client sends
// one Source; Run runs a fleet.
package load
