package faults

import (
	"context"
	"io"
	"net"
	"strconv"
	"sync"
)

// forwarder lets other machines reach what listens on a machine's loopback.
type forwarder struct {
	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	work     sync.WaitGroup
}

// forward opens a port of a machine for one of its loopback.
func (s *site) forward(ctx context.Context, name string, outer, inner int) error {
	m := s.machines[name]
	listener, err := m.Listen(ctx, s.numeric(s.at(name, outer)))
	if err != nil {
		return err
	}
	f := &forwarder{listener: listener}
	f.ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
	to := net.JoinHostPort("127.0.0.1", strconv.Itoa(inner))
	f.work.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			f.work.Go(func() {
				far, err := m.DialContext(f.ctx, "tcp", to)
				if err != nil {
					_ = near.Close()
					return
				}
				f.join(near, far)
			})
		}
	})
	s.forwards = append(s.forwards, f)
	return nil
}

// join carries both ways until either end is gone.
func (f *forwarder) join(near, far net.Conn) {
	both := func() { _ = near.Close(); _ = far.Close() }
	defer context.AfterFunc(f.ctx, both)()
	var ways sync.WaitGroup
	for _, pair := range [][2]net.Conn{{near, far}, {far, near}} {
		ways.Go(func() {
			_, _ = io.Copy(pair[0], pair[1])
			both()
		})
	}
	ways.Wait()
}

func (f *forwarder) close() {
	f.cancel()
	_ = f.listener.Close()
	f.work.Wait()
}
