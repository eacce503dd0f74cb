// Package proto is the contract of Cetrus: the messages between its tiers, by
// context and version, in *.proto files, with the Go and OpenAPI generated from
// them. Change a .proto file, then run `make generate`. Changes are additive;
// `buf breaking` checks it.
package proto
