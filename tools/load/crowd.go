package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/agent/enroll"
	"github.com/cetrus/cetrus/agent/uplink"
	agentv1 "github.com/cetrus/cetrus/proto/cetrus/agent/v1"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
)

// CrowdConfig says who is in a crowd.
type CrowdConfig struct {
	// Manager is where its agents go, host:port, and Token what they enrol by.
	Manager, Token string
	// Dir takes the agents' certificates.
	Dir string
	// First numbers the first of Count agents.
	First, Count int
	// Corpus is what the machines say; nil: Recorded.
	Corpus *Corpus
	// Rules replaces the corpus's rules by the account's.
	Rules []RuleRef
	// Seed decides every id.
	Seed uint64
	// Ledger receives the truth; it may be nil.
	Ledger *Ledger
	// Spread is the time over which the agents begin to connect.
	Spread time.Duration
	// Morning bounds how much of the first day is over, by chance, when a machine connects: that
	// is there to be sent. From then on all happens at its time. The day is yesterday, so that a
	// crowd whose time passes faster is not ahead of everybody's.
	Morning time.Duration
	// AwayDays, where it is not zero, is for how many days of the corpus's office the machines
	// recorded without a network, up to now: from then on nothing happens at them.
	AwayDays int
}

// Crowd is many light agents of which each has a connection, a certificate and a way of coming back
// of its own: those of the real agent's uplink and enrolment. What they record happens when it
// happened in the corpus, and is kept in memory.
type Crowd struct {
	config CrowdConfig
	agents []*light
	dials  atomic.Int64
	hellos atomic.Int64
	still  atomic.Bool

	// pacing is read by every agent all the time: a lock would have them wait for one another.
	pacing atomic.Pointer[pacing]
}

// pacing is how the machines' clocks go: at the time from they stood at shown, in milliseconds of UTC, and since then a second
// of theirs is a times-th of one. changed is closed when that changes.
type pacing struct {
	from    time.Time
	shown   int64
	times   int64
	changed chan struct{}
}

func (p *pacing) clock(now time.Time) (utcMillis int64) {
	return p.shown + now.Sub(p.from).Milliseconds()*p.times
}

// CrowdCounts is what a crowd did so far.
type CrowdCounts struct {
	// Connected agents have a Manager's welcome, Back of them since the time that was asked about.
	Connected, Back int
	// Dials are the TCP connections that were asked for, Hellos the conversations that were begun
	// over them after the handshake, since the crowd began.
	Dials, Hellos int64
	// Made and Acknowledged are events.
	Made, Acknowledged int64
}

// light is one agent.
type light struct {
	crowd    *Crowd
	number   int
	journal  *memory
	identity *enroll.Identity
	uplink   *uplink.Uplink
	random   *rand.Rand
	run      uint64
	policy   atomic.Pointer[policyv1.Policy]
	// waits is how much was there to be sent at first.
	waits int64
}

// yesterday is by how much the machines' clocks are back.
const yesterday = 24 * time.Hour

// corpusDays is how many days of the office one session of the corpus holds.
const corpusDays = 2

// NewCrowd makes the agents, with what is there to be sent at first; nothing happens before Enroll
// or Run.
func NewCrowd(config CrowdConfig) (*Crowd, error) {
	if config.Corpus == nil {
		corpus, err := Recorded()
		if err != nil {
			return nil, err
		}
		config.Corpus = corpus
	}
	now := time.Now()
	c := &Crowd{config: config, agents: make([]*light, config.Count)}
	begin := &pacing{from: now, shown: now.UnixMilli(), times: 1, changed: make(chan struct{})}
	if config.AwayDays == 0 {
		begin.shown -= yesterday.Milliseconds()
	}
	c.pacing.Store(begin)
	var making errgroup.Group
	making.SetLimit(runtime.GOMAXPROCS(0))
	for n := range c.agents {
		making.Go(func() (err error) {
			if c.agents[n], err = c.newAgent(config.First + n); err != nil {
				return fmt.Errorf("load: agent %d: %w", config.First+n, err)
			}
			return nil
		})
	}
	return c, making.Wait()
}

