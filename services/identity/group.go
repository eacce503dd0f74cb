package identity

import (
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// Group is the aggregate of a set of logins; which they are, they say.
type Group struct {
	// ID is zero before it was defined.
	ID          contract.ID
	Deleted     bool
	DisplayName string
	NameID      contract.ID
	// Denied are the applications that were taken away from its logins, by id.
	Denied []contract.ID
	// Provisioned says that an identity provider keeps it, and calls it Reference.
	Provisioned bool
	Reference   string
	// Revision counts its changes from 1; it is its etag.
	Revision int
}

// GroupWish is what a group shall be; nil leaves a field as it is.
type GroupWish struct {
	DisplayName *string
	Denied      *[]contract.ID
	// Provisioned and Reference are an identity provider's.
	Provisioned bool
	Reference   *string
	// Create says that it must not be there; otherwise it must.
	Create bool
	// Etag, where not empty, must be the etag of what is there.
	Etag string
}

// Etag tells one state of a group from the next.
func (g Group) Etag() string { return strconv.Itoa(g.Revision) }

func (g Group) there() bool { return !g.ID.IsZero() && !g.Deleted }

// There is an error where the group does not exist, or not any more.
func (g Group) There(op string, id contract.ID) error {
	if !g.there() {
		return errs.New(errs.NotFound, op, "group "+id.String(), "there is no such group")
	}
	return nil
}

// DecideDefine makes the group what the wish says. No events where it is so already.
func (g Group) DecideDefine(op string, id contract.ID, key NameKey, wish GroupWish) ([]proto.Message, error) {
	switch {
	case wish.Create && !g.ID.IsZero():
		return nil, errs.New(errs.AlreadyExists, op, "group "+id.String(), "there is, or was, a group of this id")
	case !wish.Create && !g.there():
		return nil, g.There(op, id)
	case wish.Etag != "" && !wish.Create && wish.Etag != g.Etag():
		return nil, errs.New(errs.Conflict, op, "group "+id.String(), "it was changed since you read it: read it again, then repeat your change").WithReason("ETAG_MISMATCH")
	}
	want := g
	if wish.DisplayName != nil || wish.Create {
		name := ""
		if wish.DisplayName != nil {
			name = tidyName(*wish.DisplayName)
		}
		if problem := checkName(name, maxDisplayName); problem != "" {
			return nil, errs.InvalidFields(op, "", errs.Field{Path: "group.display_name", Description: problem})
		}
		want.DisplayName, want.NameID = name, key.ID(groupNames, name)
	}
	if wish.Denied != nil {
		want.Denied = *sorted(*wish.Denied)
		if len(want.Denied) > maxDenied {
			return nil, errs.InvalidFields(op, "", errs.Field{Path: "group.denied_application_ids", Description: fmt.Sprintf("are more than %d", maxDenied)})
		}
	}
	want.Provisioned = g.Provisioned || wish.Provisioned
	if wish.Reference != nil {
		want.Reference = *wish.Reference
	}
	if !wish.Create && want.DisplayName == g.DisplayName && slices.Equal(want.Denied, g.Denied) && want.Provisioned == g.Provisioned && want.Reference == g.Reference {
		return nil, nil
	}
	return []proto.Message{&identityv1.GroupDefined{
		GroupId: id[:], DisplayName: want.DisplayName, NameId: want.NameID[:], DeniedApplicationIds: idBytes(want.Denied),
		Provisioned: want.Provisioned, ProviderReference: want.Reference,
	}}, nil
}

// DecideDelete ends the group.
func (g Group) DecideDelete(op string, id contract.ID) ([]proto.Message, error) {
	if err := g.There(op, id); err != nil {
		return nil, err
	}
	return []proto.Message{&identityv1.GroupDeleted{GroupId: id[:]}}, nil
}

// Apply returns the group after an event.
func (g Group) Apply(event proto.Message) (Group, error) {
	switch e := event.(type) {
	case *identityv1.GroupDefined:
		id, err := contract.IDFrom(e.GetGroupId())
		if err != nil {
			return g, fmt.Errorf("identity: group defined: %w", err)
		}
		nameID, err := contract.IDFrom(e.GetNameId())
		if err != nil {
			return g, fmt.Errorf("identity: group defined: %w", err)
		}
		denied, err := idsOf(e.GetDeniedApplicationIds())
		if err != nil {
			return g, fmt.Errorf("identity: group defined: %w", err)
		}
		return Group{
			ID: id, DisplayName: e.GetDisplayName(), NameID: nameID, Denied: denied,
			Provisioned: e.GetProvisioned(), Reference: e.GetProviderReference(), Revision: g.Revision + 1,
		}, nil
	case *identityv1.GroupDeleted:
		g.Deleted = true
		return g, nil
	}
	return g, fmt.Errorf("identity: %T is no event of a group", event)
}
