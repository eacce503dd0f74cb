// Package policy mirrors the account's policy from the platform into a file, so
// that a Manager and its agents start with the platform out of reach.
//
// The POLICY stream keeps the latest policy of each account; whatever it holds
// last is the truth, even where its revision is smaller than the mirrored one,
// as after the platform was set up anew.
package policy
