// Package audit keeps, for each account, who did what, when, from where, and what it was
// before: a projection of all events of the log, whichever service wrote them, into a schema of
// its own.
//
//	chain.go       what an entry records, and the hash chain over it: pure
//	changes.go     before and after, from the events' messages by field: pure
//	reason.go      why, of events that say so: pure
//	types.go       which message an event's type means
//	projection.go  events → entries
//	verify.go      entries against the log, the first that differs named
//	queries.go     entries → answers and documents
//	service.go, api.go
//
// An account's chain covers what was recorded – position, id, type, subject, time, actor, sealed
// origin, command, and the SHA-256 of the event's bytes – and nothing that is computed from it, so
// it is the same however often the tables are built again. Whoever changes, removes, adds or
// reorders rows is found by comparing them with the log; whoever changes the log and builds
// the tables again is found by a head of the chain that was written down before.
//
// What an entry shows of fields never opens a seal: bytes are told by their number, ids as ids,
// what is named a secret not at all (changes.go). From where somebody acted is sealed under their
// key and opened for an administrator who asks, until they are forgotten; so is why somebody looked at
// the use of named people.
//
// Reads EVENTS, all of it; writes nothing but its tables. That somebody viewed named persons' use is an
// event of the service that answered, and so an entry like any other.
//
// Unfinished: actors are told by their ids; the tables are built anew only when a release changes
// them.
package audit
