package keyring

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	// unwrappedFor is how long key-encryption keys that a key-management service gave out may be
	// used: after it was lost, or took the right to use them away, names are read for so long.
	unwrappedFor = 5 * time.Minute
	// askAgain is how long after it did not answer it is asked again.
	askAgain = 2 * time.Second
)

// wrappingKeys are the key-encryption keys, as their file has them now.
type wrappingKeys struct {
	path  string
	given bool // Config.Given
	by    Wrapper
	log   *slog.Logger
	now   func() time.Time

	mu    sync.Mutex
	keys  []Key // the first wraps
	stamp fileStamp
	// until is when they must have been asked for again; zero where they stand in clear.
	until time.Time
	// failed is why the last attempt failed, and stays so until again.
	failed error
	again  time.Time
}

// fileStamp tells whether a file is another.
type fileStamp struct {
	changed time.Time
	size    int64
}

// get gives them out. They are asked for anew when half of their time is over, so that a
// service that is gone for a moment is not noticed.
func (w *wrappingKeys) get(ctx context.Context) ([]Key, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	info, err := os.Stat(w.path)
	if err != nil {
		return nil, fmt.Errorf("keyring: the key-encryption key: %w", err)
	}
	stamp := fileStamp{info.ModTime(), info.Size()}
	same := w.keys != nil && stamp == w.stamp
	if same && (w.until.IsZero() || now.Before(w.until.Add(-unwrappedFor/2))) {
		return w.keys, nil
	}
	usable := same && now.Before(w.until)
	if now.Before(w.again) {
		if usable {
			return w.keys, nil
		}
		return nil, w.failed
	}
	keys, asked, err := w.load(ctx)
	if err == nil {
		w.keys, w.stamp, w.until, w.failed = keys, stamp, time.Time{}, nil
		if asked {
			w.until = now.Add(unwrappedFor)
		}
		return keys, nil
	}
	if ctx.Err() == nil {
		w.failed, w.again = err, now.Add(askAgain)
	}
	if usable {
		w.log.WarnContext(ctx, "the key-encryption key could not be asked for again", "error", err, "used until", w.until)
		return w.keys, nil
	}
	w.keys = nil
	return nil, err
}

// load reads and unwraps them; asked tells whether somebody else was asked.
func (w *wrappingKeys) load(ctx context.Context) (keys []Key, asked bool, err error) {
	written, err := readKeyFile(w.path, w.given)
	if err != nil {
		return nil, false, err
	}
	for _, k := range written {
		by, err := w.wrapper(k.kind)
		if err != nil {
			return nil, false, err
		}
		key, err := by.Unwrap(ctx, k.text)
		if err != nil {
			return nil, false, err
		}
		keys, asked = append(keys, key), asked || by.Kind() != InClear{}.Kind()
	}
	return keys, asked, nil
}

func (w *wrappingKeys) wrapper(kind string) (Wrapper, error) {
	for _, by := range []Wrapper{InClear{}, w.by} {
		if by.Kind() == kind {
			return by, nil
		}
	}
	return nil, errs.New(errs.Precondition, "keyring", w.path, fmt.Sprintf("holds a key that is wrapped by %q, and no such key-management service is set: set name-key-kms", kind))
}

// of finds the key that an id names.
func of(keys []Key, id []byte) (Key, bool) {
	for _, k := range keys {
		if bytes.Equal(k.id(), id) {
			return k, true
		}
	}
	return Key{}, false
}
