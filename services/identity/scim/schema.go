package scim

import (
	"slices"
	"strings"
)

// Names of schemas and messages.
const (
	userSchema       = "urn:ietf:params:scim:schemas:core:2.0:User"
	groupSchema      = "urn:ietf:params:scim:schemas:core:2.0:Group"
	enterpriseSchema = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
	configSchema     = "urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"
	typeSchema       = "urn:ietf:params:scim:schemas:core:2.0:ResourceType"
	schemaSchema     = "urn:ietf:params:scim:schemas:core:2.0:Schema"

	patchMessage = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
	listMessage  = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
	errorMessage = "urn:ietf:params:scim:api:messages:2.0:Error"
)

// Kinds of values.
const (
	kindString    = "string"
	kindBoolean   = "boolean"
	kindTime      = "dateTime"
	kindReference = "reference"
	kindComplex   = "complex"
)

// attribute describes one attribute, in the words of RFC 7643 §7.
type attribute struct {
	Name        string      `json:"name"`
	Kind        string      `json:"type"`
	Multi       bool        `json:"multiValued"`
	Description string      `json:"description"`
	Required    bool        `json:"required"`
	CaseExact   bool        `json:"caseExact"`
	Mutability  string      `json:"mutability"`
	Returned    string      `json:"returned"`
	Uniqueness  string      `json:"uniqueness"`
	Canonical   []string    `json:"canonicalValues,omitempty"`
	Refers      []string    `json:"referenceTypes,omitempty"`
	Sub         []attribute `json:"subAttributes,omitempty"`
}

const (
	readWrite = "readWrite"
	readOnly  = "readOnly"
	immutable = "immutable"
)

// plain is an attribute of one value that can be changed.
func plain(name, kind, description string) attribute {
	return attribute{Name: name, Kind: kind, Description: description, Mutability: readWrite, Returned: "default", Uniqueness: "none"}
}

func (a attribute) with(mutability string) attribute {
	a.Mutability = mutability
	return a
}

func (a attribute) exact() attribute {
	a.CaseExact = true
	return a
}

func (a attribute) referring(to ...string) attribute {
	a.Kind, a.Refers, a.CaseExact = kindReference, to, true
	return a
}

func complexOf(name, description string, multi bool, sub ...attribute) attribute {
	a := plain(name, kindComplex, description)
	a.Multi, a.Sub = multi, sub
	return a
}

func userAttributes() []attribute {
	name := plain("userName", kindString, "What the person signs in with. Case, width and surplus spaces do not count.")
	name.Required, name.Uniqueness = true, "server"
	kind := plain("type", kindString, "What it is used for; only work is kept.")
	kind.Canonical = []string{mailKind}
	membership := plain("type", kindString, "How the person is in it.").with(readOnly)
	membership.Canonical = []string{"direct"}
	return []attribute{
		name,
		complexOf("name", "The person's name.", false,
			plain("formatted", kindString, "The given and the family name.").with(readOnly),
			plain("familyName", kindString, "The family name."),
			plain("givenName", kindString, "The given name.")),
		plain("displayName", kindString, "What others read."),
		plain("active", kindBoolean, "Whether the person may sign in; their sessions end where it becomes false."),
		complexOf("emails", "The mail address. One is kept: the primary one, or that of the type work.", true,
			plain("value", kindString, "The address."), kind,
			plain("primary", kindBoolean, "True: there is no other.")),
		complexOf("groups", "The groups that the person is in; they are changed by themselves.", true,
			plain("value", kindString, "The group's id.").exact().with(readOnly),
			plain("$ref", kindReference, "Where the group is.").referring("Group").with(readOnly),
			plain("display", kindString, "The group's name.").with(readOnly),
			membership).with(readOnly),
	}
}

