package metering

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otelmetric "go.opentelemetry.io/otel/metric"
	"golang.org/x/sync/errgroup"

	meteringv1 "github.com/cetrus/cetrus/proto/cetrus/metering/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/keyring"
)

const (
	// filesAtOnce is how many files a process makes at once.
	filesAtOnce = 2
	// fileClaim is for how long a file is its maker's who is not heard of.
	fileClaim = 30 * time.Second
	// lookForFiles is how often it is looked what is to be made: who asks elsewhere wakes nobody here.
	lookForFiles = 5 * time.Second
	// lookForOldFiles is how often those are removed that have been kept for long enough.
	lookForOldFiles = time.Minute
	// fileNoted is how often it is noted how far a file is, at least.
	fileNoted = 2 * time.Second
	// fileFirstPause is the pause after the first time that a file could not be made; it doubles.
	fileFirstPause = 2 * time.Second
	// fileRestPause is the pause where what is needed for it does not answer: it is begun again until that does.
	fileRestPause = 15 * time.Second
	// fileEnd is how long the last word about a file may take.
	fileEnd = 10 * time.Second
)

// runFiles makes files of reports that are waited for, and removes old ones, until ctx ends.
func (s *Service) runFiles(ctx context.Context) error {
	if s.logins == nil || s.files.keys == nil {
		return nil // whose they are could not be told, or nothing be sealed; others do it
	}
	var group errgroup.Group
	group.Go(func() error {
		every(ctx, lookForOldFiles, nil, func() {
			if err := s.files.expire(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "old files of reports cannot be removed; it is tried again", "error", err)
			}
		})
		return nil
	})
	for range filesAtOnce {
		group.Go(func() error {
			s.everyLevel(ctx, lookForFiles, s.files.wake, func(*views) { s.makeFiles(ctx) })
			return nil
		})
	}
	return group.Wait()
}

// makeFiles makes files until there is none to make.
func (s *Service) makeFiles(ctx context.Context) {
	for ctx.Err() == nil {
		m, err := s.files.take(ctx, s.cfg.FileClaim)
		if err != nil {
			if ctx.Err() == nil {
				s.log.WarnContext(ctx, "it cannot be told which file of a report is to be made; it is tried again", "error", err)
			}
			return
		}
		if m == nil {
			return
		}
		s.files.soon() // there may be more than one
		s.makeFile(ctx, m)
	}
}

// makeFile makes a file, and says what became of it.
func (s *Service) makeFile(ctx context.Context, m *fileMaker) {
	log := s.log.With("account", m.account, "file", m.id)
	outcome := "ready"
	err := s.fillFile(ctx, m)
	if err != nil {
		outcome, err = s.afterFailure(ctx, m, err)
	}
	switch {
	case errors.Is(err, errNotOurs):
		log.InfoContext(ctx, "a file of a report is not made here any more: it was cancelled or removed, or is made elsewhere")
		return
	case err != nil && ctx.Err() == nil:
		log.WarnContext(ctx, "what became of a file of a report cannot be noted: it is begun anew", "error", err)
		return
	}
	s.files.ended.Add(ctx, 1, otelmetric.WithAttributes(attribute.String("outcome", outcome)))
}

// afterFailure says why a file was not made, or has it begun again.
func (s *Service) afterFailure(ctx context.Context, m *fileMaker, err error) (outcome string, failed error) {
	if errors.Is(err, errNotOurs) {
		return "", err
	}
	// The last word is said also where this process ends.
	said, cancel := context.WithTimeout(context.WithoutCancel(ctx), fileEnd)
	defer cancel()
	if ctx.Err() != nil {
		return "stopped", m.again(said, 0, false)
	}
	problem, detail := problemOf(err)
	switch {
	case errors.Is(err, errOwnerGone):
		return "gone", m.remove(said)
	case problem == 0 && errs.Is(errs.Unavailable, err):
		s.log.WarnContext(ctx, "a file of a report cannot be made now; it is begun again", "account", m.account, "file", m.id, "error", err, "again in", fileRestPause)
		return "again", m.again(said, fileRestPause, false)
	case problem == 0 && m.tries < fileTries:
		s.log.WarnContext(ctx, "a file of a report could not be made; it is begun again", "account", m.account, "file", m.id, "error", err)
		return "again", m.again(said, fileFirstPause<<(m.tries-1), true)
	case problem == 0:
		s.log.ErrorContext(ctx, "a file of a report could not be made, and is given up", "account", m.account, "file", m.id, "error", err)
		problem, detail = meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_GIVEN_UP, errs.PublicOf(err).Message
	}
	return enumWord(problem, "REPORT_FILE_PROBLEM_"), m.fail(said, problem, detail)
}

// errOwnerGone and others are why there is no file, whatever happens.
var (
	errOwnerGone     = errors.New("metering: the login that asked for the file is gone")
	errNotPrivileged = errors.New("metering: the login may not ask this any more")
	errFileTooLarge  = errors.New("metering: the file is too large")
)

