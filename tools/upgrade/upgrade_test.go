//go:build linux

package upgrade

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/cetrus/cetrus/agent/activity"
	"github.com/cetrus/cetrus/manager/buffer"
	"github.com/cetrus/cetrus/manager/ingest"
	"github.com/cetrus/cetrus/manager/people"
	"github.com/cetrus/cetrus/manager/releases"
	policyv1 "github.com/cetrus/cetrus/proto/cetrus/policy/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/proto/release"
	"github.com/cetrus/cetrus/tools/stack"
	"github.com/cetrus/cetrus/tools/wine"
)

// trial is how long a release may take here to show that it is well.
const trial = 4 * time.Second

// wineStart is how long Wine may take to start a program, in milliseconds.
const wineStart = 30_000

// site is a Manager whose buffer is this test, with an agent of its own process.
type site struct {
	t        *testing.T
	releases *releases.Library
	shelf    string // the folder of the releases
	server   *ingest.Server
	private  ed25519.PrivateKey
	machine
	process *stack.Process
	address string
	holes   int // times that may not have been watched
	wire    *wire

	mu      sync.Mutex
	records map[uint64]map[uint64][]byte // by epoch and seq
}

// Append implements ingest.Buffer.
func (s *site) Append(_ context.Context, e buffer.Entry) error {
	if e.Frame != nil {
		frame := new(usagev1.Frame)
		if err := proto.Unmarshal(e.Frame, frame); err != nil {
			return err
		}
		s.mu.Lock()
		if s.records[frame.GetEpoch()] == nil {
			s.records[frame.GetEpoch()] = map[uint64][]byte{}
		}
		for i, record := range frame.GetRecords() {
			seq := frame.GetFirstSeq() + uint64(i)
			if before, there := s.records[frame.GetEpoch()][seq]; there && !bytes.Equal(before, record) {
				s.t.Errorf("record %d has two contents", seq)
			}
			s.records[frame.GetEpoch()][seq] = bytes.Clone(record)
		}
		s.mu.Unlock()
	}
	e.Done(1)
	return nil
}

// Stalled implements ingest.Buffer.
func (s *site) Stalled() string { return "" }

// Current implements ingest.Policies.
func (s *site) Current() (*policyv1.Policy, <-chan struct{}) {
	id := func(n byte) []byte { return append(make([]byte, 15), n) }
	p := &policyv1.Policy{AccountId: id(1), Revision: 1, PublishedUtcMillis: 1, DocumentKey: make([]byte, 32)}
	for n, name := range []string{"editor", "calc", "short"} {
		p.Applications = append(p.Applications, &policyv1.ApplicationPolicy{
			ApplicationId: id(byte(100 + n)), DisplayName: name,
			Rules:         []*policyv1.Rule{{RuleId: id(byte(200 + n)), Executable: name}},
			ActivityGap:   durationpb.New(30 * time.Second),
			Timeout:       durationpb.New(30 * time.Minute),
			InstanceScope: policyv1.InstanceScope_INSTANCE_SCOPE_PROCESS_TREE,
		})
	}
	return p, nil
}

// binaries is the folder of the agent that all tests start: to link it takes as long as one
// of them.
var binaries string

func TestMain(m *testing.M) {
	code := m.Run()
	if binaries != "" {
		_ = os.RemoveAll(binaries)
	}
	os.Exit(code)
}

var built = sync.OnceValues(func() (path string, err error) {
	if binaries, err = os.MkdirTemp("", "cetrus-upgrade-"); err != nil {
		return "", err
	}
	return stack.Build(context.Background(), binaries, "tools/upgrade/agent")
})

// start begins the script and starts the agent that was installed on a machine.
func start(t *testing.T, on machine) *site {
	t.Helper()
	s := open(t, on)
	s.command.Name, s.command.Log = "the agent", filepath.Join(t.ArtifactDir(), "agent.log")
	s.command.Args = append(
		s.command.Args, s.path("agent"), s.address, s.path("keys.json"),
		strconv.FormatInt(time.Now().UnixMilli(), 10), strconv.FormatInt(trial.Milliseconds(), 10),
	)
	s.begin()
	t.Cleanup(func() {
		s.process.Kill()
		if t.Failed() {
			t.Logf("the agent said:\n%s", s.process.Said())
		}
	})
	return s
}

