package natsserver

import (
	"fmt"
	"log/slog"
	"sync/atomic"
)

// slogLogger hands the server's log to slog. What the server calls a notice is
// of interest to who debugs it, not to who runs Cetrus.
type slogLogger struct {
	log *slog.Logger
	// fatal is the first error that the server cannot go on after.
	fatal *atomic.Pointer[string]
}

func (l slogLogger) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l slogLogger) Warnf(format string, v ...any)   { l.log.Warn(fmt.Sprintf(format, v...)) }
func (l slogLogger) Errorf(format string, v ...any)  { l.log.Error(fmt.Sprintf(format, v...)) }
func (l slogLogger) Debugf(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l slogLogger) Tracef(format string, v ...any)  { l.log.Debug(fmt.Sprintf(format, v...)) }

// Fatalf does not end the process, which is not the server's to end: who started
// the server reads it from fatal.
func (l slogLogger) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.fatal.CompareAndSwap(nil, &text)
	l.log.Error(text)
}
