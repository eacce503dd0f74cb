package sso

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// What holds where an administrator says nothing.
const (
	standardNameClaim   = "preferred_username"
	standardGroupsClaim = "groups"
)

func standardScopes() []string { return []string{"profile", "email"} }

// Provider is the aggregate of an account's identity provider. Its zero value is none.
type Provider struct {
	Enabled          bool
	Issuer, ClientID string
	// SecretID names the client secret that counts; zero: none.
	SecretID                contract.ID
	Scopes                  []string
	NameClaim, GroupsClaim  string
	Mappings                []Mapping
	CreateLogins, LinkLogin bool
	// MailDomains are in lower case.
	MailDomains []string
	// Revision counts the events from 1; it is its etag.
	Revision int
}

// Mapping is what membership of a group at the provider gives.
type Mapping struct {
	// Group is empty for everybody.
	Group      string
	Privileges authn.Privileges
	Groups     []contract.ID
}

// Etag tells one state from the next.
func (p Provider) Etag() string { return strconv.Itoa(p.Revision) }

// check names every field that is wrong.
func (p Provider) check() []errs.Field {
	var fields []errs.Field
	wrong := func(path, description string) {
		fields = append(fields, errs.Field{Path: "identity_provider." + path, Description: description})
	}
	if p.Issuer != "" {
		u, err := url.Parse(p.Issuer)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
			wrong("issuer", "is no address such as https://login.example.com")
		case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.HasSuffix(p.Issuer, "?") || strings.HasSuffix(p.Issuer, "#"):
			wrong("issuer", "has a user, a query or a fragment: give it as the provider writes it, such as https://login.example.com/realms/works")
		}
	}
	if p.Enabled {
		if p.Issuer == "" {
			wrong("issuer", "is needed before the provider can be enabled")
		}
		if p.ClientID == "" {
			wrong("client_id", "is needed before the provider can be enabled")
		}
	}
	for i, m := range p.Mappings {
		if slices.ContainsFunc(p.Mappings[:i], func(other Mapping) bool { return other.Group == m.Group }) {
			wrong(fmt.Sprintf("group_mappings[%d].group", i), strconv.Quote(m.Group)+" is there twice: put what it gives into one")
		}
	}
	return fields
}

// decide makes the provider what an administrator wants; no events where it is so already.
func (p Provider) decide(op, etag string, want Provider) ([]proto.Message, error) {
	if etag != "" && etag != p.Etag() {
		return nil, errs.New(errs.Conflict, op, "the identity provider", "it was changed since you read it: read it again, then repeat your change").WithReason("ETAG_MISMATCH")
	}
	if fields := want.check(); len(fields) > 0 {
		return nil, errs.InvalidFields(op, "", fields...)
	}
	// Whoever may change the issuer must not learn the secret of the one before by it.
	if want.Issuer != p.Issuer && !want.SecretID.IsZero() && want.SecretID == p.SecretID {
		return nil, errs.InvalidFields(op, "", errs.Field{
			Path: "identity_provider.client_secret", Description: "must be sent again with another issuer, or as empty by name in the update mask: it is not shown to another provider",
		})
	}
	event := want.event()
	if proto.Equal(event, p.event()) {
		return nil, nil
	}
	return []proto.Message{event}, nil
}

func (p Provider) event() *identityv1.IdentityProviderChanged {
	e := &identityv1.IdentityProviderChanged{
		Enabled: p.Enabled, Issuer: p.Issuer, ClientId: p.ClientID, Scopes: p.Scopes, LoginNameClaim: p.NameClaim, GroupsClaim: p.GroupsClaim,
		GroupMappings: p.mappingMessages(), CreateLogins: p.CreateLogins, LinkLogins: p.LinkLogin, MailDomains: p.MailDomains,
	}
	if !p.SecretID.IsZero() {
		e.SecretId = p.SecretID[:]
	}
	return e
}

func (p Provider) mappingMessages() []*identityv1.GroupMapping {
	var list []*identityv1.GroupMapping
	for _, m := range p.Mappings {
		message := &identityv1.GroupMapping{Group: m.Group, Privileges: m.Privileges.List()}
		for _, id := range m.Groups {
			message.GroupIds = append(message.GroupIds, id.String())
		}
		list = append(list, message)
	}
	return list
}

func mappingsOf(messages []*identityv1.GroupMapping) ([]Mapping, error) {
	var list []Mapping
	for i, m := range messages {
		mapping := Mapping{Group: m.GetGroup(), Privileges: authn.PrivilegesOf(m.GetPrivileges()...)}
		for _, text := range m.GetGroupIds() {
			id, err := contract.ParseID(text)
			if err != nil {
				return nil, fmt.Errorf("group_mappings[%d]: %w", i, err)
			}
			mapping.Groups = append(mapping.Groups, id)
		}
		list = append(list, mapping)
	}
	return list, nil
}

// apply returns the provider after an event.
func (p Provider) apply(event proto.Message) (Provider, error) {
	e, ok := event.(*identityv1.IdentityProviderChanged)
	if !ok {
		return p, fmt.Errorf("sso: %T is no event of an identity provider", event)
	}
	next := Provider{
		Enabled: e.GetEnabled(), Issuer: e.GetIssuer(), ClientID: e.GetClientId(), Scopes: e.GetScopes(), NameClaim: e.GetLoginNameClaim(),
		GroupsClaim: e.GetGroupsClaim(), CreateLogins: e.GetCreateLogins(), LinkLogin: e.GetLinkLogins(), MailDomains: e.GetMailDomains(),
		Revision: p.Revision + 1,
	}
	var err error
	if len(e.GetSecretId()) > 0 {
		if next.SecretID, err = contract.IDFrom(e.GetSecretId()); err != nil {
			return p, fmt.Errorf("sso: secret of an identity provider: %w", err)
		}
	}
	if next.Mappings, err = mappingsOf(e.GetGroupMappings()); err != nil {
		return p, fmt.Errorf("sso: %w", err)
	}
	return next, nil
}

// scopes that are asked for beside openid.
func (p Provider) scopes() []string {
	if len(p.Scopes) == 0 {
		return standardScopes()
	}
	return p.Scopes
}

func (p Provider) nameClaim() string {
	if p.NameClaim == "" {
		return standardNameClaim
	}
	return p.NameClaim
}

func (p Provider) groupsClaim() string {
	if p.GroupsClaim == "" {
		return standardGroupsClaim
	}
	return p.GroupsClaim
}
