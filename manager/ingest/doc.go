// Package ingest is the Manager's side of the conversation with agents: it
// serves agentv1.AgentService.
//
// A frame is checked without decoding its records: sizes, ids, the hash chain,
// the ids of the anchors. It is then handed to the durable buffer byte for byte,
// and acknowledged strictly after the commit that holds it. Nothing that an agent
// sent is dropped: while the buffer cannot write, agents are asked to wait, and
// their journals keep what they have.
//
// What is under way has a bound in bytes, from all agents together. Who has much to send
// is read in turn, one frame each, and waits where it is until then; small frames and live
// snapshots of the others pass it.
//
// A frame that repeats numbers and cannot show that it repeats the records is refused,
// with a new epoch asked for; so is an epoch of which the platform tells that it has two
// contents. What one agent can make the Manager, or the log's readers, remember has
// bounds.
//
// The package may touch the network towards agents; what it stores, seals or
// publishes goes through the interfaces of Deps.
package ingest
