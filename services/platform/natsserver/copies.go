package natsserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"golang.org/x/sync/errgroup"

	"github.com/cetrus/cetrus/proto/contract"
)

// Streams are copied whole by JetStream's own snapshots: they keep sequences, times and the
// positions of durable consumers, so that all that speaks of them stays true. When the stream was
// made they do not keep (nats-server 2.15): whoever goes by that finds another stream.
//
// JetStream sends a snapshot to whatever subject the request names, which would have it appended to
// a stream; so the server asks for roles, and gives each piece to who asks for it. What is put back
// has the settings of the stream that is there, and comes only before anything was decided: with
// settings of one's own, or consumers, messages of one's own making would reach other streams.
const (
	copyOf  = "copy.begin."  // and the stream; answers a copyBegun
	copyOn  = "copy.next."   // and the copy's id; answers the next piece
	putBack = "copy.put."    // and the stream; takes a Copied, answers a copyBegun
	putOn   = "copy.append." // and the id; takes the next piece, nothing behind the last

	// pieceBytes is the size of a piece, windowBytes what is under way to this server. Pieces are small because
	// some are taken in any case while who takes them is slow.
	pieceBytes, windowBytes = 128 << 10, 4 << 20
	// pieceWithin is how long a piece may take, idleFor how long who copies may say nothing.
	pieceWithin, idleFor = 30 * time.Second, time.Minute

	// endHeader is in the answer behind the last piece; problemHeader says why there is none.
	endHeader, problemHeader = "Cetrus-End", "Cetrus-Problem"
)

// Copied says what a copy is of.
type Copied struct {
	// Created is when the stream was made that was copied.
	Created time.Time           `json:"created"`
	Config  server.StreamConfig `json:"config"`
	State   server.StreamState  `json:"state"`
}

// copyBegun answers who begins to copy, or to put back.
type copyBegun struct {
	ID string `json:"id"`
	// Of is what is copied; nil where something is put back.
	Of *Copied `json:"of,omitempty"`
}

// CopyStream copies a stream, by pieces, as JetStream writes it; the pieces' sizes are of no
// meaning. begun is told of what, before the first. take may be as slow as it likes; it is called by
// one goroutine, which has ended when this returns. It is for the operator's connection.
func CopyStream(ctx context.Context, nc *nats.Conn, stream string, begun func(Copied), take func(piece []byte) error) (Copied, error) {
	fail := func(err error) error { return fmt.Errorf("natsserver: copy stream %s: %w", stream, err) }
	copying, err := begin(ctx, nc, copyOf+stream, nil)
	if err != nil {
		return Copied{}, fail(err)
	}
	if copying.Of == nil {
		return Copied{}, fail(errors.New("nothing is said of it"))
	}
	begun(*copying.Of)
	came := newBacklog()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for {
			piece, err := ask(ctx, nc, copyOn+copying.ID, nil)
			if err != nil {
				return fail(err)
			}
			if piece.Header.Get(endHeader) != "" {
				came.end()
				return nil
			}
			came.add(piece.Data)
			if _, err := came.hasRoom(ctx, movesEvery); err != nil {
				return fail(err)
			}
			if came.isFull() {
				return fail(fmt.Errorf("%d MiB of it wait to be stored: the store stands still, or takes less than JetStream gives at the least", fullBytes>>20))
			}
		}
	})
	group.Go(func() error {
		for {
			if _, err := came.holds(ctx, 0, 0); err != nil {
				return fail(err)
			}
			piece, last := came.take(pieceBytes)
			if last {
				return nil
			}
			if err := take(piece); err != nil {
				return err
			}
		}
	})
	if err := group.Wait(); err != nil {
		return Copied{}, err
	}
	return *copying.Of, nil
}

// PutStreamBack puts a copied stream in place of one that is there and has never held a message, in
// an installation in which nothing was decided: EVENTS is put back last. read calls give with the
// pieces, of any size, which are not read's any more then; it may be as slow as it likes, and has
// ended when this returns. Nothing is done to the stream before read has given something. The stream
// keeps its present settings.
func PutStreamBack(ctx context.Context, nc *nats.Conn, of Copied, read func(ctx context.Context, give func([]byte) error) error) error {
	body, err := json.Marshal(of)
	if err == nil {
		came := newBacklog()
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error {
			err := read(ctx, func(piece []byte) error {
				came.add(piece)
				_, err := came.hasRoom(ctx, 0)
				return err
			})
			if err == nil {
				came.end()
			}
			return err
		})
		group.Go(func() error { return putBackFrom(ctx, nc, of.Config.Name, body, came) })
		err = group.Wait()
	}
	if err != nil {
		return fmt.Errorf("natsserver: put stream %s back: %w", of.Config.Name, err)
	}
	return nil
}

