// Package faults proves that nothing journalled is lost or counted twice. It runs
// every tier as its own process under scripted load, injects faults from a
// printed seed, and in the end compares each (instance, attention) that agents
// journalled with what the API reports, to the millisecond, and judges the history
// of the run.
//
//	run.go       a run from its start to its comparison
//	kind.go      the kinds of faults
//	strike.go    how they strike; weather.go the network's, wear.go the disks'
//	targets.go   what is struck by one at a time
//	machines.go  the platform with each part on a machine of its own; platform.go all on one
//	room.go      what all machines share: names and mounts
//	agents.go    processes of agents; truth.go what they journalled
//	relay.go     stands between agents and Manager; link.go between Manager and platform on one machine
//	witness.go   sees what is published and counted
//
// Below are its parts that know nothing of the product: network, a switch; disk, a
// file system that loses its power; history, which keeps what was seen and judges it.
//
// It may import anything: it is a developer's tool and never shipped.
package faults
