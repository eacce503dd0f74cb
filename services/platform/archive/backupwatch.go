package archive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"
)

// backupName is how a backup is named by the time at which it was begun, in UTC.
const backupName = "20060102T150405.000Z"

// watchEvery is how often a store is looked at; it costs a list of its folders, and a look into each that is new or not finished.
const watchEvery = 5 * time.Minute

// BackupWatch looks into a store of backups, and tells how old the latest finished one is: what lies
// there is what counts, whoever should have made it.
type BackupWatch struct {
	store Store
	// within is how old the latest may become.
	within time.Duration
	log    *slog.Logger
	now    func() time.Time
	// began is when the watch began: where there is no backup yet, it counts from then.
	began time.Time

	mu sync.Mutex
	// latest is when the latest backup was begun; zero where none is known. found are the names of the finished ones.
	latest time.Time
	found  []string

	failures     metric.Int64Counter
	registration metric.Registration
}

// NewBackupWatch makes one. Backups that are older than within are told as late.
func NewBackupWatch(store Store, within time.Duration, log *slog.Logger) (*BackupWatch, error) {
	if store == nil || within <= 0 {
		return nil, errors.New("archive: a watch of backups needs a Store, and how old the latest may be")
	}
	if log == nil {
		log = slog.Default()
	}
	w := &BackupWatch{store: store, within: within, log: log.With("component", "backups"), now: time.Now}
	w.began = w.now()
	if err := w.measure(); err != nil {
		return nil, fmt.Errorf("archive: %w", err)
	}
	return w, nil
}

func (w *BackupWatch) measure() error {
	meter := otel.Meter("github.com/cetrus/cetrus/services/platform/archive")
	var err error
	if w.failures, err = meter.Int64Counter("cetrus.backup.failures", metric.WithDescription("Times that the store of backups could not be looked into.")); err != nil {
		return err
	}
	age, err := meter.Float64ObservableGauge("cetrus.backup.age", metric.WithUnit("s"), metric.WithDescription("Age of the latest finished backup; not told where there is none."))
	if err != nil {
		return err
	}
	late, err := meter.Float64ObservableGauge("cetrus.backup.late", metric.WithUnit("s"), metric.WithDescription("For how long there should have been another backup; 0 while there is one in time."))
	if err != nil {
		return err
	}
	found, err := meter.Int64ObservableGauge("cetrus.backup.found", metric.WithDescription("Finished backups in the store."))
	if err != nil {
		return err
	}
	w.registration, err = meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		latest, n := w.seen()
		if !latest.IsZero() {
			o.ObserveFloat64(age, w.now().Sub(latest).Seconds())
		}
		o.ObserveFloat64(late, w.Late().Seconds())
		o.ObserveInt64(found, int64(n))
		return nil
	}, age, late, found)
	return err
}

func (w *BackupWatch) seen() (latest time.Time, found int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.latest, len(w.found)
}

// Late is for how long there should have been another backup: 0 while the latest is young enough. Where there
// is none, or the store could not be looked into, it counts from when the watch began.
func (w *BackupWatch) Late() time.Duration {
	since, _ := w.seen()
	if since.IsZero() {
		since = w.began
	}
	return max(0, w.now().Sub(since)-w.within)
}

// Run looks now and every few minutes, until ctx ends.
func (w *BackupWatch) Run(ctx context.Context) error {
	defer func() { _ = w.registration.Unregister() }() // fails only where it was never registered
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		if err := w.Look(ctx); err != nil && ctx.Err() == nil {
			w.failures.Add(ctx, 1)
			w.log.WarnContext(ctx, "the store of backups cannot be looked into", "store", w.store.Where(), "error", err)
		}
		if late := w.Late(); late > 0 {
			latest, _ := w.seen()
			w.log.WarnContext(ctx, "there should have been another backup", "store", w.store.Where(), "latest", latest, "late", late.Round(time.Second))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Look looks into the store once.
func (w *BackupWatch) Look(ctx context.Context) error {
	w.mu.Lock()
	known := w.found
	w.mu.Unlock()
	names, err := finishedBackups(ctx, w.store, known)
	if err != nil {
		return err
	}
	var latest time.Time
	for _, name := range names {
		// A folder of another name is nobody's backup.
		if made, err := time.Parse(backupName, name); err == nil && made.After(latest) {
			latest = made
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.latest, w.found = latest, names
	return nil
}
