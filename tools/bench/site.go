package bench

import (
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cetrus/cetrus/manager"
	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/ports"
	"github.com/cetrus/cetrus/tools/load"
	"github.com/cetrus/cetrus/tools/stack"
)

// site is `cetrus all`, a Manager of its own beside it, a process of many light agents, and a few
// real agents in this process that are watched.
type site struct {
	run      *run
	platform *stack.Platform
	ports    *ports.Held
	path     string   // of the Manager
	args     []string // of the Manager
	manager  *child
	empty    int64  // bytes of memory of the Manager before any agent came
	agents   string // where they connect
	status   string // of the Manager, host:port
	dir      string // of the Manager
	archive  string // folder of the archive
	memory   string // a folder that costs no syncs
	order    Crowd
	crowd    *child
	at       string // where the crowd answers
	watch    *watch
	working  sync.WaitGroup
	stop     context.CancelFunc
}

const (
	// sitePatience is how long any step may take on a busy machine.
	sitePatience = 5 * time.Minute
	// siteApplications are metered.
	siteApplications = 10
	// connectsAtFirst is how many agents a second begin to connect.
	connectsAtFirst = 500
	// morning is the most of the first day that a machine brings along.
	morning = 2 * time.Hour
	// archiveAge is after what time what has come is archived.
	archiveAge = 10 * time.Second
	// awayDays is how long laptops were away, in days of work.
	awayDays = 5
	watched  = 10
)

// theSite starts the site once for all benches of many agents.
func (r *run) theSite(ctx context.Context) (*site, error) {
	if r.site != nil {
		return r.site, nil
	}
	s := &site{run: r, stop: func() {}}
	if err := s.start(ctx); err != nil {
		return nil, errors.Join(err, s.close())
	}
	r.site = s
	return s, nil
}

func (s *site) start(ctx context.Context) (err error) {
	r := s.run
	if s.archive, err = r.folder("archive"); err != nil {
		return err
	}
	if s.platform, err = r.startPlatform(ctx, "--archive-url", "file://"+s.archive, "--archive-segment-age", archiveAge.String()); err != nil {
		return err
	}
	rules, err := s.applications(ctx)
	if err != nil {
		return err
	}
	if err := s.startFirst(ctx); err != nil {
		return err
	}
	s.empty = memory(s.manager.PID(), "VmRSS:")
	agents, laptops := r.crowdSize()
	token, err := stack.EnrollmentToken(ctx, s.dir, "http://"+s.status, agents+laptops+watched)
	if err != nil {
		return err
	}
	if s.memory, err = os.MkdirTemp(memoryFolder(r.dir), "cetrus-bench-"); err != nil {
		return err
	}
	s.order = Crowd{
		Manager: s.agents, Token: token, Dir: s.memory, Agents: agents, Laptops: laptops, LaptopDays: awayDays, Morning: morning,
		Spread: time.Duration(agents) * time.Second / connectsAtFirst, Rules: rules, Seed: uint64(time.Now().UnixNano()),
	}
	text, err := json.Marshal(s.order)
	if err != nil {
		return err
	}
	r.say("%d agents and %d laptops get their certificates", agents, laptops)
	if s.crowd, err = r.start(nil, r.Self[0], append(r.Self[1:len(r.Self):len(r.Self)], "crowd", string(text))...); err != nil {
		return err
	}
	if err := s.await(ctx, "the agents to answer", func() error {
		text, err := os.ReadFile(filepath.Join(s.memory, crowdAddressFile))
		s.at = string(text)
		return err
	}); err != nil {
		return err
	}
	if err := s.await(ctx, "all agents to connect", func() error {
		state, err := s.state(ctx, time.Time{})
		if err == nil && state.Agents.Connected < agents {
			err = fmt.Errorf("%d of %d are connected (certificates: %v)", state.Agents.Connected, agents, state.Enrolled)
		}
		return err
	}); err != nil {
		return err
	}
	return s.startWatching(token)
}

// crowdSize is how many agents are connected, and how many laptops arrive.
func (r *run) crowdSize() (agents, laptops int) {
	agents, laptops = sized(r, 60, 10_000), sized(r, 12, 2000)
	if r.Scale == Middle {
		agents, laptops = 2000, 400
	}
	if len(r.Only) > 0 && !slices.Contains(r.Only, "offline_backlog") {
		laptops = 0 // nobody waits for them
	}
	return agents, laptops
}

// memoryFolder is where files need no disk, where there is such a place.
func memoryFolder(other string) string {
	const shared = "/dev/shm"
	if info, err := os.Stat(shared); err == nil && info.IsDir() {
		return shared
	}
	return other
}

