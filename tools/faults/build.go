package faults

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/spf13/pflag"
)

// Build makes the binaries that a run kills, in a folder of its own.
func Build(ctx context.Context, dir string) (string, error) {
	bin := filepath.Join(dir, "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", fmt.Errorf("faults: %w", err)
	}
	_, here, _, _ := runtime.Caller(0)
	root := filepath.Join(filepath.Dir(here), "..", "..")
	for _, command := range []string{"services/cmd/cetrus", "manager/cmd/cetrus-manager"} {
		module := filepath.Dir(filepath.Dir(command))
		cmd := exec.CommandContext(ctx, "go", "build", "-o", bin+"/", "./cmd/"+filepath.Base(command))
		cmd.Dir = filepath.Join(root, module)
		cmd.Env = append(os.Environ(), "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("faults: go build %s: %w\n%s", command, err, out)
		}
	}
	return bin, nil
}

// Flags are the words that a process of agents takes.
func (h *Hosted) Flags(f *pflag.FlagSet) {
	f.StringVar(&h.Dir, "dir", "", "folder of the agents")
	f.StringVar(&h.Manager, "manager", "", "where they connect")
	f.IntVar(&h.First, "first", 0, "number of the first")
	f.IntVar(&h.Count, "count", 1, "how many")
	f.Uint64Var(&h.Seed, "seed", 0, "what decides what their people do")
	f.BoolVar(&h.Offline, "offline", false, "play six weeks away before connecting")
}
