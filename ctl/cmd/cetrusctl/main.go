// Command cetrusctl is Cetrus in a terminal: docs/cetrusctl.md.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
	_ "time/tzdata" // accounts' zones, where the system knows none

	"github.com/cetrus/cetrus/ctl/command"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	code := command.Run(ctx, command.World{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Getenv, Now: time.Now}, os.Args[1:])
	stop()
	os.Exit(code)
}
