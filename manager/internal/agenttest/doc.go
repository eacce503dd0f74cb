// Package agenttest plays agents for tests and benchmarks of the Manager: it
// writes journals that hold, and speaks the agent's side of the stream.
package agenttest
