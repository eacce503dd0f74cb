// Package node is what runs inside the namespaces that package cluster makes: process 1, which
// arranges the mounts, buries the dead and tears everything down, and its one child, which starts the
// parts of Kubernetes, and plays what a cloud would give it: volumes and addresses for load balancers.
//
// It changes mounts and sends signals to every process that it sees: never run it anywhere else.
package node
