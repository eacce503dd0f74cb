package faults

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/cetrus/cetrus/tools/stack"
)

// Build makes the binaries that a run kills, in a folder of its own.
func Build(ctx context.Context, dir string) (string, error) {
	bin := filepath.Join(dir, "bin")
	for _, program := range []string{"services/cmd/cetrus", "manager/cmd/cetrus-manager"} {
		if _, err := stack.Build(ctx, bin, program); err != nil {
			return "", fmt.Errorf("faults: %w", err)
		}
	}
	return bin, nil
}

// Flags are the words that a process of agents takes.
func (h *Hosted) Flags(f *pflag.FlagSet) {
	f.StringVar(&h.Dir, "dir", "", "folder of the truth")
	f.StringVar(&h.Disk, "disk", "", "folder of the agents")
	f.StringVar(&h.Manager, "manager", "", "where they connect")
	f.IntVar(&h.First, "first", 0, "number of the first")
	f.IntVar(&h.Count, "count", 1, "how many")
	f.Uint64Var(&h.Seed, "seed", 0, "what decides what their people do")
	f.BoolVar(&h.Offline, "offline", false, "play six weeks away before connecting")
}
