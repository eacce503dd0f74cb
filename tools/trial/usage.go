package trial

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/tools/api"
	"github.com/cetrus/cetrus/tools/load"
	"github.com/cetrus/cetrus/tools/stack"
)

// levelWithin is how long everything that was recorded may take to be reported once everybody holds still.
const levelWithin = 3 * time.Minute

// usage is who records, what they recorded, and who is asked what of it has come.
type usage struct {
	t      *trial
	api    *api.Client
	http   *http.Client
	ledger *load.Ledger
	rules  []load.RuleRef

	still   chan struct{} // holds one while nobody records
	agents  *group        // the light ones
	leaving atomic.Bool
	// desks is how many have been opened, byDesks the events that those have journalled.
	desks   int
	byDesks atomic.Int64
}

// group are goroutines that go on until they are told to end.
type group struct {
	cancel context.CancelCauseFunc
	all    sync.WaitGroup
	mu     sync.Mutex
	err    error
}

func (g *group) start(ctx context.Context, each func(context.Context) error) {
	g.all.Go(func() {
		if err := each(ctx); err != nil {
			g.mu.Lock()
			defer g.mu.Unlock()
			g.err = errors.Join(g.err, err)
			g.cancel(err)
		}
	})
}

// use has a Manager enrol from the site, agents record there, and asks the platform for what they did.
func use(ctx context.Context, t *trial) error {
	key, err := t.kubectl(ctx, "get", "secret", "cetrus-first-login", "--namespace", namespace, "--output", "go-template={{index .data \"api-key\" | base64decode}}")
	if err != nil {
		return err
	}
	front := t.cluster.Addresses.Front.String()
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: t.trusted.roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			_, port, _ := strings.Cut(address, ":")
			return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(front, port))
		},
	}
	client := &http.Client{Transport: transport, Timeout: 30 * time.Second}
	u := &usage{
		t: t, ledger: load.NewLedger(), still: make(chan struct{}, 1), http: client,
		api: api.New("https://"+host, strings.TrimSpace(key)).Over(client),
	}
	t.usage = u
	if err := u.meter(ctx); err != nil {
		return err
	}
	if err := t.site.open(ctx); err != nil {
		return err
	}
	if err := t.site.enrol(ctx); err != nil {
		return err
	}
	if err := u.record(ctx); err != nil {
		return err
	}
	begun := time.Now()
	if err := stack.Wait(ctx, time.Minute, "agents to record", func() error {
		if u.ledger.Events() < 500 {
			return fmt.Errorf("%d events are recorded", u.ledger.Events())
		}
		return nil
	}); err != nil {
		return err
	}
	settled, _, err := u.compare(ctx)
	if err != nil {
		return err
	}
	status, err := t.site.status(ctx)
	if err != nil {
		return err
	}
	for _, alarm := range status.Alarms {
		if alarm.What != "CLOCKS" { // light agents live weeks ago
			return fmt.Errorf("the Manager alarms: %s: %s", alarm.What, alarm.Text)
		}
	}
	stray, err := t.site.stray(ctx)
	if err == nil && stray > 0 {
		err = fmt.Errorf("%d packets wanted to leave the site for elsewhere than port 443 of the Ingress", stray)
	}
	if err != nil {
		return err
	}
	t.say("%d agents record by a Manager that gets out by port 443 alone", len(status.Agents))
	return t.line(t.name, settled.Seconds(), "s", levelWithin.Seconds(), map[string]any{"recorded_for_s": time.Since(begun).Seconds(), "stray_packets": stray})
}

// programs are what scripted desktops use; each is an application.
var programs = []string{"draft", "solver", "viewer"}

// meter makes the applications. Light agents record for them, too.
func (u *usage) meter(ctx context.Context) error {
	for _, name := range programs {
		made, err := u.api.CreateApplication(ctx, &meteringv1.Application{DisplayName: name, Rules: []*meteringv1.Rule{{Executable: name}}})
		if err != nil {
			return fmt.Errorf("the application %s: %w", name, err)
		}
		application, err := contract.ParseID(made.GetApplicationId())
		if err != nil {
			return err
		}
		rule, err := contract.ParseID(made.GetRules()[0].GetRuleId())
		if err != nil {
			return err
		}
		u.rules = append(u.rules, load.RuleRef{Application: application, Rule: rule})
	}
	return nil
}

// record starts the light agents. They go on whatever scenario runs.
func (u *usage) record(ctx context.Context) error {
	corpus, err := load.Recorded()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	u.agents = &group{cancel: cancel}
	// Their time passes about a thousand times as fast as ours, and what is of the day after tomorrow would be set aside.
	begun := time.Now().Add(-100 * 24 * time.Hour).UnixMilli()
	for number := range u.t.Agents {
		source := load.NewSource(corpus, load.SourceConfig{Number: number, Seed: u.t.Seed, StartUTCMillis: begun, Ledger: u.ledger, Rules: u.rules})
		connection, err := grpc.NewClient("passthrough:///"+u.t.site.addresses.Agents,
			grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(u.t.site.dial))
		if err != nil {
			return err
		}
		random := rand.New(rand.NewPCG(u.t.Seed, uint64(number)+1))
		u.agents.start(ctx, func(ctx context.Context) error {
			defer func() { _ = connection.Close() }()
			return load.NewClient(connection, source, 8).Send(ctx, u.pace(source, random))
		})
	}
	return nil
}

