//go:build !linux && !windows

package tray

import "log/slog"

// NewFront is the icon of this system; nil: there is none yet.
func NewFront(*slog.Logger) Front { return nil }
