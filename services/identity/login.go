package identity

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// Login is the aggregate of a named person in one account.
type Login struct {
	// ID is zero before it was created.
	ID      contract.ID
	Deleted bool

	SealedName        []byte
	NameID            contract.ID
	SealedDisplayName []byte
	SealedMailAddress []byte

	Privileges authn.Privileges
	Disabled   bool
	// Disablings counts how often it was disabled.
	Disablings int
	// Provisioned says that an identity provider keeps it, and SealedPerson what it says of the
	// person.
	Provisioned  bool
	SealedPerson []byte
	// DisabledByProvider says by whom it was disabled last, where it is so.
	DisabledByProvider bool
	// Groups and Denied are by id.
	Groups []contract.ID
	Denied []contract.ID
	// Links are all, LinksByProvider those that only who comes by an identity provider uses.
	Links, LinksByProvider []Link
	// VouchedFor: an identity provider lets its person in.
	VouchedFor bool
	// Revision counts the events from 1; it is its etag.
	Revision int
}

// Link is a login of the same person in another account.
type Link struct{ Account, Login contract.ID }

// Fields of a login, as they are sealed.
const (
	whatName        = "name"
	whatDisplayName = "display_name"
	whatMailAddress = "mail_address"
	whatPerson      = "provisioned_person"
)

// sealer seals and opens the words of one person.
type sealer interface {
	seal(what, text string) []byte
	open(what string, sealed []byte) (string, error)
}

// LoginWish is what a login shall be; nil leaves a field as it is.
type LoginWish struct {
	Name, DisplayName, MailAddress *string
	Privileges                     *authn.Privileges
	Disabled                       *bool
	Groups, Denied                 *[]contract.ID
	// Person is what an identity provider says, which keeps the login from then on.
	Person *provided
	// ByProvider says that an identity provider disables it.
	ByProvider bool
	// Etag, where not empty, must be the etag of what is there.
	Etag string
}

// Etag tells one state of a login from the next.
func (l Login) Etag() string { return strconv.Itoa(l.Revision) }

// Administers tells whether it is an administrator.
func (l Login) Administers() bool {
	return l.there() && !l.Disabled && l.Privileges.Has(authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR)
}

func (l Login) there() bool { return !l.ID.IsZero() && !l.Deleted }

// There is an error where the login does not exist, or not any more.
func (l Login) There(op string, id contract.ID) error {
	if !l.there() {
		return errs.New(errs.NotFound, op, "login "+id.String(), "there is no such login")
	}
	return nil
}

// DecideCreate begins a login as the wish has it.
func (l Login) DecideCreate(op string, id contract.ID, key NameKey, words sealer, wish LoginWish) ([]proto.Message, error) {
	if !l.ID.IsZero() {
		return nil, errs.New(errs.AlreadyExists, op, "login "+id.String(), "there is, or was, a login of this id")
	}
	if wish.Name == nil {
		wish.Name = new(string)
	}
	if fields := wish.tidy(); len(fields) > 0 {
		return nil, errs.InvalidFields(op, "", fields...)
	}
	nameID := key.ID(loginNames, *wish.Name)
	events := []proto.Message{&identityv1.LoginCreated{LoginId: id[:], SealedName: words.seal(whatName, *wish.Name), NameId: nameID[:]}}
	made, err := l.Apply(events[0])
	if err != nil {
		return nil, err
	}
	wish.Name = nil
	more, err := made.follow(words, wish)
	return append(events, more...), err
}

// DecideChange makes the login what the wish says. No events where it is so already.
func (l Login) DecideChange(op string, id contract.ID, key NameKey, words sealer, wish LoginWish) ([]proto.Message, error) {
	if err := l.There(op, id); err != nil {
		return nil, err
	}
	if wish.Etag != "" && wish.Etag != l.Etag() {
		return nil, errs.New(errs.Conflict, op, "login "+id.String(), "it was changed since you read it: read it again, then repeat your change").WithReason("ETAG_MISMATCH")
	}
	if fields := wish.tidy(); len(fields) > 0 {
		return nil, errs.InvalidFields(op, "login "+id.String(), fields...)
	}
	var events []proto.Message
	if wish.Name != nil {
		old, err := words.open(whatName, l.SealedName)
		if err != nil {
			return nil, err
		}
		if old != *wish.Name {
			nameID := key.ID(loginNames, *wish.Name)
			events = append(events, &identityv1.LoginRenamed{SealedName: words.seal(whatName, *wish.Name), NameId: nameID[:]})
		}
	}
	more, err := l.follow(words, wish)
	return append(events, more...), err
}

