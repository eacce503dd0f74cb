package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/tools/api"
	"github.com/cetrus/cetrus/tools/stack"
)

// startPlatform starts `cetrus all` where it always listens, or on free ports where
// another program is in the way, and waits until its API answers.
func startPlatform(ctx context.Context, s settings, out io.Writer, logPath string) (*stack.Platform, error) {
	var before []string
	for {
		args, moved := freePorts(ctx, s.forward)
		if len(moved) > 0 && !slices.Equal(moved, before) {
			fmt.Fprintf(out, "Another program listens on %s; %s taken instead.\n", strings.Join(moved, ", "), oneOrMore(len(moved), "a free port is", "free ports are"))
		}
		p, err := stack.StartPlatform(ctx, filepath.Join(s.binDir, "cetrus"), filepath.Join(s.dataDir, "platform"), logPath, append(args, s.forward...)...)
		if err == nil || ctx.Err() != nil {
			return p, err
		}
		// A second runner may have taken a port just after it was found free.
		before = moved
		if _, moved = freePorts(ctx, s.forward); len(moved) <= len(before) {
			return nil, err
		}
	}
}

// restartPlatform starts it again where it was, so that agents and browsers find it.
func restartPlatform(ctx context.Context, s settings, p *stack.Platform, logPath string) (program, error) {
	again, err := stack.StartPlatform(ctx, filepath.Join(s.binDir, "cetrus"), p.Dir, logPath, append(slices.Clone(s.forward), p.Listen()...)...)
	if err != nil {
		return nil, err
	}
	return again.Process, nil
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

// ensureApplications creates them where the account has none at all: whoever deleted one
// does not get it back.
func ensureApplications(ctx context.Context, client *api.Client, wanted []*meteringv1.Application) (created int, err error) {
	existing, err := client.Applications(ctx)
	if err != nil {
		return 0, err
	}
	if len(existing) > 0 {
		return 0, nil
	}
	for _, application := range wanted {
		if _, err := client.CreateApplication(ctx, application); err != nil {
			return created, fmt.Errorf("creating the application %s: %w", application.GetDisplayName(), err)
		}
		created++
	}
	return created, nil
}
