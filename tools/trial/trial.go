package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/cetrus/cetrus/tools/cluster"
	"github.com/cetrus/cetrus/tools/cluster/parts"
	"github.com/cetrus/cetrus/tools/figure"
)

// Config says what is tried, and how long.
type Config struct {
	// Root is the checkout, Bin the folder where `tools/bootstrap.sh cluster` and tools/build.sh have put programs.
	Root, Bin string
	// Dir takes everything that the trial writes, and is kept where it finds something wrong.
	Dir string
	// Seed decides what is random.
	Seed uint64
	// Random is for how long pods are deleted at random.
	Random time.Duration
	// Only names the scenarios to run, in their own order; empty: all. What they need runs all the same.
	Only []string
	// Agents is how many light agents record.
	Agents int
	// From is the commit or tag whose charts and images are installed first, to be upgraded from; empty: the newest
	// tag before this commit, and where there is none this same chart and image under the number of an older version.
	From string
	// Lines takes the figures, a JSON object a line; Progress words for people.
	Lines, Progress io.Writer
}

// Result is what a trial found.
type Result struct {
	// Events are those that agents recorded, Keys the (instance, attention) that were compared.
	Events int64
	Keys   int
	// LostMillis and DoubledMillis are the most that any comparison found.
	LostMillis, DoubledMillis int64
	// Failed are the scenarios that went wrong, each with its error.
	Failed []error
}

// Err says what is wrong.
func (r Result) Err() error { return errors.Join(r.Failed...) }

// ErrNoCluster is of a machine on which no cluster could be started: it says nothing of the platform.
var ErrNoCluster = errors.New("no cluster could be started on this machine")

// shortForm is a trial in which pods are deleted at random for less than this.
const shortForm = 5 * time.Minute

// scenario is something that the platform has to live through.
type scenario struct {
	name string
	// needed is run whatever is asked for: the others have nothing to try without it.
	needed bool
	// uncompared: there is nothing to compare once it has run.
	uncompared bool
	// long: it is left out of the short form, unless it is named.
	long bool
	run  func(context.Context, *trial) error
}

// scenarios are all of them, in the order in which they run.
func scenarios() []scenario {
	return []scenario{
		{name: "dry-run", run: dryRun, uncompared: true},
		{name: "install", run: install, needed: true},
		{name: "use", run: use, needed: true},
		{name: "walls", run: walls},
		{name: "upgrade", run: upgrade},
		{name: "orders", run: orders, uncompared: true},
		{name: "pods-in-turn", run: everyPod},
		{name: "pods-at-random", run: anyPod},
		{name: "log-volumes", run: loseLog},
		{name: "database", run: killDatabase},
		{name: "full-log", run: fullLog},
		{name: "full-database", run: fullDatabase},
		{name: "clocks", run: clockSteps},
		{name: "manager", run: managerInCluster},
		{name: "restore", run: restoreDrill},
		{name: "uninstall", run: uninstall, needed: true, uncompared: true},
		{name: "external-log", run: externalLog, long: true, uncompared: true},
	}
}

// Names of all scenarios, in the order in which they run.
func Names() []string {
	var names []string
	for _, s := range scenarios() {
		names = append(names, s.name)
	}
	return names
}

// trial is what the scenarios share.
type trial struct {
	Config
	random  *rand.Rand
	cluster *cluster.Cluster
	kube    kubernetes.Interface
	objects dynamic.Interface
	// old and current are the versions that there are; platform is the release that the others are about.
	old, current version
	platform     *release
	// site, api and usage are there once the platform is in use.
	site  *site
	usage *usage
	// trusted is the authority of whoever installs the platform.
	trusted authority
	// wasThere is what was in the cluster before anything was installed.
	wasThere inventory

	name   string // of the scenario under way
	result Result
}

