package scim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/scim2/filter-parser/v2"

	"github.com/cetrus/cetrus/proto/contract"
)

const (
	// maxText bounds a text that is kept, in bytes; names have narrower bounds of their own.
	maxText = 256
	// maxOperations bounds a PATCH.
	maxOperations = 1000
)

// What a PATCH does.
const (
	add     = "add"
	replace = "replace"
	remove  = "remove"
)

// object is a JSON object whose names are told apart without regard to case.
type object map[string]any

// parseObject reads a body.
func parseObject(body []byte) (object, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var m object
	if err := d.Decode(&m); err != nil || m == nil {
		return nil, bad(invalidSyntax, "the body is no JSON object")
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, bad(invalidSyntax, "something follows on the JSON object in the body")
	}
	return m, nil
}

// names of an object in an order that is always the same. One that is there twice is refused: it
// could mean two things.
func (o object) names() ([]string, error) {
	names := slices.Sorted(maps.Keys(o))
	for i, name := range names {
		if slices.ContainsFunc(names[:i], func(other string) bool { return strings.EqualFold(name, other) }) {
			return nil, bad(invalidSyntax, name+" is there twice")
		}
	}
	return names, nil
}

func (o object) get(name string) any {
	for key, value := range o {
		if strings.EqualFold(key, name) {
			return value
		}
	}
	return nil
}

// target is what a path of a PATCH, or a name in a value, points at.
type target struct {
	attribute, sub string
	// which tells the values that are meant of an attribute that has many; nil: all.
	which criterion
}

// subject is what changes are made on.
type subjectOf interface {
	kind() kind
	// change makes one attribute, or a part of it, what a request says.
	change(op string, at target, value any) error
}

// parsePath reads a path; ok is false for an attribute that is taken and not kept.
func (k kind) parsePath(text string) (at target, ok bool, err error) {
	if len(text) > maxFilter {
		return at, false, bad(invalidPath, "path: is too long")
	}
	// Providers name attributes of an extension by its schema, whatever it is.
	if lower := strings.ToLower(text); strings.HasPrefix(lower, "urn:") && !strings.HasPrefix(lower, strings.ToLower(k.schema)+":") {
		if strings.HasPrefix(lower, strings.ToLower(enterpriseSchema)) {
			return at, false, nil
		}
		return at, false, bad(invalidPath, "path: "+text+" is of a schema that is not kept here: leave it out of what the provider sends")
	}
	b, ok := unbracket(text)
	if !ok {
		return at, false, bad(invalidPath, "path: "+text+" is none")
	}
	p, err := filter.ParsePath([]byte(b.text))
	if err != nil {
		return at, false, bad(invalidPath, "path: "+text+" is none")
	}
	name := p.AttributePath.AttributeName
	a, found := find(k.all, name)
	if !found {
		if dropped(name) {
			return at, false, nil
		}
		return at, false, bad(invalidPath, "path: "+name+" is no attribute of "+k.name)
	}
	at.attribute, at.sub = a.Name, p.AttributePath.SubAttributeName()
	if sub := p.SubAttributeName(); sub != "" {
		at.sub = sub
	}
	if at.sub != "" {
		part, found := find(a.Sub, at.sub)
		if !found {
			return at, a.Name == "name", failUnless(a.Name == "name", bad(invalidPath, "path: "+a.Name+" has no part "+at.sub))
		}
		at.sub = part.Name
	}
	if p.ValueExpression != nil {
		if len(a.Sub) == 0 || !a.Multi {
			return at, false, bad(invalidPath, "path: "+a.Name+" has not many values to choose from")
		}
		if at.which, err = compile(b.at(p.ValueExpression), k.schema, a.Sub); err != nil {
			return at, false, bad(invalidPath, strings.Replace(err.(*failure).text, "filter:", "path:", 1)) //nolint:errorlint,forcetypeassert // compile fails in no other way
		}
	}
	return at, true, nil
}

func failUnless(ok bool, f *failure) error {
	if ok {
		return nil
	}
	return f
}

// assign makes a resource what an object says, name by name. Attributes that are not known are
// left alone, as RFC 7644 lets a server do: providers send all that they have.
func assign(s subjectOf, op string, o object) error {
	names, err := o.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if inner, ok := o[name].(map[string]any); ok && strings.EqualFold(name, s.kind().schema) {
			if err := assign(s, op, inner); err != nil {
				return err
			}
			continue
		}
		at, ok, err := s.kind().parsePath(name)
		if err != nil || !ok || isOwn(at.attribute) {
			continue
		}
		if err := one(s, op, at, o[name]); err != nil {
			return err
		}
	}
	return nil
}

// isOwn holds for attributes that the platform sets: in a body they are no wish.
func isOwn(name string) bool {
	return name == "schemas" || name == "id" || name == "meta" || name == "groups"
}

func one(s subjectOf, op string, at target, value any) error {
	if value == nil { // as RFC 7643 §2.5 has it
		op = remove
	}
	return s.change(op, at, value)
}

