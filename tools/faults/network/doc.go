// Package network gives each part of a run a machine of its own to be on: a network
// namespace with one interface, and joins these by a switch that this process is. So
// the way between any two of them can be cut, lose frames, hold them back, let later
// ones overtake, repeat and damage them, in one direction or both, from a seed.
//
// The switch stands in for tc's netem, which many kernels lack, and needs no bridge
// and no firewall: each interface is a TAP device whose other end is read and written
// here. Namespaces have no name, and go with the processes that are in them.
//
// It needs Linux and root, touches nothing of the machine's own network, and knows
// nothing of what is said over it.
package network
