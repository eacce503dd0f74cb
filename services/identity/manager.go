package identity

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
)

// managerTokenLife is how long a Manager's token is valid.
const managerTokenLife = 7 * 24 * time.Hour

// Manager is the aggregate of a site's Manager as the platform knows it.
type Manager struct {
	// ID is zero before it was created.
	ID           contract.ID
	DisplayName  string
	Token        [sha256.Size]byte
	TokenExpires time.Time
	// TokenUsed: the token has made PublicKey the Manager's.
	TokenUsed bool
	// PublicKey is the NKey that the Manager proves to have; empty: it has not come yet.
	PublicKey string
	Revoked   bool
	// Report is what it told of its site last.
	Report SiteReport
}

// SiteReport is what a Manager tells of its site.
type SiteReport struct {
	// Authorities are SHA-256 of the certificates of the site's authorities; for the first tokens
	// are made.
	Authorities [][sha256.Size]byte
	// Position and Time say up to which event it has carried out who is admitted.
	Position eventlog.Position
	Time     time.Time
	// Uses says how many agents tokens have admitted.
	Uses map[contract.ID]int32
}

// same tells whether two reports say the same.
func (r SiteReport) same(other SiteReport) bool {
	return slices.Equal(r.Authorities, other.Authorities) && r.Position == other.Position && r.Time.Equal(other.Time) && maps.Equal(r.Uses, other.Uses)
}

// DecideCreate makes room for a Manager, which a token admits.
func (m Manager) DecideCreate(op string, id contract.ID, name string, token [sha256.Size]byte, now time.Time) ([]proto.Message, error) {
	name = tidyName(name)
	if problem := checkName(name, maxDisplayName); name != "" && problem != "" {
		return nil, errs.InvalidFields(op, "", errs.Field{Path: "manager.display_name", Description: problem})
	}
	if !m.ID.IsZero() {
		return nil, errs.New(errs.AlreadyExists, op, "Manager "+id.String(), "there is a Manager of this id: renew its token where it has lost its key")
	}
	return []proto.Message{&identityv1.ManagerCreated{ManagerId: id[:], DisplayName: name}, issued(token, now)}, nil
}

func issued(token [sha256.Size]byte, now time.Time) *identityv1.ManagerTokenIssued {
	return &identityv1.ManagerTokenIssued{Sha256: token[:], ExpireTime: timestamppb.New(now.Add(managerTokenLife))}
}

// There is an error where the Manager does not exist.
func (m Manager) There(op string, id contract.ID) error {
	if m.ID.IsZero() {
		return errs.New(errs.NotFound, op, "Manager "+id.String(), "there is no such Manager")
	}
	return nil
}

// DecideRenewToken has another token take the place of the one before.
func (m Manager) DecideRenewToken(op string, id contract.ID, token [sha256.Size]byte, now time.Time) ([]proto.Message, error) {
	if err := m.There(op, id); err != nil {
		return nil, err
	}
	if m.Revoked {
		return nil, errs.New(errs.Precondition, op, "Manager "+id.String(), "it was revoked: make another")
	}
	return []proto.Message{issued(token, now)}, nil
}

// DecideEnroll makes a key that of the Manager for whom the token is. Whoever knows no token is
// told nothing else.
func (m Manager) DecideEnroll(op string, token [sha256.Size]byte, publicKey string, now time.Time) ([]proto.Message, error) {
	refuse := func(why string) ([]proto.Message, error) {
		return nil, errs.New(errs.Denied, op, "", "the token "+why)
	}
	switch {
	case m.ID.IsZero() || !bytes.Equal(m.Token[:], token[:]):
		return refuse("is not known here, or another was made since")
	case m.Revoked:
		return refuse("is of a Manager that was revoked: make another Manager")
	case m.TokenUsed && m.PublicKey == publicKey:
		return nil, nil // the answer was lost
	case m.TokenUsed:
		return refuse("was used, by another key: an administrator renews it (RenewManagerToken)")
	case now.After(m.TokenExpires):
		return refuse("has expired: an administrator renews it (RenewManagerToken)")
	}
	return []proto.Message{&identityv1.ManagerEnrolled{PublicKey: publicKey}}, nil
}

// DecideRevoke cuts the Manager off; one that was revoked stays so.
func (m Manager) DecideRevoke(op string, id contract.ID) ([]proto.Message, error) {
	if err := m.There(op, id); err != nil || m.Revoked {
		return nil, err
	}
	return []proto.Message{&identityv1.ManagerRevoked{ManagerId: id[:]}}, nil
}

// DecideReport takes note of what the Manager tells. Of one that is not known, or was revoked,
// nothing is noted.
func (m Manager) DecideReport(told SiteReport) []proto.Message {
	if m.ID.IsZero() || m.Revoked || m.Report.same(told) {
		return nil
	}
	e := &identityv1.ManagerReported{AdmissionPosition: uint64(told.Position), AdmissionTime: timestamppb.New(told.Time)}
	for _, a := range told.Authorities {
		e.Authorities = append(e.Authorities, a[:])
	}
	for _, id := range slices.SortedFunc(maps.Keys(told.Uses), func(a, b contract.ID) int { return bytes.Compare(a[:], b[:]) }) {
		e.Uses = append(e.Uses, &identityv1.TokenUse{EnrollmentTokenId: id[:], Used: told.Uses[id]})
	}
	return []proto.Message{e}
}

// reported reads what an event says of a site.
func reported(e *identityv1.ManagerReported) (SiteReport, error) {
	r := SiteReport{Position: eventlog.Position(e.GetAdmissionPosition()), Time: e.GetAdmissionTime().AsTime(), Uses: make(map[contract.ID]int32)}
	for _, a := range e.GetAuthorities() {
		if len(a) != sha256.Size {
			return r, fmt.Errorf("identity: Manager reported: the hash of an authority has %d bytes", len(a))
		}
		r.Authorities = append(r.Authorities, [sha256.Size]byte(a))
	}
	for _, use := range e.GetUses() {
		id, err := contract.IDFrom(use.GetEnrollmentTokenId())
		if err != nil {
			return r, fmt.Errorf("identity: Manager reported: %w", err)
		}
		r.Uses[id] = use.GetUsed()
	}
	return r, nil
}

// Apply returns the Manager after an event.
func (m Manager) Apply(event proto.Message) (Manager, error) {
	switch e := event.(type) {
	case *identityv1.ManagerCreated:
		id, err := contract.IDFrom(e.GetManagerId())
		if err != nil {
			return m, fmt.Errorf("identity: Manager created: %w", err)
		}
		return Manager{ID: id, DisplayName: e.GetDisplayName()}, nil
	case *identityv1.ManagerTokenIssued:
		if len(e.GetSha256()) != sha256.Size {
			return m, fmt.Errorf("identity: Manager's token: its hash has %d bytes", len(e.GetSha256()))
		}
		m.Token, m.TokenExpires, m.TokenUsed = [sha256.Size]byte(e.GetSha256()), e.GetExpireTime().AsTime(), false
		return m, nil
	case *identityv1.ManagerEnrolled:
		m.PublicKey, m.TokenUsed = e.GetPublicKey(), true
		return m, nil
	case *identityv1.ManagerRevoked:
		m.Revoked = true
		return m, nil
	case *identityv1.ManagerReported:
		var err error
		m.Report, err = reported(e)
		return m, err
	}
	return m, fmt.Errorf("identity: %T is no event of a Manager", event)
}
