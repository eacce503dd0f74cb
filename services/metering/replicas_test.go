package metering

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	usagev1 "github.com/cetrus/cetrus/proto/cetrus/usage/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/natsserver"
	"github.com/cetrus/cetrus/services/platform/platformtest"
	"github.com/cetrus/cetrus/services/platform/ports"
	"github.com/cetrus/cetrus/services/platform/projection"
)

const (
	// replicaOf, in the environment, makes this test's binary a replica of metering.
	replicaOf = "CETRUS_TEST_REPLICA"
	// takeoverWithin is what is promised.
	takeoverWithin = 10 * time.Second
)

// replicaMain is one replica until it is ended: name, NATS, PostgreSQL, account and seed are its arguments. It gives
// commands all the time, of which other replicas give the same, and says what was made and what is wrong.
func replicaMain(args []string, out io.Writer) error {
	name, natsURL, database := args[0], args[1], args[2]
	account, err := contract.ParseID(args[3])
	if err != nil {
		return err
	}
	seed, err := strconv.ParseUint(args[4], 10, 64)
	if err != nil {
		return err
	}
	ctx := context.Background()
	nc, err := nats.Connect(natsURL, append(natsserver.RoleUser(natsserver.Metering, "secret").Options(), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))...)
	if err != nil {
		return err
	}
	stores, err := OpenStores(ctx, database, platformtest.Logger(nil))
	if err != nil {
		return err
	}
	s, err := New(Config{Instance: name, MaxBatchMessages: 8}, Deps{NATS: nc, Stores: stores, Logger: platformtest.Logger(nil)})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	go func() {
		rnd := rand.New(rand.NewPCG(seed, 1))
		for n := 0; ; n++ {
			if problem := s.command(as(ctx, account), out, rnd, n); problem != nil {
				fmt.Fprintln(out, "PROBLEM", name, problem)
			}
			wait(ctx, time.Duration(rnd.IntN(int(40*time.Millisecond))))
		}
	}()
	return <-ended
}

// command gives one command that other replicas give too, and reads what it did.
func (s *Service) command(ctx context.Context, out io.Writer, rnd *rand.Rand, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	applications, settings := &applicationAPI{service: s}, &settingsAPI{service: s}
	if rnd.IntN(2) == 0 {
		app := xterm()
		app.DisplayName = fmt.Sprint("Program ", n)
		created, err := applications.CreateApplication(ctx, &meteringv1.CreateApplicationRequest{Application: app})
		switch {
		case err == nil:
			got, err := applications.GetApplication(ctx, &meteringv1.GetApplicationRequest{ApplicationId: created.GetApplication().GetApplicationId()})
			if err != nil || got.GetApplication().GetDisplayName() != app.DisplayName {
				return fmt.Errorf("%s was made and is not there: %w", app.DisplayName, err)
			}
			fmt.Fprintln(out, "CREATED", app.DisplayName)
		case !expected(err):
			return fmt.Errorf("making %s: %w", app.DisplayName, err)
		}
		return nil
	}
	zone := []string{"Europe/Vienna", "Asia/Kathmandu", "America/Lima"}[rnd.IntN(3)]
	changed, err := settings.UpdateSettings(ctx, &meteringv1.UpdateSettingsRequest{
		Settings: &meteringv1.Settings{TimeZone: zone}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"time_zone"}},
	})
	if err != nil && !expected(err) {
		return fmt.Errorf("changing settings: %w", err)
	}
	if err == nil && changed.GetSettings().GetTimeZone() == "UTC" {
		return errors.New("settings were changed, and what was decided cannot be read")
	}
	return nil
}

// expected are refusals that tell whoever gave the command what to do: somebody was faster, or a part is away.
func expected(err error) bool {
	return errs.Is(errs.AlreadyExists, err) || errs.Is(errs.Conflict, err) || errs.Is(errs.Unavailable, err) || errors.Is(err, context.DeadlineExceeded)
}

// replica is a process that runs replicaMain.
type replica struct {
	name    string
	process *exec.Cmd
	read    sync.WaitGroup
}

// replicas are those of one service, and what they have said.
type replicas struct {
	t                 *testing.T
	natsURL, database string
	account           contract.ID
	started           int

	mu                sync.Mutex
	created, problems []string
}

