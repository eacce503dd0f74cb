// Package eventlog is the database of record of what people and rules decide:
// one subject per aggregate in the stream EVENTS, one event a message, in
// CloudEvents 1.0 binary mode.
//
// A Log loads an aggregate's events and appends to them under the literal
// expectation of that subject's last position, so that of two writers one gets
// ErrConflict. JetStream is the Log that runs; Memory is one for tests that have
// nothing to do with NATS; package eventlogtest holds what both must keep.
//
// A Registry names the types of events and lifts old versions to the current
// one. A Repository does for one kind of aggregate what every command needs:
// load, decide, append, and again on a conflict; at most once per command id.
// Together does it for several at once, of several kinds.
//
// It may touch NATS (only in jetstream.go and each.go). It knows no service's events.
package eventlog
