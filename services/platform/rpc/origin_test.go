package rpc

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// A caller is whom the proxies that are believed name; what others say counts for nothing,
// and so does what stands left of the first that is not believed.
func TestOriginBehindProxies(t *testing.T) {
	believed, err := ParseProxies([]string{"127.0.0.1", "10.0.0.0/8", "fd00::/8"})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		peer      string
		forwarded []string
		want      string
	}{
		"nobody between":          {"192.0.2.9:1", nil, "192.0.2.9"},
		"a stranger who claims":   {"192.0.2.9:1", []string{"198.51.100.1"}, "192.0.2.9"},
		"behind the gateway":      {"127.0.0.1:1", []string{"198.51.100.1"}, "198.51.100.1"},
		"behind two":              {"127.0.0.1:1", []string{"198.51.100.1, 10.1.2.3"}, "198.51.100.1"},
		"an invented first":       {"127.0.0.1:1", []string{"203.0.113.5, 198.51.100.1, 10.1.2.3"}, "198.51.100.1"},
		"an invented own line":    {"127.0.0.1:1", []string{"203.0.113.5", "198.51.100.1"}, "198.51.100.1"},
		"nonsense":                {"127.0.0.1:1", []string{"198.51.100.1, what"}, "127.0.0.1"},
		"nonsense farther out":    {"127.0.0.1:1", []string{"what, 198.51.100.1"}, "198.51.100.1"},
		"all believed":            {"127.0.0.1:1", []string{"10.0.0.1, 10.0.0.2"}, "10.0.0.1"},
		"IPv4 written as IPv6":    {"[::ffff:127.0.0.1]:1", []string{"::ffff:198.51.100.1"}, "198.51.100.1"},
		"IPv6 with a zone":        {"127.0.0.1:1", []string{"fe80::1%eth0"}, "fe80::1"},
		"a chain without an end":  {"127.0.0.1:1", []string{"198.51.100.1" + strings.Repeat(",10.0.0.1", 100)}, "10.0.0.1"},
		"an empty line":           {"127.0.0.1:1", []string{""}, "127.0.0.1"},
		"a peer without a header": {"10.0.0.1:1", nil, "10.0.0.1"},
	} {
		ctx := peer.NewContext(t.Context(), &peer.Peer{Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(c.peer))})
		ctx = metadata.NewIncomingContext(ctx, metadata.MD{forwardedFor: c.forwarded, "user-agent": {"grpc"}, UserAgentKey: {"Firefox"}})
		got := originOf(ctx, believed)
		if got.Address.String() != c.want {
			t.Errorf("%s: %s, want %s", name, got.Address, c.want)
		}
		if wantAgent := map[bool]string{true: "Firefox", false: "grpc"}[isBelieved(believed, netip.MustParseAddrPort(c.peer).Addr().Unmap())]; got.UserAgent != wantAgent {
			t.Errorf("%s: %q, want %q", name, got.UserAgent, wantAgent)
		}
	}
	if o := originOf(context.Background(), believed); o.Address.IsValid() || o.UserAgent != "" {
		t.Errorf("without a peer: %v", o)
	}
	if nobody, err := ParseProxies(nil); err != nil || nobody == nil {
		t.Errorf("of no proxies comes the default: %v, %v", nobody, err)
	}
	for _, bad := range []string{"", "10.0.0.0/33", "example.com", "fe80::1%eth0"} {
		if _, err := ParseProxies([]string{bad}); err == nil {
			t.Errorf("%q is taken for a proxy", bad)
		}
	}
}

type sealing struct{ calls int }

func (s *sealing) SealOrigin(_ context.Context, account, principal contract.ID, o authn.Origin) (string, error) {
	s.calls++
	return principal.String() + ":" + account.String() + o.Address.String(), nil
}

// What a call appends says from where, sealed for its login; a call that appends nothing
// seals nothing.
func TestEventsSayTheirOrigin(t *testing.T) {
	account, login := contract.ID{1}, contract.ID{2}
	ctx := authn.WithOrigin(t.Context(), authn.Origin{Address: netip.MustParseAddr("198.51.100.1")})
	origins := &sealing{}
	log := eventlog.NewMemory()
	for caller, want := range map[authn.Caller]string{
		{Account: account, Login: login}: login.String() + ":" + account.String() + "198.51.100.1",
		{Account: account}:               account.String() + ":" + account.String() + "198.51.100.1",
	} {
		ctx := sealedOrigin(ctx, origins, caller)
		before := origins.calls
		subject := contract.EventSubject(account, "test", "thing", caller.Login.String())
		if _, err := log.Append(ctx, subject, 0, eventlog.Event{Type: "a"}, eventlog.Event{Type: "b"}); err != nil {
			t.Fatal(err)
		}
		events, _, err := log.Load(ctx, subject)
		if err != nil || len(events) != 2 || events[0].Origin != want || events[1].Origin != want {
			t.Errorf("%v: %v, want %s", events, err, want)
		}
		if origins.calls != before+1 {
			t.Errorf("sealed %d times for one append", origins.calls-before)
		}
	}
}

// FuzzForwarded: whatever a stranger writes, the address is one, and the stranger's own where
// that is not believed.
func FuzzForwarded(f *testing.F) {
	f.Add("198.51.100.1, 10.1.2.3")
	f.Add(",,::,%")
	stranger := netip.MustParseAddr("192.0.2.9")
	f.Fuzz(func(t *testing.T, forwarded string) {
		if got := callerOf(stranger, []string{forwarded + ", 192.0.2.9"}, LoopbackProxies()); got != stranger {
			t.Errorf("%q makes a stranger %s", forwarded, got)
		}
	})
}
