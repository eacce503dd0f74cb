package natsserver_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/archive"
	"github.com/cetrus/cetrus/services/platform/natsserver"
)

func TestCopiedStreamsArePutBackAsTheyWere(t *testing.T) {
	from, to := newParts(t, 1), newParts(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 6*patience)
	defer cancel()
	js := from.js("platform")
	subject := event(natsserver.Identity, "login")
	big := make([]byte, 100<<10)
	for i := range 40 {
		rand.Read(big) // so that a copy is not much smaller
		if _, err := js.Publish(ctx, subject, slices.Concat(big, []byte(fmt.Sprint(i)))); err != nil {
			t.Fatal(err)
		}
	}
	// A reactor that has acted on some: it goes on there.
	stream, err := js.Stream(ctx, contract.EventStream)
	if err != nil {
		t.Fatal(err)
	}
	acting, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{Durable: "identity-mail", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	for range 7 {
		m, err := acting.Next()
		if err == nil {
			err = m.DoubleAck(ctx)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	operator, other := from.by[natsserver.Operator], to.by[natsserver.Operator]
	copyOf := func(stream string) (of natsserver.Copied, pieces [][]byte) {
		t.Helper()
		of, err := natsserver.CopyStream(ctx, operator, stream, func(natsserver.Copied) {}, func(piece []byte) error {
			pieces = append(pieces, piece)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return of, pieces
	}
	given := func(pieces [][]byte) func(context.Context, func([]byte) error) error {
		return func(_ context.Context, give func([]byte) error) error {
			for _, piece := range pieces {
				if err := give(piece); err != nil {
					return err
				}
			}
			return nil
		}
	}
	poison, inPoison := copyOf(contract.PoisonStream)
	// What cannot be read is not put in the place of anything.
	gone := errors.New("gone")
	if err := natsserver.PutStreamBack(ctx, other, poison, func(context.Context, func([]byte) error) error { return gone }); !errors.Is(err, gone) {
		t.Errorf("what cannot be read was put back: %v", err)
	}
	if _, err := to.js("platform").Stream(ctx, contract.PoisonStream); err != nil {
		t.Errorf("a stream was given up for what cannot be read: %v", err)
	}
	// Settings that would have its messages stored as events are not taken from a copy.
	poison.Config.RePublish = &server.RePublish{Source: ">", Destination: "ev.>"}
	if err := natsserver.PutStreamBack(ctx, other, poison, given(inPoison)); err != nil {
		t.Fatal(err)
	}
	if is, err := to.js("platform").Stream(ctx, contract.PoisonStream); err != nil || is.CachedInfo().Config.RePublish != nil {
		t.Errorf("a stream was put back with other settings: %v", err)
	}
	copied, pieces := copyOf(contract.EventStream)
	if copied.State.LastSeq != 40 || len(pieces) < 2 {
		t.Fatalf("%d pieces of a stream that ends at %d", len(pieces), copied.State.LastSeq)
	}
	if err := natsserver.PutStreamBack(ctx, other, copied, given(pieces)); err != nil {
		t.Fatal(err)
	}
	back, err := to.js("platform").Stream(ctx, contract.EventStream)
	if err != nil {
		t.Fatal(err)
	}
	after := back.CachedInfo()
	if after.State.FirstSeq != 1 || after.State.LastSeq != 40 || after.State.Msgs != 40 {
		t.Errorf("it holds %+v", after.State)
	}
	for _, sequence := range []uint64{1, 40} {
		was, err := stream.GetMsg(ctx, sequence)
		if err != nil {
			t.Fatal(err)
		}
		is, err := back.GetMsg(ctx, sequence)
		if err != nil || !is.Time.Equal(was.Time) || string(is.Data) != string(was.Data) || is.Subject != was.Subject {
			t.Errorf("message %d: %v", sequence, err)
		}
	}
	if consumer, err := back.Consumer(ctx, "identity-mail"); err != nil || consumer.CachedInfo().AckFloor.Stream != 7 {
		t.Errorf("the reactor goes on elsewhere: %v", err)
	}
	// It is not empty any more.
	if err := natsserver.PutStreamBack(ctx, other, copied, given(pieces)); err == nil {
		t.Error("a stream that holds something is replaced")
	}
	// One that holds nothing is not replaced either, once something was decided.
	if err := natsserver.PutStreamBack(ctx, other, poison, given(inPoison)); err == nil {
		t.Error("a stream of a platform that is in use is replaced")
	}
	// No other part copies, or puts back.
	for _, name := range natsserver.Roles() {
		if name == natsserver.Operator {
			continue
		}
		short, end := context.WithTimeout(ctx, patience/20)
		if _, err := natsserver.CopyStream(short, from.by[name], contract.EventStream, func(natsserver.Copied) {}, func([]byte) error { return errors.New("no") }); err == nil {
			t.Errorf("%s copies EVENTS", name)
		}
		end()
	}
}

// heldStore is slow twice: when it makes the first object of a stream, and when it loads the second.
type heldStore struct {
	archive.Store
	making, loading sync.Once
	held            func()
}

func (h *heldStore) Create(ctx context.Context, name string, content []byte) error {
	if path.Base(name) == "000000" {
		h.making.Do(h.held)
	}
	return h.Store.Create(ctx, name, content)
}

func (h *heldStore) Load(ctx context.Context, name string) ([]byte, error) {
	if path.Base(name) == "000001" {
		h.loading.Do(h.held)
	}
	return h.Store.Load(ctx, name)
}

// JetStream gives up what does not move for 5 s, and one object may take a store longer than that.
func TestCopiesOutliveASlowStore(t *testing.T) {
	from, to := newParts(t, 1), newParts(t, 1)
	js := from.js("platform")
	// More than all that may wait: an object that is being made, one behind it, JetStream's window, and what comes meanwhile.
	const messages, size = 48, 900 << 10
	big := make([]byte, size)
	for range messages {
		rand.Read(big)
		if _, err := js.Publish(t.Context(), event(natsserver.Identity, "login"), big); err != nil {
			t.Fatal(err)
		}
	}
	folder, err := archive.OpenStore("file://" + t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// JetStream's patience is its own, and goes by the clock.
	store := &heldStore{Store: folder, held: func() { <-time.After(7 * time.Second) }}
	keys := archive.NewKeys()
	backup := archive.NewBackup(store, keys, time.Now())
	var copied natsserver.Copied
	err = backup.Add(t.Context(), "stream", func(w io.Writer) (err error) {
		copied, err = natsserver.CopyStream(t.Context(), from.by[natsserver.Operator], contract.EventStream, func(natsserver.Copied) {}, func(piece []byte) error {
			_, err := w.Write(piece)
			return err
		})
		return err
	})
	if err == nil {
		err = backup.Finish(t.Context(), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	kept, err := archive.OpenBackup(t.Context(), store, keys, backup.Name())
	if err != nil {
		t.Fatal(err)
	}
	err = natsserver.PutStreamBack(t.Context(), to.by[natsserver.Operator], copied, func(ctx context.Context, give func([]byte) error) error {
		return kept.Each(ctx, "stream", give)
	})
	if err != nil {
		t.Fatal(err)
	}
	back, err := to.js("platform").Stream(t.Context(), contract.EventStream)
	if err != nil {
		t.Fatal(err)
	}
	if last, err := back.GetMsg(t.Context(), messages); err != nil || !bytes.Equal(last.Data, big) {
		t.Errorf("the last message is not what was sent: %v", err)
	}
}