// follow are the events of all that the wish names but the name.
func (l Login) follow(words sealer, wish LoginWish) ([]proto.Message, error) {
	var events []proto.Message
	display, err := words.open(whatDisplayName, l.SealedDisplayName)
	if err != nil {
		return nil, err
	}
	address, err := words.open(whatMailAddress, l.SealedMailAddress)
	if err != nil {
		return nil, err
	}
	described := &identityv1.LoginDescribed{SealedDisplayName: l.SealedDisplayName, SealedMailAddress: l.SealedMailAddress}
	changed := false
	if wish.DisplayName != nil && *wish.DisplayName != display {
		described.SealedDisplayName, changed = words.seal(whatDisplayName, *wish.DisplayName), true
	}
	if wish.MailAddress != nil && *wish.MailAddress != address {
		described.SealedMailAddress, changed = words.seal(whatMailAddress, *wish.MailAddress), true
	}
	if changed {
		events = append(events, described)
	}
	if wish.Privileges != nil && *wish.Privileges != l.Privileges {
		events = append(events, &identityv1.LoginPrivilegesChanged{Privileges: wish.Privileges.List()})
	}
	if wish.Groups != nil && !slices.Equal(*wish.Groups, l.Groups) {
		events = append(events, &identityv1.LoginGroupsChanged{GroupIds: idBytes(*wish.Groups)})
	}
	if wish.Denied != nil && !slices.Equal(*wish.Denied, l.Denied) {
		events = append(events, &identityv1.LoginApplicationsChanged{DeniedApplicationIds: idBytes(*wish.Denied)})
	}
	if wish.Person != nil {
		provisioned, err := l.provision(words, *wish.Person)
		if err != nil {
			return nil, err
		}
		events = append(events, provisioned...)
	}
	if wish.Disabled != nil && *wish.Disabled != l.Disabled {
		if *wish.Disabled {
			events = append(events, &identityv1.LoginDisabled{LoginId: l.ID[:], ByProvider: wish.ByProvider})
		} else {
			events = append(events, &identityv1.LoginEnabled{LoginId: l.ID[:]})
		}
	}
	return events, nil
}

// DecideDelete ends the login.
func (l Login) DecideDelete(op string, id contract.ID) ([]proto.Message, error) {
	if err := l.There(op, id); err != nil {
		return nil, err
	}
	return []proto.Message{&identityv1.LoginDeleted{LoginId: id[:]}}, nil
}

// DecideLink says that another login is the same person's. byProvider: an identity provider made sure
// of the person here, which gives no more than a link that there is already.
func (l Login) DecideLink(op string, id contract.ID, other Link, byProvider bool) ([]proto.Message, error) {
	if err := l.There(op, id); err != nil {
		return nil, err
	}
	if slices.Contains(l.Links, other) && (byProvider || !slices.Contains(l.LinksByProvider, other)) {
		return nil, nil
	}
	return []proto.Message{&identityv1.LoginLinked{AccountId: other.Account[:], LoginId: other.Login[:], ByProvider: byProvider}}, nil
}

// DecideUnlink ends that.
func (l Login) DecideUnlink(other Link) []proto.Message {
	if !slices.Contains(l.Links, other) {
		return nil
	}
	return []proto.Message{&identityv1.LoginUnlinked{AccountId: other.Account[:], LoginId: other.Login[:]}}
}

// DecideVouchedFor takes in that an identity provider lets its person in.
func (l Login) DecideVouchedFor(id contract.ID) []proto.Message {
	if l.VouchedFor {
		return nil
	}
	return []proto.Message{&identityv1.LoginVouchedFor{LoginId: id[:]}}
}

