package scim

import (
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// Settings is the aggregate of what an account lets its identity provider do. Its zero value is
// nothing.
type Settings struct {
	Enabled, LinkLogins bool
	Mappings            []Mapping
	// Revision counts the events from 1; it is its etag.
	Revision int
}

// Mapping is what membership of a group of the provider gives.
type Mapping struct {
	// Group is empty for everybody.
	Group      string
	Privileges authn.Privileges
}

// Etag tells one state from the next.
func (s Settings) Etag() string { return strconv.Itoa(s.Revision) }

// Managed are the privileges that are the provider's to give and take.
func (s Settings) Managed() authn.Privileges {
	var set authn.Privileges
	for _, m := range s.Mappings {
		set |= m.Privileges
	}
	return set
}

// Privileges are those that a member of groups of these names has by them.
func (s Settings) Privileges(groups []string) authn.Privileges {
	var set authn.Privileges
	for _, m := range s.Mappings {
		if m.Group == "" || slices.Contains(groups, m.Group) {
			set |= m.Privileges
		}
	}
	return set
}

// decide makes the settings what an administrator wants; no events where they are so already.
func (s Settings) decide(op, etag string, want Settings) ([]proto.Message, error) {
	if etag != "" && etag != s.Etag() {
		return nil, errs.New(errs.Conflict, op, "provisioning", "it was changed since you read it: read it again, then repeat your change").WithReason("ETAG_MISMATCH")
	}
	for i, m := range want.Mappings {
		if slices.ContainsFunc(want.Mappings[:i], func(other Mapping) bool { return other.Group == m.Group }) {
			return nil, errs.InvalidFields(op, "", errs.Field{
				Path: fmt.Sprintf("provisioning.group_mappings[%d].group", i), Description: strconv.Quote(m.Group) + " is there twice: put what it gives into one",
			})
		}
	}
	event := want.event()
	if proto.Equal(event, s.event()) {
		return nil, nil
	}
	return []proto.Message{event}, nil
}

func (s Settings) event() *identityv1.ProvisioningChanged {
	return &identityv1.ProvisioningChanged{Enabled: s.Enabled, LinkLogins: s.LinkLogins, GroupMappings: s.mappingMessages()}
}

func (s Settings) mappingMessages() []*identityv1.ProvisioningMapping {
	var list []*identityv1.ProvisioningMapping
	for _, m := range s.Mappings {
		list = append(list, &identityv1.ProvisioningMapping{Group: m.Group, Privileges: m.Privileges.List()})
	}
	return list
}

func mappingsOf(messages []*identityv1.ProvisioningMapping) []Mapping {
	var list []Mapping
	for _, m := range messages {
		list = append(list, Mapping{Group: m.GetGroup(), Privileges: authn.PrivilegesOf(m.GetPrivileges()...)})
	}
	return list
}

// apply returns the settings after an event.
func (s Settings) apply(event proto.Message) (Settings, error) {
	e, ok := event.(*identityv1.ProvisioningChanged)
	if !ok {
		return s, fmt.Errorf("scim: %T is no event of provisioning", event)
	}
	return Settings{Enabled: e.GetEnabled(), LinkLogins: e.GetLinkLogins(), Mappings: mappingsOf(e.GetGroupMappings()), Revision: s.Revision + 1}, nil
}
