// Package upgrade upgrades a real agent process under a scripted load, time and again, with
// releases that are broken on purpose in between, and compares what was recorded with what
// the script did. CETRUS_UPGRADES says how often; the ten of the full form are
//
//	CETRUS_UPGRADES=10 go test ./upgrade
package upgrade