func (s *site) applications(ctx context.Context) (rules []load.RuleRef, err error) {
	for n := range siteApplications {
		a, err := s.platform.API.CreateApplication(ctx, &meteringv1.Application{DisplayName: fmt.Sprintf("Program %d", n), Rules: []*meteringv1.Rule{{Executable: fmt.Sprintf("program-%d", n)}}})
		if err != nil {
			return nil, err
		}
		application, err := contract.ParseID(a.GetApplicationId())
		if err != nil {
			return nil, err
		}
		rule, err := contract.ParseID(a.GetRules()[0].GetRuleId())
		if err != nil {
			return nil, err
		}
		rules = append(rules, load.RuleRef{Application: application, Rule: rule})
	}
	for _, name := range []string{"draft", "solver"} { // of the watched
		if _, err := s.platform.API.CreateApplication(ctx, &meteringv1.Application{DisplayName: name, Rules: []*meteringv1.Rule{{Executable: name}}}); err != nil {
			return nil, err
		}
	}
	return rules, nil
}

// startFirst starts the Manager twice: to learn its id, then with leave to forward.
func (s *site) startFirst(ctx context.Context) (err error) {
	r := s.run
	if s.path, err = r.build(ctx, "manager/cmd/cetrus-manager"); err != nil {
		return err
	}
	if s.dir, err = r.folder("manager"); err != nil {
		return err
	}
	if s.ports, err = ports.Hold(2); err != nil {
		return err
	}
	s.agents, s.status = s.ports.Addresses()[0], s.ports.Addresses()[1]
	s.args = []string{"run", "--data-dir", s.dir, "--account-id", s.platform.AccountID, "--agents-address", s.agents, "--status-address", s.status}
	if err := s.startManager(); err != nil {
		return err
	}
	status, err := s.managerStatus(ctx)
	if err != nil {
		return err
	}
	cetrus, err := r.build(ctx, "services/cmd/cetrus")
	if err != nil {
		return err
	}
	nats, err := url.Parse(s.platform.NATS)
	if err != nil {
		return err
	}
	to, err := stack.AdmitManager(ctx, cetrus, s.platform.Dir, status.ManagerID, nats.Host)
	if err != nil {
		return err
	}
	if err := s.manager.Stop(time.Minute); err != nil {
		return err
	}
	s.args = append(s.args, "--platform-url", to)
	if err := s.startManager(); err != nil {
		return err
	}
	return s.await(ctx, "the Manager to know the applications", func() error {
		status, err := stack.ManagerStatus(ctx, s.status)
		if err == nil && status.Policy.Applications < siteApplications+2 {
			err = fmt.Errorf("it knows %d", status.Policy.Applications)
		}
		return err
	})
}

func (s *site) startManager() (err error) {
	s.manager, err = s.run.start(nil, s.path, s.args...)
	return err
}

// await waits for a condition as long as all processes run.
func (s *site) await(ctx context.Context, what string, condition func() error) error {
	return stack.Wait(ctx, sitePatience, what, func() error {
		for _, p := range []*child{s.manager, s.crowd} {
			if p != nil {
				if err := p.Failure(); err != nil {
					return stack.Hopeless(err)
				}
			}
		}
		return s.platform.Running(condition)()
	})
}

// startWatching lets a few real agents work.
func (s *site) startWatching(token string) error {
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	s.watch = &watch{platform: s.platform, manager: s.agents, token: token, seen: map[string]bool{}, began: time.Now()}
	s.working.Go(func() {
		for ctx.Err() == nil {
			_ = s.platform.API.Live(ctx, nil, s.watch.told)
			pause(ctx, 100*time.Millisecond)
		}
	})
	for n := range sized(s.run, 3, watched) {
		a, desk, err := s.run.newProbe(ctx, s.watch, n)
		if err != nil {
			return err
		}
		s.working.Go(func() {
			defer desk.Close()
			_ = a.Run(ctx)
		})
	}
	return nil
}

func (s *site) stopWatching() {
	s.stop()
	s.working.Wait()
	if s.watch != nil {
		s.watch.asking.Wait()
	}
}

func (s *site) close() error {
	s.stopWatching()
	if s.crowd != nil {
		s.crowd.stop()
	}
	if s.manager != nil {
		s.manager.stop()
	}
	var err error
	if s.platform != nil {
		err = s.platform.Stop(time.Minute)
	}
	if s.ports != nil {
		s.ports.Release()
	}
	if s.memory != "" {
		err = errors.Join(err, os.RemoveAll(s.memory))
	}
	return err
}

func (s *site) ask(ctx context.Context, method, path string, take func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+s.at+path, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("bench: %s: %s", path, response.Status)
	}
	return take(response.Body)
}

// state is how the agents do; Back is counted since a time.
func (s *site) state(ctx context.Context, since time.Time) (state crowdState, err error) {
	err = s.ask(ctx, http.MethodGet, fmt.Sprintf("/state?since=%d", since.UnixMilli()), func(r io.Reader) error { return json.NewDecoder(r).Decode(&state) })
	if err == nil && state.Failure != "" {
		err = stack.Hopeless(errors.New(state.Failure))
	}
	return state, err
}

