// Package ingest is the Manager's side of the conversation with agents: it
// serves agentv1.AgentService.
//
// A frame is checked without decoding its records: sizes, ids, the hash chain,
// the ids of the anchors. It is then handed to the durable buffer byte for byte,
// and acknowledged strictly after the commit that holds it. Nothing that an agent
// sent is dropped: while the buffer cannot write, agents are asked to wait, and
// their journals keep what they have.
//
// The package may touch the network towards agents; what it stores, seals or
// publishes goes through the interfaces of Deps.
package ingest
