package company

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/crypto/chacha20poly1305"
	"google.golang.org/protobuf/proto"

	keyringv1 "github.com/cetrus/cetrus/proto/cetrus/keyring/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/tools/stack"
)

// batchBytes is how large messages are: what a forwarder makes of a backlog.
const batchBytes = 1 << 20

// underWay is how many messages of a Manager are not acknowledged.
const underWay = 16

// Sender stands for the Managers of a company.
type Sender struct {
	company *Company
	account contract.ID
	lines   map[contract.ID]*line
	// Position is that of the last message in the stream, and Events how many records were sent,
	// those that were sent twice counting twice.
	Position uint64
	Events   int
	// Stored, if set, is told which frames lie at which position of the stream, once they do.
	Stored func(position uint64, manager contract.ID, frames []*usagev1.ReceivedFrame)
}

// line is one Manager's connection.
type line struct {
	nc       *nats.Conn
	js       jetstream.JetStream
	buffer   contract.ID
	position uint64
	batch    *usagev1.AgentBatch
	size     int
	waiting  []underway
}

// underway is a message that the stream has not acknowledged yet.
type underway struct {
	jetstream.PubAckFuture

	frames []*usagev1.ReceivedFrame
}

// admission is how long a Manager that was added may wait until it is let in.
const admission = 30 * time.Second

// NewSender admits the company's Managers to a platform, and connects as each of them. cetrus is the
// platform's program.
func NewSender(ctx context.Context, c *Company, p *stack.Platform, cetrus string) (s *Sender, err error) {
	s = &Sender{company: c, lines: make(map[contract.ID]*line)}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.account, err = contract.ParseID(p.AccountID); err != nil {
		return nil, err
	}
	for n, id := range c.Managers() {
		url, err := stack.AdmitManager(ctx, cetrus, p.Dir, id.String(), hostOf(p.NATS))
		if err != nil {
			return nil, err
		}
		l := &line{buffer: newID(rand.New(rand.NewPCG(c.config.Seed, uint64(n)))), batch: &usagev1.AgentBatch{AccountId: s.account[:], ManagerId: id[:]}}
		if err := stack.Wait(ctx, admission, "the platform to let a Manager in", func() error {
			l.nc, err = nats.Connect(url, nats.CustomInboxPrefix(contract.ManagerInbox(id)))
			return err
		}); err != nil {
			return nil, err
		}
		s.lines[id] = l
		if l.js, err = jetstream.New(l.nc, jetstream.WithPublishAsyncMaxPending(underWay)); err != nil {
			return nil, fmt.Errorf("company: %w", err)
		}
	}
	return s, s.introduce(ctx)
}

func hostOf(url string) string {
	const scheme = "nats://"
	if len(url) > len(scheme) && url[:len(scheme)] == scheme {
		return url[len(scheme):]
	}
	return url
}

// Close closes the connections.
func (s *Sender) Close() {
	for _, l := range s.lines {
		l.nc.Close()
	}
}

// introduce hands the keys of all principals over, and tells the names of people, documents and
// machines.
func (s *Sender) introduce(ctx context.Context) error {
	c := s.company
	l, manager := s.lines[c.managers[0]], c.managers[0]
	deposit := &keyringv1.DepositRequest{AccountId: s.account[:], ManagerId: manager[:]}
	batch := proto.CloneOf(l.batch)
	for _, p := range c.people {
		for i, principal := range []contract.ID{p.principal, p.other} {
			if i > 0 && principal == p.principal {
				continue
			}
			var key [chacha20poly1305.KeySize]byte
			for b, random := 0, c.random(kindKey+i, p.number); b < len(key); b++ {
				key[b] = byte(random.Uint32())
			}
			deposit.Keys = append(deposit.Keys, &keyringv1.PrincipalKey{PrincipalId: principal[:], Key: key[:]})
			name := &usagev1.SealedName{Subject: &usagev1.SealedName_Person{Person: true}, PrincipalId: principal[:]}
			if err := seal(name, key[:], fmt.Sprintf("Person %04d", p.number)); err != nil {
				return err
			}
			batch.Names = append(batch.Names, name)
		}
		if len(deposit.GetKeys()) > 900 || p.number == len(c.people)-1 {
			if err := l.deposit(ctx, contract.KeyringSubject(s.account, manager), deposit); err != nil {
				return err
			}
			deposit.Keys = nil
		}
	}
	for _, m := range c.machines {
		kind := map[bool]string{true: "lt", false: "ws"}[m.laptop]
		batch.Machines = append(batch.Machines, &usagev1.MachineName{MachineId: m.id[:], HostName: fmt.Sprintf("%s-%04d", kind, m.number), OperatingSystem: "Debian GNU/Linux 13", AgentVersion: "company"})
	}
	l.batch.Names, l.batch.Machines = batch.GetNames(), batch.GetMachines()
	if err := s.flush(ctx, l); err != nil {
		return err
	}
	return s.Wait(ctx)
}