func (r *replicas) start(seed uint64) *replica {
	r.t.Helper()
	r.started++
	one := &replica{name: fmt.Sprint("replica-", r.started)}
	one.process = exec.Command(os.Args[0], one.name, r.natsURL, r.database, r.account.String(), strconv.FormatUint(seed, 10))
	one.process.Env = append(os.Environ(), replicaOf+"=1")
	one.process.Stderr = os.Stderr
	out, err := one.process.StdoutPipe()
	if err == nil {
		err = one.process.Start()
	}
	if err != nil {
		r.t.Fatal(err)
	}
	one.read.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			r.mu.Lock()
			if name, is := strings.CutPrefix(lines.Text(), "CREATED "); is {
				r.created = append(r.created, name)
			} else if strings.HasPrefix(lines.Text(), "PROBLEM ") {
				r.problems = append(r.problems, lines.Text())
			}
			r.mu.Unlock()
		}
	})
	r.t.Cleanup(one.kill)
	return one
}

func (r *replica) kill() {
	_ = r.process.Process.Kill() // it may have been
	r.read.Wait()
	_ = r.process.Wait() // says that it was killed
}

// shares are the partitions that each reads.
func (r *replicas) shares(stores *Stores) map[string][]int {
	r.t.Helper()
	rows, err := stores.Views.Projector.Query(r.t.Context(), "SELECT holder, partition FROM projection_share WHERE holder IS NOT NULL")
	if err != nil {
		r.t.Fatal(err)
	}
	shares := make(map[string][]int)
	var holder string
	var partition int
	if _, err := pgx.ForEachRow(rows, []any{&holder, &partition}, func() error { shares[holder] = append(shares[holder], partition); return nil }); err != nil {
		r.t.Fatal(err)
	}
	return shares
}

// within waits until something is so.
func within(t *testing.T, span time.Duration, what string, so func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), span)
	defer cancel()
	ask := time.NewTicker(20 * time.Millisecond)
	defer ask.Stop()
	for !so() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within %v: %s", span, what)
		case <-ask.C:
		}
	}
}

// received are frames of an office.
type received struct {
	office *office
	frames []*usagev1.ReceivedFrame
}

