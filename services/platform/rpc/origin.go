package rpc

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

const (
	// forwardedFor lists for whom a proxy asks, the nearest last; each proxy adds whom it
	// heard it from.
	forwardedFor = "x-forwarded-for"
	// maxUserAgent bounds what is kept of what a program calls itself, in bytes.
	maxUserAgent = 300
	// maxForwarded bounds how many proxies are followed.
	maxForwarded = 16
)

// UserAgentKey is the metadata in which the gateway passes on what its caller calls itself.
const UserAgentKey = "cetrus-user-agent"

// ForwardedOrigin is what a call made for a request of HTTP carries to say from where that comes: whom
// proxies name, then whom they were heard from, and what the program calls itself.
func ForwardedOrigin(r *http.Request) metadata.MD {
	md := metadata.MD{}
	md.Append(forwardedFor, r.Header.Values(forwardedFor)...)
	if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		md.Append(forwardedFor, host)
	}
	md.Set(UserAgentKey, Printable(r.UserAgent()))
	return md
}

// Printable is what of a text metadata can carry.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, text)
}

// Origins seals where a call comes from, under the key of whose call it is, for the headers of
// the events that follow from it.
type Origins interface {
	SealOrigin(ctx context.Context, account, principal contract.ID, origin authn.Origin) (string, error)
}

// LoopbackProxies are believed where no others are named: the gateway of the same machine.
func LoopbackProxies() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

// ParseProxies reads networks and addresses, as 10.0.0.0/8 or 192.0.2.7. Of none it makes a list that
// believes nobody, and not the default.
func ParseProxies(texts []string) ([]netip.Prefix, error) {
	proxies := make([]netip.Prefix, 0, len(texts))
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			address, addressErr := netip.ParseAddr(text)
			if addressErr != nil || address.Zone() != "" {
				return nil, errs.As(errs.Invalid, "rpc.ParseProxies", text, "is no network and no address, as 10.0.0.0/8 or 192.0.2.7", err)
			}
			prefix = netip.PrefixFrom(address, address.BitLen())
		}
		proxies = append(proxies, prefix.Masked())
	}
	return proxies, nil
}

// originStep finds out from where a call comes: the peer, or whom a peer that is believed
// asks for.
func originStep(believed []netip.Prefix) step {
	with := func(ctx context.Context) context.Context { return authn.WithOrigin(ctx, originOf(ctx, believed)) }
	return step{
		unary: func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			return next(with(ctx), req)
		},
		stream: func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return next(srv, &contextStream{ServerStream: ss, ctx: with(ss.Context())})
		},
	}
}

func originOf(ctx context.Context, believed []netip.Prefix) authn.Origin {
	var o authn.Origin
	md, _ := metadata.FromIncomingContext(ctx)
	from, ok := peer.FromContext(ctx)
	if !ok {
		return o
	}
	if tcp, ok := from.Addr.(*net.TCPAddr); ok {
		o.Address = tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	agent := md.Get("user-agent")
	if isPart(from) || isBelieved(believed, o.Address) {
		o.Address = callerOf(o.Address, md.Get(forwardedFor), believed)
		if passed := md.Get(UserAgentKey); len(passed) > 0 {
			agent = passed
		}
	}
	if len(agent) > 0 {
		o.UserAgent = strings.ToValidUTF8(agent[0][:min(len(agent[0]), maxUserAgent)], "")
	}
	return o
}

// callerOf goes from the nearest proxy outwards, as long as each is believed: what the first
// one says that is not may be invented.
func callerOf(nearest netip.Addr, forwarded []string, believed []netip.Prefix) netip.Addr {
	hops := strings.Split(strings.Join(forwarded, ","), ",")
	for n, hop := range slices.Backward(hops) {
		address, err := netip.ParseAddr(strings.TrimSpace(hop))
		if err != nil || len(hops)-n > maxForwarded {
			return nearest
		}
		nearest = address.Unmap().WithZone("")
		if !isBelieved(believed, nearest) {
			return nearest
		}
	}
	return nearest
}

func isBelieved(believed []netip.Prefix, address netip.Addr) bool {
	return slices.ContainsFunc(believed, func(p netip.Prefix) bool { return p.Contains(address) })
}

// sealedOrigin lets what is appended to the event log in a call say where it came from. It
// is sealed only then: most calls append nothing.
func sealedOrigin(ctx context.Context, origins Origins, caller authn.Caller) context.Context {
	if origins == nil {
		return ctx
	}
	origin := authn.OriginFrom(ctx)
	if !origin.Address.IsValid() && origin.UserAgent == "" {
		return ctx
	}
	principal := caller.Login
	if principal.IsZero() {
		principal = caller.Account // a bare key belongs to the account as a whole
	}
	return eventlog.WithOrigin(ctx, func(ctx context.Context) (string, error) {
		return origins.SealOrigin(ctx, caller.Account, principal, origin)
	})
}
