package projection

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Archive holds messages of the stream that have gone out of it.
type Archive interface {
	// Begins is the first position that the archive holds of those that are not before from; 0 where it ends
	// before that. An archive that holds nothing at all is an error: it is not there, or another one.
	Begins(ctx context.Context, created time.Time, from uint64) (uint64, error)
	// Read calls take with the messages of the stream that was made at created, from a position
	// on, in their order, as far as the archive reaches, and ends with take's error. reached is
	// the last position that it speaks for; 0 where it does not hold the one that was asked for.
	Read(ctx context.Context, created time.Time, from uint64, take func(Message) error) (reached uint64, err error)
}

// errArchiveRead ends the reading of an archive.
var errArchiveRead = errors.New("the archive is read to its end")

// sessionOfArchive applies what the stream no longer holds from a position on, and returns the position that the
// stream is to be read from.
func (r *Runner) sessionOfArchive(ctx context.Context, stream jetstream.Stream, from uint64, s *session) (uint64, error) {
	s.archived = true
	for {
		asked, cancel := context.WithTimeout(ctx, 10*time.Second)
		info, err := stream.Info(asked)
		cancel()
		if err != nil {
			return 0, fmt.Errorf("stream %s: %w", r.cfg.Stream, err)
		}
		first := info.State.FirstSeq
		if from >= first { // what went out of it while the archive was read is read from there, too
			return from, nil
		}
		r.log.Info("reading what has gone out of the stream from its archive", "position", from, "stream begins at", first)
		begins, err := r.cfg.Archive.Begins(ctx, info.Created, from)
		if err != nil {
			return 0, fmt.Errorf("look where the archive begins: %w", err)
		}
		if begins == 0 || begins > first {
			begins = first
		}
		if begins > from {
			r.log.Error("neither the archive nor the stream holds all that this projection has not applied: it goes on without", "from", from, "through", begins-1)
		}
		if begins == first {
			return first, nil
		}
		reached, err := r.applyArchive(ctx, info, begins, s)
		if err != nil {
			return 0, fmt.Errorf("read the archive: %w", err)
		}
		if reached < begins {
			return 0, fmt.Errorf("read the archive: it no longer holds position %d", begins)
		}
		from = reached + 1
	}
}

func (r *Runner) applyArchive(ctx context.Context, info *jetstream.StreamInfo, from uint64, s *session) (reached uint64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	f := r.newFetcher()
	defer f.wait()
	defer cancel()
	f.run(r.cfg.Decode, func(p any) { r.log.Error("decoding panicked", "panic", p) }, func() error {
		var err error
		reached, err = r.cfg.Archive.Read(ctx, info.Created, from, func(m Message) error {
			if !r.selects(s.of, m.Subject) {
				return nil
			}
			// What the stream holds comes behind all of this.
			pending := uint64(1)
			if last := info.State.LastSeq; last > m.Position {
				pending = last - m.Position
			}
			return f.push(ctx, m, pending, r.cfg.Decode != nil)
		})
		if err == nil {
			err = errArchiveRead
		}
		return err
	})
	for {
		if _, err := r.applyNext(ctx, f, s); errors.Is(err, errArchiveRead) {
			return reached, nil
		} else if err != nil {
			return 0, err
		}
	}
}

// selects tells whether a subject is of some partitions, and the projection's subjects have it among them.
func (r *Runner) selects(of set, subject string) bool {
	if !of.has(r.partitionOf(subject)) {
		return false
	}
	if len(r.cfg.Subjects) == 0 {
		return true
	}
	for _, filter := range r.cfg.Subjects {
		if matches(filter, subject) {
			return true
		}
	}
	return false
}

// matches tells whether a filter of NATS takes a subject in: "*" is one word, ">" at the end one or more.
func matches(filter, subject string) bool {
	for {
		word, rest, more := strings.Cut(filter, ".")
		has, left, goesOn := strings.Cut(subject, ".")
		if word == ">" && !more {
			return true
		}
		if word != "*" && word != has {
			return false
		}
		if more != goesOn {
			return false
		}
		if !more {
			return true
		}
		filter, subject = rest, left
	}
}
