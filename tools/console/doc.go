// Package console tries the web console as people use it: a real browser (Debian's Chromium, by
// its DevTools protocol) before a real platform, with a few people of the invented office at work.
//
// It also is where people's browsers in tests come from, with authenticators for passkeys that it makes
// believe in: signing in is tried in every way that there is, with a real identity provider (npm's
// oidc-provider) and mail that arrives, by the API's methods and by the console's pages.
//
// It asks of every page that it shows without an error, asks no other host for anything, breaks
// no content security policy and has nothing that axe-core finds serious, light and dark. What
// pages look like is written to out/screens at the widths of a phone, a tablet and a desk.
package console
