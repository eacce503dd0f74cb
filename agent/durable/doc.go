// Package durable writes the agent's small files so that each is there whole or as it was
// before, whatever happens meanwhile: a crash, a power failure, a full disk.
//
// It may touch the file that it is asked about, one beside it, and their folder. The
// journal has files of its own kind, which are written in place.
//
// No library does so on both systems: google/renameio leaves Windows out on purpose, as a
// rename there may find its target open. That is waited for.
package durable
