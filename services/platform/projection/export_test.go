package projection

import (
	"context"

	"github.com/nats-io/nats.go/jetstream"
)

// Matches and ErrOvertaken are for tests.
var (
	Matches      = matches
	ErrOvertaken = errOvertaken
)

// GoOn has a session of a partition that has read up to a position, and whose consumer has brought nothing since, go on. It
// returns where that then stands.
func (r *Runner) GoOn(ctx context.Context, stream jetstream.Stream, partition int, read uint64) (uint64, error) {
	s := &session{stream: stream, of: 1 << partition, passed: read}
	s.last.position = read
	at, err := r.load(ctx, stream.CachedInfo().Created, s.of)
	if err != nil {
		return 0, err
	}
	r.hold(at)
	err = r.goOn(ctx, s)
	return s.last.position, err
}