// Run runs one trial. The error is of what it stands on; what it found is in Result.
func Run(ctx context.Context, config Config) (result Result, err error) {
	for _, name := range config.Only {
		if !slices.Contains(Names(), name) {
			return result, fmt.Errorf("there is no scenario %q; there are %s", name, strings.Join(Names(), ", "))
		}
	}
	t := &trial{Config: config, random: rand.New(rand.NewPCG(config.Seed, 0))}
	t.say("seed %d; everything is in %s", config.Seed, config.Dir)
	if err := t.prepare(ctx); err != nil {
		return result, err
	}
	started := time.Now()
	t.cluster, err = cluster.Start(ctx, cluster.Config{
		Dir: filepath.Join(config.Dir, "cluster"), Bin: config.Bin, Parts: []string{parts.Postgres, parts.S3},
		Images: append(t.current.images(), t.old.images()...), Progress: config.Progress,
	})
	if err != nil {
		return result, fmt.Errorf("%w: %w", ErrNoCluster, err)
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	if err := t.connect(); err != nil {
		return result, err
	}
	if err := t.line("ready", time.Since(started).Seconds(), "s", 0, nil); err != nil {
		return result, err
	}
	for _, s := range scenarios() {
		if !s.needed && len(config.Only) > 0 && !slices.Contains(config.Only, s.name) {
			continue
		}
		if s.long && len(config.Only) == 0 && config.Random < shortForm {
			t.say("%s is left out of the short form", s.name)
			continue
		}
		if err := t.play(ctx, s); err != nil {
			return t.result, err
		}
	}
	return t.result, nil
}

// play runs a scenario and compares. The error is one after which nothing else can be tried.
func (t *trial) play(ctx context.Context, s scenario) error {
	t.name = s.name
	t.say("%s", s.name)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	go func() { // a cluster that has ended answers nobody
		defer close(watched)
		select {
		case <-t.cluster.Done():
			cancel(fmt.Errorf("the cluster ended by itself: %w", t.cluster.Err()))
		case <-ctx.Done():
		}
	}()
	defer func() {
		cancel(nil)
		<-watched
	}()
	begun := time.Now()
	err := s.run(ctx, t)
	took := time.Since(begun)
	if err == nil && t.usage != nil && !s.uncompared {
		err = t.compare(ctx)
	}
	if err == nil {
		t.say("%s: well, after %s", s.name, took.Round(100*time.Millisecond))
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && ctx.Err() != nil {
		return errors.Join(cause, err)
	}
	err = fmt.Errorf("%s: %w", s.name, err)
	t.result.Failed = append(t.result.Failed, err)
	t.say("%v", err)
	t.evidence(context.WithoutCancel(ctx))
	if s.needed {
		return errors.Join(errors.New("without that the others have nothing to try"), err)
	}
	return nil
}

// compare has everybody hold still, waits until all of it is reported, and keeps what is not.
func (t *trial) compare(ctx context.Context) error {
	settled, found, err := t.usage.compare(ctx)
	if err != nil {
		return err
	}
	t.result.Events, t.result.Keys = t.usage.ledger.Events(), found.Keys
	t.result.LostMillis = max(t.result.LostMillis, found.LostMillis)
	t.result.DoubledMillis = max(t.result.DoubledMillis, found.DoubledMillis)
	t.say("%s: %d events, %d (instance, attention), level after %s: lost %d ms, doubled %d ms",
		t.name, t.result.Events, found.Keys, settled.Round(100*time.Millisecond), found.LostMillis, found.DoubledMillis)
	if err := t.line(t.name+"_wrong", float64(found.LostMillis+found.DoubledMillis), "ms", 0, map[string]any{
		"lost_ms": found.LostMillis, "doubled_ms": found.DoubledMillis, "events": t.result.Events, "keys": found.Keys, "level_after_s": settled.Seconds(),
	}); err != nil {
		return err
	}
	if !found.Equal() {
		return fmt.Errorf("lost %d ms, doubled %d ms, of %d (instance, attention); the first: %+v", found.LostMillis, found.DoubledMillis, found.Keys, found.Differences[0])
	}
	return nil
}

// connect makes the clients of the cluster's API.
func (t *trial) connect() error {
	access, err := clientcmd.BuildConfigFromFlags("", t.cluster.Kubeconfig)
	if err != nil {
		return err
	}
	access.QPS, access.Burst = -1, 0
	if t.kube, err = kubernetes.NewForConfig(access); err != nil {
		return err
	}
	t.objects, err = dynamic.NewForConfig(access)
	return err
}

// stop ends whatever runs.
func (t *trial) stop() error {
	if t.usage != nil {
		t.usage.abandon()
	}
	var failures []error
	if t.site != nil {
		failures = append(failures, t.site.stop())
	}
	return errors.Join(append(failures, t.cluster.Stop())...)
}

// say tells people how far it is.
func (t *trial) say(format string, values ...any) {
	_, _ = fmt.Fprintf(t.Progress, "==> "+format+"\n", values...)
}

// line writes a figure. A limit of 0 is none, but of what is wrong or left, of which nothing may be.
func (t *trial) line(name string, value float64, unit string, limit float64, more map[string]any) error {
	return figure.Line{Name: "cluster_" + strings.ReplaceAll(name, "-", "_"), Value: value, Unit: unit, Limit: limit, More: more}.Write(t.Lines)
}

// evidence keeps what helps to understand a failure.
func (t *trial) evidence(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dir := filepath.Join(t.Dir, "evidence", t.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.say("%v", err)
		return
	}
	for file, args := range map[string][]string{
		"pods":   {"get", "pods,pvc,jobs", "--all-namespaces", "--output", "wide"},
		"events": {"get", "events", "--all-namespaces", "--sort-by", ".lastTimestamp"},
		"detail": {"describe", "pods", "--namespace", namespace},
		"logs":   {"logs", "--namespace", namespace, "--selector", "app.kubernetes.io/part-of=cetrus", "--all-containers", "--prefix", "--tail", "400", "--max-log-requests", "50"},
		"before": {"logs", "--namespace", namespace, "--selector", "app.kubernetes.io/part-of=cetrus", "--all-containers", "--prefix", "--tail", "100", "--max-log-requests", "50", "--previous"},
	} {
		out, err := t.cluster.Kubectl(ctx, args...).CombinedOutput()
		if err != nil {
			out = fmt.Appendf(out, "\n%v\n", err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), out, 0o600); err != nil {
			t.say("%v", err)
		}
	}
	t.say("what the cluster says of it is in %s", dir)
}
