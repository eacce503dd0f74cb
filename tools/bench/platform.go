package bench

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cetrus/cetrus/tools/api"
)

// platform is `cetrus all`, as `make run` starts it, on free ports.
type platform struct {
	*child
	api     *api.Client
	manager string // where agents connect
}

func (r *run) startPlatform(ctx context.Context) (*platform, error) {
	path, err := r.build(ctx, "services", "cmd/cetrus")
	if err != nil {
		return nil, err
	}
	dir, err := r.folder("platform")
	if err != nil {
		return nil, err
	}
	const free = "127.0.0.1:0"
	p := &platform{}
	if p.child, err = r.start(nil, path, "all", "--data-dir", dir, "--rest-listen", free, "--grpc-listen", free, "--nats-listen", free,
		"--manager-agents-listen", free, "--manager-status-listen", free); err != nil {
		return nil, err
	}
	err = until(ctx, time.Minute, "the platform to answer", func() error {
		var where struct {
			REST    string `json:"rest"`
			Manager string `json:"manager_agents"`
		}
		text, err := os.ReadFile(filepath.Join(dir, "addresses.json"))
		if err == nil {
			err = json.Unmarshal(text, &where)
		}
		key, keyErr := os.ReadFile(filepath.Join(dir, "api-key"))
		if err := errors.Join(err, keyErr, p.alive()); err != nil {
			return err
		}
		p.manager, p.api = where.Manager, api.New(where.REST, strings.TrimSpace(string(key)))
		_, err = p.api.Applications(ctx)
		return err
	})
	if err != nil {
		p.stop()
		return nil, err
	}
	return p, nil
}
