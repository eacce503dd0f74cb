package archive

import (
	"context"
	"crypto/sha256"
	"time"
)

func sealedBody(content []byte) []byte {
	return append([]byte(nil), content[:max(0, len(content)-digestBytes)]...)
}

func digestOf(body []byte) []byte {
	sum := sha256.Sum256(body)
	return sum[:]
}

// SetClock has a watch go by another clock.
func (w *BackupWatch) SetClock(now func() time.Time) { w.now = now }

// Session archives until something fails, and says what.
func (a *Archiver) Session(ctx context.Context) error { return a.session(ctx) }
