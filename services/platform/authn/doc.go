// Package authn says who is calling. Until the identity service exists there is
// one account and one bootstrap API key: made at first start, kept as a hash, and
// told to the person who starts Cetrus.
//
// Keys travel as "Authorization: Bearer cetrus_…" or "X-API-Key: cetrus_…"; rpc
// reads them off the wire, this package judges them and puts a [Caller] into the
// context. Nothing is known here of gRPC or HTTP.
package authn
