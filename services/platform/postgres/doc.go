// Package postgres gives each service its tables behind walls.
//
// It starts a private PostgreSQL server where none is given, makes a service's
// schema (goose migrations), and opens two pools on it:
//
//   - the query role reads under forced row-level security: a transaction names
//     one account and sees that account's rows only, whatever its SQL says;
//   - the own role, where a service has one, reads for those who see nothing but what is
//     their own: only tables that were given to it, and of them the rows of the principals
//     that the transaction names. Which of the two roles reads is said by the context, so
//     that no handler can forget it;
//   - the projector role writes many accounts in one transaction. Forced
//     row-level security forbids COPY and inserts for several accounts, so this
//     role bypasses it; it has no path to the API.
//
// Tables belong to a third role that cannot log in. CheckWalls walks the
// catalogue and names every table that stands open; Store.Open refuses a schema
// with such a table.
//
// A projection's schema carries its version (metering_v2), and a number where that
// was built again (metering_v2b1). A new one is built beside the one that answers
// queries; Activate swaps them.
//
// The package imports no other package of the platform but ports, and authn for who asks.
package postgres