func (c *Crowd) newAgent(number int) (*light, error) {
	a := &light{crowd: c, number: number, random: rand.New(rand.NewPCG(c.config.Seed^0x9e3779b9, uint64(number)))}
	session := c.config.Corpus.Sessions[number%len(c.config.Corpus.Sessions)]
	first := session.Events[0].GetAtBootMillis()
	before := first // that the machine was up when it begins
	events := 0
	if c.config.AwayDays > 0 {
		events = len(session.Events) * c.config.AwayDays / corpusDays
		before = session.SpanMillis * int64(c.config.AwayDays) / corpusDays
	} else if c.config.Morning > 0 {
		before += a.random.Int64N(c.config.Morning.Milliseconds())
	}
	source := NewSource(c.config.Corpus, SourceConfig{
		Number: number, Seed: c.config.Seed, StartUTCMillis: c.pacing.Load().shown - before, Ledger: c.config.Ledger, Rules: c.config.Rules,
	})
	a.journal, a.run = &memory{source: source}, max(1, a.random.Uint64())
	if err := a.journal.recordMany(events); err != nil {
		return nil, err
	}
	a.waits, _ = a.journal.counts()
	dir := filepath.Join(c.config.Dir, fmt.Sprint(number))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	host := source.Hello().GetHostName()
	a.identity = enroll.New(enroll.Config{Dir: dir, AgentID: source.Agent(), Token: c.config.Token, HostName: func() string { return host }})
	var err error
	a.uplink, err = uplink.New(uplink.Config{Managers: []string{c.config.Manager}, Proxy: "none"}, uplink.Deps{
		Hello: a.hello, Health: a.health, Identity: quiet{a.identity}, Journals: []uplink.Journal{a.journal},
		Policy: func(_ context.Context, p *policyv1.Policy) error {
			a.policy.Store(p)
			return nil
		},
		Dial:   []grpc.DialOption{grpc.WithContextDialer(a.dial)},
		Random: rand.New(rand.NewPCG(c.config.Seed^0x85ebca6b, uint64(number))), Log: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		a.uplink.SetPersons([]*agentv1.Person{source.Person()})
	}
	return a, err
}

// quiet asks no file what is wrong whenever the crowd is counted.
type quiet struct{ *enroll.Identity }

// Problem implements uplink.Identity.
func (quiet) Problem() string { return "" }

// loopbacks are so many addresses of this machine that the agents call from: each has its own
// ports, and those of a connection that has ended are held for a minute.
const loopbacks = 16

func (a *light) dial(ctx context.Context, address string) (net.Conn, error) {
	a.crowd.dials.Add(1)
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+a.number%loopbacks))}}
	return from.DialContext(ctx, "tcp", address)
}

func (a *light) hello() *agentv1.Hello {
	a.crowd.hellos.Add(1)
	hello := a.journal.hello()
	hello.UtcMillis, hello.RunId = time.Now().UnixMilli(), a.run
	policy := a.policy.Load()
	hello.PolicyRevision, hello.PolicyPublishedUtcMillis = policy.GetRevision(), policy.GetPublishedUtcMillis()
	return hello
}

func (a *light) health() *agentv1.Health {
	made, acknowledged := a.journal.counts()
	now := time.Now().UnixMilli()
	health := &agentv1.Health{UtcMillis: now, AppliedPolicyRevision: a.policy.Load().GetRevision(), UnacknowledgedRecords: uint64(made - acknowledged)}
	if a.crowd.config.AwayDays > 0 && acknowledged < a.waits {
		away := int64(a.crowd.config.AwayDays) * (24 * time.Hour).Milliseconds()
		health.Backlog = &agentv1.Backlog{OldestUtcMillis: now - away, NewestUtcMillis: now, TimeMillis: away, SentMillis: away * acknowledged / a.waits}
	}
	return health
}

