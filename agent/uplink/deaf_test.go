package uplink_test

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/cetrus/cetrus/agent/uplink"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// deaf is a Manager that welcomes and acknowledges nothing.
type deaf struct {
	agentv1.UnimplementedAgentServiceServer
	reads bool
	// inTurn says again and again that what was sent waits for its turn.
	inTurn   atomic.Bool
	connects atomic.Int64
}

func (d *deaf) Connect(s grpc.BidiStreamingServer[agentv1.ConnectRequest, agentv1.ConnectResponse]) error {
	d.connects.Add(1)
	if _, err := s.Recv(); err != nil {
		return err
	}
	if err := s.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Welcome{Welcome: &agentv1.Welcome{ManagerId: make([]byte, 16), UtcMillis: 1}}}); err != nil {
		return err
	}
	for d.inTurn.Load() {
		if err := s.Send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_Throttle{Throttle: &agentv1.Throttle{InTurn: true}}}); err != nil {
			return err
		}
		<-time.After(50 * time.Millisecond)
	}
	for d.reads {
		if _, err := s.Recv(); err != nil {
			return err
		}
	}
	<-s.Context().Done()
	return nil
}

func listenDeaf(t *testing.T, reads bool) (*deaf, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &deaf{reads: reads}
	g := grpc.NewServer()
	agentv1.RegisterAgentServiceServer(g, d)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = g.Serve(l)
	}()
	t.Cleanup(func() {
		g.Stop()
		<-served
	})
	return d, l.Addr().String()
}

// patient is quick, but leaves the good Manager the time that a busy machine takes: it is
// not to be taken for a silent one.
func patient(managers ...string) uplink.Config {
	config := quick(managers...)
	config.AckTimeout = 2 * time.Second
	return config
}

func TestAManagerThatNeverAcknowledgesIsLeftForAnother(t *testing.T) {
	t.Parallel()
	d, address := listenDeaf(t, true)
	m := manager(t, 1)
	config := patient(address, m.Address())
	// A connection counts as steady before an acknowledgement is missed.
	config.SteadyAfter = config.AckTimeout / 4
	r := start(t, config)
	r.append(10)
	until(t, "the other Manager has all", func() bool { return r.journal.waiting() == 0 })
	if n := d.connects.Load(); n != 1 {
		t.Errorf("the silent Manager was tried %d times", n)
	}
	noProblems(t, m)
}

func TestAManagerThatReadsNoMoreIsLeftForAnother(t *testing.T) {
	t.Parallel()
	_, address := listenDeaf(t, false)
	m := manager(t, 1)
	r := start(t, patient(address, m.Address()))
	// More than a receiver's window lets through.
	r.uplink.ShowSightings(&usagev1.SightingReport{AgentId: make([]byte, 512<<10)})
	r.append(100)
	until(t, "the other Manager has all", func() bool { return r.journal.waiting() == 0 })
	noProblems(t, m)
}

func TestAManagerThatSaysWhyItAcknowledgesLaterIsNotLeftUntilItSaysNoMore(t *testing.T) {
	t.Parallel()
	d, address := listenDeaf(t, false)
	d.inTurn.Store(true)
	m := manager(t, 1)
	config := patient(address, m.Address())
	r := start(t, config)
	r.append(10)
	until(t, "it is connected", func() bool { return r.uplink.Status().Connected })
	<-time.After(config.AckTimeout + config.AckTimeout/2) // nothing is to happen
	if n := d.connects.Load(); n != 1 || !r.uplink.Status().Connected || r.journal.waiting() == 0 {
		t.Errorf("the Manager was tried %d times, %d records wait", n, r.journal.waiting())
	}
	d.inTurn.Store(false)
	until(t, "the other Manager has all", func() bool { return r.journal.waiting() == 0 })
	noProblems(t, m)
}