// Apply returns the login after an event.
func (l Login) Apply(event proto.Message) (Login, error) {
	var err error
	switch e := event.(type) {
	case *identityv1.LoginCreated:
		if l.ID, err = contract.IDFrom(e.GetLoginId()); err == nil {
			l, err = l.named(e.GetSealedName(), e.GetNameId())
		}
	case *identityv1.LoginRenamed:
		l, err = l.named(e.GetSealedName(), e.GetNameId())
	case *identityv1.LoginDescribed:
		l.SealedDisplayName, l.SealedMailAddress = e.GetSealedDisplayName(), e.GetSealedMailAddress()
	case *identityv1.LoginPrivilegesChanged:
		l.Privileges = authn.PrivilegesOf(e.GetPrivileges()...)
	case *identityv1.LoginGroupsChanged:
		l.Groups, err = idsOf(e.GetGroupIds())
	case *identityv1.LoginApplicationsChanged:
		l.Denied, err = idsOf(e.GetDeniedApplicationIds())
	case *identityv1.LoginDisabled:
		l.Disabled, l.DisabledByProvider = true, e.GetByProvider()
		l.Disablings++
	case *identityv1.LoginEnabled:
		l.Disabled, l.DisabledByProvider = false, false
	case *identityv1.LoginLinked:
		var link Link
		if link, err = linkOf(e.GetAccountId(), e.GetLoginId()); err == nil {
			l = l.without(link)
			l.Links = append(l.Links, link)
			if e.GetByProvider() {
				l.LinksByProvider = append(l.LinksByProvider, link)
			}
		}
	case *identityv1.LoginUnlinked:
		var link Link
		if link, err = linkOf(e.GetAccountId(), e.GetLoginId()); err == nil {
			l = l.without(link)
		}
	case *identityv1.LoginVouchedFor:
		l.VouchedFor = true
	case *identityv1.LoginProvisioned:
		l.Provisioned, l.SealedPerson = true, e.GetSealedPerson()
	case *identityv1.LoginDeleted:
		l.Deleted = true
	default:
		return l, fmt.Errorf("identity: %T is no event of a login", event)
	}
	if err != nil {
		return l, fmt.Errorf("identity: %T of login %s: %w", event, l.ID, err)
	}
	l.Revision++
	return l, nil
}

// without is the login without a link, in lists of its own.
func (l Login) without(link Link) Login {
	is := func(other Link) bool { return other == link }
	l.Links = slices.DeleteFunc(slices.Clone(l.Links), is)
	l.LinksByProvider = slices.DeleteFunc(slices.Clone(l.LinksByProvider), is)
	return l
}

func (l Login) named(sealed, nameID []byte) (Login, error) {
	id, err := contract.IDFrom(nameID)
	if err != nil {
		return l, err
	}
	l.SealedName, l.NameID = sealed, id
	return l, nil
}

// tidy puts what the wish says in its form, and names every field that is wrong.
func (w *LoginWish) tidy() []errs.Field {
	var fields []errs.Field
	wrong := func(path, description string) {
		fields = append(fields, errs.Field{Path: "login." + path, Description: description})
	}
	if w.Name != nil {
		name := tidyName(*w.Name)
		w.Name = &name
		if problem := checkName(name, MaxLoginName); problem != "" {
			wrong("name", problem)
		}
	}
	if w.DisplayName != nil {
		name := tidyName(*w.DisplayName)
		w.DisplayName = &name
		if problem := checkName(name, maxDisplayName); name != "" && problem != "" {
			wrong("display_name", problem)
		}
	}
	if w.MailAddress != nil {
		address := strings.TrimSpace(*w.MailAddress)
		w.MailAddress = &address
		if address != "" && !isMailAddress(address) {
			wrong("mail_address", "is no mail address such as ada@example.org")
		}
	}
	if w.Privileges != nil && *w.Privileges&^authn.AllPrivileges() != 0 {
		wrong("privileges", "has one that is not known")
	}
	if w.Groups != nil {
		w.Groups = sorted(*w.Groups)
		if len(*w.Groups) > maxGroups {
			wrong("group_ids", fmt.Sprintf("are more than %d", maxGroups))
		}
	}
	if w.Denied != nil {
		w.Denied = sorted(*w.Denied)
		if len(*w.Denied) > maxDenied {
			wrong("denied_application_ids", fmt.Sprintf("are more than %d: disable the login, or take applications away from a group", maxDenied))
		}
	}
	return fields
}

// sorted is a set of ids as events have it.
func sorted(ids []contract.ID) *[]contract.ID {
	out := slices.Clone(ids)
	slices.SortFunc(out, compareIDs)
	out = slices.Compact(out)
	return &out
}

func idBytes(ids []contract.ID) [][]byte {
	out := make([][]byte, len(ids))
	for i := range ids {
		out[i] = ids[i][:]
	}
	return out
}

func idsOf(list [][]byte) ([]contract.ID, error) {
	var ids []contract.ID
	for _, b := range list {
		id, err := contract.IDFrom(b)
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func linkOf(account, login []byte) (link Link, err error) {
	if link.Account, err = contract.IDFrom(account); err == nil {
		link.Login, err = contract.IDFrom(login)
	}
	return link, err
}
