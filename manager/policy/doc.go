// Package policy mirrors the account's policy from the platform into a file, so
// that a Manager and its agents start with the platform out of reach.
//
// The POLICY stream keeps the latest policy of each account; whatever it holds
// last is the truth, even where its revision is smaller than the mirrored one,
// as after the platform was set up anew. Where it was published before the mirrored
// one the whole platform was put back to an earlier state, which nobody there can
// tell: after two minutes, and when the stream's leader says the same, agents get it as
// published anew, and the Manager says so until somebody acknowledges it.
package policy
