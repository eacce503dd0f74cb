// Package signin lets people in: it checks passwords and second factors, and keeps the
// sessions that follow. It is a part of identity, apart from its aggregates of accounts
// and logins, which it asks through [Directory].
//
// What people prove themselves with lies in identity's secrets schema: hashes, and what
// must be read back sealed under a key in a file (box.go). Everything that a call writes
// there it writes behind the wall of its account, in one transaction; the log is told
// after. That a password or second factor changed is kept in the same transaction, and that
// a session ended stands in its row: both are told again and again until the log has them, since
// the audit log and whoever checks access tokens hear of it there (untold.go, sessions.go).
//
// Who fails waits: by login and by address, longer with each failure and never for ever;
// addresses that a login has signed in from before are counted apart, so that nobody
// shuts another out (throttle.go). A login that is not there costs the same work and gets
// the same answer as a wrong password, and answers of refusal leave at full steps of time
// (signin.go).
//
// Access tokens are signed with Ed25519 keys that are published in EVENTS, as
// SigningKeyPublished, one before it is used and the former until its last token has
// expired (keys.go); the same keys are served as a JSON Web Key Set.
//
// A session is over once its login was disabled, even where that was taken back since: it
// remembers how often the login had been disabled when it began (sessions.go).
//
// Passkeys (package passkey speaks WebAuthn) are second factors, and whole sign-ins without a
// name. A challenge lies sealed with whoever asked for it, bound to what it was asked for, and
// is noted in the tables once it was answered (ceremony.go). One whose counter went back is refused
// until it is removed (passkeys.go).
//
// A person goes from one account to another by a session that ends with the one that they signed
// in to, and that the other account's rules allow (switch.go). That the login there is theirs they
// have proved by signing in to it, and both logins anew (link.go, proof.go); whoever sets a login's
// credentials for its person ends its links, and what was registered in the login before ends with
// the first sign-in by its person (takeover.go).
//
// Unfinished: without its key file the service does not start on the tables that were sealed
// with it.
package signin
