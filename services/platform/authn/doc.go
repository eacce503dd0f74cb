// Package authn says who is calling. Until the identity service exists there is
// one account: it and its first API key are made at first start, more keys by
// command; of all only hashes are kept, but of the latest, which lies in a file for the
// person who starts Cetrus.
//
// Keys travel as "Authorization: Bearer cetrus_…" or "X-API-Key: cetrus_…"; rpc
// reads them off the wire, this package judges them and puts a [Caller] into the
// context. Nothing is known here of gRPC or HTTP.
package authn
