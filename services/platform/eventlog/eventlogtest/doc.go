// Package eventlogtest holds what every eventlog.Log must keep, as a suite of
// tests that runs against any implementation; a proxy that loses what goes
// between a client and its server at the moment when it hurts; and the golden
// files that keep every version of an event readable.
//
// Only tests import it.
package eventlogtest