// patch makes a resource what the operations of a PATCH say, in their order.
func patch(s subjectOf, body []byte) error {
	o, err := parseObject(body)
	if err != nil {
		return err
	}
	if _, err := o.names(); err != nil {
		return err
	}
	if !slices.ContainsFunc(elements(o.get("schemas")), func(v any) bool { text, ok := v.(string); return ok && strings.EqualFold(text, patchMessage) }) {
		return bad(invalidSyntax, "schemas: must name "+patchMessage)
	}
	operations, ok := o.get("Operations").([]any)
	if !ok || len(operations) == 0 || len(operations) > maxOperations {
		return bad(invalidSyntax, fmt.Sprintf("Operations: must be a list of 1 to %d", maxOperations))
	}
	for i, operation := range operations {
		m, ok := operation.(map[string]any)
		if !ok {
			return bad(invalidSyntax, fmt.Sprintf("Operations[%d]: is no object", i))
		}
		if err := operate(s, m); err != nil {
			f := *err.(*failure) //nolint:errorlint,forcetypeassert // changes fail in no other way
			f.text = fmt.Sprintf("Operations[%d]: %s", i, f.text)
			return &f
		}
	}
	return nil
}

func operate(s subjectOf, o object) error {
	if _, err := o.names(); err != nil {
		return err
	}
	text, _ := o.get("op").(string)
	op := strings.ToLower(text) // Entra writes Add, Replace and Remove
	if op != add && op != replace && op != remove {
		return bad(invalidSyntax, "op: must be add, replace or remove")
	}
	value := o.get("value")
	path, isText := o.get("path").(string)
	if !isText && o.get("path") != nil {
		return bad(invalidPath, "path: is no text")
	}
	if path == "" {
		inner, ok := value.(map[string]any)
		switch {
		case op == remove:
			return bad(noTarget, "path: is needed to remove something")
		case !ok:
			return bad(invalidValue, "value: must be an object where there is no path")
		}
		return assign(s, op, inner)
	}
	at, ok, err := s.kind().parsePath(path)
	switch {
	case err != nil:
		return err
	case !ok:
		return nil
	case isOwn(at.attribute):
		return bad(mutability, "path: "+at.attribute+" is set by Cetrus")
	case op != remove && value == nil:
		return bad(invalidValue, "value: is needed to "+op+" something")
	}
	return one(s, op, at, value)
}

// kind implements subjectOf.
func (u *User) kind() kind { return userKind() }

// change implements subjectOf.
func (u *User) change(op string, at target, value any) error {
	switch at.attribute {
	case "userName":
		if op == remove {
			return bad(mutability, "userName: is needed")
		}
		return text(&u.Name, at.attribute, op, value)
	case "externalId":
		return text(&u.Reference, at.attribute, op, value)
	case "displayName":
		return text(&u.DisplayName, at.attribute, op, value)
	case "active":
		active, ok := boolean(value)
		if !ok {
			return bad(invalidValue, "active: must be true or false")
		}
		u.Active = active
	case "name":
		return u.changeName(op, at, value)
	case "emails":
		return u.changeMail(op, at, value)
	}
	return nil
}

func (u *User) changeName(op string, at target, value any) error {
	switch at.sub {
	case "givenName":
		return text(&u.GivenName, "name.givenName", op, value)
	case "familyName":
		return text(&u.FamilyName, "name.familyName", op, value)
	case "":
	default:
		return nil // formatted follows from the others, and what else there is is not kept
	}
	if op == remove {
		u.GivenName, u.FamilyName = "", ""
		return nil
	}
	parts, ok := value.(map[string]any)
	if !ok {
		return bad(invalidValue, "name: must be an object")
	}
	names, err := object(parts).names()
	if err != nil {
		return err
	}
	for _, name := range names { // what is not named stays as it is (RFC 7644 §3.5.2.3)
		for _, part := range []string{"givenName", "familyName"} {
			if !strings.EqualFold(name, part) {
				continue
			}
			if err := one(u, op, target{attribute: at.attribute, sub: part}, parts[name]); err != nil {
				return err
			}
		}
	}
	return nil
}

// changeMail keeps one address, the one that counts.
func (u *User) changeMail(op string, at target, value any) error {
	if at.which != nil || at.sub != "" {
		// Entra names the address by its type, and expects it to be made where there is none.
		if at.which != nil && !at.which(u.mail()) || at.sub != "" && at.sub != "value" {
			return nil
		}
		if op == remove {
			u.MailAddress = ""
			return nil
		}
		if given, ok := value.(map[string]any); ok && at.sub == "" {
			value = object(given).get("value")
		}
		return text(&u.MailAddress, "emails", op, value)
	}
	if op == remove {
		if value == nil || slices.ContainsFunc(elements(value), func(v any) bool { return strings.EqualFold(valueOf(v), u.MailAddress) }) {
			u.MailAddress = ""
		}
		return nil
	}
	best, rank := "", 0
	for _, v := range elements(value) {
		address := valueOf(v)
		if address == "" {
			return bad(invalidValue, "emails: each must be an object with a value")
		}
		worth := 1
		if given, ok := v.(map[string]any); ok {
			kind, _ := object(given).get("type").(string)
			primary, _ := boolean(object(given).get("primary"))
			switch {
			case primary:
				worth = 3
			case strings.EqualFold(kind, mailKind):
				worth = 2
			}
		}
		if worth > rank {
			best, rank = address, worth
		}
	}
	if op == add && rank < 2 && u.MailAddress != "" {
		return nil // another one beside the one that counts
	}
	return text(&u.MailAddress, "emails", op, best)
}

