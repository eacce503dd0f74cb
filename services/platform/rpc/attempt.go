package rpc

import "strings"

// What binds an attempt at single sign-on to its browser. The gateway and the web console begin
// them, under one name: a browser has one attempt at a time, the one that was begun last. The
// prefix of the secure name has browsers refuse it from any other host and over plain HTTP.
const (
	AttemptCookie      = "__Host-cetrus-sign-in"
	AttemptCookiePlain = "cetrus-sign-in"
)

// consoleAttempt begins the value of a cookie of an attempt that the console began.
const consoleAttempt = "console."

// ConsoleAttempt marks what the console keeps of an attempt as its own.
func ConsoleAttempt(value string) string { return consoleAttempt + value }

// OfConsoleAttempt is what the console kept; ok is false where it began no such attempt.
func OfConsoleAttempt(cookie string) (value string, ok bool) {
	return strings.CutPrefix(cookie, consoleAttempt)
}