// open starts a Manager for the agent of a machine, which trusts its keys.json.
func open(t *testing.T, on machine) *site {
	t.Helper()
	dir := t.TempDir()
	s := &site{t: t, machine: on, shelf: filepath.Join(dir, "library"), records: map[uint64]map[uint64][]byte{}}
	public, private, err := release.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	s.private = private
	keys, err := json.Marshal(map[string]any{"keys": map[string][]byte{"test": public}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.folder, "keys.json"), keys, 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if s.releases, err = releases.Open(releases.Config{Dir: s.shelf, Keys: release.Keys{"test": public}, Shares: []int{100}, Log: log}); err != nil {
		t.Fatal(err)
	}
	book, err := people.Open(filepath.Join(dir, "people"), log)
	if err != nil {
		t.Fatal(err)
	}
	s.wire = &wire{Library: s.releases}
	s.server = ingest.New(
		ingest.Config{AccountID: contract.ID{15: 1}, ManagerID: contract.ID{15: 2}, Log: log},
		ingest.Deps{Buffer: s, People: book, Policies: s, Releases: s.wire, Publish: func(string, []byte) bool { return true }},
	)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() {
		if err := s.server.Serve(serving, listener); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		stop()
		served.Wait()
		if err := book.Close(); err != nil {
			t.Error(err)
		}
	})
	s.address = listener.Addr().String()
	return s
}

// wire is between the Manager's check of a release and the agent's.
type wire struct {
	*releases.Library
	spoilt sync.Map // sums of the programs whose last byte is changed on the way
}

// Piece implements ingest.Releases.
func (w *wire) Piece(sum []byte, offset uint64, most uint32) ([]byte, error) {
	piece, err := w.Library.Piece(sum, offset, most)
	if size, spoilt := w.spoilt.Load([sha256.Size]byte(sum)); spoilt && err == nil && len(piece) > 0 && int(offset)+len(piece) == size {
		piece[len(piece)-1] ^= 1
	}
	return piece, err
}

// spoil has a program come to agents otherwise than it was signed.
func (s *site) spoil(program []byte) []byte {
	s.wire.spoilt.Store(sha256.Sum256(program), len(program))
	return program
}

// begin starts what was installed, as a service manager does.
func (s *site) begin() {
	s.t.Helper()
	var err error
	if s.process, err = stack.Start(s.command); err != nil {
		s.t.Fatal(err)
	}
}

// end ends the installed program's process, and only that, as a power cut would.
func (s *site) end() {
	s.process.Signal(syscall.SIGKILL)
	<-s.process.Done()
}

// machine is where the agent runs.
type machine struct {
	system  string
	program []byte // of the installed agent
	command stack.Command
	folder  string              // for the agent, as this system calls it
	path    func(string) string // what the agent's system calls a file of the folder
}

func linuxMachine(t *testing.T) machine {
	t.Helper()
	binary, err := built()
	if err != nil {
		t.Fatal(err)
	}
	m := machine{system: "linux", command: stack.Command{Path: binary}, folder: t.TempDir()}
	m.path = func(name string) string { return filepath.Join(m.folder, name) }
	m.read(t, binary)
	return m
}

