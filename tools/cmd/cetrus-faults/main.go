// Command cetrus-faults runs every tier under load, injects faults, and tells
// what was lost or doubled. See package faults.
package main

import "os"

func main() { os.Exit(run(os.Args[1:])) }