func putBackFrom(ctx context.Context, nc *nats.Conn, stream string, of []byte, came *backlog) error {
	// JetStream does not wait for the first piece either.
	if _, err := came.holds(ctx, reserveBytes, 0); err != nil {
		return err
	}
	begun, err := begin(ctx, nc, putBack+stream, of)
	if err != nil {
		return err
	}
	for {
		enough, err := came.holds(ctx, reserveBytes, movesEvery)
		if err != nil {
			return err
		}
		most := putBytes
		if !enough {
			most = trickleBytes
		}
		piece, last := came.take(most)
		if len(piece) == 0 && !last {
			continue // an empty one would say that this was all
		}
		if _, err := ask(ctx, nc, putOn+begun.ID, piece); err != nil || last {
			return err
		}
	}
}

func begin(ctx context.Context, nc *nats.Conn, subject string, body []byte) (begun copyBegun, err error) {
	answer, err := ask(ctx, nc, subject, body)
	if err != nil {
		return begun, err
	}
	if err := json.Unmarshal(answer.Data, &begun); err != nil {
		return begun, err
	}
	return begun, nil
}

func ask(ctx context.Context, nc *nats.Conn, subject string, body []byte) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*pieceWithin)
	defer cancel()
	answer, err := nc.RequestWithContext(ctx, subject, body)
	if err != nil {
		return nil, err
	}
	if problem := answer.Header.Get(problemHeader); problem != "" {
		return nil, errors.New(problem)
	}
	return answer, nil
}

// copier is the server's end of copies that are under way.
type copier struct {
	nc *nats.Conn

	mu     sync.Mutex
	copies map[string]*copying
	puts   map[string]*putting
}

// copying is a snapshot that JetStream sends: pieces wait for who asks, or who asks for them.
type copying struct {
	sub   *nats.Subscription
	came  []*nats.Msg
	asked *nats.Msg
	idle  *time.Timer
}

// putting is a snapshot that JetStream takes.
type putting struct {
	to   string
	idle *time.Timer
}

// answerCopies copies streams for roles, until the connection is closed.
func answerCopies(nc *nats.Conn) error {
	c := &copier{nc: nc, copies: make(map[string]*copying), puts: make(map[string]*putting)}
	for subject, answer := range map[string]func(*nats.Msg){copyOf: c.begin, copyOn: c.next, putBack: c.beginPut, putOn: c.put} {
		var err error
		if subject == copyOf || subject == putBack {
			// Of several servers one begins; it alone knows the copy's id.
			_, err = nc.QueueSubscribe(subject+"*", "copies", answer)
		} else {
			_, err = nc.Subscribe(subject+"*", answer)
		}
		if err != nil {
			return fmt.Errorf("natsserver: answer who copies streams: %w", err)
		}
	}
	return nil
}

func respond(to *nats.Msg, body any, err error) {
	answer := nats.NewMsg(to.Reply)
	if err != nil {
		answer.Header.Set(problemHeader, err.Error())
	} else if body != nil {
		if answer.Data, err = json.Marshal(body); err != nil {
			answer.Header.Set(problemHeader, err.Error())
		}
	}
	_ = to.RespondMsg(answer) // fails only where the connection is gone
}

func (c *copier) begin(m *nats.Msg) {
	stream, id := m.Subject[len(copyOf):], nuid.Next()
	one := &copying{}
	var err error
	if one.sub, err = c.nc.Subscribe("copy.piece."+id, func(piece *nats.Msg) { c.came(one, piece) }); err != nil {
		respond(m, nil, err)
		return
	}
	one.idle = time.AfterFunc(idleFor, func() { c.end(id, one) })
	body, err := json.Marshal(server.JSApiStreamSnapshotRequest{DeliverSubject: one.sub.Subject, ChunkSize: pieceBytes, WindowSize: windowBytes})
	var answer server.JSApiStreamSnapshotResponse
	if err == nil {
		err = c.jetStream("$JS.API.STREAM.SNAPSHOT."+stream, body, &answer)
	}
	if err == nil && answer.Error != nil {
		err = answer.Error
	}
	if err == nil && (answer.Config == nil || answer.State == nil) {
		err = errors.New("JetStream does not say of what the snapshot is")
	}
	var info server.JSApiStreamInfoResponse
	if err == nil {
		err = c.jetStream("$JS.API.STREAM.INFO."+stream, nil, &info)
	}
	if err == nil && info.StreamInfo == nil {
		err = errors.New("JetStream does not say when the stream was made")
	}
	if err != nil {
		c.end(id, one)
		respond(m, nil, err)
		return
	}
	c.mu.Lock()
	c.copies[id] = one
	c.mu.Unlock()
	respond(m, copyBegun{ID: id, Of: &Copied{Created: info.Created, Config: *answer.Config, State: *answer.State}}, nil)
}

func (c *copier) jetStream(subject string, body []byte, answer any) error {
	m, err := c.nc.Request(subject, body, pieceWithin)
	if err != nil {
		return err
	}
	return json.Unmarshal(m.Data, answer)
}

func (c *copier) end(id string, one *copying) {
	one.idle.Stop()
	_ = one.sub.Unsubscribe() // fails only where the connection is gone
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.copies, id)
}