func groupAttributes() []attribute {
	name := plain("displayName", kindString, "The group's name, by which mappings know it.")
	name.Required, name.Uniqueness = true, "server"
	kind := plain("type", kindString, "What it is: User.").with(immutable)
	kind.Canonical = []string{"User"}
	return []attribute{
		name,
		complexOf("members", "The users in it.", true,
			plain("value", kindString, "The user's id.").exact().with(immutable),
			plain("$ref", kindReference, "Where the user is.").referring("User").with(immutable),
			plain("display", kindString, "What the user signs in with.").with(readOnly), kind),
	}
}

// commonAttributes are those of every resource; no schema lists them.
func commonAttributes() []attribute {
	return []attribute{
		{Name: "schemas", Kind: kindString, Multi: true, CaseExact: true},
		{Name: "id", Kind: kindString, CaseExact: true},
		{Name: "externalId", Kind: kindString, CaseExact: true},
		{Name: "meta", Kind: kindComplex, Sub: []attribute{
			{Name: "resourceType", Kind: kindString, CaseExact: true},
			{Name: "created", Kind: kindTime},
			{Name: "lastModified", Kind: kindTime},
			{Name: "location", Kind: kindReference, CaseExact: true},
			{Name: "version", Kind: kindString, CaseExact: true},
		}},
	}
}

// kind is a kind of resource.
type kind struct {
	name, path, schema, description string
	// own are its schema's attributes, all also those that every resource has.
	own, all []attribute
}

func userKind() kind {
	own := userAttributes()
	return kind{"User", usersPath, userSchema, "A login that the identity provider keeps", own, slices.Concat(own, commonAttributes())}
}

func groupKind() kind {
	own := groupAttributes()
	return kind{"Group", groupsPath, groupSchema, "A group that the identity provider keeps", own, slices.Concat(own, commonAttributes())}
}

// find finds an attribute; case does not count in names of attributes.
func find(in []attribute, name string) (attribute, bool) {
	for _, a := range in {
		if strings.EqualFold(a.Name, name) {
			return a, true
		}
	}
	return attribute{}, false
}

// dropped are the attributes of RFC 7643 that are taken from a provider and not kept.
func dropped(name string) bool {
	return slices.ContainsFunc([]string{
		"nickName", "profileUrl", "title", "userType", "preferredLanguage", "locale", "timezone", "password",
		"phoneNumbers", "ims", "photos", "addresses", "entitlements", "roles", "x509Certificates",
	}, func(known string) bool { return strings.EqualFold(known, name) })
}

func (k kind) schemaShown(base string) map[string]any {
	return map[string]any{
		"schemas": []any{schemaSchema}, "id": k.schema, "name": k.name, "description": k.description, "attributes": k.own,
		"meta": map[string]any{"resourceType": "Schema", "location": base + "/Schemas/" + k.schema},
	}
}

func (k kind) typeShown(base string) map[string]any {
	return map[string]any{
		"schemas": []any{typeSchema}, "id": k.name, "name": k.name, "endpoint": k.path, "description": k.description, "schema": k.schema,
		"meta": map[string]any{"resourceType": "ResourceType", "location": base + "/ResourceTypes/" + k.name},
	}
}

// configShown says what is supported.
func configShown(base string) map[string]any {
	is := func(supported bool) map[string]any { return map[string]any{"supported": supported} }
	return map[string]any{
		"schemas": []any{configSchema},
		"patch":   is(true), "changePassword": is(false), "sort": is(false), "etag": is(true),
		"bulk":   map[string]any{"supported": false, "maxOperations": 0, "maxPayloadSize": 0},
		"filter": map[string]any{"supported": true, "maxResults": mostResults},
		"authenticationSchemes": []any{map[string]any{
			"type": "oauthbearertoken", "name": "API key", "primary": true,
			"description": "An API key of a login with the privilege Provisioning, as bearer token",
		}},
		"meta": map[string]any{"resourceType": "ServiceProviderConfig", "location": base + "/ServiceProviderConfig"},
	}
}
