// Package binding reads how a method of the contract stands in REST: for the gateway, which offers it, and for
// cetrusctl, which calls it. It reads descriptors and nothing else.
package binding
