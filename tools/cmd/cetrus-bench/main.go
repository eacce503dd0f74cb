// Command cetrus-bench measures speed and cost. See package bench.
package main

import "os"

func main() { os.Exit(run(os.Args[1:])) }
