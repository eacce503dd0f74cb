// Package sso lets people sign in with what their company has already: an identity provider
// that speaks OpenID Connect, one an account. It is a part of identity: it asks [Directory]
// for the login of a person whom the provider vouches for, and [Sessions] for the session
// that follows.
//
//	provider.go   what an administrator sets: a pure aggregate, ev.<p>.<account>.identity.provider.<account>
//	store.go      client secrets and used attempts, in identity's secrets schema
//	client.go     what leaves this machine: a guarded HTTP client, and what providers publish
//	attempt.go    what a browser keeps between start and end
//	claims.go     what a provider says of a person, and what of it counts
//	flow.go       start and end of an attempt
//	api.go        gRPC ↔ domain
//
// An attempt is bound to the browser that began it: state, nonce and PKCE verifier lie sealed
// in a cookie, so a stranger who begins attempts fills no table. It ends once (used_attempt),
// at the redirect URL of its own account, with a token of its own account's issuer: an answer
// that one provider gave is never shown to another (ADR 040).
//
// Providers are named by administrators of accounts, who need not be those who run this
// platform: connections to addresses of private networks are refused unless the operator
// allows them, as are redirects, plain HTTP and answers without end.
//
// Unfinished: sign-out at the provider is not followed, so a session lasts until it is ended
// here; a person's groups are read at sign-in only; providers behind an outbound HTTP proxy
// are not reached; response_mode form_post, encrypted tokens and private_key_jwt are not
// spoken.
package sso
