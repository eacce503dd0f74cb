//go:build !linux && !windows

package desktop

import (
	"errors"
	"fmt"
	"runtime"
)

// ErrNotYet says that this system's desktop cannot be watched by this version.
var ErrNotYet = errors.New("desktop: not yet supported on this system")

// Open gives the desktop of this machine.
func Open(Config) (Desktop, error) {
	return nil, fmt.Errorf("%w (%s)", ErrNotYet, runtime.GOOS)
}
