// Command cetrus-release is the vendor's: it makes keys, and signs releases of the agent and of
// plug-ins. It is not shipped.
package main

import "os"

func main() { os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr)) }
