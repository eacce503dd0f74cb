package eventlog

import (
	"context"
	"fmt"
)

type originKey struct{}

// WithOrigin has what is appended under ctx say from where it was asked for. An address is a
// person's, and the log keeps everything for ever: so seal gives it sealed under a key that can
// be destroyed, as "<principal>:<base64>". It is called once an append needs it, and fails that.
func WithOrigin(ctx context.Context, seal func(context.Context) (string, error)) context.Context {
	return context.WithValue(ctx, originKey{}, seal)
}

// SealedOrigin is what WithOrigin has an append say, for whoever keeps an event to append it
// later, where nobody knows it any more; empty: nothing.
func SealedOrigin(ctx context.Context) (string, error) {
	seal, ok := ctx.Value(originKey{}).(func(context.Context) (string, error))
	if !ok {
		return "", nil
	}
	origin, err := seal(ctx)
	if err != nil {
		return "", fmt.Errorf("eventlog: from where an event comes: %w", err)
	}
	return origin, nil
}
