package stack

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

// Build makes one of the project's programs, named by its folder as
// "services/cmd/cetrus", in a folder, as `make run` makes it, and tells where it is.
func Build(ctx context.Context, dir, program string) (string, error) {
	_ = os.Getenv("CETRUS_SOURCES") // so that a change of them undoes Go's memory of a test's result
	_, here, _, _ := runtime.Caller(0)
	cmd := exec.CommandContext(ctx, filepath.Join(filepath.Dir(here), "..", "build.sh"), dir, program)
	cmd.WaitDelay = time.Second // what the script has started may outlive it
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w\n%s", program, err, out)
	}
	return filepath.Join(dir, filepath.Base(program)), nil
}
