package desktop

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"sync"
)

// openSessionEyes opens the eyes that fit a session's type, in the process of that
// session's user. Whatever else there is gets eyes that say what they do not see: an
// X server inside a Wayland session shows its own windows only, which looks like a
// desktop and is none.
func openSessionEyes(ctx context.Context, at place, wake func()) (eyes, error) {
	var opened eyes
	var err error
	switch at.kind {
	case kindX11:
		opened, err = openX11Eyes(ctx, at.display, at.authority, wake)
	case kindWayland:
		opened, err = openWaylandEyes(ctx, at, wake)
	default:
		opened = blindEyes(fmt.Sprintf("a session of type %q is not supported", cmp.Or(at.kind, "unknown")))
	}
	if err != nil {
		return nil, err
	}
	return watchCover(opened, newSaver(at.sessionBus, uint32(os.Getuid()), wake)), nil
}

// blindEyes see nothing, and say why.
type blindEyes string

func (b blindEyes) look(context.Context) (Sight, error) {
	return Sight{InputUnsupported: string(b), FocusUnsupported: string(b)}, nil
}

func (blindEyes) close() {}

// coveredEyes also see when a lock screen covers the session, whatever its type.
type coveredEyes struct {
	eyes
	saver   *saver
	stop    context.CancelFunc
	running sync.WaitGroup
}

func watchCover(under eyes, s *saver) *coveredEyes {
	ctx, stop := context.WithCancel(context.Background())
	c := &coveredEyes{eyes: under, saver: s, stop: stop}
	c.running.Go(func() { s.run(ctx) })
	return c
}

func (c *coveredEyes) look(ctx context.Context) (Sight, error) {
	sight, err := c.eyes.look(ctx)
	sight.Covered = sight.Covered || c.saver.covers()
	return sight, err
}

func (c *coveredEyes) close() {
	c.stop()
	c.eyes.close()
	c.running.Wait()
}
