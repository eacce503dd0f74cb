package scim

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cetrus/cetrus/proto/contract"
)

// User is a login as its provider sees it.
type User struct {
	ID contract.ID
	// Name is what its person signs in with, Reference what the provider calls them.
	Name, Reference                    string
	DisplayName, GivenName, FamilyName string
	MailAddress                        string
	Active                             bool
	// Groups are those of the provider; they are changed by themselves.
	Groups           []Group
	Created, Updated time.Time
	Revision         int
}

// Group is a group of the account that its provider keeps.
type Group struct {
	ID               contract.ID
	Name, Reference  string
	Members          []Member
	Created, Updated time.Time
	Revision         int
}

// Member is a user in a group.
type Member struct {
	ID contract.ID
	// Name is what is shown of it.
	Name string
}

// The endpoints of resources.
const (
	usersPath  = "/Users"
	groupsPath = "/Groups"
)

func version(text string) string { return `W/"` + text + `"` }

func (u User) version() string { return version(strconv.Itoa(u.Revision)) }

// version of a group follows from what is shown of it: its members are kept by their logins.
func (g Group) version() string {
	h := sha256.New()
	fmt.Fprintf(h, "%d %q %q", g.Revision, g.Name, g.Reference)
	for _, m := range g.sorted() {
		h.Write(m.ID[:])
	}
	return version(hex.EncodeToString(h.Sum(nil)[:8]))
}

func (g Group) sorted() []Member {
	return slices.SortedFunc(slices.Values(g.Members), func(a, b Member) int { return strings.Compare(string(a.ID[:]), string(b.ID[:])) })
}

// set puts a text where there is one: an attribute without a value is not there.
func set(object map[string]any, name, text string) {
	if text != "" {
		object[name] = text
	}
}

func meta(kind, location, version string, created, updated time.Time) map[string]any {
	return map[string]any{
		"resourceType": kind, "location": location, "version": version,
		"created": created.UTC().Format(time.RFC3339Nano), "lastModified": updated.UTC().Format(time.RFC3339Nano),
	}
}

// shown is a user as SCIM has it; base is what locations begin with.
func (u User) shown(base string) map[string]any {
	m := map[string]any{
		"schemas": []any{userSchema}, "id": u.ID.String(), "userName": u.Name, "active": u.Active,
		"meta": meta("User", base+usersPath+"/"+u.ID.String(), u.version(), u.Created, u.Updated),
	}
	set(m, "externalId", u.Reference)
	set(m, "displayName", u.DisplayName)
	name := map[string]any{}
	set(name, "givenName", u.GivenName)
	set(name, "familyName", u.FamilyName)
	if len(name) > 0 {
		name["formatted"] = strings.TrimSpace(u.GivenName + " " + u.FamilyName)
		m["name"] = name
	}
	if u.MailAddress != "" {
		m["emails"] = []any{u.mail()}
	}
	var groups []any
	for _, g := range u.Groups {
		groups = append(groups, map[string]any{"value": g.ID.String(), "display": g.Name, "$ref": base + groupsPath + "/" + g.ID.String(), "type": "direct"})
	}
	if len(groups) > 0 {
		m["groups"] = groups
	}
	return m
}

// mail is the one address that a login has.
func (u User) mail() map[string]any {
	return map[string]any{"value": u.MailAddress, "type": mailKind, "primary": true}
}

// mailKind is what kind of address a login's counts as.
const mailKind = "work"

// shown is a group as SCIM has it.
func (g Group) shown(base string) map[string]any {
	m := map[string]any{
		"schemas": []any{groupSchema}, "id": g.ID.String(), "displayName": g.Name,
		"meta": meta("Group", base+groupsPath+"/"+g.ID.String(), g.version(), g.Created, g.Updated),
	}
	set(m, "externalId", g.Reference)
	members := []any{}
	for _, member := range g.Members {
		shown := member.shown()
		shown["$ref"] = base + usersPath + "/" + member.ID.String()
		members = append(members, shown)
	}
	m["members"] = members
	return m
}

func (m Member) shown() map[string]any {
	shown := map[string]any{"value": m.ID.String(), "type": "User"}
	set(shown, "display", m.Name)
	return shown
}
