//go:build linux

package ingest_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"

	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"

	"github.com/cetrus/cetrus/manager/ingest"
	"github.com/cetrus/cetrus/manager/internal/agenttest"
)

// BenchmarkLiveBesideBacklogs: 1,000 laptops bring 4,000 events each at once, while 50 agents go on sending
// small frames, each with a live snapshot behind it. It tells how long those snapshots need, and the most
// memory of this process, in which the laptops are, too.
func BenchmarkLiveBesideBacklogs(b *testing.B) {
	const laptops, others, warm = 1000, 50, 2 * time.Second
	corpus := newCorpus(load{records: func(int) int { return contract.MaxFrameRecords }, frames: 4})
	for range b.N {
		r := start(b, testConfig{dir: benchDir(b)})
		var working, sending sync.WaitGroup
		done := make(chan struct{})
		took := make([][]time.Duration, others)
		for n := range others {
			j := journal(uint64(1 + n))
			client := greeted(b, r, j)
			go drain(client)
			working.Go(func() { took[n] = showing(r, client, j, time.Now().Add(warm), done) })
		}
		clients, journals := make([]*agenttest.Client, laptops), make([]*agenttest.Journal, laptops)
		for n := range laptops {
			journals[n] = journal(uint64(1_000_000 + n))
			clients[n] = greeted(b, r, journals[n], grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawClientCodec{encoding.GetCodecV2("proto")})))
		}
		before := statusMB("VmRSS:")
		if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // the peak begins anew
			b.Fatal(err)
		}
		began := time.Now()
		for n, client := range clients {
			sending.Go(func() {
				_ = client.Stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Health{Health: &agentv1.Health{Backlog: &agentv1.Backlog{TimeMillis: 1}}}})
				for f := range corpus.tails {
					if client.Stream.SendMsg(corpus.message(journals[n], f)) != nil {
						return
					}
				}
			})
			sending.Go(func() {
				if err := client.Acknowledged(journals[n].Epoch, 1, uint64(len(corpus.tails)*contract.MaxFrameRecords)); err != nil {
					b.Error(err)
				}
			})
		}
		sending.Wait()
		span, peak := time.Since(began), statusMB("VmHWM:")
		close(done)
		working.Wait()
		all := slices.Concat(took...)
		slices.Sort(all)
		b.ReportMetric(all[len(all)*99/100].Seconds()*1000, "live-p99-ms")
		b.ReportMetric(all[len(all)/2].Seconds()*1000, "live-p50-ms")
		b.ReportMetric(laptops*float64(len(corpus.tails)*contract.MaxFrameRecords)/span.Seconds(), "events/s")
		b.ReportMetric(peak-before, "MB")
		b.ReportMetric(0, "ns/op")
		r.stop()
	}
}

func greeted(b *testing.B, r *running, j *agenttest.Journal, options ...grpc.DialOption) *agenttest.Client {
	b.Helper()
	c, err := agenttest.Dial(b.Context(), r.address, options...)
	if err == nil {
		err = c.SendHello(agenttest.Hello(j))
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	return c
}

// drain hears what the Manager says, and does nothing about it.
func drain(c *agenttest.Client) {
	for {
		if _, err := c.Stream.Recv(); err != nil {
			return
		}
	}
}

// showing sends a frame and a live snapshot behind it five times a second, and tells how long snapshots took
// that were sent from a time on.
func showing(r *running, c *agenttest.Client, j *agenttest.Journal, from time.Time, done <-chan struct{}) (took []time.Duration) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for serial := uint64(1); ; serial++ {
		select {
		case <-done:
			return took
		case <-tick.C:
		}
		sent := time.Now()
		if c.SendFrame(j.Frame(3)) != nil || c.Stream.Send(&agentv1.ConnectRequest{Message: &agentv1.ConnectRequest_Live{Live: &usagev1.LiveSnapshot{SessionId: j.Agent[:], ValidMillis: 300_000, Serial: serial}}}) != nil {
			return took
		}
		for !shown(r, j.Agent, serial) {
			<-time.After(10 * time.Millisecond)
		}
		if sent.After(from) {
			took = append(took, time.Since(sent))
		}
	}
}

func shown(r *running, session contract.ID, serial uint64) bool {
	return slices.ContainsFunc(r.server.Live(), func(l ingest.LiveSession) bool {
		return string(l.Snapshot.GetSessionId()) == string(session[:]) && l.Snapshot.GetSerial() >= serial
	})
}

// statusMB is a figure of this process's memory.
func statusMB(line string) float64 {
	text, _ := os.ReadFile("/proc/self/status")
	for l := range strings.Lines(string(text)) {
		var kib float64
		if rest, ok := strings.CutPrefix(l, line); ok {
			if _, err := fmt.Sscan(rest, &kib); err == nil {
				return kib / 1000
			}
		}
	}
	return 0
}
