package authn

import (
	"strings"

	authzv1 "github.com/cetrus/cetrus/proto/cetrus/authz/v1"
)

const privilegePrefix = "PRIVILEGE_"

// Privileges is a set of privileges, by their numbers in the contract.
type Privileges uint32

// PrivilegesOf is the set of the privileges listed. A number that cannot be one is
// left out: what is not understood gives no right.
func PrivilegesOf(list ...authzv1.Privilege) Privileges {
	var set Privileges
	for _, p := range list {
		set |= bit(p)
	}
	return set
}

// AllPrivileges is the set of all privileges that the contract names.
func AllPrivileges() Privileges {
	var set Privileges
	for number := range authzv1.Privilege_name {
		set |= bit(authzv1.Privilege(number))
	}
	return set
}

// PeoplesPrivileges is the set of the privileges that are for people: all but that of the key of
// an identity provider.
func PeoplesPrivileges() Privileges {
	return AllPrivileges() &^ bit(authzv1.Privilege_PRIVILEGE_PROVISIONING)
}

func bit(p authzv1.Privilege) Privileges {
	if p <= 0 || p > 31 {
		return 0
	}
	return 1 << p
}

// Has tells whether the set holds a privilege.
func (s Privileges) Has(p authzv1.Privilege) bool { return s&bit(p) != 0 }

// List is the set as the contract writes it, in the order of the numbers.
func (s Privileges) List() []authzv1.Privilege {
	var list []authzv1.Privilege
	for p := authzv1.Privilege(1); p <= 31; p++ {
		if s.Has(p) {
			list = append(list, p)
		}
	}
	return list
}

// PrivilegeName is a privilege as people know it: "Account Administrator".
func PrivilegeName(p authzv1.Privilege) string {
	words := strings.Split(strings.ToLower(strings.TrimPrefix(p.String(), privilegePrefix)), "_")
	for i, word := range words {
		words[i] = strings.ToUpper(word[:1]) + word[1:]
	}
	return strings.Join(words, " ")
}