func (l *line) deposit(ctx context.Context, subject string, deposit *keyringv1.DepositRequest) error {
	data, err := proto.Marshal(deposit)
	if err != nil {
		return fmt.Errorf("company: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	answer, err := l.nc.RequestWithContext(ctx, subject, data)
	if err != nil {
		return fmt.Errorf("company: depositing keys: %w", err)
	}
	var response keyringv1.DepositResponse
	if err = proto.Unmarshal(answer.Data, &response); err == nil && response.GetError() != "" {
		err = errors.New(response.GetError())
	}
	if err != nil {
		return fmt.Errorf("company: depositing keys: %w", err)
	}
	return nil
}

func seal(name *usagev1.SealedName, key []byte, text string) error {
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return fmt.Errorf("company: %w", err)
	}
	nonce := make([]byte, aead.NonceSize())
	name.Sealed = aead.Seal(nonce, nonce, []byte(text), contract.SealedNameData(name))
	return nil
}

// Send hands frames on; Wait waits until the stream has them.
func (s *Sender) Send(ctx context.Context, came []Delivery) error {
	for _, d := range came {
		l := s.lines[d.Manager]
		l.batch.Frames = append(l.batch.Frames, d.Frame)
		s.Events += d.Events
		if l.size += len(d.Frame.GetFrame()); l.size >= batchBytes {
			if err := s.flush(ctx, l); err != nil {
				return err
			}
		}
	}
	return nil
}

// Wait sends what is left, and waits until the stream has all of it.
func (s *Sender) Wait(ctx context.Context) error {
	for _, l := range s.lines {
		if err := s.flush(ctx, l); err != nil {
			return err
		}
		if err := s.settled(ctx, l, 0); err != nil {
			return err
		}
	}
	return nil
}

func (s *Sender) flush(ctx context.Context, l *line) error {
	b := l.batch
	if len(b.GetFrames())+len(b.GetNames())+len(b.GetMachines()) == 0 {
		return nil
	}
	data, err := proto.Marshal(b)
	if err != nil {
		return fmt.Errorf("company: %w", err)
	}
	frames := b.GetFrames()
	b.Frames, b.Names, b.Machines, l.size = nil, nil, nil, 0
	if err := s.settled(ctx, l, underWay-1); err != nil {
		return err
	}
	l.position++
	manager, position := contract.ID(b.GetManagerId()), strconv.FormatUint(l.position, 10)
	future, err := l.js.PublishMsgAsync(&nats.Msg{
		Subject: contract.AgentSubject(s.account, manager, usagev1.Lane_LANE_USAGE), Data: data,
		Header: nats.Header{
			contract.HeaderID: []string{l.buffer.String() + "/" + position}, contract.HeaderType: []string{contract.AgentBatchType},
			contract.HeaderSpecVersion: []string{contract.SpecVersion}, contract.HeaderContentType: []string{contract.ContentTypeProtobuf},
			contract.HeaderSource: []string{"urn:cetrus:manager:" + manager.String()}, contract.HeaderTime: []string{time.Now().UTC().Format(time.RFC3339Nano)},
			contract.HeaderBuffer: []string{l.buffer.String()}, contract.HeaderBufferPosition: []string{position},
		},
	})
	if err != nil {
		return fmt.Errorf("company: %w", err)
	}
	l.waiting = append(l.waiting, underway{future, frames})
	return nil
}

// settled waits until no more than so many messages are under way.
func (s *Sender) settled(ctx context.Context, l *line, most int) error {
	for len(l.waiting) > most {
		select {
		case ack := <-l.waiting[0].Ok():
			s.Position = max(s.Position, ack.Sequence)
			if s.Stored != nil {
				s.Stored(ack.Sequence, contract.ID(l.batch.GetManagerId()), l.waiting[0].frames)
			}
		case err := <-l.waiting[0].Err():
			return fmt.Errorf("company: %w", err)
		case <-ctx.Done():
			return ctx.Err()
		}
		l.waiting = l.waiting[1:]
	}
	return nil
}
