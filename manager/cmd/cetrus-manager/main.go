package main

import (
	"os"

	_ "golang.org/x/crypto/x509roots/fallback" // an image holds no files of authorities
)

func main() { os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr)) }
