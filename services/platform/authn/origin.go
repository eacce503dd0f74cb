package authn

import (
	"context"
	"net/netip"
)

// Origin is from where a call comes, as far as it is known.
type Origin struct {
	// Address of the caller; the zero one where it is not known.
	Address netip.Addr
	// UserAgent is what the caller says it is: words of a stranger, of bounded length.
	UserAgent string
}

type originKey struct{}

// WithOrigin puts an origin into a context.
func WithOrigin(ctx context.Context, o Origin) context.Context {
	return context.WithValue(ctx, originKey{}, o)
}

// OriginFrom takes the origin out of a context; the zero one where there is none.
func OriginFrom(ctx context.Context) Origin {
	o, _ := ctx.Value(originKey{}).(Origin)
	return o
}
