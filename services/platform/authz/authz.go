package authz

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/errs"
)

// ReasonDenied is the reason of all errors of [Rule.Admit].
const ReasonDenied = "PRIVILEGE_MISSING"

// Rule is who may call a method. Its zero value lets nobody in.
type Rule struct {
	anybody bool
	// grants, the one that reaches farthest first.
	grants []grant
}

type grant struct {
	// of is empty where everybody who is signed in may call.
	of    []authzv1.Privilege
	set   authn.Privileges
	reach authzv1.Reach
}

// Of reads who may call a method. It fails where the method does not say, or says what
// cannot be meant.
func Of(method protoreflect.MethodDescriptor) (Rule, error) {
	said, ok := proto.GetExtension(method.Options(), authzv1.E_Authorization).(*authzv1.Authorization)
	rule, err := Rule{}, errors.New("does not say who may call it: give it the option cetrus.authz.v1.authorization")
	if ok && said != nil {
		rule, err = parse(said)
	}
	if err != nil {
		return Rule{}, fmt.Errorf("%s: %w", method.FullName(), err)
	}
	return rule, nil
}

func parse(said *authzv1.Authorization) (Rule, error) {
	switch {
	case said.GetAnybody() && len(said.GetGrants()) > 0:
		return Rule{}, errors.New("lets anybody call it, and has grants: one of the two is not meant")
	case said.GetAnybody():
		return Rule{anybody: true}, nil
	case len(said.GetGrants()) == 0:
		return Rule{}, errors.New("lets nobody call it: name grants, or anybody")
	}
	rule := Rule{}
	for _, g := range said.GetGrants() {
		if g.GetReach() == authzv1.Reach_REACH_UNSPECIFIED || authzv1.Reach_name[int32(g.GetReach())] == "" {
			return Rule{}, errors.New("has a grant that does not say how far it reaches")
		}
		for i, p := range g.GetPrivileges() {
			if p == authzv1.Privilege_PRIVILEGE_UNSPECIFIED || authzv1.Privilege_name[int32(p)] == "" || slices.Contains(g.GetPrivileges()[:i], p) {
				return Rule{}, fmt.Errorf("has a grant with the privilege %d, which is none, or is there twice", p)
			}
		}
		if g.GetReach() == authzv1.Reach_REACH_PLATFORM && !slices.Equal(g.GetPrivileges(), []authzv1.Privilege{authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR}) {
			return Rule{}, errors.New("reaches over the platform for others than administrators")
		}
		if slices.ContainsFunc(rule.grants, func(other grant) bool { return other.reach == g.GetReach() }) {
			return Rule{}, fmt.Errorf("has two grants of %s: put their privileges into one", g.GetReach())
		}
		rule.grants = append(rule.grants, grant{of: g.GetPrivileges(), set: authn.PrivilegesOf(g.GetPrivileges()...), reach: g.GetReach()})
	}
	slices.SortFunc(rule.grants, func(a, b grant) int {
		return slices.Index(farthest, a.reach) - slices.Index(farthest, b.reach)
	})
	return rule, nil
}

// farthest are the reaches, the one that sees most first.
var farthest = []authzv1.Reach{authzv1.Reach_REACH_PLATFORM, authzv1.Reach_REACH_ACCOUNT, authzv1.Reach_REACH_AGGREGATE, authzv1.Reach_REACH_SELF}

// Anybody tells whether the method is open to whoever asks: nothing is looked at of who
// they are, and it has no caller.
func (r Rule) Anybody() bool { return r.anybody }

// Admit judges a caller whom authentication has found, and gives them the reach that the
// farthest grant has which they meet. It refuses a caller who meets none.
func (r Rule) Admit(c authn.Caller) (authn.Caller, error) {
	c.Reach = authzv1.Reach_REACH_UNSPECIFIED
	for _, g := range r.grants {
		if g.met(c) {
			c.Reach = g.reach
			return c, nil
		}
	}
	return authn.Caller{}, errs.New(errs.Denied, "authz.Admit", "", r.refusal(c)).WithReason(ReasonDenied)
}

func (g grant) met(c authn.Caller) bool {
	if g.reach == authzv1.Reach_REACH_PLATFORM && !c.Operator {
		return false
	}
	return len(g.of) == 0 || c.Privileges&g.set != 0
}

// refusal says what is missing, and the way out.
func (r Rule) refusal(c authn.Caller) string {
	var missing []string
	for _, g := range r.grants {
		if g.reach == authzv1.Reach_REACH_PLATFORM {
			continue
		}
		for _, p := range g.of {
			if name := authn.PrivilegeName(p); !slices.Contains(missing, name) {
				missing = append(missing, name)
			}
		}
	}
	switch {
	case len(missing) == 0:
		return "only administrators of the account that runs this platform may do this: ask whoever runs it"
	case c.Session.IsZero():
		return "this API key lacks the privilege that this needs, " + or(missing) + ": use a key that has it"
	}
	return "your login lacks the privilege that this needs, " + or(missing) + ": ask an administrator of your account for it"
}

// String says who may call, for people who read the API's documentation.
func (r Rule) String() string {
	if r.anybody {
		return "whoever asks, signed in or not"
	}
	var all []string
	for _, g := range r.grants {
		who := "everybody who is signed in"
		if len(g.of) > 0 {
			var names []string
			for _, p := range g.of {
				names = append(names, authn.PrivilegeName(p))
			}
			who = or(names)
		}
		switch g.reach {
		case authzv1.Reach_REACH_PLATFORM:
			who = "administrators of the account that runs the platform (every account)"
		case authzv1.Reach_REACH_ACCOUNT:
			who += " (all of the account)"
		case authzv1.Reach_REACH_AGGREGATE:
			who += " (what many of the account did together)"
		case authzv1.Reach_REACH_SELF:
			who += " (what is their own)"
		case authzv1.Reach_REACH_UNSPECIFIED: // parse refuses it
		}
		all = append(all, who)
	}
	return strings.Join(all, "; ")
}

func or(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
