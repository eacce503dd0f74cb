// Package browser has people's browsers in tests: Debian's Chromium without a window, driven by
// its DevTools protocol, with authenticators for passkeys that it makes believe in.
//
// Its tests sign in by passkeys at a real platform, as a person would and as an attacker. A
// page of the gateway is needed only for its origin: what a console will do there, the tests
// do by script. Nothing here is shipped.
package browser
