// Package stack builds and starts the real programs (cetrus, cetrus-manager,
// cetrus-agent, or a tool's own) as processes, for everything under tools that needs
// them: `make run`, benches, fault harness, end-to-end tests.
//
// A process never outlives the one that started it, writes to a file, and can be
// stopped, or killed with all that it started, and started again.
package stack
