// Command cetrus is the platform in one binary: `cetrus all` runs everything on
// one machine, `cetrus metering` and its siblings run one part each, with the
// same code.
//
// targets.go is the table of what can be run and in which order; parts.go holds
// one constructor for each part; process.go starts them, watches them, and stops
// them the last first; orders.go and managers.go are what an operator tells a
// platform that runs. No part knows what it runs beside.
package main

import (
	"os"

	_ "golang.org/x/crypto/x509roots/fallback" // an image holds no files of authorities
)

func main() { os.Exit(start(os.Args[1:], os.Stdout, os.Stderr)) }
