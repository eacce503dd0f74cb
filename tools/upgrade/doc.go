// Package upgrade upgrades a real agent process under a scripted load, time and again, with
// releases that are broken on purpose in between, and compares what was recorded with what
// the script did. Ten good ones are followed by those that crash, hang, hear of no Manager
// or are no program at all; CETRUS_UPGRADES says another number of good ones.
package upgrade
