package identity

import (
	"crypto/sha256"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// APIKey is the aggregate of a key with which a program calls in the name of a login.
type APIKey struct {
	// ID is zero before it was created.
	ID                contract.ID
	Login             contract.ID
	SHA256            [sha256.Size]byte
	Privileges        authn.Privileges
	Expires           time.Time
	SealedDisplayName []byte
	Prefix            string
	Revoked           bool
}

// How long a key is valid.
const (
	standardKeyLife = 365 * 24 * time.Hour
	longestKeyLife  = 2 * standardKeyLife
)

// KeyWish is a key as it shall be.
type KeyWish struct {
	ID     contract.ID
	SHA256 [sha256.Size]byte
	Prefix string
	// Privileges are at most the login's; none are named: all of them.
	Privileges  authn.Privileges
	DisplayName string
	// Expires is zero for the standard.
	Expires time.Time
}

// DecideCreate makes a key of a login.
func (k APIKey) DecideCreate(op string, owner Login, words sealer, wish KeyWish, now time.Time) ([]proto.Message, error) {
	wrong := func(path, description string) ([]proto.Message, error) {
		return nil, errs.InvalidFields(op, "", errs.Field{Path: "api_key." + path, Description: description})
	}
	wish.DisplayName = tidyName(wish.DisplayName)
	if problem := checkName(wish.DisplayName, maxDisplayName); wish.DisplayName != "" && problem != "" {
		return wrong("display_name", problem)
	}
	if wish.Expires.IsZero() {
		wish.Expires = now.Add(standardKeyLife)
	}
	switch {
	case !k.ID.IsZero():
		return nil, errs.New(errs.AlreadyExists, op, "API key "+wish.ID.String(), "there is a key of this id")
	case owner.Disabled:
		return nil, errs.New(errs.Precondition, op, "login "+owner.ID.String(), "it is disabled: enable it first")
	case wish.Privileges&^owner.Privileges != 0:
		return wrong("privileges", "has one that its login has not")
	case !wish.Expires.After(now):
		return wrong("expire_time", "has passed")
	case wish.Expires.After(now.Add(longestKeyLife)):
		return wrong("expire_time", "is more than two years ahead")
	}
	if wish.Privileges == 0 {
		wish.Privileges = owner.Privileges
	}
	return []proto.Message{&identityv1.ApiKeyCreated{
		ApiKeyId: wish.ID[:], LoginId: owner.ID[:], Sha256: wish.SHA256[:], Privileges: wish.Privileges.List(),
		ExpireTime: timestamppb.New(wish.Expires), SealedDisplayName: words.seal(whatAPIKey, wish.DisplayName), Prefix: wish.Prefix,
	}}, nil
}

// whatAPIKey is the field of a login's words that a key's name is sealed as.
const whatAPIKey = "api_key"

// There is an error where the key does not exist.
func (k APIKey) There(op string, id contract.ID) error {
	if k.ID.IsZero() {
		return errs.New(errs.NotFound, op, "API key "+id.String(), "there is no such key")
	}
	return nil
}

// DecideRevoke ends the key; one that was revoked stays so.
func (k APIKey) DecideRevoke(op string, id contract.ID) ([]proto.Message, error) {
	if err := k.There(op, id); err != nil || k.Revoked {
		return nil, err
	}
	return []proto.Message{&identityv1.ApiKeyRevoked{ApiKeyId: id[:], LoginId: k.Login[:]}}, nil
}

// Apply returns the key after an event.
func (k APIKey) Apply(event proto.Message) (APIKey, error) {
	switch e := event.(type) {
	case *identityv1.ApiKeyCreated:
		id, err := contract.IDFrom(e.GetApiKeyId())
		if err != nil {
			return k, fmt.Errorf("identity: API key created: %w", err)
		}
		login, err := contract.IDFrom(e.GetLoginId())
		if err != nil {
			return k, fmt.Errorf("identity: API key created: %w", err)
		}
		if len(e.GetSha256()) != sha256.Size {
			return k, fmt.Errorf("identity: API key created: its hash has %d bytes", len(e.GetSha256()))
		}
		return APIKey{
			ID: id, Login: login, SHA256: [sha256.Size]byte(e.GetSha256()), Privileges: authn.PrivilegesOf(e.GetPrivileges()...),
			Expires: e.GetExpireTime().AsTime(), SealedDisplayName: e.GetSealedDisplayName(), Prefix: e.GetPrefix(),
		}, nil
	case *identityv1.ApiKeyRevoked:
		k.Revoked = true
		return k, nil
	}
	return k, fmt.Errorf("identity: %T is no event of an API key", event)
}