// problemOf is why there can be no file; 0 where it may be made another time.
func problemOf(err error) (problem meteringv1.ReportFileProblem, detail string) {
	switch {
	case errors.Is(err, authn.ErrDisabled):
		return meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_OWNER_DISABLED, ""
	case errors.Is(err, errNotPrivileged):
		return meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_NOT_PRIVILEGED, ""
	case errors.Is(err, errNoRoom):
		return meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_NO_ROOM, ""
	case errors.Is(err, errFileTooLarge):
		return meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_TOO_LARGE, ""
	}
	switch detail, noReason, refused := refusal(err); {
	case noReason:
		return meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_REASON_MISSING, ""
	case refused:
		return meteringv1.ReportFileProblem_REPORT_FILE_PROBLEM_REFUSED, detail
	}
	return 0, ""
}

// fillFile asks the report with what its owner may see now, and was privileged to as they asked for the file, and
// keeps what it is answered.
func (s *Service) fillFile(ctx context.Context, m *fileMaker) error {
	if m.tries > fileTries {
		return errors.New("metering: whoever began it before did not come to its end")
	}
	owner, err := s.logins.CallerOf(m.account, m.owner)
	switch {
	case errs.Is(errs.NotFound, err):
		return errOwnerGone
	case err != nil:
		return err
	}
	owner.Privileges &= m.privileges // a key may be good for less than its login
	question, err := s.files.asked(ctx, m.keptFile)
	if err != nil {
		return err
	}
	if owner, err = s.admitted(question, owner); err != nil {
		return fmt.Errorf("%w: %w", errNotPrivileged, err)
	}
	asks, err := s.asLogin(ctx, owner)
	if err != nil {
		return err
	}
	key, err := s.files.key(ctx, m.account, m.owner)
	if err != nil {
		return err
	}
	file, err := s.fileOf(asks, question, m.format)
	if err != nil {
		return err
	}
	var rows atomic.Int64
	var done atomic.Pointer[portion]
	file.wrote = func(n int64, s portion) { rows.Store(n); done.Store(&s) }
	err = m.hold(asks, func() (int64, portion) {
		if d := done.Load(); d != nil {
			return rows.Load(), *d
		}
		return rows.Load(), portion{}
	}, func(asks context.Context) error {
		parts := &keptParts{fileMaker: m, ctx: asks, key: key, most: s.cfg.MaxFileBytes}
		if err := file.write(asks, parts); err != nil {
			return err
		}
		return parts.flush()
	})
	if err != nil {
		return err
	}
	said, cancel := context.WithTimeout(context.WithoutCancel(ctx), fileEnd)
	defer cancel()
	return m.ready(said, owner.Reach, rows.Load())
}

// hold does work while the claim is kept, and tells how far it is; the work ends with the claim.
func (m *fileMaker) hold(ctx context.Context, far func() (int64, portion), work func(context.Context) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	var holding sync.WaitGroup
	renew, kept := context.WithCancel(ctx)
	holding.Go(func() {
		held := time.Now() // or a little later
		for tick := time.NewTicker(min(m.holds/6, fileNoted)); ; {
			select {
			case <-renew.Done():
				tick.Stop()
				return
			case <-tick.C:
			}
			began := time.Now()
			noting, cancel := context.WithTimeout(renew, m.holds/6)
			rows, done := far()
			err := m.note(noting, rows, done)
			cancel()
			switch {
			case err == nil:
				held = began
			case errors.Is(err, errNotOurs), time.Since(held) > m.holds*2/3: // before another may take it
				stop(errors.Join(errNotOurs, err))
			}
		}
	})
	err := work(ctx)
	kept()
	holding.Wait()
	cause := context.Cause(ctx)
	stop(nil)
	if errors.Is(cause, errNotOurs) {
		return cause
	}
	return err
}

// keptParts keeps what is written, in parts.
type keptParts struct {
	*fileMaker
	//nolint:containedctx // io.Writer knows of none; it lives as long as one file is written.
	ctx     context.Context
	key     keyring.Key
	most    int64
	content []byte
}

// Write implements io.Writer.
func (w *keptParts) Write(p []byte) (int, error) {
	if w.bytes+int64(len(w.content)+len(p)) > w.most {
		return 0, errFileTooLarge
	}
	for written := 0; ; {
		n := min(len(p)-written, keptPartBytes-len(w.content))
		w.content = append(w.content, p[written:written+n]...)
		if written += n; written == len(p) && len(w.content) < keptPartBytes {
			return written, nil
		}
		if err := w.flush(); err != nil {
			return written - n, err
		}
	}
}

func (w *keptParts) flush() error {
	if len(w.content) == 0 {
		return nil
	}
	err := w.add(w.ctx, w.key, w.content)
	w.content = w.content[:0]
	return err
}