func (s *site) tell(ctx context.Context, what string) error {
	return s.ask(ctx, http.MethodPost, "/"+what, func(io.Reader) error { return nil })
}

// counted waits until all that was made is acknowledged and counted.
func (s *site) counted(ctx context.Context) error {
	if err := s.await(ctx, "everything to be acknowledged", func() error {
		state, err := s.state(ctx, time.Time{})
		if err == nil && state.made() > state.acknowledged() {
			err = fmt.Errorf("%d of %d events are", state.acknowledged(), state.made())
		}
		return err
	}); err != nil {
		return err
	}
	return s.level(ctx)
}

// level waits until what is acknowledged now is counted, for as long as more and more is.
func (s *site) level(ctx context.Context) error {
	state, err := s.state(ctx, time.Time{})
	if err != nil {
		return err
	}
	wanted, counted := state.acknowledged()+s.watch.events.Load(), int64(0)
	for counted < wanted {
		before := counted
		if err := s.await(ctx, "what was acknowledged to be counted", func() error {
			quality := &meteringv1.GetDataQualityResponse{}
			if err := s.platform.API.Get(ctx, "/v1/usage:dataQuality", nil, quality); err != nil {
				return err
			}
			if counted = quality.GetEventsCounted(); counted == before {
				return fmt.Errorf("%d of %d events are", counted, wanted)
			}
			return nil
		}); err != nil {
			return err
		}
		if counted < wanted && !pause(ctx, qualityEvery) { // it costs the platform something
			return ctx.Err()
		}
	}
	return nil
}

// managerStatus asks the Manager, which may be busy.
func (s *site) managerStatus(ctx context.Context) (status manager.Status, err error) {
	err = s.await(ctx, "the Manager to tell its status", func() error {
		status, err = stack.ManagerStatus(ctx, s.status)
		return err
	})
	return status, err
}

// askPatience is how long a crowd may take to answer.
const askPatience = time.Minute

// qualityEvery is how often it is asked how much is counted.
const qualityEvery = 250 * time.Millisecond

// compare holds what the API reports of the light agents against what they recorded. What the
// watched agents did is not in the truth, and not looked for.
func (s *site) compare(ctx context.Context) (load.Comparison, error) {
	truth := map[load.Key]int64{}
	if err := s.ask(ctx, http.MethodGet, "/truth", func(r io.Reader) error {
		in := gob.NewDecoder(r)
		for {
			var m millisOf
			if err := in.Decode(&m); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			truth[m.Key] = m.Millis
		}
	}); err != nil {
		return load.Comparison{}, err
	}
	ledger, reported := load.NewLedger(), map[load.Key]int64{}
	for key, millis := range truth {
		ledger.AddMillis(key, millis)
	}
	query := url.Values{"page_size": {"1000"}}
	for {
		page := &meteringv1.ListInstancesResponse{}
		if err := s.platform.API.Get(ctx, "/v1/instances", query, page); err != nil {
			return load.Comparison{}, err
		}
		for _, i := range page.GetInstances() {
			id, err := contract.ParseID(i.GetInstanceId())
			if err != nil {
				return load.Comparison{}, err
			}
			if strings.HasPrefix(i.GetMachineName(), "probe-") {
				continue
			}
			for attention, millis := range millisByAttention(i.GetTotals()) {
				if millis != 0 {
					reported[load.Key{Instance: id, Attention: attention}] = millis
				}
			}
		}
		if page.GetNextPageToken() == "" {
			break
		}
		query.Set("page_token", page.GetNextPageToken())
	}
	return ledger.Compare(reported), nil
}

func millisByAttention(t *meteringv1.UsageTotals) map[usagev1.Attention]int64 {
	return map[usagev1.Attention]int64{
		usagev1.Attention_ATTENTION_SUSPENDED:  t.GetSuspended().AsDuration().Milliseconds(),
		usagev1.Attention_ATTENTION_UNKNOWN:    t.GetUnknown().AsDuration().Milliseconds(),
		usagev1.Attention_ATTENTION_PAUSED:     t.GetPaused().AsDuration().Milliseconds(),
		usagev1.Attention_ATTENTION_AWAY:       t.GetAway().AsDuration().Milliseconds(),
		usagev1.Attention_ATTENTION_BUSY:       t.GetBusy().AsDuration().Milliseconds(),
		usagev1.Attention_ATTENTION_IDLE:       t.GetIdle().AsDuration().Milliseconds(),
		usagev1.Attention_ATTENTION_BACKGROUND: t.GetBackground().AsDuration().Milliseconds(),
	}
}
