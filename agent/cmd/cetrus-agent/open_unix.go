//go:build unix

package main

import (
	"context"
	"os/exec"
)

func opener(ctx context.Context, file string) *exec.Cmd {
	return exec.CommandContext(ctx, "xdg-open", file)
}