// windowsMachine is one of Wine.
func windowsMachine(t *testing.T) machine {
	t.Helper()
	w := wine.Start(t)
	const name = "agent.exe"
	program := w.Build("tools", "./upgrade/agent", name, false)
	m := machine{system: "windows", command: stack.Command{Path: "wine", Args: []string{program}, Env: w.Env}, folder: w.C()}
	m.path = func(name string) string { return `C:\` + name }
	m.read(t, w.C(name))
	return m
}

func (m *machine) read(t *testing.T, binary string) {
	t.Helper()
	var err error
	if m.program, err = os.ReadFile(binary); err != nil {
		t.Fatal(err)
	}
}

// offer adds a release: the agent's own program with a fault, or another program.
func (s *site) offer(number uint64, fault string, program []byte) {
	s.t.Helper()
	if program == nil {
		program = fmt.Appendf(bytes.Clone(s.program), "\n#release v%d %s", number, fault)
	}
	s.add(release.AgentName, number, program)
}

// add signs a release, and has the Manager offer it; it tells where the Manager keeps it.
func (s *site) add(name string, number uint64, program []byte) (file string) {
	s.t.Helper()
	sum := sha256.Sum256(program)
	signed, err := release.Sign(release.Manifest{
		Name: name, Version: fmt.Sprintf("v%d", number), Number: number, System: s.system, Architecture: runtime.GOARCH,
		Size: int64(len(program)), SHA256: hex.EncodeToString(sum[:]), Released: time.Now(),
	}, "test", s.private)
	if err != nil {
		s.t.Fatal(err)
	}
	header, err := signed.Header()
	if err != nil {
		s.t.Fatal(err)
	}
	added, err := s.releases.Add(io.MultiReader(bytes.NewReader(header), bytes.NewReader(program)))
	if err != nil {
		s.t.Fatal(err)
	}
	return filepath.Join(s.shelf, added.File)
}

// until waits for what the Manager's status tells of the agent.
func (s *site) until(what string, holds func(ingest.AgentInfo) bool) {
	s.t.Helper()
	err := stack.Wait(s.t.Context(), 90*time.Second, what, s.process.Running(func() error {
		agents := s.server.Agents()
		if len(agents) == 1 && agents[0].Connected && holds(agents[0]) {
			return nil
		}
		return fmt.Errorf("agents: %+v, releases: %+v", agents, s.releases.List())
	}))
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) runs(number uint64, version string, refused uint64) {
	s.t.Helper()
	s.until(fmt.Sprintf("number %d to run with %d refused", number, refused), func(a ingest.AgentInfo) bool {
		return a.Release.GetNumber() == number && a.Version == version && a.Release.GetRefused() == refused &&
			a.Release.GetState() != 4 // on trial
	})
}

// events are all usage events, by instance in the order of their numbers.
func (s *site) events() map[string][]*usagev1.UsageEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.records) != 1 {
		s.t.Errorf("the journal had %d epochs", len(s.records))
	}
	byInstance := map[string][]*usagev1.UsageEvent{}
	for _, records := range s.records {
		for seq := uint64(1); seq <= uint64(len(records)); seq++ {
			var record usagev1.Record
			if err := proto.Unmarshal(records[seq], &record); err != nil || records[seq] == nil {
				s.t.Fatalf("record %d of %d: %v", seq, len(records), err)
			}
			e := record.GetUsage()
			if len(e.GetDocumentId()) == 0 {
				byInstance[string(e.GetInstanceId())] = append(byInstance[string(e.GetInstanceId())], e)
			}
		}
	}
	return byInstance
}

// Milliseconds on the machine's boot timeline, and of the script.
const (
	opened = 61_000 // one minute up, and one second into the script
	every  = 200    // between inputs
)

// inFront tells which of the two programs the script had in front.
func inFront(boot int64) int {
	n := (boot - opened) / 1500 // turns so far
	return int(n % 2)
}

func TestUpgradesUnderLoad(t *testing.T) {
	t.Parallel()
	upgrades := uint64(10)
	if text := os.Getenv("CETRUS_UPGRADES"); text != "" {
		var err error
		if upgrades, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, linuxMachine(t))
	upgradesUnderLoad(s, upgrades, "crash", "deaf", "hang")
	if err := s.process.Stop(15 * time.Second); err != nil {
		t.Fatal(err)
	}
	judge(t, s.events(), s.holes, true)
}

// The same on Windows, where no process becomes another one: the installed program stays, as
// the guardian of the release that runs.
func TestUpgradesUnderLoadOnWindows(t *testing.T) {
	t.Parallel()
	s := start(t, windowsMachine(t))
	upgradesUnderLoad(s, 1, "crash", "hang")
	s.end() // what Wine does at a signal is no stop
	judgeFrom(t, s.events(), s.holes, false, wineStart)
}

// upgradesUnderLoad offers good releases, then some with faults, then a good one again.
func upgradesUnderLoad(s *site, upgrades uint64, faults ...string) {
	t := s.t
	s.runs(1, "installed", 0)
	number, holes := uint64(1), 0
	for range upgrades {
		number++
		s.offer(number, "", nil)
		s.runs(number, fmt.Sprintf("v%d", number), 0)
		holes += 2 // into the trial, and out of it
	}
	good := number
	for i, fault := range faults {
		number++
		s.offer(number, fault, nil)
		s.runs(good, fmt.Sprintf("v%d", good), number)
		holes += 2
		list := s.releases.List()
		if list[0].Number != number || list[0].Failed != 1 || list[0].Held == "" {
			t.Errorf("%s: the release is not held: %+v", fault, list[0])
		}
		if i == 0 && s.process.Failure() != nil {
			t.Fatal(s.process.Failure())
		}
	}
	number++
	s.offer(number, "", []byte("this cannot be started"))
	s.runs(good, fmt.Sprintf("v%d", good), number)
	number++
	s.offer(number, "", nil)
	s.until("the release behind the broken ones to run", func(a ingest.AgentInfo) bool {
		return a.Version == fmt.Sprintf("v%d", number) && a.Release.GetState() == 1
	})
	holes += 4
	// One process all the time, as a service manager sees it.
	if err := s.process.Failure(); err != nil {
		t.Fatal(err)
	}
	s.holes = holes
}

// TestKilledWhileUpgrading kills everything at random moments of upgrades, as a power cut
// would, and starts it again.
func TestKilledWhileUpgrading(t *testing.T) {
	t.Parallel()
	s := start(t, linuxMachine(t))
	stopped := 0
	const rounds = 8
	killedWhileUpgrading(s, rounds, func(random *rand.Rand) {
		if random.IntN(3) > 0 {
			s.process.Kill()
		} else if stopped++; s.process.Stop(15*time.Second) != nil || s.process.Failure() == nil {
			t.Error("it does not stop when it is told to")
		}
	})
	t.Logf("killed %d times, stopped %d times", rounds-stopped, stopped)
	if err := s.process.Stop(15 * time.Second); err != nil {
		t.Fatal(err)
	}
	judge(t, s.events(), rounds*6, false)
}

// On Windows the guardian alone is killed; the release must not outlive it.
func TestKilledWhileUpgradingOnWindows(t *testing.T) {
	t.Parallel()
	s := start(t, windowsMachine(t))
	const rounds = 3
	killedWhileUpgrading(s, rounds, func(*rand.Rand) { s.end() })
	s.end()
	judgeFrom(t, s.events(), rounds*6, false, wineStart)
}

// killedWhileUpgrading ends the agent, in some way, at random moments of upgrades.
func killedWhileUpgrading(s *site, rounds int, end func(*rand.Rand)) {
	seed := rand.Uint64()
	s.t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	s.runs(1, "installed", 0)
	number := uint64(1)
	for range rounds {
		number++
		s.offer(number, "", nil)
		timer := time.NewTimer(time.Duration(random.IntN(2500)) * time.Millisecond)
		select {
		case <-timer.C: // a moment of the upgrade; nothing is waited for
		case <-s.t.Context().Done():
		}
		end(random)
		s.begin()
	}
	number++
	s.offer(number, "", nil)
	s.until("the last release to run", func(a ingest.AgentInfo) bool {
		return a.Version == fmt.Sprintf("v%d", number) && a.Release.GetState() == 1
	})
}

// judge compares what was recorded with the script. After a kill, what was not yet written is
// not watched either, so such times may be long.
func judge(t *testing.T, events map[string][]*usagev1.UsageEvent, holes int, short bool) {
	t.Helper()
	judgeFrom(t, events, holes, short, 0)
}

// judgeFrom is judge for an agent that may have begun so late, in milliseconds.
func judgeFrom(t *testing.T, events map[string][]*usagev1.UsageEvent, holes int, short bool, late int64) {
	t.Helper()
	var long [2][]*usagev1.UsageEvent
	shorts := map[int64]int64{} // from when to when
	for _, list := range events {
		n := list[0].GetApplicationId()[15] - 100
		if n == 2 {
			last := list[len(list)-1]
			if last.GetTransition() != usagev1.Transition_TRANSITION_CLOSED {
				continue // open when the test ended
			}
			if _, twice := shorts[list[0].GetAtBootMillis()]; twice {
				t.Errorf("a run of the short program at %d is counted twice", list[0].GetAtBootMillis())
			}
			shorts[list[0].GetAtBootMillis()] = last.GetAtBootMillis()
			continue
		}
		if long[n] != nil {
			t.Errorf("program %d has more than one instance: it was split", n)
		}
		long[n] = list
	}
	type span struct{ from, to int64 }
	var unwatched []span
	for n, list := range long {
		if len(list) == 0 {
			t.Fatalf("program %d was lost", n)
		}
		sums := map[usagev1.Attention]int64{}
		began, end := list[0].GetAtBootMillis(), list[len(list)-1].GetAtBootMillis()
		at := began
		if began < opened || began > opened+late {
			t.Errorf("program %d opened at %d, not from %d until %d", n, began, opened, opened+late)
		}
		for _, e := range list[1:] {
			c := e.GetClosed()
			if c.GetFromBootMillis() != at || c.GetToBootMillis() < at {
				t.Errorf("program %d: an interval begins at %d, the one before ended at %d", n, c.GetFromBootMillis(), at)
			}
			at = c.GetToBootMillis()
			sums[c.GetAttention()] += c.GetToBootMillis() - c.GetFromBootMillis()
			if c.GetFromBootMillis() == c.GetToBootMillis() {
				continue // an input just as the other one came to the front
			}
			mine, last := inFront(c.GetFromBootMillis()) == n, inFront(c.GetToBootMillis()-1) == n
			switch c.GetAttention() {
			case usagev1.Attention_ATTENTION_BUSY, usagev1.Attention_ATTENTION_IDLE:
				if !mine || !last {
					t.Errorf("program %d: %v from %d to %d, while the other one was in front", n, c.GetAttention(), c.GetFromBootMillis(), c.GetToBootMillis())
				}
			case usagev1.Attention_ATTENTION_BACKGROUND:
				if mine || last {
					t.Errorf("program %d: background from %d to %d, while it was in front", n, c.GetFromBootMillis(), c.GetToBootMillis())
				}
			case usagev1.Attention_ATTENTION_UNKNOWN:
				if n == 0 {
					unwatched = append(unwatched, span{c.GetFromBootMillis(), c.GetToBootMillis()})
				}
			default:
				t.Errorf("program %d: %v", n, c.GetAttention())
			}
		}
		var total int64
		for _, sum := range sums {
			total += sum
		}
		if at != end || total != end-began {
			t.Errorf("program %d: the parts add up to %d, it was open for %d", n, total, end-began)
		}
		// Nobody stopped typing: what was not busy in front is what passes until the first
		// input after a time that was not watched.
		if idle := sums[usagev1.Attention_ATTENTION_IDLE]; idle > int64(holes+1)*2*every {
			t.Errorf("program %d: idle for %d ms, which nobody was", n, idle)
		}
		t.Logf("program %d: open %d ms, of that %v", n, total, sums)
	}
	slices.SortFunc(unwatched, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var lengths []int64
	for _, u := range unwatched {
		lengths = append(lengths, u.to-u.from)
	}
	slices.Sort(lengths)
	t.Logf("times not watched, in ms: %v", lengths)
	// The release that hangs is waited for; no other switch takes long.
	if n := len(lengths); short && n > 1 && lengths[n-2] > 2000 {
		t.Errorf("a switch took %d ms", lengths[n-2])
	}
	if len(unwatched) == 0 || len(unwatched) > holes {
		t.Errorf("there were %d times that nobody watched; %d switches were made", len(unwatched), holes)
	}
	// Every run of the short program that was watched is there, to the millisecond. Its end is
	// told when nothing can take over from it any more, at the input that follows.
	const told = 499 + activity.HandOver + activity.LateStart + 2*every
	end := long[0][len(long[0])-1].GetAtBootMillis()
	for from := int64(opened + 6000); from+told < end; from += 6000 {
		to := from + 499
		if from <= long[0][0].GetAtBootMillis() {
			continue
		}
		if slices.ContainsFunc(unwatched, func(u span) bool { return u.from <= to+1 && from <= u.to+1 }) {
			continue
		}
		if shorts[from] != to {
			t.Errorf("the run of the short program from %d to %d is recorded until %d; not watched: %v, runs: %v", from, to, shorts[from], unwatched, shorts)
		}
	}
}
