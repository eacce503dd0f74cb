// Package uplinktest is a Manager for tests of agents: it takes in what agents
// send, checks it as a Manager would, keeps it in memory, and can be made to
// misbehave in every way that a network and a crashing Manager can. Its faults
// come from a seed, so that a failure can be played again.
package uplinktest