// Enroll gives all of them their certificates ahead, so many at once; who connects without one
// enrols by itself.
func (c *Crowd) Enroll(ctx context.Context, atOnce int) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	waiting := make(chan *light)
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for a := range waiting {
				_, err := a.identity.TLS(ctx, func(config *tls.Config) (*grpc.ClientConn, error) {
					return grpc.NewClient("passthrough:///"+c.config.Manager, grpc.WithTransportCredentials(credentials.NewTLS(config)), grpc.WithContextDialer(a.dial))
				})
				if err != nil {
					stop(fmt.Errorf("load: agent %d: %w", a.number, err))
				}
			}
		})
	}
	for _, a := range c.agents {
		if ctx.Err() == nil {
			waiting <- a
		}
	}
	close(waiting)
	workers.Wait()
	return context.Cause(ctx)
}

// Run lets all of them connect and work until ctx ends.
func (c *Crowd) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var all sync.WaitGroup
	for _, a := range c.agents {
		all.Go(func() {
			if err := a.work(ctx); err != nil {
				stop(fmt.Errorf("load: agent %d: %w", a.number, err))
			}
		})
	}
	all.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// work is an agent's life.
func (a *light) work(ctx context.Context) error {
	if a.crowd.config.Spread > 0 && !sleep(ctx, time.Duration(a.random.Int64N(int64(a.crowd.config.Spread)))) {
		return nil
	}
	var talking sync.WaitGroup
	defer talking.Wait()
	talking.Go(func() { _ = a.uplink.Run(ctx) })
	shown := time.Now().Add(-time.Duration(a.random.Int64N(int64(heartbeat))))
	for serial := uint64(1); ; serial++ {
		now := time.Now()
		wait := heartbeat - now.Sub(shown)
		pacing := a.crowd.pacing.Load()
		if a.crowd.config.AwayDays == 0 && !a.crowd.still.Load() {
			clock := pacing.clock(now)
			n, next, err := a.journal.record(clock)
			if err != nil {
				return err
			}
			if n > 0 {
				a.uplink.Appended()
				wait = 0
			} else {
				wait = min(wait, max(time.Millisecond, time.Duration((next-clock)/pacing.times)*time.Millisecond))
			}
		}
		if wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-ctx.Done():
			case <-pacing.changed:
			case <-timer.C:
			}
			timer.Stop()
			if ctx.Err() != nil {
				return nil
			}
			continue
		}
		shown = now
		a.uplink.ShowLive([]*usagev1.LiveSnapshot{a.journal.live(a.run, serial, now.UnixMilli(), activity.LiveValid)})
	}
}

// heartbeat is the longest time between two live snapshots of an agent.
const heartbeat = activity.LiveValid / 3 * time.Millisecond

// Still holds what happens at the machines, and lets it go on: then what was due meanwhile happens at
// once. What was recorded is sent on.
func (c *Crowd) Still(still bool) { c.still.Store(still) }

// Pace has time pass so many times as fast at the machines, but for what is told live by the minute: each
// does what so many people do.
func (c *Crowd) Pace(times int64) {
	for {
		now, before := time.Now(), c.pacing.Load()
		if c.pacing.CompareAndSwap(before, &pacing{from: now, shown: before.clock(now), times: max(1, times), changed: make(chan struct{})}) {
			close(before.changed)
			return
		}
	}
}

// Counts tells what the crowd did so far, and how many connected since a time.
func (c *Crowd) Counts(since time.Time) CrowdCounts {
	counts := CrowdCounts{Dials: c.dials.Load(), Hellos: c.hellos.Load()}
	for _, a := range c.agents {
		made, acknowledged := a.journal.counts()
		counts.Made, counts.Acknowledged = counts.Made+made, counts.Acknowledged+acknowledged
		if status := a.uplink.Status(); status.Connected {
			counts.Connected++
			if status.Since.After(since) {
				counts.Back++
			}
		}
	}
	return counts
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
