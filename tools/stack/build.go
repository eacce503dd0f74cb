package stack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// Build makes one of the project's programs, named as "services/cmd/cetrus", in a
// folder, as `make run` makes it, and tells where it is.
func Build(ctx context.Context, dir, program string) (string, error) {
	_, here, _, _ := runtime.Caller(0)
	name := filepath.Base(program)
	module := filepath.Dir(filepath.Dir(program))
	args := []string{"build"}
	env := append(os.Environ(), "GOWORK=off")
	if module == "agent" {
		args = append(args, "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w")
		env = append(env, "CGO_ENABLED=0")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "-o", dir+"/", "./cmd/"+name)...)
	cmd.Dir = filepath.Join(filepath.Dir(here), "..", "..", module)
	cmd.Env = env
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", program, err, out)
	}
	return filepath.Join(dir, name), nil
}
