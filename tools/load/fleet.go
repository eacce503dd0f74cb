package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// Config says what a fleet does.
type Config struct {
	// Address is the Manager's, host:port.
	Address string
	// Corpus is what the machines say; nil: Recorded.
	Corpus *Corpus
	// Streams is how many agents there are.
	Streams int
	// Connections is how many TCP connections they share; 0: one for each 50 of
	// them. A real agent has one of its own.
	Connections int
	// EventsPerStream is how much each sends.
	EventsPerStream int
	// MinBatch and MaxBatch bound the events of a frame, drawn evenly.
	MinBatch, MaxBatch int
	// Window is how many frames of a stream may be unacknowledged.
	Window int
	// Pause lies between two frames of a stream, spread by half of it; 0: none.
	Pause time.Duration
	// Prepared makes all frames before the clock starts, so that making them
	// costs the measured time nothing. It takes memory.
	Prepared bool
	// Seed decides everything that is random.
	Seed uint64
	// StartUTCMillis is when the machines booted.
	StartUTCMillis int64
	// Ledger receives the truth; it may be nil.
	Ledger *Ledger
	// Rules replaces the corpus's rules by the account's.
	Rules []RuleRef
	// Dial replaces the way to connect.
	Dial []grpc.DialOption
}

// Validate fills in defaults and says what is wrong.
func (c *Config) Validate() error {
	if c.Streams <= 0 || c.EventsPerStream <= 0 {
		return fmt.Errorf("load: %d streams of %d events: both must be positive", c.Streams, c.EventsPerStream)
	}
	if c.Connections == 0 {
		c.Connections = max(1, c.Streams/50)
	}
	if c.MaxBatch == 0 {
		c.MinBatch, c.MaxBatch = 1, 1000
	}
	if c.MinBatch < 1 || c.MaxBatch < c.MinBatch {
		return fmt.Errorf("load: batches of %d to %d events", c.MinBatch, c.MaxBatch)
	}
	if c.Window == 0 {
		c.Window = 8
	}
	if c.Corpus == nil {
		corpus, err := Recorded()
		if err != nil {
			return err
		}
		c.Corpus = corpus
	}
	if len(c.Dial) == 0 {
		c.Dial = []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	}
	return nil
}

// Result is what a fleet did.
type Result struct {
	// Events and Frames are what was acknowledged.
	Events, Frames int64
	// Elapsed is from the first frame to the last acknowledgement.
	Elapsed time.Duration
	// CPU is what this process used meanwhile, in all its threads.
	CPU time.Duration
	// Latency is the time from sending a frame, the first time, to its
	// acknowledgement; sorted.
	Latency []time.Duration
}

// EventsPerSecond is the rate of acknowledged events.
func (r Result) EventsPerSecond() float64 { return float64(r.Events) / r.Elapsed.Seconds() }

// Percentile is the latency that the share p of all frames did not exceed.
func (r Result) Percentile(p float64) time.Duration {
	if len(r.Latency) == 0 {
		return 0
	}
	return r.Latency[min(len(r.Latency)-1, int(p*float64(len(r.Latency))))]
}

// Run lets a fleet send everything, and returns when all of it is acknowledged.
func Run(ctx context.Context, config Config) (result Result, err error) {
	if err := config.Validate(); err != nil {
		return Result{}, err
	}
	connections := make([]*grpc.ClientConn, config.Connections)
	defer func() {
		for _, c := range connections {
			if c != nil {
				err = errors.Join(err, c.Close())
			}
		}
	}()
	for i := range connections {
		if connections[i], err = grpc.NewClient(config.Address, config.Dial...); err != nil {
			return Result{}, fmt.Errorf("load: %s: %w", config.Address, err)
		}
	}

	clients := make([]*Client, config.Streams)
	frames := make([]Frames, config.Streams)
	for i := range clients {
		source := NewSource(config.Corpus, SourceConfig{
			Number: i, Seed: config.Seed, StartUTCMillis: config.StartUTCMillis,
			Ledger: config.Ledger, Rules: config.Rules,
		})
		clients[i] = NewClient(connections[i%len(connections)], source, config.Window)
		if frames[i], err = config.frames(source, uint64(i)); err != nil {
			return Result{}, err
		}
	}

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cpu := processCPU()
	started := time.Now()
	var fleet sync.WaitGroup
	for i, client := range clients {
		fleet.Go(func() {
			if err := client.Send(ctx, frames[i]); err != nil {
				cancel(fmt.Errorf("stream %d: %w", i, err))
			}
		})
	}
	fleet.Wait()
	result.Elapsed = time.Since(started)
	result.CPU = processCPU() - cpu
	for _, client := range clients {
		result.Events += client.events
		result.Frames += int64(len(client.latency))
		result.Latency = append(result.Latency, client.latency...)
	}
	slices.Sort(result.Latency)
	return result, context.Cause(ctx)
}

// frames gives the frames of one stream, prepared or made as they are needed.
func (c Config) frames(source *Source, number uint64) (Frames, error) {
	random := rand.New(rand.NewPCG(c.Seed^0x5bd1e995, number))
	left := c.EventsPerStream
	produce := func() (*usagev1.Frame, error) {
		if left == 0 {
			return nil, io.EOF
		}
		n := min(left, c.MinBatch+random.IntN(c.MaxBatch-c.MinBatch+1))
		left -= n
		return source.Next(n)
	}
	if !c.Prepared {
		return c.paced(random, produce), nil
	}
	var prepared []*usagev1.Frame
	for {
		frame, err := produce()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		prepared = append(prepared, frame)
	}
	next := 0
	return c.paced(random, func() (*usagev1.Frame, error) {
		if next == len(prepared) {
			return nil, io.EOF
		}
		next++
		return prepared[next-1], nil
	}), nil
}

func (c Config) paced(random *rand.Rand, next func() (*usagev1.Frame, error)) Frames {
	return func(ctx context.Context) (*usagev1.Frame, error) {
		if c.Pause > 0 {
			timer := time.NewTimer(c.Pause/2 + time.Duration(random.Int64N(int64(c.Pause))))
			defer timer.Stop()
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-timer.C:
			}
		}
		return next()
	}
}