// came takes a piece from JetStream.
func (c *copier) came(one *copying, piece *nats.Msg) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one.came = append(one.came, piece)
	one.give()
}

// next takes a question for a piece.
func (c *copier) next(m *nats.Msg) {
	id := m.Subject[len(copyOn):]
	c.mu.Lock()
	one := c.copies[id]
	if one == nil {
		c.mu.Unlock()
		return // another server's, or given up: who asks will hear nothing
	}
	one.idle.Reset(idleFor)
	one.asked = m
	ended := one.give()
	c.mu.Unlock()
	if ended {
		c.end(id, one)
	}
}

// give answers who asks with what came; true where that was the end.
func (o *copying) give() (ended bool) {
	if o.asked == nil || len(o.came) == 0 {
		return false
	}
	piece, asked := o.came[0], o.asked
	o.came, o.asked = o.came[1:], nil
	answer := nats.NewMsg(asked.Reply)
	answer.Data = piece.Data
	if len(piece.Data) == 0 {
		switch status := piece.Header.Get("Status"); status {
		case "", "204":
			answer.Header.Set(endHeader, "true")
		default:
			answer.Header.Set(problemHeader, "the snapshot has failed: "+status+" "+piece.Header.Get("Description"))
		}
		ended = true
	} else if piece.Reply != "" {
		_ = piece.Respond(nil) // JetStream may send another
	}
	_ = asked.RespondMsg(answer)
	return ended
}

func (c *copier) beginPut(m *nats.Msg) {
	stream := m.Subject[len(putBack):]
	begun, err := c.emptied(stream, m.Data)
	respond(m, begun, err)
}

// emptied makes room for a stream that is put back, and has JetStream wait for it.
func (c *copier) emptied(stream string, body []byte) (begun copyBegun, err error) {
	var of Copied
	if err := json.Unmarshal(body, &of); err != nil {
		return begun, fmt.Errorf("what is put back cannot be read: %w", err)
	}
	if of.Config.Name != stream {
		return begun, fmt.Errorf("the copy is of stream %s, not %s", of.Config.Name, stream)
	}
	if _, err := c.neverUsed(contract.EventStream); err != nil {
		return begun, err
	}
	there, err := c.neverUsed(stream)
	if err != nil {
		return begun, err
	}
	var gone server.JSApiStreamDeleteResponse
	if err := c.jetStream("$JS.API.STREAM.DELETE."+stream, nil, &gone); err != nil {
		return begun, err
	}
	if gone.Error != nil {
		return begun, gone.Error
	}
	ask, err := json.Marshal(server.JSApiStreamRestoreRequest{Config: there, State: of.State})
	if err != nil {
		return begun, err
	}
	var answer server.JSApiStreamRestoreResponse
	if err := c.jetStream("$JS.API.STREAM.RESTORE."+stream, ask, &answer); err != nil {
		return begun, err
	}
	if answer.Error != nil {
		return begun, answer.Error
	}
	begun.ID = nuid.Next()
	one := &putting{to: answer.DeliverSubject}
	c.mu.Lock()
	defer c.mu.Unlock()
	one.idle = time.AfterFunc(idleFor, func() { c.endPut(begun.ID) })
	c.puts[begun.ID] = one
	return begun, nil
}

// neverUsed are the settings of a stream that has never held a message.
func (c *copier) neverUsed(stream string) (server.StreamConfig, error) {
	var there server.JSApiStreamInfoResponse
	if err := c.jetStream("$JS.API.STREAM.INFO."+stream, nil, &there); err != nil {
		return server.StreamConfig{}, err
	}
	if there.Error != nil {
		return server.StreamConfig{}, there.Error
	}
	if there.StreamInfo == nil {
		return server.StreamConfig{}, fmt.Errorf("nothing is known of stream %s", stream)
	}
	if state := there.State; state.Msgs > 0 || state.LastSeq > 0 {
		return server.StreamConfig{}, fmt.Errorf("stream %s is not empty, its last message is %d: put streams back into a new installation", stream, state.LastSeq)
	}
	return there.Config, nil
}

func (c *copier) endPut(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.puts, id)
}

// put hands a piece to JetStream, which answers where it could not take it, or was the last.
func (c *copier) put(m *nats.Msg) {
	id := m.Subject[len(putOn):]
	c.mu.Lock()
	one := c.puts[id]
	c.mu.Unlock()
	if one == nil {
		return // another server's, or given up
	}
	one.idle.Reset(idleFor)
	answer, err := c.nc.Request(one.to, m.Data, pieceWithin)
	if err == nil && len(answer.Data) > 0 {
		var said server.JSApiStreamCreateResponse
		if err = json.Unmarshal(answer.Data, &said); err == nil && said.Error != nil {
			err = said.Error
		}
	}
	if err != nil || len(m.Data) == 0 {
		one.idle.Stop()
		c.endPut(id)
	}
	respond(m, nil, err)
}
