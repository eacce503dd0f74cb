// Package cluster starts a real Kubernetes of one node on this machine, for tests and for people who
// change the charts: etcd, the API server and everything else as processes of an own small machine
// made of namespaces, with nothing pulled from anywhere.
//
// The node has its own processes, mounts, network and cgroup. Its root filesystem is the machine's,
// read-only; what it writes goes to one folder. So it disturbs nothing, and stopping it is ending
// process 1 in there: the kernel then ends every other and takes mounts, interfaces, firewall rules
// along. The same happens when whoever started it is killed: process 1 holds on to a pipe.
//
// This package is the part outside: certificates, the cable between the node and the machine, starting
// and stopping. Package node is what runs inside. Both need root.
package cluster
