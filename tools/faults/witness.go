package faults

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/tools/faults/history"
	"github.com/cetrus/cetrus/tools/stack"
)

// witness sees what is published and counted, and tells the history of it.
type witness struct {
	platform *platform
	history  *history.File
	nc       *nats.Conn
	stop     context.CancelFunc
	work     sync.WaitGroup

	mu sync.Mutex
	// position is of the last message that was seen, failure why nothing was read behind it.
	position uint64
	failure  error
	counted  map[string]history.Counted
}

// lookEvery is how often the API is asked what it counts while faults strike.
const lookEvery = 10 * time.Second

// watch begins to read the log, and to ask the API.
func watch(ctx context.Context, p *platform, file *history.File) (*witness, error) {
	w := &witness{platform: p, history: file, counted: map[string]history.Counted{}}
	servers, options, err := p.logReader()
	if err != nil {
		return nil, err
	}
	if w.nc, err = nats.Connect(servers, append(options, nats.MaxReconnects(-1), nats.ReconnectWait(200*time.Millisecond), nats.Name("faults"),
		// What goes wrong is tried again, also where a server that starts lets nobody in yet.
		nats.IgnoreAuthErrorAbort(),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))...); err != nil {
		return nil, fmt.Errorf("faults: the log: %w", err)
	}
	js, err := jetstream.New(w.nc)
	if err != nil {
		w.nc.Close()
		return nil, fmt.Errorf("faults: the log: %w", err)
	}
	working, stop := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = stop
	w.work.Go(func() {
		for working.Err() == nil {
			err := w.read(working, js)
			w.mu.Lock()
			w.failure = err
			w.mu.Unlock()
			sleep(working, 200*time.Millisecond)
		}
	})
	w.work.Go(func() {
		for sleep(working, lookEvery) {
			_ = w.look(working) // while faults strike it may fail
		}
	})
	return w, nil
}

// logReader is how the log is read: as the platform's operator does.
func (p *platform) logReader() (servers string, options []nats.Option, err error) {
	if p.site == nil {
		text, err := os.ReadFile(filepath.Join(p.dir, "platform", "addresses.nats.json"))
		if err != nil {
			return "", nil, fmt.Errorf("faults: the log: %w", err)
		}
		var told struct {
			URLs map[string]string `json:"nats_urls"`
		}
		if err := json.Unmarshal(text, &told); err != nil {
			return "", nil, fmt.Errorf("faults: the log: %w", err)
		}
		return told.URLs[natsserver.Operator], nil, nil
	}
	password, err := os.ReadFile(filepath.Join(p.site.secrets, "nats-operator", "nats-password"))
	if err != nil {
		return "", nil, fmt.Errorf("faults: the log: %w", err)
	}
	var urls []string
	for _, name := range p.site.servers {
		urls = append(urls, "tls://"+p.site.at(name, natsPort))
	}
	options = append(natsserver.RoleUser(natsserver.Operator, strings.TrimSpace(string(password))).Options(),
		nats.RootCAs(p.site.authority()), nats.SetCustomDialer(siteDialer{p.site}), nats.SkipHostLookup())
	return strings.Join(urls, ","), options, nil
}

// siteDialer connects from the harness's machine.
type siteDialer struct{ site *site }

// Dial does so.
func (d siteDialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	return d.site.from(d.site.harness)(ctx, network, address)
}

// SkipTLSHandshake leaves TLS to the client.
func (siteDialer) SkipTLSHandshake() bool { return false }

// read reads on in the log until something fails.
func (w *witness) read(ctx context.Context, js jetstream.JetStream) error {
	w.mu.Lock()
	next := w.position + 1
	w.mu.Unlock()
	consumer, err := js.OrderedConsumer(ctx, contract.AgentStream, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: next, MaxResetAttempts: 1,
	})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullExpiry(4*time.Second), jetstream.PullHeartbeat(time.Second))
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		message, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		at, err := message.Metadata()
		if err != nil {
			return err
		}
		seen, err := messageOf(at.Sequence.Stream, message)
		if err != nil {
			return err
		}
		w.history.Tell(history.Fact{Published: &seen})
		w.mu.Lock()
		w.position = at.Sequence.Stream
		w.mu.Unlock()
	}
}

// seen is the position of the last message of the log that was read.
func (w *witness) seen() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.position
}

// messageOf is what one message of the log says.
func messageOf(at uint64, message jetstream.Msg) (history.Message, error) {
	batch := &usagev1.AgentBatch{}
	if err := proto.Unmarshal(message.Data(), batch); err != nil {
		return history.Message{}, err
	}
	position, err := strconv.ParseUint(message.Headers().Get(contract.HeaderBufferPosition), 10, 64)
	if err != nil {
		return history.Message{}, err
	}
	sum := sha256.Sum256(message.Data())
	m := history.Message{
		Position: at, Subject: message.Subject(), Buffer: message.Headers().Get(contract.HeaderBuffer), BufferPosition: position, Digest: hex.EncodeToString(sum[:8]),
	}
	for _, received := range batch.GetFrames() {
		frame := &usagev1.Frame{}
		if err := proto.Unmarshal(received.GetFrame(), frame); err != nil {
			return m, err
		}
		m.Spans = append(m.Spans, history.Span{
			Agent: hex.EncodeToString(frame.GetAgentId()), Epoch: frame.GetEpoch(), Lane: frame.GetLane().String(),
			First: frame.GetFirstSeq(), Last: frame.GetFirstSeq() + uint64(len(frame.GetRecords())) - 1,
		})
		for _, text := range frame.GetRecords() {
			record := &usagev1.Record{}
			if err := proto.Unmarshal(text, record); err != nil {
				return m, err
			}
			if record.GetUsage() == nil {
				continue
			}
			r, err := history.RecordOf(record.GetUsage())
			if err != nil {
				return m, err
			}
			m.Records = append(m.Records, r)
		}
	}
	return m, nil
}

// look asks what is counted, and tells what has changed.
func (w *witness) look(ctx context.Context) error {
	return w.platform.instances(ctx, func(i *meteringv1.Instance) {
		id := mustID(i.GetInstanceId())
		now := history.Counted{Instance: hex.EncodeToString(id[:]), Closed: i.GetCloseTime() != nil, Millis: map[string]int64{}}
		for attention, millis := range attentionMillis(i) {
			if millis != 0 {
				now.Millis[attention.String()] = millis
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if before, ok := w.counted[now.Instance]; ok && before.Closed == now.Closed && maps.Equal(before.Millis, now.Millis) {
			return
		}
		w.counted[now.Instance] = now
		w.history.Tell(history.Fact{Counted: &now})
	})
}

// caughtUp waits until all of the log was seen that is there now.
func (w *witness) caughtUp(ctx context.Context) error {
	return stack.Wait(ctx, 2*time.Minute, "the log to be read to its end", func() error {
		quality, err := w.platform.quality(ctx)
		if err != nil {
			return err
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.position < quality.GetPosition() {
			return fmt.Errorf("%d of %d were read: %w", w.position, quality.GetPosition(), w.failure)
		}
		return nil
	})
}

// close ends it.
func (w *witness) close() {
	w.stop()
	w.work.Wait()
	w.nc.Close()
}

// leader is the NATS server that leads the log.
func (w *witness) leader(ctx context.Context) (string, error) {
	js, err := jetstream.New(w.nc)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	stream, err := js.Stream(ctx, contract.AgentStream)
	if err != nil {
		return "", err
	}
	if cluster := stream.CachedInfo().Cluster; cluster != nil && cluster.Leader != "" {
		return cluster.Leader, nil
	}
	return "", errors.New("nobody leads the log")
}
