package identity

import (
	"context"
	"errors"
	"slices"

	"google.golang.org/protobuf/proto"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	identityv1 "github.com/cetrus/cetrus/proto/cetrus/identity/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/identity/sso"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
	"github.com/cetrus/cetrus/services/platform/eventlog"
	"github.com/cetrus/cetrus/services/platform/resource"
)

// externalNames are reserved for logins by what an identity provider calls their persons.
const externalNames = "external"

// boundLogins are reserved for persons by the login that they are, at one identity provider: so
// that of two whom it calls by one name the second does not take over what is the first one's.
const boundLogins = "bound login"

func boundSubject(account contract.ID, key NameKey, login contract.ID, p sso.Person) string {
	return nameSubject(account, key.ID(boundLogins, login.String()+" "+p.Issuer))
}

// ReasonNotAdmitted is the reason where a person is known to the identity provider, and has
// no login that they may use.
const ReasonNotAdmitted = "NOT_ADMITTED"

// originSealer seals from where a call comes, for the log.
type originSealer interface {
	SealOrigin(ctx context.Context, account, principal contract.ID, origin authn.Origin) (string, error)
}

// guests is identity as single sign-on asks it.
type guests struct {
	service *Service
	origins originSealer
}

// Guests is the directory for single sign-on. origins may be nil.
func (s *Service) Guests(origins originSealer) sso.Directory { return guests{s, origins} }

// FindAccount implements sso.Directory, from the log itself.
func (g guests) FindAccount(ctx context.Context, name string) (contract.ID, bool, error) {
	return g.service.commands.named(ctx, contract.ID{}, accountNames, name)
}

// Admit implements sso.Directory. What it decided can be read when it returns.
func (g guests) Admit(ctx context.Context, account contract.ID, p sso.Person, from authn.Origin) (contract.ID, error) {
	login, position, err := g.service.commands.admit(ctx, account, p, func(ctx context.Context, login contract.ID) context.Context {
		if g.origins == nil {
			return ctx
		}
		return eventlog.WithOrigin(ctx, func(ctx context.Context) (string, error) { return g.origins.SealOrigin(ctx, account, login, from) })
	})
	if err != nil {
		return contract.ID{}, err
	}
	return login, g.service.wait(ctx, position)
}

func notAdmitted(op, message string) error {
	return errs.New(errs.Denied, op, "", message).WithReason(ReasonNotAdmitted)
}

// actorOf names a login in events that it has caused itself.
func actorOf(login contract.ID) string { return "login:" + login.String() }

// guest is the login that a person gets, before it is brought up to date.
type guest struct {
	id contract.ID
	// isNew and linked: it is to be made, or was not yet the person's.
	isNew, linked bool
}

// admit finds, links or makes the login of a person, and gives it what the person gets.
func (c *commands) admit(ctx context.Context, account contract.ID, p sso.Person, withOrigin func(context.Context, contract.ID) context.Context) (login contract.ID, position eventlog.Position, err error) {
	const op = "identity.Admit"
	key, err := c.nameKeys.of(ctx, account)
	if err != nil {
		return login, 0, err
	}
	// Which login it is decides under whose key things are sealed; so that is found first,
	// and again where somebody else was quicker.
	for range 3 {
		g, err := c.findGuest(ctx, op, account, key, p)
		if err != nil {
			return login, 0, resource.CommandError(op, err)
		}
		words, err := wordsOf(ctx, c.keys, account, g.id)
		if err != nil {
			return login, 0, err
		}
		again := false
		position, err = c.together.Execute(withOrigin(ctx, g.id), eventlog.Command{Actor: actorOf(g.id)}, func(u *eventlog.Unit) error {
			var err error
			again, err = c.receive(u, op, account, key, words, p, g)
			return err
		})
		var takeover *takeoverError
		if errors.As(err, &takeover) {
			return login, 0, c.refuseTakeover(withOrigin(ctx, g.id), op, account, takeover.login)
		}
		if err != nil {
			return login, 0, resource.CommandError(op, err)
		}
		if !again {
			return g.id, position, nil
		}
	}
	return login, 0, errs.New(errs.Unavailable, op, "", "this person's login is being changed at the same time: repeat in a moment")
}

// knownGuest finds the login that is the person's already.
func (c *commands) knownGuest(ctx context.Context, account contract.ID, key NameKey, p sso.Person) (g guest, found bool, err error) {
	known, _, err := c.names.Load(ctx, nameSubject(account, key.ID(externalNames, p.Subject)))
	if err != nil || known.Owner.IsZero() {
		return g, false, err
	}
	login, _, err := c.logins.Load(ctx, loginSubject(account, known.Owner))
	return guest{id: known.Owner}, login.there(), err
}

func (c *commands) findGuest(ctx context.Context, op string, account contract.ID, key NameKey, p sso.Person) (guest, error) {
	if g, found, err := c.knownGuest(ctx, account, key, p); found || err != nil {
		return g, err
	}
	if checkName(tidyName(p.Name), MaxLoginName) != "" {
		return guest{}, notAdmitted(op, "the identity provider does not say what you are called here: ask an administrator of the account to look at the claim of login names")
	}
	owner, taken, err := c.named(ctx, account, loginNames, p.Name)
	switch {
	case err != nil:
		return guest{}, err
	case taken && p.Link:
		return guest{id: owner, linked: true}, nil
	case taken:
		// By the person themselves, who came by another door a moment ago?
		if g, found, err := c.knownGuest(ctx, account, key, p); found || err != nil {
			return g, err
		}
		return guest{}, notAdmitted(op, "there is a login of your name already, and the account does not let the identity provider take it over: ask an administrator of the account")
	case !p.Create:
		return guest{}, notAdmitted(op, "you have no login in this account, and it makes none by itself: ask an administrator of the account")
	}
	return guest{id: resource.NewID(), isNew: true, linked: true}, nil
}

