package desktop

import "context"

// fullLookEvery is after how many looks the list of windows is read again, in case
// an event was missed.
const fullLookEvery = 15

// x11Eyes look at one display. They belong to one goroutine at a time.
type x11Eyes struct {
	x      *x11
	clocks *clocks
	looks  int
	input  lastInput
	sleep  sleepMeter
	last   moment
}

func openX11Eyes(ctx context.Context, display, authority string, wake func()) (*x11Eyes, error) {
	x, err := openX(ctx, display, authority, wake)
	if err != nil {
		return nil, err
	}
	return &x11Eyes{x: x, clocks: newClocks()}, nil
}

// look implements eyes. When ctx ends, the connection is cut: a server that does not
// answer is got rid of no other way.
func (e *x11Eyes) look(ctx context.Context) (Sight, error) {
	stop := context.AfterFunc(ctx, func() { _ = e.x.raw.Close() })
	defer stop()
	screen, err := e.x.look(e.looks%fullLookEvery == 0)
	if err != nil {
		return Sight{}, err
	}
	reading, err := e.clocks.now()
	if err != nil {
		return Sight{}, err
	}
	e.sleep.note(e.last, reading)
	e.last = reading
	input, known := e.input.take(screen.input, e.sleep)
	sight := Sight{LastInputMillis: input, Foreground: uint64(screen.foreground), SameWindows: e.looks > 0 && !screen.windowsChanged}
	if !known {
		sight.InputUnsupported = "the X server does not tell when the last input was"
	}
	if !screen.focusKnown {
		sight.FocusUnsupported = "the keyboard follows the pointer, which is not looked at"
	}
	if !sight.SameWindows {
		sight.Windows = e.x.list()
	}
	e.looks++
	return sight, nil
}

// close implements eyes.
func (e *x11Eyes) close() { e.x.close() }
