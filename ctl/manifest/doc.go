// Package manifest is how applications, groups and settings stand in files: YAML documents that
// people keep beside their other settings, and that cetrusctl compares with what the platform has
// and makes it like.
//
// What a kind may say is read from the contract's own descriptors, less what the platform alone
// decides; in place of ids stand names. A document is decoded strictly: what is unknown, twice, or
// of a wrong type is an error with file, line and column, and each field remembers where it stands,
// so that what the platform refuses can be told there too. What is encoded decodes to the same.
//
// The package asks no platform: Plan compares what it is given.
package manifest
