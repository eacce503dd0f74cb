// Package contract holds the few facts that both ends of a wire must agree on
// and that no .proto file can say: subjects, header names, limits, the hash
// chain of a journal, and the ids that are computed rather than drawn.
//
// It imports nothing but the standard library and the generated messages, so
// that the agent can afford it.
package contract
