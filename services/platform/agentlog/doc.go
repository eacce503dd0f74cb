// Package agentlog reads the AGENT stream: batches of many agents' frames, as
// Managers forward them, become typed facts placed in UTC, each exactly once.
//
// It is the one place where the platform decodes, checks, deduplicates and
// quarantines what agents observed:
//
//   - a message's account and Manager must be those of its subject;
//   - a frame's chain must verify, its anchors must carry the ids that they
//     compute to, its records must name its agent, epoch and sequence numbers;
//   - a record's version must be known, its interval in order, its place in UTC
//     plausible;
//   - a record that was received before is dropped, by the ranges of sequence
//     numbers kept for each (account, agent, epoch, lane) in the projection's
//     own transaction; one key with two contents is found by its chain;
//   - so is a record whose event was received in another epoch of its agent, by
//     the events' ids: an agent that begins a new epoch sends again what nobody
//     acknowledged.
//
// What fails a check goes to the table agent_quarantine with its reason, its
// payload and a count, and everything else goes on: one agent's bytes never
// stop an account. Replay tries the quarantined again.
//
// The package writes the tables of its own migrations only, in the schema of
// the projection that uses it, so a rebuild rebuilds them too.
package agentlog
