package stack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Build makes one of the project's programs, named by its folder as
// "services/cmd/cetrus", in a folder, as `make run` makes it, and tells where it is.
func Build(ctx context.Context, dir, program string) (string, error) {
	_, here, _, _ := runtime.Caller(0)
	module, command, _ := strings.Cut(program, "/")
	args := []string{"build"}
	env := append(os.Environ(), "GOWORK=off")
	if module == "agent" || module == "tools" { // what runs beside an agent is compared with it
		env = append(env, "CGO_ENABLED=0")
	}
	if module == "agent" {
		args = append(args, "-trimpath", "-tags", "grpcnotrace", "-ldflags", "-s -w")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "-o", dir+"/", "./"+command)...)
	cmd.Dir = filepath.Join(filepath.Dir(here), "..", "..", module)
	cmd.Env = env
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build %s: %w\n%s", program, err, out)
	}
	return filepath.Join(dir, filepath.Base(program)), nil
}
