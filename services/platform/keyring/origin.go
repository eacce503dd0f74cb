package keyring

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
)

// whatOrigin is the field that an origin is sealed as.
const whatOrigin = "origin"

// origin is how one is written before it is sealed.
type origin struct {
	Address   string `json:"address,omitempty"`
	UserAgent string `json:"user_agent,omitempty"`
}

// SealOrigin seals from where somebody called, under the key of whose call it was, as a header
// of an event holds it: "<principal>:<base64>".
func (k *Keyring) SealOrigin(ctx context.Context, account, principal contract.ID, from authn.Origin) (string, error) {
	key, err := k.KeyOf(ctx, account, principal)
	if err != nil {
		return "", err
	}
	o := origin{UserAgent: from.UserAgent}
	if from.Address.IsValid() {
		o.Address = from.Address.String()
	}
	text, err := json.Marshal(o)
	if err != nil {
		return "", fmt.Errorf("keyring: %w", err)
	}
	return principal.String() + ":" + base64.RawStdEncoding.EncodeToString(SealText(key, principal, whatOrigin, string(text))), nil
}

// OpenOrigins reads what SealOrigin has sealed, in the order of the question: the zero origin
// where there is none, the key is gone, or it does not open.
func (k *Keyring) OpenOrigins(ctx context.Context, account contract.ID, headers []string) ([]authn.Origin, error) {
	texts := make([]Text, len(headers))
	for i, header := range headers {
		name, sealed, _ := strings.Cut(header, ":")
		principal, err := contract.ParseID(name)
		if err != nil {
			continue
		}
		raw, err := base64.RawStdEncoding.DecodeString(sealed)
		if err != nil {
			continue
		}
		texts[i] = Text{Principal: principal, What: whatOrigin, Sealed: raw}
	}
	opened, err := k.OpenTexts(ctx, account, texts)
	if err != nil {
		return nil, err
	}
	origins := make([]authn.Origin, len(headers))
	for i, text := range opened {
		var o origin
		if json.Unmarshal([]byte(text), &o) != nil {
			continue
		}
		origins[i].UserAgent = o.UserAgent
		if address, err := netip.ParseAddr(o.Address); err == nil {
			origins[i].Address = address
		}
	}
	return origins, nil
}
