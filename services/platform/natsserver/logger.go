package natsserver

import (
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"

	"github.com/cetrus/cetrus/proto/natsfiles"
)

// slogLogger hands the server's log to slog. What the server calls a notice is
// of interest to who debugs it, not to who runs Cetrus.
type slogLogger struct {
	log  *slog.Logger
	said *said
}

// said is what a server has said of itself that whoever runs it has to know.
type said struct {
	// fatal is the first error that the server cannot go on after.
	fatal atomic.Pointer[string]
	// unwritten is the first write that failed: natsfiles.GivesUp.
	unwritten atomic.Pointer[string]
}

func (l slogLogger) Noticef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l slogLogger) Warnf(format string, v ...any) {
	if strings.Contains(format, "solicited routes will not be verified") {
		return // tlsfiles.Peer verifies them, where the server does not see it
	}
	l.log.Warn(fmt.Sprintf(format, v...))
}

func (l slogLogger) Errorf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	if natsfiles.GivesUp(text) {
		l.said.unwritten.CompareAndSwap(nil, &text)
	}
	l.log.Error(text)
}

func (l slogLogger) Debugf(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l slogLogger) Tracef(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }

// Fatalf does not end the process, which is not the server's to end: who started
// the server reads it from said.
func (l slogLogger) Fatalf(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.said.fatal.CompareAndSwap(nil, &text)
	l.log.Error(text)
}
