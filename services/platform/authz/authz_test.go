package authz_test

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
	"github.com/cetrus/cetrus/proto/contract"
	"github.com/cetrus/cetrus/services/platform/authn"
	"github.com/cetrus/cetrus/services/platform/authz"
	"github.com/cetrus/cetrus/services/platform/errs"
)

const (
	user    = authzv1.Privilege_PRIVILEGE_APPLICATION_USER
	admin   = authzv1.Privilege_PRIVILEGE_ACCOUNT_ADMINISTRATOR
	report  = authzv1.Privilege_PRIVILEGE_REPORT
	self    = authzv1.Reach_REACH_SELF
	account = authzv1.Reach_REACH_ACCOUNT
	many    = authzv1.Reach_REACH_AGGREGATE
	all     = authzv1.Reach_REACH_PLATFORM
)

// method makes a method that says who may call it; nil: it says nothing.
func method(said *authzv1.Authorization) (protoreflect.MethodDescriptor, error) {
	options := &descriptorpb.MethodOptions{}
	if said != nil {
		proto.SetExtension(options, authzv1.E_Authorization, said)
	}
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: proto.String("x.proto"), Package: proto.String("x"), Syntax: proto.String("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{{Name: proto.String("M")}},
		Service: []*descriptorpb.ServiceDescriptorProto{{Name: proto.String("S"), Method: []*descriptorpb.MethodDescriptorProto{{
			Name: proto.String("Do"), InputType: proto.String(".x.M"), OutputType: proto.String(".x.M"), Options: options,
		}}}},
	}, protoregistry.GlobalFiles)
	if err != nil {
		return nil, err
	}
	return file.Services().Get(0).Methods().Get(0), nil
}

func ruleOf(said *authzv1.Authorization) (authz.Rule, error) {
	m, err := method(said)
	if err != nil {
		return authz.Rule{}, err
	}
	return authz.Of(m)
}

func grants(list ...*authzv1.Grant) *authzv1.Authorization {
	return &authzv1.Authorization{Grants: list}
}

func grant(reach authzv1.Reach, privileges ...authzv1.Privilege) *authzv1.Grant {
	return &authzv1.Grant{Reach: reach, Privileges: privileges}
}

func TestWhatCannotBeMeantIsRefused(t *testing.T) {
	for _, c := range []struct {
		said *authzv1.Authorization
		says string
	}{
		{nil, "does not say who may call it"},
		{&authzv1.Authorization{}, "lets nobody call it"},
		{&authzv1.Authorization{Anybody: true, Grants: []*authzv1.Grant{grant(self)}}, "lets anybody call it, and has grants"},
		{grants(grant(account, admin), grant(0, user)), "does not say how far it reaches"},
		{grants(grant(77, user)), "does not say how far it reaches"},
		{grants(grant(account, 0)), "the privilege 0"},
		{grants(grant(account, admin, 99)), "the privilege 99"},
		{grants(grant(account, admin, admin)), "there twice"},
		{grants(grant(account, admin), grant(account, report)), "two grants of REACH_ACCOUNT"},
		{grants(grant(all)), "over the platform for others than administrators"},
		{grants(grant(all, admin, report)), "over the platform for others than administrators"},
	} {
		rule, err := ruleOf(c.said)
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "x.S.Do: ") {
			t.Errorf("%v: %v, not %q", c.said, err, c.says)
		}
		if _, err := rule.Admit(authn.Caller{Privileges: authn.AllPrivileges(), Operator: true}); err == nil || rule.Anybody() {
			t.Errorf("%v: what was refused lets callers in", c.said)
		}
	}
}

func TestAdmit(t *testing.T) {
	for _, c := range []struct {
		said     *authzv1.Authorization
		has      []authzv1.Privilege
		operator bool
		want     authzv1.Reach
		says     string
	}{
		{said: grants(grant(self)), want: self},
		{said: grants(grant(self), grant(account, admin)), want: self},
		{said: grants(grant(self), grant(account, admin)), has: []authzv1.Privilege{admin}, want: account},
		{said: grants(grant(account, admin, report)), has: []authzv1.Privilege{report, user}, want: account},
		{said: grants(grant(account, admin, report)), has: []authzv1.Privilege{user}, says: "Account Administrator or Report"},
		{said: grants(grant(self, user), grant(many, report), grant(account, admin)), has: []authzv1.Privilege{user, report}, want: many},
		{said: grants(grant(many, report), grant(account, admin)), has: []authzv1.Privilege{report, admin}, want: account},
		{said: grants(grant(many, report), grant(account, admin)), has: []authzv1.Privilege{user}, says: "Account Administrator or Report"},
		{said: grants(grant(account, admin)), operator: true, says: "Account Administrator"},
		{said: grants(grant(all, admin)), has: []authzv1.Privilege{admin}, says: "the account that runs this platform"},
		{said: grants(grant(all, admin)), operator: true, says: "the account that runs this platform"},
		{said: grants(grant(all, admin)), has: []authzv1.Privilege{admin}, operator: true, want: all},
		{said: grants(grant(account, admin), grant(all, admin)), has: []authzv1.Privilege{admin}, operator: true, want: all},
		{said: grants(grant(account, admin), grant(all, admin)), has: []authzv1.Privilege{admin}, want: account},
	} {
		rule, err := ruleOf(c.said)
		if err != nil {
			t.Fatal(err)
		}
		for _, login := range []contract.ID{{}, {1}} {
			caller := authn.Caller{Account: contract.ID{9}, Login: login, Privileges: authn.PrivilegesOf(c.has...), Operator: c.operator, Reach: all}
			got, err := rule.Admit(caller)
			caller.Reach = c.want
			switch {
			case c.want == 0 && (!errs.Is(errs.Denied, err) || !strings.Contains(err.Error(), c.says)):
				t.Errorf("%v for %v: %v, not %q", c.said, c.has, err, c.says)
			case c.want == 0 && got != authn.Caller{}:
				t.Errorf("%v for %v: refused, and told as %v", c.said, c.has, got)
			case c.want != 0 && (err != nil || got != caller):
				t.Errorf("%v for %v: %v, %v, not %v", c.said, c.has, got, err, caller)
			}
		}
	}
}

func TestAnybodyHasNoCaller(t *testing.T) {
	rule, err := ruleOf(&authzv1.Authorization{Anybody: true})
	if err != nil || !rule.Anybody() {
		t.Fatalf("%v, %v", rule, err)
	}
	if _, err := rule.Admit(authn.Caller{Privileges: authn.AllPrivileges(), Operator: true}); err == nil {
		t.Error("it has grants as well")
	}
}

func Example() {
	for _, said := range []*authzv1.Authorization{
		{Anybody: true},
		grants(grant(self)),
		grants(grant(self, user), grant(account, admin, report)),
		grants(grant(all, admin)),
	} {
		rule, err := ruleOf(said)
		fmt.Println(rule, err)
	}
	// Output:
	// whoever asks, signed in or not <nil>
	// everybody who is signed in (what is their own) <nil>
	// Account Administrator or Report (all of the account); Application User (what is their own) <nil>
	// administrators of the account that runs the platform (every account) <nil>
}
