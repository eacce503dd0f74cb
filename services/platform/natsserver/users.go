package natsserver

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/cetrus/cetrus/proto/contract"
)

// User may connect, and do what its role needs.
type User struct {
	Name     string
	Password string

	permissions *server.Permissions
	// account is the NATS account that it is in; empty: the one that has the streams.
	account string
	inbox   string
	manager bool
	// publicKey takes the place of the password: who connects signs with the key of which
	// this is the public part.
	publicKey string
}

// NewPassword draws a password of 128 random bits.
func NewPassword() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	return hex.EncodeToString(b[:])
}

// PlatformUser may do everything in the account that has the streams: whoever runs the server
// makes them with it. Its password is for that process alone.
func PlatformUser(password string) User {
	return User{Name: "platform", Password: password}
}

// RoleUser is a part of the platform, which may do what the table of roles says. One of a name
// that is not in it is let in nowhere.
func RoleUser(name, password string) User {
	u := User{Name: name, account: "no role", permissions: &server.Permissions{
		Publish: &server.SubjectPermission{Deny: []string{">"}}, Subscribe: &server.SubjectPermission{Deny: []string{">"}},
	}}
	if r, known := roleNamed(name); known {
		u.Password, u.account, u.permissions = password, r.account(), r.permissions()
	}
	return u
}

// ManagerUser is one Manager. It may publish under its own account and its own
// id only; read the last message of each of its own subjects in AGENT, and its
// account's policy and whom its Managers admit; learn when AGENT was made; hear when
// these change, which epochs of its agents are in conflict, and when reports are
// asked for; and nothing else: no subjects of other accounts, no other inbox, no
// consumer. Its connection must use contract.ManagerInbox;
// User.Options sees to it. It is in a NATS account of its own kind (accounts.go).
//
// The last message of a subject, the policy too, is had by a request without body
// on $JS.API.DIRECT.GET.<stream>.<subject>.
func ManagerUser(account, manager contract.ID, password string) User {
	inbox := contract.ManagerInbox(manager)
	own := fmt.Sprintf("agent.%d.%s.%s.*", contract.Partition(account), account, manager)
	policy, admission := contract.PolicySubject(account), contract.AdmissionSubject(account)
	return User{
		Name:     "manager-" + manager.String(),
		Password: password,
		account:  managersAccount,
		inbox:    inbox,
		manager:  true,
		permissions: &server.Permissions{
			Publish: &server.SubjectPermission{Allow: []string{
				own,
				contract.LiveSubject(account, manager),
				contract.SightingSubject(account, manager),
				contract.HealthSubject(account, manager),
				contract.SiteSubject(account, manager),
				contract.KeyringSubject(account, manager),
				directGet(contract.AgentStream, own),
				directGet(contract.PolicyStream, policy),
				directGet(contract.PolicyStream, admission),
				streamInfo + contract.AgentStream,
				contract.PolicyAskSubject(account),
			}},
			Subscribe: &server.SubjectPermission{Allow: []string{
				inbox + ".>", policy, admission, contract.ConflictSubject(account), contract.SightingAskSubject, contract.HealthAskSubject, contract.SiteAskSubject,
			}},
		},
	}
}

// EnrolledManager is ManagerUser for a Manager that is known by an NKey of its own.
func EnrolledManager(account, manager contract.ID, publicKey string) User {
	u := ManagerUser(account, manager, "")
	u.publicKey = publicKey
	return u
}

// Options are what a connection of this user needs; one that is known by a key adds its
// signature (nats.Nkey).
func (u User) Options() []nats.Option {
	var options []nats.Option
	if u.Name != "" && u.publicKey == "" {
		options = append(options, nats.UserInfo(u.Name, u.Password))
	}
	if u.inbox != "" {
		options = append(options, nats.CustomInboxPrefix(u.inbox))
	}
	return options
}

// sameManager tells whether two users are one Manager of one account: both are in what it may
// publish first.
func (u User) sameManager(other User) bool {
	return u.manager && other.manager && u.Name == other.Name && u.permissions.Publish.Allow[0] == other.permissions.Publish.Allow[0]
}

func (u User) serverUser() *server.User {
	return &server.User{Username: u.Name, Permissions: u.permissions}
}
