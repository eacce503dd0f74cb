// Package authn says who is calling. Three kinds of credentials do: the keys of the data
// directory ([Keys]; the operator's own, made at first start, of which the latest lies in a
// file), API keys of logins, and access tokens, which identity signs for a session. An
// [Authenticator] judges all three and puts a [Caller] into the context.
//
// Nobody is asked for that. A token is judged by identity's public keys ([KeySet],
// [Tokens]); what ends a token or a key before its own end (a disabled or deleted login, a
// privilege taken away, a revoked key, an ended session) stands in a [Directory], which
// package authn/follow feeds from the log. One that has not caught up, or is cut off from
// the log, lets nobody in but the keys of the data directory.
//
// Keys travel as "Authorization: Bearer cetrus_…" or "X-API-Key: cetrus_…", tokens as
// "Authorization: Bearer …"; rpc and the gateway read them off the wire. What a caller may
// is judged by package authz. Nothing is known here of gRPC, HTTP or NATS.
package authn
