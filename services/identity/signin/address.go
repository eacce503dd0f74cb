package signin

import (
	"context"
	"strings"

	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// maxUserAgent is how much is kept of what a program calls itself, in characters.
const maxUserAgent = 200

// addressOf is an address as it is kept; "" where it is not known.
func addressOf(from authn.Origin) string {
	if !from.Address.IsValid() {
		return ""
	}
	return from.Address.String()
}

// networkOf is what one subscriber has: an IPv4 address, or an IPv6 network of 64 bits.
func networkOf(from authn.Origin) string {
	if from.Address.Is6() {
		if p, err := from.Address.Prefix(64); err == nil {
			return p.String()
		}
	}
	return addressOf(from)
}

// userAgentOf is what a program calls itself, without what no list could show.
func userAgentOf(from authn.Origin) string {
	text := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(from.UserAgent, ""))
	if runes := []rune(text); len(runes) > maxUserAgent {
		text = string(runes[:maxUserAgent])
	}
	return text
}

// withOrigin has what is appended for a login say from where: nobody has signed in yet whom
// the server could know it by.
func (s *Service) withOrigin(ctx context.Context, l Login, from authn.Origin) context.Context {
	if s.origins == nil {
		return ctx
	}
	return eventlog.WithOrigin(ctx, func(ctx context.Context) (string, error) {
		return s.origins.SealOrigin(ctx, l.Account, l.ID, from)
	})
}
