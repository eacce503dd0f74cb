// Package durable writes small files that must survive a crash and a power
// failure: keys, passwords, addresses.
//
// A file is there whole or as it was before, never in part, and readable by its
// owner only. It may touch the file system and nothing else.
package durable
