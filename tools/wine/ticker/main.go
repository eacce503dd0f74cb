// Command ticker is a program to be watched, and held, by an agent: it counts in a file
// for as long as it runs.
package main

import (
	"fmt"
	"os"
	"time"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: ticker FILE")
		os.Exit(2)
	}
	ticks := 0
	for range time.Tick(20 * time.Millisecond) {
		ticks++
		if err := os.WriteFile(os.Args[1], fmt.Appendln(nil, ticks), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
