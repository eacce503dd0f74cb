package stack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// Build makes one of the project's programs, named by its folder as
// "services/cmd/cetrus", in a folder, as `make run` makes it, and tells where it is.
func Build(ctx context.Context, dir, program string) (string, error) {
	_ = os.Getenv("CETRUS_SOURCES") // so that a change of them undoes Go's memory of a test's result
	root, err := checkout()
	if err != nil {
		return "", fmt.Errorf("building %s: %w", program, err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, "tools", "build.sh"), dir, program)
	cmd.WaitDelay = time.Second // what the script has started may outlive it
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", program, err, out)
	}
	return filepath.Join(dir, filepath.Base(program)), nil
}

// checkout is the folder of the project around the working directory. What a program was compiled
// from is not asked: with -trimpath it does not tell.
func checkout() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.work")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("%s is not within the project's sources: run this from there", dir)
		}
	}
}