// valueOf is the value of an element, which some write without an object around it.
func valueOf(v any) string {
	if o, ok := v.(map[string]any); ok {
		v = object(o).get("value")
	}
	s, _ := v.(string)
	return s
}

// text changes a text.
func text(into *string, name, op string, value any) error {
	if op == remove {
		*into = ""
		return nil
	}
	s, ok := value.(string)
	switch {
	case !ok:
		return bad(invalidValue, name+": must be a text")
	case len(s) > maxText:
		return bad(invalidValue, fmt.Sprintf("%s: has more than %d bytes", name, maxText))
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return bad(invalidValue, name+": has a character that cannot be seen")
	}
	*into = strings.ToValidUTF8(s, "\uFFFD")
	return nil
}

// boolean reads one, also as Entra writes it: "True".
func boolean(value any) (is, ok bool) {
	switch v := value.(type) {
	case bool:
		return v, true
	case string:
		return strings.EqualFold(v, "true"), strings.EqualFold(v, "true") || strings.EqualFold(v, "false")
	}
	return false, false
}

// kind implements subjectOf.
func (g *Group) kind() kind { return groupKind() }

// change implements subjectOf.
func (g *Group) change(op string, at target, value any) error {
	switch at.attribute {
	case "displayName":
		if op == remove {
			return bad(mutability, "displayName: is needed")
		}
		return text(&g.Name, at.attribute, op, value)
	case "externalId":
		return text(&g.Reference, at.attribute, op, value)
	case "members":
		return g.changeMembers(op, at, value)
	}
	return nil
}

func (g *Group) changeMembers(op string, at target, value any) error {
	switch {
	case at.sub != "":
		return bad(mutability, "path: "+at.sub+" of a member cannot be changed: add and remove members")
	case at.which != nil && op != remove:
		return bad(invalidPath, "path: members are added without a filter")
	case at.which != nil:
		g.Members = slices.DeleteFunc(slices.Clone(g.Members), func(m Member) bool { return at.which(m.shown()) })
		return nil
	case op == remove && value == nil:
		g.Members = nil
		return nil
	}
	given, err := membersOf(value)
	if err != nil {
		return err
	}
	has := func(in []Member, id contract.ID) bool {
		return slices.ContainsFunc(in, func(m Member) bool { return m.ID == id })
	}
	switch op {
	case remove: // Entra lists those that go
		g.Members = slices.DeleteFunc(slices.Clone(g.Members), func(m Member) bool { return has(given, m.ID) })
		return nil
	case replace:
		g.Members = nil
	}
	known := map[contract.ID]bool{}
	for _, m := range g.Members {
		known[m.ID] = true
	}
	g.Members = slices.Clone(g.Members)
	for _, m := range given {
		if !known[m.ID] {
			known[m.ID] = true
			g.Members = append(g.Members, m)
		}
	}
	return nil
}

func membersOf(value any) ([]Member, error) {
	var members []Member
	for _, v := range elements(value) {
		if o, ok := v.(map[string]any); ok {
			if kind, _ := object(o).get("type").(string); strings.EqualFold(kind, "Group") {
				return nil, bad(invalidValue, "members: a group in a group is not kept here: have the provider send the people themselves")
			}
		}
		id, err := contract.ParseID(valueOf(v))
		if err != nil {
			return nil, bad(invalidValue, "members: each must be an object whose value is the id of a user")
		}
		members = append(members, Member{ID: id})
	}
	return members, nil
}

// userOf is what a POST or PUT makes of a user.
func userOf(before User, body []byte) (User, error) {
	o, err := parseObject(body)
	if err != nil {
		return User{}, err
	}
	u := User{ID: before.ID, Active: before.Active, Groups: before.Groups, Created: before.Created, Updated: before.Updated, Revision: before.Revision}
	if err := assign(&u, replace, o); err != nil {
		return User{}, err
	}
	if u.Name == "" {
		return User{}, bad(invalidValue, "userName: is needed")
	}
	if u.DisplayName == "" {
		u.DisplayName = strings.TrimSpace(u.GivenName + " " + u.FamilyName)
	}
	return u, nil
}

// groupOf is what a POST or PUT makes of a group.
func groupOf(before Group, body []byte) (Group, error) {
	o, err := parseObject(body)
	if err != nil {
		return Group{}, err
	}
	g := Group{ID: before.ID, Created: before.Created, Updated: before.Updated, Revision: before.Revision}
	if err := assign(&g, replace, o); err != nil {
		return Group{}, err
	}
	if g.Name == "" {
		return Group{}, bad(invalidValue, "displayName: is needed")
	}
	return g, nil
}
