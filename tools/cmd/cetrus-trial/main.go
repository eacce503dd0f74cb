// Command cetrus-trial tries the platform on a real Kubernetes. See package trial.
package main

import "os"

func main() { os.Exit(run(os.Args[1:])) }
