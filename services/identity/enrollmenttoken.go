package identity

import (
	"crypto/sha256"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	// tokenAggregate is the word of enrolment tokens in subjects.
	tokenAggregate = "enrollmenttoken"

	standardTokenLife = 7 * 24 * time.Hour
	longestTokenLife  = 366 * 24 * time.Hour
	maxTokenUses      = 100_000
)

func tokenSubject(account, token contract.ID) string {
	return contract.EventSubject(account, contextName, tokenAggregate, token.String())
}

// EnrollmentToken is the aggregate of a token for which agents get a certificate of their site.
type EnrollmentToken struct {
	// ID is zero before it was created.
	ID      contract.ID
	Manager contract.ID
	Revoked bool
}

// TokenWish is a token as it shall be.
type TokenWish struct {
	ID          contract.ID
	SHA256      [sha256.Size]byte
	DisplayName string
	// MaxUses and Expires are zero for the standard.
	MaxUses int32
	Expires time.Time
}

// DecideCreate makes a token for a Manager.
func (t EnrollmentToken) DecideCreate(op string, of Manager, wish TokenWish, now time.Time) ([]proto.Message, error) {
	wrong := func(path, description string) ([]proto.Message, error) {
		return nil, errs.InvalidFields(op, "", errs.Field{Path: "enrollment_token." + path, Description: description})
	}
	wish.DisplayName = tidyName(wish.DisplayName)
	if problem := checkName(wish.DisplayName, maxDisplayName); wish.DisplayName != "" && problem != "" {
		return wrong("display_name", problem)
	}
	if wish.MaxUses == 0 {
		wish.MaxUses = 1
	}
	if wish.Expires.IsZero() {
		wish.Expires = now.Add(standardTokenLife)
	}
	switch {
	case !t.ID.IsZero():
		return nil, errs.New(errs.AlreadyExists, op, "enrolment token "+wish.ID.String(), "there is a token of this id")
	case of.Revoked:
		return nil, errs.New(errs.Precondition, op, "Manager "+of.ID.String(), "it was revoked: make a token of another Manager")
	case wish.MaxUses < 1 || wish.MaxUses > maxTokenUses:
		return wrong("max_uses", fmt.Sprintf("is not between 1 and %d", maxTokenUses))
	case !wish.Expires.After(now):
		return wrong("expire_time", "has passed")
	case wish.Expires.After(now.Add(longestTokenLife)):
		return wrong("expire_time", "is more than a year ahead")
	}
	return []proto.Message{&identityv1.EnrollmentTokenCreated{
		EnrollmentTokenId: wish.ID[:], ManagerId: of.ID[:], Sha256: wish.SHA256[:], DisplayName: wish.DisplayName, MaxUses: wish.MaxUses, ExpireTime: timestamppb.New(wish.Expires),
	}}, nil
}

// There is an error where the token does not exist, or is of another Manager.
func (t EnrollmentToken) There(op string, id, manager contract.ID) error {
	if t.ID.IsZero() || t.Manager != manager {
		return errs.New(errs.NotFound, op, "enrolment token "+id.String(), "this Manager has no such token; those that were made at the Manager itself are revoked there")
	}
	return nil
}

// DecideRevoke ends the token; one that was revoked stays so.
func (t EnrollmentToken) DecideRevoke(op string, id, manager contract.ID) ([]proto.Message, error) {
	if err := t.There(op, id, manager); err != nil || t.Revoked {
		return nil, err
	}
	return []proto.Message{&identityv1.EnrollmentTokenRevoked{EnrollmentTokenId: id[:]}}, nil
}

// Apply returns the token after an event.
func (t EnrollmentToken) Apply(event proto.Message) (EnrollmentToken, error) {
	switch e := event.(type) {
	case *identityv1.EnrollmentTokenCreated:
		id, err := contract.IDFrom(e.GetEnrollmentTokenId())
		if err != nil {
			return t, fmt.Errorf("identity: enrolment token created: %w", err)
		}
		manager, err := contract.IDFrom(e.GetManagerId())
		if err != nil {
			return t, fmt.Errorf("identity: enrolment token created: %w", err)
		}
		if len(e.GetSha256()) != sha256.Size {
			return t, fmt.Errorf("identity: enrolment token created: its hash has %d bytes", len(e.GetSha256()))
		}
		return EnrollmentToken{ID: id, Manager: manager}, nil
	case *identityv1.EnrollmentTokenRevoked:
		t.Revoked = true
		return t, nil
	}
	return t, fmt.Errorf("identity: %T is no event of an enrolment token", event)
}
