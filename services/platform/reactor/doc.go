// Package reactor acts on events: it sends the mail, calls the card processor,
// publishes what follows from a decision.
//
// A Reactor is a durable JetStream consumer with explicit acknowledgement, a
// handler, and Watermill's router between them with the middleware that
// middleware.go lists in its order. An event is acknowledged when its handler
// has succeeded, or when it has been set aside in the stream POISON; until then
// it comes again, after a crash too. So a handler runs at least once for each
// event, and the event's id is the key by which whatever it does must be done
// once only: hand it to the other side as idempotency key, or record it in the
// same transaction.
//
// Several events are in hand at once and in no order. Whoever needs the order
// is a projection, or takes one event at a time (InFlight 1).
//
// Watermill's own JetStream subscriber is not used: it keeps one message in hand
// at a time, forgets the position, and closes a connection that it was lent.
//
// It may touch NATS and Watermill. It knows no service's events.
package reactor
