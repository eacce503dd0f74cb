// Package passkey speaks WebAuthn for signing in: it makes the challenges that a browser's
// authenticator answers, and judges the answers. The protocol itself is go-webauthn's; this
// package says how Cetrus uses it, and keeps its types from the rest of identity.
//
// A passkey is bound to a host name (the relying party) and is answered for from one origin,
// both of which follow from the URL under which people reach Cetrus ([At]). Browsers offer
// passkeys over HTTPS, or on localhost, and for no IP address; a platform that listens on
// this machine's loopback address is reached as localhost for that.
//
// It knows no tables and no log, and asks nobody: whose a passkey is, that a challenge is
// answered once, and what a counter that went back means is its caller's matter. No attestation
// is asked for: any authenticator will do.
package passkey
