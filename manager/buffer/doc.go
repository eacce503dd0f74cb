// Package buffer keeps what agents sent until the platform has it, through
// crashes and power failures.
//
// It is an embedded NATS server with one JetStream stream, reached in process and
// never by network. Every write is synced before it is acknowledged. A sync costs
// about as much for one byte as for megabytes, so frames of all agents are
// gathered into one message while the message before is on its way to the disk:
// group commit. Each message is a serialized usagev1.AgentBatch of one lane,
// ready to be forwarded byte for byte.
//
// A buffer has an identity, random and born with it, and numbers its messages
// without gaps: their positions. Whoever forwards them names both, which is what
// lets a copy of the folder, an older state of it, and a reinstall be told apart
// from the buffer that went before. When the buffer finds on opening that it lost
// messages, it says so, and goes on under a new identity, so that a position is
// never used twice.
//
// The package may touch its own folder and nothing else; it knows the shape of an
// AgentBatch but does not look into frames.
package buffer
