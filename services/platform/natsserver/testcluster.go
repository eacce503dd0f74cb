package natsserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/services/platform/ports"
)

// Cluster is three servers in this process that replicate to one another: what
// a contract suite needs to see how R3 really behaves. It is no deployment: all
// three die together.
type Cluster struct {
	Servers []*Server

	ports *ports.Held
}

// StartCluster starts three servers with their files under dir, and waits until they have elected a
// leader. The users may connect; without any, everybody may do everything.
func StartCluster(ctx context.Context, dir string, logger *slog.Logger, users ...User) (*Cluster, error) {
	const size = 3
	held, err := ports.Hold(size)
	if err != nil {
		return nil, fmt.Errorf("natsserver: %w", err)
	}
	c := &Cluster{ports: held}
	for i, address := range held.Addresses() {
		name := fmt.Sprintf("n%d", i+1)
		s, err := launch(Config{
			Name: name, StoreDir: filepath.Join(dir, name), Listen: "127.0.0.1:0", Logger: logger,
			Users: users, open: len(users) == 0,
			Cluster: &ClusterConfig{Name: "cetrus-test", Listen: address, Routes: held.Addresses(), Password: "of the test"},
		})
		if err != nil {
			c.Stop()
			return nil, err
		}
		c.Servers = append(c.Servers, s)
	}
	for _, s := range c.Servers {
		if err := s.begin(ctx); err != nil {
			c.Stop()
			return nil, err
		}
	}
	if err := c.awaitLeader(ctx); err != nil {
		c.Stop()
		return nil, err
	}
	return c, nil
}

// awaitLeader waits until all servers follow one.
func (c *Cluster) awaitLeader(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	for {
		current := 0
		for _, s := range c.Servers {
			if s.server.JetStreamIsCurrent() {
				current++
			}
		}
		if current == len(c.Servers) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("natsserver: the cluster elected no leader: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// StepDown makes the leader of a stream give up its place and waits for the
// next one.
func (c *Cluster) StepDown(ctx context.Context, nc *nats.Conn, stream string) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("natsserver: %w", err)
	}
	before, err := leader(ctx, js, stream, "")
	if err != nil {
		return err
	}
	if _, err := nc.RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+stream, nil); err != nil {
		return fmt.Errorf("natsserver: step down the leader of %s: %w", stream, err)
	}
	_, err = leader(ctx, js, stream, before)
	return err
}

// leader waits until another server than not leads the stream. A question that
// meets an election is not answered, and asked again.
func leader(ctx context.Context, js jetstream.JetStream, stream, not string) (string, error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, 250*time.Millisecond)
		s, err := js.Stream(attempt, stream)
		cancel()
		if err == nil {
			if cluster := s.CachedInfo().Cluster; cluster != nil && cluster.Leader != "" && cluster.Leader != not {
				return cluster.Leader, nil
			}
		}
		if ctx.Err() != nil {
			return "", fmt.Errorf("natsserver: %s has no new leader: %w", stream, errors.Join(ctx.Err(), err))
		}
	}
}

// Stop stops all servers.
func (c *Cluster) Stop() {
	for _, s := range c.Servers {
		s.Stop()
	}
	c.ports.Release()
}
