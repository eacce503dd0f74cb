package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/tools/api"
)

// coldStart is how long the platform may take to answer: its first start makes a
// database, and a machine may be busy compiling.
const coldStart = 2 * time.Minute

// addresses are what `cetrus all` listens on, as it writes them into its folder.
type addresses struct {
	REST          string `json:"rest"`
	GRPC          string `json:"grpc"`
	NATS          string `json:"nats"`
	ManagerAgents string `json:"manager_agents"`
	ManagerStatus string `json:"manager_status"`
	AccountID     string `json:"account_id"`
}

// platform is a running `cetrus all`.
type platform struct {
	*child
	addresses addresses
	key       string
	api       *api.Client
}

// startPlatform starts `cetrus all` and waits until its API answers.
func startPlatform(ctx context.Context, binary, dir, logPath string, args []string) (*platform, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "addresses.json")
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	c, err := startChild("the platform", logPath, binary, append([]string{"all", "--data-dir", dir}, args...), nil)
	if err != nil {
		return nil, err
	}
	p := &platform{child: c}
	if err := p.await(ctx, dir, file); err != nil {
		p.stop(platformPatience)
		return nil, err
	}
	return p, nil
}

// await waits until the platform has said where it is, and answers there.
func (p *platform) await(ctx context.Context, dir, file string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, coldStart, fmt.Errorf("the platform did not answer within %v; see %s", coldStart, p.logPath))
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), last)
		case <-p.done:
			return p.failure()
		case <-ticker.C:
		}
		if last = p.look(ctx, dir, file); last == nil {
			return nil
		}
	}
}

func (p *platform) look(ctx context.Context, dir, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &p.addresses); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	key, err := os.ReadFile(filepath.Join(dir, "api-key"))
	if err != nil {
		return err
	}
	p.key = strings.TrimSpace(string(key))
	p.api = api.New(p.addresses.REST, p.key)
	return p.api.Get(ctx, "/v1/usage:dataQuality", nil, &meteringv1.GetDataQualityResponse{})
}

// defaultPorts are where `cetrus all` listens unless it is told otherwise.
func defaultPorts() map[string]string {
	return map[string]string{
		"rest-listen": "127.0.0.1:8080", "grpc-listen": "127.0.0.1:8081", "nats-listen": "127.0.0.1:4222",
		"manager-agents-listen": "127.0.0.1:10041", "manager-status-listen": "127.0.0.1:10042",
	}
}

// freePorts gives the arguments that move what another program is in the way of
// to a free port, and says which.
func freePorts(ctx context.Context, told []string) (args, moved []string) {
	for setting, address := range defaultPorts() {
		if slices.ContainsFunc(told, func(arg string) bool { return strings.HasPrefix(arg, "--"+setting) }) {
			continue
		}
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err == nil {
			err = listener.Close()
		}
		if err != nil {
			args = append(args, "--"+setting+"=127.0.0.1:0")
			moved = append(moved, address)
		}
	}
	slices.Sort(moved)
	return args, moved
}

// ensureApplications creates those that the account lacks, by name, and only
// where it has none at all or any is asked for: whoever deleted one at a real
// desktop does not get it back.
func ensureApplications(ctx context.Context, client *api.Client, wanted []*meteringv1.Application, always bool) (created int, err error) {
	existing, err := client.Applications(ctx)
	if err != nil {
		return 0, err
	}
	if len(existing) > 0 && !always {
		return 0, nil
	}
	known := map[string]bool{}
	for _, application := range existing {
		known[strings.ToLower(application.GetDisplayName())] = true
	}
	for _, application := range wanted {
		if known[strings.ToLower(application.GetDisplayName())] {
			continue
		}
		if _, err := client.CreateApplication(ctx, application); err != nil {
			return created, fmt.Errorf("creating the application %s: %w", application.GetDisplayName(), err)
		}
		created++
	}
	return created, nil
}
