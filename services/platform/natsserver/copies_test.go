package natsserver_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cetrus/cetrus/proto/contract"
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
	given := func(pieces [][]byte) func() ([]byte, error) {
		return func() ([]byte, error) {
			if len(pieces) == 0 {
				return nil, io.EOF
			}
			piece := pieces[0]
			pieces = pieces[1:]
			return piece, nil
		}
	}
	// Settings that would have its messages stored as events are not taken from a copy.
	poison, inPoison := copyOf(contract.PoisonStream)
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