// TestReplicas: several processes count and decide at once; one is killed, one is stopped for a while, and one comes late.
// What each held another has within ten seconds, and everything is counted once.
func TestReplicas(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	rnd := rand.New(rand.NewPCG(seed, 63))
	held, err := ports.Hold(1)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	platform := natsserver.PlatformUser("secret")
	server, err := natsserver.Start(t.Context(), natsserver.Config{
		StoreDir: t.TempDir(), Listen: held.Addresses()[0], Unsynced: true, Logger: platformtest.Logger(nil),
		Users: []natsserver.User{platform, natsserver.RoleUser(natsserver.Metering, "secret")},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Stop()
	natsURL := "nats://" + held.Addresses()[0]
	nc, err := nats.Connect(natsURL, platform.Options()...)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if err := natsserver.EnsureStreams(t.Context(), nc, natsserver.Streams{}); err != nil {
		t.Fatal(err)
	}
	database := platformtest.Database(t)
	stores, err := OpenStores(t.Context(), database, platformtest.Logger(nil))
	if err != nil {
		t.Fatal(err)
	}
	defer stores.Close()
	offices := make([]*office, 12)
	var frames []received
	for i := range offices {
		offices[i] = newOffice(rnd, 2, 60)
		for range 2 { // everything comes twice, cut otherwise
			for _, f := range offices[i].frames(rnd, 8) {
				frames = append(frames, received{offices[i], []*usagev1.ReceivedFrame{f}})
			}
		}
	}
	rnd.Shuffle(len(frames), func(i, j int) { frames[i], frames[j] = frames[j], frames[i] })

	all := &replicas{t: t, natsURL: natsURL, database: database, account: offices[0].account}
	running := []*replica{all.start(rnd.Uint64()), all.start(rnd.Uint64())}
	fair := func(names ...string) {
		t.Helper()
		within(t, 20*time.Second, "a fair share each", func() bool {
			shares := all.shares(stores)
			return !slices.ContainsFunc(names, func(name string) bool {
				return len(shares[name]) < contract.Partitions/len(names)-len(names)
			})
		})
	}
	fair(running[0].name, running[1].name)
	running = append(running, all.start(rnd.Uint64()))
	fair(running[0].name, running[1].name, running[2].name)

	publish := func(n int) {
		for _, f := range frames[:min(n, len(frames))] {
			f.office.publish(t, nc, rnd, f.frames, 1)
		}
		frames = frames[min(n, len(frames)):]
	}
	quarter := len(frames) / 4
	publish(quarter)
	for _, fault := range []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP} {
		fair(running[0].name, running[1].name, running[2].name)
		i := rnd.IntN(len(running))
		victim := running[i]
		lost := all.shares(stores)[victim.name]
		if len(lost) == 0 {
			t.Fatal("the victim holds nothing")
		}
		publish(quarter / 2) // so that it is at work
		if err := victim.process.Process.Signal(fault); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		publish(quarter / 2)
		// The last message of each of its partitions is counted by another.
		counted := 0
		for _, o := range offices {
			partition := contract.Partition(o.account)
			if !slices.Contains(lost, partition) {
				continue
			}
			counted++
			last := o.publish(t, nc, rnd, o.frames(rnd, 1000)[:1], 1)
			within(t, 3*takeoverWithin, fmt.Sprintf("partition %d at %d", partition, last), func() bool {
				at, err := projection.Position(t.Context(), stores.Views.Projector, "usage", partition)
				return err == nil && at >= last
			})
		}
		within(t, 3*takeoverWithin, "all partitions read by others", func() bool {
			shares, held := all.shares(stores), 0
			for _, of := range shares {
				held += len(of)
			}
			return len(shares[victim.name]) == 0 && held == contract.Partitions
		})
		took := time.Since(began)
		t.Logf("%v of %s, which held %d partitions: and %d of the accounts: others count for it after %v", fault, victim.name, len(lost), counted, took.Round(time.Millisecond))
		if took > takeoverWithin {
			t.Errorf("that took longer than %v", takeoverWithin)
		}
		if fault == syscall.SIGSTOP {
			if err := victim.process.Process.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
		} else {
			victim.kill()
			running[i] = all.start(rnd.Uint64())
		}
	}
	publish(len(frames))
	fair(running[0].name, running[1].name, running[2].name)

	// Any process answers, whoever has counted.
	reader, err := New(Config{Instance: "reader"}, Deps{NATS: nc, Stores: stores, Logger: platformtest.Logger(nil)})
	if err != nil {
		t.Fatal(err)
	}
	alone, err := New(Config{Instance: "alone"}, Deps{NATS: nc, Stores: openStores(t), Logger: platformtest.Logger(nil)})
	if err != nil {
		t.Fatal(err)
	}
	defer begin(t, reader)()
	defer begin(t, alone)()
	for i, o := range offices {
		last := o.publish(t, nc, rnd, o.frames(rnd, 1000)[:1], 1)
		for _, s := range []*Service{reader, alone} {
			waiting, cancel := context.WithTimeout(t.Context(), time.Minute)
			err := s.waitFor(waiting, contract.Partition(o.account), last, func(v *views) *projection.Runner { return v.usage })
			cancel()
			if err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(picture(t, alone, o), picture(t, reader, o)); diff != "" {
			t.Errorf("office %d is counted otherwise than by one process alone: %.2000s", i, diff)
		}
	}
	for _, r := range running {
		r.kill()
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	for _, problem := range all.problems {
		t.Error(problem)
	}
	slices.Sort(all.created)
	if twice := len(all.created) - len(slices.Compact(slices.Clone(all.created))); twice > 0 {
		t.Errorf("%d names were given twice", twice)
	}
	listed, err := (&applicationAPI{service: alone}).ListApplications(as(t.Context(), all.account), &meteringv1.ListApplicationsRequest{PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	there := make(map[string]int)
	for _, app := range listed.GetApplications() {
		there[app.GetDisplayName()]++
	}
	for _, name := range all.created {
		if there[name] != 1 {
			t.Errorf("%s was made, and is there %d times", name, there[name])
		}
	}
	t.Logf("%d applications were made, each by one of the processes", len(all.created))
}