// receive decides within a command; again says that what findGuest found holds no more.
func (c *commands) receive(u *eventlog.Unit, op string, account contract.ID, key NameKey, words words, p sso.Person, g guest) (again bool, err error) {
	subject := nameSubject(account, key.ID(externalNames, p.Subject))
	reservation, err := eventlog.Read(u, &c.names, subject)
	if err != nil {
		return false, err
	}
	in, err := c.readAccount(u, op, account)
	if err != nil {
		return false, err
	}
	login, err := eventlog.Read(u, &c.logins, loginSubject(account, g.id))
	if err != nil {
		return false, err
	}
	if g.linked {
		former := reservation.Owner
		if former == g.id || !former.IsZero() && !c.isGone(u, account, former) || !g.isNew && !login.there() {
			return true, nil
		}
		events := reservation.DecideRelease(account, former)
		more, err := Reservation{}.DecideReserve(op, account, g.id)
		if err != nil {
			return false, err
		}
		if err := u.Append(subject, append(events, more...)...); err != nil {
			return false, err
		}
	} else if reservation.Owner != g.id || !login.there() {
		return true, nil
	}
	bound := boundSubject(account, key, g.id, p)
	is, err := eventlog.Read(u, &c.names, bound)
	if err != nil {
		return false, err
	}
	marks, err := is.DecideReserve(op, account, key.ID(externalNames, p.Subject))
	if err != nil {
		return false, &takeoverError{g.id}
	}
	if err := u.Append(bound, marks...); err != nil {
		return false, err
	}
	if login.there() && login.Disabled {
		return false, notAdmitted(op, "your login is disabled: ask an administrator of the account")
	}
	wish, err := c.guestWish(u, in, account, g.id, login, p)
	if err != nil {
		return false, err
	}
	if g.isNew {
		wish.Name = &p.Name
		made, err := login.DecideCreate(op, g.id, key, words, wish)
		if err != nil {
			return false, err
		}
		after, err := c.appendLogin(u, op, in, account, g.id, login, append(made, login.DecideVouchedFor(g.id)...))
		if err != nil {
			return false, err
		}
		return false, c.reserve(u, op, account, after.NameID, account, g.id)
	}
	changed, err := login.DecideChange(op, g.id, key, words, wish)
	if err != nil {
		return false, err
	}
	_, err = c.appendLogin(u, op, in, account, g.id, login, append(changed, login.DecideVouchedFor(g.id)...))
	return false, err
}

// takeoverError means that a login is another's at the same identity provider.
type takeoverError struct{ login contract.ID }

func (e *takeoverError) Error() string {
	return "identity: login " + e.login.String() + " is another person's"
}

// refuseTakeover tells the log of who came by the name of another, and them that they may not.
func (c *commands) refuseTakeover(ctx context.Context, op string, account, login contract.ID) error {
	registry := eventlog.NewRegistry(eventlog.Current[*identityv1.TakeoverRefused]("cetrus.identity.takeover.refused.v1"))
	refusals := repository(c.together.Log, registry, func(s struct{}, _ proto.Message) (struct{}, error) { return s, nil })
	_, err := refusals.Execute(ctx, contract.EventSubject(account, contextName, "takeover", login.String()), eventlog.Command{}, func(struct{}) ([]proto.Message, error) {
		return []proto.Message{&identityv1.TakeoverRefused{LoginId: login[:]}}, nil
	})
	return errors.Join(notAdmitted(op, "the login of your name is another person's at this identity provider: ask an administrator of the account"), resource.CommandError(op, err))
}

// isGone tells whether a login was deleted: what was reserved for its person is free then.
func (c *commands) isGone(u *eventlog.Unit, account, id contract.ID) bool {
	login, err := eventlog.Read(u, &c.logins, loginSubject(account, id))
	return err == nil && !login.there()
}

// guestWish is what a login shall be after its person has signed in. What no mapping of the
// account gives is left as administrators have made it, and so is the last administrator.
func (c *commands) guestWish(u *eventlog.Unit, in Account, account, id contract.ID, login Login, p sso.Person) (LoginWish, error) {
	var wish LoginWish
	if name := tidyName(p.DisplayName); checkName(name, maxDisplayName) == "" {
		wish.DisplayName = &name
	}
	if isMailAddress(p.MailAddress) {
		wish.MailAddress = &p.MailAddress
	}
	privileges := login.Privileges&^p.Managed | p.Privileges
	canSignIn := c.canSignIn(u, account)
	last, err := in.IsLast(id, func(login contract.ID) (bool, error) {
		if login == id {
			return true, nil // it does
		}
		return canSignIn(login)
	})
	if err != nil {
		return wish, err
	}
	if last {
		privileges |= authn.PrivilegesOf(authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR)
	}
	wish.Privileges = &privileges
	if len(p.ManagedGroups) == 0 {
		return wish, nil
	}
	groups := slices.DeleteFunc(slices.Clone(login.Groups), func(group contract.ID) bool { return slices.Contains(p.ManagedGroups, group) })
	for _, group := range p.Groups {
		// A mapping may name a group that is gone: nobody is kept out for that.
		there, err := eventlog.Read(u, &c.groups, groupSubject(account, group))
		if err != nil {
			return wish, err
		}
		if there.there() {
			groups = append(groups, group)
		}
	}
	wish.Groups = &groups
	return wish, nil
}
