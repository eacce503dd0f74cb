// Package errs is how errors are told in Cetrus: a few kinds, and in every error
// the operation that failed, what it was about, and the way out.
//
// Each layer wraps an error once, with [Wrap], adding its own operation and
// subject; the kind is decided once, where the cause is known, and kept. Package
// rpc maps kinds to gRPC codes and HTTP statuses, in one place; nobody else
// speaks of either.
//
// It imports nothing but the standard library, so that domain files may use it.
package errs
