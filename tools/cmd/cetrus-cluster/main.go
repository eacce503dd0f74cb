// Command cetrus-cluster runs a Kubernetes of one node on this machine until it is interrupted. See
// package cluster.
package main

import "os"

func main() { os.Exit(run(os.Args[1:])) }
