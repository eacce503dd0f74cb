package bench

import (
	"context"
	"path/filepath"

	"github.com/cetrus/cetrus/tools/stack"
)

// startPlatform starts `cetrus all`, as `make run` does, on free ports, with further arguments.
func (r *run) startPlatform(ctx context.Context, args ...string) (*stack.Platform, error) {
	path, err := r.build(ctx, "services/cmd/cetrus")
	if err != nil {
		return nil, err
	}
	dir, err := r.folder("platform")
	if err != nil {
		return nil, err
	}
	return stack.StartPlatform(ctx, path, dir, filepath.Join(r.dir, "platform.log"), append(append(stack.Anywhere().Listen(), stack.Plaintext), args...)...)
}
