//go:build !linux

package desktop

import (
	"errors"
	"fmt"
	"runtime"
)

// ErrNotYet says that this system's desktop cannot be watched by this version.
var ErrNotYet = errors.New("desktop: not yet supported on this system: this version watches X11 on Linux; Windows is next")

// Open gives the desktop of this machine.
func Open(Config) (Desktop, error) {
	return nil, fmt.Errorf("%w (%s)", ErrNotYet, runtime.GOOS)
}