// pace is a frame a second of one to ten events, until all leave; none while everybody holds still.
func (u *usage) pace(source *load.Source, random *rand.Rand) load.Frames {
	return func(ctx context.Context) (*usagev1.Frame, error) {
		timer := time.NewTimer(500*time.Millisecond + time.Duration(random.Int64N(int64(time.Second))))
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-timer.C:
		}
		if u.leaving.Load() {
			return nil, io.EOF
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case u.still <- struct{}{}:
			defer func() { <-u.still }()
		}
		return source.Next(1 + random.IntN(10))
	}
}

// compare has everybody hold still and waits until all that was recorded is reported. What is not after a while is
// lost, or doubled. It tells how long that took.
func (u *usage) compare(ctx context.Context) (settled time.Duration, found load.Comparison, err error) {
	select {
	case u.still <- struct{}{}:
		defer func() { <-u.still }()
	case <-ctx.Done():
		return 0, found, context.Cause(ctx)
	}
	begun := time.Now()
	recorded := u.recorded()
	err = stack.Wait(ctx, levelWithin, "everything to be reported", func() error {
		if err := u.alive(); err != nil {
			return stack.Hopeless(err)
		}
		if err := u.underWay(ctx); err != nil {
			return err
		}
		reported, err := u.reported(ctx)
		if err != nil {
			return err
		}
		if found = recorded.Compare(reported); !found.Equal() {
			return errUnequal
		}
		return nil
	})
	if errors.Is(err, errUnequal) {
		err = nil // what was found says so
	}
	if err == nil && recorded.Keys() == 0 {
		err = errors.New("nothing was recorded")
	}
	return time.Since(begun), found, err
}

// underWay says what is still on its way to the reports.
func (u *usage) underWay(ctx context.Context) error {
	status, err := u.t.site.status(ctx)
	if err != nil {
		return err
	}
	quality, err := u.quality(ctx)
	if err != nil {
		return err
	}
	if status.Backlog > 0 || quality.GetLag() > 0 {
		return fmt.Errorf("the Manager has %d messages to forward (stalled: %q), metering %d to count", status.Backlog, status.Buffer.Stall, quality.GetLag())
	}
	for _, q := range quality.GetQuarantined() {
		return stack.Hopeless(fmt.Errorf("%d records are set aside: %s", q.GetCount(), q.GetReason()))
	}
	return nil
}

func (u *usage) quality(ctx context.Context) (*meteringv1.GetDataQualityResponse, error) {
	quality := &meteringv1.GetDataQualityResponse{}
	return quality, u.api.Get(ctx, "/v1/usage:dataQuality", nil, quality)
}

var errUnequal = errors.New("not everything is reported")

// alive says why agents or the Manager have ended that should not have.
func (u *usage) alive() error {
	u.agents.mu.Lock()
	defer u.agents.mu.Unlock()
	return errors.Join(u.agents.err, u.t.site.manager.Failure())
}

// recorded is the truth as the list of instances tells it: without documents.
func (u *usage) recorded() *load.Ledger {
	instances := load.NewLedger()
	for key, millis := range u.ledger.Millis() {
		if key.Document.IsZero() {
			instances.AddMillis(key, millis)
		}
	}
	return instances
}

// reported is what the API says of each instance.
func (u *usage) reported(ctx context.Context) (map[load.Key]int64, error) {
	reported := map[load.Key]int64{}
	for query := (url.Values{"page_size": {"1000"}}); ; {
		page := &meteringv1.ListInstancesResponse{}
		if err := u.api.Get(ctx, "/v1/instances", query, page); err != nil {
			return nil, err
		}
		for _, i := range page.GetInstances() {
			id, err := contract.ParseID(i.GetInstanceId())
			if err != nil {
				return nil, err
			}
			t := i.GetTotals()
			maps.Insert(reported, maps.All(map[load.Key]int64{
				{Instance: id, Attention: usagev1.Attention_ATTENTION_SUSPENDED}:  t.GetSuspended().AsDuration().Milliseconds(),
				{Instance: id, Attention: usagev1.Attention_ATTENTION_UNKNOWN}:    t.GetUnknown().AsDuration().Milliseconds(),
				{Instance: id, Attention: usagev1.Attention_ATTENTION_PAUSED}:     t.GetPaused().AsDuration().Milliseconds(),
				{Instance: id, Attention: usagev1.Attention_ATTENTION_AWAY}:       t.GetAway().AsDuration().Milliseconds(),
				{Instance: id, Attention: usagev1.Attention_ATTENTION_BUSY}:       t.GetBusy().AsDuration().Milliseconds(),
				{Instance: id, Attention: usagev1.Attention_ATTENTION_IDLE}:       t.GetIdle().AsDuration().Milliseconds(),
				{Instance: id, Attention: usagev1.Attention_ATTENTION_BACKGROUND}: t.GetBackground().AsDuration().Milliseconds(),
			}))
		}
		if page.GetNextPageToken() == "" {
			return reported, nil
		}
		query.Set("page_token", page.GetNextPageToken())
	}
}

// finish has everybody leave, and waits until the Manager has all.
func (u *usage) finish(ctx context.Context) error {
	u.leaving.Store(true)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		u.agents.all.Wait()
	}()
	select {
	case <-gone:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return u.agents.err
}

// abandon ends whoever still records, and waits for them.
func (u *usage) abandon() {
	if u.agents != nil {
		u.agents.cancel(errors.New("the trial is over"))
		u.agents.all.Wait()
	}
}
