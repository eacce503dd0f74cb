// Package desks lets invented people work: each desk is a machine with a script of
// what happens at it, played by the real agent's code over the scripted desktop and
// sent to a real Manager. What the people are like is said elsewhere: `tools/firm` is
// the company of `make run DEMO=1`, `tools/office` the office of 25 of benches and
// tests.
//
// A desk's past is loaded by the same agent, in virtual time, in stretches: the
// newest first, so that reports of the last days are whole while older months are
// still to come. Each stretch is a boot of its own that begins and ends with nobody
// logged on. When the last stretch is sent, the agent goes on with the present, in
// real time. A load that is stopped goes on where it was.
package desks
