// Package faults proves that nothing journalled is lost or counted twice. It runs
// every tier as its own process under scripted load, injects faults from a
// printed seed, and in the end compares each (instance, attention) that agents
// journalled with what the API reports, to the millisecond.
//
// It may import anything: it is a developer's tool and never shipped.
package faults
