package main

import (
	"context"
	"os/exec"
)

func opener(ctx context.Context, file string) *exec.Cmd {
	return exec.CommandContext(ctx, "rundll32.exe", "url.dll,FileProtocolHandler", file)
}
