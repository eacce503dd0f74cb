package bench

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"

	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/metering"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/services/platform/postgres"
)

// stream is an AGENT stream on a NATS server of its own.
type stream struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	server *natsserver.Server
	dir    string
	// messages are in the stream, at positions from 1 on.
	messages uint64
	events   int
}

func (r *run) newStream(ctx context.Context) (*stream, error) {
	dir, err := r.folder("nats")
	if err != nil {
		return nil, err
	}
	// Nobody's data: filling it need not be synced, and reading is the same.
	s := &stream{dir: dir}
	if s.server, err = natsserver.Start(ctx, natsserver.Config{StoreDir: dir, Unsynced: true, Logger: r.log}); err != nil {
		return nil, err
	}
	if s.nc, err = s.server.Connect(natsserver.User{}); err == nil {
		if s.js, err = jetstream.New(s.nc, jetstream.WithPublishAsyncMaxPending(16)); err == nil {
			err = natsserver.EnsureStreams(ctx, s.nc, natsserver.Streams{})
		}
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *stream) close() {
	if s.nc != nil {
		s.nc.Close()
	}
	s.server.Stop()
	_ = os.RemoveAll(s.dir)
}

// batchBytes is how large the messages are that publish makes: what a Manager's
// forwarder makes of a backlog.
const batchBytes = 1 << 20

// received is a frame as a Manager hands it on.
type received struct {
	frame *usagev1.Frame
	// principal is whom the Manager knows alias as.
	alias, principal contract.ID
	utcMillis        int64
}

// publish puts frames into the stream as a Manager does, many to a message.
func (s *stream) publish(ctx context.Context, account, manager contract.ID, next func() (*received, error)) error {
	subject := contract.AgentSubject(account, manager, usagev1.Lane_LANE_USAGE)
	batch, size := &usagev1.AgentBatch{AccountId: account[:], ManagerId: manager[:]}, 0
	buffer := contract.ID{1}
	send := func() error {
		if len(batch.GetFrames()) == 0 {
			return nil
		}
		data, err := proto.Marshal(batch)
		if err != nil {
			return err
		}
		s.messages++
		position := strconv.FormatUint(s.messages, 10)
		_, err = s.js.PublishMsgAsync(&nats.Msg{Subject: subject, Data: data, Header: nats.Header{
			contract.HeaderID: []string{buffer.String() + "/" + position}, contract.HeaderType: []string{contract.AgentBatchType},
			contract.HeaderSpecVersion: []string{contract.SpecVersion}, contract.HeaderContentType: []string{contract.ContentTypeProtobuf},
			contract.HeaderSource: []string{"urn:cetrus:manager:" + manager.String()}, contract.HeaderTime: []string{time.Now().UTC().Format(time.RFC3339Nano)},
			contract.HeaderBuffer: []string{buffer.String()}, contract.HeaderBufferPosition: []string{position},
		}})
		batch.Frames, size = nil, 0
		return err
	}
	for {
		f, err := next()
		if err != nil {
			return err
		}
		if f == nil {
			break
		}
		data, err := proto.Marshal(f.frame)
		if err != nil {
			return err
		}
		batch.Frames = append(batch.Frames, &usagev1.ReceivedFrame{
			Frame: data, ReceivedUtcMillis: f.utcMillis,
			Bindings: []*usagev1.PrincipalBinding{{PrincipalAlias: f.alias[:], PrincipalId: f.principal[:]}},
		})
		s.events += len(f.frame.GetRecords())
		if size += len(data); size >= batchBytes {
			if err := send(); err != nil {
				return err
			}
		}
	}
	if err := send(); err != nil {
		return err
	}
	select {
	case <-s.js.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	info, err := s.js.Stream(ctx, contract.AgentStream)
	if err != nil {
		return err
	}
	if got := info.CachedInfo().State.LastSeq; got != s.messages {
		return fmt.Errorf("bench: %d of %d messages are in the stream", got, s.messages)
	}
	return nil
}

// database is a private PostgreSQL server, synced as in use.
type database struct {
	server *postgres.Server
	count  int
	dir    string
}

func (r *run) newDatabase(ctx context.Context) (*database, error) {
	dir, err := r.folder("postgres")
	if err != nil {
		return nil, err
	}
	server, err := postgres.StartServer(ctx, postgres.ServerConfig{Dir: filepath.Join(dir, "server"), Logger: r.log})
	if err != nil {
		return nil, err
	}
	return &database{server: server, dir: dir}, nil
}

func (d *database) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	return errors.Join(d.server.Stop(ctx), os.RemoveAll(d.dir))
}

// admin has a statement carried out by the server's owner, in the database of some
// stores: the services' own roles may not vacuum.
func (d *database) admin(ctx context.Context, stores *metering.Stores, statement string) error {
	u, err := url.Parse(d.server.URL())
	if err != nil {
		return err
	}
	u.Path = "/" + stores.Views.Projector.Config().ConnConfig.Database
	conn, err := pgx.Connect(ctx, u.String())
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	_, err = conn.Exec(ctx, statement)
	return errors.Join(err, conn.Close(ctx))
}

// stores opens metering's tables in a new, empty database; drop removes it.
func (d *database) stores(ctx context.Context, r *run) (stores *metering.Stores, drop func() error, err error) {
	d.count++
	name := fmt.Sprintf("bench_%d", d.count)
	admin := func(ctx context.Context, statement string) error {
		conn, err := pgx.Connect(ctx, d.server.URL())
		if err != nil {
			return err
		}
		_, err = conn.Exec(ctx, statement)
		return errors.Join(err, conn.Close(ctx))
	}
	if err := admin(ctx, "CREATE DATABASE "+name); err != nil {
		return nil, nil, fmt.Errorf("bench: %w", err)
	}
	u, err := url.Parse(d.server.URL())
	if err != nil {
		return nil, nil, err
	}
	u.Path = "/" + name
	if stores, err = metering.OpenStores(ctx, u.String(), r.log); err != nil {
		return nil, nil, err
	}
	return stores, func() error {
		stores.Close()
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return admin(bounded, "DROP DATABASE "+name+" WITH (FORCE)")
	}, nil
}

// running is metering at work.
type running struct {
	service *metering.Service
	stop    context.CancelFunc
	done    sync.WaitGroup
	err     error
}

func (r *run) meter(ctx context.Context, s *stream, stores *metering.Stores) (*running, error) {
	service, err := metering.New(metering.Config{}, metering.Deps{NATS: s.nc, Stores: stores, Logger: r.log})
	if err != nil {
		return nil, err
	}
	m := &running{service: service}
	ctx, m.stop = context.WithCancel(ctx)
	m.done.Go(func() { m.err = service.Run(ctx) })
	return m, nil
}

func (m *running) close() error {
	m.stop()
	m.done.Wait()
	return m.err
}
