// Command cetrus-images makes the container images that are released. See package images.
package main

import "os"

func main() { os.Exit(run(os.Args[1:])) }
